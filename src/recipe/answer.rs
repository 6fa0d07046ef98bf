//! What an answer means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Body, Create, Health, Known, Pointer, Verify};

/// An answer as it came: its status, and its body where that is JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// `None` of a body that is something else, or nothing.
    pub body: Option<Value>,
    /// It is a page for people: somebody else answers there than the provider's API. No pattern fits it.
    pub page: bool,
}

/// Which answers are meant: all that is said has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pattern {
    /// One of these; any, when absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// The body has nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<Pointer>,
    /// What the body, or the item of a list, has here...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Pointer>,
    /// ... is one of these. Anything but null, when absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub is: Vec<Body>,
    /// ... or has this text in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has: Option<String>,
}

impl Pattern {
    /// Whether an answer is meant.
    #[must_use]
    pub fn fits(&self, answer: &Answer) -> bool {
        !answer.page
            && (self.status.is_empty() || self.status.contains(&answer.status))
            && (self.at.is_none() && self.lacks.is_none()
                || answer.body.as_ref().is_some_and(|body| self.fits_value(body)))
    }

    /// Whether an item of a list is.
    #[must_use]
    pub fn fits_value(&self, value: &Value) -> bool {
        let there = |at: &Pointer| at.of(value).is_some_and(|found| !found.is_null());
        if self.lacks.as_ref().is_some_and(there) {
            return false;
        }
        let Some(at) = &self.at else { return true };
        let Some(found) = at.of(value).filter(|found| !found.is_null()) else { return false };
        match &self.has {
            Some(text) => found.as_str().is_some_and(|found| found.contains(text.as_str())),
            None => self.is.is_empty() || self.is.iter().any(|Body(wanted)| wanted == found),
        }
    }
}

/// What an answer says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// The provider itself said so.
    Refused,
    /// Nothing that counts.
    None,
}

impl Verify {
    /// What an answer says of the key that was tried. One that fits both lists says nothing.
    #[must_use]
    pub fn verdict(&self, answer: &Answer) -> Verdict {
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(answer));
        match (fits(&self.accepted_when), fits(&self.refused_when)) {
            (true, false) => Verdict::Accepted,
            (false, true) => Verdict::Refused,
            _ => Verdict::None,
        }
    }
}

impl Health {
    /// Whether all is well, by this answer.
    #[must_use]
    pub fn is_well(&self, answer: &Answer) -> bool {
        self.well_when.iter().any(|pattern| pattern.fits(answer))
    }
}

/// Whether an answer says that it was done: 2xx, and one of the patterns where there are any.
pub(crate) fn is_done(answer: &Answer, done_when: &[Pattern]) -> bool {
    (200..300).contains(&answer.status)
        && !answer.page
        && (done_when.is_empty() || done_when.iter().any(|pattern| pattern.fits(answer)))
}

/// The failure that an answer is known to be.
pub(crate) fn known<'a>(answer: &Answer, failures: &'a [Known]) -> Option<&'a Known> {
    failures.iter().find(|known| known.when.fits(answer))
}

impl Create {
    /// The id that an answer shows; `None` where it does not.
    pub(crate) fn shown_id(&self, answer: &Answer) -> Option<String> {
        self.id.as_ref()?.text_of(answer.body.as_ref()?)
    }

    /// The value that an answer shows; `None` where it does not.
    pub(crate) fn shown_value(&self, answer: &Answer) -> Option<String> {
        self.value.as_ref()?.text_of(answer.body.as_ref()?).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pattern(of: Value) -> Pattern {
        serde_json::from_value(of).expect("a pattern")
    }

    fn answer(status: u16, body: Value) -> Answer {
        Answer { status, body: Some(body), page: false }
    }

    #[test]
    fn all_that_a_pattern_says_has_to_hold() {
        let dead = pattern(json!({"status": [200], "at": "/error", "is": ["token_revoked", "invalid_auth"]}));
        assert!(dead.fits(&answer(200, json!({"ok": false, "error": "invalid_auth"}))));
        assert!(!dead.fits(&answer(200, json!({"ok": false, "error": "ratelimited"}))));
        assert!(!dead.fits(&answer(503, json!({"ok": false, "error": "invalid_auth"}))));
        assert!(!dead.fits(&Answer { status: 200, body: None, page: false }), "it is no JSON");
        let refused = pattern(json!({"status": [401]}));
        assert!(refused.fits(&Answer { status: 401, body: None, page: false }));
        assert!(!refused.fits(&Answer { status: 401, body: None, page: true }), "a gateway asks for a login");
        assert!(!pattern(json!({"at": "/id"})).fits(&answer(200, json!({"id": null}))));
        assert!(
            pattern(json!({"at": "/m", "has": "expired"})).fits(&answer(400, json!({"m": "it expired."})))
        );
    }

    #[test]
    fn an_answer_that_says_both_says_nothing() {
        let verify: Verify = serde_json::from_value(json!({
            "request": {"method": "GET", "path": "/"},
            "acceptedWhen": [{"status": [200]}],
            "refusedWhen": [{"status": [401]}, {"at": "/error", "is": ["invalid_auth"]}],
        }))
        .expect("a call");
        assert_eq!(verify.verdict(&answer(200, json!({}))), Verdict::Accepted);
        assert_eq!(verify.verdict(&answer(401, json!({}))), Verdict::Refused);
        assert_eq!(verify.verdict(&answer(200, json!({"error": "invalid_auth"}))), Verdict::None);
        assert_eq!(verify.verdict(&answer(502, json!({}))), Verdict::None);
    }
}
