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
        let restarting: usize = self.rolling.values().map(|rolling| rolling.pods).sum();
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

#[derive(Clone, Copy)]
struct Rolling {
    pods: usize,
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
            ConsumerSpec::File(_) => None,
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
    /// Another Secret of it is about to be written.
    Company,
    /// So many restart already.
    Turn(usize),
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
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
    /// say of Secrets that are. An urgent one waits for nobody.
    pub(super) fn enter(
        &self,
        workload: &WorkloadName,
        version: Version,
        pods: usize,
        is_urgent: bool,
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
        let candidate = Waiting { site: site.clone(), pods, by: self.names.annotation.clone() };
        if !is_urgent && !state.admits(&self.governor, candidate) {
            return Err(Wait::Turn(state.rolling.len()));
        }
        state.forget(&site, &self.names.annotation);
        roll(&mut state, held, site, pods);
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
    pub(super) fn rolls(&self, workload: &WorkloadName, pods: usize) {
        let site = self.site(workload);
        let mut held = self.held();
        roll(&mut self.governor.state(), held.entry(workload.clone()).or_default(), site, pods);
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

fn roll(state: &mut State, held: &mut Held, site: Site, pods: usize) {
    if held.began.is_none() {
        held.began = Some(Instant::now());
        state.rolling.entry(site).or_insert(Rolling { pods, turns: 0 }).turns += 1;
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::spec::WorkloadKind;

    const V2: Version = Version::new(2);
    const V7: Version = Version::new(7);

    fn governor(rollouts: u16, restarting_pods: u16) -> Arc<Governor> {
        Arc::new(Governor::new(LimitSettings { rollouts, restarting_pods, ..LimitSettings::default() }))
    }

    fn turns(governor: &Arc<Governor>, secret: &str) -> Turns {
        let cluster = "main".parse().expect("a name");
        Turns::new(Arc::clone(governor), cluster, "orders".into(), names(secret))
    }

    fn names(secret: &str) -> Names {
        Names::new(&secret.parse().expect("a name"), false)
    }

    fn app(name: &str) -> WorkloadName {
        WorkloadName { kind: WorkloadKind::Deployment, name: name.parse().expect("a name") }
    }

    #[tokio::test]
    async fn no_more_restart_at_once_than_may() {
        let governor = governor(2, 10);
        let turns = turns(&governor, "db");
        assert!(turns.enter(&app("a"), V2, 3, false).is_ok());
        assert!(turns.enter(&app("b"), V2, 3, false).is_ok());
        assert_eq!(turns.enter(&app("c"), V2, 3, false), Err(Wait::Turn(2)));
        // Who restarts already has its turn, and what is urgent does not wait.
        assert!(turns.enter(&app("a"), V2, 3, false).is_ok());
        assert!(turns.enter(&app("d"), V2, 3, true).is_ok());
        turns.leave(&app("d"));
        turns.leave(&app("a"));
        assert!(turns.enter(&app("c"), V2, 3, false).is_ok());
    }

    #[tokio::test]
    async fn pods_count_and_one_workload_may_have_more_than_all() {
        let governor = governor(9, 10);
        let turns = turns(&governor, "db");
        assert!(turns.enter(&app("large"), V2, 100, false).is_ok());
        assert_eq!(turns.enter(&app("small"), V2, 1, false), Err(Wait::Turn(1)));
        turns.leave(&app("large"));
        assert!(turns.enter(&app("small"), V2, 6, false).is_ok());
        assert_eq!(turns.enter(&app("other"), V2, 6, false), Err(Wait::Turn(1)));
        drop(turns);
        assert!(self::turns(&governor, "db").enter(&app("other"), V2, 6, false).is_ok());
    }

    #[tokio::test]
    async fn who_came_first_has_the_first_turn() {
        let governor = governor(9, 10);
        let turns = turns(&governor, "db");
        assert!(turns.enter(&app("a"), V2, 4, false).is_ok());
        assert_eq!(turns.enter(&app("large"), V2, 9, false), Err(Wait::Turn(1)));
        assert_eq!(turns.enter(&app("small"), V2, 1, false), Err(Wait::Turn(1)), "it came later");
        turns.leave(&app("a"));
        assert_eq!(turns.enter(&app("small"), V2, 1, false), Err(Wait::Turn(0)));
        assert!(turns.enter(&app("large"), V2, 9, false).is_ok());
        assert!(turns.enter(&app("small"), V2, 1, false).is_ok());
        // Who went away is waited for by nobody.
        let others = self::turns(&governor, "others");
        assert_eq!(others.enter(&app("huge"), V2, 99, false), Err(Wait::Turn(2)));
        turns.leave(&app("small"));
        assert_eq!(turns.enter(&app("b"), V2, 1, false), Err(Wait::Turn(1)));
        drop(others);
        assert!(turns.enter(&app("b"), V2, 1, false).is_ok());
    }

    #[tokio::test]
    async fn what_does_not_end_in_time_gives_its_turn_up() {
        let governor = governor(1, 10);
        let turns = turns(&governor, "db");
        assert!(turns.enter(&app("stuck"), V2, 1, false).is_ok());
        assert_eq!(turns.enter(&app("b"), V2, 1, false), Err(Wait::Turn(1)));
        turns.give_up(&app("stuck"));
        turns.give_up(&app("stuck"));
        assert!(turns.enter(&app("b"), V2, 1, false).is_ok());
        // It does not come back by being looked at, and leaves nothing behind.
        turns.rolls(&app("stuck"), 1);
        turns.leave(&app("b"));
        turns.leave(&app("stuck"));
        assert!(governor.state().rolling.is_empty() && governor.state().intents.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_be_about_to_open_beside_it_is_waited_for() {
        let governor = governor(9, 10);
        let (one, other) = (turns(&governor, "one"), turns(&governor, "other"));
        let policy: PolicyName = "orders/other".parse().expect("a name");
        let spec = json!({"kubernetes": {"namespace": "orders", "secret": "other"}});
        let reader: ConsumerSpec = serde_json::from_value(spec).expect("a consumer");
        let abroad = json!({"kubernetes": {"namespace": "abroad", "secret": "other"}});
        let abroad: ConsumerSpec = serde_json::from_value(abroad).expect("a consumer");

        let expected = governor.expect(&policy, std::slice::from_ref(&reader));
        assert_eq!(one.enter(&app("a"), V2, 1, false), Err(Wait::Company));
        assert!(one.enter(&app("urgent"), V2, 1, true).is_ok());
        other.announce(&app("b"));
        other.arrive(&policy);
        assert!(one.enter(&app("a"), V2, 1, false).is_ok());
        assert_eq!(one.enter(&app("b"), V2, 1, false), Err(Wait::Company));
        drop(expected);

        // Neither one that comes to nothing, nor one that never comes to anything, nor one elsewhere.
        drop(governor.expect(&policy, std::slice::from_ref(&reader)));
        assert!(one.enter(&app("c"), V2, 1, false).is_ok());
        let elsewhere = governor.expect(&policy, &[abroad]);
        assert!(one.enter(&app("d"), V2, 1, false).is_ok());
        drop(elsewhere);
        let hangs = governor.expect(&policy, std::slice::from_ref(&reader));
        assert_eq!(one.enter(&app("e"), V2, 1, false), Err(Wait::Company));
        tokio::time::advance(COMPANY).await;
        assert!(one.enter(&app("e"), V2, 1, false).is_ok());
        // Two look at it, and one comes to nothing; its other Secret is still to come, too.
        let third: ConsumerSpec =
            serde_json::from_value(json!({"kubernetes": {"namespace": "orders", "secret": "third"}}))
                .expect("a consumer");
        let looks = [
            governor.expect(&policy, std::slice::from_ref(&reader)),
            governor.expect(&policy, &[reader.clone(), third]),
        ];
        let [first, second] = looks;
        drop(first);
        assert_eq!(one.enter(&app("f"), V2, 1, false), Err(Wait::Company));
        other.arrive(&policy);
        assert_eq!(one.enter(&app("f"), V2, 1, false), Err(Wait::Company));
        // One that comes to nothing again and again holds a version back once.
        tokio::time::advance(COMPANY).await;
        let again = governor.expect(&policy, &[reader]);
        assert_eq!(one.enter(&app("g"), V2, 1, false), Err(Wait::Company));
        assert!(one.enter(&app("f"), V2, 1, false).is_ok());
        drop((second, hangs, again));
        assert!(governor.state().expected.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn two_secrets_of_one_workload_are_one_restart() {
        let governor = governor(9, 10);
        let (one, other) = (turns(&governor, "one"), turns(&governor, "other"));
        one.announce(&app("a"));
        other.announce(&app("a"));
        assert_eq!(one.enter(&app("a"), V2, 1, false), Err(Wait::Company));
        let both = vec![(names("one"), V2), (names("other"), V7)];
        assert_eq!(other.enter(&app("a"), V7, 1, false), Ok(both.clone()));
        assert_eq!(one.enter(&app("a"), V2, 1, false), Ok(both));
        // Who never comes is not waited for for ever, and who gave up not at all.
        let third = turns(&governor, "third");
        third.announce(&app("b"));
        assert_eq!(one.enter(&app("b"), V2, 1, false), Err(Wait::Company));
        tokio::time::advance(COMPANY).await;
        assert_eq!(one.enter(&app("b"), V2, 1, false), Ok(vec![(names("one"), V2)]));
        third.announce(&app("c"));
        assert_eq!(one.enter(&app("c"), V2, 1, false), Err(Wait::Company));
        drop(third);
        assert!(one.enter(&app("c"), V2, 1, false).is_ok());
    }
}
