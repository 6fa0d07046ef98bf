//! A single pod that meets a new value before any other does.
//!
//! It is made like the pods of a workload, labels included, so that it is let in wherever they are and gets its
//! share of requests once it is ready. No ReplicaSet takes it for its own; it belongs to the workload, and goes with
//! it. Its name follows from workload, Secret and version: whoever crashes makes no second one. Another one is made
//! where it was evicted or its node died. It goes when nobody waits for it any more.

use jiff::Timestamp;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::DynamicObject;
use serde_json::json;

use super::edition::Edition;
use super::pods::Pod;
use super::reference::short_digest;
use super::shape;
use super::workload::{Workload, template_pointer};
use super::{Readers, api};
use crate::consumer::Ailment;
use crate::failure::{Failure, FailureClass};
use crate::ident::{ObjectName, Version};
use crate::kubernetes::{CANARY, MADE_FROM, failure, only};
use crate::policy::spec::WorkloadsSpec;

/// So much of a workload's name is in its canary's: the whole is to be a host name of at most 63 characters.
const LONGEST: usize = 24;

impl Readers {
    /// Why nobody restarts yet: the canary pod is still to show that it lives with the version. Makes it.
    pub(super) async fn wait_for_canary(
        &self,
        edition: Edition,
        spec: &WorkloadsSpec,
        is_urgent: bool,
        now: Timestamp,
    ) -> Result<Option<String>, Failure> {
        let Some(workload) = self.tried_by(edition, spec, is_urgent) else { return Ok(None) };
        let Some(pod) = self.canary(workload, edition) else {
            self.make(workload, edition).await?;
            return Ok(Some("waits for its canary pod, which is being made".to_owned()));
        };
        let settled = pod.ready_since.and_then(|since| since.saturating_add(spec.settle.as_signed()).ok());
        Ok(match settled {
            Some(settled) if settled <= now => None,
            Some(_) => Some(format!("waits until the canary pod is ready for {}", spec.settle)),
            None => Some(format!("waits for the canary {}", pod.why())),
        })
    }

