//! The end of the outgoing value: it is taken out, and proven to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::SignedDuration;

use super::hand::look_after;
use super::readers::{reach, restart, serve};
use super::{Awaited, Report, by_hand, mint, settling, target};
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::Interval;
use crate::rotation::plan::Strategy;
use crate::rotation::progress::StepResult;
use crate::rotation::sitting::Sitting;
use crate::secret::Credential;
use crate::target::{Extent, LastUse, Probe, ProbeDepth, RetireRequest, Retired, Session, Target, Usage};

/// How often a rotation whose outgoing key is disabled looks whether a containment took it over.
const SOAKING: Duration = Duration::from_secs(60);

/// Dying in the middle: retiring again finds the principal retired and closes what is left.
pub(super) async fn retire(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    let cuts = sitting.standing(clock.now()).cuts;
    if !sitting.run.contains() && !mutated!(RetireBeforeConvergence | RetireByTimer) {
        // The grace may have been long: whoever lost the new version since then gets it back first. Whoever came
        // since then, or had to be told again, has to move first, too.
        let mut readers = serve(sitting).await;
        if readers.result == StepResult::Done {
            readers = restart(sitting).await;
        }
        if readers.result == StepResult::Done {
            readers = reach(sitting).await;
        }
        if readers.result != StepResult::Done {
            let principal = sitting.run.outgoing.as_ref().map_or("", |one| one.principal.as_str());
            return readers.forward_only(&format!("retire {principal}"));
        }
    }
    if sitting.run.outgoing.is_none() {
        return Report::done();
    }
    let target = match target(sitting) {
        Ok(target) => target,
        Err(failure) => return failure.into(),
    };
    if let Some(life) = target.lapse()
        && let Some(waiting) = lapse(sitting, &*target, life, clock).await
    {
        return waiting;
    }
    let late = late_use(sitting).await;
    if let Some(waiting) = soak(sitting, &*target, late.as_deref(), clock).await {
        return waiting;
    }
    if sitting.run.plan.strategy == Strategy::DualKey
        && let Err(report) = mint::clear(sitting, &*target, mint::Candidate::Stays).await
    {
        return report;
    }
    let Some(outgoing) = &sitting.run.outgoing else { return Report::done() };
    let extent = match (sitting.run.plan.strategy, sitting.run.course.installed_at) {
        (Strategy::InPlace, Some(installed_at)) => Extent::SessionsBefore(installed_at),
        (Strategy::InPlace, None) => return Report::failed(not_installed(sitting)),
        (Strategy::DualPassword | Strategy::Reissued, _) => Extent::OtherValues,
        (Strategy::Alternating | Strategy::DualKey | Strategy::Generated, _) => Extent::Principal,
    };
    let request = retire_request(sitting, outgoing, extent);
    match target.retire(request).await {
        Ok(Retired::Superseded { by }) => Report::superseded(by),
        Ok(Retired::Awaited(what)) => by_hand(sitting, what, clock),
        Ok(Retired::Done { sessions_closed: closed }) => {
            sitting.seen.sessions_closed += closed;
            sitting.seen.retired_at.get_or_insert_with(|| clock.now());
            if cuts {
                sitting.seen.cut_at.get_or_insert_with(|| clock.now());
            }
            if let Some(late) = &late {
                warn_of(sitting, late);
            }
            let closed = (closed > 0).then(|| format!("{closed} sessions closed"));
            let told: Vec<String> = closed.into_iter().chain(late).collect();
            Report { detail: (!told.is_empty()).then(|| told.join("; ")), ..Report::done() }
        }
        Err(failure) => failure.into(),
    }
}

fn retire_request<'a>(sitting: &'a Sitting, outgoing: &'a Credential, extent: Extent) -> RetireRequest<'a> {
    let strategy = sitting.run.plan.strategy;
    let shares = strategy == Strategy::DualPassword || strategy.mints();
    RetireRequest {
        attempt: sitting.attempt(),
        principal: &outgoing.principal,
        extent,
        outgoing: Some(outgoing),
        beside: sitting.run.candidate.as_ref().filter(|_| shares),
    }
}

