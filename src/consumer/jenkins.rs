//! A credential of Jenkins, in its own store or in that of a folder.
//!
//! The credential's description ends with rekeyd's mark (`mark`): whose it is, and the version that it holds. Mark and
//! secret are set by one request, so the two do not disagree. Jenkins answers 200 to an update that it does not carry out,
//! so each one is read back. It shows no secret: a value that somebody changes without touching mark, user name or file
//! name is not seen.
//!
//! Jenkins has no compare-and-set. Between the request that reads the mark and the one that writes it, one round trip,
//! somebody else may write. Whoever wrote reads again, and while readers are waited for the credential is looked at again
//! and again: a late write of an earlier version is written over.
//!
//! Nobody has to be told: a build asks for the value when it begins, and one that runs keeps what it has. How long those
//! go on is the policy's grace.

mod api;
mod document;
mod preflight;

use std::sync::Arc;

use async_trait::async_trait;

use self::api::{Api, Made};
use self::document::{Draft, Kind, Shown};
use super::mark::{Description, Mark};
use super::{Consumer, Observed, PublishRequest, Published, Reach};
use crate::failure::{Failure, FailureClass, Finding};
pub use crate::http::Deadlines;
use crate::ident::{PolicyName, Version};
use crate::policy::spec::{JenkinsCredential, JenkinsSpec};
use crate::secret::{AdminCredential, SecretValue};
use crate::template::{Template, Values};

/// What a place here is called in failures.
const PLACE: &str = "credential";

/// How often somebody else may be faster.
const TRIES: usize = 2;

/// A Jenkins consumer.
pub struct JenkinsConsumer {
    spec: JenkinsSpec,
    kind: Kind,
    /// Of the secret; the value itself where there is none.
    template: Option<Template>,
    admin: Arc<dyn AdminCredential>,
    deadlines: Deadlines,
}

/// What a credential is to hold.
struct Filled<'a> {
    beside: Option<&'a str>,
    secret: SecretValue,
}

/// What a write finds.
struct Over {
    is_there: bool,
    text: Description,
    kept: Vec<(String, String)>,
}

impl JenkinsConsumer {
    /// `admin` yields the credential that the policy names.
    ///
    /// # Errors
    /// When the template cannot be parsed.
    pub fn new(spec: &JenkinsSpec, admin: Arc<dyn AdminCredential>) -> Result<Self, Failure> {
        let (kind, source) = match &spec.credential {
            JenkinsCredential::UsernamePassword(_) => (Kind::UsernamePassword, None),
            JenkinsCredential::SecretText(text) => (Kind::SecretText, Some(&text.content)),
            JenkinsCredential::File(file) => (Kind::File, Some(&file.content)),
        };
        let template = source.map(|source| Template::parse(source)).transpose().map_err(|error| {
            Failure::new(FailureClass::Invalid, format!("use credential {} of Jenkins", spec.id), error)
        })?;
        Ok(Self { spec: spec.clone(), kind, template, admin, deadlines: Deadlines::default() })
    }

