//! How keys of an HTTP API are made, tried, listed and revoked, told by a document instead of by code.
//!
//! A [`Recipe`] is a YAML document of the kind `Recipe`, beside the policies that name it, or one of those that
//! rekeyd brings along ([`shipped`]). It says which requests to send and what their answers mean; sending them is
//! the business of [`crate::target::http`]. What a rotation does with the keys is not in it: that is the protocol,
//! and the same for every target.
//!
//! Two things are asked of a recipe above all. An answer counts as a refusal only where the recipe says so in so
//! many words ([`Verify::refused_when`]): a gateway that is broken must not be taken for a dead key. And where the
//! provider has a place for it, the rotation's id goes into the key's name ([`Tagging`]), so that a key whose
//! answer was lost is found and deleted.
//!
//! A second family ([`publish`]) tells of places that a value is written to for those who read it there.
//!
//! This module is pure: no I/O, no clock.

pub(crate) mod address;
mod answer;
mod assertion;
mod document;
mod example;
mod names;
mod publish;
mod refusal;
mod rules;
mod sealed;
pub mod shipped;
mod tag;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::address::{Server, is_base};
pub use self::answer::{Answer, Pattern, Verdict};
pub(crate) use self::answer::{is_done, known, moment};
pub use self::document::{Body, ParameterValue, Parameters, RecipeDocument, RecipeKind, RecipeMetadata};
pub use self::example::{CallName, Example, Means, Outcome};
pub(crate) use self::publish::place_problems;
pub use self::publish::{
    Accepts, ConsumerRecipe, ConsumerRecipeDocument, ConsumerRecipeKind, Look, PlaceCall, PlaceExample,
    PlaceLimits, PlaceMeans, Prepare, Put, Sight, Slot,
};
pub use self::refusal::{doubts, place_doubts};
pub use self::rules::RecipeProblem;
pub(crate) use self::rules::problems;
pub use self::tag::{Tagging, read_tag, write_tag};
pub use self::template::{Context, PlaceContext, RenderProblem, Rendered};
use crate::ident::PartName;
use crate::policy::spec::Interval;
use crate::secret::ValueSpec;

/// Everything that is to be known of a provider to rotate its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recipe {
    /// What is rotated, for people.
    pub title: String,
    /// Where the provider documents the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
    /// What the recipe was tried on, for people: a server with its version, or a stub.
    pub tested_on: String,
    /// The scheme, host and port that requests go to, and a path that all of them begin with. A policy may name
    /// another, for providers that are run by many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// How the value changes.
    pub strategy: RecipeStrategy,
    /// What the policy's admin credential has to be: its name and its value. Without one there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Further credentials of the settings that requests need, and what they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, String>,
    /// What a policy says of its key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, ParameterSpec>,
    #[serde(default)]
    pub limits: Limits,
    /// How a key's name tells which rotation had it made.
    #[serde(default)]
    pub tag: Tagging,
    /// A call that yields a token for the other calls, at a provider that wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Has a key made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Create>,
    /// Tries a key.
    pub verify: Verify,
    /// Tells which keys there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<List>,
    /// Tells when a key was used last, where `list` does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<LastUsed>,
    /// Makes a key refused that can still be enabled again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable: Option<Change>,
    /// Makes a key refused for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke: Option<Change>,
    /// Revoking ends more than the key: only a containment does it. Any other rotation leaves the outgoing key to its
    /// end, which `limits.lifetime` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoke_only_to_contain: bool,
    /// What a person has to do where the provider has no call for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<ByHand>,
    /// Answers as the provider gives them, and what the recipe has to make of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
}

impl Recipe {
    /// The further parts that a key has.
    #[must_use]
    pub fn part_names(&self) -> Vec<PartName> {
        let Some(create) = &self.create else { return Vec::new() };
        let generated = create.generates.iter().flat_map(ValueSpec::part_names);
        create.parts.keys().cloned().chain(generated).collect()
    }

    /// Every host that requests go to, where they begin with `base` and a policy says these parameters.
    #[must_use]
    pub fn hosts(&self, base: Option<&str>, parameters: &Parameters) -> BTreeSet<String> {
        let base = base.or(self.base.as_deref());
        hosts(base.into_iter().chain(self.addresses(parameters)))
    }

    /// Every server besides the base that requests go to; `None` where it is not known of one of them.
    pub(crate) fn further_servers(&self, parameters: &Parameters) -> Option<BTreeSet<Server>> {
        self.addresses(parameters).map(Server::of).collect()
    }

