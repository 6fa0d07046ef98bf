//! `make demo-cluster`: rekeyd as two pods, OpenBao as the store, an application of three replicas and a canary, and
//! another application that crashes for a reason of its own.

mod stage;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::process::ChildStdout;
use tokio::time::{interval, timeout};

use self::stage::{APP, CANARY, KIND, Login, NAME, REPORTS, Stage};
use super::Outcome;
use super::director::shown;
use super::log::{Closed, Log};
use super::teller::Teller;

/// Scheduled rotations to watch before the leak.
const SCHEDULED: usize = 2;

/// Pods are known to have started before whatever happens so much later.
const SKEW: Duration = Duration::from_secs(7);

/// No rotation takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often `kubectl` is asked again.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run() -> Outcome<()> {
    let teller = Teller::new();
    teller.tell("setting the stage: PostgreSQL, OpenBao, and rekeyd as two pods of a Kubernetes of its own");
    let stage = Stage::set().await?;
    let mut play = Play::begin(&stage, &teller).await?;
    play.watch_the_schedule().await?;
    play.contain_a_leak().await?;
    play.make_a_mistake().await?;
    play.hold_back().await?;
    play.end().await
}

struct Play<'a> {
    stage: &'a Stage,
    teller: &'a Teller,
    log: Log<ChildStdout>,
    _following: tokio::process::Child,
    seen: Vec<Login>,
    rotations: usize,
    containments: usize,
    rolled_back: usize,
    held_back: usize,
}

impl<'a> Play<'a> {
    /// The first value, and the application on it.
    async fn begin(stage: &'a Stage, teller: &'a Teller) -> Outcome<Self> {
        let mut following = stage
            .kubectl("rekeyd")
            .args(["logs", "--follow", "--selector=app.kubernetes.io/name=rekeyd", "--max-log-requests=9"])
            .stdout(Stdio::piped())
            .spawn()?;
        let log = Log::new(following.stdout.take().ok_or("no log")?);
        let mut play = Self {
            stage,
            teller,
            log,
            _following: following,
            seen: Vec::new(),
            rotations: 0,
            containments: 0,
            rolled_back: 0,
            held_back: 0,
        };
        stage.create_policy().await?;
        play.ask("rotate", "first").await?;
        play.closed().await?;
        stage.create_application().await?;
        teller.tell("the application runs: 3 pods and a canary log in with the Secret for every query");
        Ok(play)
    }

    async fn watch_the_schedule(&mut self) -> Outcome<()> {
        self.teller.tell("kubectl patch: the policy allows an age of 2 s now, so a rotation is always due");
        self.stage.allow_age(Some("2s")).await?;
        for round in 1..=SCHEDULED {
            timeout(PATIENCE, self.log.opened()).await??;
            if round == SCHEDULED {
                let leader = self.stage.leader().await?;
                let gone = ["delete", "pod", &leader, "--grace-period=0", "--force"];
                self.stage.says("rekeyd", &gone).await?;
                self.teller.bad(&format!("{leader}, which was at it, is killed without a word"));
            }
            self.closed().await?;
        }
        self.stage.allow_age(None).await?;
        self.stage.settled().await
    }

    async fn contain_a_leak(&mut self) -> Outcome<()> {
        let leaked = self.login().await?;
        self.teller.bad(&format!("the password of {} leaks: an attacker logs in and stays", leaked.user));
        let attacker = self.stage.open(&leaked).await?;
        attacker.query_one("select count(*) from orders", &[]).await?;
        self.ask("contain", "found-in-a-public-repository").await?;
        // One that was due at that moment is finished first.
        while self.closed().await?.trigger != "contain" {}
        if attacker.query_one("select count(*) from orders", &[]).await.is_ok() {
            return Err("the attacker's session still works".into());
        }
        self.teller.good("the attacker's session is dead, and the password refused");
        Ok(())
    }

    /// The application refuses to start as one user of the pair.
    async fn make_a_mistake(&mut self) -> Outcome<()> {
        let login = self.login().await?;
        let orders = self.stage.server.superuser("orders").await?;
        orders.execute("update allowed set name = $1", &[&login.user]).await?;
        self.teller.bad(&format!("the application's own list of users has {} alone now", login.user));
        // Of a pod that started right before a change nobody knows for sure what it found: clocks differ.
        SystemClock.sleep(SKEW).await;
        let before = self.stage.pods(APP).await?;
        self.ask("rotate", "with-a-mistake").await?;
        let outcome = self.closed().await?.outcome;
        if outcome != "rolledBack" || self.stage.login().await? != login {
            return Err(format!("the canary did not catch it ({outcome})").into());
        }
        if self.stage.pods(APP).await? != before {
            return Err("pods besides the canary saw the value that failed".into());
        }
        self.teller.good("the canary crashed with it, the value is taken back, no other pod ever saw it");
        orders.execute("update allowed set name = 'anybody'", &[]).await?;
        self.teller.tell("the application's list has both users again");
        Ok(())
    }

