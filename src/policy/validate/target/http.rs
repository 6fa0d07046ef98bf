//! The rules of a key of an HTTP API: those that need no recipe, and those that hold a policy against the one it names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{admin_rules, check_named_hosts};
use crate::ident::DnsLabel;
use crate::policy::diagnostic::{Problem, choose};
use crate::policy::shape::FieldPath;
use crate::policy::spec::HttpSpec;
use crate::policy::validate::{Breach, Breaches, Rule, field};
use crate::recipe::{Family, ParameterSpec, Parameters, is_base, shipped};
use crate::settings::Settings;

/// How a policy and its recipe do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecipeUse {
    #[error("a recipe is a document of its own")]
    Inline,
    #[error("there is no recipe `{name}`")]
    Unknown { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("recipe `{0}` has mistakes of its own")]
    Broken(DnsLabel),
    #[error("recipe `{0}` tells of the keys of a provider, and of no place that is written")]
    OfTargets(DnsLabel),
    #[error("recipe `{0}` tells of a place that is written, and of no keys")]
    OfConsumers(DnsLabel),
    #[error("recipe `{0}` is for a provider that is run by many, and nothing says where this one is")]
    NoBase(DnsLabel),
    #[error("`{0}` is not where requests can go")]
    NotABase(String),
    #[error("recipe `{recipe}` needs an admin credential: {what}")]
    NoAdmin { recipe: DnsLabel, what: String },
    #[error("recipe `{0}` uses no admin credential")]
    AdminUnused(DnsLabel),
    #[error("recipe `{recipe}` needs the credential `{name}`: {what}")]
    NoCredential { recipe: DnsLabel, name: String, what: String },
    #[error("recipe `{recipe}` knows no credential `{name}`")]
    CredentialUnused { recipe: DnsLabel, name: String, known: Vec<String> },
    #[error("recipe `{recipe}` needs the parameter `{name}`: {what}")]
    NoParameter { recipe: DnsLabel, name: String, what: String },
    #[error("recipe `{recipe}` takes something else for the parameter `{name}`: {what}")]
    NoChoice { recipe: DnsLabel, name: String, what: String, choices: Vec<String> },
    #[error("recipe `{recipe}` knows no parameter `{name}`")]
    ParameterUnused { recipe: DnsLabel, name: String, known: Vec<String> },
    #[error("a recipe named `{name}` is at {other}")]
    Twice { name: DnsLabel, other: String },
}

impl Problem for RecipeUse {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Inline => "write a document of the kind `Recipe` beside the policies, and name it".into(),
            Self::Unknown { name, known } => choose(name.as_str(), known.iter().map(DnsLabel::as_str)).into(),
            Self::Broken(_) => "correct the recipe".into(),
            Self::OfTargets(_) => "name a recipe of the kind `ConsumerRecipe`".into(),
            Self::OfConsumers(_) => "name a recipe of the kind `Recipe`".into(),
            Self::NoBase(_) | Self::NotABase(_) => {
                "write `base: https://` and the server's name; http:// only for this machine".into()
            }
            Self::NoAdmin { .. } => "name with `admin` a credential of the settings".into(),
            Self::AdminUnused(_) => "leave it out".into(),
            Self::NoCredential { name, .. } => {
                format!("name with `credentials.{name}` a credential of the settings").into()
            }
            Self::NoParameter { name, .. } => format!("write `parameters.{name}`").into(),
            Self::NoChoice { choices, .. } => format!("write one of {}", choices.join(", ")).into(),
            Self::CredentialUnused { name, known, .. } | Self::ParameterUnused { name, known, .. } => {
                choose(name, known).into()
            }
            Self::Twice { .. } => "give one of them another name".into(),
        }
    }
}

/// The recipes that policies may name, and those of which only the names are known.
#[derive(Default)]
pub(in crate::policy) struct Recipes {
    pub(in crate::policy) sound: BTreeMap<DnsLabel, Family>,
    pub(in crate::policy) broken: BTreeSet<DnsLabel>,
}

impl Recipes {
    /// One of the directory takes the place of one that rekeyd brings along, whatever family that is of.
    pub(in crate::policy::validate) fn find(&self, name: &DnsLabel) -> Result<Family, RecipeUse> {
        if self.broken.contains(name) {
            return Err(RecipeUse::Broken(name.clone()));
        }
        let shipped = || {
            let keys = shipped::find(name).map(|recipe| Family::Keys(Arc::clone(recipe)));
            keys.or_else(|| shipped::find_place(name).map(|recipe| Family::Place(Arc::clone(recipe))))
        };
        self.sound
            .get(name)
            .cloned()
            .or_else(shipped)
            .ok_or_else(|| RecipeUse::Unknown { name: name.clone(), known: self.names() })
    }

    fn names(&self) -> Vec<DnsLabel> {
        let shipped = shipped::all().map(|(name, _)| name).chain(shipped::places().map(|(name, _)| name));
        let names: BTreeSet<_> = self.sound.keys().chain(shipped).chain(&self.broken).cloned().collect();
        names.into_iter().collect()
    }
}

/// What can be said before the recipe is known.
pub(super) fn rules(http: &HttpSpec, found: &mut Breaches) {
    let at = field(["spec", "target", "http"]);
    if http.definition.is_some() {
        found.add(at.join("definition"), Rule::Recipe(RecipeUse::Inline));
    }
    if let Some(base) = &http.base
        && !is_base(base)
    {
        let base = base.chars().take(80).collect();
        found.add(at.join("base"), Rule::Recipe(RecipeUse::NotABase(base)));
    }
}