    /// Those of the requests that do not go to the base.
    fn addresses(&self, parameters: &Parameters) -> impl Iterator<Item = &str> {
        let usage = self.usage.as_ref().filter(|usage| usage.is_asked(parameters));
        let requests = [
            self.session.as_ref().map(|call| &call.request),
            self.create.as_ref().map(|call| &call.request),
            self.verify.request.as_ref(),
            self.verify.health.as_ref().map(|health| &health.request),
            self.list.as_ref().map(|call| &call.request),
            usage.map(|call| &call.request),
            self.disable.as_ref().map(|call| &call.request),
            self.revoke.as_ref().map(|call| &call.request),
        ];
        let paths = requests.into_iter().flatten().map(|request| request.path.as_str());
        paths.filter(|path| !path.starts_with('/'))
    }
}

/// The hosts at these addresses. What is no address leads nowhere.
fn hosts<'a>(addresses: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    addresses.filter_map(Server::of).map(|server| server.host().to_owned()).collect()
}

/// A recipe of either family.
#[derive(Debug, Clone)]
pub enum Family {
    Keys(Arc<Recipe>),
    Place(Arc<ConsumerRecipe>),
}

/// How a value changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RecipeStrategy {
    /// The provider makes a key beside the one that there is.
    DualKey,
    /// The provider puts a value in the place of the one that there is, which is dead from then on.
    Reissued,
    /// A person has the key made, and hands it over.
    HandOff,
}

/// What a policy says of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParameterSpec {
    /// What it is, for people.
    pub description: String,
    /// What it is when a policy does not say; without it a policy has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ParameterValue>,
    /// What a policy may say; anything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<ParameterValue>,
}

/// What the provider lets be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// How many keys there may be at a time, those of other policies included. Needs `list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub live_keys: Option<u32>,
    /// How many requests a second one admin credential may send to one host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub requests_per_second: Option<u32>,
    /// After so long a key dies by itself: one whose answer was lost need not be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Interval>,
    /// How long the provider may go on refusing a new key and accepting one that is gone.
    #[serde(skip_serializing_if = "Interval::is_zero")]
    pub settling: Interval,
    /// How long one request may take: from 1s to 5m.
    pub timeout: Interval,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = |seconds| Interval::from_duration(std::time::Duration::from_secs(seconds));
        Self {
            live_keys: None,
            requests_per_second: None,
            lifetime: None,
            settling: seconds(0),
            timeout: seconds(15),
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    pub method: Method,
    /// Below the base, as a template: what is filled in is escaped. `https://...` for another host.
    pub path: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Sent as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<String>,
    /// Sent as `Authorization: Basic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// Sent as `application/json`. A text that is one expression has its kind: a list stays one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Body>,
    /// Sent as `application/x-www-form-urlencoded`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub form: BTreeMap<String, String>,
}

/// What HTTP calls the way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
    /// OpenBao's and Vault's.
    List,
}

impl Method {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::List => "LIST",
        }
    }
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Basic {
    pub user: String,
    pub password: String,
}

/// A call that yields a token for the other calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Session {
    pub request: Request,
    /// Where its answer has the token; the other calls know it as `session`.
    pub token: Pointer,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
}

/// Has a key made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Create {
    pub request: Request,
    /// Where the answer has the value, the only time that it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Pointer>,
    /// Instead of that: rekeyd makes the value, in this form, and the request hands it over as `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generates: Option<ValueSpec>,
    /// Where the answer has what belongs to the value and changes with it, such as the token that the next one is asked
    /// for with. A request knows those of the key that it is about as `parts.NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<PartName, Pointer>,
    /// The value is in base64, and what it says is what applications want.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decode: bool,
    /// Where it has the public id. Without it, what the key is called; the owner's name, where a value takes
    /// another one's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Pointer>,
    /// What counts as done, among answers of 200 to 299. Any, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done_when: Vec<Pattern>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
}

/// Tries a key. An answer that neither list knows is no verdict.
///
/// Either by a request that is made with the key itself, or, where no request can be, by whether the provider lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verify {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// The key works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_when: Vec<Pattern>,
    /// The provider itself says that the key is none, or none any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_when: Vec<Pattern>,
    /// Instead of all that: it is accepted while `list` has it, and refused when a whole list has not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_list: bool,
    /// Where the provider says that of every key while something behind it is down, or the account is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where the answer for a key that works says what it is of, such as an organization: a new key is taken only where
    /// that is the same as for the one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<Pointer>,
}

/// Asked right after a refusal: unless all is well there, it is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    pub request: Request,
    /// All is well.
    #[schemars(length(min = 1))]
    pub well_when: Vec<Pattern>,
}

