//! Looks at what a rotation will need, and changes nothing.

use std::time::Duration;

use super::HttpTarget;
use crate::failure::Finding;
use crate::policy::spec::Interval;
use crate::secret::{Credential, SecretValue, ValueSpec};
use crate::target::{PreflightRequest, Probe, ProbeDepth, Target as _, life};

pub(super) async fn preflight(target: &HttpTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let mut findings = vec![look(target).await];
    if let Some(current) = request.current {
        let subject = "current credential";
        findings.push(match target.probe(current, ProbeDepth::Login).await {
            Probe::Accepted => Finding::pass(subject, format!("key {} is accepted", current.principal)),
            Probe::Refused => Finding::fail(
                subject,
                format!("key {} is refused", current.principal),
                "adopt the one that is in force, or rotate",
            ),
            Probe::Unfit(failure) | Probe::Unknown(failure) => Finding::from_failure(subject, &failure),
        });
    }
    let wrong = wrong(target, request.current);
    let subject = "negative control";
    findings.push(match target.probe(&wrong, ProbeDepth::Login).await {
        Probe::Refused => Finding::pass(subject, "a wrong value is refused"),
        Probe::Accepted | Probe::Unfit(_) => Finding::fail(
            subject,
            "a wrong value counts as accepted: no key can be proven dead",
            "correct `acceptedWhen` in the recipe",
        ),
        // It may not even look like a key of this provider.
        Probe::Unknown(failure) => Finding::warn(
            subject,
            format!("what comes back for a wrong value is no verdict: {}", failure.reason()),
            "see that `refusedWhen` names what the provider says of a key that was revoked",
        ),
    });
    findings
}

/// Whether a key lives long enough for the policy's schedule. Where an outgoing one is left to its end, a rotation goes
/// on until then, and times that pass meanwhile are left out: there has to be room for a second one.
pub(super) fn life(target: &HttpTarget, life: Interval, needed: Option<Duration>) -> Finding {
    let subject = "life of a key";
    if let Some(short) = life::shortage(life.as_duration(), None, needed) {
        return Finding::fail(subject, short, "rotate more often, with a shorter `window` and `grace`");
    }
    let for_two = needed.map_or(Duration::ZERO, |needed| needed.saturating_mul(2));
    if target.recipe.revoke_only_to_contain && life.as_duration() < for_two {
        return Finding::warn(
            subject,
            format!(
                "it lives for {life}, and the outgoing one is waited for until its end: a time of the schedule that passes \
                 meanwhile is left out, and the one after it may be too late"
            ),
            format!(
                "rotate so often that twice the time between two rotations, `window` and `grace` are within {life}"
            ),
        );
    }
    Finding::pass(subject, format!("it lives for {life}"))
}

/// The keys that there are, and whether there is room for another.
async fn look(target: &HttpTarget) -> Finding {
    let subject = format!("{}", target.spec);
    let doing = target.doing("list the keys of");
    let listed = match target.admins(&doing).await {
        Ok(admins) => target.listed(&admins, &doing).await,
        Err(failure) => Err(failure),
    };
    let keys = match listed {
        Ok(Some(keys)) => keys,
        Ok(None) if target.is_by_hand() => {
            return Finding::pass(subject, "a person makes its keys and hands them over");
        }
        Ok(None) => return Finding::pass(subject, "it does not tell which keys there are"),
        Err(failure) => return Finding::from_failure(subject, &failure),
    };
    match target.recipe.limits.live_keys.filter(|most| keys.len() >= *most as usize) {
        Some(most) => {
            let ids: Vec<_> = keys.iter().map(|(key, _)| key.id.to_string()).collect();
            Finding::fail(
                subject,
                format!("there are {} of {most} keys: {}", keys.len(), ids.join(", ")),
                "delete one that nobody needs, so that there is room for another",
            )
        }
        None => Finding::pass(subject, format!("{} keys can be seen", keys.len())),
    }
}

/// A value that is none, and looks like one as far as that can be.
fn wrong(target: &HttpTarget, current: Option<&Credential>) -> Credential {
    if target.recipe.verify.in_list {
        let nobody = "rekeyd-no-such-key".parse().expect("a literal name");
        return Credential::new(nobody, ValueSpec::default().generate());
    }
    let Some(current) = current else {
        return Credential::new(target.spec.owner.clone(), ValueSpec::default().generate());
    };
    let mut bytes = current.value.expose().to_vec();
    // In the middle of its longest word, where a document keeps its secret.
    let (mut longest, mut from) = (0..0, 0);
    for at in 0..=bytes.len() {
        if bytes.get(at).is_none_or(|byte| !byte.is_ascii_alphanumeric()) {
            if at - from > longest.len() {
                longest = from..at;
            }
            from = at + 1;
        }
    }
    match bytes.get_mut(longest.start + longest.len() / 2).filter(|_| !longest.is_empty()) {
        Some(byte) => *byte = if *byte == b'x' { b'y' } else { b'x' },
        None => bytes.push(b'x'),
    }
    Credential::new(current.principal.clone(), SecretValue::new(bytes))
}
