//! The rules of a place told by a recipe: those that need no recipe, and those that hold a policy against the one it names.

use super::super::target::http::{RecipeUse, Recipes, Sides, credentials, parameters};
use super::{Breaches, Rule};
use crate::policy::shape::FieldPath;
use crate::policy::spec::HttpPlaceSpec;
use crate::recipe::{Family, is_base};
use crate::settings::Settings;
use crate::template::Template;

/// What can be said before the recipe is known.
pub(super) fn rules(at: &FieldPath, http: &HttpPlaceSpec, found: &mut Breaches) {
    if http.definition.is_some() {
        found.add(at.join("definition"), Rule::Recipe(RecipeUse::Inline));
    }
    if let Some(base) = &http.base
        && !is_base(base)
    {
        let base = base.chars().take(80).collect();
        found.add(at.join("base"), Rule::Recipe(RecipeUse::NotABase(base)));
    }
    match Template::parse(&http.content) {
        Err(error) => found.add(at.join("content"), Rule::Template(error)),
        Ok(template) if !template.uses_value() && !template.uses_principal() => {
            found.add(at.join("content"), Rule::TemplateWithoutValue);
        }
        Ok(_) => {}
    }
}

/// Puts the recipe into a policy's consumer, with what it says for parameters that the policy does not name. Tells how the
/// two do not go together.
pub(in crate::policy::validate) fn settle(
    at: &FieldPath,
    http: &mut HttpPlaceSpec,
    recipes: &Recipes,
    settings: &Settings,
    found: &mut Breaches,
) {
    let name = http.recipe.clone();
    let recipe = match recipes.find(&name) {
        Ok(Family::Place(recipe)) => recipe,
        Ok(Family::Keys(_)) => {
            return found.add(at.join("recipe"), Rule::Recipe(RecipeUse::OfTargets(name)));
        }
        Err(rule) => return found.add(at.join("recipe"), Rule::Recipe(rule)),
    };
    if http.base.is_none() && recipe.base.is_none() {
        found.add(at.join("base"), Rule::Recipe(RecipeUse::NoBase(name.clone())));
    }
    parameters(&name, &mut http.parameters, &recipe.parameters, at, found);
    let sides = Sides {
        recipe: &name,
        has_base: http.base.is_some(),
        hosts: recipe.hosts(http.base.as_deref()),
        admin: http.admin.as_ref(),
        wants_admin: recipe.admin.as_deref(),
        credentials: &http.credentials,
        wants_credentials: &recipe.credentials,
    };
    credentials(&sides, at, settings, found);
    http.definition = Some(Box::new(recipe.as_ref().clone()));
}
