//! The workloads that read a Secret: who they are, restarting them, and whether their pods have moved.
//!
//! A restart is a change of the pod template: its annotation says for which version of the Secret the pods
//! were started. The same version is the same template, so a workload restarts once for a version, whatever
//! crashes. A pod has moved when it carries the version, or when it was created after the Secret held it.

mod budget;
mod canary;
pub(crate) mod declared;
pub(crate) mod edition;
pub(crate) mod governor;
mod hold;
pub(crate) mod pods;
mod quota;
pub(crate) mod reference;
mod restart;
mod review;
mod secret_class;
mod shape;
mod stuck;
mod versions;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{try_join, try_join_all, try_join3};
use jiff::Timestamp;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectList};
use kube::{Client, Resource};

use self::budget::Budget;
use self::declared::Declared;
use self::edition::Edition;
use self::governor::Turns;
use self::pods::Pod;
use self::quota::Quota;
use self::reference::{Names, Reference};
use self::workload::Workload;
use crate::clock::Clock;
use crate::consumer::{Ailment, Reach};
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, PolicyName, Version};
use crate::kubernetes::{Clusters, failure};
use crate::policy::spec::{KubernetesSpec, OnFailure, WorkloadKind, WorkloadName, WorkloadsSpec};

/// So long one look at readers that move may take. A containment's deadline breaks it off.
const LOOK: Duration = Duration::from_secs(5);

/// How often readers are judged anew although no pod changed.
const TICK: Duration = Duration::from_millis(100);

/// How often the workloads are read again while something happens to their pods.
const RENEWAL: Duration = Duration::from_secs(1);

/// So long after that something may still follow from it: budgets and workloads count pods a little later.
const STIR: Duration = Duration::from_secs(2);

/// Times a restart is begun anew because somebody else changed the workload in between.
const TRIES: usize = 4;

/// The workloads that read one Secret, as they are now.
pub(crate) struct Readers {
    client: Client,
    clock: Arc<dyn Clock>,
    /// Names this process in Events.
    identity: String,
    cluster: DnsLabel,
    namespace: String,
    names: Names,
    /// Whether pods count that none of the workloads has.
    discovers: bool,
    workloads: Vec<Workload>,
    /// The versions that templates of the namespace name.
    in_templates: BTreeSet<Version>,
    /// Disruption budgets of the namespace.
    budgets: Vec<Budget>,
    /// Resource quotas of the namespace.
    quotas: Vec<Quota>,
    /// Of the namespace, by name.
    pods: BTreeMap<String, Pod>,
    /// The state of the namespace that the pods are of.
    pods_revision: String,
    turns: Arc<Turns>,
    /// Where versions are committed instead of being written into templates.
    declared: Option<Declared>,
    /// The policy that restarts are for, once they are announced.
    policy: Option<PolicyName>,
    /// Why workloads are not restarted yet.
    waiting: BTreeMap<WorkloadName, String>,
    /// Whose template is left to somebody else, and what is to be done: its version is committed, or taken out of it.
    left: BTreeMap<WorkloadName, String>,
    /// One that need not wait for others has not moved in time.
    is_late: bool,
}

