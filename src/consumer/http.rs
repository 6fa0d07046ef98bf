//! A place at another system, told by a [recipe](crate::recipe::ConsumerRecipe): a variable or a secret of a pipeline.
//!
//! The place says whose it is and which version it holds by rekeyd's mark (`mark`). Where it has room for a text, mark and
//! value are set by one request, and the two do not disagree. Where it has none, the mark is in a place beside it
//! (`apart`), which says what that proves and what it does not. Where the system shows the value, it is compared with what
//! was published; most never do.
//!
//! None of these systems has a compare-and-set. Between the request that reads the mark and the one that writes it somebody
//! else may write. Whoever wrote reads again, and while readers are waited for the place is looked at again and again: a
//! late write of an earlier version is written over.
//!
//! Nobody has to be told: a job asks for the value when it begins, and one that runs keeps what it has. How long those go
//! on is the policy's grace.

mod apart;
mod place;
mod preflight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use self::place::{Place, Wrote};
use super::mark::{Description, Mark};
use super::{Consumer, Observed, PublishRequest, Published, Reach, Requests};
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass, Finding};
use crate::http::caller::Caller;
use crate::ident::{PolicyName, Version};
use crate::policy::spec::HttpPlaceSpec;
use crate::recipe::{ConsumerRecipe, Sight};
use crate::secret::{AdminCredential, SecretValue};
use crate::template::{Template, Values};

/// What a place here is called in failures.
const PLACE: &str = "place";

/// How often it is begun: somebody else may have been faster, or be at it.
const TRIES: usize = 3;

/// Longer than a request takes; it matters only where two processes are at one place.
const PATIENCE: Duration = Duration::from_secs(2);

/// A place that a recipe tells of.
pub struct HttpConsumer {
    spec: HttpPlaceSpec,
    recipe: ConsumerRecipe,
    template: Template,
    admin: Option<Arc<dyn AdminCredential>>,
    credentials: BTreeMap<String, Arc<dyn AdminCredential>>,
    clock: Arc<dyn Clock>,
    /// How long another process may take from its last look to the write that follows.
    patience: Duration,
    caller: Caller,
}

/// What came of writing it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Written,
    /// Somebody else made one, or took it away.
    Overtaken,
    /// Another process may be at it: it is to be written once more.
    Unsure,
    /// So much time passed that what another process did in it may not have been seen.
    Slow,
}

/// What is there.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    value: Option<Sight>,
    /// Whether there is something in the mark's own place; none where that is the value's.
    has_mark_slot: bool,
    /// The mark, and the text around it. In a place of its own that text says when the value was changed.
    description: Description,
}

impl HttpConsumer {
    /// `admin` and `credentials` yield those that the policy names.
    ///
    /// # Errors
    /// When the recipe was not found as the policy was read, or the template cannot be parsed.
    pub fn new(
        spec: &HttpPlaceSpec,
        admin: Option<Arc<dyn AdminCredential>>,
        credentials: BTreeMap<String, Arc<dyn AdminCredential>>,
        requests: Requests,
    ) -> Result<Self, Failure> {
        let doing = || format!("use recipe {}", spec.recipe);
        let recipe = spec.definition.as_deref().cloned().ok_or_else(|| {
            Failure::new(FailureClass::Invalid, doing(), "there is none of that name")
                .with_remedy("put it beside the policies; `rekeyd recipe list` shows those that there are")
        })?;
        let template = Template::parse(&spec.content)
            .map_err(|error| Failure::new(FailureClass::Invalid, doing(), error))?;
        let caller = Caller {
            recipe: spec.recipe.clone(),
            base: spec.base().map(ToOwned::to_owned),
            ca_file: spec.ca_file.clone(),
            timeout: recipe.limits.timeout.as_duration(),
            rate: recipe.limits.requests_per_second,
            admin: spec.admin.clone(),
            outbound: requests.outbound,
            paces: requests.paces,
            is_for: requests.is_for,
            http: OnceCell::new(),
        };
        let (spec, clock) = (spec.clone(), requests.clock);
        Ok(Self { spec, recipe, template, admin, credentials, clock, patience: PATIENCE, caller })
    }

