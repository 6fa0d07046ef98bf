//! What a recipe has to hold to that its types do not say.

use std::borrow::Cow;
use std::time::Duration;

use super::address::{is_base, is_path};
use super::names::{texts, uses};
use super::refusal::weakness;
use super::{Change, Known, Method, Pattern, Recipe, RecipeStrategy, Request, Tagging, template};
use crate::policy::diagnostic::Problem;
use crate::policy::shape::FieldPath;
use crate::policy::spec::Interval;
use crate::secret::Unsatisfiable;

/// A rule that a recipe breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeProblem {
    #[error("this text is empty")]
    Blank,
    #[error("`{0}` is not where requests can go")]
    NotABase(String),
    #[error("strategy `{0}` needs `{1}`")]
    Missing(&'static str, &'static str),
    #[error("a person makes the keys of a recipe with `handOff`, so there is no call for it")]
    MadeTwice,
    #[error("without a tag, what a rotation left behind is told by when it was made")]
    UntaggedUntold,
    #[error("the keys that there are cannot be counted without `list`")]
    UncountedKeys,
    #[error("`name` tells a key's tag, and the names of this recipe's keys have none")]
    NameUntagged,
    #[error("keys have a tag in their name, and `list` does not say where the name is")]
    NameUnlisted,
    #[error("the name with the tag is not sent")]
    NameUnsent,
    #[error("this {0}")]
    Template(String),
    #[error("`{0}` is not known in this call")]
    UnknownName(String),
    #[error("a secret in an address is written into the logs of every server on the way")]
    SecretInAddress,
    #[error("the key is tried without its value")]
    ValueUntried,
    #[error("`{0}` is neither below the base nor the address of a server")]
    NotAPath(String),
    #[error("either the answer shows the value, or rekeyd makes it")]
    OneValue,
    #[error("the value that rekeyd makes is not sent")]
    ValueUnsent,
    #[error("without `{0}` nothing proves that a key is dead")]
    Unproven(&'static str),
    #[error("that there is no list proves no key dead")]
    NoProofByNone,
    #[error("a key is tried by a request or by the list")]
    TriedTwice,
    #[error("what a certificate says is for a policy to choose")]
    SignedKey,
    #[error("{0}")]
    Value(Unsatisfiable),
    #[error("a request has one kind of body")]
    TwoBodies,
    #[error("a `{0}` request has no body")]
    BodyUnread(&'static str),
    #[error("a request logs in once")]
    TwoLogins,
    #[error("every answer fits this")]
    FitsAll,
    #[error("what is there is not asked without `at`")]
    NowhereToLook,
    #[error("an answer of {0} says nothing of a key")]
    NoVerdict(u16),
    #[error("whatever fails may have that in its answer")]
    AnyStatus,
    #[error("a gateway has something there, too")]
    AnyText,
    #[error("that something is not there is nobody's word")]
    NothingSaid,
    #[error("{0} is no time that one request can take")]
    Timeout(Interval),
    #[error("{0} is not a number that there can be")]
    OutOfRange(u32),
    #[error("the id of a key is its name, and this name is too long for one")]
    LongId,
    #[error("other people's keys are in that list, and nothing tells them from this rotation's")]
    WideList,
    #[error("nothing says how the next page is asked for")]
    NoNextPage,
    #[error("the list tells it already")]
    ToldTwice,
    #[error("the call does not say which key it asks about")]
    KeyUnnamed,
    #[error("nothing says whose the place is and what it holds")]
    NoMark,
    #[error("the mark is in the value's own place already")]
    TwoMarks,
    #[error("the mark is not sent")]
    MarkUnsent,
    #[error("no answer means that there is none")]
    NeverMissing,
    #[error("a header called `{0}` is written by the one who sends")]
    OwnHeader(String),
}

impl Problem for RecipeProblem {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Blank => "write something, or leave the field out".into(),
            Self::NotABase(_) => {
                "write https://, a host as DNS has it and a path, such as https://api.example.com/v1; http:// only for this machine".into()
            }
            Self::Missing(_, call) => format!("write `{call}`").into(),
            Self::MadeTwice => "leave `create` out, or choose another strategy".into(),
            Self::UntaggedUntold => "write `list` with `madeAt`, and `usedAt` if there is one, or choose another tag".into(),
            Self::UncountedKeys => "write `list`, or leave `liveKeys` out".into(),
            Self::NameUntagged => "leave `name` out, or choose another tag".into(),
            Self::NameUnlisted => "write `list.name`, or `tag: none`".into(),
            Self::NameUnsent => "write `{{ name }}` where the provider takes a key's name, or `tag: none`".into(),
            Self::Template(_) => "write for example {{ parameters.project }}; the syntax is that of Jinja".into(),
            Self::UnknownName(name) => known_names(name).into(),
            Self::SecretInAddress => "send it in a header or in the body".into(),
            Self::ValueUntried => "write {{ value }} where the provider takes a key".into(),
            Self::NotAPath(_) => {
                "begin it with one `/`, or write https:// and a host as DNS has it, no template; http:// only for this machine; no `\\`, `..` and spaces".into()
            }
            Self::OneValue => "write `value` or `generates`".into(),
            Self::ValueUnsent => "write {{ value }} where the provider takes it".into(),
            Self::Unproven(call) => format!("write `{call}`").into(),
            Self::NoProofByNone => "leave it out: with `inList`, a list has to come back".into(),
            Self::TriedTwice => "leave `inList` out, or the rest".into(),
            Self::SignedKey => "leave it out".into(),
            Self::Value(_) => "correct what the value has to be".into(),
            Self::TwoBodies => "write `json` or `form`".into(),
            Self::BodyUnread(_) => "use `query`, or another method".into(),
            Self::TwoLogins => "write `bearer`, `basic` or a header of your own".into(),
            Self::FitsAll => "say the status, or what the body has".into(),
            Self::NowhereToLook => "say with `at` where it is".into(),
            Self::NoVerdict(_) => {
                "name the answers by which the provider itself refuses a key, by their words: `at` with `is` or `has`".into()
            }
            Self::AnyStatus => "say the status, too".into(),
            Self::AnyText => "say with `is` or `has` what the provider says there of a key that it does not know".into(),
            Self::NothingSaid => "say with `at` and `is` or `has` what the provider says there".into(),
            Self::Timeout(_) => "write a time from 1s to 5m, such as 15s".into(),
            Self::OutOfRange(_) => "leave it out where there is no limit".into(),
            Self::LongId => "write `tag: short`, or `id`".into(),
            Self::WideList => "list the keys of the `owner` alone, or choose another tag".into(),
            Self::NoNextPage => {
                "write `parameter` for what the query says, `next` for where an answer tells it, or both".into()
            }
            Self::ToldTwice => "leave out `usage`, or `list.usedAt`".into(),
            Self::KeyUnnamed => "write {{ id }} where the provider takes a key's id".into(),
            Self::NoMark => "write `value.read.mark` where it has room for a text, or a `mark` of its own".into(),
            Self::TwoMarks => "leave out `mark`, or `value.read.mark`".into(),
            Self::MarkUnsent => "write {{ mark }} where the text goes that `read.mark` shows".into(),
            Self::NeverMissing => "name the answer that says so, with its code".into(),
            Self::OwnHeader(_) => "leave it out".into(),
        }
    }
}

