//! Keys of an HTTP API as a target, told by a [recipe](crate::recipe).
//!
//! # What is proven by what
//!
//! A key is accepted or refused where the recipe says so of an answer to a request that is made with the key itself;
//! any other answer is no verdict. A key that was made and whose answer was lost is found by the tag in its name, or
//! where names have no place for one, by being new and unused.
//!
//! # Where requests go
//!
//! See [`crate::http::outbound`]. The admin credential goes to hosts that its settings name, and to no other.

mod preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    AdminCredential, Extent, Key, LastUse, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth,
    RetireRequest, Retired, Target, Usage,
};
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass, Finding};
use crate::http::Stage;
use crate::http::caller::{self, Caller};
use crate::http::outbound::Outbound;
use crate::http::pace::Paces;
use crate::http::page::{NoAddress, Page};
use crate::ident::{PartName, PolicyName, Principal, Version};
use crate::policy::spec::{HttpSpec, Interval};
use crate::recipe::{
    Answer, Change, Context, Create, Health, Recipe, RecipeStrategy, Request, Tagging, Verdict, is_done,
    known, moment, write_tag,
};
use crate::secret::{Credential, Material, Parts, SecretValue};

/// Pages of a list that are read.
const MOST_PAGES: usize = 200;

/// The keys that an owner has at a provider.
pub struct HttpTarget {
    spec: HttpSpec,
    recipe: Recipe,
    admin: Option<Arc<dyn AdminCredential>>,
    credentials: BTreeMap<String, Arc<dyn AdminCredential>>,
    clock: Arc<dyn Clock>,
    caller: Caller,
}

/// The credentials that requests are made with, for one call.
struct Admins {
    admin: Option<Credential>,
    others: BTreeMap<String, Credential>,
    session: Option<SecretValue>,
}

/// What a call is about.
#[derive(Clone, Copy, Default)]
struct About<'a> {
    policy: Option<&'a PolicyName>,
    name: Option<&'a str>,
    version: Option<Version>,
    id: Option<&'a Principal>,
    value: Option<&'a SecretValue>,
    parts: Option<&'a Parts>,
}

impl<'a> About<'a> {
    const fn key(key: &'a Credential) -> Self {
        Self {
            policy: None,
            name: None,
            version: None,
            id: Some(&key.principal),
            value: Some(&key.value),
            parts: Some(&key.parts),
        }
    }
}

impl HttpTarget {
    /// `admin` and `credentials` yield those that the policy names.
    ///
    /// # Errors
    /// `Invalid` when the recipe was not found as the policy was read.
    pub fn new(
        spec: HttpSpec,
        admin: Option<Arc<dyn AdminCredential>>,
        credentials: BTreeMap<String, Arc<dyn AdminCredential>>,
        outbound: Outbound,
        paces: Arc<Paces>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let recipe = spec.definition.as_deref().cloned().ok_or_else(|| {
            Failure::new(
                FailureClass::Invalid,
                format!("use recipe {}", spec.recipe),
                "there is none of that name",
            )
            .with_remedy("put it beside the policies; `rekeyd recipe list` shows those that there are")
        })?;
        let caller = Caller {
            recipe: spec.recipe.clone(),
            base: spec.base().map(ToOwned::to_owned),
            ca_file: spec.ca_file.clone(),
            timeout: recipe.limits.timeout.as_duration(),
            rate: recipe.limits.requests_per_second,
            admin: spec.admin.clone(),
            outbound,
            paces,
            is_for: Box::new(|_: &str| true),
            http: OnceCell::new(),
        };
        Ok(Self { spec, recipe, admin, credentials, clock, caller })
    }

    /// The same, where the policy's credentials may be used only at these hosts. A rotation follows the policy as it was
    /// when it began, and not the settings of then.
    #[must_use]
    pub fn with_credentials_for(mut self, is_for: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.caller.is_for = Box::new(is_for);
        self
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str) -> String {
        format!("{verb} {} at {}", self.spec.owner, self.spec.server())
    }