    /// With another deadline for a request than the recipe's.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.caller.timeout = timeout;
        self
    }

    /// With less patience with other processes.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str) -> String {
        format!("{verb} {}", self.label())
    }

    async fn open(&self, verb: &str) -> Result<Place<'_>, Failure> {
        Place::open(self, self.doing(verb)).await
    }

    /// What is to be written.
    fn render(&self, request: PublishRequest<'_>) -> Result<SecretValue, Failure> {
        let invalid = |reason: String| Failure::new(FailureClass::Invalid, self.doing("write"), reason);
        let values =
            Values { policy: request.policy, version: request.version, credential: request.credential };
        let content = self
            .template
            .render(&values)
            .map_err(|error| invalid(error.to_string()).with_remedy("correct `content` in the policy"))?;
        for accepts in &self.recipe.accepts {
            if let Some(reason) = accepts.refusal(&self.spec.parameters, content.expose()) {
                return Err(invalid(reason).with_remedy(accepts.remedy.clone()));
            }
        }
        Ok(content)
    }

    async fn held(&self, place: &Place<'_>) -> Result<Held, Failure> {
        let value = place.see(&self.recipe.value).await?;
        let text = match &self.recipe.mark {
            None => value.as_ref().map(|value| value.text.clone()),
            Some(slot) => place.see(slot).await?.map(|mark| mark.text),
        };
        let has_mark_slot = self.recipe.mark.is_some() && text.is_some();
        let description = Description::parse(&text.unwrap_or_default()).map_err(|_| {
            Failure::new(FailureClass::Invalid, place.doing(), "the mark in its text cannot be read")
                .with_remedy("take it out of the text, and set `adopt: true` once")
        })?;
        Ok(Held { value, has_mark_slot, description })
    }

    /// Whether a version has to be written over what is there.
    fn is_due(
        &self,
        held: &Held,
        request: PublishRequest<'_>,
        content: &SecretValue,
        doing: &str,
    ) -> Result<bool, Failure> {
        self.check_owner(held, request.policy, doing)?;
        match &held.description.mark {
            Some(mark) if mark.stands(request.policy, request.version, doing, PLACE)? => {
                Ok(!self.vouches(held, Some(content)))
            }
            _ => Ok(true),
        }
    }

    /// Whether what is there is the policy's to write.
    fn check_owner(&self, held: &Held, policy: &PolicyName, doing: &str) -> Result<(), Failure> {
        let failed = |class, reason: &str, remedy: &'static str| {
            Err(Failure::new(class, doing, reason).with_remedy(remedy))
        };
        match &held.description.mark {
            Some(mark) => mark.is_of(policy, doing, PLACE)?,
            None if (held.value.is_some() || held.has_mark_slot) && !self.spec.adopt => {
                return failed(
                    FailureClass::Conflict,
                    "rekeyd did not write it",
                    "set `adopt: true` to take it over, or delete it",
                );
            }
            None => {}
        }
        if held.value.is_none() && !self.spec.create {
            return failed(
                FailureClass::Invalid,
                "there is none, and the policy does not let rekeyd make it",
                "make it there with `adopt: true` in the policy, or take out `create: false`",
            );
        }
        Ok(())
    }

    /// Whether the value is as the mark found it, as far as the system tells; the very value, where it shows that.
    fn vouches(&self, held: &Held, content: Option<&SecretValue>) -> bool {
        let Some(value) = &held.value else { return false };
        let is_shown = match (&value.shown, content) {
            (Some(shown), Some(content)) => SecretValue::new(shown.as_bytes().to_vec()) == *content,
            _ => true,
        };
        let is_settled =
            self.recipe.mark.is_none() || held.description.text == value.changed_at.as_deref().unwrap_or("");
        is_shown && is_settled
    }

    /// The version that is there, as far as can be told.
    fn version(&self, held: &Held, content: Option<&SecretValue>) -> Version {
        let mark = held.description.mark.as_ref().filter(|_| self.vouches(held, content));
        mark.map_or(Version::NONE, |mark| mark.version)
    }

    /// The version that a place holds, for a policy whose place it is.
    async fn published(&self, verb: &str, request: PublishRequest<'_>) -> Result<Version, Failure> {
        let content = self.render(request)?;
        let place = self.open(verb).await?;
        let held = self.held(&place).await?;
        let Some(mark) = &held.description.mark else { return Ok(Version::NONE) };
        mark.is_of(request.policy, place.doing(), PLACE)?;
        // What a later version's value is, is not known here.
        let content = (mark.version == request.version).then_some(&content);
        Ok(self.version(&held, content))
    }

    /// Writes where mark and value are one place, and looks at what came of it.
    ///
    /// Dying in between: both are there, or neither is.
    async fn write(
        &self,
        place: &Place<'_>,
        request: PublishRequest<'_>,
        content: &SecretValue,
        before: &Held,
    ) -> Result<Attempt, Failure> {
        let mark = Mark { policy: request.policy.clone(), version: request.version };
        let text = before.description.under(&mark);
        let slot = &self.recipe.value;
        let prepared = place.prepare(slot).await?;
        let draft = place.draft(slot, before.value.is_some(), (request, Some(content), &text), &prepared);
        if place.put(draft).await? == Wrote::Overtaken {
            return Ok(Attempt::Overtaken);
        }
        between!("http.place.written");
        let after = self.held(place).await.map_err(unread)?;
        if let Some(held) = &after.description.mark
            && held.stands(request.policy, request.version, place.doing(), PLACE)?
        {
            if self.vouches(&after, Some(content)) {
                return Ok(Attempt::Written);
            }
            let reason = "it shows another value than the one that was written";
            return Err(Failure::new(FailureClass::Unavailable, place.doing(), reason)
                .with_remedy("see who else writes it, and whether the system changes what it is given"));
        }
        if after != *before {
            let reason = "somebody else changed it just now";
            return Err(Failure::new(FailureClass::Unavailable, place.doing(), reason));
        }
        Err(unchanged(place.doing()))
    }
}

