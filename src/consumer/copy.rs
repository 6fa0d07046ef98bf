//! A copy of a value in a store, under a path of its own.
//!
//! One of its fields is rekeyd's mark (`mark`): whose it is, and the version that it holds. It is written with the value in
//! one request by compare-and-set, so the two do not disagree, and a later version is never written over. What was
//! written is read back.
//!
//! The secret is rekeyd's as a whole: a field that somebody adds to it goes with the next write. Nobody has to be told:
//! who reads it asks for it, or is told by the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::mark::{Description, Mark};
use super::{Consumer, Observed, PublishRequest, Published, Reach};
use crate::copies::{CopyPlace, Fields, Held};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::PolicyName;
use crate::policy::spec::CopyContent;
use crate::secret::SecretValue;
use crate::template::{Template, Values};

/// What a place here is called in failures.
const PLACE: &str = "secret";

/// How often somebody else may be faster.
const TRIES: usize = 3;

/// A consumer that holds a copy.
pub struct CopyConsumer {
    place: Arc<dyn CopyPlace>,
    templates: BTreeMap<String, Template>,
    /// The templates as they are written.
    form: String,
    mark: String,
    adopt: bool,
}

impl CopyConsumer {
    /// # Errors
    /// When a template cannot be parsed.
    pub fn new(content: CopyContent<'_>, place: Arc<dyn CopyPlace>) -> Result<Self, Failure> {
        let (mut templates, mut form) = (BTreeMap::new(), String::new());
        for (field, source) in content.data {
            form += &format!("{field}\n{source}\n");
            let template = Template::parse(source).map_err(|error| {
                Failure::new(FailureClass::Invalid, format!("use field {field} of {}", place.label()), error)
            })?;
            templates.insert(field.clone(), template);
        }
        Ok(Self { place, templates, form, mark: content.mark.to_owned(), adopt: content.adopt })
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str) -> String {
        format!("{verb} {}", self.label())
    }

    fn render(&self, request: PublishRequest<'_>) -> Result<Fields, Failure> {
        let values =
            Values { policy: request.policy, version: request.version, credential: request.credential };
        let mark = Mark { policy: request.policy.clone(), version: request.version };
        let mut fields = Fields::from([(self.mark.clone(), SecretValue::new(mark.to_string().into_bytes()))]);
        for (field, template) in &self.templates {
            let filled = template.render(&values).map_err(|error| {
                let reason = format!("field {field}: {error}");
                Failure::new(FailureClass::Invalid, self.doing("write"), reason)
                    .with_remedy("correct `data` in the policy")
            })?;
            fields.insert(field.clone(), filled);
        }
        Ok(fields)
    }

    /// The mark of what is there, if it has one.
    fn marked(&self, held: &Held, doing: &str) -> Result<Option<Mark>, Failure> {
        let Some(field) = held.fields.as_ref().and_then(|fields| fields.get(&self.mark)) else {
            return Ok(None);
        };
        let mark = field.expose_str().ok().and_then(|text| Description::parse(text).ok());
        match mark {
            Some(Description { text, mark: Some(mark) }) if text.is_empty() => Ok(Some(mark)),
            _ => Err(Failure::new(
                FailureClass::Conflict,
                doing,
                format!("its field `{}` is not rekeyd's mark", self.mark),
            )
            .with_remedy("name another field as `mark`, or give the copy a path of its own")),
        }
    }

    /// Whether what is there is the policy's to write, and its mark.
    fn foreign(&self, held: &Held, policy: &PolicyName, doing: &str) -> Result<Option<Mark>, Failure> {
        let mark = self.marked(held, doing)?;
        if let Some(mark) = &mark {
            mark.is_of(policy, doing, PLACE)?;
            return Ok(Some(mark.clone()));
        }
        let Some(fields) = &held.fields else { return Ok(None) };
        if !self.adopt {
            return Err(Failure::new(FailureClass::Conflict, doing, "rekeyd did not write it")
                .with_remedy("set `adopt: true` to take it over, or give the copy a path of its own"));
        }
        if held.is_odd || fields.keys().any(|field| !self.templates.contains_key(field)) {
            let reason = "it holds other fields than `data` names, which a write would lose";
            return Err(Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy("give the copy a path of its own, or take the other fields out"));
        }
        Ok(None)
    }

