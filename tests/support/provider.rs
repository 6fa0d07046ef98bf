//! A provider that makes keys, as clouds do: two for each owner, each shown once, disabled before it is deleted.
//! It is a part of the server that behaves, so that whoever watches that sees its keys, too.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rekeyd::failure::{Failure, FailureClass, Finding};
use rekeyd::ident::{PolicyName, Principal, RotationId};
use rekeyd::policy::spec::Interval;
use rekeyd::secret::{Credential, SecretValue, ValueSpec};
use rekeyd::target::{
    Extent, Key, LastUse, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired,
    Tag, Target, Usage,
};

use super::database::Database;

/// Keys for each owner, as many as there may be.
const QUOTA: usize = 2;

/// The keys of a server.
#[derive(Default)]
pub(crate) struct Keyring {
    keys: Vec<Made>,
    made: u64,
}

struct Made {
    id: Principal,
    owner: Principal,
    value: SecretValue,
    at: Timestamp,
    tag: Option<Tag>,
    disabled: bool,
    used: Option<Timestamp>,
}

/// The server as a provider of keys.
pub(crate) struct Provider(pub(crate) Arc<Database>);

impl Keyring {
    pub(super) fn accepts(&self, credential: &Credential) -> bool {
        self.keys.iter().any(|key| key.is(credential) && !key.disabled)
    }

    /// What calls on behalf of an owner work with.
    pub(super) fn live(&self, owner: &Principal) -> Vec<Credential> {
        let keys = self.keys.iter().filter(|key| key.owner == *owner && !key.disabled);
        keys.map(|key| Credential::new(key.id.clone(), key.value.duplicate())).collect()
    }

    fn make(&mut self, owner: &Principal, at: Timestamp, tag: Option<Tag>) -> Credential {
        self.made += 1;
        let id: Principal = format!("KEY{:04}", self.made).parse().expect("a principal");
        let value = ValueSpec::default().generate();
        let credential = Credential::new(id.clone(), value.duplicate());
        self.keys.push(Made { id, owner: owner.clone(), value, at, tag, disabled: false, used: None });
        credential
    }
}

impl Made {
    fn is(&self, credential: &Credential) -> bool {
        self.id == credential.principal && self.value == credential.value
    }
}

impl Database {
    /// Somebody makes a key by hand.
    pub(crate) fn make_key(&self, owner: &Principal) -> Credential {
        let mut state = self.state();
        let at = state.tick(&*self.clock);
        state.keys.make(owner, at, None)
    }

    /// An earlier rotation of a policy of this name has a key made, in an installation that a test does not see.
    pub(crate) fn make_key_elsewhere(&self, owner: &Principal, policy: &PolicyName) -> Credential {
        let mut state = self.state();
        let at = state.tick(&*self.clock);
        let tag = Tag { policy: Some(policy.clone()), rotation: RotationId::generate() };
        state.keys.make(owner, at, Some(tag))
    }

    /// Somebody deletes a key by hand.
    pub(crate) fn delete_key(&self, id: &Principal) {
        self.state().keys.keys.retain(|key| key.id != *id);
    }

    /// The ids of an owner's keys.
    pub(crate) fn key_ids(&self, owner: &Principal) -> Vec<Principal> {
        let state = self.state();
        state.keys.keys.iter().filter(|key| key.owner == *owner).map(|key| key.id.clone()).collect()
    }

    /// Whether a call was ever made with a key.
    pub(crate) fn was_used(&self, credential: &Credential) -> bool {
        self.state().keys.keys.iter().any(|key| key.is(credential) && key.used.is_some())
    }
}

fn failure(class: FailureClass, doing: &str, id: &Principal, reason: impl std::fmt::Display) -> Failure {
    Failure::new(class, format!("{doing} {id} at the provider"), reason)
}

#[async_trait]
impl Target for Provider {
    async fn keys(&self, owner: &Principal) -> Result<Vec<Key>, Failure> {
        let state = self.0.state();
        let own = state.keys.keys.iter().filter(|key| key.owner == *owner);
        let tell = |key: &Made| Key {
            id: key.id.clone(),
            made_at: Some(key.at),
            used: Some(key.used.is_some()),
            tag: key.tag.clone(),
        };
        Ok(own.map(tell).collect())
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        let mut state = self.0.state();
        if state.knobs.powerless {
            return Err(failure(FailureClass::Denied, "make a key of", request.owner, "it is not allowed"));
        }
        let there: Vec<_> = state.keys.keys.iter().filter(|key| key.owner == *request.owner).collect();
        if there.len() >= QUOTA {
            let ids: Vec<_> = there.iter().map(|key| key.id.to_string()).collect();
            let reason = format!("it has {} keys already: {}", there.len(), ids.join(", "));
            return Err(failure(FailureClass::Conflict, "make a key of", request.owner, reason));
        }
        let is_short = state.knobs.life.zip(request.life).is_some_and(|(life, needed)| life < needed);
        let reason = "it would end too early";
        if is_short && !request.contains {
            return Err(failure(FailureClass::Invalid, "make a key of", request.owner, reason));
        }
        let at = state.tick(&*self.0.clock);
        let policy = Some(request.attempt.policy.clone());
        let tag = (!state.knobs.untagged).then_some(Tag { policy, rotation: request.attempt.rotation });
        let made = state.keys.make(request.owner, at, tag);
        Ok(if is_short { Minted::Short(made, reason.into()) } else { Minted::Made(made) })
    }

    fn lapse(&self) -> Option<Interval> {
        self.0.state().knobs.lapses.then(|| Interval::from_duration(std::time::Duration::from_secs(43_200)))
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        let mut state = self.0.state();
        let now = state.tick(&*self.0.clock);
        let Some(key) = state.keys.keys.iter_mut().find(|key| key.is(credential) && !key.disabled) else {
            return Probe::Refused;
        };
        key.used = Some(now);
        if depth == ProbeDepth::Check && state.knobs.unfit {
            let reason = "the check fails";
            return Probe::Unfit(failure(FailureClass::Invalid, "check", &credential.principal, reason));
        }
        Probe::Accepted
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let state = self.0.state();
        let used = state.keys.keys.iter().find(|key| key.id == *principal).and_then(|key| key.used);
        Ok(Usage { sessions: Vec::new(), last: used.map_or(LastUse::Never, LastUse::At) })
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        let mut state = self.0.state();
        if state.knobs.powerless {
            return Err(failure(FailureClass::Denied, "delete", request.principal, "it is not allowed"));
        }
        let done = Ok(Retired::Done { sessions_closed: 0 });
        if state.knobs.idle_retires > 0 {
            state.knobs.idle_retires -= 1;
            return done;
        }
        match request.extent {
            Extent::Principal => state.keys.keys.retain(|key| key.id != *request.principal),
            Extent::Disabled => {
                let key = state.keys.keys.iter_mut().find(|key| key.id == *request.principal);
                key.into_iter().for_each(|key| key.disabled = true);
            }
            Extent::Attempt | Extent::OtherValues | Extent::SessionsBefore(_) => {
                let reason = "a key has one value and no sessions";
                return Err(failure(FailureClass::Invalid, "retire", request.principal, reason));
            }
        }
        done
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        let mut findings = vec![Finding::pass("provider", "keys can be made")];
        if let Some(current) = request.current {
            let subject = "current credential";
            findings.push(match self.probe(current, ProbeDepth::Login).await {
                Probe::Refused => Finding::fail(subject, "it is refused", "make one by hand"),
                _ => Finding::pass(subject, "it is let in"),
            });
        }
        findings
    }
}