/// What a look after a write failed with: the write may have been done.
fn unread(failure: Failure) -> Failure {
    let reason = format!("it cannot be read back: {}", failure.reason());
    failure.with_reason(reason).reclassified(FailureClass::Ambiguous)
}

fn unchanged(doing: &str) -> Failure {
    Failure::new(FailureClass::Invalid, doing, "the answer is that it is written, and it has not changed")
        .with_remedy("see whether it may be changed there, and whether `read.mark` of the recipe is right")
}

#[async_trait]
impl Consumer for HttpConsumer {
    fn label(&self) -> String {
        format!("{} at {}", self.spec.name(), self.spec.server())
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        let content = self.render(request)?;
        let place = self.open("write").await?;
        let held = self.held(&place).await?;
        if self.is_due(&held, request, &content, place.doing())? {
            // Some systems answer alike for a place that is missing and for one that nobody may see.
            place.prepare(&self.recipe.value).await?;
        }
        Ok(Vec::new())
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let content = self.render(request)?;
        let place = self.open("write").await?;
        let mut latest = Attempt::Overtaken;
        for _ in 0..TRIES {
            let held = self.held(&place).await?;
            if !self.is_due(&held, request, &content, place.doing())? {
                return Ok(Published::Already(None));
            }
            latest = match &self.recipe.mark {
                None => self.write(&place, request, &content, &held).await?,
                Some(slot) => self.write_apart(&place, slot, request, &content, &held).await?,
            };
            if latest == Attempt::Written {
                return Ok(Published::Now);
            }
        }
        if latest != Attempt::Slow {
            return Err(place.unavailable("somebody else is at it at the same time"));
        }
        let reason = format!(
            "the provider is too slow: its mark was written later than {:?} after a look at it, again and again, \
             so that it is not sure that the value stayed",
            self.patience
        );
        Err(place.unavailable(&reason).with_remedy(
            "nothing has to be done if that is rare: it is tried again; otherwise see how quickly the provider \
             answers, and let fewer policies write there at one time",
        ))
    }

    /// Jobs ask when they begin.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let published = self.published("have jobs use", request).await?;
        if published >= request.version {
            return Ok(());
        }
        let reason = format!("it holds {published}, not {}", request.version);
        Err(Failure::new(FailureClass::Unavailable, self.doing("have jobs use"), reason))
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        let published = self.published("read", request).await?;
        Ok(match published >= request.version {
            true => Reach::Moved,
            false => Reach::Moving(format!("{} does not hold {} any more", self.label(), request.version)),
        })
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        let place = self.open("read").await?;
        let held = self.held(&place).await?;
        if let Some(mark) = &held.description.mark {
            mark.is_of(policy, place.doing(), PLACE)?;
        }
        let version = self.version(&held, None);
        Ok(Observed { published: version, reloaded: version })
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        preflight::preflight(self, policy).await
    }
}
