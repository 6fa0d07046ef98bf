//! The director: has the parts play, tells what happens, and checks that it is true.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::timeout;

use super::Outcome;
use super::application::{Count, Login};
use super::log::Log;
use super::stage::{POLICY, Stage};
use super::teller::Teller;

/// Scheduled rotations to watch before the leak.
const SCHEDULED: usize = 3;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run() -> Outcome<()> {
    let teller = Teller::new();
    teller.tell("setting the stage: a private PostgreSQL, the embedded store, a Git ledger");
    let stage = Stage::set().await?;
    let outcome = play(&stage, &teller).await;
    stage.clear().await?;
    outcome
}

async fn play(stage: &Stage, teller: &Teller) -> Outcome<()> {
    let key = stage.folder.join("store.key");
    stage.rekeyd_says(&["keygen", &key.display().to_string()]).await?;

    let mut app = first_version(stage, teller).await?;
    let mut seen = vec![Login::read(&stage.credential())?];

    teller.tell("rekeyd run: the policy allows an age of 3 s, so a rotation is due every 3 s");
    let mut daemon = stage
        .rekeyd(&["run", "--log", "rekeyd=debug", "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = daemon.stderr.take().ok_or("no log")?;
    let mut log = Log::new(stderr);
    for _ in 0..SCHEDULED {
        let rotation = timeout(PATIENCE, log.rotation()).await??;
        teller.tell(&rotation.line);
        seen.push(Login::read(&stage.credential())?);
    }

    let leaked = seen.last().cloned().ok_or("nothing was rotated")?;
    teller.bad(&format!("the password of {} leaks: an attacker logs in and stays", leaked.user));
    let (host, port) = (&stage.server.host, stage.server.port);
    let attacker = leaked.open(host, port, "orders").await?;
    attacker.query_one("select count(*) from orders", &[]).await?;

    teller.tell(&format!("rekeyd contain {POLICY}"));
    let began = Instant::now();
    let answer = stage
        .rekeyd_says(&["contain", POLICY, "--reason", "found in a public repository", "-o", "json"])
        .await?;
    let contained = began.elapsed();
    let record = ending(&answer)?;
    teller.tell(&format!(
        "{} -> {} [contain]: old value refused, {} sessions closed; {} ms from request to proof",
        version(&record["from"]),
        version(&record["to"]),
        record["proof"]["sessionsClosed"],
        record["containedMs"]
    ));
    if attacker.query_one("select count(*) from orders", &[]).await.is_ok() {
        return Err("the attacker's session still works".into());
    }
    teller.good("the attacker's session is dead");

    teller.tell("stopping the application and the daemon");
    let count = stop_application(&mut app, stage).await?;
    terminate(&daemon)?;
    timeout(PATIENCE, daemon.wait()).await??;

    // The daemon may have rotated once more since: whatever is in force now is not among the old ones.
    let current = Login::read(&stage.credential())?;
    seen.retain(|login| *login != current);
    let mut refused = 0;
    for login in &seen {
        refused +=
            usize::from(login.open(host, port, "orders").await.is_err_and(|error| error.code().is_some()));
    }
    current.open(host, port, "orders").await?;

    println!("\n$ rekeyd audit log\n{}", stage.rekeyd_says(&["audit", "log"]).await?);
    let verified = stage.rekeyd_says(&["audit", "verify"]).await;
    println!("$ rekeyd audit verify\n{}", verified.as_deref().unwrap_or("not verified\n"));
    finish(stage, teller, &count, &seen, refused, verified.is_ok(), contained).await
}

/// Rotates once, then starts the application on the value.
async fn first_version(stage: &Stage, teller: &Teller) -> Outcome<Child> {
    let record = ending(&stage.rekeyd_says(&["rotate", POLICY, "-o", "json"]).await?)?;
    teller.tell(&format!(
        "rekeyd rotate {POLICY}: {} for {}",
        version(&record["to"]),
        record["principal"].as_str().unwrap_or("")
    ));
    let app = stage.application()?;
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let ready = async {
        while !stage.folder.join("app/generation").exists() {
            look.tick().await;
        }
    };
    timeout(PATIENCE, ready).await?;
    teller.tell("the application runs: 4 workers query the database all the time");
    Ok(app)
}

async fn stop_application(app: &mut Child, stage: &Stage) -> Outcome<Count> {
    terminate(app)?;
    timeout(PATIENCE, app.wait()).await??;
    Ok(serde_json::from_slice(&fs::read(stage.folder.join("app/count"))?)?)
}

async fn finish(
    stage: &Stage,
    teller: &Teller,
    count: &Count,
    seen: &[Login],
    refused: usize,
    verified: bool,
    contained: Duration,
) -> Outcome<()> {
    let log: Value = serde_json::from_str(&stage.rekeyd_says(&["audit", "log", "-o", "json"]).await?)?;
    let records: Vec<&Value> = log.as_array().into_iter().flatten().map(|entry| &entry["record"]).collect();
    let containments = records.iter().filter(|record| record["trigger"] == "contain").count();
    let closed: u64 = records.iter().filter_map(|record| record["proof"]["sessionsClosed"].as_u64()).sum();
    let result = json!({
        "rotations": records.len() - containments,
        "containments": containments,
        "queries": count.queries,
        "failedQueries": count.failed_queries,
        "oldValuesRefused": refused,
        "oldValues": seen.len(),
        "sessionsClosed": closed,
        "ledgerVerified": verified,
        "containSeconds": contained.as_secs_f64(),
        "seconds": teller.began.elapsed().as_secs_f64(),
    });
    let path = stage.folder.join("result.json");
    fs::write(&path, serde_json::to_vec_pretty(&result)?)?;
    println!("{} rotations and {containments} containment", records.len() - containments);
    println!("{} queries by the application, {} failed", count.queries, count.failed_queries);
    println!("{refused} of {} old values refused at a login, {closed} sessions closed", seen.len());
    println!("written to {}", shown(&path));
    let scheduled = records.iter().filter(|record| record["trigger"] == "scheduled").count();
    let good = scheduled >= SCHEDULED
        && count.failed_queries == 0
        && refused == seen.len()
        && verified
        && containments == 1;
    if good { Ok(()) } else { Err("this is not how it should have ended".into()) }
}

/// The record in the last line of a command's JSON lines.
fn ending(lines: &str) -> Outcome<Value> {
    let last: Value = serde_json::from_str(lines.lines().last().ok_or("no answer")?)?;
    Ok(last["ending"]["record"].clone())
}

fn version(value: &Value) -> String {
    format!("v{value}")
}

fn terminate(child: &Child) -> Outcome<()> {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
    Ok(rustix::process::kill_process(pid.ok_or("it ended by itself")?, rustix::process::Signal::TERM)?)
}

pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path).display().to_string()
}
