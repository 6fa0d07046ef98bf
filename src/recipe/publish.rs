//! How a value is written into a place at another system, and what is there, told by a document instead of by code.
//!
//! A [`ConsumerRecipe`] says which requests read a place and write it, and what their answers mean; sending them is the
//! business of [`crate::consumer::http`]. A place has to say whose it is and which version it holds: its [`Slot`] has room
//! for a text that rekeyd's mark goes into, or there is another slot beside it for the mark alone.

mod example;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::example::{PlaceCall, PlaceExample, PlaceMeans};
pub(crate) use self::rules::place_problems;
use super::answer::is_true;
use super::template::fill_parameters;
use super::{Answer, Known, ParameterSpec, Parameters, Pattern, Pointer, RecipeMetadata, Request, Session};
use crate::policy::document::ApiVersion;
use crate::policy::spec::Interval;

/// How a value is written into a place that others read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "ConsumerRecipe")]
pub struct ConsumerRecipeDocument {
    pub api_version: ApiVersion,
    pub kind: ConsumerRecipeKind,
    pub metadata: RecipeMetadata,
    pub spec: ConsumerRecipe,
}

/// The kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConsumerRecipeKind {
    ConsumerRecipe,
}

/// Everything that is to be known of a system to write a value there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumerRecipe {
    /// What is written, for people.
    pub title: String,
    /// Where the system documents the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
    /// What the recipe was tried on, for people: a server with its version, or a stub.
    pub tested_on: String,
    /// The scheme, host and port that requests go to, and a path that all of them begin with. A policy may name
    /// another, for systems that are run by many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What the policy's admin credential has to be: its name and its value. Without one there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Further credentials of the settings that requests need, and what they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, String>,
    /// What a policy says of its place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, ParameterSpec>,
    /// A template over the parameters that names the place: two policies with one text for one server would write the
    /// same place, and are refused. `secret {{ parameters.name }} of {{ parameters.repository }}`.
    pub place: String,
    /// What the system takes for a value: held against it before anything is changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepts: Vec<Accepts>,
    #[serde(default)]
    pub limits: PlaceLimits,
    /// A call that yields a token for the other calls, at a system that wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// What answers mean that are failures, in every call that does not say it itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
    /// Where the value goes.
    pub value: Slot,
    /// Where the mark goes, where the value's own place has no room for a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Slot>,
    /// Answers as the system gives them, and what the recipe has to make of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<PlaceExample>,
}

/// What the system lets be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlaceLimits {
    /// How many requests a second one admin credential may send to one host, those of other recipes included.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub requests_per_second: Option<u32>,
    /// How long one request may take: from 1s to 5m.
    pub timeout: Interval,
}

impl Default for PlaceLimits {
    fn default() -> Self {
        Self { requests_per_second: None, timeout: Interval::from_duration(Duration::from_secs(15)) }
    }
}

/// What the system takes for a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accepts {
    /// A template over the parameters; where it does not come to `true`, this does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_if: Option<String>,
    /// In bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortest: Option<u32>,
    /// In bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<u32>,
    /// It takes no spaces, tabs and line breaks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_spaces: bool,
    /// What to do otherwise.
    pub remedy: String,
}

/// A place that has one text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slot {
    /// Tells what is there.
    pub read: Look,
    /// A request whose answer the writes need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<Prepare>,
    /// Replaces what is there.
    pub update: Put,
    /// Makes it where there is none. Without this, `update` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Put>,
}

/// Tells what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Look {
    pub request: Request,
    /// Answers that mean that there is none.
    #[schemars(length(min = 1))]
    pub missing_when: Vec<Pattern>,
    /// What counts as an answer that tells it, among those of 200 to 299. Any, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found_when: Vec<Pattern>,
    /// Where it has the text that the mark is in; null for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Pointer>,
    /// Where it shows the value, which is compared and never told to anybody; null where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shows: Option<Pointer>,
    /// Where it has something that every write changes, such as a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Pointer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
}

/// A request whose answer the writes need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prepare {
    pub request: Request,
    /// Where its answer has what the writes know as `prepared.NAME`.
    pub yields: BTreeMap<String, Pointer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
}

/// Writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Put {
    pub request: Request,
    /// What counts as done, among answers of 200 to 299. Any, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done_when: Vec<Pattern>,
    /// Answers that mean that somebody was faster: there is one already, or none any more. It is looked again then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overtaken_when: Vec<Pattern>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
}

/// What an answer tells of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The text that a mark is in.
    pub text: String,
    /// The value; `None` where it is not shown.
    pub shown: Option<zeroize::Zeroizing<String>>,
    /// What every write changes.
    pub changed_at: Option<String>,
}

impl ConsumerRecipe {
    /// Every host that requests go to, where they begin with `base`.
    #[must_use]
    pub fn hosts(&self, base: Option<&str>) -> BTreeSet<String> {
        let absolute =
            self.requests().map(|request| request.path.as_str()).filter(|path| !path.starts_with('/'));
        super::hosts(base.or(self.base.as_deref()).into_iter().chain(absolute))
    }

    /// The failure that an answer is known to be, by what a call says itself or by what is said for all.
    pub(crate) fn known<'a>(&'a self, answer: &Answer, own: &'a [Known]) -> Option<&'a Known> {
        super::known(answer, own).or_else(|| super::known(answer, &self.failures))
    }

    /// The name of a place, by what a policy says of it.
    #[must_use]
    pub fn place(&self, parameters: &Parameters) -> Option<String> {
        fill_parameters(&self.place, parameters)
    }

