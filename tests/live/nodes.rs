//! A node that loses its power in the middle of a rotation, with the pod of rekeyd that works on it.

use std::time::Duration;

use rekeyd::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cluster::{application, told};
use crate::deployed::Deployed;
use crate::private::PrivateCluster;
use crate::processes::in_time;
use crate::resources::{KIND, SECRET};
use crate::site::*;

/// Where rekeyd stands still when its node loses its power: one place for each step.
const POINTS: [&str; 11] = [
    "open/store.save",
    "install/target.install",
    "verify/target.probe",
    "promote/store.promote",
    "publish/consumer.publish",
    "restart/consumer.reload",
    "converge/consumer.reach",
    "retire/target.retire",
    "prove/target.probe",
    "record/ledger.append",
    "close/store.save",
];

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The process of a pod, as this machine sees it.
struct Process(Pid);

impl Process {
    /// Of every pod of a namespace.
    fn all(marked: &str) -> Vec<(String, Self)> {
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let processes = processes.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // Whatever ends meanwhile has none.
            let environ = std::fs::read(entry.path().join("environ")).ok()?;
            let variables: Vec<&str> =
                environ.split(|byte| *byte == 0).filter_map(|one| std::str::from_utf8(one).ok()).collect();
            let is_ours = variables.contains(&marked);
            let host = variables.iter().find_map(|variable| variable.strip_prefix("HOSTNAME="))?;
            is_ours.then(|| (host.to_owned(), Self(Pid::from_raw(pid).expect("a process id"))))
        });
        processes.collect()
    }

    fn of(marked: &str, pod: &str) -> Self {
        let found = Self::all(marked).into_iter().find(|(host, _)| host == pod);
        found.unwrap_or_else(|| panic!("{pod} has no process")).1
    }

    fn stands_still(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    async fn stood_still(&self) {
        in_time("the pod stands still", async {
            while !self.stands_still() {
                SystemClock.sleep(LOOK).await;
            }
        })
        .await;
    }

    fn go_on(&self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Lets whoever stands still go on, for ever.
async fn thaw(marked: &str) {
    loop {
        for (_, process) in Process::all(marked) {
            if process.stands_still() {
                process.go_on();
            }
        }
        SystemClock.sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_at_any_step_takes_no_rotation_with_it() {
    let private = PrivateCluster::start();
    private.import_images();
    let points = POINTS.map(|point| format!("{point}#1=stop")).join(",");
    let add = |path: &str, value: Value| json!({"op": "add", "path": format!("/spec/template/spec/{path}"), "value": value});
    let deployed = Deployed::new(
        private.cluster.clone(),
        &[
            // The first process of a container cannot be made to stand still from within.
            add("shareProcessNamespace", json!(true)),
            add("containers/0/env", json!([{"name": "REKEYD_DISTURB", "value": points}])),
            // A node that comes back finds its pod as it was.
            add(
                "tolerations",
                json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3600}]),
            ),
        ],
    )
    .await;
    let Deployed { home, space, site, .. } = &deployed;
    let marked = format!("REKEYD_DISTURB={points}");
    home.rolled_out("deployment/rekeyd").await;
    space.create(&deployed.policy()).await;
    let prepared = async {
        deployed.asked("rotate", "first").await;
        let mut application = application(site, 2).await;
        let pod = &mut application["spec"]["template"]["spec"];
        // Whose node is gone is replaced as soon as that is known.
        pod["tolerations"] = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]);
        pod["terminationGracePeriodSeconds"] = json!(1);
        pod["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "app"}},
        }]);
        space.create(&application).await;
        space.rolled_out("deployment/app").await;
    };
    tokio::select! {
        () = thaw(&marked) => {}
        () = prepared => {}
    }

    let mut survivor = deployed.leader().await;
    for (place, point) in POINTS.iter().enumerate() {
        // Whoever has been at a rotation passes its points the second time: both are to be new.
        home.kubectl(&["delete", "pod", &survivor]).await;
        home.rolled_out("deployment/rekeyd").await;
        let before = space.credential(SECRET).await;
        let leader = deployed.leader().await;
        let node = home.read(&format!("pod/{leader}")).await["spec"]["nodeName"]
            .as_str()
            .expect("a node")
            .to_owned();
        let process = Process::of(&marked, &leader);
        deployed.ask("rotate", &format!("at-{place}")).await;
        for _ in 0..place {
            process.stood_still().await;
            process.go_on();
        }
        process.stood_still().await;
        private.node(&node, "off");

        let version = place as i64 + 2;
        let finished = async {
            space.becomes(NAME, &format!("jsonpath={{.status.version}}={version}")).await;
            space.becomes(NAME, "condition=Rotating=False").await;
        };
        tokio::select! {
            () = thaw(&marked) => {}
            () = finished => {}
        }
        survivor = deployed.leader().await;
        assert_ne!(survivor, leader, "{point}: nobody took over");
        let current = space.credential(SECRET).await;
        assert!(site.accepts(&current).await, "{point}");
        assert!(!site.accepts(&before).await, "{point}: the old value works");
        assert_eq!(
            told(space, "deployment/app").await,
            (Some(version.to_string()), version),
            "{point}: restarted twice"
        );
        let subject = format!("rotate({}/{NAME}): v{} -> v{version} ", space.name, version - 1);
        deployed.pushed_once(&subject).await;
        let status = space.read(&format!("{KIND}/{NAME}")).await["status"].clone();
        assert_eq!(status["lastRotation"]["outcome"], "rotated", "{point}: {status:#}");
        private.node(&node, "on");
        home.rolled_out("deployment/rekeyd").await;
    }
    deployed.all_pushed_once();
}