    fn doing_with(&self, verb: &str, id: &Principal) -> String {
        format!("{verb} key {id} of {} at {}", self.spec.owner, self.spec.server())
    }

    /// Sends one request.
    async fn send(
        &self,
        request: &Request,
        context: &Context<'_>,
        page: &Page,
        stage: Stage,
        doing: &str,
    ) -> Result<Answer, Failure> {
        self.caller.send(request, request.render(context), page, stage, doing).await
    }

    /// The credentials that requests are made with, as they are now.
    async fn admins(&self, doing: &str) -> Result<Admins, Failure> {
        let admin = match &self.admin {
            Some(admin) => Some(admin.credential().await?),
            None => None,
        };
        let mut others = BTreeMap::new();
        for (name, credential) in &self.credentials {
            others.insert(name.clone(), credential.credential().await?);
        }
        let mut admins = Admins { admin, others, session: None };
        if let Some(session) = &self.recipe.session {
            let context = self.context(&admins, About::default());
            let answer = self.send(&session.request, &context, &Page::First, Stage::Reading, doing).await?;
            let token = answer.body.as_ref().and_then(|body| session.token.text_of(body));
            let token = token.filter(|_| is_done(&answer, &[])).ok_or_else(|| {
                let known = known(&answer, &session.failures).map(|known| caller::known(known, doing));
                known.unwrap_or_else(|| caller::unknown(&answer, Stage::Reading, doing))
            })?;
            admins.session = Some(SecretValue::new(token.into_bytes()));
        }
        Ok(admins)
    }

