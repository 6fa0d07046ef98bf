//! Keeps the Lease by which several daemons agree on who works. Leadership is data: a channel says whether this
//! process has it.
//!
//! A Lease is no fence: a process that was stopped for long may believe for a moment that it still leads. Nothing
//! rests on it but that two processes do not ask for the same. What keeps two of them from harming each other
//! is the compare-and-set of every store and the markers of targets.
//!
//! Whoever waits does not trust clocks: a Lease is given up when nothing of it changed for its whole
//! duration, by this process's own monotonic clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::core::ObjectMeta;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::kubernetes::{Clusters, failure};
use crate::settings::LeaderSettings;

/// So many renewals fit into the duration of a Lease.
const RENEWALS: u32 = 3;

/// Between two tries to reach the API server.
const PAUSE: Duration = Duration::from_millis(500);

/// One process's part in the election.
pub(crate) struct Candidate {
    clusters: Arc<Clusters>,
    settings: LeaderSettings,
}

/// The Lease as it was seen last, and since when it is unchanged: a request that fails in between begins no new term.
struct Sight {
    revision: Option<String>,
    since: Instant,
}

impl Candidate {
    pub(crate) const fn new(clusters: Arc<Clusters>, settings: LeaderSettings) -> Self {
        Self { clusters, settings }
    }

