//! Logs, and the metrics that `/metrics` serves.
//!
//! Both are fed by the rotation's events, and by nothing inside adapters. Labels and fields are names,
//! versions and classes.

use std::fmt::Write as _;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::ident::PolicyName;
use crate::rotation::decision::Verdicts;
use crate::rotation::event::{Event, Observer, What};
use crate::rotation::verification::Verification;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for people, in colour on a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Whether a text is a filter of logs; it is given back as it is.
///
/// # Errors
/// When it is none.
pub fn parse_filter(text: &str) -> Result<String, ParseError> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned())
}

/// Starts logging to standard error. `filter` has `tracing`'s syntax: `info`, `rekeyd=debug`. Drivers that
/// log what they send or receive stay off whatever it says.
pub fn start_logging(format: LogFormat, filter: &str, colour: bool) {
    let quiet = "rustify=off,vaultrs=off,reqwest=off,hyper=off,hyper_util=off,tokio_postgres=off,rustls=off,h2=off,\
                 aws_config=off,aws_credential_types=off,aws_runtime=off,aws_sdk_secretsmanager=off,aws_sdk_sts=off,\
                 aws_sigv4=off,aws_smithy_http=off,aws_smithy_json=off,aws_smithy_query=off,aws_smithy_runtime=off,\
                 aws_smithy_runtime_api=off,aws_smithy_types=off,aws_smithy_xml=off,aws_types=off";
    let filter = EnvFilter::builder().parse_lossy(format!("{filter},{quiet}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be told on standard error, where writing has just failed, and panic.
        .log_internal_errors(false);
    // A second start, in tests, keeps the first.
    let _ = match format {
        LogFormat::Pretty => builder.with_ansi(colour).with_target(false).try_init(),
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    };
}

/// Logs what happens to rotations.
#[derive(Debug, Default)]
pub struct EventLog;

impl Observer for EventLog {
    fn observe(&self, event: &Event) {
        let Event { policy, rotation, version, trigger, what, .. } = event;
        macro_rules! log {
            ($level:ident, $message:literal $(, $field:ident = $value:expr)*) => {
                tracing::$level!(%policy, %rotation, %version, %trigger $(, $field = $value)*, $message)
            };
        }
        match what {
            What::Opened => log!(info, "rotation opened"),
            What::Resumed => log!(info, "rotation taken up again"),
            What::Started { step } => log!(debug, "step started", step = step.as_str()),
            What::Done { step, elapsed, detail } => {
                let elapsed_ms = elapsed.as_secs_f64() * 1_000.0;
                log!(
                    debug,
                    "step done",
                    step = step.as_str(),
                    elapsed_ms = elapsed_ms,
                    detail = detail.as_deref()
                );
            }
            What::Retrying { step, class, failure, delay } => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                log!(
                    warn,
                    "step failed, trying again",
                    step = step.as_str(),
                    class = class.as_str(),
                    failure = failure.as_str(),
                    delay_ms = delay_ms
                );
            }
            What::Waiting { step, detail } => {
                log!(debug, "waiting", step = step.as_str(), detail = detail.as_str())
            }
            What::TurnedBack { step, failure, remedy } => {
                log!(
                    warn,
                    "candidate given up",
                    step = step.as_str(),
                    failure = failure.as_str(),
                    remedy = remedy.as_deref()
                );
            }
            What::InDoubt { step, doubt, known, remedy } => {
                let doubt = doubt.to_string();
                log!(
                    error,
                    "rotation in doubt",
                    step = step.as_str(),
                    doubt = doubt.as_str(),
                    candidate = known.candidate.as_str(),
                    current = known.current.as_str(),
                    remedy = remedy.as_str()
                );
            }
            What::Parked { step, failure, remedy } => {
                log!(
                    warn,
                    "rotation left open",
                    step = step.as_str(),
                    failure = failure.as_str(),
                    remedy = remedy.as_deref()
                );
            }
            What::Stopped { step } => log!(info, "stopping, rotation left open", step = step.as_str()),
            What::Lost { step } => log!(warn, "another process has the rotation", step = step.as_str()),
            What::GivenUp { request, requested_by, by } => {
                let request = request.to_string();
                log!(
                    warn,
                    "containment given up: what leaked is alive",
                    request = request.as_str(),
                    requested_by = requested_by.as_str(),
                    by = by.as_str()
                );
            }
            What::Closed { record, owed } => {
                log!(
                    info,
                    "rotation closed",
                    outcome = record.outcome.as_str(),
                    sessions_closed = record.proof.sessions_closed
                );
                if *owed {
                    let failure = record.failure.as_deref();
                    log!(warn, "a containment is owed: what leaked is alive", failure = failure);
                }
            }
        }
    }

    fn mended(&self, policy: &PolicyName, readers: &[String]) {
        let readers = readers.join(", ");
        tracing::warn!(%policy, readers, "somebody changed what readers find: the value in force is there again");
    }

    fn verified(&self, policy: &PolicyName, verification: &Verification) {
        let (version, finding) = (verification.version, verification.finding.as_str());
        match verification.finding.problem() {
            None => tracing::debug!(%policy, %version, finding, "value in force verified"),
            Some((problem, remedy)) => {
                tracing::error!(%policy, %version, finding, problem, remedy, "value in force has drifted");
            }
        }
    }
}

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    rotations: Family<RotationLabels, Counter>,
    steps: Family<StepLabels, Histogram>,
    failures: Family<FailureLabels, Counter>,
    verifications: Family<VerificationLabels, Counter>,
    mended: Counter,
    window: Histogram,
    containment: Histogram,
    unpushed: Gauge,
    policy_errors: Gauge,
    policies: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RotationLabels {
    outcome: &'static str,
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    step: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerificationLabels {
    finding: &'static str,
}

/// What `/metrics` says of one policy.
#[derive(Debug, Clone)]
pub struct PolicyGauge {
    pub policy: PolicyName,
    /// When the value in force was made.
    pub since: Option<Timestamp>,
    pub overdue: bool,
    /// A rotation is frozen: what is known of its values.
    pub doubt: Option<Verdicts>,
    /// A containment was asked for and is not done.
    pub owed: bool,
    pub open: bool,
    /// Its store could not be read the last time.
    pub unknown: bool,
    /// What came of trying the value in force the last time.
    pub verified: Option<Verification>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("rekeyd");
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            rotations: Family::default(),
            steps: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16))),
            failures: Family::default(),
            verifications: Family::default(),
            mended: Counter::default(),
            window: seconds(),
            containment: seconds(),
            unpushed: Gauge::default(),
            policy_errors: Gauge::default(),
            policies: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("rotations", "Closed rotations", metrics.rotations.clone());
        registry.register_with_unit("step", "Time that steps took", Unit::Seconds, metrics.steps.clone());
        registry.register(
            "step_failures",
            "Steps that failed and were tried again",
            metrics.failures.clone(),
        );
        registry.register(
            "verifications",
            "Values in force that were tried between rotations",
            metrics.verifications.clone(),
        );
        registry.register(
            "readers_mended",
            "Readers that somebody gave something else, and that got the value in force back",
            metrics.mended.clone(),
        );
        registry.register_with_unit(
            "outage_window",
            "Time in which readers held a value that the target refused",
            Unit::Seconds,
            metrics.window.clone(),
        );
        registry.register_with_unit(
            "containment",
            "Time from a containment's request to the proof that the old value is dead",
            Unit::Seconds,
            metrics.containment.clone(),
        );
        registry.register(
            "ledger_unpushed",
            "Records that the remote does not have yet",
            metrics.unpushed.clone(),
        );
        registry.register("policy_errors", "Errors in policy documents", metrics.policy_errors.clone());
        registry.register("policies", "Policies in force", metrics.policies.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Records that the remote does not have yet.
    pub fn set_unpushed(&self, records: usize) {
        self.unpushed.set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// Policies in force, and errors in their documents.
    pub fn set_policies(&self, in_force: usize, errors: usize) {
        self.policies.set(i64::try_from(in_force).unwrap_or(i64::MAX));
        self.policy_errors.set(i64::try_from(errors).unwrap_or(i64::MAX));
    }

    /// The text that `/metrics` serves.
    #[must_use]
    pub fn render(&self, policies: &[PolicyGauge], now: Timestamp) -> String {
        let mut text = String::with_capacity(4096 + policies.len() * 400);
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        let end = text.trim_end().trim_end_matches("# EOF").len();
        text.truncate(end);
        // One gauge a policy: rendered from what is known, not kept twice.
        type Value = fn(&PolicyGauge, Timestamp) -> Option<f64>;
        let families: [(&str, &str, Value); 8] = [
            ("rekeyd_credential_age_seconds", "Age of the value in force", |policy, now| {
                policy.since.map(|since| now.duration_since(since).as_secs_f64().max(0.0))
            }),
            ("rekeyd_credential_overdue", "1 when the value in force is older than allowed", |policy, _| {
                Some(f64::from(u8::from(policy.overdue)))
            }),
            ("rekeyd_in_doubt", "1 when a rotation is frozen until a person decides", |policy, _| {
                Some(f64::from(u8::from(policy.doubt.is_some())))
            }),
            (
                "rekeyd_containment_owed",
                "1 while a containment that came to nothing is to be done: what leaked is alive",
                |policy, _| Some(f64::from(u8::from(policy.owed))),
            ),
            ("rekeyd_rotation_open", "1 while a rotation is open", |policy, _| {
                Some(f64::from(u8::from(policy.open)))
            }),
            ("rekeyd_policy_unknown", "1 when the store of the policy could not be read", |policy, _| {
                Some(f64::from(u8::from(policy.unknown)))
            }),
            (
                "rekeyd_credential_verified_age_seconds",
                "Time since the value in force was last tried between rotations",
                |policy, now| {
                    policy.verified.map(|verified| now.duration_since(verified.at).as_secs_f64().max(0.0))
                },
            ),
            (
                "rekeyd_credential_drift",
                "1 when the value in force failed when it was last tried",
                |policy, _| policy.verified.map(|verified| f64::from(u8::from(verified.finding.is_drift()))),
            ),
        ];
        for (name, help, value) in families {
            let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
            for policy in policies {
                if let Some(value) = value(policy, now) {
                    // Names are DNS labels: nothing in them needs an escape.
                    let (namespace, name_label) = (policy.policy.namespace(), policy.policy.name());
                    let _ =
                        writeln!(text, "{name}{{namespace=\"{namespace}\",policy=\"{name_label}\"}} {value}");
                }
            }
        }
        let name = "rekeyd_doubt_value";
        let help = "What the target says of each value of a rotation in doubt";
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
        for policy in policies {
            let Some(known) = policy.doubt else { continue };
            let (namespace, label) = (policy.policy.namespace(), policy.policy.name());
            for (value, verdict) in [("candidate", known.candidate), ("current", known.current)] {
                let verdict = verdict.as_str();
                let _ = writeln!(
                    text,
                    "{name}{{namespace=\"{namespace}\",policy=\"{label}\",value=\"{value}\",verdict=\"{verdict}\"}} 1"
                );
            }
        }
        text.push_str("# EOF\n");
        text
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event) {
        match &event.what {
            What::Done { step, elapsed, .. } => {
                self.steps.get_or_create(&StepLabels { step: step.as_str() }).observe(elapsed.as_secs_f64());
            }
            What::Retrying { step, class, .. } => {
                let labels = FailureLabels { step: step.as_str(), class: class.as_str() };
                self.failures.get_or_create(&labels).inc();
            }
            What::Closed { record, .. } => {
                let labels =
                    RotationLabels { outcome: record.outcome.as_str(), trigger: record.trigger.as_str() };
                self.rotations.get_or_create(&labels).inc();
                if let Some(window) = record.window_ms {
                    self.window.observe(window as f64 / 1_000.0);
                }
                if let Some(contained) = record.contained_ms {
                    self.containment.observe(contained as f64 / 1_000.0);
                }
            }
            _ => {}
        }
    }

    fn mended(&self, _: &PolicyName, readers: &[String]) {
        self.mended.inc_by(readers.len() as u64);
    }

    fn verified(&self, _: &PolicyName, verification: &Verification) {
        let labels = VerificationLabels { finding: verification.finding.as_str() };
        self.verifications.get_or_create(&labels).inc();
    }
}
