//! What a node needs, from what was seen there.
//!
//! Nothing is changed here; logins may be tried.

use super::ClickhouseTarget;
use super::api::Api;
use super::marker::Standing;
use super::pair::{self, Model};
use super::seen::{Seen, User};
use super::sessions;
use super::sql::ident;
use crate::failure::{Failure, FailureClass};
use crate::ident::{Fence, Principal};
use crate::policy::spec::ClickhouseNode;
use crate::secret::{Credential, SecretValue};
use crate::target::marker::State;
use crate::target::{Attempt, Extent, InstallRequest, Occupancy, RetireRequest};

/// What the engine asks for.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    Install(&'a InstallRequest<'a>),
    Retire(&'a RetireRequest<'a>),
}

/// One node, as it was read.
pub(super) struct Case<'a> {
    pub(super) target: &'a ClickhouseTarget,
    pub(super) node: &'a ClickhouseNode,
    pub(super) api: &'a Api,
    pub(super) seen: &'a Seen,
    pub(super) doing: &'a str,
}

/// What is to be done at a node.
pub(super) enum Decision<'a> {
    Superseded(Fence),
    Do { change: Option<Change<'a>>, ends: bool },
}

/// A change of a user.
pub(super) struct Change<'a> {
    /// What its marker says afterwards.
    pub(super) state: State,
    pub(super) values: Values<'a>,
    /// What it is made anew like, with another id.
    pub(super) model: Option<Model>,
}

/// Which values let in.
pub(super) enum Values<'a> {
    /// Those that do.
    Kept,
    /// These alone.
    Exactly(Vec<&'a SecretValue>),
    /// This one too.
    Added(&'a SecretValue),
}

impl<'a> Asked<'a> {
    pub(super) const fn attempt(&self) -> &'a Attempt<'a> {
        match self {
            Self::Install(request) => &request.attempt,
            Self::Retire(request) => &request.attempt,
        }
    }

    pub(super) const fn user(&self) -> &'a Principal {
        match self {
            Self::Install(request) => &request.candidate.principal,
            Self::Retire(request) => request.principal,
        }
    }

    pub(super) const fn peer(&self) -> Option<&'a Principal> {
        match self {
            Self::Install(request) => request.peer,
            Self::Retire(_) => None,
        }
    }

    pub(super) const fn retires(&self) -> bool {
        matches!(self, Self::Retire(_))
    }

    pub(super) const fn verb(&self) -> &'static str {
        match self {
            Self::Install(_) => "install",
            Self::Retire(_) => "retire",
        }
    }

    pub(super) async fn decide(&self, case: &Case<'_>) -> Result<Decision<'a>, Failure> {
        if let Some(user) = &case.seen.user {
            user.check_storage(case.doing)?;
        }
        match self {
            Self::Install(request) if case.target.is_pair() => install_spare(case, request).await,
            Self::Install(request) => install_beside(case, request).await,
            Self::Retire(request) => retire(case, request).await,
        }
    }
}

impl<'a> Decision<'a> {
    const NOTHING: Self = Self::Do { change: None, ends: false };

    const fn change(state: State, values: Values<'a>, model: Option<Model>, ends: bool) -> Self {
        Self::Do { change: Some(Change { state, values, model }), ends }
    }
}

impl Case<'_> {
    fn standing(&self, attempt: &Attempt<'_>, user: &Principal) -> Result<Standing, Failure> {
        match &self.seen.user {
            Some(seen) => seen.entries.standing(attempt, user, self.node, self.doing),
            None => Ok(Standing::Open),
        }
    }

    async fn lets_in(&self, credential: &Credential) -> Result<bool, Failure> {
        self.target.lets_in(self.node, credential, self.doing).await
    }

    /// Whether a value is among the ways to log in. Nobody is asked where there is none left.
    async fn holds(&self, credential: &Credential, left: usize) -> Result<bool, Failure> {
        if left == 0 { Ok(false) } else { self.lets_in(credential).await }
    }
}

/// `None` where a later attempt holds the user; otherwise whether this one installed its value already.
const fn repeated(standing: &Standing, attempt: &Attempt<'_>) -> Result<bool, Fence> {
    match standing {
        Standing::Open | Standing::Claimed => Ok(false),
        Standing::Own(State::Installed) => Ok(true),
        // This attempt was given up; what arrives of it now is late.
        Standing::Own(_) => Err(attempt.fence),
        Standing::Later(by) => Err(*by),
    }
}

