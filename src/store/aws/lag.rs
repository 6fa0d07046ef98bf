//! What a reading must not contradict: the service may answer with what was so a moment ago.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a reading that contradicts what is known is repeated. After that it is believed: somebody may have put the
/// label back by hand, or deleted the secret.
pub(super) const PAUSES: [Duration; 4] = [
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(320),
];

/// What this process has learnt of secrets by writing to them.
#[derive(Default)]
pub(super) struct Memory(Mutex<HashMap<String, Known>>);

struct Known {
    /// What is not current any more; `None` for "there was nothing".
    past: Option<String>,
    /// What took its place, if it was this process that put it there.
    current: Option<String>,
}

impl Memory {
    /// A version took another's place.
    pub(super) fn replaced(&self, name: &str, past: Option<&str>, current: &str) {
        let known = Known { past: past.map(Into::into), current: Some(current.into()) };
        self.known().insert(name.into(), known);
    }

    /// A version is not current any more, and what is, is not known.
    pub(super) fn outdated(&self, name: &str, past: &str) {
        self.known().insert(name.into(), Known { past: Some(past.into()), current: None });
    }

    /// Whether a reading shows what is past.
    pub(super) fn contradicts(&self, name: &str, found: Option<&str>) -> bool {
        self.known().get(name).is_some_and(|known| known.past.as_deref() == found)
    }

    /// The version that this process put there last.
    pub(super) fn current(&self, name: &str) -> Option<String> {
        self.known().get(name)?.current.clone()
    }

    /// What is known is not so any more.
    pub(super) fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_is_past_until_it_is_forgotten() {
        let memory = Memory::default();
        assert!(!memory.contradicts("a", None));
        memory.replaced("a", None, "one");
        assert!(memory.contradicts("a", None));
        memory.replaced("a", Some("one"), "two");
        assert!(memory.contradicts("a", Some("one")));
        assert!(!memory.contradicts("a", Some("three")));
        assert!(!memory.contradicts("b", Some("one")));
        assert_eq!(memory.current("a").as_deref(), Some("two"));
        memory.outdated("a", "two");
        assert!(memory.contradicts("a", Some("two")) && memory.current("a").is_none());
        memory.forget("a");
        assert!(!memory.contradicts("a", Some("two")));
    }
}
