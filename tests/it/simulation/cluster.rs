//! Policies whose value goes to a Secret: the API server on the other side of the network, and who reads there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rekeyd::clock::Clock;
use rekeyd::consumer::Consumer;
use rekeyd::failure::Failure;
use rekeyd::ident::DnsLabel;
use rekeyd::kubernetes::Clusters;
use rekeyd::ledger::Ledger;
use rekeyd::policy::spec::{ConsumerSpec, TargetSpec};
use rekeyd::proving::calls::OnTheWay;
use rekeyd::rotation::engine::Adapters;
use rekeyd::secret::Credential;
use rekeyd::service::{Mended, Service};
use rekeyd::settings::LimitSettings;
use rekeyd::store::Store;
use rekeyd::target::Target;
use serde_json::{Value, json};

use super::network::{Network, Node, pass};
use super::town::Town;
use crate::world::OnlyClusters;
use crate::world::apiserver::fate::{Fate, Happens};
use crate::world::apiserver::{Answer, ApiServer, Road};
use crate::world::checker::{Checker, Shown};

/// The namespace of everything.
pub(super) const SPACE: &str = "town";

/// What the policies call the cluster.
const CLUSTER: &str = "main";

/// A Secret of a policy, and the Deployments whose pods read it.
pub(super) struct SecretReaders {
    server: Arc<ApiServer>,
    secret: String,
    deployments: Vec<String>,
}

impl SecretReaders {
    /// They are there before their Secret is.
    pub(super) fn settle_in(server: &Arc<ApiServer>, network: &Network, secret: &str) -> Self {
        let deployments: Vec<String> = ["app", "web"][..=network.dice(2) as usize]
            .iter()
            .map(|name| format!("{secret}-{name}"))
            .collect();
        for name in &deployments {
            server.deploy(SPACE, name, network.dice(3), secret);
        }
        Self { server: Arc::clone(server), secret: secret.to_owned(), deployments }
    }

    /// Whether pods that start with a value that is not there now fail.
    pub(super) fn fail(&self, fails: bool) {
        let now = self.server.credential(SPACE, &self.secret).filter(|_| fails);
        self.server.only(&self.secret, now);
    }

    /// Somebody deletes the Secret: whoever starts waits until it is there again.
    pub(super) fn delete(&self) {
        self.server.delete_secret(SPACE, &self.secret);
    }

    /// Why its readers are not at rest with a credential.
    pub(super) fn unrest(&self, current: &Credential) -> Option<String> {
        if self.server.credential(SPACE, &self.secret).as_ref() != Some(current) {
            return Some(format!("Secret {} does not hold the value in force", self.secret));
        }
        let pods = self.server.running(SPACE, &self.secret);
        let strange =
            pods.iter().find(|pod| pod.leaves || !pod.is_ready || pod.holds.as_ref() != Some(current))?;
        let has =
            if strange.holds.as_ref() == Some(current) { "the value in force" } else { "something else" };
        Some(format!(
            "pod {} has {has}, ready: {}, leaves: {}",
            strange.name, strange.is_ready, strange.leaves
        ))
    }
}

impl Shown for SecretReaders {
    fn text(&self) -> Option<String> {
        let credential = self.server.credential(SPACE, &self.secret)?;
        let secret = self.server.object("secrets", SPACE, &self.secret)?;
        let version = secret["metadata"]["annotations"]["rekeyd.dev/version"].as_str()?.parse().ok()?;
        Some(Checker::content(&credential, version))
    }

    /// Of every pod that stays.
    fn used(&self) -> Vec<Option<Credential>> {
        let pods = self.server.running(SPACE, &self.secret).into_iter();
        // One in which nothing runs reads the Secret when it starts.
        pods.filter(|pod| !pod.leaves).filter_map(|pod| pod.holds).map(Some).collect()
    }

    fn told(&self) -> usize {
        self.deployments.iter().flat_map(|name| self.server.raised(name)).max().unwrap_or_default()
    }
}

/// The network between rekeyd's processes and the API server. What was sent arrives, whoever dies.
pub(super) struct Cables(pub(super) Arc<Network>);

