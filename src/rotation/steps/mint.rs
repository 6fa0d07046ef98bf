//! Has the target make the candidate, and takes out what it made in vain, where targets make values themselves.
//!
//! The answer to a request is the only place where a value is ever shown, so a process that dies before the run
//! document has it leaves a key that nobody can use: an orphan. Whoever asks next has it deleted. That must never be
//! a key that another process is about to keep, or one of a later rotation. So nothing is deleted but what was
//! *listed before* the document said that the claim still holds: who asks takes a number there, only who took the last
//! one may keep what it gets, and no later rotation can have begun. What comes into being after that is not on the
//! list.

use super::{Report, Sitting, target};
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::rotation::progress::Direction;
use crate::rotation::run::{Course, Run};
use crate::rotation::sitting::Amendment;
use crate::secret::Credential;
use crate::target::{Extent, Key, MintRequest, Minted, RetireRequest, Retired, Tag, Target};

/// How far the clocks of a target and of rekeyd may differ.
pub(super) const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// Dying after the target made the key and before the document has it: see the module.
pub(super) async fn mint(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    if sitting.run.candidate.is_some() {
        return Report::done();
    }
    let target = match target(sitting) {
        Ok(target) => target,
        Err(failure) => return failure.into(),
    };
    if target.is_by_hand() {
        return wait(sitting, &*target, clock).await;
    }
    if let Some(made) = sitting.asking.made.take() {
        return keep(sitting, &*target, made, clock).await;
    }
    let asked_last = sitting.asking.number > 0 && sitting.asking.number == sitting.run.course.asked;
    if !asked_last || sitting.asking.perhaps {
        match ask(sitting, &*target).await {
            Ok(()) => {}
            Err(report) => return report,
        }
        // Another process was quicker, and its key is the candidate.
        if sitting.run.candidate.is_some() {
            return Report::done();
        }
    }
    let run = &sitting.run;
    let request = MintRequest {
        attempt: sitting.attempt(),
        owner: &run.plan.candidate,
        outgoing: run.outgoing.as_ref(),
        repeated: sitting.asking.number > 1,
        contains: run.contains(),
        life: run.plan.needed_life(clock.now()),
    };
    match target.mint(request).await {
        Ok(Minted::Made(made)) => {
            sitting.asking.perhaps = true;
            between!("mint.made");
            sitting.asking.short = None;
            keep(sitting, &*target, made, clock).await
        }
        Ok(Minted::Short(made, reason)) => {
            sitting.asking.perhaps = true;
            between!("mint.made");
            let (policy, rotation) = (&sitting.run.plan.policy, sitting.run.rotation);
            tracing::warn!(%policy, %rotation, key = %made.principal, "{reason}");
            sitting.asking.short = Some(reason);
            keep(sitting, &*target, made, clock).await
        }
        Ok(Minted::Awaited(what)) => super::by_hand(sitting, what, clock),
        Err(failure) => {
            sitting.asking.perhaps |= !failure.class().is_certain();
            if !sitting.asking.perhaps && failure.class() != FailureClass::Unavailable {
                // Nothing came of it, and this sitting does not ask again: where a value cannot be put back, the
                // rotation may be given up all the same.
                sitting.asking.number = 0;
                if let Err(amendment) = sitting.amend(|course| course.in_vain += 1).await {
                    return amendment.into();
                }
            }
            failure.into()
        }
    }
}

/// Waits for the key that a person makes: whoever has it hands it over through another process. Nobody takes a
/// number, so that any number of processes may wait, and writes nothing.
async fn wait(sitting: &mut Sitting, target: &dyn Target, clock: &dyn Clock) -> Report {
    if let Err(amendment) = sitting.refresh().await {
        return amendment.into();
    }
    let run = &sitting.run;
    if run.candidate.is_some() {
        return Report::done();
    }
    let request = MintRequest {
        attempt: sitting.attempt(),
        owner: &run.plan.candidate,
        outgoing: run.outgoing.as_ref(),
        repeated: false,
        contains: run.contains(),
        life: None,
    };
    match target.mint(request).await {
        Ok(Minted::Awaited(what)) => super::by_hand(sitting, what, clock),
        Ok(Minted::Made(made) | Minted::Short(made, _)) => Report::failed(Failure::new(
            FailureClass::Invalid,
            format!("wait for a key of {}", sitting.run.plan.policy),
            format_args!("the target made {} by itself", made.principal),
        )),
        Err(failure) => failure.into(),
    }
}

