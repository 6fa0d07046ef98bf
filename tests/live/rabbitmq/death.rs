//! The shipped binary rotates a pair of users of a real broker: killed between any two of its requests there, and
//! standing still there while another finishes.

use rekeyd::secret::Credential;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::installation::{Installation, read};
use crate::postgres_support::text;
use crate::rabbitmq_support::World;
use crate::site::{credential_in, write_secret};

const POLICY: &str = "orders/queue";

/// Every place between two requests of a call.
const POINTS: [&str; 5] = [
    "rabbitmq.install.read",
    "rabbitmq.install.repaired",
    "rabbitmq.install.changed",
    "rabbitmq.retire.read",
    "rabbitmq.retire.changed",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_death_in_the_middle_of_taking_turns_breaks_anything() {
    let site = Site::new().await;
    // The user is made, and cannot log in yet.
    site.is_killed("rabbitmq.install.repaired").await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    let mut old = site.in_order(&[], 1).await;
    for (number, point) in (2..).zip(POINTS) {
        let mut straggler = site.serves(&old, number).await;
        site.is_killed(point).await;
        site.has_a_reader(point).await;
        site.at.run(&["resume", POLICY]).await.ended(0);
        let new = site.in_order(&[&old], number).await;
        assert!(!straggler.answers().await, "{point}: a connection of the old value is open");
        site.has_the_rights_of(&new, number, point).await;
        old = new;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_after_another_has_finished_breaks_nothing() {
    let site = Site::new().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let mut old = site.in_order(&[], 1).await;
    for (number, point) in (2..).zip(POINTS) {
        let mut straggler = site.serves(&old, number).await;
        let slow = site.at.spawn(site.rotation(&format!("{point}#1=stop")));
        assert!(slow.stands_still().await, "{point}: it does not get there");
        site.has_a_reader(point).await;
        site.at.run(&["resume", POLICY]).await.ended(0);
        let new = site.in_order(&[&old], number).await;
        slow.signal(Signal::CONT);
        let ended = slow.end().await;
        assert!(ended.code.is_some(), "{point}: {ended}");
        assert_eq!(site.in_order(&[&old], number).await, new, "{point}: its reader has another value");
        assert!(!straggler.answers().await, "{point}: a connection of the old value is open");
        site.has_the_rights_of(&new, number, point).await;
        // What it left behind is in nobody's way.
        old = new;
    }
    site.at.run(&["contain", POLICY]).await.ended(0);
    site.in_order(&[&old], POINTS.len() + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let site = Site::new().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    crate::walk::walk(&site.at, POLICY).await;
}

/// An installation, and the pair that it rotates.
struct Site {
    world: World,
    at: Installation,
}

impl Site {
    async fn new() -> Self {
        let (world, at) = (World::shared().await, Installation::new().await);
        let (admin, server) = (world.admin(), &world.server);
        write_secret(&at.path("admin.password"), text(admin));
        at.change_settings(|settings| {
            settings["credentials"]["queue-admin"] = json!({"file": {
                "username": admin.principal.as_str(), "path": "admin.password", "hosts": [server.host],
            }});
        });
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": "queue", "namespace": "orders"},
            "spec": {
                "target": {"rabbitmq": {
                    "endpoint": {"host": server.host, "port": server.port, "tls": {"mode": "disable"}},
                    "admin": "queue-admin",
                    "strategy": {"alternating": {"users": world.pair()}},
                }},
                "store": {"name": "main", "path": "orders/queue"},
                "consumers": [{"file": {
                    "path": at.path("queue.env"), "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        }));
        Self { world, at }
    }

    fn rotation(&self, disturbance: &str) -> tokio::process::Command {
        let mut command = self.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", disturbance);
        command
    }

    async fn is_killed(&self, point: &str) {
        let killed = self.at.spawn(self.rotation(&format!("{point}#1=killBefore"))).end().await;
        assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
    }

    fn delivered(&self) -> Credential {
        credential_in(&read(&self.at.path("queue.env")))
    }

    /// Gives the user in force rights of this round alone, and opens a connection that it does not close.
    async fn serves(&self, credential: &Credential, round: usize) -> crate::rabbitmq_support::Connection {
        self.world.permit(&credential.principal, &format!("^round-{round}")).await;
        let limit = json!({"value": round + 10});
        let path = format!("user-limits/{}/max-connections", credential.principal);
        self.world.server.ask("PUT", &path, Some(&limit)).await;
        self.world.connect(credential).await.expect("a connection")
    }

    /// Nobody is locked out meanwhile.
    async fn has_a_reader(&self, point: &str) {
        assert!(self.world.connect(&self.delivered()).await.is_some(), "{point}: its reader is locked out");
    }

    async fn has_the_rights_of(&self, credential: &Credential, round: usize, point: &str) {
        let user = &credential.principal;
        let permissions = self.world.server.ask("GET", &format!("users/{user}/permissions"), None).await;
        assert_eq!(permissions[0]["read"], format!("^round-{round}"), "{point}: {permissions}");
        let user = self.world.user(user).await;
        assert_eq!(user["limits"], json!({"max-connections": round + 10}), "{point}: {user}");
    }

    /// What the reader has is accepted, the old values are refused, no rotation is open, and each has one record.
    async fn in_order(&self, dead: &[&Credential], records: usize) -> Credential {
        let delivered = self.delivered();
        assert_eq!(self.verdict(&delivered).await, "accepted");
        for old in dead {
            assert_eq!(self.verdict(old).await, "refused");
        }
        let status = self.at.run(&["status", POLICY, "-o", "json"]).await.ended(0).json();
        assert_eq!(status[0]["state"], "ready", "{status:#}");
        let log = self.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
        let records_now = log.as_array().expect("a list");
        assert_eq!(records_now.len(), records, "{records_now:#?}");
        let newest: &Value = &records_now[0]["record"];
        assert_eq!(newest["outcome"], "rotated", "{newest:#}");
        self.at.run(&["audit", "verify"]).await.ended(0);
        delivered
    }

    /// What the broker says of a value, by other code than the one under test.
    async fn verdict(&self, credential: &Credential) -> &'static str {
        let (user, value) = (credential.principal.as_str(), text(credential));
        let (status, answer) = self.world.server.ask_as(user, value, "GET", "whoami", None).await;
        match (status, answer["reason"].as_str()) {
            // It has no tag for this API.
            (401, Some("Not management user")) => "accepted",
            (401, Some("Login failed")) => "refused",
            _ => panic!("no verdict: {status} {answer}"),
        }
    }
}
