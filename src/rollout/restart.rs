//! Who restarts for a version, and when.
//!
//! A restart is one change of the pod template, at a revision of the object, or a commit that says the same. Who has
//! the version in the template already is left alone.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use super::budget::Budget;
use super::declared::Declared;
use super::edition::Edition;
use super::governor::Room;
use super::pods::Pod;
use super::quota::{self, Amounts};
use super::reference::Names;
use super::workload::Workload;
use super::{Readers, TRIES, api, workload};
use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, Version};
use crate::kubernetes::event::Said;
use crate::kubernetes::{MANAGER, failure};
use crate::policy::spec::{WorkloadKind, WorkloadName, WorkloadsSpec};

impl Readers {
    /// Announces restarts that are to come, so that others that touch the same workloads join them.
    pub(crate) fn announce(&mut self, policy: &PolicyName) {
        self.policy = Some(policy.clone());
        let restarts = self.workloads.iter().filter(|workload| !workload.reloads_itself);
        restarts.for_each(|workload| self.turns.announce(&workload.name));
    }

    /// Restarts whoever has pods that may have read something earlier and whose turn it is; says whether there was
    /// one. One that fails holds back none of the others.
    pub(crate) async fn restart(
        &mut self,
        edition: Edition,
        spec: &WorkloadsSpec,
        is_urgent: bool,
    ) -> Result<bool, Failure> {
        let now = self.clock.now();
        // Those that are left over keep nobody from restarting.
        let dismissed = self.dismiss_canaries(edition, spec, is_urgent).await;
        let canary = self.wait_for_canary(edition, spec, is_urgent, now).await?;
        let (mut waiting, mut left) = (BTreeMap::new(), BTreeMap::new());
        let mut to_restart = Vec::new();
        for workload in &self.workloads {
            if !self.needs_restart(workload, edition) {
                self.turns.written(&workload.name, edition.version);
                continue;
            }
            // A tool that is stronger than rekeyd would have its pods restart for ever.
            if self.turns.writes(&workload.name, edition.version) >= TRIES {
                let why = format!(
                    "somebody takes {} out of its template again and again, so it is left as it is: restart it",
                    edition.version
                );
                left.insert(workload.name.clone(), why);
                self.turns.give_up(&workload.name);
                continue;
            }
            let not_moved = |first: &&WorkloadName| {
                let first = self.workloads.iter().find(|other| other.name == **first);
                first.is_some_and(|first| self.unsettled(first, edition, spec, now).is_some())
            };
            // Until then nobody else brings it along with a restart of their own either.
            if let Some(first) = spec.before(&workload.name).find(not_moved).filter(|_| !is_urgent) {
                waiting.insert(workload.name.clone(), format!("waits until {first} has moved"));
                continue;
            }
            if let Some(why) = &canary {
                waiting.insert(workload.name.clone(), why.clone());
                continue;
            }
            let admitted = to_restart.iter().map(|(admitted, _): &(&Workload, _)| *admitted);
            let begun: Vec<&Workload> = self.begun(edition, spec, now).chain(admitted).collect();
            let limits = |beside: &[(&WorkloadName, &Room)]| {
                // What is brought back helps those that are not well.
                if edition.restores.is_some() {
                    return None;
                }
                let deferred = self.deferred(workload, &begun, beside);
                deferred.or_else(|| self.without_room(workload, &begun, beside))
            };
            let aim = self.aim(workload, edition);
            match self.turns.enter(&workload.name, aim, &self.room(workload), is_urgent, limits) {
                Ok(versions) => to_restart.push((workload, versions)),
                Err(wait) => {
                    waiting.insert(workload.name.clone(), wait.to_string());
                }
            }
        }
        let any = !to_restart.is_empty();
        let restarted = match &self.declared {
            None => {
                let patched = to_restart.into_iter();
                join_all(patched.map(|(workload, versions)| self.restart_one(workload, versions, edition)))
                    .await
            }
            Some(declared) => {
                vec![self.commit(declared, to_restart, edition).await.map(|done| left.extend(done))]
            }
        };
        (self.waiting, self.left) = (waiting, left);
        restarted.into_iter().chain([dismissed]).collect::<Result<(), Failure>>()?;
        Ok(any)
    }