fn known_names(name: &str) -> String {
    match name.split_once('.') {
        Some(("parameters", rest)) => format!("declare `{rest}` under `parameters`"),
        Some(("credentials", rest)) => {
            let name = rest.split('.').next().unwrap_or(rest);
            format!("declare `{name}` under `credentials`, and use its `principal` or `value`")
        }
        Some(("admin", _)) | None if name.starts_with("admin") => {
            "say with `admin` what the admin credential is, and use its `principal` or `value`".into()
        }
        Some(("parts", rest)) => format!("say with `create.parts` where the answer has `{rest}`"),
        _ if name == "session" => "write `session`, which says how to get one".into(),
        _ => "use owner, name, policy, version, parameters, admin, credentials and session; id and value where a call is about one key".into(),
    }
}

/// What is wrong with a recipe, and with which field of its `spec`.
pub(crate) fn problems(recipe: &Recipe) -> Vec<(FieldPath, RecipeProblem)> {
    let mut found = Found { recipe, checks: Checks::default() };
    let at = FieldPath::from(["spec"]);
    for (field, text) in [("title", &recipe.title), ("testedOn", &recipe.tested_on)] {
        if text.trim().is_empty() {
            found.add(at.join(field), RecipeProblem::Blank);
        }
    }
    if let Some(base) = &recipe.base
        && !is_base(base)
    {
        found.add(at.join("base"), RecipeProblem::NotABase(base.chars().take(80).collect()));
    }
    found.strategy(&at);
    found.tag(&at);
    found.calls(&at);
    found.checks.problems
}