/// Waits until the outgoing value is at the end of its own life: retiring it would end more than it. A containment that
/// takes over does that.
async fn lapse(
    sitting: &mut Sitting,
    target: &dyn Target,
    life: Interval,
    clock: &dyn Clock,
) -> Option<Report> {
    if sitting.run.contains() {
        return None;
    }
    if let Err(amendment) = sitting.refresh().await {
        return Some(amendment.into());
    }
    // It may have come just now, here or on another machine.
    if sitting.run.contains() {
        return None;
    }
    let outgoing = sitting.run.outgoing.as_ref()?;
    Some(match target.probe(outgoing, ProbeDepth::Login).await {
        Probe::Refused => Report::done(),
        Probe::Unknown(failure) => failure.into(),
        Probe::Accepted | Probe::Unfit(_) => Report {
            result: StepResult::NotYet,
            detail: Some(format!(
                "the outgoing value ends by itself, {life} after it was made at the latest"
            )),
            pause: Some(look_after(sitting.run.opened_at, clock.now())),
            awaits: Some(Awaited::Lapse),
            ..Report::done()
        },
    })
}

/// Has the outgoing key disabled and waits, where it can be enabled again until it is deleted: who used it
/// unknown to everybody is heard of meanwhile. A containment deletes it at once.
///
/// Dying after it was disabled: the next sitting disables it again, and waits from then on.
async fn soak(
    sitting: &mut Sitting,
    target: &dyn Target,
    late: Option<&str>,
    clock: &dyn Clock,
) -> Option<Report> {
    let soak = sitting.run.plan.spec.retire.soak.as_signed();
    if soak.is_zero() || sitting.run.contains() || !sitting.run.plan.strategy.mints() {
        return None;
    }
    let outgoing = sitting.run.outgoing.as_ref()?;
    if sitting.run.course.disabled_at.is_none() {
        let principal = outgoing.principal.clone();
        match target.retire(retire_request(sitting, outgoing, Extent::Disabled)).await {
            Ok(Retired::Done { .. }) => {}
            Ok(Retired::Superseded { by }) => return Some(Report::superseded(by)),
            Ok(Retired::Awaited(what)) => return Some(by_hand(sitting, what, clock)),
            Err(failure) => return Some(failure.into()),
        }
        let now = clock.now();
        if let Err(amendment) = sitting.amend(|course| _ = course.disabled_at.get_or_insert(now)).await {
            return Some(amendment.into());
        }
        tracing::info!(policy = %sitting.run.plan.policy, key = %principal, "outgoing key disabled");
        if let Some(late) = late {
            warn_of(sitting, late);
        }
    } else if let Err(amendment) = sitting.refresh().await {
        // A containment may have taken over, here or on another machine.
        return Some(amendment.into());
    }
    if sitting.run.contains() {
        return None;
    }
    let since = sitting.run.course.disabled_at?;
    let left = soak.saturating_sub(clock.now().duration_since(since).abs());
    (left > SignedDuration::ZERO).then(|| {
        let soak = sitting.run.plan.spec.retire.soak;
        let late = late.map(|late| format!("; {late}")).unwrap_or_default();
        let detail = format!("the outgoing key is disabled and is deleted {soak} after {since:.0}{late}");
        let pause = Duration::try_from(left).unwrap_or_default().min(SOAKING);
        Report { result: StepResult::NotYet, detail: Some(detail), pause: Some(pause), ..Report::done() }
    })
}

/// That somebody used the outgoing key when every reader had the new one, where the target tells of the last use: that
/// is nobody whom the policy names. It is told and holds nothing up, since the grace was for that; a target may take
/// hours to tell.
async fn late_use(sitting: &Sitting) -> Option<String> {
    if sitting.run.contains() || !sitting.run.plan.strategy.mints() {
        return None;
    }
    // From then on its probes would be seen.
    let since = sitting.run.course.published_at.filter(|_| sitting.seen.retired_at.is_none())?;
    match outgoing_usage(sitting).await {
        // By the target's clock, and not long before rekeyd itself tried it.
        Ok(Usage { last: LastUse::At(at), .. }) if at.duration_since(since) > mint::SKEW => Some(format!(
            "somebody still used the outgoing key at {at:.0}, when every reader had the new one: enable it again, or tell them"
        )),
        _ => None,
    }
}

fn warn_of(sitting: &Sitting, late: &str) {
    let key = sitting.run.outgoing.as_ref().map_or("", |outgoing| outgoing.principal.as_str());
    tracing::warn!(policy = %sitting.run.plan.policy, rotation = %sitting.run.rotation, key, "{late}");
}

