//! Makes a user accept the candidate.

use crate::http::Method;

use super::api::Api;
use super::user::{Repair, Rights, User, body, hash};
use super::{RabbitmqTarget, sessions};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::{Fence, PolicyName, Principal};
use crate::secret::Credential;
use crate::target::marker::{Marker, Standing, State};
use crate::target::{InstallRequest, Installed, Occupancy};

pub(super) async fn install(
    target: &RabbitmqTarget,
    request: InstallRequest<'_>,
) -> Result<Installed, Failure> {
    let Credential { principal, value, .. } = request.candidate;
    let doing = target.doing("install", principal);
    if value.is_empty() || value.expose_str().is_err() {
        let reason = "RabbitMQ takes no value that is empty or not UTF-8";
        return Err(Failure::new(FailureClass::Refused, doing, reason));
    }
    let admin = target.admin.credential().await?;
    let api = Api::new(target, &admin, &doing).await?;
    check_not_admin(&admin, principal, &doing)?;
    let facts = Facts::read(&api, principal, request.peer, &doing).await?;
    let repeated = match facts.standing(&request) {
        Standing::Open => false,
        Standing::Own(State::Installed) => true,
        // This attempt was given up; what arrives of it now is late.
        Standing::Own(State::Withdrawn | State::Retired) => {
            return Ok(Installed::Superseded { by: request.attempt.fence });
        }
        Standing::Later(by) => return Ok(Installed::Superseded { by }),
        Standing::Foreign(policy) => return Err(foreign(principal, &policy, &doing)),
    };
    if request.occupancy == Occupancy::Refuse && !repeated {
        check_idle(&sessions::open(&api, principal, &doing).await?, request.peer, &doing)?;
        check_unused(facts.user.as_ref(), principal, request.peer, &doing)?;
    }
    between!("rabbitmq.install.read");
    let marker = Marker::new(&request.attempt, State::Installed);
    // A user is there before it can be given rights, and is let in only once it has all of them.
    if facts.user.is_none() {
        api.change(Method::PUT, &["users", principal.as_str()], Some(&body("", &[], &marker)), &doing)
            .await?;
    }
    for repair in facts.repairs(principal) {
        repair.perform(&api, &doing).await.map_err(|failure| {
            let reason = format!("{}: {}", repair.what, failure.reason());
            failure.with_reason(reason)
        })?;
    }
    between!("rabbitmq.install.repaired");
    let salt = salt()?;
    let wanted = body(&hash(value, salt), facts.tags(), &marker);
    let path = ["users", principal.as_str()];
    let answer = api.change(Method::PUT, &path, Some(&wanted), &doing).await?;
    between!("rabbitmq.install.changed");
    // Nothing holds a place between reading and writing: whoever wrote looks who was last.
    let unseen = |failure: Failure| failure.reclassified(FailureClass::Ambiguous);
    let now = User::read(&api, principal, &doing).await.map_err(unseen)?;
    let is_ours = now.as_ref().is_some_and(|user| user.takes(value) && user.marker.as_ref() == Some(&marker));
    if !is_ours {
        let marker = now.as_ref().and_then(|user| user.marker.as_ref());
        if let Standing::Later(by) = Marker::standing(marker, &request.attempt) {
            return Ok(Installed::Superseded { by });
        }
        let reason = "somebody else changed the user at the same time";
        return Err(Failure::new(FailureClass::Ambiguous, doing, reason)
            .with_remedy("find out who else changes it, and let one rekeyd alone rotate it"));
    }
    // Dying here leaves connections of an earlier value open; the repeated install ends them.
    if request.occupancy == Occupancy::Close {
        sessions::end(target, &api, principal, &doing).await?;
    }
    Ok(Installed::Done { at: answer.at.unwrap_or_else(|| SystemClock.now()) })
}

/// The candidate, and the user that it takes turns with.
pub(super) struct Facts {
    pub(super) user: Option<User>,
    rights: Rights,
    peer: Option<(User, Rights)>,
}

