//! Pods that bar a StatefulSet's way back.
//!
//! Its controller replaces no pod while one is not ready (`OrderedReady`). One that cannot live with a version keeps
//! the whole update from going on when that version is taken back, and so itself from being replaced. It is evicted:
//! budgets have their say, and the controller makes it anew from its template.

use kube::api::{Api, EvictParams};

use super::Readers;
use super::edition::Edition;
use super::pods::Pod;
use crate::failure::Failure;
use crate::kubernetes::{failure, only};
use crate::policy::spec::WorkloadKind;

impl Readers {
    /// Evicts them, once in a look: a budget that refuses it may have room later. Dying after a request: whoever looks
    /// next finds another pod.
    ///
    /// One that may not be evicted is named in [`Workload::unsettled`](super::workload::Workload::unsettled), and
    /// somebody has to delete it.
    pub(super) async fn unblock(&mut self, edition: Edition) {
        let stuck: Vec<Pod> = self.stuck(edition).cloned().collect();
        for pod in stuck {
            match self.evict(&pod).await {
                Ok(()) => {
                    let leaves = self.clock.now();
                    self.pods.entry(pod.name).and_modify(|pod| pod.leaves = Some(leaves));
                }
                Err(failure) => tracing::debug!(%failure, "a pod bars the way back of its StatefulSet"),
            }
        }
    }

    /// Those whose StatefulSet has seen that they are to have something else.
    fn stuck(&self, edition: Edition) -> impl Iterator<Item = &Pod> {
        let turned = self.workloads.iter().filter(move |workload| {
            workload.name.kind == WorkloadKind::StatefulSet
                && workload.replaces_pods()
                && workload.has_seen_itself()
                && !edition.took_back(workload.told)
        });
        turned.flat_map(|workload| self.pods_of(workload)).filter(move |pod| pod.is_stuck(edition))
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Failure> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let params =
            EvictParams { delete_options: Some(only(Some(pod.uid.clone()))), ..EvictParams::default() };
        match pods.evict(&pod.name, &params).await {
            Ok(_) => {
                between!("kubernetes.pod.evicted");
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => {
                let doing = format!("evict {} in namespace {}", pod.title(), self.namespace);
                Err(failure(&error, &doing))
            }
        }
    }
}
