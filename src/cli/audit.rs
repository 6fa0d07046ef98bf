//! `rekeyd audit`: reads the ledger, and checks it against itself and the stores.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::{Cell, Color};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::Output;
use super::output::{self, BAD, FAINT, Format, GOOD};
use super::session::{self, Local};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::{PolicyName, Version};
use crate::ledger::{Entry, LedgerReader, LogFilter, Outcome, VerifyReport};
use crate::policy::spec::Interval;
use crate::settings::Settings;
use crate::status::State;

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Show who rotated what, when, and how it ended, newest first
    #[command(
        after_help = "Examples:\n  rekeyd audit log\n  rekeyd audit log orders/orders-db --since 90d -o json"
    )]
    Log {
        /// Only this policy
        policy: Option<PolicyName>,
        /// Only the latest ones
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
        /// Only those closed within this time
        #[arg(long, value_name = "TIME")]
        since: Option<Interval>,
        #[command(flatten)]
        output: Output,
    },
    /// Check that nothing in the ledger was changed or left out, and that the stores agree with it
    #[command(after_help = "Examples:\n  rekeyd audit verify\n  rekeyd audit verify -o json")]
    Verify {
        #[command(flatten)]
        output: Output,
    },
}

pub(super) async fn run(config: Option<PathBuf>, audit: Audit) -> ExitCode {
    let (Audit::Log { output, .. } | Audit::Verify { output }) = &audit;
    let settings = match session::settings(config, output.output) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let reader = LedgerReader::new(&settings.ledger.path, Some(&settings.ledger.branch));
    match audit {
        Audit::Log { policy, limit, since, output } => {
            let since = since
                .map(|since| SystemClock.now().saturating_sub(since.as_signed()).unwrap_or(Timestamp::MIN));
            log(&reader, &LogFilter { policy, since, limit }, output.output)
        }
        Audit::Verify { output } => verify(&reader, &settings, output.output).await,
    }
}

fn log(reader: &LedgerReader, filter: &LogFilter, format: Format) -> ExitCode {
    // Before the first rotation there is no ledger.
    let read = if reader.is_vacant() { Ok(Vec::new()) } else { reader.log(filter) };
    let entries = match read {
        Ok(entries) => entries,
        Err(failure) => return output::refused(&failure, format),
    };
    match format {
        Format::Json => output::json(&entries),
        Format::Text if entries.is_empty() => output::line(format_args!("no rotation is recorded")),
        Format::Text => print_log(&entries),
    }
    ExitCode::SUCCESS
}

fn print_log(entries: &[Entry]) {
    let zone = TimeZone::system();
    let mut table =
        output::table(&["CLOSED", "POLICY", "VERSIONS", "OUTCOME", "WHY", "BY", "OLD VALUE", "COMMIT"]);
    for Entry { commit, record } in entries {
        let colour = if record.outcome == Outcome::Rotated { Color::Green } else { Color::Red };
        let closed =
            record.closed_at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
        let old = match record.proof.old_refused {
            Some(true) => {
                let mut old = "refused".to_owned();
                if record.proof.sessions_closed > 0 {
                    old.push_str(&format!(", {} sessions closed", record.proof.sessions_closed));
                }
                if record.proof.sessions_left.is_none() {
                    old.push_str(", others may be left");
                }
                old
            }
            Some(false) => "not proven dead".into(),
            None => "-".into(),
        };
        let why = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        table.add_row([
            Cell::new(closed),
            Cell::new(&record.policy),
            Cell::new(format!("{} -> {}", record.from, record.to)),
            output::cell(record.outcome.as_str(), colour),
            Cell::new(format!("{}{why}", record.trigger)),
            Cell::new(&record.requested_by),
            Cell::new(old),
            Cell::new(commit.to_string().chars().take(10).collect::<String>()),
        ]);
    }
    output::line(&table);
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    verified: bool,
    ledger: VerifyReport,
    stores: Vec<Disagreement>,
}

/// A policy whose store and ledger do not say the same.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Disagreement {
    policy: PolicyName,
    what: String,
}

async fn verify(reader: &LedgerReader, settings: &Settings, format: Format) -> ExitCode {
    let ledger = match reader.verify(Some(&settings.ledger.author)) {
        Ok(report) => report,
        Err(failure) => return output::refused(&failure, format),
    };
    let stores = match compare(reader, settings).await {
        Ok(stores) => stores,
        Err(failure) => return output::refused(&failure, format),
    };
    let verified = ledger.is_clean() && stores.is_empty();
    match format {
        Format::Json => output::json(&Answer { verified, ledger, stores }),
        Format::Text => {
            for finding in &ledger.findings {
                output::line(format_args!(
                    "{BAD}ledger{BAD:#}  commit {}: {}",
                    finding.commit, finding.problem
                ));
            }
            for each in &stores {
                output::line(format_args!("{BAD}store{BAD:#}   {}: {}", each.policy, each.what));
            }
            let unpushed = match ledger.unpushed {
                Some(0) | None => String::new(),
                Some(count) => format!(", {FAINT}{count} not pushed yet{FAINT:#}"),
            };
            let records = output::plural(ledger.commits, "record", "records");
            let policies = output::plural(ledger.policies, "policy", "policies");
            let what = format!("{} {records} of {} {policies}{unpushed}", ledger.commits, ledger.policies);
            if verified {
                output::line(format_args!("{GOOD}verified{GOOD:#}: {what}; chain whole, stores agree"));
            } else {
                output::line(format_args!("{BAD}NOT VERIFIED{BAD:#}: {what}"));
            }
        }
    }
    if verified { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether each policy's store is at the version that the ledger recorded last, and its last rotation recorded.
async fn compare(reader: &LedgerReader, settings: &Settings) -> Result<Vec<Disagreement>, Failure> {
    let (recorded, rotations) = (reader.current_versions()?, reader.rotations()?);
    let statuses = Local::start(settings).await.service.status(None).await?;
    Ok(statuses
        .into_iter()
        .filter_map(|status| {
            let recorded = recorded.get(&status.policy).map_or(Version::NONE, |(version, _)| *version);
            let what = match (status.state, &status.problem) {
                (State::Unknown, Some(problem)) => problem.what.clone(),
                // Its record is the step after its promotion.
                _ if status.open.is_some() && status.version == recorded.next() => return None,
                _ if status.version != recorded => {
                    format!("the store is at {}, the ledger at {recorded}", status.version)
                }
                _ => match status.last {
                    Some(last) if !rotations.contains(&last.rotation) => {
                        format!(
                            "the ledger lacks its last rotation, {} ({}); `rekeyd run` and the next rotation record it again",
                            last.rotation, last.outcome
                        )
                    }
                    _ => return None,
                },
            };
            Some(Disagreement { policy: status.policy, what })
        })
        .collect())
}