    fn context<'a>(&'a self, admins: &'a Admins, about: About<'a>) -> Context<'a> {
        Context {
            policy: about.policy,
            owner: &self.spec.owner,
            name: about.name,
            version: about.version,
            parameters: &self.spec.parameters,
            admin: admins.admin.as_ref(),
            credentials: &admins.others,
            session: admins.session.as_ref(),
            id: about.id,
            value: about.value,
            parts: about.parts,
            now: self.clock.now().as_second(),
        }
    }

    /// The keys that there are, and when each was used last.
    async fn listed(&self, admins: &Admins, doing: &str) -> Result<Option<Vec<(Key, LastUse)>>, Failure> {
        let Some(list) = &self.recipe.list else { return Ok(None) };
        let mut keys = Vec::new();
        let mut seen = BTreeSet::new();
        let mut page = Page::first(list.pages.as_ref());
        for number in 1..=MOST_PAGES {
            let context = self.context(admins, About::default());
            let answer = self.send(&list.request, &context, &page, Stage::Reading, doing).await?;
            let Some(items) = list.meant(&answer) else {
                return Err(caller::unknown(&answer, Stage::Reading, doing));
            };
            let count = list.count(&answer);
            for item in items {
                let Some(id) = list.id.text_of(item) else {
                    return Err(caller::unknown(&answer, Stage::Reading, doing));
                };
                // In its place another one was skipped, which may be what is looked for: so lists answer that change
                // while they are read, or whose order is none.
                if list.pages.is_some() && !seen.insert(id.clone()) {
                    let reason = "its pages do not agree: a key is on two of them";
                    return Err(Failure::new(FailureClass::Unavailable, doing, reason).with_remedy(
                        "if that stays so, delete keys that nobody needs until one page has them all",
                    ));
                }
                match id.parse() {
                    Ok(id) => keys.push(self.key(id, item)),
                    // Not one that rekeyd made, whose names it can hold.
                    Err(_) if list.tag_of(item).is_none() => {}
                    Err(_) => return Err(caller::unknown(&answer, Stage::Reading, doing)),
                }
            }
            let Some(pages) = &list.pages else { return Ok(Some(keys)) };
            match Page::after(pages, &answer, count, number) {
                Ok(Some(next)) => page = next,
                Ok(None) => return Ok(Some(keys)),
                Err(NoAddress) => return Err(caller::unknown(&answer, Stage::Reading, doing)),
            }
        }
        // What is not seen may be what is looked for.
        Err(Failure::new(FailureClass::Invalid, doing, format!("the list has more than {MOST_PAGES} pages"))
            .with_remedy("delete keys that nobody needs"))
    }

    fn key(&self, id: Principal, item: &Value) -> (Key, LastUse) {
        let list = self.recipe.list.as_ref();
        let at = |pointer: Option<&crate::recipe::Pointer>| {
            pointer.and_then(|pointer| pointer.of(item)).and_then(moment)
        };
        let tag = list.and_then(|list| list.tag_of(item));
        let last = match list.and_then(|list| list.used_at.as_ref()).map(|used_at| used_at.of(item)) {
            None => LastUse::Untold,
            Some(None | Some(Value::Null)) => LastUse::Never,
            // What cannot be read is no "never".
            Some(Some(told)) => moment(told).map_or(LastUse::Untold, LastUse::At),
        };
        let used = match (last, self.recipe.tag, &tag) {
            // Where names have tags, a key without one is somebody else's, used or not.
            (_, Tagging::Full | Tagging::Short, None)
            | (LastUse::Untold | LastUse::BySessions | LastUse::ByListed, ..) => None,
            (LastUse::Never, ..) => Some(false),
            (LastUse::At(_), ..) => Some(true),
        };
        let made_at = at(list.and_then(|list| list.made_at.as_ref()));
        (Key { id, made_at, used, tag }, last)
    }

    /// Makes a key refused; already so is success.
    async fn change(&self, change: &Change, about: About<'_>, doing: &str) -> Result<(), Failure> {
        let admins = self.admins(doing).await?;
        let context = self.context(&admins, about);
        let answer = self.send(&change.request, &context, &Page::First, Stage::Writing, doing).await?;
        if change.already_when.iter().any(|pattern| pattern.fits(&answer))
            || is_done(&answer, &change.done_when)
        {
            return Ok(());
        }
        match known(&answer, &change.failures) {
            Some(known) => Err(caller::known(known, doing)),
            None => Err(caller::unknown(&answer, Stage::Writing, doing)),
        }
    }

    /// The credential that was made: what the answer shows of it, and what was sent.
    fn made(
        &self,
        answer: &Answer,
        create: &Create,
        sent: Option<Material>,
        (policy, name): (&PolicyName, &str),
        doing: &str,
    ) -> Result<Credential, Failure> {
        let lost = || {
            caller::unknown(answer, Stage::Writing, doing).with_remedy(
                "correct where the recipe looks for id and value; what was made is found by its tag",
            )
        };
        let id = match (&create.id, self.recipe.strategy) {
            (Some(_), _) => create.shown_id(answer).ok_or_else(lost)?,
            (None, RecipeStrategy::Reissued) => self.spec.owner.to_string(),
            (None, RecipeStrategy::DualKey | RecipeStrategy::HandOff) => name.to_owned(),
        };
        let principal: Principal = id.parse().map_err(|_| lost())?;
        // An id stands in records and logs.
        let shown = |value: SecretValue| {
            if value.occurs_in(principal.as_str()) { Err(lost()) } else { Ok(value) }
        };
        let mut parts = Parts::new();
        for (name, at) in &create.parts {
            let part = answer.body.as_ref().and_then(|body| at.text_of(body)).filter(|part| !part.is_empty());
            let part = SecretValue::new(part.ok_or_else(lost)?.into_bytes());
            // What stands in records and logs is no secret, and would keep the rotation from being recorded.
            let told = format!("{principal} {policy} {} {}", self.spec.owner, self.spec.server());
            if part.occurs_in(&told) {
                let reason = format!(
                    "its part `{name}` is no secret: it stands in the names of the policy or the key"
                );
                return Err(Failure::new(FailureClass::Invalid, doing, reason)
                    .with_remedy("take it out of the recipe's `create.parts`"));
            }
            parts.insert(name.clone(), part);
        }
        if let Some(sent) = sent {
            parts.extend(sent.parts);
            return Ok(Credential::new(principal.clone(), shown(sent.value)?).with_parts(parts));
        }
        let value = zeroize::Zeroizing::new(create.shown_value(answer).ok_or_else(lost)?);
        let value = if create.decode {
            BASE64_STANDARD.decode(value.as_bytes()).map_err(|_| lost())?
        } else {
            value.as_bytes().to_vec()
        };
        Ok(Credential::new(principal.clone(), shown(SecretValue::new(value))?).with_parts(parts))
    }
}

