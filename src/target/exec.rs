//! A program of others as a target: a plug-in, asked in JSON as `docs/exec-plugin.md` says.
//!
//! # What runs
//!
//! The content that the policy pins by its SHA-256, and no other. The file is opened once, read, held against the sum
//! and copied into memory that is sealed before it is started from there ([`program`]): who may exchange or overwrite
//! the file gains nothing. The program starts without a shell, with fixed arguments, an empty environment and `/` as
//! its folder; the request and every value in it go through its standard input. It is started anew for each call, and
//! all that it started is killed at the deadline.
//!
//! # What is believed
//!
//! One JSON document of the protocol and a successful exit, nothing less: otherwise a change is `Ambiguous`, and what
//! only reads is `Unavailable`. A value counts as refused on `{"result": "refused"}` alone. No text of the program
//! is passed on, since it could hold a value: a failure is told by its class and a code of a few plain letters, and
//! not by that where it holds a value of the request.
//!
//! If this process dies, the program reads the end of its input, or goes on and does what it was asked: that is the
//! lost answer which its system's marker, or a probe, is there for.

mod answer;
mod call;
mod program;
mod request;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::answer::{
    Installing, Listing, Minting, Preflighting, Probing, Retiring, Told, Unanswered, UsageTold, read,
};
use self::call::Trouble;
use self::request::{Request, Verb};
use super::{
    AdminCredential, Extent, InstallRequest, Installed, Key, MintRequest, Minted, PreflightRequest, Probe,
    ProbeDepth, RetireRequest, Retired, Target, Usage,
};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::Principal;
use crate::policy::spec::{ExecSpec, ExecStrategy};
use crate::secret::{Credential, SecretValue};

/// A program, and what a policy says for it.
pub struct ExecTarget {
    spec: ExecSpec,
    admin: Option<Arc<dyn AdminCredential>>,
}

impl ExecTarget {
    /// `admin` yields the credential that the policy names. Whether the program may be run, and be handed that, is for
    /// the caller to know.
    #[must_use]
    pub fn new(spec: ExecSpec, admin: Option<Arc<dyn AdminCredential>>) -> Self {
        Self { spec, admin }
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: Verb, principal: &Principal) -> String {
        let verb = match verb {
            Verb::Mint => "make a key of",
            Verb::Install => "install",
            Verb::Probe => "tell whether a value is accepted of",
            Verb::Usage => "see who uses",
            Verb::Retire => "retire",
            Verb::Keys => "list the keys of",
            Verb::Preflight => "look at",
        };
        format!("{verb} {principal} through plug-in {}", self.spec)
    }

    async fn admin(&self) -> Result<Option<Credential>, Failure> {
        match &self.admin {
            Some(admin) => Ok(Some(admin.credential().await?)),
            None => Ok(None),
        }
    }

    /// Runs the program for one request. `secrets` are the values in it.
    async fn ask<R: serde::de::DeserializeOwned>(
        &self,
        request: &Request<'_>,
        secrets: &[&SecretValue],
        doing: &str,
    ) -> Result<R, Failure> {
        let verb = request.verb;
        let bytes = request.bytes().map_err(|reason| Failure::new(FailureClass::Invalid, doing, reason))?;
        let reason = match call::call(&self.spec, bytes).await {
            Ok(answer) => match read::<R>(&answer) {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(told)) => return Err(Self::told(&told, verb, secrets, doing)),
                Err(unanswered) => unanswered,
            },
            // Nothing ran.
            Err(Trouble::Unstarted { class, reason, remedy }) => {
                return Err(Failure::new(class, doing, reason).with_remedy(remedy));
            }
            Err(Trouble::Unanswered(reason)) => reason,
        };
        Err(Self::unanswered(verb, &reason, doing))
    }

    fn unanswered(verb: Verb, reason: &Unanswered, doing: &str) -> Failure {
        Failure::new(verb.unknown(), doing, reason).with_remedy("run the plug-in by hand to see why")
    }

    fn told(told: &Told, verb: Verb, secrets: &[&SecretValue], doing: &str) -> Failure {
        let class = match (verb, told.class) {
            // Nothing was changed by what only reads, and a value is refused by a probe's result alone.
            (_, FailureClass::Refused | FailureClass::Ambiguous) if !verb.changes() => verb.unknown(),
            // There was no value to refuse.
            (Verb::Retire, FailureClass::Refused) => verb.unknown(),
            (_, class) => class,
        };
        let failure = Failure::new(class, doing, format_args!("the plug-in says {}", told.words(secrets)));
        failure.with_remedy("look the word up in the plug-in's documentation")
    }

    fn by_hand(&self, code: &answer::Code, secrets: &[&SecretValue]) -> String {
        format!("the plug-in {} waits for a person: {}", self.spec, code.words(secrets))
    }
}