/// Takes a number, and has what earlier ones left behind deleted.
async fn ask(sitting: &mut Sitting, target: &dyn Target) -> Result<(), Report> {
    let keys = target.keys(&sitting.run.plan.candidate).await?;
    let found: Vec<Principal> = keys.iter().map(|key| key.id.clone()).collect();
    let count = |course: &mut Course| {
        if course.direction == Direction::Forward {
            // Whoever is first tells what was there before all of them.
            course.found.get_or_insert_with(|| found.clone());
            course.asked += 1;
        }
    };
    sitting.amend(count).await?;
    if sitting.run.course.direction == Direction::Back {
        return Err(Report::failed(Failure::new(
            FailureClass::Unavailable,
            format!("have a key made for {}", sitting.run.plan.policy),
            "the rotation was turned back meanwhile",
        )));
    }
    (sitting.asking.number, sitting.asking.perhaps) = (sitting.run.course.asked, false);
    sitting.touched = true;
    if sitting.run.candidate.is_none() {
        let late = if mutated!(ListedLate) { target.keys(&sitting.run.plan.candidate).await? } else { keys };
        delete(sitting, target, &late, Candidate::Stays).await?;
    }
    Ok(())
}

/// Makes the key the candidate; deletes it when another one is, or there is to be none.
async fn keep(sitting: &mut Sitting, target: &dyn Target, made: Credential, clock: &dyn Clock) -> Report {
    let spare = match sitting.keep_minted(made, clock.now()).await {
        Ok(None) => return Report { detail: sitting.asking.short.take(), ..Report::done() },
        Ok(Some(spare)) => spare,
        Err(amendment) => {
            // Whoever has the rotation now, or has closed it, did so with another key; but for one whose write may
            // have come through.
            let spare = sitting.asking.made.as_ref().filter(|_| !sitting.asking.kept_perhaps);
            if let (Some(spare), Amendment::ClaimLost) = (spare, &amendment) {
                // Where all values have one id, that is the one in force, too.
                let beside = sitting.run.candidate.as_ref().or(sitting.run.outgoing.as_ref());
                drop(target.retire(one(sitting, &spare.principal, Some(spare), beside)).await);
            }
            return amendment.into();
        }
    };
    // Dying here: whoever asks next, takes the rotation back or retires the outgoing key has it deleted.
    let beside = sitting.run.candidate.as_ref().or(sitting.run.outgoing.as_ref());
    match target.retire(one(sitting, &spare.principal, Some(&spare), beside)).await {
        Ok(_) if sitting.run.candidate.is_some() => Report::done(),
        Ok(_) => Report::failed(Failure::new(
            FailureClass::Unavailable,
            format!("keep key {} of {}", spare.principal, sitting.run.plan.policy),
            "another process asked for one since, or turned the rotation back",
        )),
        Err(failure) => failure.into(),
    }
}

/// What becomes of the candidate when keys are cleared away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Candidate {
    Stays,
    /// It is taken back: the store cannot come to hold it any more.
    Goes,
}

/// Deletes every key that this rotation had made in vain. Whoever turned the rotation meanwhile has not looked yet
/// whether the candidate is in force: what becomes of it is not to be read from the document.
pub(super) async fn clear(
    sitting: &mut Sitting,
    target: &dyn Target,
    candidate: Candidate,
) -> Result<(), Report> {
    let mut keys = target.keys(&sitting.run.plan.candidate).await?;
    sitting.refresh().await?;
    if mutated!(ListedLate) {
        keys = target.keys(&sitting.run.plan.candidate).await?;
    }
    delete(sitting, target, &keys, candidate).await
}