impl Readers {
    /// Finds them: those that the policy names, and those whose pod template refers to the Secret.
    pub(crate) async fn find(
        clusters: &Clusters,
        namespace: &str,
        spec: &KubernetesSpec,
        turns: Arc<Turns>,
    ) -> Result<Self, Failure> {
        let mut names = Names::of(spec);
        let KubernetesSpec { cluster, secret, workloads: spec, .. } = spec;
        let client = clusters.client(cluster).await?;
        let kinds: Vec<WorkloadKind> = WorkloadKind::ALL
            .into_iter()
            .filter(|kind| spec.discover || spec.named().any(|name| name.kind == *kind))
            .collect();
        let lists = kinds.iter().map(|kind| list(&client, namespace, *kind));
        let limits = try_join(Budget::list(&client, namespace), Quota::list(&client, namespace));
        let (lists, pods, (budgets, quotas)) =
            try_join3(try_join_all(lists), list_pods(&client, namespace), limits).await?;
        names.classes =
            secret_class::filling(&client, namespace, secret, kinds.iter().zip(&lists), &pods.items).await?;
        let (mut workloads, mut in_templates) = (Vec::new(), BTreeSet::new());
        // Without the right to read all of them again, those that nobody named are not looked at.
        let rollouts = kinds.iter().zip(&lists).filter(|(kind, _)| **kind == WorkloadKind::Rollout);
        let conductors: BTreeMap<String, DynamicObject> = rollouts
            .filter(|_| spec.discover)
            .flat_map(|(_, rollouts)| rollouts)
            .filter_map(|rollout| Some((workload::conducts(rollout)?.to_owned(), rollout.clone())))
            .collect();
        for (kind, objects) in kinds.into_iter().zip(lists) {
            for object in objects {
                let Some(mut workload) = Workload::read(kind, object, namespace, &names)? else {
                    continue;
                };
                if kind == WorkloadKind::Deployment {
                    workload.take_conductor(conductors.get(workload.name.name.as_str()));
                }
                in_templates.extend(workload.refers.versions.iter().copied());
                let is_named = spec.named().any(|name| *name == workload.name);
                if is_named || (spec.discover && workload.takes_restart()) {
                    workloads.push(workload);
                }
            }
        }
        let named = spec.named();
        let missing = named.into_iter().find(|name| !workloads.iter().any(|found| found.name == **name));
        if let Some(name) = missing {
            let doing = format!("find the readers of Secret {namespace}/{secret}");
            return Err(Failure::new(FailureClass::Invalid, doing, format_args!("there is no {name}"))
                .with_remedy("correct `also`, `canary` or `canaryPod` of `workloads` in the policy"));
        }
        for workload in &mut workloads {
            workload.reloads_itself = spec.reload_themselves.contains(&workload.name);
        }
        let pods_revision = pods.metadata.resource_version.unwrap_or_default();
        let pods =
            pods.items.iter().map(|pod| Pod::read(pod, &names)).map(|pod| (pod.name.clone(), pod)).collect();
        Ok(Self {
            client,
            clock: clusters.clock(),
            identity: clusters.identity().to_owned(),
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            names,
            in_templates,
            discovers: spec.discover,
            workloads,
            budgets,
            quotas,
            pods,
            pods_revision,
            turns,
            declared: Declared::of(clusters, cluster, namespace, spec)?,
            policy: None,
            waiting: BTreeMap::new(),
            left: BTreeMap::new(),
            is_late: false,
        })
    }

    /// Whether one that need not wait for others has not moved in time, as was seen last.
    pub(crate) const fn is_late(&self) -> bool {
        self.is_late
    }

    fn unsettled(
        &self,
        workload: &Workload,
        edition: Edition,
        spec: &WorkloadsSpec,
        now: Timestamp,
    ) -> Option<String> {
        let pods: Vec<&Pod> = self.pods_of(workload).collect();
        workload.unsettled(&pods, workload.edition(edition), spec.settle, now)
    }

