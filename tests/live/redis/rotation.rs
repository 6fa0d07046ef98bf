//! The shipped binary rotates a user of Redis or Valkey.

use rekeyd::secret::Credential;
use serde_json::json;

use super::on_each_server;
use crate::installation::{Installation, read};
use crate::postgres_support::{credential_of, text};
use crate::redis_support::{Kind, World, hash};
use crate::site::{credential_in, write_secret};

on_each_server! {
    a_value_rotates_and_is_contained
    a_live_value_is_taken_over
    whoever_dies_between_is_followed_by_one_that_finishes
    a_fault_at_every_call_breaks_nothing
}

const POLICY: &str = "orders/cache";

/// An installation, and the user that it rotates.
struct Site {
    world: World,
    at: Installation,
}

impl Site {
    async fn new(kind: Kind) -> Self {
        let (world, at) = (World::shared(kind).await, Installation::new().await);
        let admin = world.admin();
        write_secret(&at.path("admin.password"), text(admin));
        at.change_settings(|settings| {
            settings["credentials"]["cache-admin"] = json!({"file": {
                "username": admin.principal.as_str(), "path": "admin.password", "hosts": ["127.0.0.1"],
            }});
        });
        let nodes: Vec<_> =
            world.spec().nodes.iter().map(|node| json!({"host": node.host, "port": node.port})).collect();
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": "cache", "namespace": "orders"},
            "spec": {
                "target": {"redis": {
                    "nodes": nodes,
                    "tls": {"mode": "disable"},
                    "admin": "cache-admin",
                    "strategy": {"dualPassword": {"user": world.user().as_str()}},
                    "check": ["PING"],
                }},
                "store": {"name": "main", "path": "orders/cache"},
                "consumers": [{"file": {
                    "path": at.path("cache.env"), "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        }));
        Self { world, at }
    }

    /// The credential that the reader finds in its file.
    fn delivered(&self) -> Credential {
        credential_in(&read(&self.at.path("cache.env")))
    }

    /// The value that the reader has is the one that lets in, on every node and in its file.
    async fn assert_in_order(&self) {
        let delivered = self.delivered();
        for node in 0..2 {
            assert_eq!(self.world.values(node).await, [hash(text(&delivered))], "on node {node}");
            self.world.connect(node, &delivered).await.expect("the reader is let in");
            let kept = read(&self.world.servers.at.nodes[node].folder.join("users.acl"));
            assert!(kept.contains(&hash(text(&delivered))), "node {node} would forget it");
        }
    }
}

async fn a_value_rotates_and_is_contained(kind: Kind) {
    let site = Site::new(kind).await;
    site.at.run(&["preflight", POLICY]).await.ended(0).says(&["the policy names the one replica"]);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    site.assert_in_order().await;
    for command in ["rotate", "contain"] {
        let outgoing = site.delivered();
        let reader = site.world.connect(1, &outgoing).await.expect("a session");
        site.at.run(&[command, POLICY]).await.ended(0).says(&["old value refused", "1 session"]);
        drop(reader);
        site.assert_in_order().await;
        assert_ne!(site.delivered(), outgoing);
        site.world.connect(1, &outgoing).await.expect_err("it is dead");
    }
}

async fn a_live_value_is_taken_over(kind: Kind) {
    let site = Site::new(kind).await;
    let live = credential_of(&site.world.user(), "the one that readers have");
    site.world.everywhere(&format!("ACL SETUSER {} #{}", site.world.user(), hash(text(&live)))).await;
    site.at
        .run(&["rotate", POLICY])
        .await
        .ended(1)
        .says(&["a value that rekeyd does not know", "rekeyd adopt"]);
    site.world.connect(0, &live).await.expect("it was left alone");
    site.at.run_with(&["adopt", POLICY], text(&live).as_bytes()).await.ended(0);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    site.assert_in_order().await;
    site.world.connect(0, &live).await.expect_err("it is dead");
}

async fn whoever_dies_between_is_followed_by_one_that_finishes(kind: Kind) {
    let site = Site::new(kind).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    // The first time is the install, the second one the retire.
    for point in ["redis.change.read#1", "redis.change.done#1", "redis.change.read#2", "redis.change.done#2"]
    {
        let outgoing = site.delivered();
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{point}=killBefore"));
        let killed = crate::processes::answer(command).await;
        assert!(!killed.stdout.contains("rotated"), "{point} was not reached: {}", killed.stdout);
        site.at.run(&["resume", POLICY]).await.ended(0);
        site.assert_in_order().await;
        assert_ne!(site.delivered(), outgoing, "{point}");
        site.world.connect(0, &outgoing).await.expect_err("it is dead");
    }
}

async fn a_fault_at_every_call_breaks_nothing(kind: Kind) {
    let site = Site::new(kind).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    crate::walk::walk(&site.at, POLICY).await;
    site.assert_in_order().await;
}
