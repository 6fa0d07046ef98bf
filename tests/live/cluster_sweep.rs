//! Every fault point on the way to a cluster's readers, disturbed in every way, on a real API server with real pods.
//!
//! `REKEYD_SWEEP=reach` runs the cases whose names hold that text.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use rekeyd::proving::point::POINTS;
use rustix::process::Signal;
use serde_json::json;

use crate::cluster::{SECRET, delivered, told, version_of};
use crate::figures;
use crate::installation::read;
use crate::kubernetes::{Namespace, idle};
use crate::site::*;

/// Calls, each disturbed in every way.
const CALLS: [&str; 9] = [
    "open/consumer.rehearse",
    "publish/consumer.publish",
    "restart/consumer.reload",
    "converge/consumer.publish",
    "converge/consumer.reload",
    "converge/consumer.reach",
    "retire/consumer.publish",
    "retire/consumer.reload",
    "retire/consumer.reach",
];

const AT_A_CALL: [&str; 7] = ["killBefore", "killAfter", "error", "late", "twice", "stop", "down60"];

/// Between two writes.
const BETWEEN: [&str; 2] = ["killBefore", "stop"];

/// Played by tests that have what they need: a GitOps repository, a value that is taken back, a daemon.
pub(crate) const ELSEWHERE: [&str; 7] = [
    "kubernetes.restart.committed",
    "kubernetes.restart.pushed",
    "kubernetes.pod.evicted",
    "kubernetes.lease.taken",
    "kubernetes.status.written",
    "kubernetes.status.answered",
    "kubernetes.token.secret",
];

/// So many cases are played at once; those that only wait for a minute come on top.
const AT_ONCE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    point: &'static str,
    deed: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.point, self.deed)
    }
}

impl Case {
    /// Whether its policy has a canary pod, and a Secret of its own for each version.
    fn has_everything(self) -> bool {
        ["kubernetes.secret.frozen", "kubernetes.secret.deleted"].contains(&self.point)
            || self.point.starts_with("kubernetes.canary.")
    }

    fn kills(self) -> bool {
        self.deed.starts_with("kill")
    }

    /// Somebody deletes the Secret while the process stands still here.
    fn halt(self) -> Option<&'static str> {
        (self.point == "converge/consumer.reload").then_some("converge/consumer.publish")
    }
}

fn cases() -> Vec<Case> {
    let is_here = |name: &&str| name.starts_with("kubernetes.") && !ELSEWHERE.contains(name);
    let of_a_cluster = POINTS.iter().map(|point| point.name).filter(is_here);
    let between = of_a_cluster.flat_map(|point| BETWEEN.map(|deed| Case { point, deed }));
    let calls = CALLS.iter().flat_map(|point| AT_A_CALL.map(|deed| Case { point, deed }));
    let asked = figures::asked("REKEYD_SWEEP");
    let wanted = |case: &Case| asked.as_ref().is_none_or(|text| case.to_string().contains(text.as_str()));
    calls.chain(between).filter(wanted).collect()
}

/// A policy whose value goes to a Secret that one Deployment reads.
struct Stage {
    space: Namespace,
    site: Site,
}

impl Stage {
    async fn new(case: Case) -> Self {
        let (_, space, site) = delivered().await;
        if case.has_everything() {
            site.at.change_policy(NAME, |policy| {
                let kubernetes = &mut policy["spec"]["consumers"][0]["kubernetes"];
                kubernetes["immutable"] = json!(true);
                kubernetes["workloads"]["canaryPod"] = json!({"kind": "Deployment", "name": "app"});
            });
        }
        space.create(&idle("Deployment", "app", 1, SECRET)).await;
        space.rolled_out("deployment/app").await;
        site.at.run(&["rotate", POLICY]).await.ended(0);
        Self { space, site }
    }

    async fn version(&self) -> i64 {
        let secret = self.space.read(&format!("secret/{SECRET}")).await;
        let version = secret["metadata"]["annotations"]["rekeyd.dev/version"].as_str().expect("a version");
        version.parse().expect("a number")
    }

    async fn play(&self, case: Case) {
        let Self { space, site } = self;
        let (old, before) = (space.credential(SECRET).await, self.version().await);
        let (_, changes) = told(space, "deployment/app").await;
        let records = site.records().await.len();
        if case.point == "kubernetes.secret.made" {
            space.kubectl(&["delete", "secret", SECRET]).await;
        }
        let log = site.at.path("reached");
        let _ = std::fs::remove_file(&log);
        let halt = case.halt().map(|at| format!("{at}#1=stop,")).unwrap_or_default();
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{halt}{}#1={}", case.point, case.deed));
        command.env("REKEYD_REACHED", &log);
        let running = site.at.spawn(command);
        if case.halt().is_some() {
            assert!(running.stands_still().await, "it does not get to where it is to stand still");
            space.kubectl(&["delete", "secret", SECRET]).await;
            running.signal(Signal::CONT);
        }
        if case.deed == "stop" && running.stands_still().await {
            // Somebody else does what is left, as far as there is something.
            site.at.run(&["resume", POLICY]).await;
            running.signal(Signal::CONT);
        }
        let ended = running.end().await;
        assert!(read(&log).lines().any(|line| line == case.point), "it does not get there: {ended}");
        assert!(!case.kills() || ended.code.is_none(), "it is not killed: {ended}");
        if site.candidate().await.is_none() && site.records().await.len() == records {
            // It came before anything was opened.
            site.at.run(&["rotate", POLICY]).await.ended(0);
        } else if site.candidate().await.is_some() {
            site.at.run(&["resume", POLICY]).await.ended(0);
        }
        self.at_rest(case, before, changes, records).await;
        assert!(!site.accepts(&old).await, "I5: the old value works");
    }