    /// How far they have moved; waits for that for a while, and says so as soon as all of them have.
    ///
    /// Their pods are watched meanwhile; workloads and budgets are read again while something happens to those.
    pub(crate) async fn follow(
        &mut self,
        edition: Edition,
        spec: &WorkloadsSpec,
        is_urgent: bool,
    ) -> Result<Reach, Failure> {
        self.unblock(edition).await;
        // Whoever had to wait has its turn now, perhaps.
        let restarted = self.restart(edition, spec, is_urgent).await?;
        let mut seen = self.reach(edition, spec, self.clock.now());
        if !matches!(seen, Reach::Moving(_)) || self.is_news() {
            return Ok(seen);
        }
        let doing = format!("watch Pods in namespace {}", self.namespace);
        let pods: Api<shape::Pod> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &shape::pods());
        let params = WatchParams::default().timeout(2 * LOOK.as_secs() as u32);
        let events =
            pods.watch(&params, &self.pods_revision).await.map_err(|error| failure(&error, &doing))?;
        let mut events = std::pin::pin!(events);
        let began = self.clock.monotonic();
        let (mut renewed, mut stirred) = (began, restarted.then_some(began));
        while self.clock.monotonic() < began + LOOK {
            let clock = Arc::clone(&self.clock);
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) if self.take(&event) => stirred = Some(self.clock.monotonic()),
                    // Too old a state, or a server that went away: whoever asks again begins anew.
                    _ => break,
                },
                // Some only have to be ready for long enough.
                () = clock.sleep(TICK) => {}
            }
            let now = self.clock.monotonic();
            if now >= renewed + RENEWAL {
                if stirred.is_some_and(|at| now < at + STIR) {
                    self.renew().await?;
                }
                // Others, of other Secrets too, may have made room.
                if self.restart(edition, spec, is_urgent).await? {
                    stirred = Some(self.clock.monotonic());
                }
                renewed = self.clock.monotonic();
            }
            seen = self.reach(edition, spec, self.clock.now());
            if self.is_news() {
                break;
            }
            if seen == Reach::Moved {
                // Not by what they said a while ago.
                self.renew().await?;
                self.dismiss_canaries(edition, spec, is_urgent).await?;
                seen = self.reach(edition, spec, self.clock.now());
                if seen == Reach::Moved {
                    break;
                }
            }
            if matches!(seen, Reach::Failing(_)) {
                break;
            }
        }
        Ok(seen)
    }

    /// Takes in what happened to a pod; `false` when the watch is of no more use.
    fn take(&mut self, event: &WatchEvent<shape::Pod>) -> bool {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                let pod = Pod::read(pod, &self.names);
                self.pods.insert(pod.name.clone(), pod);
            }
            WatchEvent::Deleted(pod) => {
                self.pods.remove(pod.metadata.name.as_deref().unwrap_or_default());
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(_) => return false,
        }
        true
    }

    /// Reads the workloads again.
    async fn renew(&mut self) -> Result<(), Failure> {
        let read = self.workloads.iter().map(async |workload| {
            let all = |kind| api(&self.client, &self.namespace, kind);
            let doing = || format!("read {} in namespace {}", workload.name, self.namespace);
            let object = all(workload.name.kind).get_opt(workload.name.name.as_str()).await;
            let object = object.map_err(|error| failure(&error, &doing()))?;
            let Some(object) = object else { return Ok(None) };
            let mut now = workload.again(object, &self.namespace, &self.names)?;
            if let Some(rollout) = &workload.conductor {
                let doing = || format!("read Rollout {rollout} in namespace {}", self.namespace);
                let rollout = all(WorkloadKind::Rollout).get_opt(rollout.as_str()).await;
                now.take_conductor(rollout.map_err(|error| failure(&error, &doing()))?.as_ref());
            }
            Ok(Some(now))
        });
        let budgets = Budget::list(&self.client, &self.namespace);
        // Where there was none, the next look from the beginning finds what has come.
        let quotas = async {
            if self.quotas.is_empty() {
                return Ok(Vec::new());
            }
            Quota::list(&self.client, &self.namespace).await
        };
        let (read, budgets, quotas) = try_join3(try_join_all(read), budgets, quotas).await?;
        (self.budgets, self.quotas) = (budgets, quotas);
        // One that is gone reads nothing any more.
        let gone = self.workloads.iter().zip(&read).filter(|(_, now)| now.is_none());
        gone.for_each(|(workload, _)| self.turns.leave(&workload.name));
        self.workloads = read.into_iter().flatten().collect();
        Ok(())
    }

    /// Whether others wait now than were told of last.
    fn is_news(&self) -> bool {
        self.turns.tell(self.waiting.keys().chain(self.left.keys()).cloned().collect())
    }

    /// How far they have moved, by what was seen last.
    fn reach(&mut self, edition: Edition, spec: &WorkloadsSpec, now: Timestamp) -> Reach {
        let (mut moving, mut failing) = (Vec::new(), Vec::new());
        let mut is_late = false;
        let allowed = spec.deadline.as_signed();
        for workload in &self.workloads {
            let pods: Vec<&Pod> = self.pods_of(workload).collect();
            let edition = workload.edition(edition);
            let reason = workload.unsettled(&pods, edition, spec.settle, now);
            let is_told = mutated!(ToldIsMoved) && workload.told >= edition.version;
            let Some(reason) = reason.filter(|_| !is_told) else {
                self.turns.leave(&workload.name);
                continue;
            };
            let waits = self.waiting.get(&workload.name);
            let reason = self.left.get(&workload.name).unwrap_or(&reason);
            // Whoever restarts pod by pod is at it as long as new ones come; whoever waits for others is not late.
            let came = pods.iter().filter(|pod| pod.has(edition)).map(|pod| pod.created).max();
            let began = self.turns.began(&workload.name, now);
            let at_it = [Some(edition.since), came, began].into_iter().flatten().max();
            let late = waits.is_none() && at_it.is_some_and(|at| now.duration_since(at) > allowed);
            is_late |= late;
            if spec.on_failure == OnFailure::RollBack
                && let Some(why) = workload.fails(&pods, edition, |pod: &Pod| {
                    now.duration_since(pod.created.max(edition.since)) > allowed
                })
            {
                failing.push(Ailment { reader: self.label(workload), why, is_late: late });
            }
            if late {
                // The others do not wait for it any longer.
                self.turns.give_up(&workload.name);
            } else if workload.told >= edition.version && !workload.reloads_itself {
                self.turns.rolls(&workload.name, &self.room(workload));
            }
            moving.push(format!("{}: {}", workload.name, waits.unwrap_or(reason)));
        }
        failing
            .extend(self.canary_fails(edition, spec, now).filter(|_| spec.on_failure == OnFailure::RollBack));
        is_late |= self.is_canary_late(edition, spec, now);
        for pod in self.strays(edition, now) {
            is_late |= now.duration_since(edition.since) > allowed;
            moving.push(format!("{} has an earlier version, and is waited for until it ends", pod.title()));
        }
        self.is_late = is_late;
        if !failing.is_empty() {
            return Reach::Failing(failing);
        }
        if moving.is_empty() { Reach::Moved } else { Reach::Moving(moving.join("; ")) }
    }

    /// Pods that read the Secret, have something earlier and are of none of the workloads: of a Job, or nobody's.
    fn strays(&self, edition: Edition, now: Timestamp) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(move |pod| {
            self.discovers
                && pod.refers.way >= Reference::Environment
                && !pod.is_over
                && pod.may_work(now)
                && !pod.has(edition.seen_by(pod.refers.way))
                && !self.workloads.iter().any(|workload| workload.owns(pod))
        })
    }

    /// The versions whose own Secrets somebody needs.
    pub(crate) fn frozen_in_use(&self) -> BTreeSet<Version> {
        let pods = self.pods.values().filter(|pod| !pod.is_over);
        pods.flat_map(|pod| &pod.refers.versions).chain(&self.in_templates).copied().collect()
    }

    /// The pods at these addresses.
    pub(crate) fn at(&self, addresses: &BTreeSet<String>) -> BTreeMap<String, String> {
        let at = self.pods.values().flat_map(|pod| pod.addresses.iter().map(move |address| (address, pod)));
        let asked = at.filter(|(address, _)| addresses.contains(*address));
        asked.map(|(address, pod)| (address.clone(), pod.title())).collect()
    }

    /// Those that are not well as they are.
    pub(crate) fn ailing(&self) -> Vec<String> {
        let ailing = self.workloads.iter().filter(|workload| {
            let pods: Vec<&Pod> = self.pods_of(workload).collect();
            !workload.is_well(&pods)
        });
        ailing.map(|workload| self.label(workload)).collect()
    }

    /// Names a workload among all of all clusters.
    fn label(&self, workload: &Workload) -> String {
        let WorkloadName { kind, name } = &workload.name;
        format!("{kind} {}:{}/{name}", self.cluster, self.namespace)
    }

    fn pods_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Pod> {
        self.pods.values().filter(|pod| workload.owns(pod))
    }
}

