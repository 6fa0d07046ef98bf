//! Makes the broker refuse a user's value, or undoes an install.
//!
//! A retired user has no hash: the broker refuses every login by value then.

use crate::http::Method;

use super::api::Api;
use super::install::{check_not_admin, foreign, later};
use super::user::{User, body};
use super::{RabbitmqTarget, sessions};
use crate::failure::{Failure, FailureClass};
use crate::target::marker::{Marker, Standing, State};
use crate::target::{Extent, RetireRequest, Retired};

/// What becomes of the user.
enum Action {
    /// No login, and a marker that says so; its connections are closed.
    Close(State),
    /// Only the marker: this attempt installed nothing and must not do so later. A user that is not there is made
    /// to carry it, without a login: a late install would make it too.
    Bar,
    /// It is closed already, and the process may have died before it closed the connections.
    EndSessions,
    Nothing,
}

pub(super) async fn retire(target: &RabbitmqTarget, request: RetireRequest<'_>) -> Result<Retired, Failure> {
    let user = request.principal;
    if request.extent == Extent::Disabled {
        return Ok(Retired::Done { sessions_closed: 0 });
    }
    let doing = target.doing("retire", user);
    let admin = target.admin.credential().await?;
    let api = Api::new(target, &admin, &doing).await?;
    check_not_admin(&admin, user, &doing)?;
    let seen = User::read(&api, user, &doing).await?;
    let marker = seen.as_ref().and_then(|user| user.marker.as_ref());
    let standing = Marker::standing(marker, &request.attempt);
    let action = match (request.extent, &seen) {
        (Extent::SessionsBefore(_) | Extent::OtherValues | Extent::Disabled, _) => {
            let reason = "a user has one password at a time, and two take turns";
            return Err(Failure::new(FailureClass::Invalid, doing, reason));
        }
        (Extent::Principal, None) => Action::Nothing,
        (Extent::Principal, Some(_)) => match standing {
            Standing::Open | Standing::Own(_) => Action::Close(State::Retired),
            Standing::Foreign(policy) => return Err(foreign(user, &policy, &doing)),
            Standing::Later(by) => return Ok(Retired::Superseded { by }),
        },
        (Extent::Attempt, Some(seen)) => match standing {
            Standing::Own(State::Installed) => Action::Close(State::Withdrawn),
            Standing::Own(State::Withdrawn) if !seen.has_hash => Action::EndSessions,
            Standing::Open => Action::Bar,
            _ => Action::Nothing,
        },
        (Extent::Attempt, None) => Action::Bar,
    };
    between!("rabbitmq.retire.read");
    let tags = seen.as_ref().map(|user| user.tags.as_slice()).unwrap_or_default();
    let (change, ends) = match action {
        Action::Close(state) => (Some(body("", tags, &Marker::new(&request.attempt, state))), true),
        Action::Bar => {
            let hash = seen.as_ref().map(User::hash).unwrap_or_default();
            (Some(body(hash, tags, &Marker::new(&request.attempt, State::Withdrawn))), false)
        }
        Action::EndSessions => (None, true),
        Action::Nothing => (None, false),
    };
    if let Some(change) = change {
        api.change(Method::PUT, &["users", user.as_str()], Some(&change), &doing).await?;
        // Nothing holds a place between reading and writing: whoever wrote looks who was last.
        let unseen = |failure: Failure| failure.reclassified(FailureClass::Ambiguous);
        let now = User::read(&api, user, &doing).await.map_err(unseen)?;
        let marker = now.as_ref().and_then(|user| user.marker.as_ref());
        let standing = Marker::standing(marker, &request.attempt);
        if let (Some(by), Extent::Principal) = (later(&standing), request.extent) {
            return Ok(Retired::Superseded { by });
        }
        if !matches!(standing, Standing::Own(_) | Standing::Later(_)) {
            let reason = "somebody else changed the user at the same time";
            return Err(Failure::new(FailureClass::Ambiguous, doing, reason)
                .with_remedy("find out who else changes it, and let one rekeyd alone rotate it"));
        }
    }
    between!("rabbitmq.retire.changed");
    // Dying here leaves connections open; the repeated retire ends them.
    let sessions_closed = if ends { sessions::end(target, &api, user, &doing).await? } else { 0 };
    Ok(Retired::Done { sessions_closed })
}
