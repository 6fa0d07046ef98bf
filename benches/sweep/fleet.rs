//! rekeyd with one policy for each user or pair of users, all due at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rekeyd::adapters::Wiring;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::ident::Version;
use rekeyd::ledger::LedgerReader;
use rekeyd::policy::load::Loaded;
use rekeyd::rotation::engine::Adapters;
use rekeyd::service::{Action, Attention, Catalog, EndingKind, Hub, Request, Service};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::daemon::Daemon;
use super::site::{IN_FILES, Site};
use super::unproven::Unproven;
use super::{Outcome, users};

/// Policies of one team: each has a namespace of its own.
const TEAM: usize = 20;

/// What the daemon needs at most to read its policies before they are due.
const LEAD: SignedDuration = SignedDuration::from_secs(5);

/// Whether rekeyd tries the values that it sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logins {
    Tried,
    /// See [`Unproven`].
    Believed,
}

pub(super) struct Fleet {
    site: Site,
    target: Target,
    version: Version,
}

/// What the policy of a number rotates: the field `target`, as a map in one line.
pub(super) type Target = Box<dyn Fn(usize) -> String + Send + Sync>;

impl Fleet {
    /// Gives each policy its first values: one, or for a pair two, after which each of its users has one.
    pub(super) async fn make(folder: &Path, admin: &Path, target: Target, firsts: usize) -> Outcome<Self> {
        let site = Site::make(folder, admin, IN_FILES)?;
        let mut fleet = Self { site, target, version: Version::NONE };
        for _ in 0..firsts {
            fleet.rotate_here(Logins::Believed, Asking::Request).await?;
        }
        Ok(fleet)
    }

    /// Has the daemon rotate everything by its schedule: from the moment at which all become due to the
    /// moment at which the last rotation is closed, its record in the ledger.
    pub(super) async fn rotate_by_daemon(&mut self) -> Outcome<f64> {
        let due = next_minute(SystemClock.now() + LEAD);
        let at = due.to_zoned_datetime(TimeZone::UTC);
        let cron = format!("{} {} * * *", at.minute(), at.hour());
        self.write_policies(&cron, None)?;
        let mut daemon = Daemon::start(&self.site.config())?;
        daemon.logs(&["scheduled"]).await?;
        if SystemClock.now() >= due {
            return Err("the daemon was not ready in time".into());
        }
        let mut last = due;
        for _ in 0..users() {
            let (at, entry) = daemon.logs(&["rotation closed"]).await?;
            if entry["outcome"] != "rotated" {
                return Err(format!("a rotation ended otherwise: {entry}").into());
            }
            last = last.max(at);
        }
        daemon.stop().await?;
        self.check()?;
        Ok(last.duration_since(due).as_secs_f64())
    }

    /// Rotates everything in this process, with all overdue at the start.
    pub(super) async fn rotate_in_process(&mut self, logins: Logins) -> Outcome<f64> {
        let took = self.rotate_here(logins, Asking::Schedule).await?;
        self.check()?;
        Ok(took)
    }

    async fn rotate_here(&mut self, logins: Logins, asking: Asking) -> Outcome<f64> {
        let never = "0 0 29 2 *";
        let loaded = self.write_policies(never, Some("1s"))?;
        let names: Vec<_> = loaded.policies.iter().map(|policy| policy.name().clone()).collect();
        let wiring = Arc::new(Wiring::new(&self.site.settings));
        let adapters: Arc<dyn Adapters> = match logins {
            Logins::Tried => wiring,
            Logins::Believed => Arc::new(Unproven(wiring)),
        };
        let service = Arc::new(Service::new(
            &self.site.settings,
            Catalog::new(loaded),
            adapters,
            Arc::new(SystemClock),
            Arc::new(Hub::new(Vec::new())),
            CancellationToken::new(),
        ));
        SystemClock.sleep(Duration::from_millis(1_100)).await;
        let looking = Arc::new(Semaphore::new(64));
        let began = Instant::now();
        let mut work = JoinSet::new();
        for policy in names {
            let (service, looking) = (Arc::clone(&service), Arc::clone(&looking));
            work.spawn(async move {
                match asking {
                    Asking::Schedule => {
                        let permit = looking.acquire_owned().await.expect("the semaphore is never closed");
                        let looked = CancellationToken::new();
                        let looking = looked.clone().drop_guard();
                        tokio::spawn(async move {
                            looked.cancelled().await;
                            drop(permit);
                        });
                        matches!(service.attend(&policy, looking).await, Attention::At(_))
                    }
                    Asking::Request => {
                        let request = Request {
                            policy,
                            action: Action::Rotate,
                            request: None,
                            reason: None,
                            patience_seconds: 60,
                        };
                        let (events, _) = tokio::sync::mpsc::unbounded_channel();
                        service.perform(&request, "bench", events).await.ending == EndingKind::Rotated
                    }
                }
            });
        }
        while let Some(rotated) = work.join_next().await {
            if !rotated? {
                return Err("a rotation did not end as it should".into());
            }
        }
        if asking == Asking::Request {
            self.version = self.version.next();
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Every policy is one version further, and the ledger says so.
    fn check(&mut self) -> Outcome<()> {
        self.version = self.version.next();
        let versions = LedgerReader::new(&self.site.settings.ledger.path, None).current_versions()?;
        let complete =
            versions.len() == users() && versions.values().all(|(version, _)| *version == self.version);
        if complete { Ok(()) } else { Err("the ledger is not complete".into()) }
    }

    fn write_policies(&self, cron: &str, max_age: Option<&str>) -> Outcome<Loaded> {
        let policies: String = (0..users()).map(|number| self.policy(number, cron, max_age)).collect();
        self.site.write_policies("policies.yaml", &policies)
    }

    fn policy(&self, number: usize, cron: &str, max_age: Option<&str>) -> String {
        let team = number / TEAM;
        let max_age = max_age.map(|age| format!(", maxAge: {age}")).unwrap_or_default();
        format!(
            "apiVersion: rekeyd.dev/v1alpha1\n\
             kind: RotationPolicy\n\
             metadata: {{name: service-{number}, namespace: team-{team}}}\n\
             spec:\n\
             \x20 owner: team-{team}@example.com\n\
             \x20 schedule: {{cron: \"{cron}\"{max_age}}}\n\
             \x20 target: {}\n\
             \x20 store: {{name: main, path: team-{team}/service-{number}}}\n\
             \x20 retire: {{grace: 0s}}\n\
             ---\n",
            (self.target)(number)
        )
    }
}

/// What makes a rotation in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    Request,
    Schedule,
}

/// The first full minute after a moment.
fn next_minute(after: Timestamp) -> Timestamp {
    let second = after.as_second().div_euclid(60) * 60 + 60;
    Timestamp::from_second(second).expect("a minute from now is a time")
}
