//! `make bench NAME=cluster`: how long it takes until all pods of a workload have a new value, beside what
//! `kubectl rollout restart` and `kubectl rollout status` take for the same workload; what is asked of the API
//! server meanwhile and by a daemon that has nothing to do; how much memory many custom resources cost; how long
//! nobody leads when the leader is killed.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../support/daemon.rs"]
mod daemon;
mod kubernetes;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/report.rs"]
mod report;
#[path = "../support/site.rs"]
mod site;

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::daemon::socket::Client;
use rekeyd::rotation::event::What;
use rekeyd::rotation::progress::Step;
use rekeyd::service::{Action, EndingKind, Request};
use serde_json::{Value, json};

use self::daemon::Daemon;
use self::kubernetes::Kubernetes;
use self::machine::Machine;
use self::process::Use;
use self::report::{Figure, Report};
use self::site::Site;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Restarts of each kind, after the first.
const ROUNDS: usize = 15;

const REPLICAS: i64 = 3;

/// Policies of a daemon that has nothing to do, each with a Secret.
const IDLE_POLICIES: usize = 500;

/// For so many minutes nothing happens: longer than a watch lasts before it is begun anew.
const IDLE_MINUTES: u64 = 10;

const MANY_POLICIES: usize = 10_000;

/// Leaders that are killed.
const TAKEOVERS: usize = 7;

/// For so long nobody else leads.
const LEASE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let folder = report::folder().join("cluster");
    fs::create_dir_all(&folder)?;
    let cluster = Kubernetes::start(&folder.join("run"))?;
    let machine = Machine::look(
        &folder,
        vec![cluster.kubectl(&["version", "--output=yaml"], "").await.map(|text| version(&text))?],
    )?;
    let definitions =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/base/crd.yaml"))?;
    cluster.kubectl(&["apply", "--server-side", "-f", "-"], &definitions).await?;
    cluster
        .kubectl(&["wait", "-f", "-", "--for=condition=Established", "--timeout=60s"], &definitions)
        .await?;
    for namespace in ["move", "idle", "many"] {
        cluster.kubectl(&["create", "namespace", namespace], "").await?;
    }
    let admin = folder.join("admin.password");
    fs::write(&admin, "none")?;
    let site = |namespace: &str| {
        let settings = format!(
            "policies: {{directory: policies, resources: {{namespaces: [{namespace}]}}}}\n\
             clusters: {{main: {{kubeconfig: {{path: {}}}}}}}\n",
            cluster.kubeconfig.display()
        );
        Site::make(&folder.join("site"), &admin, &settings)
    };

    let others = machine::others().await?;
    let moves = Moves::take(&cluster, &site("move")?).await?;
    let idle = Idle::take(&cluster, &site("idle")?).await?;
    let many = many(&cluster, &site("many")?).await?;
    let takeovers =
        takeovers(&cluster, |name, settings| Site::make(&folder.join(name), &admin, settings)).await?;

    let mut report = Report::new("cluster", machine);
    report.say(format!("others used {others:.0} % of all cores before"));
    report.say(format!(
        "a Deployment of {REPLICAS} pods without a probe, images there already, one more pod at a time"
    ));
    report.say("rekeyd: from the first write of the Secret until every pod of the workload has the value and is ready");
    report.say("kubectl: `rollout restart` and `rollout status --watch` of the same Deployment, in turn");
    report.section(
        "all pods moved",
        vec![
            Figure::new("move.rekeyd", "rekeyd", "ms", &moves.rekeyd),
            Figure::new("move.kubectl", "kubectl", "ms", &moves.kubectl),
            Figure::ratio("ratio.move", "rekeyd to kubectl", &moves.rekeyd, &moves.kubectl)
                .with_target("at most 1.1", |median| median <= 1.1),
            Figure::new("move.requests", "requests to the API server for a rotation", "", &moves.requests),
        ],
    );
    report.section(
        "nothing to do",
        vec![
            Figure::new(
                "idle.requests",
                format!(
                    "requests in a minute of {IDLE_MINUTES}, {IDLE_POLICIES} policies with a Secret each"
                ),
                "",
                &[idle.requests],
            ),
            Figure::new("idle.cpu", "CPU time in it", "ms", &[idle.cpu_ms]),
            Figure::new("idle.memory", "resident memory with those", "MiB", &[idle.memory]),
            Figure::new(
                "many.memory",
                format!("resident memory with {MANY_POLICIES} custom resources"),
                "MiB",
                &[many.resident_mib],
            )
            .with_target("below 100", |median| median < 100.0),
            Figure::new("many.memoryPeak", "at its peak, as it starts", "MiB", &[many.peak_mib]),
        ],
    );
    report.section(
        "the leader is killed",
        vec![
            Figure::new(
                "takeover.total",
                format!("until the other leads, with a Lease of {} s", LEASE.as_secs()),
                "ms",
                &takeovers,
            ),
            Figure::new(
                "takeover.beyond",
                "beyond the duration of the Lease, at worst",
                "ms",
                &[takeovers.iter().map(|took| took - milliseconds(LEASE)).fold(0.0, f64::max)],
            )
            .with_target("at most 2,000", |worst| worst <= 2_000.0),
        ],
    );
    report.publish()?;
    Ok(())
}

