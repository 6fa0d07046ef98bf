//! How many workloads restart at once, and which restarts become one.
//!
//! Shared by everything that one process does. A workload has a turn from its restart until its pods have
//! moved; what runs already after a crash has one whether there is room or not. Policies that touch the same
//! workload announce that when they open, and whoever would restart it first waits until the others' Secrets are
//! written: one change of the template then restarts it for all of them. A policy that is just being looked at may
//! be about to open, and is waited for, too, in the namespaces of its readers. Who came first has the first turn,
//! also where a smaller one would fit in before it. One that does not come to an end in time gives its turn up.
//!
//! Nothing here is durable and nothing rests on it: without it workloads restart one time more, or more of them
//! at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::quota::Amounts;
use super::reference::Names;
use crate::ident::{DnsLabel, ObjectName, PolicyName, Version};
use crate::policy::spec::{ConsumerSpec, WorkloadName};
use crate::settings::LimitSettings;

/// So long a restart waits for others that were announced.
const COMPANY: Duration = Duration::from_secs(30);

/// Lets workloads restart.
pub(crate) struct Governor {
    rollouts: usize,
    pods: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Workloads that restart now.
    rolling: HashMap<Site, Rolling>,
    /// What policies will write into a workload's template, by annotation.
    intents: HashMap<Site, BTreeMap<String, (Names, Intent)>>,
    /// Secrets whose policies may be about to open a rotation, by cluster and namespace.
    expected: HashMap<(DnsLabel, String), Vec<Coming>>,
    guards: u64,
    /// Workloads that asked for a turn and had to wait, by when they first did.
    queue: BTreeMap<u64, Waiting>,
    arrivals: u64,
    /// How often templates of workloads that have not moved were given a version, by annotation.
    written: HashMap<(Site, String), (Version, usize)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Waiting {
    site: Site,
    pods: usize,
    /// Forgotten with whoever asked.
    by: String,
}

struct Coming {
    /// Several may look at one policy.
    guard: u64,
    policy: PolicyName,
    secret: ObjectName,
    at: Instant,
}

impl State {
    /// Whether a workload may begin: it fits, and nobody waits for longer who does not.
    fn admits(&mut self, governor: &Governor, candidate: Waiting) -> bool {
        if self.rolling.contains_key(&candidate.site) {
            return true;
        }
        let restarting: usize = self.rolling.values().map(|rolling| rolling.room.pods).sum();
        let rolling = self.rolling.len();
        let fits = |pods: usize| {
            // One that has more pods than may ever restart goes alone.
            rolling == 0 || (rolling < governor.rollouts && restarting + pods <= governor.pods)
        };
        let place = self.queue.iter().find(|(_, waiting)| **waiting == candidate).map(|(place, _)| *place);
        let mut before = self.queue.range(..place.unwrap_or(u64::MAX));
        let is_first = before.all(|(_, waiting)| waiting.site == candidate.site);
        if fits(candidate.pods) && is_first {
            if let Some(place) = place {
                self.queue.remove(&place);
            }
            return true;
        }
        if place.is_none() {
            self.queue.insert(self.arrivals, candidate);
            self.arrivals += 1;
        }
        false
    }

    /// Whether a policy with readers beside a workload may be about to open a rotation.
    fn expects(&self, site: &Site) -> bool {
        let place = (site.cluster.clone(), site.namespace.clone());
        self.expected.get(&place).is_some_and(|coming| coming.iter().any(|one| one.at.elapsed() < COMPANY))
    }

    /// These are expected no longer.
    fn arrive(&mut self, place: &(DnsLabel, String), is_there: impl Fn(&Coming) -> bool) {
        if let Some(coming) = self.expected.get_mut(place) {
            coming.retain(|one| !is_there(one));
            if coming.is_empty() {
                self.expected.remove(place);
            }
        }
    }

