//! The Kubernetes consumer: the contract, on an API server in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rekeyd::clock::{Clock, SystemClock};
use rekeyd::consumer::Consumer;
use rekeyd::consumer::kubernetes::KubernetesConsumer;
use rekeyd::failure::FailureClass;
use rekeyd::kubernetes::Clusters;
use rekeyd::policy::spec::KubernetesSpec;
use rekeyd::settings::LimitSettings;
use serde_json::json;
use tokio::sync::Notify;

use super::contract::{Fixture, consumer_contract, publish, value};
use crate::world::apiserver::fate::{Fate, Happens};
use crate::world::apiserver::{Answer, ApiServer, Road, Smooth};
use crate::world::clock::TestClock;

consumer_contract!(Cluster::new());

const SPACE: &str = "orders";
const SECRET: &str = "orders-db";
const READER: &str = "app";

/// A cluster with one reader, whose pods wait for the Secret.
struct Cluster(Arc<ApiServer>);

impl Cluster {
    fn new() -> Self {
        Self::on(Arc::new(SystemClock), Arc::new(Smooth))
    }

    fn on(clock: Arc<dyn Clock>, road: Arc<dyn Road>) -> Self {
        let server = ApiServer::new(0, clock, road, Arc::new(|_| true));
        server.deploy(SPACE, READER, 2, SECRET);
        server.hurry();
        Self(server)
    }
}

impl Fixture for Cluster {
    fn open(&self) -> Arc<dyn Consumer> {
        let spec = json!({"namespace": SPACE, "secret": SECRET});
        let spec: KubernetesSpec = serde_json::from_value(spec).expect("a specification");
        let clusters = Clusters::new(&BTreeMap::new(), LimitSettings::default());
        let clusters = clusters.with_client(&spec.cluster, &self.0.client());
        Arc::new(KubernetesConsumer::new(&spec, Arc::new(clusters)).expect("a consumer"))
    }

    fn shown(&self) -> Option<String> {
        let credential = self.0.credential(SPACE, SECRET)?;
        Some(credential.value.expose_str().expect("text").to_owned())
    }

    fn told(&self) -> Option<usize> {
        Some(self.0.raised(READER).into_iter().sum())
    }

    /// Somebody puts back what was there earlier: another value, and a reader that was not told of rekeyd's. Where
    /// its template still says the version nobody restarts it again: a workload restarts once for a version.
    fn tamper(&self) {
        let earlier = json!({"data": {"password": "c29tZXRoaW5nIGVsc2U="}});
        assert!(self.0.patch("secrets", SPACE, SECRET, &earlier));
        let untold = json!({"spec": {"template": {"metadata": {"annotations": null}}}});
        assert!(self.0.patch("deployments", SPACE, READER, &untold));
        self.0.hurry();
    }
}

/// A road on which the last request of a Secret's first write, which gives the maker's part up, arrives when it is
/// let go.
#[derive(Default)]
struct Detour {
    applied: AtomicUsize,
    let_go: Arc<Notify>,
    arrived: Arc<Notify>,
}

impl Road for Detour {
    fn fate(&self, verb: &'static str) -> Fate {
        let is_last = verb == "api.apply" && self.applied.fetch_add(1, Ordering::Relaxed) == 2;
        if !is_last {
            return Fate::default();
        }
        Fate { there: Duration::from_secs(20), happens: Happens::Late, ..Fate::default() }
    }

    fn carry(
        &self,
        _: &'static str,
        after: Duration,
        effect: BoxFuture<'static, Answer>,
    ) -> BoxFuture<'static, Answer> {
        if after.is_zero() {
            return effect;
        }
        let (let_go, arrived) = (Arc::clone(&self.let_go), Arc::clone(&self.arrived));
        Box::pin(async move {
            let_go.notified().await;
            let answer = effect.await;
            arrived.notify_one();
            answer
        })
    }
}

/// It would make an empty one that nobody wrote, which would be refused from then on.
#[tokio::test]
async fn what_a_maker_gives_up_late_makes_no_secret_anew() {
    let road = Arc::new(Detour::default());
    let cluster = Cluster::on(Arc::new(TestClock::new()), Arc::clone(&road) as _);
    let failure = publish(&*cluster.open(), 1).await.expect_err("no answer came");
    assert_eq!(failure.class(), FailureClass::Ambiguous);
    assert_eq!(cluster.shown(), Some(value(1)));

    cluster.0.delete_secret(SPACE, SECRET);
    road.let_go.notify_one();
    road.arrived.notified().await;
    assert!(cluster.0.object("secrets", SPACE, SECRET).is_none());
    publish(&*cluster.open(), 1).await.expect("published");
    assert_eq!(cluster.shown(), Some(value(1)));
}
