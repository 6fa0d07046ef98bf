//! No value is ever where it does not belong, in any form, whole or in part: not in what commands and the
//! daemon print as talkative as can be, not in metrics, in the ledger, in a server's log, in a process's
//! arguments or environment, in a temporary or a core file, and not in the memory of a daemon that is idle.
//! Each scanner has to find a value that was planted for it.

mod scanner;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use crate::canaries::{Canaries, Scanner, forms_of};
use crate::figures;
use crate::gate::Gate;
use crate::installation::read;
use crate::postgres_support::{World, credential_of, soon, text, verifier};
use crate::processes::{Answer, Daemon, Running};
use crate::site::*;

/// What was seen, by where.
#[derive(Default)]
struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    fn see(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }
}

/// What came of a search.
#[derive(Default)]
struct Tally {
    places: usize,
    hits: Vec<String>,
    controls: usize,
    missed: Vec<String>,
}

impl Tally {
    fn search(&mut self, scanner: &Scanner, place: &str, bytes: &[u8]) {
        self.places += 1;
        if let Some((form, at)) = scanner.find(bytes) {
            let around = &bytes[at.saturating_sub(120)..at];
            self.hits.push(format!("{place}: {form} at {at}, after {:?}", String::from_utf8_lossy(around)));
        }
    }