async fn install_spare<'a>(case: &Case<'_>, request: &InstallRequest<'a>) -> Result<Decision<'a>, Failure> {
    let user = &request.candidate.principal;
    let repeated = match repeated(&case.standing(&request.attempt, user)?, &request.attempt) {
        Ok(repeated) => repeated,
        Err(by) => return Ok(Decision::Superseded(by)),
    };
    let closes = request.occupancy == Occupancy::Close;
    let (model, whats) = pair::wanted(case.seen, user, request.peer, case.target.groups(), case.doing)?;
    let own = case.seen.user.as_ref();
    if let (Some(own), false) = (own, closes) {
        check_kinds(own, user, case.doing)?;
        if request.occupancy == Occupancy::Refuse && !repeated {
            let open = sessions::open(case.api, user, case.doing).await?;
            check_idle(&open, request.peer, case.doing)?;
            check_unused(own, request.peer.is_some(), case.node, user, case.doing)?;
        }
    }
    // With another id whoever is connected is out; of a repetition's own readers nobody is.
    let named = own.and_then(|own| own.named_by.first());
    let model = match (named, own) {
        _ if repeated => None,
        (Some(by), _) if !whats.is_empty() => {
            let reason = format!("it differs from its peer, and {by} names it: {}", whats.join("; "));
            return Err(Failure::new(FailureClass::Invalid, case.doing, reason)
                .with_remedy(format!("make the two equal by hand, or let {by} name a role that both have")));
        }
        (Some(_), _) => None,
        (None, None) => Some(model),
        (None, Some(_)) => (closes || !whats.is_empty()).then_some(model),
    };
    if repeated && own.is_some_and(|own| own.open_ways() == 1) && case.lets_in(request.candidate).await? {
        return Ok(Decision::Do { change: None, ends: closes });
    }
    let values = Values::Exactly(vec![&request.candidate.value]);
    Ok(Decision::change(State::Installed, values, model, closes))
}

async fn install_beside<'a>(case: &Case<'_>, request: &InstallRequest<'a>) -> Result<Decision<'a>, Failure> {
    let user = &request.candidate.principal;
    let own = case.seen.user.as_ref().ok_or_else(|| missing(user, case.doing))?;
    let repeated = match repeated(&case.standing(&request.attempt, user)?, &request.attempt) {
        Ok(repeated) => repeated,
        Err(by) => return Ok(Decision::Superseded(by)),
    };
    let closes = request.occupancy == Occupancy::Close;
    if !closes {
        check_kinds(own, user, case.doing)?;
    }
    // The one beside is kept and never added: a repetition must not revive what was retired meanwhile.
    let mut left = own.open_ways();
    let beside = request.beside.filter(|beside| beside.value != request.candidate.value);
    let kept = match beside {
        Some(beside) if case.holds(beside, left).await? => Some(beside),
        _ => None,
    };
    left -= usize::from(kept.is_some());
    let is_in = case.holds(request.candidate, left).await?;
    let strangers = left - usize::from(is_in);
    if strangers > 0 && request.occupancy == Occupancy::Refuse && !repeated {
        return Err(strange(strangers, request.beside.is_some(), case.node, user, case.doing));
    }
    let candidate = &request.candidate.value;
    let values = match (is_in, strangers) {
        (true, 0) => Values::Kept,
        (true, _) if !closes => Values::Kept,
        (false, 1..) if !closes => Values::Added(candidate),
        _ => {
            let all = std::iter::once(candidate).chain(kept.map(|beside| &beside.value));
            Values::Exactly(all.collect())
        }
    };
    if repeated && matches!(values, Values::Kept) {
        return Ok(Decision::NOTHING);
    }
    Ok(Decision::change(State::Installed, values, None, false))
}

async fn retire<'a>(case: &Case<'_>, request: &RetireRequest<'a>) -> Result<Decision<'a>, Failure> {
    let (user, is_pair) = (request.principal, case.target.is_pair());
    let own = case.seen.user.as_ref();
    // Only what would lose something by it is made anew.
    let anew = |own: &User| (is_pair && own.named_by.is_empty()).then(|| Model::of(own));
    let closed = |own: &User| own.open_ways() == 0;
    match (request.extent, own) {
        (Extent::SessionsBefore(_), _) => Err(invalid(
            case,
            "a query does not tell which value it logged in with, and none was replaced in place",
        )),
        (Extent::OtherValues, _) if is_pair => Err(invalid(case, "a user of a pair has one value at a time")),
        (Extent::Disabled, _) => Ok(Decision::NOTHING),
        // Who is not there is let in by nothing; but a late install makes a spare.
        (Extent::Attempt, None) if is_pair => {
            Ok(Decision::change(State::Withdrawn, Values::Exactly(Vec::new()), None, false))
        }
        (_, None) => Ok(Decision::NOTHING),
        (Extent::Attempt, Some(own)) => {
            let standing = match own.entries.foreign(request.attempt.policy) {
                Some(_) => return Ok(Decision::NOTHING),
                None => case.standing(&request.attempt, user)?,
            };
            match standing {
                Standing::Open | Standing::Claimed => {
                    Ok(Decision::change(State::Withdrawn, Values::Kept, None, false))
                }
                Standing::Own(State::Installed) if is_pair => {
                    Ok(Decision::change(State::Withdrawn, Values::Exactly(Vec::new()), anew(own), true))
                }
                Standing::Own(State::Installed) => {
                    let mut kept = Vec::new();
                    if let Some(beside) = request.beside
                        && case.holds(beside, own.open_ways()).await?
                    {
                        kept.push(&beside.value);
                    }
                    Ok(Decision::change(State::Withdrawn, Values::Exactly(kept), None, false))
                }
                // The process may have died before it ended the queries.
                Standing::Own(State::Withdrawn) => {
                    Ok(Decision::Do { change: None, ends: is_pair && closed(own) })
                }
                Standing::Own(State::Retired) | Standing::Later(_) => Ok(Decision::NOTHING),
            }
        }
        (Extent::Principal | Extent::OtherValues, Some(own)) => {
            let standing = case.standing(&request.attempt, user)?;
            if let Standing::Later(by) = standing {
                return Ok(Decision::Superseded(by));
            }
            if request.extent == Extent::Principal {
                let is_done = standing == Standing::Own(State::Retired) && closed(own);
                let change = (!is_done).then(|| Change {
                    state: State::Retired,
                    values: Values::Exactly(Vec::new()),
                    model: anew(own),
                });
                return Ok(Decision::Do { change, ends: true });
            }
            let Some(beside) = request.beside else {
                return Err(invalid(case, "there is no value that is to stay"));
            };
            // The attempt's install may be repeated, and is right.
            let state = match standing {
                Standing::Own(state) => state,
                _ => State::Installed,
            };
            let is_done =
                standing == Standing::Own(state) && own.open_ways() == 1 && case.lets_in(beside).await?;
            let values = Values::Exactly(vec![&beside.value]);
            let change = (!is_done).then_some(Change { state, values, model: None });
            Ok(Decision::Do { change, ends: true })
        }
    }
}