    fn forget(&mut self, site: &Site, by: &str) {
        self.queue.retain(|_, waiting| waiting.site != *site || waiting.by != by);
    }
}

/// What a restart needs room for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Room {
    /// So many pods restart.
    pub(super) pods: usize,
    /// So many of them are away at once.
    pub(super) takes: i64,
    /// So many more are made before one of them goes.
    pub(super) adds: i64,
    /// What each counts for in a quota.
    pub(super) needs: Amounts,
    /// What they are labelled with.
    pub(super) labels: BTreeMap<String, String>,
}

struct Rolling {
    room: Room,
    /// Two policies may wait for one restart.
    turns: usize,
}

#[derive(Debug, Clone, Copy)]
enum Intent {
    /// Its Secret is not written yet.
    Announced(Instant),
    /// Since when this version is.
    Ready(Version, Instant),
}

impl Intent {
    /// A version is written.
    fn ready(self, version: Version) -> Self {
        match self {
            Self::Ready(before, since) if before == version => Self::Ready(version, since),
            _ => Self::Ready(version, Instant::now()),
        }
    }
}

/// A workload among all of all clusters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Site {
    cluster: DnsLabel,
    namespace: String,
    workload: WorkloadName,
}

impl Governor {
    pub(crate) fn new(limits: LimitSettings) -> Self {
        Self {
            rollouts: usize::from(limits.rollouts),
            pods: usize::from(limits.restarting_pods),
            state: Mutex::default(),
        }
    }

    /// A policy is looked at, and may open a rotation. `None` where no workload reads its values.
    pub(crate) fn expect(
        self: &Arc<Self>,
        policy: &PolicyName,
        consumers: &[ConsumerSpec],
    ) -> Option<Expected> {
        let secrets = consumers.iter().filter_map(|consumer| match consumer {
            ConsumerSpec::Kubernetes(spec) => {
                Some(((spec.cluster.clone(), spec.namespace.as_ref()?.to_string()), spec.secret.clone()))
            }
            _ => None,
        });
        let mut state = self.state();
        let (guard, at) = (state.guards, Instant::now());
        state.guards += 1;
        let mut places = Vec::new();
        for (place, secret) in secrets {
            let coming = Coming { guard, policy: policy.clone(), secret, at };
            state.expected.entry(place.clone()).or_default().push(coming);
            places.push(place);
        }
        (!places.is_empty()).then(|| Expected { governor: Arc::clone(self), guard, places })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A policy that may be about to open a rotation. It is expected no longer once its rotation has announced itself,
/// or when this is dropped.
pub struct Expected {
    governor: Arc<Governor>,
    guard: u64,
    places: Vec<(DnsLabel, String)>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.governor.state();
        self.places.iter().for_each(|place| state.arrive(place, |one| one.guard == self.guard));
    }
}

/// What the readers of one Secret have asked of the governor. Given back when dropped.
pub(crate) struct Turns {
    governor: Arc<Governor>,
    cluster: DnsLabel,
    namespace: String,
    names: Names,
    held: Mutex<BTreeMap<WorkloadName, Held>>,
    /// Who was said to wait.
    told: Mutex<BTreeSet<WorkloadName>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    announced: bool,
    /// Since when it restarts.
    began: Option<Instant>,
    /// Its turn is over, whatever becomes of it.
    gave_up: bool,
}

/// Why a workload is not restarted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// A disruption budget or a quota, in words.
    Limit(String),
    /// Another Secret of it is about to be written.
    Company,
    /// So many restart already.
    Turn(usize),
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Limit(why) => f.write_str(why),
            Self::Company => f.write_str("waits for another Secret of it, to restart once for both"),
            Self::Turn(rolling) => write!(f, "waits for its turn, {rolling} workloads restart now"),
        }
    }
}

impl Turns {
    pub(crate) fn new(governor: Arc<Governor>, cluster: DnsLabel, namespace: String, names: Names) -> Self {
        Self { governor, cluster, namespace, names, held: Mutex::default(), told: Mutex::default() }
    }

