//! `make bench NAME=idle`: what a daemon costs that has 10,000 policies and nothing to do: how long until it
//! has looked at all of them, how much memory it holds, how much of a core it uses.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

#[path = "../support/daemon.rs"]
mod daemon;
mod estate;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/openbao.rs"]
mod openbao;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/report.rs"]
mod report;
#[path = "../support/site.rs"]
mod site;

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::json;

use self::daemon::Daemon;
use self::machine::Machine;
use self::openbao::OpenBao;
use self::process::Use;
use self::report::{Figure, Report};
use self::site::Site;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const RUNS: usize = 5;

/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let folder = report::folder().join("idle");
    fs::create_dir_all(&folder)?;
    let openbao = OpenBao::start(&folder.join("run")).await?;
    let openbao_pid = u32::try_from(openbao.described["pid"].as_u64().ok_or("no process id")?)?;
    let mount = json!({"type": "database"});
    openbao.caller().await?.call("POST", "sys/mounts/database", &mount).await?;
    let machine = Machine::look(&folder, vec![openbao.version.clone()])?;
    let site = Site::make(&folder.join("site"), &folder.join("admin.password"), site::IN_FILES)?;
    println!("writing {} policies, each with a value in force", estate::POLICIES);
    let bytes = estate::fill(&site).await?;

    let mut taken = Taken::default();
    for run in 1..=RUNS {
        taken.run(&site, openbao_pid).await?;
        println!("run {run} of {RUNS}: scheduled after {:.2} s", taken.start[run - 1]);
    }
    let mut report = taken.report(machine);
    report.say(format!("{} policies of {} bytes each in {} files", estate::POLICIES, bytes, estate::FILES));
    report.publish()?;
    Ok(())
}

#[derive(Default)]
struct Taken {
    others_percent: Vec<f64>,
    start: Vec<f64>,
    start_cpu: Vec<f64>,
    memory: Vec<f64>,
    memory_later: Vec<f64>,
    memory_peak: Vec<f64>,
    idle_cpu_ms: Vec<f64>,
    openbao_memory: Vec<f64>,
    openbao_cpu_ms: Vec<f64>,
}

impl Taken {
    async fn run(&mut self, site: &Site, openbao: u32) -> Outcome<()> {
        self.others_percent.push(machine::others().await?);
        let began = SystemClock.now();
        let mut daemon = Daemon::start(&site.config())?;
        let (at, entry) = daemon.logs(&["scheduled"]).await?;
        if entry["policies"] != estate::POLICIES {
            return Err(format!("not all policies have a time: {entry}").into());
        }
        self.start.push(at.duration_since(began).as_secs_f64());
        let pid = daemon.pid()?;
        let started = Use::of(pid)?;
        let openbao_before = Use::of(openbao)?;
        SystemClock.sleep(IDLE).await;
        let (later, openbao_later) = (Use::of(pid)?, Use::of(openbao)?);
        self.start_cpu.push(started.cpu_ms / 1_000.0);
        self.memory.push(started.resident_mib);
        self.memory_later.push(later.resident_mib);
        self.memory_peak.push(later.peak_mib);
        self.idle_cpu_ms.push(later.cpu_ms - started.cpu_ms);
        self.openbao_memory.push(openbao_later.resident_mib);
        self.openbao_cpu_ms.push(openbao_later.cpu_ms - openbao_before.cpu_ms);
        daemon.stop().await
    }

    fn report(&self, machine: Machine) -> Report {
        let idle = IDLE.as_secs();
        let mut report = Report::new("idle", machine);
        report.section(
            "rekeyd",
            vec![
                Figure::new("rekeyd.start", "start to every policy scheduled", "s", &self.start)
                    .with_target("below 2", |median| median < 2.0),
                Figure::new("rekeyd.startCpu", "CPU time of that", "s", &self.start_cpu),
                Figure::new("rekeyd.memory", "resident memory then", "MiB", &self.memory),
                Figure::new(
                    "rekeyd.memoryLater",
                    format!("resident memory {idle} s later"),
                    "MiB",
                    &self.memory_later,
                )
                .with_target("below 64", |median| median < 64.0),
                Figure::new("rekeyd.memoryPeak", "resident memory at its peak", "MiB", &self.memory_peak),
                // The kernel counts in steps of 10 ms.
                Figure::new(
                    "rekeyd.idleCpu",
                    format!("CPU time in {idle} s of nothing to do"),
                    "ms",
                    &self.idle_cpu_ms,
                )
                .with_target("none", |median| median < 10.0),
            ],
        );
        report.section(
            "OpenBao with its database engine and no role, beside it",
            vec![
                Figure::new("openbao.memory", "resident memory", "MiB", &self.openbao_memory),
                Figure::new(
                    "openbao.idleCpu",
                    format!("CPU time in the same {idle} s"),
                    "ms",
                    &self.openbao_cpu_ms,
                ),
                Figure::ratio(
                    "ratio.memory",
                    "rekeyd's memory to that",
                    &self.memory_later,
                    &self.openbao_memory,
                ),
            ],
        );
        report.section(
            "besides",
            vec![Figure::new(
                "machine.others",
                "cores that others used before a run",
                "%",
                &self.others_percent,
            )],
        );
        report
    }
}