fn version(yaml: &str) -> String {
    let server = yaml.split("serverVersion:").nth(1).unwrap_or_default();
    let version = server.lines().find_map(|line| line.trim().strip_prefix("gitVersion: "));
    format!("Kubernetes {}", version.unwrap_or("?"))
}

fn policy(name: &str, namespace: &str, has_secret: bool) -> Value {
    let consumers = if has_secret {
        json!([{"kubernetes": {
            "secret": name, "data": {"username": "app", "password": "{{ value }}"}, "workloads": {"settle": "0s"},
        }}])
    } else {
        json!([])
    };
    json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "owner": "team@example.com",
            "target": {"generated": {}},
            "store": {"name": "main", "path": format!("{namespace}/{name}")},
            "consumers": consumers,
        },
    })
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// How long restarts took.
#[derive(Default)]
struct Moves {
    rekeyd: Vec<f64>,
    kubectl: Vec<f64>,
    requests: Vec<f64>,
}

impl Moves {
    async fn take(cluster: &Kubernetes, site: &Site) -> Outcome<Self> {
        site.write_policies("app.yaml", &policy("app", "move", true).to_string())?;
        let mut daemon = Daemon::start(&site.config())?;
        daemon.logs(&["scheduled"]).await?;
        rotate(site).await?;
        let app = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
            "spec": {
                "replicas": REPLICAS, "selector": {"matchLabels": {"app": "app"}},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {
                    "metadata": {"labels": {"app": "app"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{
                            "name": "app", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                            "command": ["sleep", "2147483647"], "envFrom": [{"secretRef": {"name": "app"}}],
                        }],
                    },
                },
            },
        });
        cluster.kubectl(&["--namespace=move", "create", "-f", "-"], &app.to_string()).await?;
        let status = ["--namespace=move", "rollout", "status", "deployment/app"];
        cluster.kubectl(&status, "").await?;
        let mut taken = Self::default();
        for round in 0..=ROUNDS {
            let before = cluster.requests()?;
            let moved = rotate(site).await?;
            let requests = cluster.requests()? - before;
            // Whoever is told that it is over need not be the last to know.
            cluster.kubectl(&status, "").await?;
            let began = Instant::now();
            cluster.kubectl(&["--namespace=move", "rollout", "restart", "deployment/app"], "").await?;
            cluster.kubectl(&status, "").await?;
            let restarted = began.elapsed();
            if round > 0 {
                taken.rekeyd.push(milliseconds(moved));
                taken.kubectl.push(milliseconds(restarted));
                taken.requests.push(requests as f64);
            }
        }
        daemon.stop().await?;
        Ok(taken)
    }
}

