//! The daemon: composition root of `rekeyd run`. Reads policies, watches them, rotates what is due,
//! answers the socket and serves metrics, until told to stop.

mod files;
mod http;
mod readers;
mod resources;
pub mod scheduler;
pub mod socket;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::readers::Watchman;
use self::resources::Reporter;
use self::scheduler::{Nudge, Scheduler};
use crate::adapters::Wiring;
use crate::clock::{Clock, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::PolicyName;
use crate::kubernetes::policies::Resources;
use crate::leader::Candidate;
use crate::policy::load::{Loaded, load_policies};
use crate::rotation::event::Observer;
use crate::service::{Catalog, Hub, Service};
use crate::settings::Settings;
use crate::telemetry::{EventLog, Metrics};

/// How long a stopping daemon waits for the ledger's remote. What is not pushed stays queued in the ledger.
const FLUSH: Duration = Duration::from_secs(5);

/// How long a starting daemon waits for the policies of its cluster.
const FIRST_SIGHT: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT. SIGHUP reads the policies again.
///
/// # Errors
/// When it cannot start: another daemon runs, an address is taken, the ledger cannot be opened.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let settings = Arc::new(settings);
    let _lock = socket::Lock::take(&settings.socket)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wiring = Arc::new(Wiring::new(&settings));
    let ledger = wiring.git_ledger()?;
    let metrics = Arc::new(Metrics::default());
    let (listener, events) = resources::listener();
    let mut observers: Vec<Arc<dyn Observer>> = vec![Arc::new(EventLog), Arc::clone(&metrics) as _];
    let resources = settings.policies.resources.clone().map(|resources| {
        observers.push(Arc::new(listener));
        Arc::new(Resources::new(Arc::clone(wiring.clusters()), resources))
    });
    let hub = Arc::new(Hub::new(observers));
    let stop = CancellationToken::new();
    let (changed, mut changes) = mpsc::channel(1);
    let (asked, asks) = mpsc::channel(1);
    if let Some(resources) = &resources {
        let (seen, mut all_seen) = watch::channel(false);
        tokio::spawn(Arc::clone(resources).watch(changed.clone(), asked, seen));
        if tokio::time::timeout(FIRST_SIGHT, all_seen.wait_for(|seen| *seen)).await.is_err() {
            tracing::warn!("the cluster does not show its policies yet: they come into force when it does");
        }
        let _ = changes.try_recv();
    }
    let (loaded, generations) = read_policies(&settings, resources.as_deref()).await;
    let catalog = Catalog::new(loaded);
    report(&catalog, &metrics);
    if let Some(resources) = &resources {
        resources.consider(generations);
    }
    let service = Arc::new(Service::new(
        &settings,
        catalog,
        wiring.for_engine(),
        Arc::clone(&clock),
        Arc::clone(&hub),
        stop.clone(),
    ));

    // All that may fail comes before the first rotation, and whoever reads "ready" may send signals.
    let (mut term, mut int, mut hup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let listener = match settings.listen {
        None => None,
        Some(address) => Some(http::listen(address).await?),
    };
    let listen = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (nudge, nudges) = mpsc::unbounded_channel();
    let socket = socket::serve(&settings.socket, Arc::clone(&service), nudge.clone(), stop.clone())?;
    let http = match listener {
        None => None,
        Some(listener) => {
            let state = http::Served::new(
                Arc::clone(&service),
                Arc::clone(&hub),
                metrics.clone(),
                Arc::clone(&wiring),
                Arc::clone(&ledger),
                Arc::clone(&clock),
            );
            Some(http::serve(listener, state, stop.clone()))
        }
    };
    let (leads, leadership) = watch::channel(settings.leader_election.is_none());
    let election = settings.leader_election.clone().map(|settings| {
        let candidate = Candidate::new(Arc::clone(wiring.clusters()), settings);
        tokio::spawn(candidate.run(leads, stop.clone()))
    });
    let scheduler = tokio::spawn(schedule(
        Arc::clone(&service),
        Arc::clone(&clock),
        nudges,
        leadership.clone(),
        stop.clone(),
    ));
    let (read, reads) = watch::channel(());
    if !settings.clusters.is_empty() {
        let watchman = Watchman {
            service: Arc::clone(&service),
            clusters: Arc::clone(wiring.clusters()),
            clock: Arc::clone(&clock),
            leads: leadership.clone(),
        };
        tokio::spawn(watchman.run(reads.clone(), stop.clone()));
    }
    if let Some(resources) = &resources {
        let reporter = Reporter {
            resources: Arc::clone(resources),
            service: Arc::clone(&service),
            clock: Arc::clone(&clock),
            leads: leadership,
            nudge: nudge.clone(),
        };
        tokio::spawn(reporter.run(events, reads, asks, stop.clone()));
        read.send_replace(());
    }
    if let Some(directory) = &settings.policies.directory {
        files::watch(directory, changed.clone());
    }
    tracing::info!(
        policies = service.catalog().policies().count(),
        socket = %settings.socket.display(),
        listen = listen.map(tracing::field::display),
        "ready"
    );

    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => {}
            Some(()) = changes.recv() => {}
        }
        let (loaded, generations) = read_policies(&settings, resources.as_deref()).await;
        let catalog = service.catalog().updated(loaded, &settings);
        report(&catalog, &metrics);
        hub.retain(|policy| catalog.policy(policy).is_some());
        service.set_catalog(catalog);
        if let Some(resources) = &resources {
            resources.consider(generations);
        }
        let _ = nudge.send(Nudge::PoliciesChanged);
        read.send_replace(());
    }

    tracing::info!("stopping");
    stop.cancel();
    let deadline = settings.shutdown_deadline.as_duration();
    let end = tokio::time::Instant::now() + deadline;
    if tokio::time::timeout_at(end, service.landed()).await.is_err() {
        // Every step is safe to die in: the next start takes the rotation up again.
        tracing::warn!(
            "a step did not finish before the deadline; its rotation is taken up at the next start"
        );
    }
    // What is left may wait for a remote, for a step that hangs, for a client that does not hang up: not beyond
    // the end.
    let _ = tokio::time::timeout_at(end, async {
        let _ = ledger.flush(FLUSH).await;
        let _ = tokio::join!(scheduler, socket);
        if let Some(http) = http {
            let _ = http.await;
        }
        // Whoever takes over need not wait for the end of the Lease.
        if let Some(election) = election {
            let _ = election.await;
        }
    })
    .await;
    Ok(())
}