    /// Every request.
    fn requests(&self) -> impl Iterator<Item = &Request> {
        let session = self.session.as_ref().map(|session| &session.request);
        let slots = [Some(&self.value), self.mark.as_ref()].into_iter().flatten();
        slots.flat_map(Slot::requests).chain([session]).flatten()
    }
}

impl Slot {
    fn requests(&self) -> [Option<&Request>; 4] {
        let prepare = self.prepare.as_ref().map(|prepare| &prepare.request);
        let create = self.create.as_ref().map(|create| &create.request);
        [Some(&self.read.request), prepare, Some(&self.update.request), create]
    }
}

impl Accepts {
    /// Why a value is not taken, in words; `None` where it is.
    #[must_use]
    pub fn refusal(&self, parameters: &Parameters, value: &[u8]) -> Option<String> {
        if self.only_if.as_ref().is_some_and(|only_if| !is_true(only_if, parameters)) {
            return None;
        }
        let length = value.len();
        if let Some(shortest) = self.shortest.filter(|shortest| length < *shortest as usize) {
            return Some(format!(
                "what is to be written has {length} bytes, and {shortest} are the least there"
            ));
        }
        if let Some(longest) = self.longest.filter(|longest| length > *longest as usize) {
            return Some(format!(
                "what is to be written has {length} bytes, and {longest} are the most there"
            ));
        }
        let has_spaces = || value.iter().any(|byte| byte.is_ascii_whitespace());
        (self.without_spaces && has_spaces())
            .then(|| "what is to be written has spaces or line breaks, which are not taken there".to_owned())
    }
}

impl Look {
    /// What an answer tells: the place, that there is none, or nothing at all.
    #[must_use]
    pub fn sight(&self, answer: &Answer) -> Option<Option<Sight>> {
        if self.missing_when.iter().any(|pattern| pattern.fits(answer)) {
            return Some(None);
        }
        if !super::is_done(answer, &self.found_when) {
            return None;
        }
        let body = answer.body.as_ref()?;
        let text = match &self.mark {
            None => String::new(),
            Some(at) => match at.of(body)? {
                Value::Null => String::new(),
                _ => at.text_of(body)?,
            },
        };
        let changed_at = match &self.changed_at {
            Some(at) => Some(at.text_of(body)?),
            None => None,
        };
        let shown = self.shows.as_ref().and_then(|at| at.text_of(body)).map(zeroize::Zeroizing::new);
        Some(Some(Sight { text, shown, changed_at }))
    }
}

impl Prepare {
    /// What an answer yields; `None` where it has not all of it.
    #[must_use]
    pub fn yielded(&self, answer: &Answer) -> Option<BTreeMap<String, String>> {
        let body = answer.body.as_ref().filter(|_| super::is_done(answer, &[]))?;
        self.yields.iter().map(|(name, at)| Some((name.clone(), at.text_of(body)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_system_takes_may_depend_on_what_a_policy_says() {
        let accepts: Accepts = serde_json::from_value(json!({
            "onlyIf": "{{ parameters.masked }}", "shortest": 8, "longest": 20, "withoutSpaces": true, "remedy": "r",
        }))
        .expect("a rule");
        let refusal = |masked: bool, value: &str| {
            let parameters = serde_json::from_value(json!({"masked": masked})).expect("parameters");
            accepts.refusal(&parameters, value.as_bytes())
        };
        for (value, reason) in [
            ("hunter2", "has 7 bytes, and 8 are the least"),
            ("hunter2hunter2hunter2", "has 21 bytes, and 20 are the most"),
            ("hunter2 hunter2", "spaces or line breaks"),
            ("hunter2\nhunter2", "spaces or line breaks"),
        ] {
            let told = refusal(true, value).expect("it is refused");
            assert!(told.contains(reason) && !told.contains("hunter"), "{told}");
            assert_eq!(refusal(false, value), None);
        }
        assert_eq!(refusal(true, "hunter2hunter2"), None);
    }

    #[test]
    fn a_look_tells_a_place_from_none_and_from_no_answer() {
        let look: Look = serde_json::from_value(json!({
            "request": {"method": "GET", "path": "/"},
            "missingWhen": [{"status": [404], "at": "/message", "is": ["none"]}],
            "mark": "/text", "shows": "/value", "changedAt": "/at",
        }))
        .expect("a look");
        let sight = |status, body: Value| look.sight(&Answer { status, body: Some(body), page: false });
        let whole = sight(200, json!({"text": "t", "value": "v", "at": 7})).expect("an answer").expect("one");
        assert_eq!((&*whole.text, whole.changed_at.as_deref()), ("t", Some("7")));
        assert_eq!(whole.shown.as_ref().map(|shown| shown.as_str()), Some("v"));
        // Null: a person wrote nothing, and the system does not show the value.
        let bare =
            sight(200, json!({"text": null, "value": null, "at": 7})).expect("an answer").expect("one");
        assert_eq!((&*bare.text, bare.shown), ("", None));
        assert_eq!(sight(404, json!({"message": "none"})), Some(None));
        for (status, body) in [
            (404, json!({"message": "no route"})),
            (200, json!({"text": "t", "value": "v"})),
            (200, json!({"value": "v", "at": 7})),
            (500, json!({"text": "t", "value": "v", "at": 7})),
        ] {
            assert_eq!(sight(status, body.clone()), None, "{status} {body}");
        }
        assert_eq!(look.sight(&Answer { status: 404, body: None, page: true }), None);
    }
}
