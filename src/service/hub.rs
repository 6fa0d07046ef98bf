//! Passes what happens to those who listen, and remembers what dashboards ask for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::ident::{PolicyName, RotationId};
use crate::ledger::Outcome;
use crate::rotation::decision::Verdicts;
use crate::rotation::event::{Event, Observer, What};
use crate::rotation::progress::Step;
use crate::rotation::run::{Marker, Run};
use crate::rotation::verification::Verification;
use crate::status::Live;

/// How long a value stays untried at most before the target is asked once more.
const LONGEST_PAUSE: Duration = Duration::from_secs(900);

/// Passes events to listeners, and remembers the latest of each policy.
pub struct Hub {
    observers: Vec<Arc<dyn Observer>>,
    listeners: Mutex<Listeners>,
    known: Mutex<HashMap<PolicyName, Known>>,
}

#[derive(Default)]
struct Listeners {
    next: u64,
    all: HashMap<u64, (PolicyName, mpsc::UnboundedSender<Event>)>,
}

/// What is known of a policy here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// When the value in force was made.
    pub since: Option<Timestamp>,
    /// A rotation is open, whoever drives it.
    pub open: bool,
    /// A rotation is frozen: what is known of its values.
    pub doubt: Option<Verdicts>,
    /// A containment was asked for and is not done, or is tried again just now.
    pub owed: bool,
    /// Its store could not be read the last time.
    pub unknown: bool,
    /// The step that a rotation here is at.
    pub step: Option<Step>,
    /// What was told last of a rotation here.
    detail: Option<(RotationId, String)>,
    /// What came of trying the value in force the last time.
    pub verified: Option<Verification>,
    /// When it was tried, with or without a finding.
    tried: Option<Timestamp>,
    /// When it may be tried, on the monotonic clock.
    granted: Option<Duration>,
    /// How often the target gave no verdict since it last did, and until when it is left alone.
    untried: (u32, Duration),
}

impl Known {
    /// Whether it is looked after when its policy is gone.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.open || self.owed
    }
}

/// Ends when dropped.
pub(super) struct Subscription<'a> {
    hub: &'a Hub,
    id: u64,
}

