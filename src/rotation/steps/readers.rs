//! The steps that readers see: they are told, and waited for until they have moved.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;

use super::Report;
use super::retire::{describe, outgoing_usage};
use crate::clock::Clock;
use crate::consumer::{Ailment, Published, Reach};
use crate::failure::{Failure, FailureClass};
use crate::rotation::progress::StepResult;
use crate::rotation::sitting::{Sitting, whole_milliseconds};
use crate::target::{APPLICATION, LastUse, Usage};

/// When readers that move are looked at again.
const SOON: Duration = Duration::from_millis(200);
/// The same, where some consumer cannot be told.
const LATER: Duration = Duration::from_secs(1);
/// The same, where some were not well before.
const SELDOM: Duration = Duration::from_secs(5);

/// So long consumers that answered wait for the others before their readers are told.
const COMPANY: Duration = Duration::from_secs(1);

/// Tells every consumer, each on its own: one that is down or slow holds back none of the others, and neither their
/// readers. Those are told and followed meanwhile, so that it is seen here, too, when they fail.
pub(super) async fn publish(sitting: &mut Sitting) -> Report {
    let report = serve(sitting).await;
    if report.result == StepResult::NotYet
        && let Err(amendment) = sitting.refresh().await
    {
        // A containment may have taken over meanwhile, here or on another machine.
        return amendment.into();
    }
    report
}

/// The same, whoever takes the rotation over meanwhile.
pub(super) async fn serve(sitting: &Sitting) -> Report {
    let request = match sitting.publication() {
        Ok(request) => request,
        Err(failure) => return failure.into(),
    };
    let mut publishing = FuturesUnordered::new();
    for consumer in sitting.consumers.iter().cloned() {
        publishing.push(async move {
            let answer = consumer.publish(request).await;
            (consumer, answer)
        });
    }
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    let in_time = async {
        while let Some((consumer, answer)) = publishing.next().await {
            match answer {
                Ok(_) => served.push(consumer),
                Err(failure) => refused.push(failure),
            }
        }
    };
    // Whoever has not answered by then goes on below.
    let _ = tokio::time::timeout(COMPANY, in_time).await;
    if refused.is_empty() && publishing.is_empty() {
        return Report::done();
    }
    let mut follows = Vec::new();
    for consumer in served {
        follows.push(async move {
            // Who refuses to be told is told again in the next step, which says so.
            drop(consumer.reload(request).await);
            consumer.reach(request).await
        });
    }
    let others = async {
        while let Some((_, answer)) = publishing.next().await {
            refused.extend(answer.err());
        }
    };
    let (reached, ()) = join(join_all(follows), others).await;
    judge(sitting, refused.into_iter().map(Err).chain(reached).collect())
}

pub(super) async fn restart(sitting: &mut Sitting) -> Report {
    let request = match sitting.publication() {
        Ok(request) => request,
        Err(failure) => return failure.into(),
    };
    let told = join_all(sitting.consumers.iter().map(|consumer| consumer.reload(request))).await;
    let refuses = told.iter().filter_map(|told| told.as_ref().err());
    match refuses.into_iter().find(|failure| failure.class() == FailureClass::Refused) {
        Some(failure) => Report::readers_fail(failure.clone()),
        None => Report::all(told),
    }
}

/// Whether every reader uses the new version. Somebody may have written over it or deleted it meanwhile: readers
/// that start would not find it, so it is published again first.
pub(super) async fn reach(sitting: &Sitting) -> Report {
    let request = match sitting.publication() {
        Ok(request) => request,
        Err(failure) => return failure.into(),
    };
    let reached = sitting.consumers.iter().map(async |consumer| {
        if consumer.publish(request).await? == Published::Now {
            consumer.reload(request).await?;
            let how = format!("{}: somebody had changed it, and it is written again", consumer.label());
            return Ok(Reach::Moving(how));
        }
        consumer.reach(request).await
    });
    judge(sitting, join_all(reached).await)
}

/// What follows from how far the readers of each consumer are. Where some move, the others' failures wait for them:
/// each step of theirs is followed.
fn judge(sitting: &Sitting, reached: Vec<Result<Reach, Failure>>) -> Report {
    let (mut moving, mut failing) = (Vec::new(), Vec::new());
    let (mut is_ailing, mut is_overdue) = (false, false);
    let looked = reached.into_iter().map(|reached| {
        match reached? {
            Reach::Moved => {}
            Reach::Moving(how) => moving.push(how),
            Reach::Failing(ailments) => {
                for Ailment { reader, why, is_late } in ailments {
                    if sitting.run.course.ailing.contains(&reader) {
                        is_ailing = true;
                        is_overdue |= is_late;
                        moving.push(format!("{reader}: {why} (it was not well before the rotation)"));
                    } else {
                        failing.push(format!("{reader}: {why}"));
                    }
                }
            }
        }
        Ok(())
    });
    let report = Report::all(looked.collect());
    let doing = || format!("move readers to {} of {}", sitting.run.to, sitting.run.plan.policy);
    if !failing.is_empty() {
        return Report::readers_fail(Failure::new(FailureClass::Refused, doing(), failing.join("; ")));
    }
    if moving.is_empty() {
        return report;
    }
    let is_away = report.result != StepResult::Done;
    if is_overdue && !is_away {
        let failure = Failure::new(FailureClass::Unavailable, doing(), moving.join("; "));
        return failure.with_remedy("mend them; the outgoing value lives on until they have moved").into();
    }
    moving.extend(report.failure.map(|failure| failure.to_string()));
    // Who looked at readers that move has waited for them already.
    let pause = match (is_ailing, is_away) {
        (true, _) => SELDOM,
        (false, true) => LATER,
        (false, false) => SOON,
    };
    Report {
        result: StepResult::NotYet,
        detail: Some(moving.join("; ")),
        pause: Some(pause),
        ..Report::done()
    }
}

