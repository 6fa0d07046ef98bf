//! The rules of a schedule: what contradicts itself, and what the calendar makes impossible.

use super::{Breaches, Rule, Surroundings, field};
use crate::ident::{DnsLabel, PolicyName};
use crate::policy::spec::{ConsumerSpec, Interval, RetireSpec, ScheduleSpec, Spec};
use crate::schedule::{Schedule, ScheduleProblem};
use crate::settings::{Settings, StoreSettings, VersionBudget};

/// What a calendar tells: cron that names no date, freezes that leave no time, more rotations than the store has
/// room for.
pub(super) fn calendar(
    spec: &ScheduleSpec,
    policy: &PolicyName,
    all: &Spec,
    around: &Surroundings<'_>,
    found: &mut Breaches,
) {
    let at = field(["spec", "schedule"]);
    let schedule = Schedule::new(spec, policy, &around.settings.freezes);
    for problem in schedule.check(around.now) {
        let name = match problem {
            ScheduleProblem::NeverFires { .. } | ScheduleProblem::AlwaysFrozen { .. } => "cron",
            ScheduleProblem::AgeBetweenFires { .. } | ScheduleProblem::AgeInFreeze { .. } => "maxAge",
        };
        found.add(at.join(name), Rule::Schedule(problem));
    }
    let scarcest = budgets(all, around.settings).into_iter().min_by_key(|(_, budget)| budget.rotations());
    if let Some((store, budget)) = scarcest {
        let (rotations, most) = (schedule.most_in(budget.within, around.now), budget.rotations());
        if rotations > most {
            found.add(at.join("cron"), Rule::VersionBudget { store: store.clone(), rotations, most });
        }
    }
}

/// How many versions there are for a policy where it is bounded: in its store, and in those of its copies.
pub(crate) fn budgets<'a>(spec: &'a Spec, settings: &Settings) -> Vec<(&'a DnsLabel, VersionBudget)> {
    let of = |name: &DnsLabel| settings.stores.get(name);
    let own = &spec.store.name;
    let copies = spec.consumers.iter().filter_map(|consumer| match consumer {
        ConsumerSpec::AwsSecretsManager(copy) => {
            of(&copy.store).and_then(StoreSettings::copy_budget).map(|budget| (&copy.store, budget))
        }
        _ => None,
    });
    let own = of(own).and_then(StoreSettings::version_budget).map(|budget| (own, budget));
    own.into_iter().chain(copies).collect()
}

/// A value that ends by itself has to outlive the time between two rotations, and the readers' move to the next one.
pub(super) fn life_rules(
    at: &[&'static str],
    life: Interval,
    spec: &ScheduleSpec,
    retire: &RetireSpec,
    policy: &PolicyName,
    around: &Surroundings<'_>,
    found: &mut Breaches,
) {
    let schedule = Schedule::new(spec, policy, &around.settings.freezes);
    if life.as_duration() < schedule.needed_life(retire.grace.as_duration(), around.now) {
        let at = at.iter().fold(field(["spec"]), |at, part| at.join(*part));
        found.add(at, Rule::EndsBeforeRotation(life));
    }
}

pub(super) fn rules(schedule: &ScheduleSpec, retire: &RetireSpec, found: &mut Breaches) {
    let at = field(["spec", "schedule"]);
    for (name, interval) in
        [("window", schedule.window), ("jitter", schedule.jitter), ("maxAge", schedule.max_age)]
    {
        if interval.is_some_and(|interval| interval.as_duration().is_zero()) {
            found.add(at.join(name), Rule::ZeroInterval);
        }
    }
    if let (Some(jitter), Some(window)) = (schedule.jitter, schedule.window)
        && jitter > window
        && !window.as_duration().is_zero()
    {
        found.add(at.join("jitter"), Rule::JitterBeyondWindow { jitter, window });
    }
    if let Some(max_age) = schedule.max_age
        && !max_age.as_duration().is_zero()
        && max_age <= retire.grace
    {
        found.add(at.join("maxAge"), Rule::MaxAgeWithinGrace { max_age, grace: retire.grace });
    }
    for (index, freeze) in schedule.freezes.iter().enumerate() {
        let at = at.join("freezes").join(index);
        if freeze.to <= freeze.from {
            found.add(at.join("to"), Rule::FreezeReversed);
        }
        if let Some(reason) = &freeze.reason {
            found.text(&at.join("reason"), reason);
        }
    }
}