impl Hub {
    #[must_use]
    pub fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self { observers, listeners: Mutex::default(), known: Mutex::default() }
    }

    /// What is known of each policy.
    #[must_use]
    pub fn known(&self) -> HashMap<PolicyName, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets policies that are not in force any more, unless a rotation of theirs is open or a containment is owed.
    pub fn retain(&self, keep: impl Fn(&PolicyName) -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|policy, entry| entry.is_unfinished() || keep(policy));
    }

    /// No rotation of a policy that is gone is open any more, and nothing is owed.
    pub(super) fn forget(&self, policy: &PolicyName) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(policy);
    }

    pub(super) fn know_open(&self, run: &Run) {
        let doubt = run.course.doubt.map(|_| run.course.known.unwrap_or_default());
        let owed = run.before.owes.is_some() || run.course.owes.is_some();
        self.know(&run.plan.policy, &run.before, (true, doubt, owed));
    }

    pub(super) fn know_closed(&self, policy: &PolicyName, marker: &Marker) {
        self.know(policy, marker, (false, None, marker.owes.is_some()));
    }

    fn know(
        &self,
        policy: &PolicyName,
        marker: &Marker,
        (open, doubt, owed): (bool, Option<Verdicts>, bool),
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(policy.clone()).or_default();
        entry.since = marker.current.as_ref().map(|current| current.since);
        (entry.open, entry.doubt, entry.owed, entry.unknown) = (open, doubt, owed, false);
        // Of another value than the one in force.
        entry.verified = entry.verified.filter(|verified| verified.version == marker.version);
    }

    /// When the value in force was tried the last time; `first` if it never was. Not later than `now`: what
    /// lies ahead comes from a clock that was set back since.
    pub(super) fn tried(&self, policy: &PolicyName, first: Timestamp, now: Timestamp) -> Timestamp {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(policy.clone()).or_default();
        let tried = entry.tried.unwrap_or(first).min(now);
        entry.tried = Some(tried);
        tried
    }

    /// When the value in force may be tried, on the monotonic clock: at a turn that is asked for once, and not
    /// before a pause is over.
    pub(super) fn granted(
        &self,
        policy: &PolicyName,
        now: Duration,
        ask: impl FnOnce() -> Duration,
    ) -> Duration {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(policy.clone()).or_default();
        if entry.untried.1 > now {
            return entry.untried.1;
        }
        *entry.granted.get_or_insert_with(ask)
    }

    /// The target gave no verdict. It is asked again after a pause that grows.
    pub(super) fn know_untried(&self, policy: &PolicyName, now: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(policy.clone()).or_default();
        let (times, _) = entry.untried;
        let pause = Duration::from_secs(5 << times.min(8)).min(LONGEST_PAUSE);
        (entry.granted, entry.untried) = (None, (times.saturating_add(1), now + pause));
    }

    /// The value in force was tried at `at`.
    pub(super) fn know_tried(&self, policy: &PolicyName, at: Timestamp, found: Option<Verification>) {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = known.entry(policy.clone()).or_default();
            (entry.tried, entry.verified) = (Some(at), found);
            (entry.granted, entry.untried) = (None, Default::default());
        }
        if let Some(found) = &found {
            self.observers.iter().for_each(|observer| observer.verified(policy, found));
        }
    }

    /// Readers got the value in force back.
    pub(super) fn mended(&self, policy: &PolicyName, readers: &[String]) {
        self.observers.iter().for_each(|observer| observer.mended(policy, readers));
    }

    /// What came of trying the value in force the last time.
    pub(super) fn verified(&self, policy: &PolicyName) -> Option<Verification> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(policy)?.verified
    }

    /// The store of a policy could not be read: what is known of it may be out of date.
    pub(super) fn lose_sight(&self, policy: &PolicyName) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(policy.clone()).or_default().unknown = true;
    }

    /// What is known of a rotation here.
    pub(super) fn live(&self, policy: &PolicyName) -> Live {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(policy);
        known.map(|known| Live { step: known.step, detail: known.detail.clone() }).unwrap_or_default()
    }

    pub(super) fn subscribe(
        &self,
        policy: PolicyName,
        events: mpsc::UnboundedSender<Event>,
    ) -> Subscription<'_> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let id = listeners.next;
        listeners.next += 1;
        listeners.all.insert(id, (policy, events));
        Subscription { hub: self, id }
    }

    fn remember(&self, event: &Event) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(event.policy.clone()).or_default();
        let told = |text: &String| Some((event.rotation, text.clone()));
        match &event.what {
            What::Waiting { detail, .. } => entry.detail = told(detail),
            What::Retrying { failure, .. } | What::TurnedBack { failure, .. } => entry.detail = told(failure),
            What::Parked { failure, remedy, .. } => {
                let remedy = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
                entry.detail = told(&format!("{failure}{remedy}"));
            }
            // Who is left is said before they are closed, and stands until they are.
            What::Done { detail, .. } => entry.detail = detail.as_ref().and_then(told),
            What::Closed { .. } | What::InDoubt { .. } => entry.detail = None,
            What::Opened
            | What::Resumed
            | What::Started { .. }
            | What::Stopped { .. }
            | What::GivenUp { .. }
            | What::Lost { .. } => {}
        }
        match &event.what {
            What::Started { step } | What::Waiting { step, .. } => entry.step = Some(*step),
            What::Closed { record, owed } => {
                entry.step = None;
                (entry.open, entry.doubt, entry.owed) = (false, None, *owed);
                if record.to != record.from {
                    entry.verified = None;
                    // What was brought back is as old as it was.
                    let brought_back =
                        record.previous_promoted_at.filter(|_| record.outcome == Outcome::RolledBack);
                    entry.since = Some(brought_back.unwrap_or(record.opened_at));
                }
            }
            What::Parked { .. } | What::Stopped { .. } | What::Lost { .. } => entry.step = None,
            What::InDoubt { known, .. } => {
                entry.step = None;
                entry.doubt = Some(*known);
            }
            What::Opened | What::Resumed => entry.open = true,
            What::Done { .. } | What::Retrying { .. } | What::TurnedBack { .. } | What::GivenUp { .. } => {}
        }
    }
}

impl Observer for Hub {
    fn observe(&self, event: &Event) {
        // First: whoever hears of it may ask at once.
        self.remember(event);
        for observer in &self.observers {
            observer.observe(event);
        }
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for (policy, listener) in listeners.all.values() {
            if *policy == event.policy {
                let _ = listener.send(event.clone());
            }
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.hub.listeners.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&self.id);
    }
}