/// Waits until every reader has moved and what is left of the outgoing value is gone. After that nobody
/// brings the outgoing value back: said in the document before anybody retires it, since two processes may
/// see readers differently.
///
/// Dying after the write: the next sitting looks at the readers again, and goes forward whatever it sees.
pub(super) async fn converge(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    let fence = sitting.run.course.fence;
    let report = settle(sitting, clock).await;
    if report.result != StepResult::Done {
        return report;
    }
    if sitting.run.may_revert() && !mutated!(RevertUnbarred) {
        let settled = sitting.amend(|course| course.settled |= course.fence == fence);
        if let Err(amendment) = settled.await {
            return amendment.into();
        }
    }
    if sitting.run.course.fence == fence {
        return report;
    }
    let detail = Some("another process turned the rotation".to_owned());
    Report { result: StepResult::NotYet, detail, pause: Some(Duration::ZERO), ..Report::done() }
}

/// Waits until every reader has moved, however long that takes; then for what is left of the outgoing value,
/// for as long as the policy lets it live on.
async fn settle(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    if let Some(cut_at) = sitting.seen.cut_at.filter(|_| sitting.run.course.cut_at.is_none()) {
        // Not before the proof, which is what a containment is measured by. Dying before: a later one is taken then.
        let fence = sitting.run.course.fence;
        let kept = sitting.amend(|course| {
            if course.fence == fence {
                course.cut_at.get_or_insert(cut_at);
            }
        });
        if let Err(amendment) = kept.await {
            return amendment.into();
        }
    }
    let reached = reach(sitting).await;
    if mutated!(RetireByTimer) && matches!(reached.result, StepResult::NotYet | StepResult::ReadersFail) {
        return Report::done();
    }
    if reached.result == StepResult::NotYet
        && let Err(amendment) = sitting.refresh().await
    {
        // A containment may have taken over meanwhile, here or on another machine.
        return amendment.into();
    }
    if reached.result != StepResult::Done {
        return reached;
    }
    if let Some(cut_at) = sitting.run.course.cut_at.filter(|_| sitting.run.course.window_ms.is_none()) {
        let (fence, window) = (sitting.run.course.fence, whole_milliseconds(cut_at, clock.now()));
        let kept = sitting.amend(|course| {
            if course.fence == fence {
                course.window_ms.get_or_insert(window);
            }
        });
        if let Err(amendment) = kept.await {
            return amendment.into();
        }
    }
    let grace = sitting.run.plan.spec.retire.grace;
    // Without a grace nothing depends on who is left: they are closed next, and only named where pods tell who
    // they are.
    let names_only = grace.as_duration().is_zero();
    if sitting.run.contains()
        || (names_only && !sitting.consumers.iter().any(|consumer| consumer.knows_addresses()))
    {
        return Report::done();
    }
    let Usage { mut sessions, last } = match outgoing_usage(sitting).await {
        Ok(usage) => usage,
        Err(_) if names_only => return Report::done(),
        Err(failure) => return failure.into(),
    };
    // A probe is no reader. One whose process hangs is closed with what is left of the others.
    sessions.retain(|session| session.application != APPLICATION);
    // Without sessions to be seen nobody knows who still needs it: the grace is waited for to its end.
    let detail = match last {
        LastUse::BySessions | LastUse::ByListed if sessions.is_empty() => return Report::done(),
        LastUse::BySessions | LastUse::ByListed => describe(sitting, &sessions).await,
        LastUse::Untold => "the target does not tell who uses the outgoing value".to_owned(),
        LastUse::Never => "the outgoing value was never used".to_owned(),
        LastUse::At(at) => format!("the outgoing value was last used at {at:.0}"),
    };
    if names_only {
        return Report { detail: Some(detail), ..Report::done() };
    }
    let now = clock.now();
    if sitting.run.course.published_at.is_none() {
        // Durable, so that a crash does not begin the grace anew for ever.
        let fence = sitting.run.course.fence;
        let kept = sitting.amend(|course| {
            if course.fence == fence {
                course.published_at.get_or_insert(now);
            }
        });
        if let Err(amendment) = kept.await {
            return amendment.into();
        }
    } else if let Err(amendment) = sitting.refresh().await {
        // A containment may have taken over, here or on another machine.
        return amendment.into();
    }
    if sitting.run.contains() {
        return Report::done();
    }
    let began = sitting.run.course.published_at.unwrap_or(now);
    let elapsed = now.duration_since(began);
    // Clocks of two machines may differ; one that was set back far must not keep the old value alive.
    if elapsed.abs() >= grace.as_signed() {
        return Report { detail: Some(format!("{detail}; the grace of {grace} is over")), ..Report::done() };
    }
    Report {
        result: StepResult::NotYet,
        detail: Some(format!("{detail}; taken out at the latest {grace} after publication")),
        ..Report::done()
    }
}
