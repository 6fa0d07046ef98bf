//! What an OpenBao or a Vault makes: secret ids of an AppRole, and tokens.
//!
//! rekeyd logs in there as it does for the store that the policy names. A key's public id is its accessor, which
//! lets nobody in. What is made carries, in its metadata, the policy and the rotation that it was made for, and a
//! random text that no other has: a token that is got with a secret id inherits them, which is how it is found
//! when its secret id is dead (see [`derived`]).
//!
//! # Deaths
//!
//! | dies | what is left | who finds it |
//! |---|---|---|
//! | after the server made a key, before its value is kept | a key that nobody has the value of | whoever asks next, by its tag |
//! | after a secret id was destroyed, before its tokens were revoked | tokens without a secret id | the next try: they name a secret id that is not there any more |
//! | between a probe's login and the end of its token | a token that nobody has | its own end |
//!
//! Neither a secret id nor a token can be disabled for a while. The server locks a role for some minutes after
//! several refused logins in a row: a probe is refused once, where a value is proven dead, and a lock is no refusal.
//!
//! Tested on OpenBao 2.7; the texts that are told apart are those of Vault 1.x, too.

mod derived;
mod limits;
mod login;
mod preflight;
mod secret_id;
mod tag;
mod token;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Key, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired, Target, Usage,
};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::Principal;
use crate::policy::spec::{VaultSpec, VaultStrategy};
use crate::secret::Credential;
use crate::settings::VaultSettings;
use crate::target::Extent;
use crate::vault::{Call, Effect, Session, Trouble};

/// How many calls of one kind are under way at a time, where there is one for each key or token.
const AT_A_TIME: usize = 8;

/// How old a token is at least before rekeyd looks at it by its accessor: see [`derived`].
const OF_AGE: Duration = Duration::from_secs(2);

/// Keys of one owner at an OpenBao or a Vault.
pub struct VaultTarget {
    spec: VaultSpec,
    session: Arc<Session>,
    of_age: Duration,
}

impl VaultTarget {
    /// A target with a session of its own.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub fn open(spec: VaultSpec, settings: &VaultSettings) -> Result<Self, Failure> {
        Ok(Self::new(spec, Session::open(settings)?))
    }

    pub(crate) const fn new(spec: VaultSpec, session: Arc<Session>) -> Self {
        Self { spec, session, of_age: OF_AGE }
    }

    /// For a server where nobody makes tokens meanwhile: they are looked at without a delay.
    #[must_use]
    pub const fn alone(mut self) -> Self {
        self.of_age = Duration::ZERO;
        self
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str, object: impl std::fmt::Display) -> String {
        format!("{verb} {object} at {}", self.session.label())
    }

    /// A call that did not succeed, as a failure.
    fn failed(
        &self,
        trouble: Trouble,
        doing: String,
        path: String,
        needs: &'static str,
        effect: Effect,
    ) -> Failure {
        trouble.into_failure(Call { doing, path, needs, effect })
    }
}

#[async_trait]
impl Target for VaultTarget {
    async fn keys(&self, owner: &Principal) -> Result<Vec<Key>, Failure> {
        match &self.spec.strategy {
            VaultStrategy::SecretId(secret) => secret_id::keys(self, secret, owner).await,
            VaultStrategy::Token(_) => token::keys(self, owner).await,
        }
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        match &self.spec.strategy {
            VaultStrategy::SecretId(secret) => secret_id::mint(self, secret, &request).await,
            VaultStrategy::Token(token) => token::mint(self, token, &request).await,
        }
    }

    async fn probe(&self, credential: &Credential, _: ProbeDepth) -> Probe {
        match &self.spec.strategy {
            VaultStrategy::SecretId(secret) => secret_id::probe(self, secret, credential).await,
            VaultStrategy::Token(_) => token::probe(self, credential).await,
        }
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        match &self.spec.strategy {
            VaultStrategy::SecretId(secret) => derived::usage(self, secret, principal).await,
            VaultStrategy::Token(_) => Ok(token::usage()),
        }
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        match request.extent {
            Extent::Principal => {}
            // There is no such state.
            Extent::Disabled => return Ok(Retired::Done { sessions_closed: 0 }),
            Extent::Attempt | Extent::OtherValues | Extent::SessionsBefore(_) => {
                let reason = "a key has one value, and goes as a whole";
                let doing = self.doing("retire", request.principal);
                return Err(Failure::new(FailureClass::Invalid, doing, reason));
            }
        }
        match &self.spec.strategy {
            VaultStrategy::SecretId(secret) => secret_id::retire(self, secret, &request).await,
            VaultStrategy::Token(_) => token::retire(self, request.principal).await,
        }
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }

    async fn preflight_life(&self, needed: Option<Duration>) -> Vec<Finding> {
        limits::preflight(self, needed).await
    }
}
