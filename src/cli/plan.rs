//! `rekeyd plan`: the coming rotations, and why a policy has none among them.
//!
//! It reads the stores itself, whether a daemon runs or not.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::output::{self, DOUBTFUL, FAINT, Format};
use super::session::{self, Local};
use crate::clock::{Clock as _, SystemClock};
use crate::ident::PolicyName;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::validate::version_budgets;
use crate::schedule::{Due, Facts, Schedule};
use crate::settings::VersionBudget;
use crate::status::{State, Status};

/// More than this many for one policy are not worth a table.
const MOST: usize = 1_000;

/// What `rekeyd plan -o json` prints. Every policy in force is in one of the first two lists at least.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    from: Timestamp,
    /// Rotations before this moment are planned.
    until: Timestamp,
    rotations: Vec<Planned>,
    /// Policies without a rotation in the plan.
    not_planned: Vec<Remark>,
    /// Policies whose rotations rest on something that is not known, and what that is.
    assumed: Vec<Remark>,
    /// Policies with more rotations than the plan shows.
    shortened: Vec<Remark>,
    /// Policies whose rotations use up most of what their store keeps of one secret.
    budgets: Vec<Remark>,
    /// What keeps documents from being in force: their policies are not in the plan.
    diagnostics: Vec<Diagnostic>,
}

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
    /// Whether it rests on something that is not known.
    assumed: bool,
}

/// Something to know of a policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Remark {
    policy: PolicyName,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

pub(super) async fn run(
    config: Option<PathBuf>,
    only: Option<PolicyName>,
    days: u16,
    format: Format,
) -> ExitCode {
    let settings = match session::settings(config, format) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let local = Local::start(&settings).await;
    let statuses = match local.service.status(only.as_ref()).await {
        Ok(statuses) => statuses,
        Err(failure) => return output::refused(&failure, format),
    };
    let catalog = local.service.catalog();
    let mut plan = Plan::new(SystemClock.now(), days);
    for status in statuses {
        let policy = catalog.policy(&status.policy);
        let schedule = policy.as_ref().and_then(|policy| local.service.schedule(policy));
        plan.take(&status, schedule.as_ref());
        if let Some(policy) = &policy {
            let budgets = version_budgets(policy.spec(), &settings).into_iter();
            if let Some((_, budget)) = budgets.min_by_key(|(_, budget)| budget.rotations()) {
                plan.account(&status.policy, budget);
            }
        }
    }
    plan.diagnostics = catalog.diagnostics().iter().filter(|each| each.is_error()).cloned().collect();
    plan.rotations.sort_by(|a, b| (a.at, &a.policy).cmp(&(b.at, &b.policy)));
    match format {
        Format::Json => output::json(&plan),
        Format::Text => print(&plan, days),
    }
    ExitCode::SUCCESS
}

