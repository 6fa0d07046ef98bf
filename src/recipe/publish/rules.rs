//! What a recipe for a place has to hold to that its types do not say.

use super::{ConsumerRecipe, Put, Slot};
use crate::policy::shape::FieldPath;
use crate::recipe::names::uses;
use crate::recipe::rules::Checks;
use crate::recipe::{RecipeProblem, is_base};

/// What a call knows besides what all of them do.
#[derive(Clone, Copy)]
struct Knows {
    /// A publication: its policy, version, principal, and the text of the mark.
    publication: bool,
    /// What is to be written.
    value: bool,
    prepared: bool,
    session: bool,
}

/// What is wrong with a recipe for a place, and with which field of its `spec`.
pub(crate) fn place_problems(recipe: &ConsumerRecipe) -> Vec<(FieldPath, RecipeProblem)> {
    let mut found = Found { recipe, checks: Checks::default() };
    let at = FieldPath::from(["spec"]);
    for (field, text) in [("title", &recipe.title), ("testedOn", &recipe.tested_on), ("place", &recipe.place)]
    {
        if text.trim().is_empty() {
            found.checks.add(at.join(field), RecipeProblem::Blank);
        }
    }
    if let Some(base) = &recipe.base
        && !is_base(base)
    {
        found.checks.add(at.join("base"), RecipeProblem::NotABase(base.chars().take(80).collect()));
    }
    let rate = recipe.limits.requests_per_second;
    if let Some(rate) = rate.filter(|rate| !(1..=1_000).contains(rate)) {
        found.checks.add(at.join("limits").join("requestsPerSecond"), RecipeProblem::OutOfRange(rate));
    }
    found.checks.timeout(&at, recipe.limits.timeout);
    found.parameters_alone(&at.join("place"), &recipe.place);
    for (index, accepts) in recipe.accepts.iter().enumerate() {
        if let Some(only_if) = &accepts.only_if {
            found.parameters_alone(&at.join("accepts").join(index).join("onlyIf"), only_if);
        }
    }
    found.checks.failures(&at.join("failures"), &recipe.failures);
    found.slots(&at);
    found.checks.problems
}

struct Found<'a> {
    recipe: &'a ConsumerRecipe,
    checks: Checks,
}

impl Found<'_> {
    /// A template that knows nothing but what a policy says.
    fn parameters_alone(&mut self, at: &FieldPath, source: &str) {
        let recipe = self.recipe;
        self.checks.template(at, source, |name| is_parameter(recipe, name));
    }

    fn slots(&mut self, at: &FieldPath) {
        let recipe = self.recipe;
        let general =
            Knows { publication: false, value: false, prepared: false, session: recipe.session.is_some() };
        if let Some(session) = &recipe.session {
            let at = at.join("session");
            self.request(&at.join("request"), &session.request, Knows { session: false, ..general });
            self.checks.failures(&at.join("failures"), &session.failures);
        }
        let value_at = at.join("value");
        self.slot(&value_at, &recipe.value, general, true);
        match (&recipe.value.read.mark, &recipe.mark) {
            (None, None) => self.checks.add(at.join("mark"), RecipeProblem::NoMark),
            (Some(_), Some(_)) => self.checks.add(at.join("mark"), RecipeProblem::TwoMarks),
            (Some(_), None) => self.sends_mark(&value_at, &recipe.value),
            (None, Some(slot)) => {
                let at = at.join("mark");
                self.slot(&at, slot, general, false);
                if slot.read.mark.is_none() {
                    self.checks.add(at.join("read").join("mark"), RecipeProblem::NoMark);
                }
                self.sends_mark(&at, slot);
            }
        }
    }

    fn sends_mark(&mut self, at: &FieldPath, slot: &Slot) {
        for (field, put) in puts(slot) {
            if !uses(&put.request, "mark") {
                self.checks.add(at.join(field).join("request"), RecipeProblem::MarkUnsent);
            }
        }
    }

    fn slot(&mut self, at: &FieldPath, slot: &Slot, general: Knows, has_value: bool) {
        let read_at = at.join("read");
        self.request(&read_at.join("request"), &slot.read.request, general);
        if slot.read.missing_when.is_empty() {
            self.checks.add(read_at.join("missingWhen"), RecipeProblem::NeverMissing);
        }
        for (index, pattern) in slot.read.missing_when.iter().enumerate() {
            // What a gateway says for itself is no sign that there is none.
            if pattern.status.is_empty() {
                self.checks.add(read_at.join("missingWhen").join(index), RecipeProblem::AnyStatus);
            }
            if let Some(status) = pattern.status.iter().find(|status| **status >= 500 || **status == 429) {
                self.checks.add(read_at.join("missingWhen").join(index), RecipeProblem::NoVerdict(*status));
            }
        }
        self.checks.patterns(&read_at.join("missingWhen"), &slot.read.missing_when);
        self.checks.patterns(&read_at.join("foundWhen"), &slot.read.found_when);
        self.checks.failures(&read_at.join("failures"), &slot.read.failures);
        if let Some(prepare) = &slot.prepare {
            let at = at.join("prepare");
            self.request(&at.join("request"), &prepare.request, general);
            self.checks.failures(&at.join("failures"), &prepare.failures);
        }
        let known =
            Knows { publication: true, value: has_value, prepared: slot.prepare.is_some(), ..general };
        for (field, put) in puts(slot) {
            let at = at.join(field);
            self.request(&at.join("request"), &put.request, known);
            self.checks.patterns(&at.join("doneWhen"), &put.done_when);
            self.checks.patterns(&at.join("overtakenWhen"), &put.overtaken_when);
            self.checks.failures(&at.join("failures"), &put.failures);
            if has_value && !uses(&put.request, "value") {
                self.checks.add(at.join("request"), RecipeProblem::ValueUnsent);
            }
        }
    }

    fn request(&mut self, at: &FieldPath, request: &crate::recipe::Request, known: Knows) {
        let recipe = self.recipe;
        let is_known = |name: &str| {
            let mut parts = name.split('.');
            let credential = |part: Option<&str>| matches!(part, Some("principal" | "value"));
            match parts.next().unwrap_or_default() {
                "now" => parts.next().is_none(),
                "policy" | "version" | "principal" | "mark" => known.publication && parts.next().is_none(),
                "value" => known.value && parts.next().is_none(),
                "session" => known.session && parts.next().is_none(),
                "prepared" => {
                    let yields = [Some(&recipe.value), recipe.mark.as_ref()];
                    let mut yields = yields.into_iter().flatten().filter_map(|slot| slot.prepare.as_ref());
                    let name = parts.next().unwrap_or_default();
                    known.prepared && yields.any(|prepare| prepare.yields.contains_key(name))
                }
                "parameters" => parts.next().is_some_and(|name| recipe.parameters.contains_key(name)),
                "admin" => recipe.admin.is_some() && credential(parts.next()),
                "credentials" => {
                    let declared = parts.next().is_some_and(|name| recipe.credentials.contains_key(name));
                    declared && credential(parts.next())
                }
                _ => false,
            }
        };
        self.checks.request(at, request, is_known);
    }
}

fn is_parameter(recipe: &ConsumerRecipe, name: &str) -> bool {
    let mut parts = name.split('.');
    parts.next() == Some("parameters")
        && parts.next().is_some_and(|name| recipe.parameters.contains_key(name))
}

fn puts(slot: &Slot) -> impl Iterator<Item = (&'static str, &Put)> {
    [("update", Some(&slot.update)), ("create", slot.create.as_ref())]
        .into_iter()
        .filter_map(|(field, put)| Some((field, put?)))
}
