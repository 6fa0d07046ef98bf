//! The Kubernetes consumer: the contract, on an API server in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekeyd::clock::SystemClock;
use rekeyd::consumer::Consumer;
use rekeyd::consumer::kubernetes::KubernetesConsumer;
use rekeyd::kubernetes::Clusters;
use rekeyd::policy::spec::KubernetesSpec;
use rekeyd::settings::LimitSettings;
use serde_json::json;

use super::contract::{Fixture, consumer_contract};
use crate::world::apiserver::{ApiServer, Smooth};

consumer_contract!(Cluster::new());

const SPACE: &str = "orders";
const SECRET: &str = "orders-db";
const READER: &str = "app";

/// A cluster with one reader, whose pods wait for the Secret.
struct Cluster(Arc<ApiServer>);

impl Cluster {
    fn new() -> Self {
        let server = ApiServer::new(0, Arc::new(SystemClock), Arc::new(Smooth), Arc::new(|_| true));
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

    fn told(&self) -> usize {
        self.0.raised(READER).into_iter().sum()
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