fn invalid(case: &Case<'_>, reason: &str) -> Failure {
    Failure::new(FailureClass::Invalid, case.doing, reason)
}

/// Whether the user has no ways to log in but with values that can be hashed anew.
pub(super) fn check_kinds(own: &User, user: &Principal, doing: &str) -> Result<(), Failure> {
    let other = own
        .ways
        .iter()
        .filter(|way| !way.is_over)
        .find(|way| !matches!(&*way.kind, "sha256_password" | "plaintext_password" | "bcrypt_password"));
    let Some(way) = other else { return Ok(()) };
    let user = ident(user.as_str());
    let (reason, remedy) = match &*way.kind {
        "no_password" | "no_authentication" => (
            "the user is let in without a value".to_owned(),
            format!(
                "give it one that its readers have: ALTER USER {user} IDENTIFIED BY ..., then `rekeyd adopt`"
            ),
        ),
        kind => (
            format!("the user has a way to log in that rekeyd does not keep: {kind}"),
            format!(
                "give its readers a user of their own, and take it out: ALTER USER {user} IDENTIFIED WITH ..."
            ),
        ),
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

/// Whether nobody uses the user. Without a peer it was never rotated, so whoever uses it has the live value.
pub(super) fn check_idle(
    open: &[sessions::Running],
    peer: Option<&Principal>,
    doing: &str,
) -> Result<(), Failure> {
    if open.is_empty() {
        return Ok(());
    }
    let mut clients: Vec<&str> = open.iter().map(|running| running.session.client.as_str()).collect();
    clients.sort_unstable();
    clients.dedup();
    clients.truncate(5);
    let plural = if open.len() == 1 { "y" } else { "ies" };
    let reason =
        format!("it should be idle and has {} running quer{plural} from {}", open.len(), clients.join(", "));
    let remedy = match peer {
        Some(_) => "move these clients to the current credential; a containment ends their queries",
        None => "take their value over with `rekeyd adopt`, or move them to another user",
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

/// Whether nothing lets a user of a pair in that rekeyd does not know: whoever uses it need not be at it at this moment.
pub(super) fn check_unused(
    own: &User,
    has_outgoing: bool,
    node: &ClickhouseNode,
    user: &Principal,
    doing: &str,
) -> Result<(), Failure> {
    match own.open_ways() {
        strangers @ 1.. if !own.entries.vouch() => Err(strange(strangers, has_outgoing, node, user, doing)),
        _ => Ok(()),
    }
}

pub(super) fn strange(
    strangers: usize,
    has_outgoing: bool,
    node: &ClickhouseNode,
    user: &Principal,
    doing: &str,
) -> Failure {
    let reason = match strangers {
        1 => "it has a way to log in that rekeyd does not know".to_owned(),
        count => format!("it has {count} ways to log in that rekeyd does not know"),
    };
    let remedy = if has_outgoing {
        format!("find out who uses it, and see SHOW CREATE USER on {node}; a containment takes it out")
    } else {
        format!(
            "take it over with `rekeyd adopt`, or end it on {node}: ALTER USER {} VALID UNTIL '2000-01-01 00:00:00'",
            ident(user.as_str())
        )
    };
    Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy)
}

pub(super) fn missing(user: &Principal, doing: &str) -> Failure {
    Failure::new(FailureClass::Invalid, doing, "the user does not exist").with_remedy(format!(
        "CREATE USER {} IDENTIFIED BY '...' VALID UNTIL '2000-01-01 00:00:00', with what it may do",
        ident(user.as_str())
    ))
}