/// Of keys that were listed before the document said that the claim holds.
async fn delete(
    sitting: &Sitting,
    target: &dyn Target,
    keys: &[Key],
    candidate: Candidate,
) -> Result<(), Report> {
    let run = &sitting.run;
    let keeps = match candidate {
        Candidate::Stays => run.candidate.as_ref().or(run.outgoing.as_ref()),
        Candidate::Goes => run.outgoing.as_ref(),
    };
    // A target whose keys people make has none that was made in vain.
    let by_hand = target.is_by_hand();
    let is_candidate = |key: &&Key| run.candidate.as_ref().is_some_and(|one| one.principal == key.id);
    let goes = |key: &&Key| {
        let is_orphan = || !by_hand && !mutated!(OrphansStay) && is_orphan(key, run);
        if is_candidate(key) { candidate == Candidate::Goes } else { is_orphan() }
    };
    let is_doubtful =
        |key: &&Key| !by_hand && key.used != Some(true) && !is_orphan(key, run) && is_perhaps_ours(key, run);
    for key in keys.iter().filter(|key| !is_candidate(key) && is_doubtful(key)) {
        // Somebody else may have made it.
        tracing::warn!(
            policy = %run.plan.policy, rotation = %run.rotation, key = %key.id,
            "a key may be one whose answer was lost, or somebody else's: see whether anybody needs it"
        );
    }
    for key in keys.iter().filter(goes) {
        tracing::info!(policy = %run.plan.policy, rotation = %run.rotation, key = %key.id, "key deleted");
        target.retire(one(sitting, &key.id, None, keeps)).await?;
    }
    // Not every target tells which keys it has, and not every one can be deleted without its value.
    if let (Candidate::Goes, Some(made)) = (candidate, &run.candidate)
        && let Retired::Awaited(what) =
            target.retire(one(sitting, &made.principal, Some(made), keeps)).await?
    {
        return Err(super::awaits(what, super::hand::LOOKED));
    }
    Ok(())
}

/// Whether a key that is not the candidate was made by this rotation, or an earlier one of the policy, and is nobody's.
/// Without a tag, one that was not there before the rotation asked, is younger than that, and that nobody ever used.
fn is_orphan(key: &Key, run: &Run) -> bool {
    if is_in_force(key, run) {
        return false;
    }
    match &key.tag {
        Some(tag) if tag.rotation == run.rotation => true,
        Some(tag) => is_earlier(tag, run) && key.used == Some(false),
        None => is_new(key, run) && key.used == Some(false),
    }
}

/// Whether it is of an earlier rotation that the policy's own control document knows. Another installation may have a
/// policy of this name, at the same provider: its candidate may not have been used yet.
fn is_earlier(tag: &Tag, run: &Run) -> bool {
    run.before.askers.contains(&tag.rotation)
}

/// Whether it names the policy. Ids are ordered by time: a key of a later rotation is none of this one's business.
fn is_of_such_a_policy(tag: &Tag, run: &Run) -> bool {
    tag.policy.as_ref() == Some(&run.plan.policy) && tag.rotation < run.rotation
}

/// The outgoing key, and the one that was in force before a person decided otherwise.
fn is_in_force(key: &Key, run: &Run) -> bool {
    let outgoing = run.outgoing.as_ref().map(|outgoing| &outgoing.principal);
    let before = run.before.current.as_ref().map(|current| &current.principal);
    outgoing == Some(&key.id) || before == Some(&key.id)
}

/// Whether a key that nobody is known to use may have been made in vain.
fn is_perhaps_ours(key: &Key, run: &Run) -> bool {
    let may_be = |tag: &Tag| is_earlier(tag, run) || is_of_such_a_policy(tag, run);
    !is_in_force(key, run) && key.tag.as_ref().map_or_else(|| is_new(key, run), may_be)
}

/// Whether a key was not there before the rotation asked for one, and is younger than that.
fn is_new(key: &Key, run: &Run) -> bool {
    run.course.found.as_ref().is_some_and(|found| !found.contains(&key.id))
        && key.made_at.is_some_and(|at| at >= run.opened_at.saturating_sub(SKEW).unwrap_or(at))
}

fn one<'a>(
    sitting: &'a Sitting,
    principal: &'a Principal,
    outgoing: Option<&'a Credential>,
    beside: Option<&'a Credential>,
) -> RetireRequest<'a> {
    RetireRequest { attempt: sitting.attempt(), principal, extent: Extent::Principal, outgoing, beside }
}