    /// Whether nobody has to be restarted any more.
    pub(crate) fn told(&self, edition: Edition) -> bool {
        !self.workloads.iter().any(|workload| self.needs_restart(workload, edition))
    }

    pub(super) fn needs_restart(&self, workload: &Workload, edition: Edition) -> bool {
        if workload.reloads_itself || workload.told >= edition.version {
            return false;
        }
        let edition = workload.edition(edition);
        // Its jobs read the Secret when they start: the template says so for whoever looks at it. And one that
        // was told of what was taken back would go on with that.
        (workload.name.kind == WorkloadKind::CronJob && edition.restores.is_none())
            || edition.took_back(workload.told)
            || self.pods_of(workload).any(|pod| {
                // What was made for a version that was taken back goes by itself once the template is another.
                pod.leaves.is_none() && !pod.has(edition) && !edition.took_back(pod.version)
            })
    }

    /// Those whose update was begun and may still take pods away.
    fn begun(
        &self,
        edition: Edition,
        spec: &WorkloadsSpec,
        now: Timestamp,
    ) -> impl Iterator<Item = &Workload> {
        self.workloads.iter().filter(move |workload| {
            let is_told = workload.told >= edition.version && !workload.reloads_itself;
            is_told && self.unsettled(workload, edition, spec, now).is_some()
        })
    }

    /// The budget that has no room for a workload's update beside those that were begun here and whatever else restarts
    /// in the namespace.
    fn deferred(
        &self,
        workload: &Workload,
        begun: &[&Workload],
        beside: &[(&WorkloadName, &Room)],
    ) -> Option<String> {
        let counting = self.counting(workload);
        if counting.is_empty() {
            return None;
        }
        let own: Vec<(i64, Vec<&Pod>)> =
            begun.iter().map(|other| (other.takes, self.pods_of(other).collect())).collect();
        let others = beside.iter().filter(|(name, _)| begun.iter().all(|own| own.name != **name));
        let others: Vec<&Room> = others.map(|(_, room)| *room).collect();
        counting.into_iter().find_map(|budget| {
            let own = own.iter().filter(|(_, pods)| budget.counts(pods)).map(|(takes, _)| *takes);
            let others = others.iter().filter(|room| budget.is_for(&room.labels)).map(|room| room.takes);
            budget.defers(workload.takes, own.chain(others).sum())
        })
    }

    pub(super) fn room(&self, workload: &Workload) -> Room {
        workload.room(&self.pods_of(workload).collect::<Vec<_>>())
    }

    /// The quota that has no room for a workload's update beside those that were begun here and whatever else restarts in
    /// the namespace, in words.
    pub(super) fn without_room(
        &self,
        workload: &Workload,
        begun: &[&Workload],
        beside: &[(&WorkloadName, &Room)],
    ) -> Option<String> {
        if workload.adds == 0 || self.quotas.is_empty() {
            return None;
        }
        let others = beside.iter().filter(|(name, _)| begun.iter().all(|own| own.name != **name));
        let own = begun.iter().map(|other| self.room(other));
        let mut coming = Amounts::new();
        for room in own.chain(others.map(|(_, room)| (*room).clone())) {
            // Those that have come by now are counted.
            let has_labels = |pod: &&Pod| {
                !pod.is_over && room.labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            };
            let there = self.pods.values().filter(has_labels).count();
            let more = there.saturating_sub(room.pods);
            let to_come = room.adds - i64::try_from(more).unwrap_or(i64::MAX);
            quota::add(&mut coming, &room.needs, to_come.max(0) as f64);
        }
        // A canary pod makes room as soon as the first of them begins.
        self.canaries().for_each(|pod| quota::add(&mut coming, &pod.needs, -1.0));
        let room = self.room(workload);
        self.quotas.iter().find_map(|quota| quota.defers(room.adds, &room.needs, &coming))
    }

