//! The shipped binary rotates what the samples say, on two servers.

use rekeyd::secret::Credential;
use serde_json::json;

use super::{ADMIN, PASSWORD};
use crate::clickhouse_server::{Clickhouse, Client};
use crate::sample_site::{Admin, Site};

/// A sample and what is behind it.
struct Nodes {
    servers: [Clickhouse; 2],
    site: Site,
}

impl Nodes {
    async fn new(sample: &str) -> Self {
        let servers = [Clickhouse::start(ADMIN, PASSWORD).await, Clickhouse::start(ADMIN, PASSWORD).await];
        let admin = Admin { name: "cache-admin", user: ADMIN, password: PASSWORD, host: "127.0.0.1" };
        let site = Site::new(sample, admin, |target| {
            target["nodes"] =
                servers.iter().map(|server| json!({"host": "127.0.0.1", "port": server.port})).collect();
            target["tls"] = json!({"mode": "disable"});
        });
        let site = site.await;
        Self { servers, site }
    }

    async fn is_let_in(&self, credential: &Credential) -> [bool; 2] {
        let [one, other] = &self.servers;
        [
            Client::run(one.port, credential).await.is_some(),
            Client::run(other.port, credential).await.is_some(),
        ]
    }

    /// First a value, then another, then a leak: each is let in on both nodes, and the one before is dead.
    async fn live(&self) {
        self.site.does("preflight").await;
        self.site.does("rotate").await;
        assert_eq!(self.is_let_in(&self.site.delivered()).await, [true; 2]);
        for command in ["rotate", "contain"] {
            let outgoing = self.site.delivered();
            let mut reader = Client::run(self.servers[1].port, &outgoing).await.expect("it is let in");
            let said = self.site.does(command).await;
            assert!(said.contains("old value refused"), "{said}");
            assert!(!reader.runs().await, "its query was ended");
            assert_eq!(self.is_let_in(&outgoing).await, [false; 2]);
            assert_eq!(self.is_let_in(&self.site.delivered()).await, [true; 2]);
        }
        self.site.does("preflight").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_users_take_turns() {
    let nodes = Nodes::new("clickhouse-alternating.yaml").await;
    for server in &nodes.servers {
        server.tables().roles.insert("reports_reader".into());
        server.make("reports_a");
        let mut tables = server.tables();
        let user = tables.users.get_mut("reports_a").expect("the user");
        user.grants.extend(["GRANT SELECT ON shop.* TO {}".into(), "GRANT reports_reader TO {}".into()]);
    }
    nodes.live().await;
    for server in &nodes.servers {
        assert_eq!(server.user("reports_a").grants, server.user("reports_b").grants);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_takes_both() {
    let nodes = Nodes::new("clickhouse-dual-password.yaml").await;
    nodes.servers.iter().for_each(|server| server.make("ingest"));
    nodes.live().await;
    assert!(nodes.servers.iter().all(|server| server.user("ingest").ways.len() == 1));
}