/// Rotates the policy that moves. How long it took from the first write of the Secret until all have moved.
async fn rotate(site: &Site) -> Outcome<Duration> {
    let request = Request {
        policy: "move/app".parse()?,
        action: Action::Rotate,
        request: None,
        reason: None,
        patience_seconds: 60,
    };
    let (mut began, mut moved) = (None, None);
    let client = Client::connect(&site.settings.socket).await?.ok_or("no daemon")?;
    let ending = client
        .perform(&request, |event| match &event.what {
            What::Started { step: Step::Publish } => began = Some(Instant::now()),
            What::Done { step: Step::Converge, .. } => moved = began.map(|began| began.elapsed()),
            _ => {}
        })
        .await?;
    if ending.ending != EndingKind::Rotated {
        return Err(ending.message.into());
    }
    Ok(moved.ok_or("nobody moved")?)
}

/// What a daemon costs that has nothing to do.
struct Idle {
    requests: f64,
    cpu_ms: f64,
    memory: f64,
}

impl Idle {
    async fn take(cluster: &Kubernetes, site: &Site) -> Outcome<Self> {
        let policies: Vec<Value> =
            (0..IDLE_POLICIES).map(|number| policy(&format!("key-{number}"), "idle", true)).collect();
        cluster.kubectl(&["create", "-f", "-"], &list(&policies)).await?;
        let mut daemon = Daemon::start(&site.config())?;
        daemon.logs(&["scheduled"]).await?;
        settled(cluster).await?;
        let (before, used) = (cluster.requests()?, Use::of(daemon.pid()?)?.cpu_ms);
        SystemClock.sleep(Duration::from_secs(60 * IDLE_MINUTES)).await;
        let (requests, minutes) = ((cluster.requests()? - before) as f64, IDLE_MINUTES as f64);
        let now = Use::of(daemon.pid()?)?;
        daemon.stop().await?;
        Ok(Self {
            requests: requests / minutes,
            cpu_ms: (now.cpu_ms - used) / minutes,
            memory: now.resident_mib,
        })
    }
}

/// Waits until statuses are written and watches have begun: nothing is asked for five seconds.
async fn settled(cluster: &Kubernetes) -> Outcome<()> {
    let mut before = cluster.requests()?;
    loop {
        SystemClock.sleep(Duration::from_secs(5)).await;
        let now = cluster.requests()?;
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

/// What many custom resources cost.
async fn many(cluster: &Kubernetes, site: &Site) -> Outcome<Use> {
    let policies: Vec<Value> =
        (0..MANY_POLICIES).map(|number| policy(&format!("key-{number}"), "many", false)).collect();
    for some in policies.chunks(1_000) {
        cluster.kubectl(&["create", "-f", "-"], &list(some)).await?;
    }
    let mut daemon = Daemon::start(&site.config())?;
    daemon.logs(&["scheduled"]).await?;
    settled(cluster).await?;
    let used = Use::of(daemon.pid()?)?;
    daemon.stop().await?;
    Ok(used)
}

/// How long it takes each time until another daemon leads. Leaders are killed at any moment of their Lease.
async fn takeovers(cluster: &Kubernetes, site: impl Fn(&str, &str) -> Outcome<Site>) -> Outcome<Vec<f64>> {
    let settings = format!(
        "policies: {{directory: policies}}\n\
         clusters: {{main: {{kubeconfig: {{path: {}}}}}}}\n\
         leaderElection: {{namespace: move, duration: {}s}}\n",
        cluster.kubeconfig.display(),
        LEASE.as_secs()
    );
    let sites = [site("one", &settings)?, site("other", &settings)?];
    let mut leader = Daemon::start(&sites[0].config())?;
    leader.logs(&["leads"]).await?;
    let mut taken = Vec::new();
    for round in 1..=TAKEOVERS {
        let mut standby = Daemon::start(&sites[round % 2].config())?;
        // It has seen the Lease by then. Another part of its duration has passed each time.
        let moment = LEASE + LEASE * u32::try_from(round)? / u32::try_from(TAKEOVERS)?;
        SystemClock.sleep(moment).await;
        leader.kill().await?;
        let began = Instant::now();
        standby.logs(&["leads"]).await?;
        taken.push(milliseconds(began.elapsed()));
        leader = standby;
    }
    leader.stop().await?;
    Ok(taken)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