    /// A planted value has to be found.
    fn control(&mut self, scanner: &Scanner, place: &str, bytes: &[u8]) {
        self.controls += 1;
        if scanner.find(bytes).is_none() {
            self.missed.push(place.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_is_where_it_does_not_belong() {
    let mut tally = Tally::default();
    for in_openbao in [false, true] {
        let mut site = Site::alternating().await;
        if in_openbao {
            site.move_to_openbao();
        }
        play(&site, &mut tally).await;
    }
    for hit in &tally.hits {
        println!("FOUND in {hit}");
    }
    for missed in &tally.missed {
        println!("NOT FOUND in {missed}");
    }
    println!(
        "{} places, {} hits; {} controls, {} missed",
        tally.places,
        tally.hits.len(),
        tally.controls,
        tally.missed.len()
    );
    figures::write(
        "canary",
        &json!({
            "places": tally.places, "canaryHits": tally.hits.len(),
            "controlsFound": tally.controls - tally.missed.len(), "controlsMissed": tally.missed.len(),
        }),
    );
    assert!(tally.hits.is_empty(), "values are where they do not belong");
    assert!(tally.missed.is_empty(), "scanners do not find what was planted");
}

/// Everything that may happen to a policy, and a search of everywhere that it leaves something.
async fn play(site: &Site, tally: &mut Tally) {
    let mut stage = Stage { site, canaries: Canaries::default(), awkward: awkward(), seen: Seen::default() };
    std::fs::create_dir(site.at.path("tmp")).expect("a folder");
    stage.canaries.add(text(site.world.admin()).as_bytes());
    stage.script().await;
    stage.working_process(tally).await;
    let idle = stage.idle_daemon().await;

    // Its own key and token it has to know; they are nobody's to see elsewhere.
    let memory = memory_of(idle.pid());
    let scanner = stage.canaries.scanner();
    for (place, bytes) in &memory {
        tally.search(&scanner, &format!("the idle daemon's memory, {place}"), bytes);
    }
    stage.canaries.add(read(&site.at.path("store.key")).trim().as_bytes());
    if site.bao.is_some() {
        stage.canaries.add(read(&site.at.path("bao.token")).trim().as_bytes());
    }
    let log = idle.stop().await;
    stage.see_log("the idle daemon's log", &log);
    stage.see_files();
    stage.see_servers().await;

    let scanner = stage.canaries.scanner();
    for (place, bytes) in &stage.seen.0 {
        tally.search(&scanner, place, bytes);
    }
    stage.core_files(tally).await;
    controls(site, &stage.awkward, &scanner, tally).await;
}

/// A site, the values that it ever had, and what it showed.
struct Stage<'a> {
    site: &'a Site,
    canaries: Canaries,
    /// The value that was adopted.
    awkward: String,
    seen: Seen,
}

impl Stage<'_> {
    /// A command, as talkative as can be, perhaps disturbed.
    fn command(&self, arguments: &[&str], disturbance: &str) -> Command {
        let mut command = self.site.at.command(&[arguments, &["--log", "trace"]].concat());
        command.env("RUST_BACKTRACE", "full").env("TMPDIR", self.site.at.path("tmp"));
        command.env("REKEYD_DISTURB", disturbance);
        command
    }

    async fn run(&mut self, arguments: &[&str], disturbance: &str) -> Option<i32> {
        let output = self.command(arguments, disturbance).output().await.expect("rekeyd runs");
        self.learn().await;
        let name = format!("`{}` {disturbance}", arguments.join(" "));
        self.seen.see(format!("{name}, standard output"), output.stdout);
        self.seen.see(format!("{name}, standard error"), output.stderr);
        output.status.code()
    }

    /// Takes in the values that there are now.
    async fn learn(&mut self) {
        let current = self.site.stored().await;
        let candidate = self.site.candidate().await;
        for credential in current.iter().chain(&candidate) {
            self.canaries.add(text(credential).as_bytes());
        }
    }

    async fn script(&mut self) {
        let user = self.site.world.name("a");
        let by_hand = &self.awkward.clone();
        let role = format!("CREATE ROLE {{p}}_a LOGIN IN ROLE {{p}}_group PASSWORD '{}'", verifier(by_hand));
        self.site.world.sql(&role).await;
        self.adopt(user.as_str(), &awkward(), 1).await;
        self.adopt(user.as_str(), by_hand, 0).await;

        // Successes, in both formats, and all that only reads.
        for format in ["json", "text"] {
            for command in ["rotate", "contain"] {
                assert_eq!(self.run(&[command, POLICY, "-o", format], "").await, Some(0), "{command}");
            }
            for command in [
                &["check"][..],
                &["preflight"],
                &["plan"],
                &["status"],
                &["audit", "log"],
                &["audit", "verify"],
            ] {
                assert_eq!(self.run(&[command, &["-o", format]].concat(), "").await, Some(0), "{command:?}");
            }
        }
        // An answer that is lost, systems that fail, deaths and panics, each finished by the next.
        for disturbance in [
            "install/target.install=late",
            "install/target.install=error",
            "promote/store.promote=late",
            "install/target.install=killAfter",
            "open/store.save=killAfter",
            "promote/store.promote=panic",
            "publish/consumer.publish=panic",
            "retire/target.retire=killBefore",
            "record/ledger.append=killAfter",
            "file.replace.written=killBefore",
        ] {
            self.run(&["rotate", POLICY], disturbance).await;
            self.run(&["resume", POLICY], "").await;
        }
        // A candidate that is refused, and taken back by the next process.
        self.check("select 1 / 0");
        self.run(&["rotate", POLICY], "withdraw/target.retire=killBefore").await;
        assert_eq!(self.run(&["resume", POLICY], "").await, Some(1));
        self.check("select 1");

        // In the middle: the arguments and the environment of all that runs.
        let mut gate = Gate::new(&self.site.at.path(""));
        self.site.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
        });
        let running = self.site.at.spawn(self.command(&["rotate", POLICY], ""));
        gate.reached().await;
        self.learn().await;
        self.see_processes(&running);
        gate.open().await;
        let answer: Answer = running.end().await.ended(0);
        self.seen.see("a rotation that waits for its reader", answer.to_string());
        self.site.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["file"]["reload"] = json!([]);
        });

        // The same of a push: Git, and what Git starts at the remote.
        let remote = bare(self.site, "remote.git");
        self.site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": remote}));
        let hook = self.site.at.path("remote.git/hooks/pre-receive");
        gate.become_hook(&hook);
        let running = self.site.at.spawn(self.command(&["rotate", POLICY], ""));
        gate.reached().await;
        self.learn().await;
        let seen = self.see_processes(&running);
        for part in ["push", "receive-pack", "pre-receive"] {
            assert!(seen.iter().any(|arguments| arguments.contains(part)), "no {part} in {seen:?}");
        }
        gate.open().await;
        let answer: Answer = running.end().await.ended(0);
        self.seen.see("a rotation that waits for its push", answer.to_string());
        std::fs::remove_file(hook).expect("removed");
    }

    async fn adopt(&mut self, user: &str, value: &str, code: i32) {
        self.canaries.add(value.as_bytes());
        let arguments = ["adopt", POLICY, "--principal", user, "--log", "trace"];
        let answer = self.site.at.run_with(&arguments, format!("{value}\n").as_bytes()).await.ended(code);
        self.seen.see("what `adopt` prints", answer.to_string());
    }

    fn check(&self, statement: &str) {
        self.site.at.change_policy(NAME, |policy| {
            policy["spec"]["target"]["postgres"]["check"] = json!(statement);
        });
    }

    /// A process in the middle of a rotation has the value in its memory, where the search finds it.
    async fn working_process(&mut self, tally: &mut Tally) {
        let running = self.site.at.spawn(self.command(&["rotate", POLICY], "verify/target.probe=stop"));
        assert!(running.stands_still().await, "it ended");
        self.learn().await;
        let memory: Vec<u8> = memory_of(running.pid()).into_values().flatten().collect();
        tally.control(&self.canaries.scanner(), "the memory of a rotation", &memory);
        running.signal(Signal::CONT);
        running.end().await.ended(0);
    }

    /// A daemon that has done everything, and has nothing more to do.
    async fn idle_daemon(&mut self) -> Daemon {
        self.site.at.change_settings(|settings| settings["listen"] = json!("127.0.0.1:0"));
        // Something to finish when it starts.
        self.run(&["rotate", POLICY], "verify/target.probe=killBefore").await;
        let mut daemon = self.site.at.daemon_with(&["--log", "trace"]).await;
        if !daemon.seen.iter().any(|entry| entry["message"] == "rotation closed") {
            daemon.says_of(POLICY, "rotation closed").await;
        }
        for command in ["rotate", "contain"] {
            assert_eq!(self.run(&[command, POLICY], "").await, Some(0), "{command}");
        }
        // A candidate that comes to nothing is known while it is checked only.
        self.check("select 1 / 0 from (select pg_sleep(1)) as slept");
        daemon.says("policies read").await;
        let running = self.site.at.spawn(self.command(&["rotate", POLICY], ""));
        soon("there is a candidate", async || self.site.candidate().await.is_some()).await;
        self.learn().await;
        let answer = running.end().await.ended(1);
        self.seen.see("a rotation whose candidate is refused", answer.to_string());
        self.check("select 1");
        daemon.says("policies read").await;
        // The value in force is tried between rotations, and nothing of it stays either.
        for (every, found) in [("1s", true), ("24h", false)] {
            self.site.at.change_policy(NAME, |policy| policy["spec"]["verify"] = json!({"every": every}));
            daemon.says("policies read").await;
            if found {
                let verified = async || self.site.status().await["verified"]["finding"] == "accepted";
                soon("the value is tried", verified).await;
            }
        }
        self.run(&["status"], "").await;
        for path in ["/metrics", "/readyz", "/healthz"] {
            self.seen.see(path, format!("{:?}", daemon.http(path).await));
        }
        daemon
    }

    fn see_log(&mut self, place: &str, log: &[Value]) {
        assert!(!log.is_empty(), "{place} is empty");
        for entry in log {
            self.seen.see(place, entry.to_string());
        }
    }

    /// The arguments and environments of a command and of all that it started, and what that started. Gives
    /// the arguments.
    fn see_processes(&mut self, running: &Running) -> Vec<String> {
        let (mut pids, mut seen) = (vec![running.pid().to_string()], Vec::new());
        while let Some(pid) = pids.pop() {
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process") {
                let children = task.expect("a task").path().join("children");
                pids.extend(read(&children).split_whitespace().map(ToOwned::to_owned));
            }
            for file in ["cmdline", "environ"] {
                let path = format!("/proc/{pid}/{file}");
                let bytes = std::fs::read(&path).expect("a process");
                if file == "cmdline" {
                    seen.push(String::from_utf8_lossy(&bytes).replace('\0', " "));
                }
                self.seen.see(&path, bytes);
            }
        }
        assert!(seen.len() > 1, "the command has no child");
        seen
    }

    /// Every file that is not a reader's, and the ledger's objects, reachable or not.
    fn see_files(&mut self) {
        for repository in ["ledger.git", "remote.git"] {
            let objects = git_bytes(&self.site.at.path(repository), ALL_OBJECTS);
            self.seen.see(format!("the objects of {repository}"), objects);
        }
        let mut folders = vec![self.site.at.path("")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path: PathBuf = entry.expect("an entry").path();
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                let is_meant = path == self.site.file()
                    || ["admin.password", "store.key", "bao.token"].contains(&name.as_str());
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file() && !is_meant {
                    self.seen.see(path.display().to_string(), std::fs::read(&path).expect("a file"));
                }
            }
        }
    }

    /// What the servers wrote down.
    async fn see_servers(&mut self) {
        let world = &self.site.world;
        self.seen.see("PostgreSQL's log", log_of(world));
        self.seen.see("PostgreSQL's statistics", world.server.statistics().await);
        if let Some(bao) = &self.site.bao {
            let log = std::fs::read_to_string(bao.server.audit_log()).expect("an audit log");
            let tells = |line: &str| line.contains(&bao.mount.name) && line.contains("hmac-sha256:");
            assert!(log.lines().any(tells), "OpenBao's audit log tells nothing of this mount");
            self.seen.see("OpenBao's audit log", log);
        }
    }

    /// A daemon that crashes leaves no memory behind; a careless process does.
    async fn core_files(&self, tally: &mut Tally) {
        let folder = self.site.at.path("tmp");
        let shell = |program: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("ulimit -c unlimited; {program}")]).current_dir(&folder);
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
            command
        };
        let binary = env!("CARGO_BIN_EXE_rekeyd");
        let settings = self.site.at.path("rekeyd.yaml");
        let daemon = format!("exec {binary} --config {} run --log-format json", settings.display());
        let mut daemon = Daemon::new(shell(&daemon).spawn().expect("a shell"));
        daemon.says("ready").await;
        tally.places += 1;
        if daemon.crashed().await {
            tally.hits.push("a core file of the daemon".into());
        }
        let mut careless = shell("echo here; exec sleep 60").spawn().expect("a shell");
        assert!(careless.stdout.as_mut().expect("a pipe").read_u8().await.is_ok());
        tally.controls += 1;
        let pid = Pid::from_raw(careless.id().expect("a process").cast_signed()).expect("a process");
        rustix::process::kill_process(pid, Signal::ABORT).expect("it is there");
        if !careless.wait().await.expect("a status").core_dumped() {
            tally.missed.push("a core file of a careless process".into());
        }
    }
}

