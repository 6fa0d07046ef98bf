//! A new value as a rotation begins with it, where the target takes one and does not make it.
//!
//! Nothing else has changed when it is made: dying here, it is gone, and the next attempt makes another.

use super::engine::Adapters;
use super::plan::Plan;
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass};
use crate::policy::Spec;
use crate::policy::spec::TargetSpec;
use crate::secret::{Credential, Material, PREVIOUS, Parts, SecretValue};

/// The candidate. `leaked` is that the outgoing one must not stay beside it.
///
/// # Errors
/// When it is a certificate, and who signs it is not to be had.
pub(super) fn candidate(
    plan: &Plan,
    outgoing: Option<&Credential>,
    leaked: bool,
    clock: &dyn Clock,
    adapters: &dyn Adapters,
) -> Result<Credential, Failure> {
    let value = &plan.spec.value;
    let authority = value.authority().map(|name| adapters.authority(name)).transpose()?;
    let made = value.make(authority.as_deref(), clock.now());
    let Material { value, mut parts } = made.map_err(|unmade| {
        let doing = format!("make a value for {}", plan.policy);
        Failure::new(FailureClass::Invalid, doing, unmade)
            .with_remedy("see `value` in the policy, and `authorities` in the settings")
    })?;
    if is_ring(&plan.spec) {
        parts.extend(before(outgoing.filter(|_| !leaked).map_or(&value, |outgoing| &outgoing.value)));
    }
    Ok(Credential::new(plan.candidate.clone(), value).with_parts(parts))
}

/// A value that somebody hands over, with the parts that it gives by itself.
///
/// # Errors
/// When it is not of the policy's form, or a part is missing that only its owner knows.
pub(super) fn completed(spec: &Spec, mut live: Credential, doing: &str) -> Result<Credential, Failure> {
    let invalid = |reason: String, remedy: String| {
        Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy)
    };
    let mut own = spec.value.parts_of(&live.value).map_err(|unmade| {
        invalid(unmade.to_string(), "give a value of the form that the policy's `value` says".into())
    })?;
    if is_ring(spec) {
        own.extend(before(&live.value));
    }
    for (name, part) in own {
        if live.parts.get(&name).is_some_and(|given| *given != part) && name.as_str() != PREVIOUS {
            let reason = format!("its part `{name}` is another value's");
            return Err(invalid(reason, "leave it out: it is known by the value".into()));
        }
        live.parts.entry(name).or_insert(part);
    }
    spec.value
        .belongs(&live.value, &live.parts)
        .map_err(|unmade| invalid(unmade.to_string(), "give the certificate of this very key".into()))?;
    let names = spec.part_names();
    if let Some(name) = names.iter().find(|name| !live.parts.contains_key(*name)) {
        let reason = format!("its part `{name}` is not given");
        return Err(invalid(reason, format!("name a file that holds it: --part {name}=FILE")));
    }
    if let Some(name) = live.parts.keys().find(|name| !names.contains(name)) {
        return Err(invalid(format!("the value has no part `{name}`"), "leave it out".into()));
    }
    Ok(live)
}

/// What stands in for a value that is not made yet, where only its form matters.
pub(super) fn stand_in(plan: &Plan) -> Credential {
    let parts = plan.spec.part_names().into_iter().map(|name| (name, plan.spec.value.generate()));
    Credential::new(plan.candidate.clone(), plan.spec.value.generate()).with_parts(parts.collect())
}

fn is_ring(spec: &Spec) -> bool {
    matches!(&spec.target, TargetSpec::Generated(generated) if generated.ring)
}

fn before(value: &SecretValue) -> Parts {
    [(PREVIOUS.parse().expect("a literal name"), value.duplicate())].into()
}
