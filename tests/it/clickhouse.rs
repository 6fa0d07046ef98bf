//! The ClickHouse target on a scripted server: the promises that it keeps on the real engine too, and what is said to
//! servers that fail as no real one does when it is asked to.

mod faults;
mod nodes;
mod secrecy;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::failure::Failure;
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{
    ClickhouseNode, ClickhouseSpec, ClickhouseStrategy, DualPasswordSpec, TlsMode, TlsSpec,
};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::AdminCredential;
use rekeyd::target::clickhouse::{ClickhouseTarget, Deadlines};

use crate::clickhouse_contract::{Dual, Pair, World, clickhouse_contract};
use crate::clickhouse_server::{Clickhouse, Client};
use crate::target_contract::Open;

clickhouse_contract!(Scripted::new().await);

const ADMIN: &str = "rekeyd";
const PASSWORD: &str = "the password of the admin";
const SHORT: Deadlines = Deadlines { connect: Duration::from_secs(2), request: Duration::from_millis(1_500) };

struct Admin;

#[async_trait]
impl AdminCredential for Admin {
    async fn credential(&self) -> Result<Credential, Failure> {
        Ok(Credential::new(name(ADMIN), SecretValue::new(PASSWORD.into())))
    }
}

fn name(text: &str) -> Principal {
    text.parse().expect("a principal")
}

/// A server with nothing in it.
struct Scripted {
    server: Clickhouse,
}

impl Scripted {
    async fn new() -> Self {
        let scripted = Self { server: Clickhouse::start(ADMIN, PASSWORD).await };
        scripted.say("CREATE ROLE {p}_group").await;
        scripted.say("GRANT {p}_group TO {admin} WITH ADMIN OPTION").await;
        scripted
    }
}

#[async_trait]
impl World for Scripted {
    fn prefix(&self) -> &str {
        "app"
    }

    fn admin(&self) -> Principal {
        name(ADMIN)
    }

    fn spec(&self, strategy: ClickhouseStrategy) -> ClickhouseSpec {
        spec(&[self.server.port], strategy)
    }

    fn target(&self, spec: ClickhouseSpec) -> ClickhouseTarget {
        target(spec)
    }

    async fn say_at(&self, _: usize, statement: &str) -> Vec<String> {
        self.server.say(statement)
    }

    async fn open_at(&self, _: usize, credential: &Credential) -> Box<dyn Open> {
        Box::new(Client::run(self.server.port, credential).await.expect("it is let in"))
    }
}

fn spec(ports: &[u16], strategy: ClickhouseStrategy) -> ClickhouseSpec {
    ClickhouseSpec {
        nodes: ports.iter().map(|port| ClickhouseNode { host: "127.0.0.1".into(), port: *port }).collect(),
        tls: TlsSpec { mode: TlsMode::Disable, ca_file: None, allow_plaintext: false },
        admin: "admin".parse().expect("a label"),
        strategy,
        check: None,
    }
}

fn one() -> ClickhouseStrategy {
    ClickhouseStrategy::DualPassword(DualPasswordSpec { user: name("app_one") })
}

fn target(spec: ClickhouseSpec) -> ClickhouseTarget {
    ClickhouseTarget::new(spec, Arc::new(Admin))
}

async fn dual() -> (Clickhouse, ClickhouseTarget) {
    let Dual { world, target } = Dual::new(Scripted::new().await).await;
    (world.server, target)
}

async fn pair() -> (Clickhouse, ClickhouseTarget) {
    let Pair { world, target } = Pair::new(Scripted::new().await).await;
    (world.server, target)
}

#[async_trait]
impl Open for Client {
    async fn lives(&mut self) -> bool {
        self.runs().await
    }
}