struct Found<'a> {
    recipe: &'a Recipe,
    checks: Checks,
}

/// What was found, and the checks that need nothing but what they look at.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) problems: Vec<(FieldPath, RecipeProblem)>,
}

/// What a call knows besides what all of them do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Knows {
    /// A key's id.
    id: bool,
    /// A key: its value and what belongs to it.
    key: bool,
    /// A rotation: its policy and version, and what a new key is to be called.
    rotation: bool,
    session: bool,
}

impl Found<'_> {
    fn add(&mut self, at: FieldPath, problem: RecipeProblem) {
        self.checks.add(at, problem);
    }

    fn strategy(&mut self, at: &FieldPath) {
        let recipe = self.recipe;
        let by_hand = recipe.by_hand.as_ref();
        if recipe.revoke_only_to_contain && recipe.revoke.is_none() {
            self.add(at.join("revoke"), RecipeProblem::Missing("revokeOnlyToContain", "revoke"));
        }
        if recipe.revoke_only_to_contain && recipe.limits.lifetime.is_none() {
            self.add(at.join("limits"), RecipeProblem::Missing("revokeOnlyToContain", "limits.lifetime"));
        }
        match recipe.strategy {
            RecipeStrategy::DualKey => {
                if recipe.create.is_none() {
                    self.add(at.join("create"), RecipeProblem::Missing("dualKey", "create"));
                }
                if recipe.revoke.is_none() && by_hand.and_then(|hand| hand.revoke.as_ref()).is_none() {
                    self.add(at.join("revoke"), RecipeProblem::Missing("dualKey", "revoke"));
                }
            }
            RecipeStrategy::Reissued => {
                if recipe.create.is_none() {
                    self.add(at.join("create"), RecipeProblem::Missing("reissued", "create"));
                }
            }
            RecipeStrategy::HandOff => {
                if recipe.create.is_some() {
                    self.add(at.join("create"), RecipeProblem::MadeTwice);
                }
                if by_hand.and_then(|hand| hand.create.as_ref()).is_none() {
                    self.add(at.join("byHand"), RecipeProblem::Missing("handOff", "byHand.create"));
                }
                if recipe.revoke.is_none() && by_hand.and_then(|hand| hand.revoke.as_ref()).is_none() {
                    self.add(at.join("byHand"), RecipeProblem::Missing("handOff", "byHand.revoke"));
                }
            }
        }
    }

    fn tag(&mut self, at: &FieldPath) {
        let recipe = self.recipe;
        let limits = &recipe.limits;
        if let Some(keys) = limits.live_keys.filter(|keys| *keys < 2) {
            self.add(at.join("limits").join("liveKeys"), RecipeProblem::OutOfRange(keys));
        }
        if let Some(rate) = limits.requests_per_second.filter(|rate| !(1..=1_000).contains(rate)) {
            self.add(at.join("limits").join("requestsPerSecond"), RecipeProblem::OutOfRange(rate));
        }
        self.checks.timeout(at, limits.timeout);
        let named = recipe.create.as_ref().is_some_and(|create| create.id.is_none());
        if recipe.strategy == RecipeStrategy::DualKey && named && recipe.tag == Tagging::Full {
            self.add(at.join("tag"), RecipeProblem::LongId);
        }
        if recipe.limits.live_keys.is_some() && recipe.list.is_none() {
            self.add(at.join("limits").join("liveKeys"), RecipeProblem::UncountedKeys);
        }
        if recipe.strategy != RecipeStrategy::DualKey || recipe.limits.lifetime.is_some() {
            return;
        }
        let list = recipe.list.as_ref();
        if recipe.tag == Tagging::None {
            if list.is_none_or(|list| list.made_at.is_none()) {
                self.add(at.join("list"), RecipeProblem::UntaggedUntold);
            }
            if list.is_some_and(|list| list.used_at.is_some() && !uses(&list.request, "owner")) {
                self.add(at.join("list").join("request"), RecipeProblem::WideList);
            }
            if list.is_some_and(|list| list.name.is_some()) {
                self.add(at.join("list").join("name"), RecipeProblem::NameUntagged);
            }
            return;
        }
        if list.is_none_or(|list| list.name.is_none()) {
            self.add(at.join("list"), RecipeProblem::NameUnlisted);
        }
        if recipe.create.as_ref().is_some_and(|create| !uses(&create.request, "name")) {
            self.add(at.join("create").join("request"), RecipeProblem::NameUnsent);
        }
    }

    fn calls(&mut self, at: &FieldPath) {
        let recipe = self.recipe;
        let general = Knows { id: false, key: false, rotation: false, session: recipe.session.is_some() };
        let about_key = Knows { id: true, key: true, ..general };
        if let Some(session) = &recipe.session {
            let at = at.join("session");
            self.request(&at.join("request"), &session.request, Knows { session: false, ..general });
            self.failures(&at.join("failures"), &session.failures);
        }
        if let Some(create) = &recipe.create {
            let at = at.join("create");
            if create.value.is_some() == create.generates.is_some() {
                self.add(at.join("value"), RecipeProblem::OneValue);
            }
            if create.generates.is_some()
                && !uses(&create.request, "value")
                && !uses(&create.request, "parts")
            {
                self.add(at.join("request"), RecipeProblem::ValueUnsent);
            }
            if let Some(generates) = &create.generates {
                let at = at.join("generates");
                if generates.certificate.is_some() {
                    self.add(at.join("certificate"), RecipeProblem::SignedKey);
                } else if generates.ssh_key.is_none()
                    && let Err(problem) = generates.check()
                {
                    self.add(at, RecipeProblem::Value(problem));
                }
            }
            // Where a value takes another one's place, the request may have to show that one.
            let key = recipe.strategy == RecipeStrategy::Reissued || create.generates.is_some();
            let known = Knows { id: key, key, rotation: true, ..general };
            self.request(&at.join("request"), &create.request, known);
            self.patterns(&at.join("doneWhen"), &create.done_when);
            self.failures(&at.join("failures"), &create.failures);
        }
        let verify = &recipe.verify;
        let verify_at = at.join("verify");
        if verify.in_list {
            let says = verify.request.is_some() || verify.health.is_some() || verify.same_as.is_some();
            if says || !verify.accepted_when.is_empty() || !verify.refused_when.is_empty() {
                self.add(verify_at.join("inList"), RecipeProblem::TriedTwice);
            }
            match &recipe.list {
                None => self.add(verify_at.join("inList"), RecipeProblem::Missing("inList", "list")),
                // What is not an answer with a list is no proof of anything.
                Some(list) if !list.none_when.is_empty() => {
                    self.add(at.join("list").join("noneWhen"), RecipeProblem::NoProofByNone);
                }
                Some(list) if list.pages.is_none() => {
                    self.add(verify_at.join("inList"), RecipeProblem::Missing("inList", "list.pages"));
                }
                Some(_) => {}
            }
        } else {
            for (call, is_missing) in [
                ("verify.request", verify.request.is_none()),
                ("verify.acceptedWhen", verify.accepted_when.is_empty()),
                ("verify.refusedWhen", verify.refused_when.is_empty()),
            ] {
                if is_missing {
                    self.add(verify_at.clone(), RecipeProblem::Unproven(call));
                }
            }
        }
        if let Some(request) = &verify.request {
            self.request(&verify_at.join("request"), request, about_key);
        }
        self.patterns(&verify_at.join("acceptedWhen"), &verify.accepted_when);
        self.patterns(&verify_at.join("refusedWhen"), &verify.refused_when);
        for (index, pattern) in verify.refused_when.iter().enumerate() {
            if let Some((field, problem)) = weakness(pattern) {
                let at = verify_at.join("refusedWhen").join(index);
                self.add(field.map_or_else(|| at.clone(), |field| at.join(field)), problem);
            }
        }
        if let Some(health) = &verify.health {
            let at = verify_at.join("health");
            self.request(&at.join("request"), &health.request, general);
            self.patterns(&at.join("wellWhen"), &health.well_when);
        }
        if verify.request.as_ref().is_some_and(|request| !uses(request, "value")) {
            self.add(verify_at.join("request"), RecipeProblem::ValueUntried);
        }
        if let Some(list) = &recipe.list {
            let at = at.join("list");
            self.request(&at.join("request"), &list.request, general);
            self.patterns(&at.join("only"), &list.only);
            self.patterns(&at.join("noneWhen"), &list.none_when);
            if list.pages.as_ref().is_some_and(|pages| pages.parameter.is_none() && pages.next.is_none()) {
                self.add(at.join("pages"), RecipeProblem::NoNextPage);
            }
        }
        if let Some(usage) = &recipe.usage {
            let at = at.join("usage");
            self.request(&at.join("request"), &usage.request, Knows { id: true, ..general });
            self.patterns(&at.join("unusedWhen"), &usage.unused_when);
            self.patterns(&at.join("goneWhen"), &usage.gone_when);
            if let Some(only_if) = &usage.only_if {
                let is_parameter =
                    |name: &str| name.starts_with("parameters.") && is_known(recipe, name, general);
                self.checks.template(&at.join("onlyIf"), only_if, is_parameter);
            }
            if !uses(&usage.request, "id") {
                self.add(at.join("request"), RecipeProblem::KeyUnnamed);
            }
            if recipe.list.as_ref().is_some_and(|list| list.used_at.is_some()) {
                self.add(at, RecipeProblem::ToldTwice);
            }
        }
        for (name, change) in [("disable", &recipe.disable), ("revoke", &recipe.revoke)] {
            if let Some(change) = change {
                self.change(&at.join(name), change, Knows { rotation: true, ..about_key });
            }
        }
    }

    fn change(&mut self, at: &FieldPath, change: &Change, known: Knows) {
        self.request(&at.join("request"), &change.request, known);
        self.patterns(&at.join("doneWhen"), &change.done_when);
        self.patterns(&at.join("alreadyWhen"), &change.already_when);
        self.failures(&at.join("failures"), &change.failures);
    }

    fn failures(&mut self, at: &FieldPath, failures: &[Known]) {
        self.checks.failures(at, failures);
    }

    fn patterns(&mut self, at: &FieldPath, patterns: &[Pattern]) {
        self.checks.patterns(at, patterns);
    }

    fn request(&mut self, at: &FieldPath, request: &Request, known: Knows) {
        let Self { recipe, checks } = self;
        checks.request(at, request, |name| is_known(recipe, name, known));
    }
}

