//! `rekeyd plan`: the coming rotations.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::output::{self, Format};
use super::session::{self, Local};
use crate::clock::{Clock as _, SystemClock};
use crate::ident::PolicyName;
use crate::schedule::{Cause, Due, Facts, Schedule};

/// More than this many for one policy are not worth a table.
const MOST: usize = 1_000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned {
    policy: PolicyName,
    at: Timestamp,
    /// In the zone of this machine.
    local: String,
    /// In the policy's zone.
    in_zone: String,
    cause: String,
}

pub(super) async fn run(
    config: Option<PathBuf>,
    only: Option<PolicyName>,
    days: u16,
    format: Format,
) -> ExitCode {
    let settings = match session::settings(config) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let local = Local::start(&settings);
    let now = SystemClock.now();
    let until =
        now.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX);
    let mut planned = Vec::new();
    let statuses = match local.service.status(only.as_ref()).await {
        Ok(statuses) => statuses,
        Err(failure) => return output::refused(&failure),
    };
    let catalog = local.service.catalog();
    for status in statuses {
        let Some(policy) = catalog.policy(&status.policy) else { continue };
        let (Some(spec), Some(schedule)) = (&policy.spec().schedule, local.service.schedule(&policy)) else {
            continue;
        };
        // Nothing is known of a policy whose store is out of reach: it is planned as if made just now.
        let promoted_at = status.since.or(status.problem.is_some().then_some(now));
        let facts = Facts { promoted_at, handled: None, watched_since: now };
        let zone = spec.time_zone.as_time_zone();
        planned.extend(coming(&schedule, facts, now, until).map(|(at, cause)| Planned {
            policy: status.policy.clone(),
            at,
            local: output::minute(at, &TimeZone::system()),
            in_zone: output::minute(at, zone),
            cause: cause.to_string(),
        }));
    }
    planned.sort_by(|a, b| (a.at, &a.policy).cmp(&(b.at, &b.policy)));
    match format {
        Format::Json => output::json(&planned),
        Format::Text if planned.is_empty() => output::line(format_args!("nothing is due within {days} days")),
        Format::Text => {
            let mut table = output::table(&["LOCAL TIME", "POLICY", "IN ITS ZONE", "WHY"]);
            for each in planned {
                table.add_row([each.local, each.policy.to_string(), each.in_zone, each.cause]);
            }
            output::line(&table);
        }
    }
    ExitCode::SUCCESS
}

/// What the daemon would do, if every rotation succeeded at once.
fn coming(
    schedule: &Schedule,
    mut facts: Facts,
    now: Timestamp,
    until: Timestamp,
) -> impl Iterator<Item = (Timestamp, Cause)> + '_ {
    let mut at = now;
    std::iter::from_fn(move || {
        loop {
            match schedule.due(&facts, at) {
                Due::Now(cause) => {
                    facts.promoted_at = Some(at);
                    if let Cause::Cron(fire) = &cause {
                        facts.handled = Some(fire.nominal);
                    }
                    return Some((at, cause));
                }
                Due::At(next, _) if next > at && next < until => at = next,
                Due::At(..) | Due::Never(_) => return None,
            }
        }
    })
    .take(MOST)
}