    /// Takes part until stopped, and gives the Lease back then. `leads` is true while this process has it.
    pub(crate) async fn run(self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut sight = Sight { revision: None, since: Instant::now() };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.wait_and_lead(&mut sight, &leads) => {}
            }
        }
        let led = leads.send_replace(false);
        if led && let Err(failure) = self.give_back().await {
            tracing::debug!(%failure, "the Lease runs out by itself");
        }
    }

    /// One turn: waits until nobody leads, leads, and ends when it does not any more.
    async fn wait_and_lead(&self, sight: &mut Sight, leads: &watch::Sender<bool>) {
        match self.wait(sight).await {
            Ok(()) => {}
            Err(failure) => {
                tracing::warn!(%failure, "cannot take part in the election");
                return SystemClock.sleep(PAUSE).await;
            }
        }
        tracing::info!(lease = %self.settings.name, identity = self.clusters.identity(), "leads");
        leads.send_replace(true);
        self.renew().await;
        leads.send_replace(false);
        tracing::warn!(lease = %self.settings.name, "does not lead any more");
    }

    /// Waits until the Lease is this process's.
    async fn wait(&self, sight: &mut Sight) -> Result<(), Failure> {
        let leases = self.leases().await?;
        let duration = self.settings.duration.as_duration();
        loop {
            let found = self.read(&leases).await?;
            let revision = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            if revision != sight.revision {
                *sight = Sight { revision, since: Instant::now() };
            }
            let holder = found.as_ref().and_then(holder);
            let is_free = holder.is_none_or(|holder| holder == self.clusters.identity());
            // What its holder wrote counts, should that be longer.
            let term = found.as_ref().and_then(term).unwrap_or(duration).max(duration);
            if (is_free || sight.since.elapsed() >= term) && self.take(&leases, found).await? {
                return Ok(());
            }
            if is_free {
                // Somebody else was quicker.
                continue;
            }
            self.until_changed(sight.revision.as_deref(), sight.since + term).await;
        }
    }

    /// Waits for news of the Lease, or until a moment.
    async fn until_changed(&self, seen: Option<&str>, end: Instant) {
        let fields = format!("metadata.name={}", self.settings.name);
        let seconds = self.settings.duration.as_duration().as_secs().max(1) * 4;
        let params = WatchParams::default()
            .fields(&fields)
            .disable_bookmarks()
            .timeout(u32::try_from(seconds).unwrap_or(60).min(290));
        let changed = async {
            let Ok(client) = self.clusters.watcher(&self.settings.cluster).await else { return };
            let leases: Api<Lease> = Api::namespaced(client, self.settings.namespace.as_str());
            match leases.watch(&params, seen.unwrap_or("0")).await {
                Ok(events) => {
                    let mut events = std::pin::pin!(events);
                    match events.next().await {
                        Some(Ok(WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_))) => {
                        }
                        _ => SystemClock.sleep(PAUSE).await,
                    }
                }
                Err(_) => SystemClock.sleep(PAUSE).await,
            }
        };
        let _ = timeout_at(end, changed).await;
    }

    /// Renews the Lease until it is lost: somebody else has it, or it could not be renewed in time.
    async fn renew(&self) {
        let duration = self.settings.duration.as_duration();
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep_until(renewed + duration / RENEWALS).await;
            // Who cannot renew must have stopped before somebody else begins.
            let end = renewed + duration * 2 / 3;
            loop {
                let began = Instant::now();
                match timeout_at(end, self.renew_once()).await {
                    Ok(Ok(true)) => {
                        renewed = began;
                        break;
                    }
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(failure)) => tracing::warn!(%failure, "cannot renew the Lease"),
                }
                if timeout_at(end, SystemClock.sleep(PAUSE)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Whether the Lease is this process's still.
    async fn renew_once(&self) -> Result<bool, Failure> {
        let leases = self.leases().await?;
        loop {
            let found = self.read(&leases).await?;
            if found.as_ref().and_then(holder) != Some(self.clusters.identity()) {
                return Ok(false);
            }
            // Somebody may have written to it and have left the holder as it is.
            if self.take(&leases, found).await? {
                return Ok(true);
            }
        }
    }

    /// Gives the Lease back, so that nobody has to wait for its end.
    async fn give_back(&self) -> Result<(), Failure> {
        let leases = self.leases().await?;
        let Some(mut lease) = self.read(&leases).await? else { return Ok(()) };
        if holder(&lease) != Some(self.clusters.identity()) {
            return Ok(());
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let replaced = leases.replace(self.settings.name.as_str(), &PostParams::default(), &lease).await;
        replaced.map(drop).map_err(|error| failure(&error, &self.doing("give back")))
    }

    /// Writes this process into the Lease as it was read; `false` when somebody else was quicker. Dying after that:
    /// nobody leads until its term has passed.
    async fn take(&self, leases: &Api<Lease>, found: Option<Lease>) -> Result<bool, Failure> {
        let now = moment(SystemClock.now());
        let seconds = i32::try_from(self.settings.duration.as_duration().as_secs()).unwrap_or(i32::MAX);
        let before = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_mine = before.holder_identity.as_deref() == Some(self.clusters.identity());
        let spec = LeaseSpec {
            holder_identity: Some(self.clusters.identity().to_owned()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now.clone()),
            acquire_time: if is_mine { before.acquire_time } else { Some(now) },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!is_mine)),
            ..LeaseSpec::default()
        };
        let name = self.settings.name.as_str();
        let written = match found {
            Some(lease) => {
                let lease = Lease { spec: Some(spec), ..lease };
                leases.replace(name, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
                leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match written {
            Ok(_) => {
                between!("kubernetes.lease.taken");
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(failure(&error, &self.doing("take"))),
        }
    }

    async fn read(&self, leases: &Api<Lease>) -> Result<Option<Lease>, Failure> {
        let found = leases.get_opt(self.settings.name.as_str()).await;
        found.map_err(|error| failure(&error, &self.doing("read")))
    }

    async fn leases(&self) -> Result<Api<Lease>, Failure> {
        let client = self.clusters.client(&self.settings.cluster).await?;
        Ok(Api::namespaced(client, self.settings.namespace.as_str()))
    }

    fn doing(&self, verb: &str) -> String {
        format!("{verb} Lease {}/{}", self.settings.namespace, self.settings.name)
    }
}

/// Who has it; nobody where that is empty.
fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn term(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

fn moment(at: Timestamp) -> MicroTime {
    let at = k8s_openapi::jiff::Timestamp::from_microsecond(at.as_microsecond());
    MicroTime(at.unwrap_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
}