impl Checks {
    pub(super) fn add(&mut self, at: FieldPath, problem: RecipeProblem) {
        self.problems.push((at, problem));
    }

    /// How long one request may take: a policy's deadlines have to hold several.
    pub(super) fn timeout(&mut self, spec: &FieldPath, timeout: Interval) {
        if !(Duration::from_secs(1)..=Duration::from_mins(5)).contains(&timeout.as_duration()) {
            self.add(spec.join("limits").join("timeout"), RecipeProblem::Timeout(timeout));
        }
    }

    /// A template outside of a request.
    pub(super) fn template(&mut self, at: &FieldPath, source: &str, is_known: impl Fn(&str) -> bool) {
        match template::names_of(source) {
            Err(problem) => self.add(at.clone(), RecipeProblem::Template(problem)),
            Ok(names) => {
                for name in names.into_iter().filter(|name| !is_known(name)) {
                    self.add(at.clone(), RecipeProblem::UnknownName(name));
                }
            }
        }
    }

    pub(super) fn failures(&mut self, at: &FieldPath, failures: &[Known]) {
        for (index, known) in failures.iter().enumerate() {
            let at = at.join(index);
            self.pattern(&at.join("when"), &known.when);
            if known.reason.trim().is_empty() {
                self.add(at.join("reason"), RecipeProblem::Blank);
            }
        }
    }