#[async_trait]
impl Target for HttpTarget {
    async fn keys(&self, owner: &Principal) -> Result<Vec<Key>, Failure> {
        let doing = format!("list the keys of {owner} at {}", self.spec.server());
        let admins = self.admins(&doing).await?;
        let listed = self.listed(&admins, &doing).await?;
        Ok(listed.unwrap_or_default().into_iter().map(|(key, _)| key).collect())
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        let doing = self.doing("have a key made for");
        let Some(create) = &self.recipe.create else {
            return Ok(Minted::Awaited(self.by_hand_create(request.attempt.policy, request.contains)));
        };
        let lacks = |name: &&PartName| request.outgoing.is_none_or(|key| !key.parts.contains_key(*name));
        let asked_with = |name: &&PartName| create.request.uses(&format!("parts.{name}"));
        if let Some(name) = create.parts.keys().filter(asked_with).find(lacks) {
            let reason =
                format!("the key in force has no part `{name}`, which the next one is asked for with");
            return Err(Failure::new(FailureClass::Invalid, &*doing, reason).with_remedy(format!(
                "take both over: rekeyd adopt {} --part {name}=FILE",
                request.attempt.policy
            )));
        }
        let admins = self.admins(&doing).await?;
        if let Some(most) = self.recipe.limits.live_keys {
            let keys = self.listed(&admins, &doing).await?.unwrap_or_default();
            if keys.len() >= most as usize {
                let ids: Vec<_> = keys.iter().map(|(key, _)| key.id.to_string()).collect();
                let reason = format!("it has {} of {most} keys already: {}", keys.len(), ids.join(", "));
                return Err(Failure::new(FailureClass::Conflict, &*doing, reason)
                    .with_remedy("delete one that nobody needs; rekeyd deletes none to make room"));
            }
        }
        let name = write_tag(self.recipe.tag, request.attempt.policy, request.attempt.rotation);
        let sent = create.generates.as_ref().map(|spec| spec.make(None, self.clock.now())).transpose();
        let sent = sent.map_err(|unmade| Failure::new(FailureClass::Invalid, &*doing, unmade))?;
        let outgoing = request.outgoing;
        let about = About {
            policy: Some(request.attempt.policy),
            name: Some(&name),
            version: Some(request.attempt.version),
            id: outgoing.map(|outgoing| &outgoing.principal),
            value: sent.as_ref().map(|sent| &sent.value).or(outgoing.map(|outgoing| &outgoing.value)),
            parts: sent.as_ref().map(|sent| &sent.parts).or(outgoing.map(|outgoing| &outgoing.parts)),
        };
        let context = self.context(&admins, about);
        let answer = self.send(&create.request, &context, &Page::First, Stage::Writing, &doing).await?;
        if !is_done(&answer, &create.done_when) {
            return Err(match known(&answer, &create.failures) {
                Some(known) => caller::known(known, &doing),
                None => caller::unknown(&answer, Stage::Writing, &doing),
            });
        }
        self.made(&answer, create, sent, (request.attempt.policy, &name), &doing).map(Minted::Made)
    }

    fn is_by_hand(&self) -> bool {
        self.recipe.strategy == RecipeStrategy::HandOff
    }

    fn settling(&self) -> Duration {
        self.recipe.limits.settling.as_duration()
    }