const ALL_OBJECTS: &[&str] = &["cat-file", "--batch-all-objects", "--batch"];

/// A value in each form, and in each kind of place.
async fn controls(site: &Site, awkward: &str, scanner: &Scanner, tally: &mut Tally) {
    let value = read(&site.file()).lines().nth(1).expect("a value").to_owned();
    for (form, written, width) in forms_of(value.as_bytes()) {
        let part = &written[written.len() - width..];
        tally.control(scanner, form, &[b"something before", part, b"and after"].concat());
    }
    // By encoders of others, of a part of a value, within something else.
    for value in [value.as_str(), awkward] {
        let from = value.len() / 2 - 6;
        let part: String = value.chars().skip(from).take(13).collect();
        for before in ["", "u", "user:", "user=x&password="] {
            let whole = format!("{before}{part}.");
            tally.control(scanner, "base64 by others", STANDARD.encode(&whole).as_bytes());
            tally.control(scanner, "base64url by others", URL_SAFE.encode(&whole).as_bytes());
        }
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        tally.control(scanner, "a form by others", form.append_pair("password", &part).finish().as_bytes());
        let mut address = url::Url::parse("http://host/").expect("an address");
        address.path_segments_mut().expect("a path").push(&part);
        tally.control(scanner, "an address by others", address.as_str().as_bytes());
        let object = json!({"password": part});
        tally.control(scanner, "JSON by others", object.to_string().as_bytes());
        tally.control(scanner, "JSON in JSON by others", json!(object.to_string()).to_string().as_bytes());
        tally.control(
            scanner,
            "a debug form by others",
            format!("{:x?}", part.as_bytes()).replace(", ", "").as_bytes(),
        );
        let wide: Vec<u8> = part.encode_utf16().flat_map(u16::to_le_bytes).collect();
        tally.control(scanner, "UTF-16 by others", &wide);
    }
    tally.control(scanner, "a reader's file", &std::fs::read(site.file()).expect("a file"));

    let forged = site.at.path("forged.git");
    git(&site.at.path(""), &["clone", "-q", "--bare", "ledger.git", "forged.git"]);
    git(&forged, &["hash-object", "-w", site.file().to_str().expect("a path")]);
    tally.control(scanner, "an object that no commit has", &git_bytes(&forged, ALL_OBJECTS));

    let mut careless = careless(&value).await;
    let pid = careless.id().expect("a process");
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).expect("a process");
        tally.control(scanner, file, &bytes);
    }
    let memory = memory_of(pid).into_values().flatten().collect::<Vec<u8>>();
    tally.control(scanner, "a process's memory", &memory);
    drop(careless.stdin.take());
    let output = careless.wait_with_output().await.expect("an end");
    tally.control(scanner, "a process's output", &output.stdout);

    let careless = credential_of(&site.world.name("careless"), &value);
    site.world.sql(&format!("CREATE ROLE {{p}}_careless PASSWORD '{}'", text(&careless))).await;
    tally.control(scanner, "PostgreSQL's log", &log_of(&site.world));
    let client = site.world.server.superuser("postgres").await;
    client.query("SELECT $1::text", &[&awkward]).await.expect("an answer");
    tally.control(scanner, "PostgreSQL's log, a parameter", &log_of(&site.world));
    tally.control(scanner, "PostgreSQL's statistics", site.world.server.statistics().await.as_bytes());
    if let Some(bao) = &site.bao {
        bao.server.call("GET", &format!("{}/data/{value}", bao.mount.name), json!({}));
        let log = std::fs::read(bao.server.audit_log()).expect("an audit log");
        tally.control(scanner, "OpenBao's audit log", &log);
    }
}

