//! The steps of the way back: the candidate is held back from the store and taken back from the target.

use futures_util::future::join_all;

use super::{Report, Sitting, mint, target};
use crate::failure::{Failure, FailureClass};
use crate::store::{Place, Promotion};
use crate::target::{Extent, InstallRequest, Installed, Occupancy, Probe, ProbeDepth, RetireRequest};

/// Makes sure that the candidate does not come into force while it is taken back: another process may be
/// on its way to promote it. The same value written again takes the revision away that it would promote
/// from. Where there was no value, nobody uses one, and there is nothing to hold. Nor is there while whoever opened the
/// rotation is alone with it: so the store keeps what was there before the value in force as that, for those who ask it
/// for that. Who comes upon the rotation has to write its document first, so the opener learns of it before it can close
/// it, and comes back here ([`Engine::drive`](crate::rotation::Engine)).
///
/// Dying after the write: the next sitting finds the outgoing value at another revision.
pub(super) async fn hold(sitting: &mut Sitting) -> Report {
    let run = &sitting.run;
    let place = Place::from(&run.plan.spec.store);
    let current = match sitting.store.current(place).await {
        Ok(current) => current,
        Err(failure) => return failure.into(),
    };
    if run.promotion(current.as_ref()).is_some() {
        return Report::in_force();
    }
    let revision = current.as_ref().map(|current| &current.revision);
    if revision != run.replaces() {
        // Somebody else wrote there. It may have been the candidate's place: readers would have it then.
        match is_published(sitting).await {
            Ok(true) => return Report::foreign(sitting),
            Ok(false) => {}
            Err(failure) => return failure.into(),
        }
        let run = &sitting.run;
        sitting.held = current.filter(|c| Some(&c.credential) == run.outgoing.as_ref()).map(|c| c.revision);
        return Report::done();
    }
    let (Some(outgoing), Some(revision)) = (&run.outgoing, revision) else { return Report::done() };
    if sitting.alone {
        return Report::done();
    }
    let promotion = Promotion {
        credential: outgoing,
        expected: Some(revision),
        rotation: run.rotation,
        version: run.replaced(),
        extra: &run.plan.spec.store.extra,
    };
    match sitting.store.promote(place, promotion).await {
        Ok(revision) => {
            sitting.held = Some(revision);
            Report::done()
        }
        // Somebody was quicker: looked at again.
        Err(failure) if failure.class() == FailureClass::Conflict => {
            Report::failed(failure.reclassified(FailureClass::Unavailable))
        }
        Err(failure) => failure.into(),
    }
}

/// Whether any reader holds the candidate. One that says for sure that it cannot be used does not.
pub(in crate::rotation) async fn is_published(sitting: &Sitting) -> Result<bool, Failure> {
    let policy = &sitting.run.plan.policy;
    for observed in join_all(sitting.consumers.iter().map(|consumer| consumer.observe(policy))).await {
        match observed {
            Ok(observed) if observed.published >= sitting.run.to => return Ok(true),
            Err(failure)
                if matches!(failure.class(), FailureClass::Unavailable | FailureClass::Ambiguous) =>
            {
                return Err(failure);
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(false)
}

/// Takes the candidate back where the outgoing value was never touched.
pub(super) async fn withdraw(sitting: &mut Sitting) -> Report {
    let target = match target(sitting) {
        Ok(target) => target,
        Err(failure) => return failure.into(),
    };
    if sitting.run.plan.strategy.mints() {
        if let Err(report) = mint::clear(sitting, &*target, mint::Candidate::Goes).await {
            return report;
        }
    } else {
        let run = &sitting.run;
        let principal = run.candidate.as_ref().map_or(&run.plan.candidate, |candidate| &candidate.principal);
        let beside = run.outgoing.as_ref().filter(|outgoing| outgoing.principal == *principal);
        let (attempt, outgoing, extent) = (sitting.attempt(), run.candidate.as_ref(), Extent::Attempt);
        let request = RetireRequest { attempt, principal, extent, outgoing, beside };
        if let Err(failure) = target.retire(request).await {
            return failure.into();
        }
    }
    // Of a key that nobody heard of nobody has the value.
    let Some(candidate) = &sitting.run.candidate else { return Report::done() };
    let principal = &candidate.principal;
    match target.probe(candidate, ProbeDepth::Login).await {
        Probe::Refused => Report::done(),
        Probe::Accepted | Probe::Unfit(_) => Report::failed(Failure::new(
            FailureClass::Unavailable,
            format!("withdraw {principal} on {}", sitting.run.plan.target_label()),
            "the target still accepts the candidate",
        )),
        Probe::Unknown(failure) => failure.into(),
    }
}

/// Puts the outgoing value back where it was replaced in place. The fence was raised when the rotation
/// turned back, so a late install of the candidate is refused.
pub(super) async fn restore(sitting: &mut Sitting) -> Report {
    let Some(outgoing) = &sitting.run.outgoing else { return Report::done() };
    let target = match target(sitting) {
        Ok(target) => target,
        Err(failure) => return failure.into(),
    };
    let request = InstallRequest {
        attempt: sitting.attempt(),
        candidate: outgoing,
        peer: None,
        beside: None,
        occupancy: Occupancy::Keep,
    };
    match target.install(request).await {
        Ok(Installed::Done { .. }) => {}
        Ok(Installed::Superseded { by }) => return Report::superseded(by),
        Err(failure) => return failure.into(),
    }
    match target.probe(outgoing, ProbeDepth::Login).await {
        Probe::Accepted => Report::done(),
        Probe::Refused | Probe::Unfit(_) => Report::failed(Failure::new(
            FailureClass::Unavailable,
            format!("restore {} on {}", outgoing.principal, sitting.run.plan.target_label()),
            "the target refuses the value that was put back",
        )),
        Probe::Unknown(failure) => failure.into(),
    }
}