/// The values that a request holds, of those that there may be.
fn values<'a>(credentials: &[Option<&'a Credential>]) -> Vec<&'a SecretValue> {
    credentials.iter().flatten().map(|credential| &credential.value).collect()
}

#[async_trait]
impl Target for ExecTarget {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let doing = self.doing(Verb::Install, &request.candidate.principal);
        let admin = self.admin().await?;
        let secrets = values(&[Some(request.candidate), request.beside, admin.as_ref()]);
        let asked = Request::install(&self.spec, admin.as_ref(), &request);
        match self.ask(&asked, &secrets, &doing).await? {
            Installing::Done { at } => Ok(Installed::Done { at }),
            Installing::Superseded { by } if by >= request.attempt.fence => Ok(Installed::Superseded { by }),
            Installing::Superseded { .. } => {
                Err(Self::unanswered(Verb::Install, &Unanswered::OlderFence, &doing))
            }
        }
    }

    async fn keys(&self, owner: &Principal) -> Result<Vec<Key>, Failure> {
        let doing = self.doing(Verb::Keys, owner);
        let admin = self.admin().await?;
        let asked = Request::keys(&self.spec, admin.as_ref(), owner);
        let secrets = values(&[admin.as_ref()]);
        let listing: Listing = self.ask(&asked, &secrets, &doing).await?;
        let keys = listing.into_keys();
        // Ids stand in records and logs.
        if keys.iter().any(|key| secrets.iter().any(|secret| secret.occurs_in(key.id.as_str()))) {
            let failure =
                Failure::new(FailureClass::Unavailable, doing, "the plug-in calls a key by a value");
            return Err(failure.with_remedy("have it give keys ids of their own"));
        }
        Ok(keys)
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        let doing = self.doing(Verb::Mint, request.owner);
        let admin = self.admin().await?;
        let secrets = values(&[request.outgoing, admin.as_ref()]);
        let asked = Request::mint(&self.spec, admin.as_ref(), &request);
        match self.ask(&asked, &secrets, &doing).await? {
            Minting::Made { principal, value } => {
                let made = Credential::new(principal, SecretValue::new(value.into_bytes()));
                // The id stands in records.
                let shown = |value: &SecretValue| value.occurs_in(made.principal.as_str());
                let shows = shown(&made.value) || secrets.iter().any(|secret| shown(secret));
                if made.value.is_empty() || shows {
                    return Err(Self::unanswered(Verb::Mint, &Unanswered::NoKey, &doing));
                }
                Ok(Minted::Made(made))
            }
            // Asked again and again, it makes the key once the person has done that.
            Minting::Awaited { code } => Ok(Minted::Awaited(self.by_hand(&code, &secrets))),
        }
    }

    fn settling(&self) -> Duration {
        self.spec.settling.as_duration()
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        let doing = self.doing(Verb::Probe, &credential.principal);
        // Many need none for it: an admin that cannot be read is no reason not to ask.
        let admin = self.admin().await.ok().flatten();
        let secrets = values(&[Some(credential), admin.as_ref()]);
        let asked = Request::probe(&self.spec, admin.as_ref(), credential, depth);
        match self.ask(&asked, &secrets, &doing).await {
            Ok(Probing::Accepted) => Probe::Accepted,
            Ok(Probing::Refused) => Probe::Refused,
            Ok(Probing::Unfit { code }) => Probe::Unfit(
                Failure::new(
                    FailureClass::Denied,
                    doing,
                    format_args!(
                        "the value is accepted, and what has to work with it does not: {}",
                        code.words(&secrets)
                    ),
                )
                .with_remedy("look the word up in the plug-in's documentation"),
            ),
            Err(failure) => Probe::Unknown(failure),
        }
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let doing = self.doing(Verb::Usage, principal);
        let admin = self.admin().await?;
        let secrets = values(&[admin.as_ref()]);
        let asked = Request::usage(&self.spec, admin.as_ref(), principal);
        let told: UsageTold = self.ask(&asked, &secrets, &doing).await?;
        Ok(told.into_usage(&secrets))
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        let doing = self.doing(Verb::Retire, request.principal);
        let replaces = matches!(self.spec.strategy, ExecStrategy::Reissued(_));
        let mut request = request;
        match (self.spec.strategy.mints(), request.extent) {
            // One id for all of its keys: the one beside it has it now, and killed the one before when it was made.
            (true, Extent::OtherValues | Extent::Disabled | Extent::Principal)
                if replaces
                    && request.beside.is_some_and(|beside| beside.principal == *request.principal) =>
            {
                return Ok(Retired::Done { sessions_closed: 0 });
            }
            // It is dead since its successor was made. That it is gone, too, is asked for as of any key.
            (true, Extent::OtherValues) if replaces => request.extent = Extent::Principal,
            (true, Extent::OtherValues | Extent::Attempt | Extent::SessionsBefore(_)) => {
                let reason = "a key has one value and no sessions";
                return Err(Failure::new(FailureClass::Invalid, doing, reason));
            }
            (false, Extent::Disabled) => return Ok(Retired::Done { sessions_closed: 0 }),
            _ => {}
        }
        let admin = self.admin().await?;
        let secrets = values(&[request.outgoing, request.beside, admin.as_ref()]);
        let asked = Request::retire(&self.spec, admin.as_ref(), &request);
        match self.ask(&asked, &secrets, &doing).await? {
            Retiring::Done { sessions_closed } => Ok(Retired::Done { sessions_closed }),
            Retiring::Awaited { code } => Ok(Retired::Awaited(self.by_hand(&code, &secrets))),
            Retiring::Superseded { by } if by >= request.attempt.fence => Ok(Retired::Superseded { by }),
            Retiring::Superseded { .. } => {
                Err(Self::unanswered(Verb::Retire, &Unanswered::OlderFence, &doing))
            }
        }
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        let subject = "plug-in";
        let doing = format!("look at what plug-in {} is for", self.spec);
        let admin = match self.admin().await {
            Ok(admin) => admin,
            Err(failure) => return vec![Finding::from_failure("admin credential", &failure)],
        };
        let secrets = values(&[request.current, admin.as_ref()]);
        let asked = Request::preflight(&self.spec, admin.as_ref(), &request);
        let mut findings: Vec<Finding> = match self.ask::<Preflighting>(&asked, &secrets, &doing).await {
            Ok(told) => {
                let runs =
                    Finding::pass(subject, format!("{} is what the policy pins, and answers", self.spec));
                std::iter::once(runs).chain(told.into_findings(&secrets)).collect()
            }
            Err(failure) => return vec![Finding::from_failure(subject, &failure)],
        };
        if let Some(current) = request.current {
            let subject = "current credential";
            findings.push(match self.probe(current, ProbeDepth::Login).await {
                Probe::Accepted => Finding::pass(subject, format!("{} is let in", current.principal)),
                Probe::Refused => Finding::fail(
                    subject,
                    format!("the value of {} that the store holds is refused", current.principal),
                    "bring in the one that is in force with `rekeyd adopt`",
                ),
                Probe::Unfit(failure) | Probe::Unknown(failure) => Finding::from_failure(subject, &failure),
            });
        }
        findings
    }
}