    pub(super) fn patterns(&mut self, at: &FieldPath, patterns: &[Pattern]) {
        for (index, pattern) in patterns.iter().enumerate() {
            self.pattern(&at.join(index), pattern);
        }
    }

    fn pattern(&mut self, at: &FieldPath, pattern: &Pattern) {
        if pattern.status.is_empty() && pattern.at.is_none() && pattern.lacks.is_none() {
            let problem = if pattern.is.is_empty() && pattern.has.is_none() {
                RecipeProblem::FitsAll
            } else {
                RecipeProblem::NowhereToLook
            };
            self.add(at.clone(), problem);
        }
    }

    pub(super) fn request(&mut self, at: &FieldPath, request: &Request, is_known: impl Fn(&str) -> bool) {
        let has_body = request.json.is_some() || !request.form.is_empty();
        if request.json.is_some() && !request.form.is_empty() {
            self.add(at.join("form"), RecipeProblem::TwoBodies);
        } else if has_body && matches!(request.method, Method::Get | Method::List) {
            let field = if request.json.is_some() { "json" } else { "form" };
            self.add(at.join(field), RecipeProblem::BodyUnread(request.method.as_str()));
        }
        if request.bearer.is_some() && request.basic.is_some() {
            self.add(at.join("basic"), RecipeProblem::TwoLogins);
        }
        for name in request.headers.keys() {
            let lower = name.to_ascii_lowercase();
            let own = ["host", "content-length", "content-type", "connection", "transfer-encoding"];
            let twice = lower == "authorization" && (request.bearer.is_some() || request.basic.is_some());
            if own.contains(&lower.as_str()) || twice {
                let name = name.chars().take(64).collect();
                self.add(
                    at.join("headers").join(lower_key(&request.headers, &lower)),
                    RecipeProblem::OwnHeader(name),
                );
            }
        }
        if !is_path(&request.path) {
            self.add(at.join("path"), RecipeProblem::NotAPath(request.path.chars().take(80).collect()));
        }
        for (field, source) in texts(request) {
            let at = field.iter().fold(at.clone(), |at, step| at.join(step.clone()));
            let used = match template::names_of(&source) {
                Ok(used) => used,
                Err(problem) => {
                    self.add(at, RecipeProblem::Template(problem));
                    continue;
                }
            };
            let in_address = matches!(field[0].as_str(), "path" | "query");
            for name in used {
                if !is_known(&name) {
                    self.add(at.clone(), RecipeProblem::UnknownName(name));
                } else if in_address
                    && (name == "value"
                        || name == "session"
                        || name.ends_with(".value")
                        || name.starts_with("parts."))
                {
                    self.add(at.clone(), RecipeProblem::SecretInAddress);
                }
            }
        }
    }
}

fn is_known(recipe: &Recipe, name: &str, known: Knows) -> bool {
    let mut parts = name.split('.');
    let credential = |part: Option<&str>| matches!(part, Some("principal" | "value"));
    match parts.next().unwrap_or_default() {
        "owner" | "now" => parts.next().is_none(),
        "name" | "policy" | "version" => known.rotation && parts.next().is_none(),
        "id" => known.id && parts.next().is_none(),
        "value" => known.key && parts.next().is_none(),
        "parts" => {
            let own = recipe.part_names();
            known.key && parts.next().is_some_and(|name| own.iter().any(|own| own.as_str() == name))
        }
        "session" => known.session && parts.next().is_none(),
        "parameters" => parts.next().is_some_and(|name| recipe.parameters.contains_key(name)),
        "admin" => recipe.admin.is_some() && credential(parts.next()),
        "credentials" => {
            let declared = parts.next().is_some_and(|name| recipe.credentials.contains_key(name));
            declared && credential(parts.next())
        }
        _ => false,
    }
}

/// A header's name as it is written.
fn lower_key(headers: &std::collections::BTreeMap<String, String>, lower: &str) -> String {
    headers.keys().find(|name| name.eq_ignore_ascii_case(lower)).cloned().unwrap_or_default()
}
