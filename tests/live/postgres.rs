//! The PostgreSQL target on a real server.

mod install;
mod outage;
mod pair;
mod preflight;
mod probe;
mod retire;
mod secrecy;
mod tls;

use async_trait::async_trait;
use rekeyd::failure::Failure;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::postgres::PostgresTarget;
use rekeyd::target::{Extent, InstallRequest, Installed, Occupancy, RetireRequest, Retired, Target as _};

use crate::postgres_support::{Try, World, text, verifier};
use crate::target_contract::{Bench, Open, target_contract};

target_contract!(AlternatingBench::new().await);

struct AlternatingBench {
    world: World,
    target: PostgresTarget,
}

impl AlternatingBench {
    async fn new() -> Self {
        let world = World::shared().await;
        let target = world.target(world.alternating());
        Self { world, target }
    }
}

#[async_trait]
impl Bench for AlternatingBench {
    type Target = PostgresTarget;

    fn target(&self) -> &PostgresTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        [self.world.name("a"), self.world.name("b")]
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        Box::new(self.world.connect(credential).await.expect("a session"))
    }

    async fn by_hand(&self, credential: &Credential) {
        let (role, verifier) = (&credential.principal, verifier(text(credential)));
        self.world.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{verifier}'")).await;
    }
}

#[async_trait]
impl Open for tokio_postgres::Client {
    async fn lives(&mut self) -> bool {
        self.simple_query("SELECT 1").await.is_ok()
    }
}

async fn install(
    target: &PostgresTarget,
    step: &Try,
    candidate: &Credential,
    peer: Option<&Principal>,
) -> Result<Installed, Failure> {
    install_beside(target, step, candidate, peer, Occupancy::Refuse).await
}

async fn install_beside(
    target: &PostgresTarget,
    step: &Try,
    candidate: &Credential,
    peer: Option<&Principal>,
    occupancy: Occupancy,
) -> Result<Installed, Failure> {
    target.install(InstallRequest { attempt: step.attempt(), candidate, peer, beside: None, occupancy }).await
}

async fn retire(
    target: &PostgresTarget,
    step: &Try,
    principal: &Principal,
    extent: Extent,
) -> Result<Retired, Failure> {
    target
        .retire(RetireRequest { attempt: step.attempt(), principal, extent, outgoing: None, beside: None })
        .await
}

fn remedy(failure: &Failure) -> &str {
    failure.remedy().unwrap_or_default()
}
