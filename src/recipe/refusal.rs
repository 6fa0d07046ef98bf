//! Which answers may count as the proof that a key is dead, and what a recipe is doubted for.

use super::{ConsumerRecipe, Pattern, Recipe, RecipeProblem};

const UNTRIED: &str =
    "it has no examples, so this proves nothing of its patterns: write answers of the provider there";

/// What is wrong with a pattern for refusals, and with which of its fields; the pattern itself for none.
///
/// Whatever is between here and the provider answers, too: a captive portal sends elsewhere, a firewall forbids, a proxy
/// wants a login of its own, and any mistake in a request gives a 400. Only the provider says in its own words that a key
/// is none; but for 401, which is about who asks and about nothing else.
pub(super) fn weakness(pattern: &Pattern) -> Option<(Option<&'static str>, RecipeProblem)> {
    if pattern.status.is_empty() {
        return Some((None, RecipeProblem::AnyStatus));
    }
    let says_nothing =
        |status: &&u16| !matches!(**status, 200..=299 | 400..=499) || matches!(**status, 407 | 408 | 429);
    if let Some(status) = pattern.status.iter().find(says_nothing) {
        return Some((Some("status"), RecipeProblem::NoVerdict(*status)));
    }
    if names_words(pattern) {
        return None;
    }
    if pattern.at.is_some() {
        return Some((None, RecipeProblem::AnyText));
    }
    if let Some(status) = pattern.status.iter().find(|status| **status != 401) {
        return Some((Some("status"), RecipeProblem::NoVerdict(*status)));
    }
    // A body that is JSON and has not something is anybody's.
    pattern.lacks.is_some().then_some((Some("lacks"), RecipeProblem::NothingSaid))
}

/// Whether a pattern says what has to be in the body.
fn names_words(pattern: &Pattern) -> bool {
    let is_word = |value: &serde_json::Value| match value {
        serde_json::Value::Null => false,
        serde_json::Value::String(text) => !text.trim().is_empty(),
        _ => true,
    };
    pattern.at.is_some()
        && match &pattern.has {
            Some(text) => !text.trim().is_empty(),
            None => !pattern.is.is_empty() && pattern.is.iter().all(|value| is_word(&value.0)),
        }
}

/// What keeps no recipe from use, and leaves it less of a proof than it could be.
#[must_use]
pub fn doubts(recipe: &Recipe) -> Vec<&'static str> {
    let bare = recipe.verify.refused_when.iter().any(|pattern| !names_words(pattern));
    let mut doubts = Vec::new();
    if bare {
        doubts.push(
            "a 401 counts as a refusal whatever else is in it, and a proxy may answer so as well: name what the provider says with `at` and `is` or `has`",
        );
    }
    if recipe.examples.is_empty() {
        doubts.push(UNTRIED);
    }
    doubts
}

/// The same of a recipe for a place.
#[must_use]
pub fn place_doubts(recipe: &ConsumerRecipe) -> Vec<&'static str> {
    if recipe.examples.is_empty() { vec![UNTRIED] } else { Vec::new() }
}