pub(super) async fn prove(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    let Some(outgoing) = &sitting.run.outgoing else { return Report::done() };
    let target = match target(sitting) {
        Ok(target) => target,
        Err(failure) => return failure.into(),
    };
    let doing = || format!("prove {} dead on {}", outgoing.principal, sitting.run.plan.target_label());
    match target.probe(outgoing, ProbeDepth::Login).await {
        Probe::Refused => {}
        Probe::Accepted | Probe::Unfit(_) => {
            if let Some(waiting) = settling(&*target, sitting.seen.retired_at, clock) {
                return waiting;
            }
            let failure =
                Failure::new(FailureClass::Conflict, doing(), "the target still accepts the outgoing value");
            return Report { result: StepResult::OutgoingAlive, ..Report::failed(failure) };
        }
        Probe::Unknown(failure) => return failure.into(),
    }
    // After the refusal: whoever was in the middle of a login then is seen here.
    let unlisted = match outgoing_usage(sitting).await {
        Ok(Usage { sessions, last }) if sessions.is_empty() => last == LastUse::ByListed,
        Ok(Usage { sessions, .. }) => {
            let failure =
                Failure::new(FailureClass::Conflict, doing(), describe(sitting, &sessions).await + " left");
            return Report { result: StepResult::OutgoingAlive, ..Report::failed(failure) };
        }
        Err(failure) => return failure.into(),
    };
    sitting.seen.old_refused = true;
    sitting.seen.sessions_unlisted = unlisted;
    if sitting.run.contains() {
        sitting.seen.contained_at.get_or_insert_with(|| clock.now());
    }
    let left =
        if unlisted { "of what sessions are left the target does not tell all" } else { "0 sessions left" };
    Report { detail: Some(format!("old value refused, {left}")), ..Report::done() }
}

/// Who uses the outgoing value: the open sessions are those that logged in with it.
pub(super) async fn outgoing_usage(sitting: &Sitting) -> Result<Usage, Failure> {
    let (Some(outgoing), Some(target)) = (&sitting.run.outgoing, &sitting.target) else {
        return Ok(Usage::default());
    };
    // It is dead since another one was made in its place.
    if sitting.run.plan.strategy == Strategy::Reissued {
        return Ok(Usage::default());
    }
    let mut usage = target.usage(&outgoing.principal).await?;
    if sitting.run.plan.strategy.shares_principal() {
        // Without the time of the install every session counts: better one closed too many.
        usage.sessions.retain(|session| sitting.run.course.installed_at.is_none_or(|at| session.since < at));
    }
    Ok(usage)
}

fn not_installed(sitting: &Sitting) -> Failure {
    Failure::new(
        FailureClass::Unavailable,
        format!("close sessions on {}", sitting.run.plan.target_label()),
        "the time of the install is not known yet",
    )
}

/// Whose sessions they are: of pods, where a consumer knows their addresses. Then who else has one is a user that
/// nobody told of the rotation.
pub(super) async fn describe(sitting: &Sitting, sessions: &[Session]) -> String {
    let addresses: BTreeSet<String> =
        sessions.iter().map(|session| session.client.clone()).filter(|client| !client.is_empty()).collect();
    let able: Vec<_> = sitting.consumers.iter().filter(|consumer| consumer.knows_addresses()).collect();
    let known = join_all(able.iter().map(|consumer| consumer.at_addresses(&addresses))).await;
    let known: BTreeMap<String, String> = known.into_iter().flatten().collect();
    let name = |session: &Session| match (session.application.as_str(), session.client.as_str()) {
        (_, client) if known.contains_key(client) => known[client].clone(),
        ("", "") => "an unnamed local client".into(),
        ("", client) => client.into(),
        (application, "") => application.into(),
        (application, client) => format!("{application} at {client}"),
    };
    let plural = if sessions.len() == 1 { "session" } else { "sessions" };
    let mut said =
        format!("{} {plural} of the outgoing value ({})", sessions.len(), some_of(sessions.iter().map(name)));
    let strangers = sessions.iter().filter(|session| !known.contains_key(&session.client));
    let strangers = some_of(strangers.map(name));
    if !able.is_empty() && !strangers.is_empty() {
        said.push_str(&format!("; of no pod that is known: {strangers}"));
    }
    said
}

/// A few of these names, each once.
fn some_of(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 3;
    let names: BTreeSet<String> = names.collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ") + more
}
