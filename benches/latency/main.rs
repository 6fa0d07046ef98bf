//! `make bench NAME=latency`: how long a containment takes on an idle daemon, from the request on its socket
//! to the proof that the old value is refused and its sessions are closed.
//!
//! Each containment has a session of the leaked value to close, as an attacker would have it. OpenBao's
//! `rotate-role` is taken beside it: it sets a new password, tries none and closes no session.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../support/daemon.rs"]
mod daemon;
mod leak;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/openbao.rs"]
mod openbao;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/report.rs"]
mod report;
#[path = "../support/site.rs"]
mod site;
#[path = "../support/static_roles.rs"]
mod static_roles;

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::Value;

use self::daemon::Daemon;
use self::leak::{Containment, Leak};
use self::machine::Machine;
use self::openbao::OpenBao;
use self::postgres::Postgres;
use self::report::{Figure, Report, percentile, sorted};
use self::site::Site;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Containments of each kind, after the warm-up.
const CONTAINMENTS: usize = 100;

const WARM_UP: usize = 5;

/// Containments that are the first thing a daemon does.
const FIRST: usize = 20;

/// Between two containments, so that each finds an idle daemon.
const REST: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let folder = report::folder().join("latency");
    fs::create_dir_all(&folder)?;
    let admin = folder.join("admin.password");
    let options = ["--tls", "--", "-c", "log_statement=none", "-c", "shared_preload_libraries="];
    let server = Postgres::start(&folder.join("run"), &options, &admin).await?;
    let openbao = OpenBao::start(&folder.join("run")).await?;
    let machine = Machine::look(&folder, vec![server.version().await?, openbao.version.clone()])?;
    let site = Site::make(&folder.join("site"), &admin, site::IN_FILES)?;
    server
        .superuser()
        .await?
        .batch_execute("create role one_by_itself; create role openbao_user login")
        .await?;
    static_roles::make(&openbao, &server, &["openbao_user".into()], Duration::from_secs(86_400)).await?;

    let leaks = [
        Leak::new(
            "pair",
            "a pair of users",
            &server,
            false,
            "alternating: {users: [plain_a, plain_b]}",
            None,
        ),
        Leak::new(
            "pair-with-file",
            "a pair of users, read from a file",
            &server,
            false,
            "alternating: {users: [file_a, file_b]}",
            Some(folder.join("site/app.env")),
        ),
        Leak::new(
            "in-place",
            "one user, changed in place",
            &server,
            false,
            "inPlace: {user: one_by_itself}",
            None,
        ),
        Leak::new(
            "pair-over-tls",
            "a pair of users, over TLS",
            &server,
            true,
            "alternating: {users: [tls_a, tls_b]}",
            None,
        ),
    ];
    let policies: String = leaks.iter().map(Leak::policy).collect();
    site.write_policies("leaks.yaml", &policies)?;
    let others = machine::others().await?;

    let mut daemon = Daemon::start(&site.config())?;
    daemon.logs(&["scheduled"]).await?;
    for leak in &leaks {
        leak.prime(&site).await?;
    }
    let mut taken: Vec<Vec<Containment>> = leaks.iter().map(|_| Vec::new()).collect();
    let mut peer = Vec::new();
    for round in 0..WARM_UP + CONTAINMENTS {
        let mut caller = openbao.caller().await?;
        SystemClock.sleep(REST).await;
        let began = Instant::now();
        caller.call("POST", "database/rotate-role/openbao_user", &Value::Null).await?;
        let rotated = began.elapsed();
        for (leak, taken) in leaks.iter().zip(&mut taken) {
            SystemClock.sleep(REST).await;
            let containment = leak.contain(&site, &server).await?;
            if round >= WARM_UP {
                taken.push(containment);
            }
        }
        if round >= WARM_UP {
            peer.push(milliseconds(rotated));
        }
    }
    daemon.stop().await?;

    let mut first = Vec::new();
    for _ in 0..FIRST {
        let mut daemon = Daemon::start(&site.config())?;
        daemon.logs(&["scheduled"]).await?;
        SystemClock.sleep(REST).await;
        first.push(leaks[0].contain(&site, &server).await?);
        daemon.stop().await?;
    }

    report(machine, &leaks, &taken, &first, &peer, others).publish()?;
    Ok(())
}

fn report(
    machine: Machine,
    leaks: &[Leak],
    taken: &[Vec<Containment>],
    first: &[Containment],
    peer: &[f64],
    others: f64,
) -> Report {
    let mut report = Report::new("latency", machine);
    report
        .say("contain, through the daemon's socket, on an idle daemon: embedded store, one session to close");
    report.say("proven: from the request to the event that says refused and closed, as its caller sees it");
    report.say(format!("others used {others:.0} % of all cores before"));
    let proven = |taken: &[Containment]| taken.iter().map(|one| milliseconds(one.proven)).collect::<Vec<_>>();
    let mut headline = Vec::new();
    let mut distribution = Vec::new();
    for (leak, taken) in leaks.iter().zip(taken) {
        let values = proven(taken);
        let figure = Figure::new(format!("{}.proven", leak.id), leak.title, "ms", &values);
        headline.push(figure.with_target("below 30", |median| median < 30.0));
        let sorted = sorted(&values);
        for percent in [90.0, 99.0] {
            let value = percentile(&sorted, percent);
            distribution.push(Figure::new(
                format!("{}.provenP{percent}", leak.id),
                format!("{}, p{percent}", leak.title),
                "ms",
                &[value],
            ));
        }
    }
    headline.push(Figure::new(
        "pair.provenFirst",
        "a pair of users, first thing after a start",
        "ms",
        &proven(first),
    ));
    report.section("from request to proven", headline);
    report.section("of those", distribution);
    for (leak, taken) in leaks.iter().zip(taken) {
        let mut figures = Vec::new();
        for step in leak::STEPS {
            let values: Vec<f64> = taken.iter().filter_map(|one| one.steps.get(step).copied()).collect();
            if !values.is_empty() {
                figures.push(Figure::new(format!("{}.steps.{step}", leak.id), *step, "ms", &values));
            }
        }
        let recorded: Vec<f64> = taken.iter().map(|one| one.recorded_ms).collect();
        let ended: Vec<f64> = taken.iter().map(|one| milliseconds(one.ended)).collect();
        figures.push(Figure::new(
            format!("{}.containedMs", leak.id),
            "containedMs in the record",
            "ms",
            &recorded,
        ));
        figures.push(Figure::new(
            format!("{}.ended", leak.id),
            "from request to the end, recorded and closed",
            "ms",
            &ended,
        ));
        report.section(leak.title, figures);
    }
    report.section(
        "OpenBao",
        vec![
            Figure::new("openbao.rotateRole", "rotate-role: no value tried, no session closed", "ms", peer),
            Figure::ratio(
                "ratio.pairToOpenbao",
                "a pair of users, proven, to that",
                &proven(&taken[0]),
                peer,
            ),
        ],
    );
    report
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