    /// Whether that has to be written.
    fn judge(
        &self,
        held: &Held,
        request: PublishRequest<'_>,
        fields: &Fields,
        doing: &str,
    ) -> Result<bool, Failure> {
        let is_same = match self.foreign(held, request.policy, doing)? {
            Some(mark) => mark.stands(request.policy, request.version, doing, PLACE)?,
            None => false,
        };
        Ok(!is_same || held.is_odd || held.fields.as_ref() != Some(fields))
    }

    /// Dying after the write: the mark in it says so.
    async fn write(
        &self,
        request: PublishRequest<'_>,
        fields: &Fields,
        over: &Held,
        doing: &str,
    ) -> Result<(), Failure> {
        let seed = format!("{}\n{}\n{}", request.policy, request.version, self.form);
        self.place.write(fields, over, &seed, doing).await?;
        between!("copy.write.written");
        let held = self.place.read(doing).await.map_err(|failure| {
            let reason = format!("it cannot be read back: {}", failure.reason());
            failure.with_reason(reason).reclassified(FailureClass::Ambiguous)
        })?;
        if self.judge(&held, request, fields, doing)? {
            let reason = "what was written is not what is read there";
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("see who else writes it, and whether a standby answers"));
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for CopyConsumer {
    fn label(&self) -> String {
        format!("copy {}", self.place.label())
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        let (fields, doing) = (self.render(request)?, self.doing("write"));
        let held = self.place.read(&doing).await?;
        self.judge(&held, request, &fields, &doing)?;
        Ok(Vec::new())
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let (fields, doing) = (self.render(request)?, self.doing("write"));
        let mut last = None;
        for _ in 0..TRIES {
            let held = self.place.read(&doing).await?;
            if !self.judge(&held, request, &fields, &doing)? {
                return Ok(Published::Already(None));
            }
            match self.write(request, &fields, &held, &doing).await {
                Ok(()) => return Ok(Published::Now),
                // Somebody was faster: what they wrote is looked at.
                Err(failure) if failure.class() == FailureClass::Conflict => {
                    last = Some(failure.reclassified(FailureClass::Unavailable));
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(last.expect("there is at least one try"))
    }

    /// Whoever reads it asks for it.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let published = self.observe(request.policy).await?.published;
        if published >= request.version {
            return Ok(());
        }
        let reason = format!("it holds {published}, not {}", request.version);
        Err(Failure::new(FailureClass::Unavailable, self.doing("have readers use"), reason))
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        let published = self.observe(request.policy).await?.published;
        if published >= request.version {
            return Ok(Reach::Moved);
        }
        Ok(Reach::Moving(format!("{} does not hold {} any more", self.label(), request.version)))
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        let doing = self.doing("read");
        let held = self.place.read(&doing).await?;
        let Some(mark) = self.marked(&held, &doing)? else { return Ok(Observed::default()) };
        mark.is_of(policy, &doing, PLACE)?;
        Ok(Observed { published: mark.version, reloaded: mark.version })
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        let (label, doing) = (self.label(), self.doing("write"));
        let looked = match self.place.read(&doing).await {
            Ok(held) => self.foreign(&held, policy, &doing).map(|mark| (held, mark)),
            Err(failure) => Err(failure),
        };
        let mut findings = vec![match looked {
            Ok((_, Some(Mark { version, .. }))) => Finding::pass(&label, format!("it holds {version}")),
            Ok((Held { fields: None, .. }, None)) => {
                Finding::pass(&label, "it is not there yet, and will be made")
            }
            Ok((_, None)) => Finding::pass(&label, "it was not written by rekeyd, and will be taken over"),
            Err(failure) => Finding::from_failure(&label, &failure),
        }];
        findings.extend(self.place.preflight().await);
        findings
    }
}