/// Runs the scheduler while this process leads. What it was at is stopped when it does not any more.
async fn schedule(
    service: Arc<Service>,
    clock: Arc<dyn Clock>,
    mut nudges: mpsc::UnboundedReceiver<Nudge>,
    mut leads: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            // Whoever does not lead looks at everything when that changes.
            Some(_) = nudges.recv(), if !*leads.borrow() => continue,
            leading = leads.wait_for(|leads| *leads) => if leading.is_err() { return },
        }
        let term = stop.child_token();
        let (forward, forwarded) = mpsc::unbounded_channel();
        let scheduler = Scheduler::new(Arc::clone(&service), Arc::clone(&clock));
        let mut running = std::pin::pin!(scheduler.run(forwarded, term.clone()));
        loop {
            tokio::select! {
                () = &mut running => break,
                Some(nudge) = nudges.recv() => {
                    let _ = forward.send(nudge);
                }
                () = is_lost(&mut leads), if !term.is_cancelled() => {
                    term.cancel();
                    service.interrupt();
                }
            }
        }
    }
}

/// Ends when this process does not lead any more; never where nobody takes part in an election.
async fn is_lost(leads: &mut watch::Receiver<bool>) {
    if leads.wait_for(|leads| !*leads).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The policies, and the generations of those in a cluster.
async fn read_policies(
    settings: &Arc<Settings>,
    resources: Option<&Resources>,
) -> (Loaded, BTreeMap<PolicyName, Option<i64>>) {
    let settings = Arc::clone(settings);
    // First: a text may be newer than is said of it, and never older.
    let generations = resources.map(Resources::generations).unwrap_or_default();
    let texts = resources.map(Resources::texts).unwrap_or_default();
    let loaded = tokio::task::spawn_blocking(move || {
        load_policies(settings.policies.directory.as_deref(), &texts, &settings, SystemClock.now())
    })
    .await
    .expect("reading policies does not panic and is not cancelled");
    (loaded, generations)
}

/// Says what is wrong with documents, and which policies stay in force in spite of it.
fn report(catalog: &Catalog, metrics: &Metrics) {
    for diagnostic in catalog.diagnostics() {
        if diagnostic.is_error() {
            tracing::error!(%diagnostic, "policy document refused");
        } else {
            tracing::warn!(%diagnostic, "policy document");
        }
    }
    for policy in catalog.kept() {
        tracing::warn!(%policy, "policy stays in force as it was: its document has errors now");
    }
    let errors = catalog.diagnostics().iter().filter(|diagnostic| diagnostic.is_error()).count();
    let in_force = catalog.policies().count();
    metrics.set_policies(in_force, errors);
    tracing::info!(policies = in_force, errors, "policies read");
}

fn on(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(FailureClass::Invalid, "listen for signals", error.kind()))
}

/// The lock file beside the socket.
fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}