    /// An application that was not well before says nothing about a new value, and may need the old one.
    async fn hold_back(&mut self) -> Outcome<()> {
        self.stage.create_reports().await?;
        let why = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
        self.until(&["get", "pods", "--selector=app=reports", "-o", why], "CrashLoopBackOff").await?;
        self.teller.bad("another application that reads the Secret, reports, crashes: a table is missing");
        let before = self.login().await?;
        self.ask("rotate", "mended").await?;
        let message = ["get", KIND, NAME, "-o", "jsonpath={.status.message}"];
        let said = self.until(&message, "it was not well before the rotation").await?;
        self.teller.tell(&format!("kubectl {}", message.join(" ")));
        self.teller.tell(&said);
        // Restarted at the same time, and not held up by it.
        let app = format!("deployment/{APP}");
        self.stage.says("orders", &["rollout", "status", &app, "--timeout=60s"]).await?;
        if self.stage.login().await? == before || self.stage.open(&before).await.is_err() {
            return Err("the rotation did not wait for what crashed before".into());
        }
        self.held_back += 1;
        self.teller.good("nothing is taken back: the others run with the new value, the old one still works");
        self.stage.mend_reports().await?;
        self.teller.tell("the table is there now, and reports starts again");
        let outcome = self.closed().await?.outcome;
        if outcome != "rotated" || self.stage.open(&before).await.is_ok() {
            return Err(format!("the old value did not end with the wait ({outcome})").into());
        }
        self.teller.good("reports runs with the new value, and the old one is refused");
        Ok(())
    }

    /// What `kubectl` prints, once a text is in it.
    async fn until(&self, arguments: &[&str], text: &str) -> Outcome<String> {
        let mut look = interval(LOOK);
        let said = async {
            loop {
                look.tick().await;
                let said = self.stage.says("orders", arguments).await?;
                if said.contains(text) {
                    return Ok(said);
                }
            }
        };
        timeout(PATIENCE, said).await?
    }

    /// Asks by an annotation, as anybody may who may annotate the policy.
    async fn ask(&self, verb: &str, request: &str) -> Outcome<()> {
        let annotation = format!("rekeyd.dev/{verb}={request}");
        self.teller.tell(&format!("kubectl annotate rotationpolicy {NAME} {annotation}"));
        self.stage.says("orders", &["annotate", "rotationpolicy", NAME, &annotation, "--overwrite"]).await?;
        Ok(())
    }

    /// Waits until a rotation has closed; how.
    async fn closed(&mut self) -> Outcome<Closed> {
        let closed = timeout(PATIENCE, self.log.rotation()).await??;
        self.teller.tell(&format!("{} {}", closed.line, closed.outcome));
        match (closed.outcome.as_str(), closed.trigger.as_str()) {
            ("rolledBack", _) => self.rolled_back += 1,
            (_, "contain") => self.containments += 1,
            _ => self.rotations += 1,
        }
        self.login().await?;
        Ok(closed)
    }

    /// What the Secret holds now. It is remembered: none of them but the last may work in the end.
    async fn login(&mut self) -> Outcome<Login> {
        let login = self.stage.login().await?;
        if !self.seen.contains(&login) {
            self.seen.push(login.clone());
        }
        Ok(login)
    }

    async fn end(mut self) -> Outcome<()> {
        self.stage.settled().await?;
        let current = self.stage.login().await?;
        self.seen.retain(|login| *login != current);
        let mut refused = 0;
        for login in &self.seen {
            refused += usize::from(self.stage.open(login).await.is_err());
        }
        self.stage.open(&current).await?;
        let (queries, failed) = self.stage.counted().await?;
        // The first value was there before them. A canary meets one that fails, too, and goes back.
        let asked = self.rotations + self.containments - 1;
        let asked = [(APP, asked), (CANARY, asked + 2 * self.rolled_back), (REPORTS, self.held_back)];
        let mut restarts = Vec::new();
        for (name, asked) in asked {
            restarts.push((name, self.stage.restarts(name).await?, asked));
        }
        let leader = self.stage.leader().await?;
        println!(
            "\n$ kubectl get rotationpolicies\n{}",
            self.stage.says("orders", &["get", "rotationpolicies"]).await?
        );
        // Without a remote each pod keeps what it did itself, and what it found unrecorded.
        let audit =
            ["exec", &leader, "--", "/bin/rekeyd", "audit", "log", "--config", "/etc/rekeyd/rekeyd.yaml"];
        let recorded = self.stage.says("rekeyd", &audit).await?;
        println!("$ kubectl exec {leader} -- rekeyd audit log\n{recorded}");
        let result = json!({
            "rotations": self.rotations,
            "containments": self.containments,
            "rolledBack": self.rolled_back,
            "heldBack": self.held_back,
            "queries": queries,
            "failedQueries": failed,
            "oldValues": self.seen.len(),
            "oldValuesRefused": refused,
            "restartsPerWorkload": restarts.iter().map(|(name, count, _)| ((*name).to_owned(), json!(count))).collect::<serde_json::Map<String, Value>>(),
            "seconds": self.teller.began.elapsed().as_secs_f64(),
        });
        let path = self.stage.folder.join("result.json");
        fs::write(&path, serde_json::to_vec_pretty(&result)?)?;
        println!(
            "{} rotations ({} held back for a while), {} containment, {} taken back",
            self.rotations, self.held_back, self.containments, self.rolled_back
        );
        println!("{queries} queries by the application, {failed} failed");
        println!("{refused} of {} old values refused at a login", self.seen.len());
        let told = restarts.iter().map(|(name, count, asked)| format!("{name} {count} of {asked}"));
        println!("restarts, of those asked for: {}", told.collect::<Vec<_>>().join(", "));
        println!("written to {}", shown(&path));
        let good = failed == 0
            && queries > 0
            && refused == self.seen.len()
            && refused > 1
            && recorded.contains("rolledBack")
            && restarts.iter().all(|(_, count, asked)| count == asked)
            && self.rolled_back == 1
            && self.held_back == 1
            && self.containments == 1;
        if good { Ok(()) } else { Err("this is not how it should have ended".into()) }
    }
}