    fn site(&self, workload: &WorkloadName) -> Site {
        let (cluster, namespace) = (self.cluster.clone(), self.namespace.clone());
        Site { cluster, namespace, workload: workload.clone() }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<WorkloadName, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The restarts for a policy's version of the Secret are announced.
    pub(crate) fn arrive(&self, policy: &PolicyName) {
        let place = (self.cluster.clone(), self.namespace.clone());
        let is_this = |one: &Coming| one.policy == *policy && one.secret == self.names.secret;
        self.governor.state().arrive(&place, is_this);
    }

    /// A version of the Secret will be written that this workload restarts for.
    pub(super) fn announce(&self, workload: &WorkloadName) {
        self.held().entry(workload.clone()).or_default().announced = true;
        let mut state = self.governor.state();
        let intents = state.intents.entry(self.site(workload)).or_default();
        let announced = || (self.names.clone(), Intent::Announced(Instant::now()));
        intents.entry(self.names.annotation.clone()).or_insert_with(announced);
    }

    /// The version is written that was announced: nobody waits for it any more.
    pub(super) fn written(&self, workload: &WorkloadName, version: Version) {
        let mut state = self.governor.state();
        let intents = state.intents.get_mut(&self.site(workload));
        if let Some((_, intent)) = intents.and_then(|intents| intents.get_mut(&self.names.annotation)) {
            *intent = intent.ready(version);
        }
    }

    /// Lets a workload of so many pods restart for a version that is written: everything that its template is to
    /// say of Secrets that are. An urgent one waits for nobody. `limits` says why it is not to begin
    /// beside those that restart in its namespace.
    pub(super) fn enter(
        &self,
        workload: &WorkloadName,
        version: Version,
        room: &Room,
        is_urgent: bool,
        limits: impl FnOnce(&[(&WorkloadName, &Room)]) -> Option<String>,
    ) -> Result<Vec<(Names, Version)>, Wait> {
        let site = self.site(workload);
        let mut held = self.held();
        let held = held.entry(workload.clone()).or_default();
        held.announced = true;
        let mut state = self.governor.state();
        let intents = state.intents.entry(site.clone()).or_default();
        let announced = (self.names.clone(), Intent::Announced(Instant::now()));
        let (_, own) = intents.entry(self.names.annotation.clone()).or_insert(announced);
        *own = own.ready(version);
        // Whoever else comes all the time: a version waits for so long, once.
        let has_waited = matches!(own, Intent::Ready(_, since) if since.elapsed() >= COMPANY);
        let is_awaited = |(_, intent): &&(Names, Intent)| matches!(intent, Intent::Announced(at) if at.elapsed() < COMPANY);
        // What comes into the template on another way is another change of it.
        let alike = || intents.values().filter(|(names, _)| names.declared_in == self.names.declared_in);
        let has_company = alike().any(|intent| is_awaited(&intent));
        let ready = alike().filter_map(|(names, intent)| match intent {
            Intent::Ready(version, _) => Some((names.clone(), *version)),
            Intent::Announced(_) => None,
        });
        let ready: Vec<_> = ready.collect();
        if !is_urgent && !has_waited && (has_company || state.expects(&site)) {
            return Err(Wait::Company);
        }
        let beside = state.rolling.iter().filter(|(other, _)| {
            **other != site && other.cluster == site.cluster && other.namespace == site.namespace
        });
        let beside: Vec<_> = beside.map(|(other, rolling)| (&other.workload, &rolling.room)).collect();
        if let Some(why) = limits(&beside).filter(|_| !is_urgent) {
            // Others need not wait behind one that could not begin with any turn.
            state.forget(&site, &self.names.annotation);
            return Err(Wait::Limit(why));
        }
        let candidate = Waiting { site: site.clone(), pods: room.pods, by: self.names.annotation.clone() };
        if !is_urgent && !state.admits(&self.governor, candidate) {
            return Err(Wait::Turn(state.rolling.len()));
        }
        state.forget(&site, &self.names.annotation);
        roll(&mut state, held, site, room);
        Ok(ready)
    }

    /// A workload's template was given a version.
    pub(super) fn wrote(&self, workload: &WorkloadName, version: Version) {
        let times = self.writes(workload, version) + 1;
        self.governor.state().written.insert(self.place(workload), (version, times));
    }

    /// How often a workload's template was given a version since it last had moved, as far as this process did it,
    /// whoever drove the rotation.
    pub(super) fn writes(&self, workload: &WorkloadName, version: Version) -> usize {
        let written = self.governor.state().written.get(&self.place(workload)).copied();
        written.filter(|(of, _)| *of == version).map_or(0, |(_, times)| times)
    }

    fn place(&self, workload: &WorkloadName) -> (Site, String) {
        (self.site(workload), self.names.annotation.clone())
    }

    /// A workload restarts, whether there is room or not.
    pub(super) fn rolls(&self, workload: &WorkloadName, room: &Room) {
        let site = self.site(workload);
        let mut held = self.held();
        roll(&mut self.governor.state(), held.entry(workload.clone()).or_default(), site, room);
    }

    /// A workload's restart is under way from now on, however long it took to get there.
    pub(super) fn begins(&self, workload: &WorkloadName) {
        if let Some(held) = self.held().get_mut(workload) {
            held.began = held.began.map(|_| Instant::now());
        }
    }

    /// When a workload began to restart, as far as this process saw it.
    pub(super) fn began(&self, workload: &WorkloadName, now: Timestamp) -> Option<Timestamp> {
        let began = self.held().get(workload)?.began?;
        now.checked_sub(SignedDuration::try_from(began.elapsed()).ok()?).ok()
    }

    /// A workload has had the time it was given: the others wait for it no longer.
    pub(super) fn give_up(&self, workload: &WorkloadName) {
        let mut held = self.held();
        let Some(held) = held.get_mut(workload) else { return };
        if held.began.is_some() && !std::mem::replace(&mut held.gave_up, true) {
            end(&mut self.governor.state(), &self.site(workload));
        }
    }

    /// Notes who is said to wait; whether that is news.
    pub(super) fn tell(&self, waiting: BTreeSet<WorkloadName>) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *told, waiting.clone()) != waiting
    }

    /// A workload has moved, or has nothing to do.
    pub(super) fn leave(&self, workload: &WorkloadName) {
        self.governor.state().written.remove(&self.place(workload));
        let Some(held) = self.held().remove(workload) else { return };
        self.give_back(workload, held);
    }

    fn give_back(&self, workload: &WorkloadName, held: Held) {
        let site = self.site(workload);
        let mut state = self.governor.state();
        state.forget(&site, &self.names.annotation);
        if held.announced
            && let Some(intents) = state.intents.get_mut(&site)
        {
            intents.remove(&self.names.annotation);
            if intents.is_empty() {
                state.intents.remove(&site);
            }
        }
        if held.began.is_some() && !held.gave_up {
            end(&mut state, &site);
        }
    }
}

fn roll(state: &mut State, held: &mut Held, site: Site, room: &Room) {
    if held.began.is_none() {
        held.began = Some(Instant::now());
        let rolling = || Rolling { room: room.clone(), turns: 0 };
        state.rolling.entry(site).or_insert_with(rolling).turns += 1;
    }
}

fn end(state: &mut State, site: &Site) {
    if let Some(rolling) = state.rolling.get_mut(site) {
        rolling.turns -= 1;
        if rolling.turns == 0 {
            state.rolling.remove(site);
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        for (workload, held) in std::mem::take(&mut *self.held()) {
            self.give_back(&workload, held);
        }
    }
}

#[cfg(test)]
mod tests;
