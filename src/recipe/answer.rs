//! What an answer means.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::template::fill_parameters;
use super::{Body, Create, Health, Known, LastUsed, Parameters, Pointer, Verify};
use crate::target::LastUse;

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

impl LastUsed {
    /// Whether it is asked at all, by what a policy says.
    #[must_use]
    pub fn is_asked(&self, parameters: &Parameters) -> bool {
        self.only_if.as_ref().is_none_or(|only_if| is_true(only_if, parameters))
    }

    /// What an answer tells of the last use; `None` where it is no answer to that.
    #[must_use]
    pub fn last(&self, answer: &Answer) -> Option<LastUse> {
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(answer));
        if fits(&self.gone_when) {
            return Some(LastUse::Untold);
        }
        let body = answer.body.as_ref().filter(|_| is_done(answer, &[]))?;
        Some(match self.used_at.of(body).and_then(moment) {
            // One that says both says nothing.
            Some(_) if fits(&self.unused_when) => LastUse::Untold,
            Some(at) => LastUse::At(at),
            None if fits(&self.unused_when) => LastUse::Never,
            None => LastUse::Untold,
        })
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

/// Whether a template over the parameters comes to `true`, as the engine prints one.
pub(super) fn is_true(template: &str, parameters: &Parameters) -> bool {
    fill_parameters(template, parameters).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
}

/// A time as providers write it: RFC 3339 or 2822, or seconds or milliseconds since 1970.
pub(crate) fn moment(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => text
            .parse()
            .ok()
            .or_else(|| jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp()))
            // Without a zone: GitLab and others mean UTC.
            .or_else(|| format!("{text}Z").parse().ok()),
        Value::Number(number) => {
            let number = number.as_i64().filter(|number| *number > 0)?;
            let millis = if number > 100_000_000_000 { number } else { number.checked_mul(1_000)? };
            Timestamp::from_millisecond(millis).ok()
        }
        _ => None,
    }
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
    use crate::recipe::ParameterValue;

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
    fn a_last_use_is_a_time_or_what_the_recipe_says_of_an_answer() {
        let usage: LastUsed = serde_json::from_value(json!({
            "onlyIf": "{{ parameters.project != '' }}",
            "request": {"method": "GET", "path": "/{{ id }}"},
            "usedAt": "/last",
            "unusedWhen": [{"status": [200], "at": "/watched", "is": [true]}],
        }))
        .expect("a call");
        let at: Timestamp = "2026-11-01T07:00:00Z".parse().expect("a time");
        let page = |status| Answer { status, body: None, page: true };
        for (answer, told) in [
            (answer(200, json!({"last": at.to_string()})), Some(LastUse::At(at))),
            (answer(200, json!({"last": at.as_second()})), Some(LastUse::At(at))),
            (answer(200, json!({"watched": true, "last": null})), Some(LastUse::Never)),
            // Neither is "never": the one says nothing, the other says both, and the third cannot be read.
            (answer(200, json!({})), Some(LastUse::Untold)),
            (answer(200, json!({"watched": true, "last": at.to_string()})), Some(LastUse::Untold)),
            (answer(200, json!({"last": "yesterday"})), Some(LastUse::Untold)),
            (answer(404, json!({})), Some(LastUse::Untold)),
            (answer(403, json!({})), None),
            (answer(503, json!({"last": at.to_string()})), None),
            (page(200), None),
            (page(404), None),
        ] {
            assert_eq!(usage.last(&answer), told, "{answer:?}");
        }
        let named = |name: &str| Parameters::from([("project".to_owned(), ParameterValue(json!(name)))]);
        assert!(
            usage.is_asked(&named("p")) && !usage.is_asked(&named("")) && !usage.is_asked(&Parameters::new())
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
