//! `rekeyd status`: where policies stand.

use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{Cell, Color};
use jiff::tz::TimeZone;

use super::output::{self, BAD, FAINT, Format};
use super::session::{self, Local};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::PolicyName;
use crate::rotation::progress::Step;
use crate::settings::Settings;
use crate::status::{State, Status};

pub(super) async fn run(config: Option<PathBuf>, only: Option<PolicyName>, format: Format) -> ExitCode {
    let settings = match session::settings(config, format) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let statuses = match read(&settings, only.as_ref()).await {
        Ok(statuses) => statuses,
        Err(failure) => return output::refused(&failure, format),
    };
    match format {
        Format::Json => output::json(&statuses),
        Format::Text => print(&statuses),
    }
    let any = |state| statuses.iter().any(|status| status.state == state);
    match (any(State::InDoubt), any(State::Unknown)) {
        (true, _) => ExitCode::from(3),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    }
}

async fn read(settings: &Settings, only: Option<&PolicyName>) -> Result<Vec<Status>, Failure> {
    match session::daemon(settings).await? {
        Some(daemon) => daemon.status(only).await,
        None => Local::start(settings).await.service.status(only).await,
    }
}

fn print(statuses: &[Status]) {
    let mut table = output::table(&["POLICY", "STATE", "VERSION", "AGE", "NEXT", "WHY"]);
    for status in statuses {
        let colour = match status.state {
            State::Ready => Color::Green,
            State::Rotating | State::Empty => Color::Yellow,
            State::InDoubt | State::Owing | State::Drifted | State::Overdue | State::Unknown => Color::Red,
        };
        let age = status.age_seconds.map(output::span).unwrap_or_default();
        let age = match status.max_age {
            Some(limit) => format!("{age} of {limit}"),
            None => age,
        };
        let next = status.next_due.map(|at| output::minute(at, &TimeZone::system())).unwrap_or_default();
        table.add_row([
            Cell::new(&status.policy),
            output::cell(status.state.as_str(), colour),
            Cell::new(status.version),
            Cell::new(age),
            Cell::new(next),
            Cell::new(status.next_cause.as_deref().unwrap_or_default()),
        ]);
    }
    output::line(&table);
    for status in statuses {
        details(status);
    }
}

/// What does not fit a line: an open rotation, what is wrong, what failed last.
fn details(status: &Status) {
    let policy = &status.policy;
    if let Some(open) = &status.open {
        let driven = if open.driven { "running" } else { "no process here drives it" };
        output::line(format_args!(
            "\n{policy}: rotation {} to {} [{}] by {}, step {} ({driven})",
            open.rotation, open.to, open.trigger, open.requested_by, open.step
        ));
        if let Some(detail) = &open.detail {
            output::line(format_args!("  {detail}"));
        }
        if let Some(act_by) = open.act_by {
            let late = if act_by < SystemClock.now() { ", which has passed" } else { "" };
            let by = output::minute(act_by, &TimeZone::system());
            output::line(format_args!("  waits for a person, who has until {by}{late}"));
        }
        if let Some(known) = open.known {
            output::line(format_args!(
                "  the target: candidate {}, current value {}",
                known.candidate.as_str(),
                known.current.as_str()
            ));
        }
        if !open.driven && status.problem.is_none() {
            let supply = match (open.act_by, open.step) {
                (Some(_), Step::Mint) => "hand the key over with `rekeyd supply`, and ",
                _ => "",
            };
            let abandon =
                if open.may_abandon { ", or give it up with `rekeyd resume --abandon`" } else { "" };
            output::line(format_args!(
                "  {FAINT}remedy:{FAINT:#} {supply}finish it with `rekeyd resume {policy}`{abandon}"
            ));
        }
    }
    if let Some(problem) = &status.problem {
        output::line(format_args!("\n{policy}: {BAD}{}{BAD:#}", problem.what));
        if let Some(remedy) = &problem.remedy {
            output::line(format_args!("  {FAINT}remedy:{FAINT:#} {remedy}"));
        }
    }
    if let Some(failure) = status.last.as_ref().and_then(|last| last.failure.as_ref()) {
        output::line(format_args!("\n{policy}: the last rotation came to nothing: {failure}"));
    }
}