    async fn at_rest(&self, case: Case, before: i64, changes: i64, records: usize) {
        let Self { space, site } = self;
        assert!(site.candidate().await.is_none(), "I7: a rotation is open");
        let current = space.credential(SECRET).await;
        assert_eq!(site.stored().await.as_ref(), Some(&current), "I7: the store and the Secret differ");
        assert!(site.accepts(&current).await, "I2: the value in force is refused");
        let version = self.version().await;
        let (said, now) = told(space, "deployment/app").await;
        assert_eq!(said, Some(version.to_string()), "its template is not of the version in force");
        assert_eq!(now - changes, version - before, "restarted more or less than once for a version");
        let log = site.records().await;
        assert!(log.iter().all(|record| record["outcome"] == "rotated"), "I6: {log:#?}");
        let closed = i64::try_from(log.len() - records).expect("a number");
        assert_eq!(closed, version - before, "I6: not one record for a version");
        let pods = space.pods("app=app").await;
        assert_eq!(pods.len(), 1, "{pods:#?}");
        assert_eq!(version_of(&pods[0]), Some(version.to_string().as_str()));
        if case.has_everything() {
            let names = space.kubectl(&["get", "secrets", "-o", "jsonpath={.items[*].metadata.name}"]).await;
            let own = format!("{SECRET}-v{version}");
            assert_eq!(names.split(' ').collect::<Vec<_>>(), [SECRET, &own], "Secrets are left or missing");
        }
    }
}

/// What there is to play, and what came of it.
#[derive(Default)]
struct Sweep {
    queue: Mutex<VecDeque<Case>>,
    violations: Mutex<BTreeMap<String, String>>,
    /// Taken down when all is over: dropping a database waits for logins that are under way, and those of the
    /// other stages go on by the same thread.
    stages: Mutex<Vec<Arc<Stage>>>,
}

impl Sweep {
    /// Plays cases until there are no more, on one stage as long as nothing is wrong.
    async fn work(&self) {
        let mut stage: Option<(bool, Arc<Stage>)> = None;
        loop {
            let Some(case) = self.queue.lock().expect("no panic").pop_front() else { return };
            let played = AssertUnwindSafe(async {
                let at = match stage.take() {
                    Some((kind, at)) if kind == case.has_everything() => at,
                    _ => Arc::new(Stage::new(case).await),
                };
                self.stages.lock().expect("no panic").push(Arc::clone(&at));
                at.play(case).await;
                at
            });
            match played.catch_unwind().await {
                Ok(at) => stage = Some((case.has_everything(), at)),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let said = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    let mut violations = self.violations.lock().expect("no panic");
                    violations.insert(case.to_string(), said.unwrap_or_default());
                }
            }
        }
    }

    /// Plays one case on a stage of its own.
    async fn alone(&self, case: Case) {
        let one = Self { queue: Mutex::new([case].into()), ..Self::default() };
        one.work().await;
        let Self { violations, stages, .. } = one;
        self.violations.lock().expect("no panic").extend(violations.into_inner().expect("no panic"));
        self.stages.lock().expect("no panic").extend(stages.into_inner().expect("no panic"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_on_the_way_to_readers_breaks_an_invariant() {
    let cases = cases();
    let total = cases.len();
    let (waiting, busy): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.deed == "down60");
    let sweep = Sweep { queue: Mutex::new(busy.into()), ..Sweep::default() };
    let workers = stream::iter(0..AT_ONCE).map(|_| sweep.work()).buffer_unordered(AT_ONCE);
    let waiters = stream::iter(waiting).map(|case| sweep.alone(case)).buffer_unordered(CALLS.len());
    tokio::join!(workers.collect::<Vec<()>>(), waiters.collect::<Vec<()>>());
    let Sweep { violations, stages, .. } = sweep;
    let violations = violations.into_inner().expect("no panic");
    drop(stages);
    println!("{total} cases, {} violations", violations.len());
    for (case, violation) in &violations {
        println!("VIOLATED {case}: {violation}");
    }
    if figures::asked("REKEYD_SWEEP").is_none() {
        figures::write("sweep-cluster", &json!({"cases": total, "violations": violations.len()}));
    }
    assert!(violations.is_empty(), "{} cases break an invariant", violations.len());
}
