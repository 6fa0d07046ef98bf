//! Answers as a system gives them, and what a recipe for a place makes of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ConsumerRecipe, Look, Prepare, Put};
use crate::recipe::{Answer, Body, is_done};

/// An answer of the system, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceExample {
    /// Which call it answers.
    pub call: PlaceCall,
    pub status: u16,
    /// Its body; absent where that is no JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    pub means: PlaceMeans,
}

/// A call of a recipe: those of `mark` are of the slot that the mark has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PlaceCall {
    Session,
    Read,
    Prepare,
    Update,
    Create,
    ReadMark,
    UpdateMark,
    CreateMark,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PlaceMeans {
    /// It tells what is there.
    Found,
    /// There is none.
    Missing,
    /// It yields what was asked for.
    Yielded,
    Done,
    /// Somebody was faster.
    Overtaken,
    /// It failed in a way that the recipe knows.
    Known,
    /// It failed in a way that the recipe does not know.
    Failed,
}

impl PlaceExample {
    /// What the recipe makes of the answer; `None` when it has no such call.
    #[must_use]
    pub fn outcome(&self, recipe: &ConsumerRecipe) -> Option<PlaceMeans> {
        let body = self.body.as_ref().map(|body| body.0.clone());
        let answer = Answer { status: self.status, body, page: false };
        let (value, mark) = (&recipe.value, recipe.mark.as_ref());
        Some(match self.call {
            PlaceCall::Session => {
                let session = recipe.session.as_ref()?;
                let token = session.token.text_of(answer.body.as_ref().unwrap_or(&Value::Null));
                match token.is_some() && is_done(&answer, &[]) {
                    true => PlaceMeans::Yielded,
                    false if recipe.known(&answer, &session.failures).is_some() => PlaceMeans::Known,
                    false => PlaceMeans::Failed,
                }
            }
            PlaceCall::Read => looked(recipe, &value.read, &answer),
            PlaceCall::ReadMark => looked(recipe, &mark?.read, &answer),
            PlaceCall::Prepare => prepared(recipe, value.prepare.as_ref()?, &answer),
            PlaceCall::Update => put(recipe, &value.update, &answer),
            PlaceCall::Create => put(recipe, value.create.as_ref()?, &answer),
            PlaceCall::UpdateMark => put(recipe, &mark?.update, &answer),
            PlaceCall::CreateMark => put(recipe, mark?.create.as_ref()?, &answer),
        })
    }
}

fn looked(recipe: &ConsumerRecipe, look: &Look, answer: &Answer) -> PlaceMeans {
    match look.sight(answer) {
        Some(Some(_)) => PlaceMeans::Found,
        Some(None) => PlaceMeans::Missing,
        None if recipe.known(answer, &look.failures).is_some() => PlaceMeans::Known,
        None => PlaceMeans::Failed,
    }
}

fn prepared(recipe: &ConsumerRecipe, prepare: &Prepare, answer: &Answer) -> PlaceMeans {
    match prepare.yielded(answer) {
        Some(_) => PlaceMeans::Yielded,
        None if recipe.known(answer, &prepare.failures).is_some() => PlaceMeans::Known,
        None => PlaceMeans::Failed,
    }
}

fn put(recipe: &ConsumerRecipe, put: &Put, answer: &Answer) -> PlaceMeans {
    if put.overtaken_when.iter().any(|pattern| pattern.fits(answer)) {
        PlaceMeans::Overtaken
    } else if is_done(answer, &put.done_when) {
        PlaceMeans::Done
    } else if recipe.known(answer, &put.failures).is_some() {
        PlaceMeans::Known
    } else {
        PlaceMeans::Failed
    }
}
