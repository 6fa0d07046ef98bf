//! Tells how the policies of a cluster stand, where `kubectl` looks: status, conditions and Events. Does what
//! their annotations ask for.
//!
//! Nothing depends on it: a cluster that does not answer delays no rotation. Only the process that leads tells
//! and asks.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::scheduler::Nudge;
use crate::clock::Clock;
use crate::ident::PolicyName;
use crate::kubernetes::policies::{Asked, Resources};
use crate::kubernetes::resource::PolicyStatus;
use crate::ledger::Outcome;
use crate::policy::diagnostic::Diagnostic;
use crate::rotation::event::{Event, Observer, What};
use crate::service::{Action, EndingKind, PATIENCE, Request, Service};
use crate::status::State;

/// So long what happens to a policy is gathered before its status is written.
const GATHER: Duration = Duration::from_millis(250);

/// After so long a status that could not be written, and a request that could not be met, are tried again.
const AGAIN: Duration = Duration::from_secs(15);

/// After so long a status is looked at although nothing happened here: another process may have been at work.
const ROUND: Duration = Duration::from_secs(3_600);

/// So many statuses are made at the same time, besides those that wait for a store.
const TOGETHER: usize = 16;

/// After so long one is known to wait for a store that does not answer, and holds no other up.
const BRISK: Duration = Duration::from_secs(1);

/// So many may wait.
const AT_MOST: usize = 256;

/// Passes on what happens.
pub(super) struct Listener(mpsc::UnboundedSender<Event>);

impl Observer for Listener {
    fn observe(&self, event: &Event) {
        let _ = self.0.send(event.clone());
    }
}

/// What happens, for a [`Reporter`].
pub(super) fn listener() -> (Listener, mpsc::UnboundedReceiver<Event>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Listener(sender), receiver)
}

/// Whose statuses are being made, since when.
#[derive(Default)]
struct Reporting(BTreeMap<PolicyName, Report>);

struct Report {
    since: Duration,
    /// Something happened meanwhile, that it may not have seen.
    again: bool,
}

impl Reporting {
    /// How long there is no room for another one; zero while there is.
    fn full(&self, now: Duration) -> Duration {
        // The end of one of them is seen at once.
        if self.0.len() >= AT_MOST {
            return AGAIN;
        }
        let until = self.0.values().map(|report| report.since + BRISK);
        let mut brisk: Vec<Duration> = until.filter(|until| *until > now).collect();
        brisk.sort_unstable();
        let first = brisk.len().checked_sub(TOGETHER).map(|surplus| brisk[surplus]);
        first.map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    /// Two of one policy at a time could end in the wrong order: the one that is being made is made again after that.
    fn begin(&mut self, policy: &PolicyName, now: Duration) -> bool {
        if let Some(report) = self.0.get_mut(policy) {
            report.again = true;
            return false;
        }
        self.0.insert(policy.clone(), Report { since: now, again: false });
        true
    }

    /// Whether it is to be made again.
    fn end(&mut self, policy: &PolicyName) -> bool {
        self.0.remove(policy).is_some_and(|report| report.again)
    }
}

/// What came of writing a status.
struct Reported {
    /// After how long to look again although nothing happens.
    next: Option<Duration>,
    /// The answers that it tells.
    answers: Vec<Asked>,
}

impl Reported {
    fn nothing(next: Duration) -> Self {
        Self { next: Some(next), answers: Vec::new() }
    }
}

/// Tells how the policies of a cluster stand.
pub(super) struct Reporter {
    pub(super) resources: Arc<Resources>,
    pub(super) service: Arc<Service>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) leads: watch::Receiver<bool>,
    /// Told of policies that something was done with.
    pub(super) nudge: mpsc::UnboundedSender<Nudge>,
}

