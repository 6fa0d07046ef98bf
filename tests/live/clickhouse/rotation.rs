//! The shipped binary rotates users of a real engine.

use rekeyd::policy::spec::ClickhouseStrategy;
use rekeyd::secret::Credential;
use serde_json::json;

use crate::clickhouse_contract::{World as _, making, slip};
use crate::clickhouse_nodes::Corner;
use crate::installation::{Installation, read};
use crate::postgres_support::{credential_of, text};
use crate::site::{credential_in, write_secret};

pub(super) const POLICY: &str = "orders/olap";

/// An installation, and the users that it rotates.
pub(super) struct Site {
    pub(super) corner: Corner,
    pub(super) at: Installation,
}

impl Site {
    async fn new(corner: Corner, strategy: &ClickhouseStrategy) -> Self {
        let at = Installation::new().await;
        let admin = corner.admin_credential();
        write_secret(&at.path("admin.password"), text(admin));
        at.change_settings(|settings| {
            settings["credentials"]["cache-admin"] = json!({"file": {
                "username": admin.principal.as_str(), "path": "admin.password", "hosts": ["127.0.0.1"],
            }});
        });
        let nodes: Vec<_> = corner.servers.nodes(corner.nodes()).iter().map(|node| json!(node)).collect();
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": "olap", "namespace": "orders"},
            "spec": {
                "target": {"clickhouse": {
                    "nodes": nodes,
                    "tls": {"mode": "disable"},
                    "admin": "cache-admin",
                    "strategy": serde_json::to_value(strategy).expect("JSON"),
                    "check": "SELECT 1",
                }},
                "store": {"name": "main", "path": "orders/olap"},
                "consumers": [{"file": {
                    "path": at.path("olap.env"), "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        }));
        Self { corner, at }
    }

    pub(super) async fn pair(corner: Corner) -> Self {
        let strategy = corner.pair().strategy;
        Self::new(corner, &strategy).await
    }

    pub(super) async fn dual(corner: Corner) -> Self {
        corner.say(&making("{p}_one")).await;
        let strategy = corner.dual().strategy;
        Self::new(corner, &strategy).await
    }

    /// The credential that the reader finds in its file.
    pub(super) fn delivered(&self) -> Credential {
        credential_in(&read(&self.at.path("olap.env")))
    }

    /// First a value, then another, then a leak: each is let in on every node, the one before is dead, and whatever ran
    /// with it is ended.
    async fn lives(&self, sessions_left: Option<u64>) {
        self.at.run(&["preflight", POLICY]).await.ended(0);
        self.at.run(&["rotate", POLICY]).await.ended(0);
        assert!(self.corner.lets_in(&self.delivered()).await);
        for command in ["rotate", "contain"] {
            let outgoing = self.delivered();
            let last = self.corner.nodes() - 1;
            let mut reader = self.corner.open_at(last, &outgoing).await;
            self.at.run(&[command, POLICY]).await.ended(0).says(&["old value refused", "1 session"]);
            assert!(!reader.lives().await, "{command}: its query was ended");
            assert_ne!(self.delivered(), outgoing);
            assert!(!self.corner.lets_in(&outgoing).await, "{command}: it is dead");
            assert!(self.corner.lets_in(&self.delivered()).await, "{command}");
        }
        self.at.run(&["preflight", POLICY]).await.ended(0);
        self.at.run(&["audit", "verify"]).await.ended(0);
        // No more is said than is known: idle connections of a user that goes on are listed nowhere.
        let log = self.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
        for entry in &log.as_array().expect("a list")[..2] {
            let proof = &entry["record"]["proof"];
            assert_eq!(proof.get("sessionsLeft").map(|left| left.as_u64().expect("a number")), sessions_left);
            assert_eq!(proof["sessionsClosed"], 1, "{proof}");
        }
        let tells = self.at.run(&["audit", "log"]).await.ended(0).stdout.contains("others may be left");
        assert_eq!(tells, sessions_left.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_take_turns_and_are_contained() {
    Site::pair(Corner::on_two().await).await.lives(Some(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_takes_both_values_and_is_contained() {
    Site::dual(Corner::on_two().await).await.lives(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_value_is_taken_over() {
    let site = Site::dual(Corner::on_one().await).await;
    slip(&site.corner, "the one that readers have").await;
    let live = credential_of(&site.corner.name("one"), "the one that readers have");
    site.at.run(&["rotate", POLICY]).await.ended(1).says(&["that rekeyd does not know", "rekeyd adopt"]);
    assert!(site.corner.lets_in(&live).await, "it was left alone");
    site.at.run_with(&["adopt", POLICY], text(&live).as_bytes()).await.ended(0);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert!(site.corner.lets_in(&site.delivered()).await);
    assert!(!site.corner.lets_in(&live).await, "it is dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let (pair, dual) = (Site::pair(Corner::on_one().await).await, Site::dual(Corner::on_one().await).await);
    for site in [&pair, &dual] {
        site.at.run(&["rotate", POLICY]).await.ended(0);
    }
    // A turn of a pair says some fifty statements: deaths after its calls.
    tokio::join!(crate::walk::walk_in_short(&pair.at, POLICY), crate::walk::walk(&dual.at, POLICY));
    for site in [&pair, &dual] {
        assert!(site.corner.lets_in(&site.delivered()).await);
    }
}