    async fn probe(&self, credential: &Credential, _: ProbeDepth) -> Probe {
        let doing = self.doing_with("try", &credential.principal);
        let verify = &self.recipe.verify;
        let admins = match self.admins_of_verify(&doing).await {
            Ok(admins) => admins,
            Err(failure) => return Probe::Unknown(failure),
        };
        let Some(request) = &verify.request else {
            // A whole list without it, twice: one that is read while somebody deletes another key may skip one.
            for _ in 0..2 {
                match self.listed(&admins, &doing).await {
                    Ok(Some(keys)) if keys.iter().any(|(key, _)| key.id == credential.principal) => {
                        return Probe::Accepted;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return Probe::Unknown(one_value(self, &credential.principal)),
                    Err(failure) => return Probe::Unknown(failure),
                }
            }
            return Probe::Refused;
        };
        let context = self.context(&admins, About::key(credential));
        match self.send(request, &context, &Page::First, Stage::Reading, &doing).await {
            Ok(answer) => match verify.verdict(&answer) {
                Verdict::Accepted => Probe::Accepted,
                Verdict::Refused => match &verify.health {
                    Some(health) => self.confirmed(health, &context, &doing).await,
                    None => Probe::Refused,
                },
                Verdict::None => {
                    let failure = caller::unknown(&answer, Stage::Reading, &doing);
                    let reason = format!("{}: that is no verdict on the key", failure.reason());
                    Probe::Unknown(Failure::new(FailureClass::Unavailable, doing, reason))
                }
            },
            Err(failure) => Probe::Unknown(failure),
        }
    }

    async fn akin(&self, made: &Credential, in_force: &Credential) -> Result<(), Failure> {
        let verify = &self.recipe.verify;
        let (Some(at), Some(request)) = (&verify.same_as, &verify.request) else { return Ok(()) };
        let doing = self.doing_with("see what belongs to", &made.principal);
        let admins = self.admins_of_verify(&doing).await?;
        // Of the one in force, then of the new one.
        let mut told = Vec::new();
        for key in [in_force, made] {
            let context = self.context(&admins, About::key(key));
            let answer = self.send(request, &context, &Page::First, Stage::Reading, &doing).await?;
            let of = answer.body.as_ref().and_then(|body| at.text_of(body));
            match (verify.verdict(&answer), of) {
                (Verdict::Accepted, Some(of)) => told.push(of),
                (Verdict::Refused, _) if told.is_empty() => return Ok(()),
                _ => {
                    let reason = "what comes back does not say what it belongs to";
                    return Err(Failure::new(FailureClass::Unavailable, doing, reason).with_remedy(
                        "check that the provider itself answers there, and `verify.sameAs` of the recipe",
                    ));
                }
            }
        }
        if told[0] == told[1] {
            return Ok(());
        }
        let reason = format!(
            "the provider says another `{}` of it than of the key in force",
            String::from(at.clone())
        );
        Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(
            "make the key where the one in force was made; to move, see `rekeyd adopt --replace`",
        ))
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let doing = self.doing_with("see who uses", principal);
        let untold = Usage { sessions: Vec::new(), last: LastUse::Untold };
        if let Some(usage) = self.recipe.usage.as_ref().filter(|usage| usage.is_asked(&self.spec.parameters))
        {
            let admins = self.admins(&doing).await?;
            let context = self.context(&admins, About { id: Some(principal), ..About::default() });
            let answer = self.send(&usage.request, &context, &Page::First, Stage::Reading, &doing).await?;
            let told = usage.last(&answer).map(|last| Usage { last, ..untold });
            return told.ok_or_else(|| caller::unknown(&answer, Stage::Reading, &doing));
        }
        if self.recipe.list.as_ref().is_none_or(|list| list.used_at.is_none()) {
            return Ok(untold);
        }
        let admins = self.admins(&doing).await?;
        let keys = self.listed(&admins, &doing).await?.unwrap_or_default();
        let last = keys.into_iter().find(|(key, _)| key.id == *principal).map(|(_, last)| last);
        Ok(Usage { sessions: Vec::new(), last: last.unwrap_or(LastUse::Untold) })
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        let done = Ok(Retired::Done { sessions_closed: 0 });
        let about = About {
            id: Some(request.principal),
            value: request.outgoing.map(|outgoing| &outgoing.value),
            parts: request.outgoing.map(|outgoing| &outgoing.parts),
            policy: Some(request.attempt.policy),
            version: Some(request.attempt.version),
            ..About::default()
        };
        match (request.extent, &self.recipe.disable, &self.recipe.revoke) {
            (Extent::Disabled, Some(disable), _) => {
                self.change(disable, about, &self.doing_with("disable", request.principal)).await?;
                between!("http.disabled");
                done
            }
            (Extent::Attempt | Extent::SessionsBefore(_), ..) => Err(one_value(self, request.principal)),
            (Extent::OtherValues, ..) if self.recipe.strategy != RecipeStrategy::Reissued => {
                Err(one_value(self, request.principal))
            }
            // One id for all of its values: what is revoked by that is the one beside it, too. Its successor killed it.
            (Extent::Principal | Extent::OtherValues, _, Some(revoke))
                if request.beside.is_some_and(|beside| beside.principal == *request.principal)
                    && !revoke.request.uses("value")
                    && !revoke.request.uses("parts") =>
            {
                done
            }
            (Extent::Principal | Extent::OtherValues, _, Some(revoke)) => {
                self.change(revoke, about, &self.doing_with("revoke", request.principal)).await?;
                between!("http.revoked");
                done
            }
            // Nobody but a person can: whether it was done is asked of the key itself.
            (Extent::Principal, _, None) => match request.outgoing {
                Some(outgoing) => match self.probe(outgoing, ProbeDepth::Login).await {
                    Probe::Refused => done,
                    Probe::Unknown(failure) => Err(failure),
                    Probe::Accepted | Probe::Unfit(_) => {
                        Ok(Retired::Awaited(self.by_hand_revoke(request.principal)))
                    }
                },
                None => done,
            },
            // The key that took its place killed it.
            (Extent::Disabled | Extent::OtherValues, ..) => done,
        }
    }