/// Puts the recipe into a policy's target, with what it says for parameters that the policy does not name. Tells how the
/// two do not go together.
pub(in crate::policy) fn settle(http: &mut HttpSpec, recipes: &Recipes, settings: &Settings) -> Vec<Breach> {
    let mut found = Breaches::default();
    let at = field(["spec", "target", "http"]);
    let name = http.recipe.clone();
    let recipe = match recipes.find(&name) {
        Ok(Family::Keys(recipe)) => recipe,
        Ok(Family::Place(_)) => {
            found.add(at.join("recipe"), Rule::Recipe(RecipeUse::OfConsumers(name)));
            return found.into_vec();
        }
        Err(rule) => {
            found.add(at.join("recipe"), Rule::Recipe(rule));
            return found.into_vec();
        }
    };
    if http.base.is_none() && recipe.base.is_none() {
        found.add(at.join("base"), Rule::Recipe(RecipeUse::NoBase(name.clone())));
    }
    parameters(&name, &mut http.parameters, &recipe.parameters, &at, &mut found);
    let sides = Sides {
        recipe: &name,
        has_base: http.base.is_some(),
        hosts: recipe.hosts(http.base.as_deref(), &http.parameters),
        admin: http.admin.as_ref(),
        wants_admin: recipe.admin.as_deref(),
        credentials: &http.credentials,
        wants_credentials: &recipe.credentials,
    };
    credentials(&sides, &at, settings, &mut found);
    http.definition = Some(Box::new(recipe.as_ref().clone()));
    found.into_vec()
}

/// What a policy names of credentials, and what its recipe wants.
pub(in crate::policy::validate) struct Sides<'a> {
    pub(in crate::policy::validate) recipe: &'a DnsLabel,
    /// Whether the policy says where requests go.
    pub(in crate::policy::validate) has_base: bool,
    /// Where they go.
    pub(in crate::policy::validate) hosts: BTreeSet<String>,
    pub(in crate::policy::validate) admin: Option<&'a DnsLabel>,
    pub(in crate::policy::validate) wants_admin: Option<&'a str>,
    pub(in crate::policy::validate) credentials: &'a BTreeMap<String, DnsLabel>,
    pub(in crate::policy::validate) wants_credentials: &'a BTreeMap<String, String>,
}

/// Adds what the recipe says for parameters that the policy does not name.
pub(in crate::policy::validate) fn parameters(
    recipe: &DnsLabel,
    said: &mut Parameters,
    wanted: &BTreeMap<String, ParameterSpec>,
    at: &FieldPath,
    found: &mut Breaches,
) {
    let at = at.join("parameters");
    for name in said.keys().filter(|name| !wanted.contains_key(*name)) {
        let known = wanted.keys().cloned().collect();
        let rule = RecipeUse::ParameterUnused { recipe: recipe.clone(), name: name.clone(), known };
        found.add(at.join(name.clone()), Rule::Recipe(rule));
    }
    for (name, ParameterSpec { description, default, one_of }) in wanted {
        if let Some(value) = said.get(name) {
            if !one_of.is_empty() && !one_of.contains(value) {
                let (recipe, what) = (recipe.clone(), description.clone());
                let choices = one_of.iter().map(|choice| format!("`{}`", choice.0)).collect();
                let rule = RecipeUse::NoChoice { recipe, name: name.clone(), what, choices };
                found.add(at.join(name.clone()), Rule::Recipe(rule));
            }
            continue;
        }
        match default {
            Some(default) => _ = said.insert(name.clone(), default.clone()),
            None => {
                let (recipe, what) = (recipe.clone(), description.clone());
                let rule = RecipeUse::NoParameter { recipe, name: name.clone(), what };
                found.add(at.join(name.clone()), Rule::Recipe(rule));
            }
        }
    }
}

/// Whoever writes policies, and recipes, chooses where requests go: each credential goes only where the settings say.
pub(in crate::policy::validate) fn credentials(
    sides: &Sides<'_>,
    at: &FieldPath,
    settings: &Settings,
    found: &mut Breaches,
) {
    let base = if sides.has_base { at.join("base") } else { at.join("recipe") };
    let check = |at: FieldPath, credential: &DnsLabel, found: &mut Breaches| {
        let places = sides.hosts.iter().map(|host| (base.clone(), host.as_str()));
        admin_rules(&at, credential, places, settings, found);
        check_named_hosts(&at, credential, settings, found);
    };
    let recipe = sides.recipe;
    match (sides.admin, sides.wants_admin) {
        (Some(admin), Some(_)) => check(at.join("admin"), admin, found),
        (None, Some(what)) => {
            let rule = RecipeUse::NoAdmin { recipe: recipe.clone(), what: what.to_owned() };
            found.add(at.join("admin"), Rule::Recipe(rule));
        }
        (Some(_), None) => {
            found.add(at.join("admin"), Rule::Recipe(RecipeUse::AdminUnused(recipe.clone())));
        }
        (None, None) => {}
    }
    let at = at.join("credentials");
    for (name, credential) in sides.credentials {
        if sides.wants_credentials.contains_key(name) {
            check(at.join(name.clone()), credential, found);
        } else {
            let known = sides.wants_credentials.keys().cloned().collect();
            let rule = RecipeUse::CredentialUnused { recipe: recipe.clone(), name: name.clone(), known };
            found.add(at.join(name.clone()), Rule::Recipe(rule));
        }
    }
    for (name, what) in
        sides.wants_credentials.iter().filter(|(name, _)| !sides.credentials.contains_key(*name))
    {
        let (recipe, what) = (recipe.clone(), what.clone());
        let rule = RecipeUse::NoCredential { recipe, name: name.clone(), what };
        found.add(at.join(name.clone()), Rule::Recipe(rule));
    }
}
