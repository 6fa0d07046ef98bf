//! No value is ever where it does not belong: not in what commands and the daemon print, at whatever level,
//! not in the ledger, not in a process's arguments or environment, not in a file of rekeyd's own.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::processes::Running;

/// What was seen, by where, and the values that must not be in it.
struct Search {
    values: Vec<Vec<u8>>,
    seen: Vec<(String, Vec<u8>)>,
}

impl Search {
    fn see(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.seen.push((place.into(), bytes.into()));
    }

    fn see_answer(&mut self, answer: &Answer) {
        self.see("what a command prints", answer.to_string());
    }

    /// A value, as it is and in the forms that it is passed on in.
    fn add(&mut self, value: &[u8]) {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        self.values.extend([value.to_vec(), STANDARD.encode(value).into_bytes(), hex.into_bytes()]);
    }

    /// Where a value is that should not be.
    fn finds(&self) -> Vec<&str> {
        let holds =
            |bytes: &[u8]| self.values.iter().any(|value| memchr::memmem::find(bytes, value).is_some());
        self.seen.iter().filter(|(_, bytes)| holds(bytes)).map(|(place, _)| place.as_str()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_where_they_belong_and_nowhere_else() {
    for in_openbao in [false, true] {
        let mut site = Site::alternating().await;
        let mut search = Search { values: Vec::new(), seen: Vec::new() };
        search.add(text(site.world.admin()).as_bytes());
        search.add(read(&site.at.path("store.key")).trim().as_bytes());
        if in_openbao {
            site.move_to_openbao();
            search.add(read(&site.at.path("bao.token")).trim().as_bytes());
        }
        everything_that_happens_to_a_policy(&site, &mut search).await;

        let ledger = ledger_objects(&site.at.path("ledger.git"));
        assert!(memchr::memmem::find(&ledger, b"RotationRecord").is_some(), "the ledger was not looked into");
        search.see("the ledger", ledger);
        for file in ["store.db", "store.db-wal", "store.db-shm", ".orders-db.env.rekeyd"] {
            if let Ok(bytes) = std::fs::read(site.at.path(file)) {
                search.see(file, bytes);
            }
        }
        assert_eq!(search.finds(), [""; 0], "a value is where it does not belong");

        // Had there been one, it would have been found.
        search.see("the reader's file", read(&site.file()));
        search.see("a forged ledger", forged_ledger(&site));
        search.see("a process that was told a value", cmdline_of_a_careless_process(&site).await);
        assert_eq!(
            search.finds(),
            ["the reader's file", "a forged ledger", "a process that was told a value"]
        );
    }
}

/// Every command and the daemon, all as talkative as can be, and things that go wrong.
async fn everything_that_happens_to_a_policy(site: &Site, search: &mut Search) {
    let mut gate = Gate::new(&site.at.path(""));
    let trace = ["--log", "trace"];
    let user = site.world.name("a");
    site.world.sql("CREATE ROLE {p}_a LOGIN IN ROLE {p}_group PASSWORD 'adopted-by-hand'").await;
    for value in ["adopted-by-hand", "wrong-by-hand"] {
        search.add(value.as_bytes());
    }
    let adopt = [&["adopt", POLICY, "--principal", user.as_str()][..], &trace].concat();
    search.see_answer(&site.at.run_with(&adopt, b"wrong-by-hand").await.ended(1));
    search.see_answer(&site.at.run_with(&adopt, b"adopted-by-hand\n").await.ended(0));

    let run = async |search: &mut Search, arguments: &[&str]| {
        let answer = site.at.run(&[arguments, &trace].concat()).await;
        search.add(site.delivered_value().as_bytes());
        search.see_answer(&answer);
        answer.code
    };
    for format in ["json", "text"] {
        assert_eq!(run(search, &["rotate", POLICY, "-o", format]).await, Some(0));
        assert_eq!(run(search, &["contain", POLICY, "-o", format]).await, Some(0));
        for command in
            [&["check"][..], &["preflight"], &["plan"], &["status"], &["audit", "log"], &["audit", "verify"]]
        {
            assert_eq!(run(search, &[command, &["-o", format]].concat()).await, Some(0), "{command:?}");
        }
    }

    // In the middle: the arguments and the environment of all that runs.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
    });
    let running = site.at.start(&[&["rotate", POLICY][..], &trace].concat());
    gate.reached().await;
    search.add(site.delivered_value().as_bytes());
    see_processes(&running, search);
    running.kill().await;
    gate.open().await;
    gate.open().await;

    // The daemon, with a rotation to finish, one to do and one that fails.
    let mut daemon = site.at.daemon_with(&["--log", "trace"]).await;
    if !daemon.seen.iter().any(|entry| entry["message"] == "rotation closed") {
        daemon.says_of(POLICY, "rotation closed").await;
    }
    gate.reached().await;
    gate.open().await;
    assert_eq!(run(search, &["rotate", POLICY]).await, Some(0));
    gate.reached().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["target"]["postgres"]["check"] = json!("select 1 / 0");
    });
    daemon.says("policies read").await;
    assert_eq!(run(search, &["rotate", POLICY]).await, Some(1));
    for entry in daemon.stop().await {
        search.see("the daemon's log", entry.to_string());
    }
}

impl Site {
    fn delivered_value(&self) -> String {
        let file = std::fs::read_to_string(self.file()).unwrap_or_default();
        file.lines().nth(1).unwrap_or("there is none yet").to_owned()
    }
}

/// The arguments and environments of a command and of the reload command below it.
fn see_processes(running: &Running, search: &mut Search) {
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let mut pids: Vec<String> = vec![running.pid().to_string()];
    for task in std::fs::read_dir(format!("/proc/{}/task", running.pid())).expect("a process") {
        let children = task.expect("a task").path().join("children");
        pids.extend(read(&children).split_whitespace().map(ToOwned::to_owned));
    }
    assert!(pids.len() > 1, "the reload command is not among {children}");
    for pid in pids {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            search.see(&path, std::fs::read(&path).expect("a process"));
        }
    }
}

/// The content of every object, packed or not.
fn ledger_objects(ledger: &Path) -> Vec<u8> {
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(ledger).args(["cat-file", "--batch-all-objects", "--batch"]);
    let output = git.output().expect("git");
    assert!(output.status.success());
    output.stdout
}

/// The objects of a copy of the ledger that somebody has put a value into.
fn forged_ledger(site: &Site) -> Vec<u8> {
    let forged = site.at.path("forged.git");
    let mut clone = std::process::Command::new("git");
    clone.args(["clone", "-q", "--bare"]).arg(site.at.path("ledger.git")).arg(&forged);
    assert!(clone.status().expect("git").success());
    let mut hash = std::process::Command::new("git");
    hash.arg("-C").arg(&forged).args(["hash-object", "-w"]).arg(site.file());
    assert!(hash.output().expect("git").status.success());
    ledger_objects(&forged)
}

async fn cmdline_of_a_careless_process(site: &Site) -> Vec<u8> {
    let mut careless = tokio::process::Command::new("sh");
    careless.args(["-c", "echo here; read -r line", &site.delivered_value()]);
    let piped = || std::process::Stdio::piped();
    let mut child = careless.stdin(piped()).stdout(piped()).spawn().expect("sh starts");
    // Right after its start a process has no arguments yet.
    let here = child.stdout.as_mut().expect("a pipe").read_u8().await;
    assert!(here.is_ok());
    let cmdline =
        std::fs::read(format!("/proc/{}/cmdline", child.id().expect("a process"))).expect("a process");
    drop(child.stdin.take());
    child.wait().await.expect("a status");
    cmdline
}