    /// The budgets that count its pods.
    pub(super) fn counting(&self, workload: &Workload) -> Vec<&Budget> {
        let pods: Vec<&Pod> = self.pods_of(workload).collect();
        self.budgets.iter().filter(|budget| budget.counts(&pods)).collect()
    }

    fn aim(&self, workload: &Workload, edition: Edition) -> Version {
        let pods: Vec<&Pod> = self.pods_of(workload).collect();
        workload.aim(&pods, workload.edition(edition))
    }

    /// Dying after the request: the template has the version, and is left alone from then on.
    async fn restart_one(
        &self,
        workload: &Workload,
        versions: Vec<(Names, Version)>,
        edition: Edition,
    ) -> Result<(), Failure> {
        let doing = format!("restart {} in namespace {}", workload.name, self.namespace);
        let api = api(&self.client, &self.namespace, workload.name.kind);
        let mut revision = workload.revision.clone();
        let points = versions.iter().any(|(names, _)| names.freezes);
        let mut template = Value::Null;
        for _ in 0..TRIES {
            if points {
                let object = api.get_opt(workload.name.name.as_str()).await;
                // It reads nothing any more.
                let Some(object) = object.map_err(|error| failure(&error, &doing))? else { return Ok(()) };
                let pointer = workload::template_pointer(workload.name.kind);
                template = object.data.pointer(pointer).cloned().unwrap_or_default();
                let now = workload.again(object, &self.namespace, &self.names)?;
                if now.told != workload.told {
                    return Ok(());
                }
                revision = now.revision;
            }
            // At its revision: nobody's later version is overwritten.
            let mut patch = workload.patch(&versions, &template, &revision);
            if mutated!(BlindRestart) {
                patch["metadata"] = serde_json::json!({});
            }
            let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
            let patched = api.patch(workload.name.name.as_str(), &params, &Patch::Merge(&patch)).await;
            let failed = match patched {
                Ok(_) => {
                    between!("kubernetes.restart.patched");
                    self.turns.wrote(&workload.name, edition.version);
                    self.tell(workload, &versions, None);
                    return Ok(());
                }
                Err(error) => failure(&error, &doing),
            };
            if failed.class() != FailureClass::Conflict {
                return Err(failed);
            }
            let object = match api.get_opt(workload.name.name.as_str()).await {
                Ok(Some(object)) => object,
                // It reads nothing any more.
                Ok(None) => return Ok(()),
                Err(error) => return Err(failure(&error, &doing)),
            };
            let now = workload.again(object, &self.namespace, &self.names)?;
            // Somebody told it something meanwhile: whoever looks next sees what.
            if now.told != workload.told {
                return Ok(());
            }
            revision = now.revision;
        }
        Err(Failure::new(FailureClass::Unavailable, doing, "somebody else changes it all the time"))
    }

    /// Says in an Event on a workload why it restarts. Nobody waits for that.
    pub(super) fn tell(
        &self,
        workload: &Workload,
        versions: &[(Names, Version)],
        committed_to: Option<&Declared>,
    ) {
        let own = versions.iter().find(|(names, _)| names.annotation == self.names.annotation);
        let others = if versions.len() > 1 { " and other Secrets" } else { "" };
        let note = match own {
            Some((_, Version::NONE)) | None => "its template is again as its pods were made for".to_owned(),
            Some((_, version)) => {
                format!("its pods are to have {version} of Secret {}{others}", self.names.secret)
            }
        };
        let (reason, note) = match committed_to {
            None => ("Restarted", note),
            Some(declared) => ("VersionCommitted", format!("{note}; {declared}")),
        };
        let regarding =
            ObjectReference { namespace: Some(self.namespace.clone()), ..workload.reference_to() };
        let (client, identity, now) = (self.client.clone(), self.identity.clone(), self.clock.now());
        tokio::spawn(async move {
            let said = Said {
                regarding,
                is_warning: false,
                reason,
                action: "Restart",
                note: &note,
                instance: &identity,
            };
            if let Err(failure) = said.tell(client, now).await {
                tracing::debug!(%failure, "an Event is not told");
            }
        });
    }
}
