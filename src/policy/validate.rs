//! The rules that span fields, documents and settings. Everything that a type can hold to by itself is
//! not looked at again here.

mod by_hand;
pub(crate) mod conflict;
mod consumer;
mod rule;
mod schedule;
pub(in crate::policy) mod target;
mod value;

use jiff::Timestamp;

pub(super) use self::conflict::{Claim, claims};
pub(super) use self::rule::Rule;
use self::rule::{LONGEST_CONTAINMENT, LONGEST_GRACE, SHORTEST_VERIFICATION};
pub(crate) use self::schedule::budgets as version_budgets;
pub(super) use self::target::http::{RecipeUse, Recipes};
use super::shape::FieldPath;
use super::spec::{ConsumerSpec, OnRefusal, RetireSpec, Spec, StoreSpec, TargetSpec, VerifySpec};
use crate::ident::PolicyName;
use crate::settings::{CredentialSource, Places, ResourcesSettings, Settings, StoreSettings};

/// What policies are checked against.
pub(super) struct Surroundings<'a> {
    pub(super) settings: &'a Settings,
    /// Whether the settings are as their author meant them: otherwise nothing is held against them.
    pub(super) certain: bool,
    places: Places,
    /// The resources that the policy is one of, if it is one.
    resources: Option<&'a ResourcesSettings>,
    /// Schedules are checked from here on.
    now: Timestamp,
}

impl<'a> Surroundings<'a> {
    pub(super) fn new(settings: &'a Settings, certain: bool, now: Timestamp) -> Self {
        Self { settings, certain, places: settings.places(), resources: None, now }
    }

    /// The same, for policies that are resources of a cluster.
    pub(super) fn of_resources(self) -> Self {
        Self { resources: self.settings.policies.resources.as_ref(), ..self }
    }
}

/// A broken rule and the field that breaks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) path: FieldPath,
    pub(super) rule: Rule,
}

/// Every rule that a policy breaks by itself.
pub(super) fn breaches(name: &PolicyName, spec: &Spec, surroundings: &Surroundings<'_>) -> Vec<Breach> {
    let settings = surroundings.settings;
    let mut found = Breaches::default();
    if let Some(owner) = &spec.owner {
        found.text(&field(["spec", "owner"]), owner);
    }
    if let Some(schedule) = &spec.schedule {
        schedule::rules(schedule, &spec.retire, &mut found);
        schedule::calendar(schedule, name, spec, surroundings, &mut found);
    }
    target::rules(&spec.target, settings, &mut found);
    if let Some(resources) = surroundings.resources.filter(|resources| resources.confined) {
        target::service_account::confined(&spec.target, name, resources, &mut found);
        target::exec::confined(&spec.target, &mut found);
        target::confined(&spec.target, &mut found);
    }
    if let Some((at, life)) = spec.life()
        && let Some(schedule) = &spec.schedule
    {
        schedule::life_rules(&at, life, schedule, &spec.retire, name, surroundings, &mut found);
    }
    value::rules(spec, surroundings, &mut found);
    // What a recipe makes is known when it was found.
    if !matches!(spec.target, TargetSpec::Http(_)) {
        value::parts(spec, settings, &mut found);
        by_hand::asked(spec, &mut found);
    }
    store_rules(&spec.store, settings, &mut found);
    for (index, consumer) in spec.consumers.iter().enumerate() {
        let at = field(["spec", "consumers"]).join(index);
        consumer::rules(&at, consumer, surroundings, &mut found);
        consumer::overlap(&at, consumer, &spec.target, &mut found);
        if let Some(resources) = surroundings.resources.filter(|resources| resources.confined) {
            consumer::confined(&at, consumer, name, resources, &mut found);
        }
    }
    retire_rules(&spec.retire, &mut found);
    by_hand::rules(spec.by_hand, &mut found);
    verify_rules(spec.verify, &mut found);
    found.0
}

