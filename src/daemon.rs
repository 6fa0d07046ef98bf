//! The daemon: composition root of `rekeyd run`. Reads policies, watches them, rotates what is due,
//! answers the socket and serves metrics, until told to stop.

mod http;
pub mod scheduler;
pub mod socket;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::scheduler::{Nudge, Scheduler};
use crate::adapters::Wiring;
use crate::clock::{Clock, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::policy::load::load_policies;
use crate::service::{Catalog, Hub, Service};
use crate::settings::Settings;
use crate::telemetry::{EventLog, Metrics};

/// How long a stopping daemon waits for the ledger's remote. What is not pushed stays queued in the ledger.
const FLUSH: Duration = Duration::from_secs(5);

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
    let hub = Arc::new(Hub::new(vec![Arc::new(EventLog), Arc::clone(&metrics) as _]));
    let stop = CancellationToken::new();
    let catalog = Catalog::new(read_policies(&settings).await);
    report(&catalog, &metrics);
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
    let scheduler =
        tokio::spawn(Scheduler::new(Arc::clone(&service), Arc::clone(&clock)).run(nudges, stop.clone()));
    let (changed, mut changes) = mpsc::channel(1);
    watch::watch(&settings.policies.directory, changed);
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
        let catalog = service.catalog().updated(read_policies(&settings).await, &settings);
        report(&catalog, &metrics);
        hub.retain(|policy| catalog.policy(policy).is_some());
        service.set_catalog(catalog);
        let _ = nudge.send(Nudge::PoliciesChanged);
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
    })
    .await;
    Ok(())
}

async fn read_policies(settings: &Arc<Settings>) -> crate::policy::load::Loaded {
    let settings = Arc::clone(settings);
    tokio::task::spawn_blocking(move || {
        load_policies(&settings.policies.directory, &settings, SystemClock.now())
    })
    .await
    .expect("reading policies does not panic and is not cancelled")
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
