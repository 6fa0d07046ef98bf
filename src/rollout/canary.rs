//! A single pod that meets a new value before any other does.
//!
//! It is made like the pods of a workload, labels included, so that it is let in wherever they are and gets its
//! share of requests once it is ready. No ReplicaSet takes it for its own; it belongs to the workload, and goes with
//! it. Its name follows from workload and version: whoever crashes makes no second one. It goes when nobody waits
//! for it any more.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use super::edition::Edition;
use super::pods::Pod;
use super::workload::{Workload, template_pointer};
use super::{Readers, api};
use crate::consumer::Ailment;
use crate::failure::{Failure, FailureClass};
use crate::ident::Version;
use crate::kubernetes::{CANARY, failure};
use crate::policy::spec::WorkloadsSpec;

/// So much of a workload's name is in its canary's.
const LONGEST: usize = 40;

impl Readers {
    /// Why nobody restarts yet: the canary pod is still to show that it lives with the version. Makes it, and takes
    /// away what is left of earlier ones.
    pub(super) async fn wait_for_canary(
        &self,
        edition: Edition,
        spec: &WorkloadsSpec,
        is_urgent: bool,
        now: Timestamp,
    ) -> Result<Option<String>, Failure> {
        let Some(workload) = self.canary_workload(spec) else { return Ok(None) };
        // What is brought back was well, and nobody waits with a leak.
        let is_needed = edition.restores.is_none()
            && !is_urgent
            && self.workloads.iter().any(|workload| self.needs_restart(workload, edition));
        let name = is_needed.then(|| name(workload, edition.version));
        for other in self.canaries().filter(|pod| pod.leaves.is_none() && Some(&pod.name) != name.as_ref()) {
            self.remove(other).await?;
        }
        let Some(name) = name else { return Ok(None) };
        let Some(pod) = self.canaries().find(|pod| pod.name == name) else {
            self.make(workload, &name, edition.version).await?;
            return Ok(Some("waits for its canary pod, which is being made".to_owned()));
        };
        let settled = pod.ready_since.and_then(|since| since.saturating_add(spec.settle.as_signed()).ok());
        Ok(match settled {
            Some(settled) if settled <= now && pod.leaves.is_none() => None,
            Some(_) => Some(format!("waits until the canary pod is ready for {}", spec.settle)),
            None => Some(format!("waits for the canary {}", pod.why())),
        })
    }

    /// What the canary pod says of the version, if it fails with it.
    pub(super) fn canary_fails(
        &self,
        edition: Edition,
        spec: &WorkloadsSpec,
        now: Timestamp,
    ) -> Option<Ailment> {
        let workload = self.canary_workload(spec)?;
        let name = name(workload, edition.version);
        let pod = self.canaries().find(|pod| pod.name == name)?;
        let is_late = now.duration_since(pod.created.max(edition.since)) > spec.deadline.as_signed();
        pod.fails(is_late).then(|| Ailment {
            reader: self.label(workload),
            why: format!("canary {}", pod.why()),
            is_late,
        })
    }

    /// Those of this Secret.
    pub(super) fn canaries(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|pod| pod.canary_of.as_deref() == Some(self.secret.as_str()))
    }

    fn canary_workload(&self, spec: &WorkloadsSpec) -> Option<&Workload> {
        let name = spec.canary_pod.as_ref()?;
        self.workloads.iter().find(|workload| workload.name == *name)
    }

    /// Dying after the request: whoever looks next finds it.
    async fn make(&self, workload: &Workload, name: &str, version: Version) -> Result<(), Failure> {
        let doing = format!("start a canary pod of {} in namespace {}", workload.name, self.namespace);
        let object = api(&self.client, &self.namespace, workload.name.kind);
        let object = object.get_opt(workload.name.name.as_str()).await;
        // It reads nothing any more.
        let Some(object) = object.map_err(|error| failure(&error, &doing))? else { return Ok(()) };
        let template = object.data.pointer(template_pointer(workload.name.kind)).cloned().unwrap_or_default();
        let mut metadata = json!({
            "name": name,
            "namespace": self.namespace,
            "labels": template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})),
            "annotations": template.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({})),
            "ownerReferences": [workload.owner()],
        });
        metadata["annotations"][&self.annotation] = version.number().to_string().into();
        metadata["annotations"][CANARY] = self.secret.as_str().into();
        let pod =
            json!({"metadata": metadata, "spec": template.get("spec").map_or(Value::Null, Value::clone)});
        let pod: Object = serde_json::from_value(pod).map_err(|_| {
            Failure::new(FailureClass::Invalid, &doing, "its pod template has an unknown form")
        })?;
        let pods: Api<Object> = Api::namespaced(self.client.clone(), &self.namespace);
        match pods.create(&PostParams::default(), &pod).await {
            Ok(_) => {
                between!("kubernetes.canary.made");
                Ok(())
            }
            // Somebody else made it meanwhile, or the last one is still on its way out.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(failure(&error, &doing)),
        }
    }

    async fn remove(&self, pod: &Pod) -> Result<(), Failure> {
        let pods: Api<Object> = Api::namespaced(self.client.clone(), &self.namespace);
        match pods.delete(&pod.name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => {
                let doing = format!("remove canary pod {} in namespace {}", pod.name, self.namespace);
                Err(failure(&error, &doing))
            }
        }
    }
}

fn name(workload: &Workload, version: Version) -> String {
    let name: String = workload.name.name.as_str().chars().take(LONGEST).collect();
    format!("{}-canary-{}", name.trim_end_matches(['.', '-']), version.number())
}
