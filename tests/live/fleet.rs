//! Many policies and many workloads at once: no more restart at a time than may, each once, and of those that share a
//! disruption budget one after the other. Every change that the API server made is judged.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::cluster::prepared;
use crate::kubernetes::{Namespace, PATIENCE, idle};
use crate::site::*;
use crate::story::{Change, Story};

const POLICIES: usize = 50;
const WORKLOADS: usize = 30;

/// Each workload has so many.
const PODS: usize = 2;

/// So many restart at once.
const ROLLOUTS: usize = 3;

/// The first of the workloads share a budget with others. There are fewer such budgets than turns, so that only the
/// budgets keep them from restarting at once.
const SHARING: usize = 8;
const SHARED: usize = 2;

fn policy(number: usize, space: &Namespace) -> Value {
    json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
        "metadata": {"name": format!("key-{number}"), "namespace": "fleet"},
        "spec": {
            "target": {"generated": {}},
            "store": {"name": "main", "path": format!("fleet/key-{number}")},
            "consumers": [{"kubernetes": {
                "namespace": space.name, "secret": format!("key-{number}"),
                "data": {"username": "app", "password": "{{ value }}"},
                "workloads": {"settle": "0s"},
            }}],
        },
    })
}

/// A workload that reads one Secret, or two.
fn workload(number: usize) -> Value {
    let mut object = idle("Deployment", &format!("app-{number}"), PODS as u32, &format!("key-{number}"));
    let budget = Budget::of(number);
    // Those that share one have a pod go before another comes, so that each takes away all that it spares.
    let strategy = json!({"maxUnavailable": budget.spares, "maxSurge": 1 - budget.spares});
    object["spec"]["strategy"] = json!({"rollingUpdate": strategy});
    object["spec"]["template"]["metadata"]["labels"]["budget"] = json!(budget.name);
    if number + WORKLOADS < POLICIES {
        let second =
            json!({"prefix": "second_", "secretRef": {"name": format!("key-{}", number + WORKLOADS)}});
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        container["envFrom"].as_array_mut().expect("a list").push(second);
    }
    object
}

/// A disruption budget: of several workloads together, or of one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Budget {
    name: String,
    pods: usize,
    /// So many of them may be away at once.
    spares: usize,
}

impl Budget {
    /// The one that counts a workload's pods.
    fn of(number: usize) -> Self {
        if number < SHARING {
            let name = format!("shared-{}", number % SHARED);
            Self { name, pods: SHARING / SHARED * PODS, spares: 1 }
        } else {
            Self { name: format!("app-{number}"), pods: PODS, spares: 0 }
        }
    }

    fn all() -> BTreeSet<Self> {
        (0..WORKLOADS).map(Self::of).collect()
    }

    fn object(&self) -> Value {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": self.name},
            "spec": {"maxUnavailable": self.spares, "selector": {"matchLabels": {"budget": self.name}}},
        })
    }
}