impl Reporter {
    /// Until stopped. `read` is told when policies were read anew, `asked` when an annotation asks for something.
    pub(super) async fn run(
        self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut read: watch::Receiver<()>,
        mut asked: mpsc::Receiver<()>,
        stop: CancellationToken,
    ) {
        let this = Arc::new(self);
        let mut leads = this.leads.clone();
        // Whose status may be another one by now, and when that is looked at.
        let mut due: BTreeSet<(Duration, PolicyName)> = BTreeSet::new();
        let mut queued: BTreeMap<PolicyName, Duration> = BTreeMap::new();
        let mut enqueue = |due: &mut BTreeSet<_>, policy: PolicyName, at: Duration| {
            let before = queued.get(&policy).copied();
            if let Some(before) = before.filter(|before| due.contains(&(*before, policy.clone()))) {
                if before <= at {
                    return;
                }
                due.remove(&(before, policy.clone()));
            }
            queued.insert(policy.clone(), at);
            due.insert((at, policy));
        };
        // Nobody who asks waits for what is told.
        let (to_tell, mut telling) = mpsc::unbounded_channel::<Event>();
        let teller = Arc::clone(&this);
        let told = tokio::spawn(async move {
            while let Some(event) = telling.recv().await {
                teller.tell(&event).await;
            }
        });
        let mut reports: JoinSet<(PolicyName, Reported)> = JoinSet::new();
        let mut reporting = Reporting::default();
        let mut meeting: JoinSet<(Asked, bool)> = JoinSet::new();
        // What was asked for and no status says yet that it is answered.
        let mut met: BTreeSet<(PolicyName, String)> = BTreeSet::new();
        let mut answers: BTreeMap<PolicyName, Vec<Asked>> = BTreeMap::new();
        loop {
            let now = this.clock.monotonic();
            let pause =
                due.first().map_or(AGAIN * 4, |(at, _)| at.saturating_sub(now).max(reporting.full(now)));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = events.recv() => {
                    let Some(event) = event else { break };
                    let policy = event.policy.clone();
                    if this.resources.label(&policy).is_some() {
                        enqueue(&mut due, policy, now + GATHER);
                        if *leads.borrow() {
                            let _ = to_tell.send(event);
                        }
                    }
                }
                Ok(()) = read.changed() => {
                    this.resources.names().into_iter().for_each(|policy| enqueue(&mut due, policy, now));
                }
                Ok(()) = leads.changed() => {
                    this.resources.names().into_iter().for_each(|policy| enqueue(&mut due, policy, now));
                }
                Some(()) = asked.recv() => {}
                Some(done) = meeting.join_next() => {
                    if let Ok((asked, is_answered)) = done {
                        let policy = asked.policy.clone();
                        // What is left of it is the scheduler's.
                        let _ = this.nudge.send(Nudge::Policy(policy.clone()));
                        if is_answered {
                            answers.entry(policy.clone()).or_default().push(asked);
                        } else {
                            met.remove(&asked.id());
                        }
                        enqueue(&mut due, policy, now);
                    }
                }
                Some(done) = reports.join_next() => {
                    if let Ok((policy, Reported { next, answers: told })) = done {
                        let again = reporting.end(&policy).then_some(Duration::ZERO);
                        if let Some(mut left) = answers.remove(&policy) {
                            left.retain(|asked| !told.contains(asked));
                            told.iter().for_each(|asked| _ = met.remove(&asked.id()));
                            if !left.is_empty() {
                                answers.insert(policy.clone(), left);
                            }
                        }
                        if let Some(next) = again.or(next) {
                            enqueue(&mut due, policy, now + next);
                        }
                    }
                }
                () = this.clock.sleep(pause), if !due.is_empty() => {
                    let now = this.clock.monotonic();
                    // Thousands may be due at once. Each waits here by its name: a task has a hundred times its size.
                    while reporting.full(now).is_zero() && due.first().is_some_and(|(at, _)| *at <= now) {
                        let Some((_, policy)) = due.pop_first() else { break };
                        if *leads.borrow() && reporting.begin(&policy, now) {
                            let this = Arc::clone(&this);
                            let answers = answers.get(&policy).cloned().unwrap_or_default();
                            reports.spawn(async move {
                                // A panic must not keep its policy from ever being told of again.
                                let report = AssertUnwindSafe(this.report(&policy, &answers)).catch_unwind();
                                let reported = report.await.unwrap_or_else(|_| {
                                    tracing::error!(%policy, "telling how the policy stands failed");
                                    Reported::nothing(ROUND)
                                });
                                (policy, reported)
                            });
                        }
                    }
                }
            }
            if *leads.borrow() {
                for asked in this.resources.asked() {
                    if met.insert(asked.id()) {
                        let this = Arc::clone(&this);
                        meeting.spawn(async move {
                            let mut leads = this.leads.clone();
                            let is_answered = tokio::select! {
                                biased;
                                is_answered = this.meet(&asked) => is_answered,
                                // Whoever leads now reads the annotation, too.
                                () = super::is_lost(&mut leads) => false,
                            };
                            (asked, is_answered)
                        });
                    }
                }
            }
        }
        told.abort();
    }

    /// Writes one policy's status. The answers are of before it is read how the policy stands: what came of them is
    /// told with them, not after them.
    async fn report(&self, policy: &PolicyName, answers: &[Asked]) -> Reported {
        let Some(label) = self.resources.label(policy) else {
            return Reported { next: None, answers: answers.to_vec() };
        };
        let catalog = self.service.catalog();
        let problems: Vec<String> = catalog
            .diagnostics()
            .iter()
            .filter(|diagnostic| diagnostic.is_error() && diagnostic.file == label)
            .map(in_words)
            .collect();
        let now = self.clock.now();
        let in_force = match catalog.policy(policy) {
            Some(_) => self.service.status(Some(policy)).await.ok().and_then(|all| all.into_iter().next()),
            None => None,
        };
        let again = match &in_force {
            Some(status) if status.state != State::Unknown => {
                let too_old = too_old_in(status.since, status.max_age.map(|age| age.as_signed()), now);
                too_old.map_or(ROUND, |at| at.min(ROUND))
            }
            None if !problems.is_empty() => ROUND,
            _ => AGAIN,
        };
        let misread = self.resources.misread(policy);
        let mut is_news = false;
        let said = self.resources.say(policy, answers, |generation, before| {
            let said = match &in_force {
                _ if !problems.is_empty() => {
                    let mut problems = problems.join("; ");
                    if in_force.is_some() {
                        problems.push_str("; it stays in force as it was");
                    }
                    PolicyStatus::refused(&problems, in_force.as_ref(), generation, before, now)
                }
                Some(status) => PolicyStatus::of(status, generation, before, now),
                // It was read a moment ago, or is not read yet.
                None => return before.clone(),
            };
            let Some(note) = &misread else { return said };
            is_news = !before.message.as_ref().is_some_and(|message| message.contains(note.as_str()));
            said.with_note(note)
        });
        let said = said.await;
        if let Some(note) = misread.filter(|_| is_news)
            && let Err(failure) = self.resources.tell(policy, true, "NotAsked", &note, now).await
        {
            tracing::debug!(%policy, %failure, "an Event is not told");
        }
        match said {
            Ok(()) => Reported { next: Some(again), answers: answers.to_vec() },
            Err(failure) => {
                tracing::warn!(%policy, %failure, "the policy's status may be out of date");
                Reported::nothing(AGAIN)
            }
        }
    }

    /// Does what an annotation asks for; whether that is answered. Dying before the status says so: the same request
    /// is asked once more, and was answered already.
    async fn meet(&self, asked: &Asked) -> bool {
        let request = Request {
            policy: asked.policy.clone(),
            action: if asked.contains { Action::Contain } else { Action::Rotate },
            request: Some(asked.request.clone()),
            reason: asked.reason.clone(),
            patience_seconds: PATIENCE.as_secs(),
        };
        let (events, _) = mpsc::unbounded_channel();
        let ending = self.service.perform(&request, &asked.by, events).await;
        if ending.ending == EndingKind::Failed {
            let (policy, request) = (&asked.policy, &asked.request);
            tracing::warn!(%policy, %request, message = %ending.message, "a request by annotation is not met yet");
            self.clock.sleep(AGAIN).await;
            return false;
        }
        true
    }

    async fn tell(&self, event: &Event) {
        let version = event.version;
        let (is_warning, reason, note) = match &event.what {
            What::Opened => (false, "RotationOpened", format!("{} rotation to {version}", event.trigger)),
            What::TurnedBack { step, failure, .. } => {
                (true, "TurnedBack", format!("at step {step} of {version}: {failure}"))
            }
            What::Parked { step, failure, .. } => {
                (true, "LeftOpen", format!("at step {step} of {version}: {failure}"))
            }
            What::InDoubt { step, doubt, remedy, .. } => {
                (true, "InDoubt", format!("at step {step} of {version}: {doubt}; {remedy}"))
            }
            What::GivenUp { requested_by, by, .. } => {
                let note = format!(
                    "{by} gave up the containment that {requested_by} asked for: what leaked is alive"
                );
                (true, "ContainmentGivenUp", note)
            }
            What::Closed { record, .. } => {
                let why = record.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                let course = format!("{} -> {} ({}){why}", record.from, record.to, record.trigger);
                match record.outcome {
                    Outcome::Rotated => (false, "Rotated", course),
                    Outcome::RolledBack => (true, "RolledBack", course),
                    Outcome::Abandoned => (true, "Abandoned", course),
                }
            }
            What::Resumed
            | What::Started { .. }
            | What::Done { .. }
            | What::Retrying { .. }
            | What::Waiting { .. }
            | What::Stopped { .. }
            | What::Lost { .. } => return,
        };
        if let Err(failure) = self.resources.tell(&event.policy, is_warning, reason, &note, event.at).await {
            tracing::debug!(policy = %event.policy, %failure, "an Event is not told");
        }
    }
}