    /// With other deadlines than the default ones.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str) -> String {
        format!("{verb} {}", self.label())
    }

    async fn api(&self, verb: &str) -> Result<Api<'_>, Failure> {
        let login = self.admin.credential().await?;
        Api::new(&self.spec, login, self.deadlines, self.doing(verb)).await
    }

    fn render<'a>(&'a self, request: PublishRequest<'a>) -> Result<Filled<'a>, Failure> {
        let secret = match &self.template {
            None => request.credential.value.duplicate(),
            Some(template) => template
                .render(&Values {
                    policy: request.policy,
                    version: request.version,
                    credential: request.credential,
                })
                .map_err(|error| {
                    Failure::new(FailureClass::Invalid, self.doing("write"), error)
                        .with_remedy("correct `content` in the policy")
                })?,
        };
        let beside = match &self.spec.credential {
            JenkinsCredential::UsernamePassword(_) => Some(request.credential.principal.as_str()),
            JenkinsCredential::SecretText(_) => None,
            JenkinsCredential::File(file) => Some(file.name.as_str()),
        };
        Ok(Filled { beside, secret })
    }

    /// The mark and the text around it.
    fn described(&self, shown: &Shown, doing: &str) -> Result<Description, Failure> {
        Description::parse(&shown.description).map_err(|_| {
            Failure::new(FailureClass::Invalid, doing, "the mark in its description cannot be read")
                .with_remedy("take it out of the description, and set `adopt: true` once")
        })
    }

    /// What is there that a version may be written over; `None` when there is nothing to do.
    fn judge(
        &self,
        shown: Option<&Shown>,
        request: PublishRequest<'_>,
        filled: &Filled<'_>,
        doing: &str,
    ) -> Result<Option<Over>, Failure> {
        let description = self.foreign(shown, request.policy, doing)?;
        let Some(shown) = shown else {
            let scope = ("scope".to_owned(), self.spec.scope.as_str().to_owned());
            let text = Description { text: String::new(), mark: None };
            return Ok(Some(Over { is_there: false, text, kept: vec![scope] }));
        };
        if let Some(mark) = &description.mark
            && mark.stands(request.policy, request.version, doing, PLACE)?
            && shown.has_beside(filled.beside)
        {
            return Ok(None);
        }
        Ok(Some(Over { is_there: true, text: description, kept: shown.kept.clone() }))
    }

    /// Whether what is there is the policy's to write.
    fn foreign(
        &self,
        shown: Option<&Shown>,
        policy: &PolicyName,
        doing: &str,
    ) -> Result<Description, Failure> {
        let invalid = |reason: String, remedy: &'static str| {
            Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy))
        };
        let Some(shown) = shown else {
            if self.spec.create {
                return Ok(Description { text: String::new(), mark: None });
            }
            return invalid(
                "there is none, and the policy does not let rekeyd make it".into(),
                "make it in Jenkins with `adopt: true` in the policy, or take out `create: false`",
            );
        };
        let description = self.described(shown, doing)?;
        match &description.mark {
            Some(mark) => mark.is_of(policy, doing, PLACE)?,
            None if self.spec.adopt => {}
            None => {
                return Err(Failure::new(FailureClass::Conflict, doing, "rekeyd did not write it").with_remedy(
                    "set `adopt: true` to take it over, or delete it; where Configuration as Code writes it back, \
                     take it out there",
                ));
            }
        }
        if shown.kind != Some(self.kind) {
            let kind = shown.kind.map_or("of another kind", Kind::as_str);
            return invalid(
                format!("it is {kind}, and the policy says {}", self.kind.as_str()),
                "correct `credential` in the policy, or delete the credential",
            );
        }
        if let Some(unknown) = &shown.unknown {
            return invalid(
                format!("it holds {unknown}, which a write would lose"),
                "remove that from the credential, or let rekeyd have one of its own",
            );
        }
        Ok(description)
    }

    /// Writes, and looks at what came of it.
    ///
    /// Dying in between: mark and secret are there both, or neither is.
    async fn write(
        &self,
        api: &Api<'_>,
        request: PublishRequest<'_>,
        filled: &Filled<'_>,
        before: Option<&Shown>,
        over: &Over,
    ) -> Result<bool, Failure> {
        let mark = Mark { policy: request.policy.clone(), version: request.version };
        let draft = Draft {
            kind: self.kind,
            id: &self.spec.id,
            description: &over.text.under(&mark),
            beside: filled.beside,
            kept: &over.kept,
            secret: &filled.secret,
        };
        let document = draft.write().map_err(|_| {
            let reason = "the value holds a character that XML has no place for";
            Failure::new(FailureClass::Invalid, api.doing(), reason)
                .with_remedy("use an alphabet of text characters, or a credential of kind `file`")
        })?;
        if over.is_there {
            api.update(&document).await?;
            between!("jenkins.credential.updated");
        } else {
            if api.create(&document).await? == Made::Already {
                return Ok(false);
            }
            between!("jenkins.credential.created");
        }
        let after = api.shown().await.map_err(|failure| {
            let reason = format!("it cannot be read back: {}", failure.reason());
            failure.with_reason(reason).reclassified(FailureClass::Ambiguous)
        })?;
        let description = match &after {
            Some(after) => self.described(after, api.doing())?,
            None => Description { text: String::new(), mark: None },
        };
        if let Some(held) = &description.mark
            && held.stands(request.policy, request.version, api.doing(), PLACE)?
            && after.as_ref().is_some_and(|after| after.has_beside(filled.beside))
        {
            return Ok(true);
        }
        if after.as_ref() != before {
            let reason = "somebody else changed it just now";
            return Err(Failure::new(FailureClass::Unavailable, api.doing(), reason));
        }
        Err(Failure::new(
            FailureClass::Invalid,
            api.doing(),
            "Jenkins answers that it is written, and has not changed it",
        )
        .with_remedy(
            "the store may be read-only, or the credential one of another provider: rotate it at its source, or let \
             rekeyd have a credential of its own",
        ))
    }
}

#[async_trait]
impl Consumer for JenkinsConsumer {
    fn label(&self) -> String {
        let host = self.spec.address().map_or_else(String::new, |url| {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path().trim_end_matches('/'))
        });
        let folder = self.spec.folders().fold(String::new(), |path, folder| path + folder + "/");
        format!("Jenkins credential {host}:{folder}{}", self.spec.id)
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        let filled = self.render(request)?;
        let api = self.api("write").await?;
        let shown = api.shown().await?;
        self.judge(shown.as_ref(), request, &filled, api.doing())?;
        Ok(Vec::new())
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let filled = self.render(request)?;
        let api = self.api("write").await?;
        for _ in 0..TRIES {
            let shown = api.shown().await?;
            let Some(over) = self.judge(shown.as_ref(), request, &filled, api.doing())? else {
                return Ok(Published::Already(None));
            };
            if self.write(&api, request, &filled, shown.as_ref(), &over).await? {
                return Ok(Published::Now);
            }
        }
        let reason = "Jenkins says that there is one already, and shows none";
        Err(Failure::new(FailureClass::Conflict, api.doing(), reason)
            .with_remedy("see whether the id is taken by a credential that the admin may not see"))
    }

    /// Builds ask when they begin.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let published = self.observe(request.policy).await?.published;
        if published >= request.version {
            return Ok(());
        }
        let reason = format!("it holds {published}, not {}", request.version);
        Err(Failure::new(FailureClass::Unavailable, self.doing("have builds use"), reason))
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        let published = self.observe(request.policy).await?.published;
        Ok(match published >= request.version {
            true => Reach::Moved,
            false => Reach::Moving(format!("{} does not hold {} any more", self.label(), request.version)),
        })
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        let api = self.api("read").await?;
        let Some(shown) = api.shown().await? else { return Ok(Observed::default()) };
        let Some(mark) = self.described(&shown, api.doing())?.mark else { return Ok(Observed::default()) };
        mark.is_of(policy, api.doing(), PLACE)?;
        Ok(Observed { published: mark.version, reloaded: mark.version })
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        preflight::preflight(self, policy).await
    }
}

/// What one holds, in words.
fn holds(version: Option<Version>) -> String {
    version.map_or_else(
        || "it was not written by rekeyd, and will be taken over".into(),
        |v| format!("it holds {v}"),
    )
}
