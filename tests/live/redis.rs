//! The Redis target on real servers of Redis and of Valkey: one, and a replica of it.

mod install;
mod outage;
mod preflight;
mod probe;
mod retire;
mod rotation;
mod secrecy;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use rekeyd::failure::{Failure, Finding, Verdict};
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::redis::RedisTarget;
use rekeyd::target::{Extent, InstallRequest, Installed, Occupancy, RetireRequest, Retired, Target as _};

use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::postgres_support::Try;
use crate::redis_support::{Kind, World, command, hash};
use crate::target_contract::Open;

/// Tests on each server.
macro_rules! on_each_server {
    ($($test:ident)+) => {
        crate::each::on_each! {
            [redis7: crate::redis_support::Kind::Redis, valkey: crate::redis_support::Kind::Valkey] { $($test)+ }
        }
    };
}
use on_each_server;

mod redis7 {
    use super::{Bench, Kind, dual_password_contract};

    dual_password_contract!(Bench::new(Kind::Redis).await);
}

mod valkey {
    use super::{Bench, Kind, dual_password_contract};

    dual_password_contract!(Bench::new(Kind::Valkey).await);
}

struct Bench {
    world: World,
    target: RedisTarget,
}

impl Bench {
    async fn new(kind: Kind) -> Self {
        let world = World::shared(kind).await;
        let target = world.target();
        Self { world, target }
    }
}

#[async_trait]
impl DualBench for Bench {
    type Target = RedisTarget;

    fn target(&self) -> &RedisTarget {
        &self.target
    }

    fn user(&self) -> Principal {
        self.world.user()
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        // On the replica: its users and sessions are its own.
        Box::new(self.world.connect(1, credential).await.expect("a session"))
    }

    async fn by_hand(&self, credential: &Credential) {
        self.slip(credential).await;
        self.world.everywhere(&format!("ACL SETUSER {} on", self.user())).await;
    }

    async fn slip(&self, credential: &Credential) {
        let value = hash(crate::postgres_support::text(credential));
        self.world.everywhere(&format!("ACL SETUSER {} #{value}", self.user())).await;
    }
}

#[async_trait]
impl Open for MultiplexedConnection {
    async fn lives(&mut self) -> bool {
        command("PING").exec_async(self).await.is_ok()
    }
}

async fn install(
    target: &RedisTarget,
    step: &Try,
    candidate: &Credential,
    beside: Option<&Credential>,
) -> Result<Installed, Failure> {
    install_with(target, step, candidate, beside, Occupancy::Refuse).await
}

async fn install_with(
    target: &RedisTarget,
    step: &Try,
    candidate: &Credential,
    beside: Option<&Credential>,
    occupancy: Occupancy,
) -> Result<Installed, Failure> {
    target.install(InstallRequest { attempt: step.attempt(), candidate, peer: None, beside, occupancy }).await
}

async fn retire(
    target: &RedisTarget,
    step: &Try,
    extent: Extent,
    beside: Option<&Credential>,
    user: &Principal,
) -> Result<Retired, Failure> {
    target
        .retire(RetireRequest { attempt: step.attempt(), principal: user, extent, outgoing: None, beside })
        .await
}

fn remedy(failure: &Failure) -> &str {
    failure.remedy().unwrap_or_default()
}

fn failed(findings: &[Finding]) -> Vec<String> {
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
    failed.map(|finding| format!("{}: {}", finding.subject, finding.detail)).collect()
}