/// A process that has a value in its arguments, its environment, its memory and its output.
async fn careless(value: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "echo \"$0\"; read -r line", value]).env("VALUE", value);
    let piped = || std::process::Stdio::piped();
    let mut child = command.stdin(piped()).stdout(piped()).kill_on_drop(true).spawn().expect("sh starts");
    // Right after its start a process has no arguments yet.
    let stdout = child.stdout.as_mut().expect("a pipe");
    let first = stdout.read_u8().await;
    assert!(first.is_ok());
    child
}

/// A server's log, with the lines of others too: what a statement was given stands in lines of its own.
fn log_of(world: &World) -> Vec<u8> {
    let log = std::fs::read(&world.server.at().log).expect("a log");
    let tells = |line: &[u8]| {
        let has = |text: &str| memchr::memmem::find(line, text.as_bytes()).is_some();
        has(world.name("").as_str()) && has("ALTER ROLE")
    };
    assert!(log.split(|byte| *byte == b'\n').any(tells), "PostgreSQL's log tells nothing of this world");
    log
}

/// A value that every encoder has to do something about, and that nobody else has.
fn awkward() -> String {
    let draw = || -> String { std::iter::repeat_with(fastrand::alphanumeric).take(16).collect() };
    format!("{}\"\\/%+é&={}", draw(), draw())
}

/// What a process may write to: its heap, its stacks, its data.
fn memory_of(pid: u32) -> BTreeMap<String, Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let maps = read(Path::new(&format!("/proc/{pid}/maps")));
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("the memory: run the tests as root");
    let mut regions = BTreeMap::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().expect("a range"), words.next().expect("rights"));
        let name = words.nth(3).unwrap_or("anonymous");
        if !rights.starts_with("rw") || name.starts_with("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let mut bytes = vec![0; usize::try_from(address(to) - address(from)).expect("a size")];
        if memory.read_exact_at(&mut bytes, address(from)).is_ok() {
            regions.insert(format!("{name} {range}"), bytes);
        }
    }
    assert!(!regions.is_empty(), "no memory was read");
    regions
}
