//! A site that faults are played on: what happens before, who comes after, and who watches.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rekeyd::ledger::{GitLedger, Ledger as _, Record};
use rekeyd::proving::Mutant;
use rekeyd::secret::Credential;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use super::scene::Scene;
use super::sweep::{Case, Deed};
use super::witness::Witness;
use super::{Kind, Pair};
use crate::installation::read;
use crate::postgres_support::{World, credential_of, soon, text, verifier};
use crate::processes::{Answer, Daemon, Running, answer};
use crate::site::*;

/// By these settings processes run that find no daemon to ask.
pub(super) const HEIR: &str = "heir.yaml";

/// What the reader's reload command does: a line for each time that it is told.
const TOLD: &str = "echo told >> \"$0\"";

/// How long a try to push takes at most.
const PUSH: Duration = Duration::from_secs(20);

/// A site, and who watches it.
pub(super) struct Stage {
    pub(super) site: Site,
    pub(super) witness: Witness,
    /// A bug that every process has from now on.
    pub(super) mutant: Option<Mutant>,
    pair: Pair,
    plays: usize,
    /// How often another process went on with the policy while one stood still.
    taken_over: usize,
}

impl Stage {
    pub(super) async fn new(pair: Pair, scene: Scene) -> Self {
        let world = World::small().await;
        let mut site = match pair.kind {
            Kind::InPlace => Site::in_place_on(world).await,
            Kind::Alternating | Kind::Generated => Site::alternating_on(world).await,
        };
        if pair.kind == Kind::Generated {
            site.at.change_policy(NAME, |policy| policy["spec"]["target"] = json!({"generated": {}}));
        }
        if pair.in_openbao {
            site.move_to_openbao();
        }
        if scene.has_a_remote() {
            let remote = bare(&site, "remote.git");
            site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": remote}));
        }
        let told = site.at.path("told");
        std::fs::write(&told, "").expect("written");
        site.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["file"]["reload"] = json!(["/bin/sh", "-c", TOLD, told]);
        });
        site.at.copy_settings(HEIR, |settings| settings["socket"] = json!("heir.sock"));
        let witness = Witness::new(pair, scene.has_a_remote());
        let mut stage = Self { site, witness, mutant: None, pair, plays: 0, taken_over: 0 };
        if !scene.begins_without_a_value() {
            stage.command(&["rotate", POLICY]).await.ended(0);
            stage.witness.at_rest(&stage.site, "in the beginning").await;
        }
        stage
    }

    /// How often another process went on with the policy while one stood still.
    pub(super) const fn taken_over(&self) -> usize {
        self.taken_over
    }

    /// Plays one case, and gives the points that were reached.
    pub(super) async fn play(&mut self, case: &Case) -> BTreeSet<String> {
        self.plays += 1;
        let old = if case.scene.begins_without_a_value() { None } else { Some(self.site.delivered()) };
        let grace = if case.scene == Scene::Lingering { "1s" } else { "1h" };
        let verified = if case.scene == Scene::Verify { "1s" } else { "24h" };
        let fails = matches!(case.scene, Scene::Back | Scene::BackAgain | Scene::BackForeign);
        let check = if fails { "select 1 / 0" } else { "select 1" };
        self.site.at.change_policy(NAME, |policy| {
            policy["spec"]["retire"]["grace"] = json!(grace);
            policy["spec"]["verify"] = json!({"every": verified, "onRefusal": "rotate"});
        });
        self.check(check);
        let session = match (&old, case.scene) {
            (Some(old), Scene::Lingering) => Some(self.site.world.connect(old).await.expect("a session")),
            _ => None,
        };
        self.prepare(case.scene).await;

        let before = self.told();
        let log = self.site.at.path("reached");
        let _ = std::fs::remove_file(&log);
        let mut asked = format!("{}#1={}", case.point.name, case.deed.word());
        if let Some(halt) = case.scene.halt() {
            asked = format!("{halt}#1=stop,{asked}");
        }
        let arguments: &[&str] = match case.scene {
            Scene::Resume | Scene::BackAgain | Scene::BackForeign | Scene::Doubted => &["resume", POLICY],
            Scene::Kept => &["resume", POLICY, "--keep-current"],
            Scene::Abandon => &["resume", POLICY, "--abandon"],
            Scene::Attend | Scene::AttendLost | Scene::Verify => &["run"],
            Scene::Contain => &["contain", POLICY],
            Scene::OneAway => &["rotate", POLICY, "--patience", "1s"],
            _ => &["rotate", POLICY],
        };
        let mut command = self.site.at.command(arguments);
        command.env("REKEYD_DISTURB", asked).env("REKEYD_REACHED", &log);
        let running = self.spawn(command);

        let halts = usize::from(case.scene.halt().is_some()) + usize::from(case.deed == Deed::Stop);
        for halt in 0..halts {
            if !running.stands_still().await {
                break;
            }
            self.witness.between(&self.site, "while it stands still").await;
            if halt == 0 && case.scene == Scene::Deleted {
                std::fs::remove_file(self.site.file()).expect("a reader's file");
            } else {
                self.somebody_else().await;
            }
            running.signal(Signal::CONT);
        }
        let is_daemon = arguments == ["run"];
        if is_daemon && !case.deed.kills() {
            soon("the daemon gets there", async || is_in(&log, case.point.name)).await;
            self.command(&["rotate", POLICY, "--patience", "2s"]).await;
            running.signal(Signal::TERM);
        }
        let ended = self.end(running).await;
        let reached: BTreeSet<String> = read(&log).lines().map(ToOwned::to_owned).collect();
        assert!(reached.contains(case.point.name), "it does not get there: {ended}");
        if case.deed.kills() {
            assert_eq!(ended.code, None, "it is not killed: {ended}");
        }
        self.witness.between(&self.site, "after the fault").await;
        if case.scene == Scene::OneAway {
            std::fs::create_dir(self.site.at.path("away")).expect("a folder");
        }

        self.site.at.change_policy(NAME, |policy| policy["spec"]["retire"]["grace"] = json!("0s"));
        self.heirs(&ended).await;
        if matches!(case.scene, Scene::Fetch | Scene::Kept) {
            // The next process puts the lost folder and the remote together; readers get what they can use.
            self.command(&["rotate", POLICY]).await.ended(0);
            self.witness.store_is_foreign = false;
        }
        self.witness.at_rest(&self.site, "in the end").await;
        self.told_once(before, case);
        if self.witness.store_is_foreign {
            self.take_over().await;
        }
        if let Some(session) = session
            && self.site.delivered() != old.expect("it had a session")
        {
            let answer = session.simple_query("select 1").await;
            assert!(answer.is_err(), "I5: a session of the outgoing value lives");
        }
        reached
    }

    /// What the target has to answer with a candidate.
    fn check(&self, statement: &str) {
        if self.pair.kind != Kind::Generated {
            self.site.at.change_policy(NAME, |policy| {
                policy["spec"]["target"]["postgres"]["check"] = json!(statement);
            });
        }
    }

    /// How often the reader was told, and the versions that there are.
    fn told(&self) -> (usize, usize) {
        let ledger = self.site.at.path("ledger.git");
        let versions = if ledger.exists() {
            let names = git(&ledger, &["ls-tree", "--name-only", "main", &format!("records/{POLICY}/")]);
            let version = |name: &str| name.rsplit('/').next()?.split_once('-')?.0.parse().ok();
            names.lines().filter_map(version).max().unwrap_or(0)
        } else {
            0
        };
        (read(&self.site.at.path("told")).lines().count(), versions)
    }

    /// A reader is told once of a version: once more only where a command may have run whose end nobody saw.
    /// In place a rotation that is given up tells it of the value that it had.
    fn told_once(&self, before: (usize, usize), case: &Case) {
        let after = self.told();
        let (told, versions) = (after.0 - before.0, after.1 - before.1);
        let name = case.point.name;
        // A push goes on beside the steps: whoever is killed in it may be telling its reader.
        let unseen =
            ["file.", "git.push."].iter().any(|at| name.starts_with(at)) || name.contains("consumer.");
        let given_back = matches!(
            case.scene,
            Scene::Back | Scene::BackAgain | Scene::BackForeign | Scene::Kept | Scene::Abandon
        );
        let most = versions + usize::from(unseen) + 2 * usize::from(given_back);
        assert!(told <= most, "I9: told {told} times of {versions} versions");
    }

    /// Somebody puts right what somebody else wrote to the store: the reader's value works.
    async fn take_over(&mut self) {
        let live = self.site.delivered();
        self.check("select 1");
        let arguments = ["adopt", POLICY, "--replace", "--principal", live.principal.as_str()];
        self.site.at.run_with(&arguments, format!("{}\n", text(&live)).as_bytes()).await.ended(0);
        // It tells people of its steps.
        self.witness.knows_last(&self.site).await;
        self.witness.store_is_foreign = false;
        self.witness.at_rest(&self.site, "when the live value was taken over").await;
    }

    /// The last word on a site: it rotates as ever, and everything is recorded, here and at the remote.
    pub(super) async fn finish(&mut self) {
        self.check("select 1");
        self.command(&["rotate", POLICY]).await.ended(0);
        self.witness.at_rest(&self.site, "at last").await;
        self.site.at.run(&["audit", "verify"]).await.ended(0);
        self.witness.chain(&self.site);
        self.witness.all_is_pushed(&self.site);
        self.witness.ledger_holds_no_value(&self.site);
    }

    /// What has to have happened before the process starts.
    async fn prepare(&mut self, scene: Scene) {
        match scene {
            Scene::Resume | Scene::Abandon if self.pair.kind == Kind::Generated => {
                self.killed_at("open/store.save#1=killAfter").await;
            }
            Scene::Resume | Scene::Abandon => self.killed_at("install/target.install#1=killAfter").await,
            Scene::BackAgain => self.killed_at("turn/store.save#1=killAfter").await,
            Scene::BackForeign => {
                self.killed_at("turn/store.save#1=killAfter").await;
                self.overwrite_store().await;
            }
            Scene::Doubted => {
                self.killed_at("verify/target.probe#1=killAfter").await;
                self.overwrite_store().await;
            }
            Scene::Kept => {
                self.killed_at("verify/target.probe#1=killAfter").await;
                let foreign = self.overwrite_store().await;
                let role = foreign.principal.as_str();
                let verifier = verifier(text(&foreign));
                self.site.world.sql(&format!("ALTER ROLE \"{role}\" PASSWORD '{verifier}'")).await;
                self.command(&["resume", POLICY]).await.ended(3);
            }
            Scene::AttendLost => {
                self.command(&["rotate", POLICY]).await.ended(0);
                git(&self.site.at.path("ledger.git"), &["update-ref", "refs/heads/main", "main~1"]);
            }
            Scene::Merge => {
                let ledger = self.ledger("ledger.git");
                for version in 0..63 {
                    let record = stranger("others/filler", version);
                    ledger.append(&record, None, &[]).await.expect("the record is taken");
                }
            }
            Scene::Rebase => {
                let ledger = self.ledger("other.git");
                // It has to learn of what is there first.
                ledger.flush(PUSH).await.expect("a remote");
                let record = stranger(&format!("others/p{}", self.plays), 0);
                ledger.append(&record, None, &[]).await.expect("the record is taken");
                let state = ledger.flush(PUSH).await.expect("a remote");
                assert!(state.is_settled(), "{state:?}");
            }
            Scene::OneAway => {
                let second = json!({"file": {
                    "path": self.site.at.path("away/second.env"), "content": "{{ value }}",
                }});
                self.site.at.change_policy(NAME, |policy| {
                    policy["spec"]["consumers"].as_array_mut().expect("a list").push(second);
                });
            }
            Scene::Fetch => std::fs::remove_dir_all(self.site.at.path("ledger.git")).expect("removed"),
            _ => {}
        }
    }

    /// Somebody else writes to the store.
    async fn overwrite_store(&mut self) -> Credential {
        let foreign = credential_of(&self.site.delivered().principal, "set by somebody else");
        self.site.overwrite(&foreign).await;
        self.witness.store_is_foreign = true;
        foreign
    }

    async fn killed_at(&mut self, point: &str) {
        let mut command = self.site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", point);
        let ended = self.end(self.spawn(command)).await;
        assert_eq!(ended.code, None, "it is not killed: {ended}");
        self.witness.between(&self.site, "after the first death").await;
    }

    fn ledger(&self, folder: &str) -> GitLedger {
        let settings = rekeyd::settings::load(&self.site.at.path("rekeyd.yaml")).expect("settings");
        let mut ledger = settings.ledger;
        ledger.path = self.site.at.path(folder);
        GitLedger::open(&ledger).expect("a ledger")
    }

    /// Another process does what is left, or begins a rotation where none is open. It need not get far: who
    /// stands still may hold a lock.
    async fn somebody_else(&mut self) {
        let mut went_on = self.command(&["resume", POLICY, "--patience", "1s"]).await;
        if went_on.stdout.contains("no rotation of it is open") {
            went_on = self.command(&["rotate", POLICY, "--patience", "1s"]).await;
        }
        self.taken_over += usize::from(went_on.code == Some(0));
    }

    /// Whoever comes next finishes what is open. Where the fault came before anything was opened, a rotation
    /// goes as ever.
    async fn heirs(&mut self, ended: &Answer) {
        let opened = ended.stdout.contains("\"rotation\"");
        if !self.witness.is_open(&self.site).await && !opened && !self.witness.store_is_foreign {
            self.command(&["rotate", POLICY]).await;
        }
        self.finish_what_is_open().await;
    }

    pub(super) async fn finish_what_is_open(&mut self) {
        for _ in 0..3 {
            if !self.witness.is_open(&self.site).await {
                return;
            }
            self.command(&["resume", POLICY]).await;
        }
        assert!(!self.witness.is_open(&self.site).await, "I7: nobody can finish the rotation");
    }

    /// A command that is not disturbed, and has no daemon to ask: whoever holds the socket may stand still.
    pub(super) async fn command(&mut self, arguments: &[&str]) -> Answer {
        let mut command = self.site.at.command_by(HEIR, arguments);
        command.envs(self.mutant.map(|mutant| ("REKEYD_MUTANT", mutant.as_str())));
        let answer = answer(command).await;
        self.heed(&answer);
        answer
    }

    fn spawn(&self, mut command: Command) -> Running {
        command.envs(self.mutant.map(|mutant| ("REKEYD_MUTANT", mutant.as_str())));
        self.site.at.spawn(command)
    }

    pub(super) fn start(&self, settings: &str, arguments: &[&str]) -> Running {
        self.site.at.spawn(self.site.at.command_by(settings, arguments))
    }

    pub(super) async fn daemon(&self, settings: &str) -> Daemon {
        let mut command = self.site.at.command_by(settings, &["run", "--log-format", "json"]);
        let mut daemon = Daemon::new(command.spawn().expect("rekeyd starts"));
        daemon.says("ready").await;
        daemon
    }

    async fn end(&mut self, running: Running) -> Answer {
        let answer = running.end().await;
        self.heed(&answer);
        answer
    }

    /// Takes in which rotations a process told of.
    pub(super) fn heed(&mut self, answer: &Answer) {
        let lines = answer.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        self.heed_lines(&lines.collect::<Vec<_>>());
    }

    pub(super) fn heed_lines(&mut self, lines: &[Value]) {
        for line in lines {
            if let Some(rotation) = line["event"]["rotation"].as_str() {
                self.witness.rotations.insert(rotation.to_owned());
            }
        }
    }
}

fn is_in(log: &Path, point: &str) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.lines().any(|line| line == point))
}

/// A record of a policy that nobody here has.
fn stranger(policy: &str, from: u64) -> Record {
    let rotation = rekeyd::ident::RotationId::generate();
    serde_json::from_value(json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationRecord", "rotation": rotation, "policy": policy,
        "trigger": "manual", "request": format!("r{from}"), "requestedBy": "uid 0", "outcome": "rotated",
        "from": from, "to": from + 1, "strategy": "generated", "target": "generated",
        "principal": "app", "store": "other:app", "consumers": [], "policyHash": "ab".repeat(32),
        "openedAt": "2026-01-04T02:00:00Z", "closedAt": "2026-01-04T02:01:00Z", "writer": "rekeyd 0.1.0",
        "proof": {"newAccepted": true, "sessionsClosed": 0, "sessionsLeft": 0},
    }))
    .expect("a record")
}
