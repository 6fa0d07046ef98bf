//! Requests to the system that a place is at, and what its answers mean.
//!
//! Nothing of an answer's text is passed on but what the recipe reads from it.

use std::collections::BTreeMap;

use super::super::PublishRequest;
use super::HttpConsumer;
use crate::failure::{Failure, FailureClass};
use crate::http::Stage;
use crate::http::caller::{known, unknown};
use crate::http::page::Page;
use crate::recipe::{
    Answer, Known, PlaceContext, Put, RenderProblem, Rendered, Request, Sight, Slot, is_done,
};
use crate::secret::{Credential, SecretValue};

/// A login at the system.
pub(super) struct Place<'a> {
    consumer: &'a HttpConsumer,
    admin: Option<Credential>,
    credentials: BTreeMap<String, Credential>,
    session: Option<SecretValue>,
    /// Completes "cannot ...".
    doing: String,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    Done,
    /// Somebody else made one, or took it away.
    Overtaken,
}

/// A write that has only to be sent.
pub(super) struct Draft<'s> {
    put: &'s Put,
    rendered: Result<Rendered, RenderProblem>,
}

/// A publication, the value where it is written, and the text of the mark.
type Writing<'a> = (PublishRequest<'a>, Option<&'a SecretValue>, &'a str);

impl<'a> Place<'a> {
    pub(super) async fn open(consumer: &'a HttpConsumer, doing: String) -> Result<Self, Failure> {
        let admin = match &consumer.admin {
            Some(admin) => Some(admin.credential().await?),
            None => None,
        };
        let mut credentials = BTreeMap::new();
        for (name, credential) in &consumer.credentials {
            credentials.insert(name.clone(), credential.credential().await?);
        }
        let mut place = Self { consumer, admin, credentials, session: None, doing };
        if let Some(session) = &consumer.recipe.session {
            let answer = place.ask(&session.request).await?;
            let token = answer.body.as_ref().and_then(|body| session.token.text_of(body));
            let token = token.filter(|_| is_done(&answer, &[]));
            let token = token.ok_or_else(|| place.failure(&answer, &session.failures, Stage::Reading))?;
            place.session = Some(SecretValue::new(token.into_bytes()));
        }
        Ok(place)
    }

    pub(super) fn doing(&self) -> &str {
        &self.doing
    }

    /// What is there; `None` where there is nothing.
    pub(super) async fn see(&self, slot: &Slot) -> Result<Option<Sight>, Failure> {
        let look = &slot.read;
        let answer = self.ask(&look.request).await?;
        look.sight(&answer).ok_or_else(|| self.failure(&answer, &look.failures, Stage::Reading))
    }

    /// What the writes of a slot need to know before.
    pub(super) async fn prepare(&self, slot: &Slot) -> Result<BTreeMap<String, String>, Failure> {
        let Some(prepare) = &slot.prepare else { return Ok(BTreeMap::new()) };
        let answer = self.ask(&prepare.request).await?;
        prepare.yielded(&answer).ok_or_else(|| self.failure(&answer, &prepare.failures, Stage::Reading))
    }

    /// A write that has only to be sent.
    pub(super) fn draft<'s>(
        &self,
        slot: &'s Slot,
        is_there: bool,
        writing: Writing<'_>,
        prepared: &BTreeMap<String, String>,
    ) -> Draft<'s> {
        let put = slot.create.as_ref().filter(|_| !is_there).unwrap_or(&slot.update);
        Draft { put, rendered: self.render(&put.request, prepared, Some(writing)) }
    }

    /// Writes. Success says that the system took it, and not that it is there.
    pub(super) async fn put(&self, Draft { put, rendered }: Draft<'_>) -> Result<Wrote, Failure> {
        let caller = &self.consumer.caller;
        let answer = caller.send(&put.request, rendered, &Page::First, Stage::Writing, &self.doing).await?;
        if put.overtaken_when.iter().any(|pattern| pattern.fits(&answer)) {
            return Ok(Wrote::Overtaken);
        }
        if is_done(&answer, &put.done_when) {
            return Ok(Wrote::Done);
        }
        Err(self.failure(&answer, &put.failures, Stage::Writing))
    }

    fn failure(&self, answer: &Answer, own: &[Known], stage: Stage) -> Failure {
        match self.consumer.recipe.known(answer, own) {
            Some(is) => known(is, &self.doing),
            None => unknown(answer, stage, &self.doing),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let rendered = self.render(request, &BTreeMap::new(), None);
        self.consumer.caller.send(request, rendered, &Page::First, Stage::Reading, &self.doing).await
    }

    fn render(
        &self,
        request: &Request,
        prepared: &BTreeMap<String, String>,
        writing: Option<Writing<'_>>,
    ) -> Result<Rendered, RenderProblem> {
        let consumer = self.consumer;
        let context = PlaceContext {
            parameters: &consumer.spec.parameters,
            admin: self.admin.as_ref(),
            credentials: &self.credentials,
            session: self.session.as_ref(),
            now: consumer.clock.now().as_second(),
            policy: writing.map(|(request, ..)| request.policy),
            version: writing.map(|(request, ..)| request.version),
            principal: writing.map(|(request, ..)| &request.credential.principal),
            value: writing.and_then(|(_, value, _)| value),
            mark: writing.map(|(.., mark)| mark),
            prepared,
        };
        request.render_for_place(&context)
    }

    pub(super) fn unavailable(&self, reason: &str) -> Failure {
        Failure::new(FailureClass::Unavailable, self.doing.as_str(), reason)
    }
}
