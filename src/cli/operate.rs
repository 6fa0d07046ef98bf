//! `rekeyd rotate`, `contain`, `resume`: has the daemon do it, or does it here when none runs.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::Operation;
use super::output::{self, BAD, DOUBTFUL, FAINT, Format, GOOD};
use super::session::{self, Local};
use crate::daemon::socket::Line;
use crate::failure::Failure;
use crate::policy::diagnostic::Diagnostic;
use crate::rotation::event::{Event, What};
use crate::service::{Action, Ending, EndingKind, Request};
use crate::settings::Settings;

pub(super) async fn run(config: Option<PathBuf>, action: Action, operation: Operation) -> ExitCode {
    let terminal = std::io::stdout().is_terminal();
    let format = operation.output.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let mut progress = Progress::new(format, terminal);
    let settings = match session::read_settings(config) {
        Ok(settings) => settings,
        Err((failure, diagnostics)) => return progress.end_invalid(&failure, &diagnostics),
    };
    let request = Request {
        policy: operation.policy,
        action,
        request: operation.request,
        reason: operation.reason,
        patience_seconds: operation.patience.as_duration().as_secs(),
    };
    match perform(&settings, &request, &mut progress).await {
        Ok(ending) => progress.end(ending),
        Err(failure) => progress.end(Ending::failed(&failure)),
    }
}

async fn perform(settings: &Settings, request: &Request, progress: &mut Progress) -> Result<Ending, Failure> {
    if let Some(daemon) = session::daemon(settings).await? {
        return daemon.perform(request, |event| progress.tell(event)).await;
    }
    let local = Local::start(settings).await;
    local.heed_signals();
    let (events, happening) = mpsc::unbounded_channel();
    let requester = session::requester();
    let ending = progress.watch(local.service.perform(request, &requester, events), happening).await;
    local.finish().await;
    Ok(ending)
}

/// Shows what happens, as it happens.
pub(super) struct Progress {
    format: Format,
    spinner: Option<ProgressBar>,
    /// What can be done about a candidate that was given up: it is told then, and the record that tells the
    /// ending has no place for it.
    remedy: Option<String>,
}

impl Progress {
    pub(super) fn new(format: Format, terminal: bool) -> Self {
        let spinner = (terminal && format == Format::Text).then(|| {
            let style = ProgressStyle::with_template("  {spinner:.cyan} {msg}").expect("a literal template");
            let spinner = ProgressBar::new_spinner().with_style(style);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { format, spinner, remedy: None }
    }

    /// Runs work to its end and shows its events meanwhile.
    pub(super) async fn watch<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut happening: mpsc::UnboundedReceiver<Event>,
    ) -> T {
        tokio::pin!(work);
        let answer = loop {
            tokio::select! {
                biased;
                Some(event) = happening.recv() => self.tell(&event),
                answer = &mut work => break answer,
            }
        };
        while let Ok(event) = happening.try_recv() {
            self.tell(&event);
        }
        answer
    }

    pub(super) fn tell(&mut self, event: &Event) {
        if let What::TurnedBack { remedy, .. } = &event.what {
            self.remedy.clone_from(remedy);
        }
        if self.format == Format::Json {
            let line =
                serde_json::to_string(&Line::Event(event.clone())).expect("an event has only string keys");
            output::line(&line);
            return;
        }
        match &event.what {
            What::Opened => self.line(format!("{} -> {} [{}]", event.policy, event.version, event.trigger)),
            What::Resumed => self
                .line(format!("{} -> {} [{}], taken up again", event.policy, event.version, event.trigger)),
            What::Started { step } => self.spin(step.as_str().to_owned()),
            What::Done { step, elapsed, detail } => {
                let detail = detail.as_ref().map(|detail| format!("  {detail}")).unwrap_or_default();
                let elapsed = elapsed.as_secs_f64() * 1_000.0;
                self.line(format!(
                    "  {GOOD}done{GOOD:#}  {step:<9}{FAINT}{elapsed:>8.1} ms{FAINT:#}{detail}"
                ));
            }
            What::Retrying { step, failure, .. } => {
                self.line(format!("  {DOUBTFUL}again{DOUBTFUL:#} {step:<9}  {failure}"));
            }
            What::Waiting { step, detail } => self.spin(format!("{step}: {detail}")),
            What::TurnedBack { step, failure, .. } => {
                self.line(format!("  {BAD}back{BAD:#}  {step:<9}  {failure}"));
            }
            What::InDoubt { .. }
            | What::Parked { .. }
            | What::Stopped { .. }
            | What::Lost { .. }
            // The ending says it.
            | What::GivenUp { .. }
            | What::Closed { .. } => {}
        }
    }

    /// Says that the settings are invalid. The line that ends the stream names the first mistake only.
    pub(super) fn end_invalid(self, failure: &Failure, diagnostics: &[Diagnostic]) -> ExitCode {
        session::print_diagnostics(diagnostics);
        match self.format {
            Format::Json => self.end(Ending::failed(failure)),
            Format::Text => ExitCode::FAILURE,
        }
    }

    /// Says how it ended, and answers with the exit code for it.
    pub(super) fn end(self, mut ending: Ending) -> ExitCode {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        if matches!(ending.ending, EndingKind::RolledBack | EndingKind::Abandoned) {
            ending.remedy = ending.remedy.or(self.remedy);
        }
        let code = ending.ending.exit_code();
        match self.format {
            Format::Json => {
                let line =
                    serde_json::to_string(&Line::Ending(ending)).expect("an ending has only string keys");
                output::line(&line);
            }
            Format::Text => match ending.ending {
                EndingKind::Rotated | EndingKind::Repeated => {
                    output::line(format_args!("{GOOD}{}{GOOD:#}", ending.message));
                }
                _ => output::failure(&ending.message, ending.remedy.as_deref()),
            },
        }
        ExitCode::from(code)
    }

    fn line(&self, text: String) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| output::line(&text)),
            None => output::line(&text),
        }
    }

    fn spin(&self, text: String) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text);
        }
    }
}