/// Whether all pods that a workload is to have are made from its template and ready, and no others are left.
fn has_moved(workload: &Value, pods: &BTreeMap<String, Value>) -> bool {
    let name = &workload["metadata"]["name"];
    let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
    let is_new = |pod: &&Value| {
        let mut said = annotations.as_object().expect("annotations").iter();
        said.all(|(key, version)| pod["metadata"]["annotations"][key] == *version) && is_ready(pod)
    };
    let own: Vec<&Value> = pods.values().filter(|pod| pod["metadata"]["labels"]["app"] == *name).collect();
    own.len() == PODS && own.iter().all(is_new)
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// The fleet at one moment of its story.
#[derive(Default)]
struct Fleet {
    deployments: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    /// Those whose restart is over.
    moved: BTreeSet<String>,
}

impl Fleet {
    fn take(&mut self, change: &Change) {
        let objects = match change.kind.as_str() {
            "Deployment" => &mut self.deployments,
            "Pod" => &mut self.pods,
            other => panic!("nobody asked for a {other}"),
        };
        match &change.object {
            Some(object) => drop(objects.insert(change.name.clone(), object.clone())),
            None => drop(objects.remove(&change.name)),
        }
        let moved = self.rolling().filter(|(_, workload)| has_moved(workload, &self.pods));
        let moved: Vec<String> = moved.map(|(name, _)| name.clone()).collect();
        self.moved.extend(moved);
    }

    /// Those whose template was changed.
    fn told(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.deployments.iter().filter(|(_, one)| one["metadata"]["generation"].as_i64() > Some(1))
    }

    /// Those of them that are not done.
    fn rolling(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.told().filter(|(name, _)| !self.moved.contains(*name))
    }

    /// Healthy pods by budget, as a budget counts them.
    fn healthy(&self) -> BTreeMap<&str, usize> {
        let mut healthy: BTreeMap<&str, usize> =
            self.deployments.values().map(|one| (budget(one), 0)).collect();
        let staying = self.pods.values().filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
        for pod in staying.filter(|pod| is_ready(pod)) {
            let name = pod["metadata"]["labels"]["budget"].as_str().expect("a label");
            *healthy.get_mut(name).expect("a budget") += 1;
        }
        healthy
    }
}

/// The budget that counts a workload's pods.
fn budget(workload: &Value) -> &str {
    workload["spec"]["template"]["metadata"]["labels"]["budget"].as_str().expect("a label")
}

/// What a story tells of a fleet, from its first restart on.
#[derive(Debug, Default)]
struct Verdict {
    /// So many restarted at once, at most.
    most: usize,
    /// So many of those that have a budget in common, at most.
    together: BTreeMap<String, usize>,
    /// So many pods of a budget were healthy, at least.
    fewest: BTreeMap<String, usize>,
}

impl Verdict {
    fn of(story: &[Change]) -> Self {
        let mut story: Vec<&Change> = story.iter().collect();
        story.sort_by_key(|change| change.revision);
        let (mut fleet, mut verdict) = (Fleet::default(), Self::default());
        for change in story {
            fleet.take(change);
            if fleet.told().next().is_some() {
                verdict.judge(&fleet);
            }
        }
        verdict
    }

    fn judge(&mut self, fleet: &Fleet) {
        self.most = self.most.max(fleet.rolling().count());
        let mut together: BTreeMap<&str, usize> = BTreeMap::new();
        fleet.rolling().for_each(|(_, workload)| *together.entry(budget(workload)).or_default() += 1);
        for (name, count) in together {
            let most = self.together.entry(name.to_owned()).or_default();
            *most = count.max(*most);
        }
        for (name, count) in fleet.healthy() {
            let fewest = self.fewest.entry(name.to_owned()).or_insert(count);
            *fewest = count.min(*fewest);
        }
    }
}

/// A story, as far as it was told.
struct Seen {
    story: Story,
    changes: Vec<Change>,
    fleet: Fleet,
}

impl Seen {
    async fn until(&mut self, is_so: impl Fn(&Fleet) -> bool) {
        while !is_so(&self.fleet) {
            let change = self.story.next().await;
            self.fleet.take(&change);
            self.changes.push(change);
        }
    }
}

/// The first whole minute before which a daemon has surely read the policies.
fn soon() -> Timestamp {
    let now = SystemClock.now();
    let minute =
        now.round(TimestampRound::new().smallest(Unit::Minute).mode(RoundMode::Ceil)).expect("a minute");
    if minute.duration_since(now) < SignedDuration::from_secs(20) {
        minute + SignedDuration::from_mins(1)
    } else {
        minute
    }
}

async fn all(space: &Namespace, kind: &str) -> Vec<Value> {
    let text = space.kubectl(&["get", kind, "-o", "json"]).await;
    let list: Value = serde_json::from_str(&text).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_are_due_at_once_restart_as_turns_and_budgets_let_them_and_each_once() {
    let (_, space, site) = prepared().await;
    site.at.change_settings(|settings| settings["limits"] = json!({"rollouts": ROLLOUTS}));
    std::fs::remove_file(site.at.path(&format!("policies/{NAME}.yaml"))).expect("its policy");
    for number in 0..POLICIES {
        let path = site.at.path(&format!("policies/key-{number}.yaml"));
        std::fs::write(path, policy(number, &space).to_string()).expect("a policy");
    }
    let daemon = site.at.daemon().await;
    let commands = (0..POLICIES).map(|number| site.at.command(&["rotate", &format!("fleet/key-{number}")]));
    let running: Vec<_> = commands.map(|command| site.at.spawn(command)).collect();
    for one in running {
        one.end().await.ended(0);
    }
    let budgets = Budget::all();
    let objects = (0..WORKLOADS).map(workload).chain(budgets.iter().map(Budget::object));
    let objects: Vec<Value> = objects.collect();
    space.create(&json!({"apiVersion": "v1", "kind": "List", "items": objects})).await;
    for number in 0..WORKLOADS {
        space.rolled_out(&format!("deployment/app-{number}")).await;
    }
    for Budget { name, pods, .. } in &budgets {
        let healthy = format!("--for=jsonpath={{.status.currentHealthy}}={pods}");
        space.kubectl(&["wait", &format!("pdb/{name}"), &healthy, PATIENCE]).await;
    }
    let story = Story::watch(&space, &["deployments", "pods"]);
    let mut seen = Seen { story, changes: Vec::new(), fleet: Fleet::default() };
    seen.until(|fleet| fleet.deployments.len() == WORKLOADS && fleet.pods.len() == WORKLOADS * PODS).await;

    // Those that share budgets come first: with a turn for each that asks, if it were for turns alone.
    let first = soon();
    for number in 0..POLICIES {
        let shares = number % WORKLOADS < SHARING;
        let due = if shares { first } else { first + SignedDuration::from_mins(1) };
        let due = due.strftime("%-M %-H %-d %-m *").to_string();
        site.at.change_policy(&format!("key-{number}"), |policy| {
            policy["spec"]["schedule"] = json!({"cron": due, "timeZone": "UTC"});
        });
    }
    seen.until(|fleet| fleet.told().count() == WORKLOADS && fleet.rolling().next().is_none()).await;

    let verdict = Verdict::of(&seen.changes);
    assert_eq!(verdict.most, ROLLOUTS, "so many restarted at once: {verdict:?}");
    for Budget { name, pods, spares } in &budgets {
        assert_eq!(verdict.together[name], 1, "so many of {name} restarted at once: {verdict:?}");
        assert_eq!(verdict.fewest[name], pods - spares, "so many pods of {name} were left: {verdict:?}");
    }

    let annotations: BTreeMap<String, Value> = all(&space, "deployments")
        .await
        .into_iter()
        .map(|one| {
            let name = one["metadata"]["name"].as_str().expect("a name").to_owned();
            assert_eq!(one["metadata"]["generation"], 2, "{name} was restarted more than once");
            (name, one["spec"]["template"]["metadata"]["annotations"].clone())
        })
        .collect();
    for number in 0..POLICIES {
        let said =
            &annotations[&format!("app-{}", number % WORKLOADS)][format!("rekeyd.dev/version.key-{number}")];
        assert_eq!(said, "2", "key-{number}");
    }
    daemon.stop().await;
}

/// A change as a watch tells it.
fn change(revision: u64, kind: &str, name: &str, mut object: Value, what: &str) -> Change {
    object["kind"] = json!(kind);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    Change::read(json!({"type": what, "object": object})).expect("a change")
}

fn template(revision: u64, app: &str, budget: &str, version: u64) -> Change {
    let metadata = json!({"labels": {"budget": budget}, "annotations": {"version": version}});
    let object = json!({
        "metadata": {"generation": version}, "spec": {"template": {"metadata": metadata}},
    });
    change(revision, "Deployment", app, object, "MODIFIED")
}

/// A pod: one that is ready, one that is not yet, or one that is gone.
fn pod(revision: u64, app: &str, budget: &str, number: u64, version: u64, ready: Option<bool>) -> Change {
    let object = json!({
        "metadata": {"labels": {"app": app, "budget": budget}, "annotations": {"version": version}},
        "status": {"conditions": [{"type": "Ready", "status": if ready == Some(true) { "True" } else { "False" }}]},
    });
    let what = if ready.is_some() { "MODIFIED" } else { "DELETED" };
    change(revision, "Pod", &format!("{app}-v{version}-{number}"), object, what)
}

/// What is said of five workloads that restart at these moments, and are done three moments later. The first two have
/// a budget in common.
fn restarts(at: [u64; 5]) -> Verdict {
    let apps = [("a", "shared"), ("b", "shared"), ("c", "c"), ("d", "d"), ("e", "e")];
    let (mut templates, mut pods) = (Vec::new(), Vec::new());
    for ((app, budget), (place, at)) in apps.into_iter().zip((0..).zip(at)) {
        templates.push(template(1 + place, app, budget, 1));
        pods.extend((0..2).map(|number| pod(10 + 2 * place + number, app, budget, number, 1, Some(true))));
        // Each has its own revisions within a moment.
        let revision = |moment: u64| 100 * moment + place;
        templates.push(template(revision(at), app, budget, 2));
        pods.push(pod(revision(at) + 10, app, budget, 0, 1, None));
        pods.push(pod(revision(at + 1), app, budget, 0, 2, Some(true)));
        pods.push(pod(revision(at + 2), app, budget, 1, 1, None));
        pods.push(pod(revision(at + 2) + 10, app, budget, 1, 2, Some(false)));
        pods.push(pod(revision(at + 3), app, budget, 1, 2, Some(true)));
    }
    // One watch after the other, whatever happened first.
    Verdict::of(&[templates, pods].concat())
}

#[test]
fn what_a_fleet_is_not_to_do_would_be_seen() {
    // Turns and the budget are used to the full: who follows begins when who was before has just ended.
    let verdict = restarts([1, 4, 4, 4, 7]);
    assert_eq!(verdict.most, 3, "{verdict:?}");
    assert_eq!((verdict.together["shared"], verdict.fewest["shared"]), (1, 3), "{verdict:?}");
    assert_eq!(verdict.fewest["c"], 1, "{verdict:?}");
    // A fourth one begins before one of the three is done.
    let verdict = restarts([1, 4, 4, 4, 6]);
    assert_eq!(verdict.most, 4, "{verdict:?}");
    // So does the second one of the budget: while all pods of the first are ready for a moment, and while one is not.
    for second in [2, 3] {
        let verdict = restarts([1, second, 9, 9, 9]);
        assert_eq!((verdict.together["shared"], verdict.fewest["shared"]), (2, 2), "{verdict:?}");
    }
}
