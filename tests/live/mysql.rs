//! The target of MariaDB and MySQL on real servers of both.

mod death;
mod dual;
mod install;
mod outage;
mod pair;
mod preflight;
mod probe;
mod secrecy;

use async_trait::async_trait;
use rekeyd::failure::Failure;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::{Extent, InstallRequest, Installed, Occupancy, RetireRequest, Retired, Target as _};

use crate::mysql_support::{Client, Kind, World};
use crate::postgres_support::{Try, text};
use crate::target_contract::{Bench, Open, target_contract};

/// Tests on each server.
macro_rules! on_each_server {
    ($($test:ident)+) => {
        crate::each::on_each! {
            [mariadb: crate::mysql_support::Kind::MariaDb, mysql8: crate::mysql_support::Kind::MySql] { $($test)+ }
        }
    };
}
use on_each_server;

mod mariadb {
    use super::{AlternatingBench, Kind, target_contract};

    target_contract!(AlternatingBench::new(Kind::MariaDb).await);
}

mod mysql8 {
    use super::{AlternatingBench, Kind, target_contract};

    target_contract!(AlternatingBench::new(Kind::MySql).await);
}

struct AlternatingBench {
    world: World,
    target: MysqlTarget,
}

impl AlternatingBench {
    async fn new(kind: Kind) -> Self {
        let world = World::shared(kind).await;
        let target = world.target(world.alternating());
        Self { world, target }
    }
}

#[async_trait]
impl Bench for AlternatingBench {
    type Target = MysqlTarget;

    fn target(&self) -> &MysqlTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        [self.world.name("a"), self.world.name("b")]
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        Box::new(self.world.connect(credential).await.expect("a session"))
    }

    async fn by_hand(&self, credential: &Credential) {
        let identified = self.world.kind().identified(text(credential));
        self.world.sql(&format!("CREATE USER '{}'@'%' {identified}", credential.principal)).await;
    }
}

#[async_trait]
impl Open for Client {
    async fn lives(&mut self) -> bool {
        self.query("SELECT 1").await.is_ok()
    }
}

async fn install(
    target: &MysqlTarget,
    step: &Try,
    candidate: &Credential,
    peer: Option<&Principal>,
) -> Result<Installed, Failure> {
    install_with(target, step, candidate, peer, Occupancy::Refuse).await
}

async fn install_with(
    target: &MysqlTarget,
    step: &Try,
    candidate: &Credential,
    peer: Option<&Principal>,
    occupancy: Occupancy,
) -> Result<Installed, Failure> {
    target.install(InstallRequest { attempt: step.attempt(), candidate, peer, beside: None, occupancy }).await
}

async fn retire(
    target: &MysqlTarget,
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