    fn lapse(&self) -> Option<Interval> {
        self.recipe.limits.lifetime.filter(|_| self.recipe.revoke_only_to_contain)
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }

    async fn preflight_life(&self, needed: Option<Duration>) -> Vec<Finding> {
        self.recipe.limits.lifetime.map(|life| preflight::life(self, life, needed)).into_iter().collect()
    }
}

impl HttpTarget {
    /// What a refusal is, where the provider refuses every key while something behind it is down.
    async fn confirmed(&self, health: &Health, context: &Context<'_>, doing: &str) -> Probe {
        let answer = self.send(&health.request, context, &Page::First, Stage::Reading, doing).await;
        if answer.is_ok_and(|answer| health.is_well(&answer)) {
            return Probe::Refused;
        }
        let reason =
            "the provider refuses it, and does not say that all is well there: that is no verdict on the key";
        let failure = Failure::new(FailureClass::Unavailable, doing, reason);
        Probe::Unknown(failure.with_remedy(
            "see that the provider can reach its database, and that no gateway hides its health",
        ))
    }

    /// Those that trying a key needs: a key whose admin is refused can be tried all the same.
    async fn admins_of_verify(&self, doing: &str) -> Result<Admins, Failure> {
        if self.recipe.verify.needs_admins() {
            return self.admins(doing).await;
        }
        Ok(Admins { admin: None, others: BTreeMap::new(), session: None })
    }

    fn by_hand_create(&self, policy: &PolicyName, urgent: bool) -> String {
        let hand = self.recipe.by_hand.as_ref();
        let how = hand.and_then(|hand| hand.create.as_deref()).unwrap_or("make a key");
        let mut text = format!("{how}; then hand it over: rekeyd supply {policy} --principal ID");
        if urgent {
            let revoke = hand.and_then(|hand| hand.revoke.as_deref()).unwrap_or("revoke the leaked key");
            text = format!(
                "URGENT, the key in force leaked: {revoke}, at once if an outage is better than its use. {text}"
            );
        }
        text
    }

    fn by_hand_revoke(&self, id: &Principal) -> String {
        let hand = self.recipe.by_hand.as_ref();
        let how = hand.and_then(|hand| hand.revoke.as_deref()).unwrap_or("revoke it");
        format!("key {id} of {} is still accepted: {how}", self.spec.owner)
    }
}

fn one_value(target: &HttpTarget, key: &Principal) -> Failure {
    let doing = target.doing_with("retire", key);
    Failure::new(FailureClass::Invalid, doing, "a key has one value and no sessions")
}