fn in_words(diagnostic: &Diagnostic) -> String {
    let field = if diagnostic.field.is_empty() { String::new() } else { format!("{}: ", diagnostic.field) };
    format!("{field}{} ({})", diagnostic.message, diagnostic.remedy)
}

/// When a value becomes older than allowed, if it is not yet.
fn too_old_in(
    since: Option<Timestamp>,
    max_age: Option<jiff::SignedDuration>,
    now: Timestamp,
) -> Option<Duration> {
    let left = since?.saturating_add(max_age?).ok()?.duration_since(now);
    let left = Duration::try_from(left).ok()?;
    Some(left + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(number: usize) -> PolicyName {
        format!("orders/key-{number}").parse().expect("a name")
    }

    #[test]
    fn a_status_is_made_once_at_a_time_and_those_that_hang_hold_no_other_up() {
        let (mut reporting, start) = (Reporting::default(), Duration::from_secs(60));
        (0..TOGETHER).for_each(|number| assert!(reporting.begin(&policy(number), start)));
        assert_eq!(reporting.full(start), BRISK);
        assert!(!reporting.begin(&policy(0), start), "two of one policy");
        assert!(reporting.end(&policy(0)), "it is made again");
        assert_eq!(reporting.full(start), Duration::ZERO);
        assert!(reporting.begin(&policy(0), start + BRISK / 2));
        assert!(!reporting.end(&policy(0)), "nothing happened meanwhile");
        // The others hang.
        assert!(reporting.full(start + BRISK).is_zero());
        (TOGETHER..AT_MOST + 1).for_each(|number| assert!(reporting.begin(&policy(number), start)));
        assert_eq!(reporting.full(start + BRISK), AGAIN, "there are enough of them");
    }
}