    /// Takes away canary pods that nobody waits for: whatever the policy says by now, and whose node is gone.
    pub(super) async fn dismiss_canaries(
        &mut self,
        edition: Edition,
        spec: &WorkloadsSpec,
        is_urgent: bool,
    ) -> Result<(), Failure> {
        let kept =
            self.tried_by(edition, spec, is_urgent).and_then(|workload| self.canary(workload, edition));
        let kept = kept.map(|pod| pod.name.clone());
        let others = self.canaries().filter(|pod| pod.leaves.is_none() && Some(&pod.name) != kept.as_ref());
        let others: Vec<Pod> = others.cloned().collect();
        for pod in others {
            match self.remove(&pod).await {
                Ok(()) => {
                    let leaves = self.clock.now();
                    self.pods.entry(pod.name).and_modify(|pod| pod.leaves = Some(leaves));
                }
                // Without the right to it, somebody has to do it by hand; no reader waits for that.
                Err(failure) if failure.class() == FailureClass::Denied => {
                    tracing::warn!(%failure, "a canary pod is left over: delete it");
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// What the canary pod says of the version, if it fails with it. Where pods of its workload fail with an
    /// earlier version too, the version is not the cause.
    pub(super) fn canary_fails(
        &self,
        edition: Edition,
        spec: &WorkloadsSpec,
        now: Timestamp,
    ) -> Option<Ailment> {
        let workload = self.canary_workload(spec)?;
        let pod = self.canary(workload, edition)?;
        let siblings: Vec<&Pod> = self.pods_of(workload).collect();
        let is_late = self.is_canary_late(edition, spec, now);
        let may_blame = workload.blames(&siblings, workload.edition(edition));
        (pod.fails(is_late) && may_blame).then(|| Ailment {
            reader: self.label(workload),
            why: format!("canary {}", pod.why()),
            is_late,
        })
    }

    /// Whether it has had the time to get ready, and is not.
    pub(super) fn is_canary_late(&self, edition: Edition, spec: &WorkloadsSpec, now: Timestamp) -> bool {
        let workload = self.canary_workload(spec);
        workload.and_then(|workload| self.canary(workload, edition)).is_some_and(|pod| {
            let began = pod.created.max(edition.since);
            pod.ready_since.is_none() && now.duration_since(began) > spec.deadline.as_signed()
        })
    }

    /// Those of this Secret.
    pub(super) fn canaries(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|pod| pod.canary_of.as_deref() == Some(self.names.secret.as_str()))
    }

    /// The one that tries a version. One that was evicted, or whose node is gone, tries nothing any more; and what
    /// is not well may have been mended in the template since.
    fn canary(&self, workload: &Workload, edition: Edition) -> Option<&Pod> {
        let stem = stem(workload, &self.names.secret, edition.version);
        self.canaries().find(|pod| {
            let is_current = pod.ready_since.is_some() || pod.made_from == Some(workload.generation);
            pod.name.starts_with(&stem) && !pod.is_over && pod.leaves.is_none() && is_current
        })
    }

    fn canary_workload(&self, spec: &WorkloadsSpec) -> Option<&Workload> {
        let name = spec.canary_pod.as_ref()?;
        self.workloads.iter().find(|workload| workload.name == *name)
    }

    /// The workload whose canary pod a version is tried with before anybody restarts for it. What is brought back
    /// was well, nobody waits with a leak, and where there is to be no pod there is nothing to be learned from one.
    fn tried_by(&self, edition: Edition, spec: &WorkloadsSpec, is_urgent: bool) -> Option<&Workload> {
        let workload = self.canary_workload(spec).filter(|workload| workload.size() > 0)?;
        let is_needed = edition.restores.is_none()
            && !is_urgent
            && self.workloads.iter().any(|workload| self.needs_restart(workload, edition));
        is_needed.then_some(workload)
    }

    /// Whether one could be made and taken away again, for all that is known: asked for without doing it.
    pub(crate) async fn rehearse_canary(&self, spec: &WorkloadsSpec) -> Result<(), Failure> {
        let workload = self.canary_workload(spec).filter(|workload| workload.size() > 0);
        let Some(workload) = workload else { return Ok(()) };
        let doing = self.making(workload);
        let name = format!("{}0", stem(workload, &self.names.secret, Version::NONE));
        let Some(pod) = self.draft(workload, &name, Version::NONE, false).await? else { return Ok(()) };
        let pods = self.pod_api();
        let params = PostParams { dry_run: true, ..PostParams::default() };
        pods.create(&params, &pod).await.map_err(|error| failure(&error, &doing))?;
        let params = DeleteParams { dry_run: true, ..DeleteParams::default() };
        match pods.delete(&name, &params).await {
            Ok(_) => Ok(()),
            // There is none of that name, and whoever may not delete it is not told so.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(failure(&error, &self.removing(&name))),
        }
    }

    /// Dying after the request: whoever looks next finds it.
    async fn make(&self, workload: &Workload, edition: Edition) -> Result<(), Failure> {
        let doing = self.making(workload);
        let stem = stem(workload, &self.names.secret, edition.version);
        // Those that try nothing any more keep their names for as long as they are there.
        let names = (0..).map(|attempt: u32| format!("{stem}{attempt}"));
        let name = names.into_iter().find(|name| !self.pods.contains_key(name)).unwrap_or_default();
        // It reads nothing any more.
        let Some(pod) = self.draft(workload, &name, edition.version, true).await? else { return Ok(()) };
        let pods = self.pod_api();
        match pods.create(&PostParams::default(), &pod).await {
            Ok(_) => {
                between!("kubernetes.canary.made");
                Ok(())
            }
            // Somebody else made it meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(failure(&error, &doing)),
        }
    }

    /// A pod as the workload would make it for a version; `None` where the workload is gone. `is_real` has it name
    /// the Secret of that version, where each has one.
    async fn draft(
        &self,
        workload: &Workload,
        name: &str,
        version: Version,
        is_real: bool,
    ) -> Result<Option<DynamicObject>, Failure> {
        let doing = self.making(workload);
        let object = api(&self.client, &self.namespace, workload.name.kind);
        let object = object.get_opt(workload.name.name.as_str()).await;
        let Some(object) = object.map_err(|error| failure(&error, &doing))? else { return Ok(None) };
        let template = object.data.pointer(template_pointer(workload.name.kind)).cloned().unwrap_or_default();
        let mut metadata = json!({
            "name": name,
            "namespace": self.namespace,
            "labels": template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})),
            "annotations": template.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({})),
            "ownerReferences": [workload.owner()],
        });
        metadata["annotations"][&self.names.annotation] = version.number().to_string().into();
        metadata["annotations"][CANARY] = self.names.secret.as_str().into();
        metadata["annotations"][MADE_FROM] = object.metadata.generation.unwrap_or(0).to_string().into();
        let mut spec = template.get("spec").cloned().unwrap_or_default();
        if self.names.freezes && is_real {
            for (part, after) in self.names.point(&spec, version) {
                spec[&part] = after;
            }
        }
        let pod: DynamicObject = serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
        )
        .map_err(|_| Failure::new(FailureClass::Invalid, &doing, "its pod template has an unknown form"))?;
        Ok(Some(pod))
    }

    async fn remove(&self, pod: &Pod) -> Result<(), Failure> {
        let pods = self.pod_api();
        match pods.delete(&pod.name, &only(Some(pod.uid.clone()))).await {
            Ok(_) => {
                between!("kubernetes.canary.removed");
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(failure(&error, &self.removing(&pod.name))),
        }
    }

    fn pod_api(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &shape::pods())
    }

    fn making(&self, workload: &Workload) -> String {
        format!("start a canary pod of {} in namespace {}", workload.name, self.namespace)
    }

    fn removing(&self, name: &str) -> String {
        format!("remove canary pod {name} in namespace {}", self.namespace)
    }
}

/// What the names of a workload's canary pods for a version begin with; another one for each Secret.
fn stem(workload: &Workload, secret: &ObjectName, version: Version) -> String {
    let name: String = workload.name.name.as_str().chars().take(LONGEST).collect();
    let name = name.trim_end_matches(['.', '-']);
    format!("{name}-canary-{}-{}-", short_digest(secret.as_str(), 3), version.number())
}