fn store_rules(store: &StoreSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "store"]);
    match settings.stores.get(&store.name) {
        None => {
            let known = settings.stores.keys().cloned().collect();
            found.add(at.join("name"), Rule::UnknownStore { name: store.name.clone(), known });
        }
        Some(settings) => {
            if settings.control_path().is_some_and(|folder| store.path.is_within(folder)) {
                found.add(at.join("path"), Rule::StorePathInControl(store.path.clone()));
            }
            if matches!(settings, StoreSettings::AwsSecretsManager(_)) && ends_as_arn(store.path.as_str()) {
                found.add(at.join("path"), Rule::NameLikeArn(store.path.clone()));
            }
            if !store.extra.is_empty() && !settings.keeps_extra() {
                found.add(at.join("extra"), Rule::ExtraUnused(store.name.clone()));
            }
        }
    }
    for key in store.extra.keys() {
        let at = at.join("extra").join(key.clone());
        found.text(&at, key);
        if *key == store.fields.principal || *key == store.fields.value {
            found.add(at, Rule::ExtraIsField(key.chars().take(64).collect()));
        }
    }
    for (credential, source) in &settings.credentials {
        if let CredentialSource::Store(stored) = source
            && stored.path == store.path
            && settings.same_store(&stored.name, &store.name)
        {
            let (path, credential) = (store.path.clone(), credential.clone());
            found.add(at.join("path"), Rule::StorePathOfCredential { path, credential });
        }
    }
    let fields = at.join("fields");
    found.text(&fields.join("principal"), &store.fields.principal);
    found.text(&fields.join("value"), &store.fields.value);
    if store.fields.principal == store.fields.value {
        found.add(fields.join("value"), Rule::FieldNamesEqual(store.fields.value.clone()));
    }
}

/// AWS puts a hyphen and six characters behind a name, and advises against names that end so themselves:
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html>
pub(crate) fn ends_as_arn(name: &str) -> bool {
    let end = name.rsplit_once('-').map_or("", |(_, end)| end);
    end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn verify_rules(verify: VerifySpec, found: &mut Breaches) {
    if !verify.every.as_duration().is_zero() && verify.every < SHORTEST_VERIFICATION {
        found.add(field(["spec", "verify", "every"]), Rule::VerifiedTooOften(verify.every));
    }
    if verify.every.as_duration().is_zero() && verify.on_refusal == OnRefusal::Rotate {
        found.add(field(["spec", "verify", "onRefusal"]), Rule::NeverVerified);
    }
}

fn retire_rules(retire: &RetireSpec, found: &mut Breaches) {
    let at = field(["spec", "retire"]);
    if retire.grace > LONGEST_GRACE {
        found.add(at.join("grace"), Rule::GraceTooLong(retire.grace));
    }
    if retire.containment_deadline > LONGEST_CONTAINMENT {
        let rule = Rule::ContainmentTooLong(retire.containment_deadline);
        found.add(at.join("containmentDeadline"), rule);
    }
}

/// The rules that need recipes, for the parts that are as their author meant them: see [`target::http::settle`].
pub(super) fn settle(
    spec: &mut Spec,
    recipes: &Recipes,
    settings: &Settings,
    is_meant: impl Fn(&FieldPath) -> bool,
) -> Vec<Breach> {
    let mut found = Breaches::default();
    let consumers = field(["spec", "consumers"]);
    if is_meant(&consumers) {
        for (index, consumer) in spec.consumers.iter_mut().enumerate() {
            if let ConsumerSpec::Http(http) = consumer {
                consumer::settle(&consumers.join(index).join("http"), http, recipes, settings, &mut found);
            }
        }
    }
    if let TargetSpec::Http(http) = &mut spec.target
        && is_meant(&field(["spec", "target"]))
    {
        found.0.extend(target::http::settle(http, recipes, settings));
        if http.definition.is_some() {
            value::parts(spec, settings, &mut found);
            by_hand::asked(spec, &mut found);
            spec.name_parts();
        }
        for (index, consumer) in spec.consumers.iter().enumerate() {
            consumer::overlap(&consumers.join(index), consumer, &spec.target, &mut found);
        }
    }
    found.0
}

/// Whether a policy names a recipe.
pub(super) fn names_recipe(spec: &Spec) -> bool {
    matches!(spec.target, TargetSpec::Http(_))
        || spec.consumers.iter().any(|consumer| matches!(consumer, ConsumerSpec::Http(_)))
}

/// What was found so far.
#[derive(Debug, Default)]
struct Breaches(Vec<Breach>);

impl Breaches {
    fn into_vec(self) -> Vec<Breach> {
        self.0
    }

    fn add(&mut self, path: FieldPath, rule: Rule) {
        self.0.push(Breach { path, rule });
    }

    /// A text of one line that is not empty.
    fn text(&mut self, path: &FieldPath, text: &str) {
        if text.trim().is_empty() {
            self.add(path.clone(), Rule::Blank);
        } else if text.chars().any(char::is_control) {
            self.add(path.clone(), Rule::ControlCharacter);
        }
    }
}

fn field<const N: usize>(names: [&'static str; N]) -> FieldPath {
    FieldPath::from(names)
}