impl Road for Cables {
    fn fate(&self, verb: &'static str) -> Fate {
        let network = &self.0;
        let dice = |limit| network.dice(limit);
        let mut fate = if network.is_troubled() { Fate::draw(verb, dice) } else { Fate::fair(dice) };
        if network.is_down("cluster") {
            fate.happens = if network.dice(2) == 0 { Happens::TurnedAway(503) } else { Happens::Lost };
        }
        network.note((verb, fate));
        network.tell(|| format!("    {verb} is {fate:?}"));
        network.count("requests");
        if let Some(fault) = fate.happens.name() {
            network.count(fault);
        }
        fate
    }

    fn carry(
        &self,
        verb: &'static str,
        after: Duration,
        effect: BoxFuture<'static, Answer>,
    ) -> BoxFuture<'static, Answer> {
        let network = Arc::clone(&self.0);
        Box::pin(async move {
            // Who only looks changes nothing, whenever that is.
            if matches!(verb, "api.get" | "api.list" | "api.watch") {
                pass(after).await;
                return effect.await;
            }
            let noted = Arc::clone(&network);
            let effect = async move {
                let (code, object) = effect.await;
                noted.note((verb, code));
                noted.tell(|| format!("    {verb} is answered with {code}"));
                Ok((code, object))
            };
            network.arrive(verb, after, effect).await.expect("an answer")
        })
    }
}

/// What one process reaches: a Secret request by request, so that it dies between any two; the rest call by call.
pub(super) struct Reach {
    pub(super) others: OnTheWay<Node>,
    pub(super) clusters: Arc<Clusters>,
}

/// A process's own connections to a cluster.
pub(super) fn clusters(server: Option<&Arc<ApiServer>>, clock: Arc<dyn Clock>) -> Arc<Clusters> {
    let clusters = Clusters::new(&BTreeMap::new(), LimitSettings::default()).with_clock(clock);
    Arc::new(match server {
        Some(server) => clusters.with_client(&CLUSTER.parse().expect("a name"), &server.client()),
        None => clusters,
    })
}

impl Adapters for Reach {
    fn store_names(&self) -> Vec<DnsLabel> {
        self.others.store_names()
    }

    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        self.others.store(name)
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        self.others.target(spec)
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        match spec {
            ConsumerSpec::Kubernetes(_) => {
                rekeyd::consumer::build(spec, &OnlyClusters(Arc::clone(&self.clusters)))
            }
            _ => self.others.consumer(spec),
        }
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        self.others.ledger()
    }
}

/// A policy's consumer, by chance.
pub(super) fn consumer(network: &Network, secret: &str, on_failure: &str, is_in_place: bool) -> Value {
    let settle = ["0s", "1s", "5s"][network.dice(3) as usize];
    let mut consumer = json!({ "kubernetes": {
        "namespace": SPACE, "secret": secret, "immutable": network.dice(4) == 0,
        "workloads": { "settle": settle, "deadline": "60s", "onFailure": on_failure },
    } });
    let app = json!({ "kind": "Deployment", "name": format!("{secret}-app") });
    match network.dice(6) {
        0 => consumer["kubernetes"]["workloads"]["canary"] = app,
        // In place nothing works by then but the new value: there is nothing to try first.
        1 if !is_in_place => consumer["kubernetes"]["workloads"]["canaryPod"] = app,
        _ => {}
    }
    consumer
}

/// One who looks again and again whether Secrets hold what they should, as a daemon does that watches them.
pub(super) async fn watchman(town: &Town, service: &Service) {
    loop {
        for inhabitant in &town.inhabitants {
            if let Mended::Readers { .. } = service.mend_readers(inhabitant.policy.name()).await {
                town.network.count("readers mended");
            }
        }
        pass(town.network.between(Duration::from_secs(5), Duration::from_secs(60))).await;
    }
}

/// What happens in a cluster without anybody's doing.
pub(super) async fn mishaps(town: Arc<Town>) {
    let Some(server) = town.systems.cluster.clone() else { return };
    loop {
        pass(town.network.between(Duration::from_secs(1), Duration::from_secs(40))).await;
        match town.network.dice(9) {
            8 => town.delete_secret(),
            0 => {
                town.network.tell(|| "the API server forgets what was".into());
                server.forget();
            }
            1 => town
                .network
                .take_down("cluster", town.network.between(Duration::from_secs(1), Duration::from_secs(60))),
            2 | 3 => {
                town.network.count("pods evicted");
                server.evict_one(SPACE);
            }
            _ => {
                let crashed = server.crash_one(SPACE);
                town.network.count("containers crashed");
                town.network.tell(|| format!("a container of pod {crashed:?} crashes"));
            }
        }
    }
}