/// Tells which keys there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct List {
    pub request: Request,
    /// Where the answer has the list. The whole answer, when absent.
    #[serde(default)]
    pub items: Pointer,
    /// Which of them are meant: all, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Pattern>,
    /// Where an item has its id. The item itself, when absent.
    #[serde(default)]
    pub id: Pointer,
    /// Where it has the name, in which the tag is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Pointer>,
    /// Where it has the time at which the key was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Pointer>,
    /// Where it has the time of the last use; null for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Pointer>,
    /// Where there is more than one page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<Pages>,
    /// Answers that mean that there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub none_when: Vec<Pattern>,
}

/// How the next page is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pages {
    /// The parameter of the query that says which page is meant. Without it, `next` is the address of the next page,
    /// and what follows its `?` is the whole query of the next request; that goes where the first one went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Where an answer has what the next request says there; there is no page after an answer without it. Without
    /// this, pages are counted, and one that is empty is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Pointer>,
    /// Where an answer says whether there is a page after it: none after one that has `false` there, whatever else it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<Pointer>,
    /// The number of the first one, where they are counted.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub first: u32,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_one(number: &u32) -> bool {
    *number == 1
}

/// Tells when a key was used last. What is neither a time nor said to mean anything tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LastUsed {
    /// A template over the parameters; where it does not come to `true`, nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_if: Option<String>,
    /// About the key that `id` names; it does not know the value.
    pub request: Request,
    /// Where the answer has the time of the last use.
    pub used_at: Pointer,
    /// Answers, among those of 200 to 299, that mean that it was never used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused_when: Vec<Pattern>,
    /// Answers that mean that there is no such key any more. 404, when absent.
    #[serde(default = "not_found", skip_serializing_if = "is_not_found")]
    pub gone_when: Vec<Pattern>,
}

/// Makes a key refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    pub request: Request,
    /// What counts as done, among answers of 200 to 299. Any, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done_when: Vec<Pattern>,
    /// Answers that mean that it was done before. 404, when absent.
    #[serde(default = "not_found", skip_serializing_if = "is_not_found")]
    pub already_when: Vec<Pattern>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Known>,
}

fn not_found() -> Vec<Pattern> {
    vec![Pattern { status: vec![404], ..Pattern::default() }]
}

/// Without any is another thing than without the field: a run document has to keep that.
fn is_not_found(patterns: &[Pattern]) -> bool {
    *patterns == not_found()
}

/// What an answer means that is a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Known {
    pub when: Pattern,
    pub means: Meaning,
    /// In words, lower case and without a full stop.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What a failure says of what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Meaning {
    /// Nothing was done; it may work later.
    Unavailable,
    /// Nothing was done; rights are missing.
    Denied,
    /// Nothing was done; somebody else is in the way, such as a key too many.
    Conflict,
    /// Nothing was done; it never works until somebody changes something.
    Invalid,
    /// It may have been done.
    Ambiguous,
}

/// What a person has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ByHand {
    /// How a key is made there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<String>,
    /// How one is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke: Option<String>,
}

/// Where something is in an answer: a JSON Pointer (RFC 6901). `/a/b|:` for what follows the last colon of the
/// text there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer {
    path: Box<str>,
    after: Option<char>,
}

impl Pointer {
    /// What is there.
    #[must_use]
    pub fn of<'a>(&self, answer: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        answer.pointer(&self.path)
    }

    /// The text or the number that is there.
    #[must_use]
    pub fn text_of(&self, answer: &serde_json::Value) -> Option<String> {
        let text = match self.of(answer)? {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return None,
        };
        match self.after {
            Some(after) => text.rsplit_once(after).map(|(_, rest)| rest.to_owned()),
            None => Some(text),
        }
    }
}

/// Why a text is not a [`Pointer`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a JSON Pointer: write for example /data/0/id, and nothing for the whole answer")]
pub struct NotAPointer(String);

impl TryFrom<String> for Pointer {
    type Error = NotAPointer;

    fn try_from(text: String) -> Result<Self, NotAPointer> {
        let mut chars = text.chars().rev();
        let (path, after) = match (chars.next(), chars.next()) {
            (Some(after), Some('|')) => (&text[..text.len() - after.len_utf8() - 1], Some(after)),
            _ => (text.as_str(), None),
        };
        if path.is_empty() || path.starts_with('/') {
            Ok(Self { path: path.into(), after })
        } else {
            Err(NotAPointer(text.chars().take(64).collect()))
        }
    }
}

impl From<Pointer> for String {
    fn from(Pointer { path, after }: Pointer) -> Self {
        let mut text = Self::from(path);
        if let Some(after) = after {
            text.extend(['|', after]);
        }
        text
    }
}

impl JsonSchema for Pointer {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pointer".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^(/.*)?$"})
    }
}
