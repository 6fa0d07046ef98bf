//! What a command needs: settings, policies, and a service to ask, here or in the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::output::{self, Format, Refusal};
use crate::adapters::Wiring;
use crate::clock::{Clock as _, SystemClock};
use crate::daemon::socket::Client;
use crate::failure::{Failure, FailureClass};
use crate::kubernetes::Clusters;
use crate::kubernetes::policies::Resources;
use crate::policy::diagnostic::{self, Diagnostic};
use crate::policy::load::{Loaded, load_policies};
use crate::service::{Catalog, Hub, Service};
use crate::settings::{self, Settings};

/// How long a command waits for its record to reach the ledger's remote.
const FLUSH: Duration = Duration::from_secs(10);

/// Reads the settings; what is wrong with them is printed.
pub(super) fn settings(flag: Option<PathBuf>, format: Format) -> Result<Settings, ExitCode> {
    read_settings(flag).map_err(|(failure, diagnostics)| {
        match format {
            Format::Json => output::json(&Refusal::new(&failure, &diagnostics)),
            Format::Text => print_diagnostics(&diagnostics),
        }
        ExitCode::FAILURE
    })
}

/// Reads the settings, for a command that says itself what is wrong with them.
pub(super) fn read_settings(flag: Option<PathBuf>) -> Result<Settings, (Failure, Vec<Diagnostic>)> {
    let path = settings::locate(flag);
    settings::load(&path).map_err(|diagnostics| {
        let doing = format!("use the settings {}", path.display());
        let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
        let failure = Failure::new(FailureClass::Invalid, doing, first)
            .with_remedy("`rekeyd check` shows everything that is wrong");
        (failure, diagnostics)
    })
}

/// What is wrong with documents, on standard error.
pub(super) fn print_diagnostics(diagnostics: &[Diagnostic]) {
    if output::stderr_takes_colour() {
        let width = console::Term::stderr().size().1;
        output::remark(format_args!("{}", diagnostic::graphical(diagnostics, usize::from(width), true)));
    } else {
        for diagnostic in diagnostics {
            output::remark(format_args!("{diagnostic}"));
        }
    }
}

/// All policies that the settings name.
///
/// # Errors
/// When the cluster that some of them are in does not show them.
pub(super) async fn policies(settings: &Settings) -> Result<Loaded, Failure> {
    let texts = match &settings.policies.resources {
        None => Vec::new(),
        Some(resources) => {
            let clusters = Arc::new(Clusters::new(&settings.clusters, settings.limits));
            let resources = Resources::new(clusters, resources.clone());
            resources.list().await?;
            resources.texts()
        }
    };
    Ok(load_policies(settings.policies.directory.as_deref(), &texts, settings, SystemClock.now()))
}

/// Those of the policy directory alone.
pub(super) fn files(settings: &Settings) -> Loaded {
    load_policies(settings.policies.directory.as_deref(), &[], settings, SystemClock.now())
}

/// Does the work in this process.
pub(super) struct Local {
    pub(super) service: Service,
    wiring: Arc<Wiring>,
    /// Cancelled by SIGINT and SIGTERM: the running step finishes, the rotation is left open.
    stop: CancellationToken,
}

impl Local {
    /// Policies with errors are left out and printed; the others are in force.
    pub(super) async fn start(settings: &Settings) -> Self {
        let loaded = policies(settings).await.unwrap_or_else(|failure| {
            output::remark(format_args!("{failure}: its policies are not known here"));
            files(settings)
        });
        print_diagnostics(
            &loaded.diagnostics.iter().filter(|each| each.is_error()).cloned().collect::<Vec<_>>(),
        );
        let wiring = Arc::new(Wiring::new(settings));
        let stop = CancellationToken::new();
        let service = Service::new(
            settings,
            Catalog::new(loaded),
            wiring.for_engine(),
            Arc::new(SystemClock),
            // What happens is shown by the command itself.
            Arc::new(Hub::new(Vec::new())),
            stop.clone(),
        );
        Self { service, wiring, stop }
    }

    /// Stops after the running step when this process is told to end.
    pub(super) fn heed_signals(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let stop = self.stop.clone();
        if let (Ok(mut term), Ok(mut int)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::spawn(async move {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                stop.cancel();
            });
        }
    }

    pub(super) const fn wiring(&self) -> &Arc<Wiring> {
        &self.wiring
    }

    /// Gives the ledger's push a moment. What is not pushed now stays queued in the ledger.
    pub(super) async fn finish(&self) {
        let Some(ledger) = self.wiring.opened_ledger() else { return };
        match ledger.flush(FLUSH).await {
            Ok(state) if !state.is_settled() => {
                let why = state.last_error.map(|failure| format!(": {failure}")).unwrap_or_default();
                tracing::warn!(ahead = state.ahead, "records are queued for the ledger's remote{why}");
            }
            Ok(_) => {}
            Err(failure) => tracing::warn!(%failure, "cannot read the ledger"),
        }
    }
}

/// The daemon, if one runs.
pub(super) async fn daemon(settings: &Settings) -> Result<Option<Client>, Failure> {
    Client::connect(&settings.socket).await
}

/// Who asks, when the work is done in this process.
pub(super) fn requester() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}
