//! Answers as a provider gives them, and what a recipe makes of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, Body, Change, List, Recipe, Verdict, is_done, known, read_tag};
use crate::target::LastUse;

/// An answer of the provider, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Example {
    /// Which call it answers.
    pub call: CallName,
    pub status: u16,
    /// Its body; absent where that is no JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    pub means: Means,
    /// For `made`: the id and the value that it shows. For `listed`: the ids. For `used`: the time, as the provider
    /// writes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shows: Vec<String>,
}

/// A call of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CallName {
    Session,
    Create,
    Verify,
    Health,
    List,
    Usage,
    Disable,
    Revoke,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Means {
    /// A key was made, or a session opened.
    Made,
    /// Of a key that was tried: it works.
    Accepted,
    /// Of a key that was tried: it is none.
    Refused,
    /// Of a key that was tried: nothing.
    NoVerdict,
    Listed,
    /// Of a key's last use: when that was.
    Used,
    /// Of a key's last use: there was none yet.
    Unused,
    /// Of a key's last use: nothing.
    Untold,
    /// It was done, or was so before.
    Done,
    /// It failed in a way that the recipe knows.
    Known,
    /// It failed in a way that the recipe does not know.
    Failed,
}

/// What a recipe makes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub means: Means,
    pub shows: Vec<String>,
}

impl Example {
    /// What the recipe makes of the answer; `None` when it has no such call.
    #[must_use]
    pub fn outcome(&self, recipe: &Recipe) -> Option<Outcome> {
        let answer =
            Answer { status: self.status, body: self.body.as_ref().map(|body| body.0.clone()), page: false };
        let plain = |means| Outcome { means, shows: Vec::new() };
        Some(match self.call {
            CallName::Session => {
                let token =
                    recipe.session.as_ref()?.token.text_of(answer.body.as_ref().unwrap_or(&Value::Null));
                plain(if token.is_some() && is_done(&answer, &[]) { Means::Made } else { Means::Failed })
            }
            CallName::Create => {
                let create = recipe.create.as_ref()?;
                if is_done(&answer, &create.done_when) {
                    let shows: Vec<_> =
                        create.shown_id(&answer).into_iter().chain(create.shown_value(&answer)).collect();
                    let wanted = usize::from(create.id.is_some()) + usize::from(create.value.is_some());
                    if shows.len() == wanted {
                        Outcome { means: Means::Made, shows }
                    } else {
                        plain(Means::Failed)
                    }
                } else {
                    plain(failed(known(&answer, &create.failures).is_some()))
                }
            }
            CallName::Verify => plain(match recipe.verify.verdict(&answer) {
                Verdict::Accepted => Means::Accepted,
                Verdict::Refused => Means::Refused,
                Verdict::None => Means::NoVerdict,
            }),
            CallName::Health => plain(if recipe.verify.health.as_ref()?.is_well(&answer) {
                Means::Done
            } else {
                Means::NoVerdict
            }),
            CallName::List => match recipe.list.as_ref()?.ids(&answer) {
                Some(shows) => Outcome { means: Means::Listed, shows },
                None => plain(Means::Failed),
            },
            CallName::Usage => {
                let usage = recipe.usage.as_ref()?;
                let text = || answer.body.as_ref().and_then(|body| usage.used_at.text_of(body));
                match usage.last(&answer) {
                    Some(LastUse::At(_)) => {
                        Outcome { means: Means::Used, shows: text().into_iter().collect() }
                    }
                    Some(LastUse::Never) => plain(Means::Unused),
                    Some(LastUse::Untold | LastUse::BySessions | LastUse::ByListed) => plain(Means::Untold),
                    None => plain(Means::Failed),
                }
            }
            CallName::Disable => plain(changed(recipe.disable.as_ref()?, &answer)),
            CallName::Revoke => plain(changed(recipe.revoke.as_ref()?, &answer)),
        })
    }
}

fn failed(is_known: bool) -> Means {
    if is_known { Means::Known } else { Means::Failed }
}

fn changed(change: &Change, answer: &Answer) -> Means {
    let already = change.already_when.iter().any(|pattern| pattern.fits(answer));
    if already || is_done(answer, &change.done_when) {
        Means::Done
    } else {
        failed(known(answer, &change.failures).is_some())
    }
}

impl List {
    /// The items of an answer that are meant; `None` where the answer has no list.
    pub(crate) fn meant<'a>(&self, answer: &'a Answer) -> Option<Vec<&'a Value>> {
        if self.none_when.iter().any(|pattern| pattern.fits(answer)) {
            return Some(Vec::new());
        }
        let items = answer.body.as_ref().and_then(|body| self.items.of(body))?.as_array()?;
        let is_meant =
            |item: &&Value| self.only.is_empty() || self.only.iter().any(|pattern| pattern.fits_value(item));
        is_done(answer, &[]).then(|| items.iter().filter(is_meant).collect())
    }

    /// How many items an answer has, those included that are not meant.
    pub(crate) fn count(&self, answer: &Answer) -> usize {
        let items = answer.body.as_ref().and_then(|body| self.items.of(body));
        items.and_then(Value::as_array).map_or(0, Vec::len)
    }

    fn ids(&self, answer: &Answer) -> Option<Vec<String>> {
        self.meant(answer)?.into_iter().map(|item| self.id.text_of(item)).collect()
    }

    /// Who had an item made, by its name.
    pub(crate) fn tag_of(&self, item: &Value) -> Option<crate::target::Tag> {
        read_tag(&self.name.as_ref()?.text_of(item)?)
    }
}