impl Plan {
    fn new(from: Timestamp, days: u16) -> Self {
        let length = SignedDuration::from_hours(24 * i64::from(days));
        Self {
            from,
            until: from.saturating_add(length).unwrap_or(Timestamp::MAX),
            rotations: Vec::new(),
            not_planned: Vec::new(),
            assumed: Vec::new(),
            shortened: Vec::new(),
            budgets: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// Plans a policy: what the daemon would do if every rotation succeeded at once.
    fn take(&mut self, status: &Status, schedule: Option<&Schedule>) {
        let remark = |reason, remedy| Remark { policy: status.policy.clone(), reason, remedy };
        let problem = status.problem.as_ref().map(|problem| (problem.what.clone(), problem.remedy.clone()));
        let cause = status.next_cause.clone().unwrap_or_default();
        // Where this is not known, the value counts as made now: a time between others is better than none.
        let (first, assumption) = match (schedule, &status.open, problem) {
            (None, _, _) => return self.not_planned.push(remark(cause, None)),
            (Some(_), _, Some((what, remedy))) if status.state == State::InDoubt => {
                return self.not_planned.push(remark(what, remedy));
            }
            (Some(_), Some(open), _) => {
                let reason = format!("rotation {} is open at step {}", open.rotation, open.step);
                (None, Some(remark(format!("{reason}; planned as if it ended now"), None)))
            }
            (Some(_), None, Some((what, remedy))) if status.state == State::Unknown => {
                (None, Some(remark(format!("{what}; planned as if its value were made now"), remedy)))
            }
            (Some(_), None, problem) => match status.next_due {
                None => return self.not_planned.push(remark(cause, None)),
                Some(due) => {
                    let assume =
                        |(what, remedy)| remark(format!("{what}; planned as if it were not so"), remedy);
                    (Some((due, cause)), problem.map(assume))
                }
            },
        };
        let Some(schedule) = schedule else { return };
        let assumed = assumption.is_some();
        self.assumed.extend(assumption);

        let mut coming = coming(schedule, first, self.from).peekable();
        if let Some((at, cause)) = coming.next_if(|(at, _)| *at >= self.until) {
            let held = schedule.frozen(self.from).map(|freeze| {
                let why = freeze.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                format!("; a freeze holds rotations back until {}{why}", freeze.to)
            });
            let reason = format!("the next one is due at {at:.0}: {cause}{}", held.unwrap_or_default());
            return self.not_planned.push(remark(reason, None));
        }
        let before = self.rotations.len();
        let until = self.until;
        while let Some((at, cause)) = coming.next_if(|(at, _)| *at < until) {
            if self.rotations.len() - before == MOST {
                let reason = format!("only the first {MOST} are shown, those before {at:.0}");
                return self.shortened.push(remark(reason, None));
            }
            self.rotations.push(Planned {
                policy: status.policy.clone(),
                at,
                local: output::minute(at, &TimeZone::system()),
                in_zone: output::minute(at, schedule.zone()),
                cause,
                assumed,
            });
        }
        if self.rotations.len() == before {
            self.not_planned
                .push(remark("the schedule has no time left at which it could start".into(), None));
        }
    }
}

impl Plan {
    /// Says what the rotations of a policy leave of what its stores keep, if that is less than half.
    fn account(&mut self, policy: &PolicyName, budget: VersionBudget) {
        let times: Vec<Timestamp> =
            self.rotations.iter().filter(|each| each.policy == *policy).map(|each| each.at).collect();
        let within = SignedDuration::try_from(budget.within).unwrap_or(SignedDuration::MAX);
        let most = busiest(&times, within);
        let (versions, most_versions) = (most.saturating_mul(budget.per_rotation), budget.versions);
        if versions <= most_versions / 2 {
            return;
        }
        let reason = format!(
            "{most} rotations within a day may write {versions} versions of its secrets, and a secret has {most_versions} in a day"
        );
        let remedy = "let it rotate less often: a containment, and whatever is tried again, needs some, too";
        let remark = Remark { policy: policy.clone(), reason, remedy: Some(remedy.into()) };
        self.budgets.push(remark);
    }
}

/// The most times that are within a time of each other. They are in order.
fn busiest(times: &[Timestamp], within: SignedDuration) -> u32 {
    let (mut first, mut most) = (0, 0);
    for (last, time) in times.iter().enumerate() {
        while times[first].duration_until(*time) >= within {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// The rotations from `now` on, the first of which may be known already.
fn coming(
    schedule: &Schedule,
    mut first: Option<(Timestamp, String)>,
    now: Timestamp,
) -> impl Iterator<Item = (Timestamp, String)> + '_ {
    let mut at = now;
    std::iter::from_fn(move || {
        let (due, cause) = match first.take() {
            Some(first) => first,
            None => {
                // Whatever was handled before was promoted before, too.
                let facts =
                    Facts { promoted_at: Some(at), handled: None, watched_since: at, rolled_back_at: None };
                match schedule.due(&facts, at) {
                    Due::Now(cause) => (at, cause.to_string()),
                    Due::At(due, cause) => (due, cause.to_string()),
                    Due::Never(_) => return None,
                }
            }
        };
        at = due;
        Some((due, cause))
    })
}

fn print(plan: &Plan, days: u16) {
    if plan.rotations.is_empty() {
        output::line(format_args!("nothing is due within {days} days"));
    } else {
        let mut table = output::table(&["LOCAL TIME", "POLICY", "IN ITS ZONE", "WHY"]);
        for each in &plan.rotations {
            let why = if each.assumed { format!("{} (assumed)", each.cause) } else { each.cause.clone() };
            table.add_row([&each.local, &each.policy.to_string(), &each.in_zone, &why]);
        }
        output::line(&table);
    }
    for (title, remarks) in [
        ("not planned", &plan.not_planned),
        ("assumed", &plan.assumed),
        ("shortened", &plan.shortened),
        ("short of versions", &plan.budgets),
    ] {
        if !remarks.is_empty() {
            output::line(format_args!("\n{DOUBTFUL}{title}{DOUBTFUL:#}:"));
        }
        for Remark { policy, reason, remedy } in remarks {
            output::line(format_args!("  {policy}: {reason}"));
            if let Some(remedy) = remedy {
                output::line(format_args!("    {FAINT}remedy:{FAINT:#} {remedy}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_time_is_found_wherever_it_is() {
        let at = |hours: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        let day = SignedDuration::from_hours(24);
        assert_eq!(busiest(&[], day), 0);
        assert_eq!(busiest(&[at(0), at(24), at(48)], day), 1);
        assert_eq!(busiest(&[at(0), at(23), at(24), at(46), at(100)], day), 3);
    }
}
