//! The ClickHouse target on a scripted server: what is said to ClickHouse, and what comes of it.

mod dual;
mod faults;
mod nodes;
mod pair;
mod preflight;
mod samples;
mod secrecy;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::failure::Failure;
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId, Version};
use rekeyd::policy::spec::{
    AlternatingSpec, ClickhouseNode, ClickhouseSpec, ClickhouseStrategy, DualPasswordSpec, TlsMode, TlsSpec,
};
use rekeyd::secret::{Credential, SecretValue, ValueSpec};
use rekeyd::target::clickhouse::{ClickhouseTarget, Deadlines};
use rekeyd::target::{
    AdminCredential, Attempt, Extent, InstallRequest, Installed, Occupancy, Probe, ProbeDepth, RetireRequest,
    Retired, Target as _,
};

use crate::clickhouse_server::{Clickhouse, Client};
use crate::target_contract::Open;

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

fn new(user: &str) -> Credential {
    Credential::new(name(user), ValueSpec::default().generate())
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

fn pair_of(groups: &[&str]) -> ClickhouseStrategy {
    let member_of = groups.iter().map(|group| name(group)).collect();
    ClickhouseStrategy::Alternating(AlternatingSpec { users: ["app_a", "app_b"].map(name), member_of })
}

fn one() -> ClickhouseStrategy {
    ClickhouseStrategy::DualPassword(DualPasswordSpec { user: name("app") })
}

fn target(spec: ClickhouseSpec) -> ClickhouseTarget {
    ClickhouseTarget::new(spec, Arc::new(Admin))
}

/// One attempt of one rotation.
struct Step {
    policy: PolicyName,
    rotation: RotationId,
    fence: u64,
}

impl Step {
    fn new(fence: u64) -> Self {
        let policy = "orders/olap".parse().expect("a policy name");
        Self { policy, rotation: RotationId::generate(), fence }
    }

    fn attempt(&self) -> Attempt<'_> {
        let (version, fence) = (Version::new(self.fence), Fence::new(self.fence));
        Attempt { policy: &self.policy, rotation: self.rotation, version, fence }
    }
}

async fn install_with(
    target: &ClickhouseTarget,
    step: &Step,
    candidate: &Credential,
    peer: Option<&Principal>,
    beside: Option<&Credential>,
    occupancy: Occupancy,
) -> Result<Installed, Failure> {
    let attempt = step.attempt();
    target.install(InstallRequest { attempt, candidate, peer, beside, occupancy }).await
}

/// Beside another value of the same user, where there is one.
async fn install(
    target: &ClickhouseTarget,
    step: &Step,
    candidate: &Credential,
    beside: Option<&Credential>,
) -> Result<Installed, Failure> {
    install_with(target, step, candidate, None, beside, Occupancy::Refuse).await
}

/// The turn of another user.
async fn turn(
    target: &ClickhouseTarget,
    step: &Step,
    candidate: &Credential,
    peer: &str,
) -> Result<Installed, Failure> {
    install_with(target, step, candidate, Some(&name(peer)), None, Occupancy::Refuse).await
}

async fn retire(
    target: &ClickhouseTarget,
    step: &Step,
    user: &str,
    extent: Extent,
    beside: Option<&Credential>,
) -> Result<Retired, Failure> {
    let (attempt, user) = (step.attempt(), name(user));
    target.retire(RetireRequest { attempt, principal: &user, extent, outgoing: None, beside }).await
}

async fn probe(target: &ClickhouseTarget, credential: &Credential) -> Probe {
    target.probe(credential, ProbeDepth::Login).await
}

#[track_caller]
fn done(installed: Result<Installed, Failure>) {
    assert!(matches!(installed, Ok(Installed::Done { .. })), "{installed:?}");
}

#[async_trait]
impl Open for Client {
    async fn lives(&mut self) -> bool {
        self.runs().await
    }
}

async fn open(server: &Clickhouse, credential: &Credential) -> Box<dyn Open> {
    Box::new(Client::run(server.port, credential).await.expect("it is let in"))
}