fn resource(kind: WorkloadKind) -> ApiResource {
    let (group, version) = workload::api_of(kind);
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind.as_str()))
}

fn api(client: &Client, namespace: &str, kind: WorkloadKind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

/// All of a kind; none where the cluster does not have it.
async fn list(client: &Client, namespace: &str, kind: WorkloadKind) -> Result<Vec<DynamicObject>, Failure> {
    match api(client, namespace, kind).list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.code == 404 && kind == WorkloadKind::Rollout => {
            Ok(Vec::new())
        }
        Err(error) => Err(failure(&error, &format!("list {kind}s in namespace {namespace}"))),
    }
}

/// What restarts of a namespace are held against, of one kind.
async fn limits<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
) -> Result<Vec<DynamicObject>, Failure> {
    let resource = ApiResource::erase::<K>(&());
    let all: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let listed = all.list(&ListParams::default()).await;
    let doing = || format!("list {}s in namespace {namespace}", resource.kind);
    listed.map(|list| list.items).map_err(|error| failure(&error, &doing()))
}

async fn list_pods(client: &Client, namespace: &str) -> Result<ObjectList<shape::Pod>, Failure> {
    let pods: Api<shape::Pod> = Api::namespaced_with(client.clone(), namespace, &shape::pods());
    let listed = pods.list(&ListParams::default()).await;
    listed.map_err(|error| failure(&error, &format!("list Pods in namespace {namespace}")))
}