impl Facts {
    pub(super) async fn read(
        api: &Api<'_>,
        principal: &Principal,
        peer: Option<&Principal>,
        doing: &str,
    ) -> Result<Self, Failure> {
        let user = User::read(api, principal, doing).await?;
        let rights = match &user {
            Some(user) => Rights::read(api, principal, user, doing).await?,
            None => Rights::default(),
        };
        let peer = match peer {
            None => None,
            Some(peer) => match User::read(api, peer, doing).await? {
                Some(user) => {
                    let rights = Rights::read(api, peer, &user, doing).await?;
                    Some((user, rights))
                }
                None => {
                    let reason = format!("its peer {peer} does not exist");
                    return Err(Failure::new(FailureClass::Invalid, doing, reason)
                        .with_remedy("make it again, or adopt the user that readers have"));
                }
            },
        };
        Ok(Self { user, rights, peer })
    }

    fn standing(&self, request: &InstallRequest<'_>) -> Standing {
        Marker::standing(self.user.as_ref().and_then(|user| user.marker.as_ref()), &request.attempt)
    }

    pub(super) fn repairs(&self, user: &Principal) -> Vec<Repair> {
        self.peer.as_ref().map(|(_, rights)| self.rights.repairs(user, rights)).unwrap_or_default()
    }

    /// Whether whoever reads the value will be let in and may do nothing.
    pub(super) fn are_without_rights(&self) -> bool {
        self.peer.as_ref().map_or(&self.rights, |(_, rights)| rights).are_none()
    }

    /// The peer's tags; without one, those that it has.
    fn tags(&self) -> &[String] {
        let own = self.user.as_ref().map(|user| user.tags.as_slice()).unwrap_or_default();
        self.peer.as_ref().map_or(own, |(peer, _)| &peer.tags)
    }
}

fn salt() -> Result<[u8; 4], Failure> {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).map_err(|_| {
        Failure::new(FailureClass::Unavailable, "make a salt", "this machine gives no random bytes")
    })?;
    Ok(salt)
}

/// Whether nobody uses the user. Without a peer it was never rotated, so whoever uses it has the live value.
pub(super) fn check_idle(open: &[String], peer: Option<&Principal>, doing: &str) -> Result<(), Failure> {
    if open.is_empty() {
        return Ok(());
    }
    let plural = if open.len() == 1 { "" } else { "s" };
    let shown = open.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    let reason = format!("it should be idle and has {} open connection{plural}: {shown}", open.len());
    let remedy = match peer {
        Some(_) => "move these clients to the current credential; a containment ends their connections",
        None => "take their value over with `rekeyd adopt`, or move them to another user",
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

/// Whether no value that rekeyd does not know lets the user in: whoever uses it need not be connected at this moment.
pub(super) fn check_unused(
    user: Option<&User>,
    principal: &Principal,
    peer: Option<&Principal>,
    doing: &str,
) -> Result<(), Failure> {
    if user.is_none_or(|user| Marker::vouches(user.marker.as_ref()) || !user.has_hash) {
        return Ok(());
    }
    let reason = "it has a password that rekeyd does not know";
    let clear = format!("rabbitmqctl clear_password {principal}");
    let remedy = match peer {
        Some(_) => format!("find out who uses it; if nobody does: {clear}; a containment takes it, too"),
        None => format!(
            "take the value that its readers have over with `rekeyd adopt`; if nobody uses it: {clear}"
        ),
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

pub(super) fn check_not_admin(admin: &Credential, user: &Principal, doing: &str) -> Result<(), Failure> {
    if admin.principal != *user {
        return Ok(());
    }
    Err(Failure::new(FailureClass::Invalid, doing, "it is the user that rekeyd itself logs in as")
        .with_remedy("give rekeyd an admin of its own and rotate that under another admin"))
}

pub(super) fn foreign(user: &Principal, policy: &PolicyName, doing: &str) -> Failure {
    Failure::new(FailureClass::Conflict, doing, format!("policy {policy} holds the user")).with_remedy(format!(
        "let one policy alone rotate it; if {policy} no longer exists, set the user's tags without the marker: \
         rabbitmqctl set_user_tags {user} ..."
    ))
}

/// What a later attempt's fence is, if it holds the user.
pub(super) const fn later(standing: &Standing) -> Option<Fence> {
    match standing {
        Standing::Later(by) => Some(*by),
        _ => None,
    }
}
