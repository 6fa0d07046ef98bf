//! Changes a user on every node: claim, bar, set, look. The module above has the table.

use futures_util::future::join_all;
use jiff::Timestamp;

use super::ClickhouseTarget;
use super::api::{Api, Outcome};
use super::decide::{Asked, Case, Change, Decision, Values};
use super::marker::{Entry, Standing};
use super::pair::{Model, named};
use super::seen::{self, Question, Seen, User};
use super::sessions;
use super::sql::{Statement, ident, ways};
use crate::failure::{Failure, FailureClass};
use crate::ident::Fence;
use crate::policy::spec::ClickhouseNode;

/// What became of it.
pub(super) enum Changed {
    Superseded(Fence),
    Done {
        /// The time of the node that is behind, after the change.
        at: Timestamp,
        /// How many queries were ended.
        ended: u64,
    },
}

struct Open<'a> {
    node: &'a ClickhouseNode,
    api: Api,
    seen: Seen,
    doing: String,
}

/// How far a change of one node came.
enum Step<T> {
    Done(T),
    Superseded(Fence),
    /// What it relied on is gone: somebody else was there meanwhile.
    Overtaken,
}

/// How often a node is read again because somebody else was there.
const ROUNDS: usize = 4;

/// All nodes are read and decided on before the first is changed: one that is down leaves all of them as they were.
pub(super) async fn everywhere(target: &ClickhouseTarget, asked: &Asked<'_>) -> Result<Changed, Failure> {
    let (user, verb) = (asked.user(), asked.verb());
    let opened = join_all(target.spec.nodes.iter().map(|node| async move {
        let doing = ClickhouseTarget::doing(verb, user, node);
        let api = target.admin_at(node, user).await?;
        let seen = read(target, &api, asked, &doing).await?;
        Ok(Open { node, api, seen, doing })
    }))
    .await;
    let mut nodes = opened.into_iter().collect::<Result<Vec<Open<'_>>, Failure>>()?;
    let mut decisions = Vec::new();
    for open in &nodes {
        decisions.push(asked.decide(&open.case(target)).await?);
    }
    // One node that a later attempt holds is enough.
    let later = decisions.iter().find_map(|decision| match decision {
        Decision::Superseded(by) => Some(*by),
        Decision::Do { .. } => None,
    });
    if let Some(by) = later {
        return Ok(Changed::Superseded(by));
    }
    let (mut at, mut ended, mut touched) = (None, 0, false);
    for (open, first) in nodes.iter_mut().zip(decisions) {
        let next = async {
            // Where nodes replicate their users it may have the change by now.
            let decision = if touched { decide_again(target, asked, open).await? } else { first };
            one(target, asked, open, decision).await
        };
        let done = next.await.map_err(|failure| after(touched, failure))?;
        let (count, changed) = match done {
            Step::Done(done) => done,
            Step::Superseded(by) => return Ok(Changed::Superseded(by)),
            Step::Overtaken => {
                let reason = "somebody else changes it all the time";
                let failure = Failure::new(FailureClass::Unavailable, &*open.doing, reason);
                return Err(after(touched, failure));
            }
        };
        (ended, touched) = (ended + count, touched || changed);
        let now = seen::time(&open.api, &open.doing).await.map_err(|failure| after(touched, failure))?;
        at = Some(at.map_or(now, |at: Timestamp| at.min(now)));
    }
    let Some(at) = at else {
        return Err(Failure::new(
            FailureClass::Invalid,
            format!("{verb} user {user}"),
            "the policy names no node",
        ));
    };
    Ok(Changed::Done { at, ended })
}

impl<'a> Open<'a> {
    fn case(&'a self, target: &'a ClickhouseTarget) -> Case<'a> {
        Case { target, node: self.node, api: &self.api, seen: &self.seen, doing: &self.doing }
    }
}

async fn read(target: &ClickhouseTarget, api: &Api, asked: &Asked<'_>, doing: &str) -> Result<Seen, Failure> {
    let (user, peer) = (asked.user(), asked.peer());
    let question = Question { user, peer, roles: target.groups(), is_pair: target.is_pair() };
    Seen::read(api, &question, doing).await
}

async fn decide_again<'a>(
    target: &ClickhouseTarget,
    asked: &Asked<'a>,
    open: &mut Open<'_>,
) -> Result<Decision<'a>, Failure> {
    open.seen = read(target, &open.api, asked, &open.doing).await?;
    asked.decide(&open.case(target)).await
}

/// One node. How many queries were ended, and whether anything was changed.
async fn one<'a>(
    target: &ClickhouseTarget,
    asked: &Asked<'a>,
    open: &mut Open<'_>,
    first: Decision<'a>,
) -> Result<Step<(u64, bool)>, Failure> {
    let mut decision = first;
    for _ in 0..ROUNDS {
        let (change, ends) = match decision {
            Decision::Superseded(by) => return Ok(Step::Superseded(by)),
            Decision::Do { change, ends } => (change, ends),
        };
        let changed = change.is_some();
        let step = match &change {
            Some(change) => perform(asked, open, change).await?,
            None => Step::Done(()),
        };
        match step {
            Step::Done(()) => {
                // Dying here leaves queries of the outgoing value; the repeated call ends them.
                let ended = if ends {
                    let ended = sessions::end(target, open.node, &open.api, asked.user()).await;
                    ended.map_err(|failure| after(changed, failure))?
                } else {
                    0
                };
                return Ok(Step::Done((ended, changed)));
            }
            Step::Superseded(by) => return Ok(Step::Superseded(by)),
            Step::Overtaken => decision = decide_again(target, asked, open).await?,
        }
    }
    Ok(Step::Overtaken)
}

async fn perform(asked: &Asked<'_>, open: &Open<'_>, change: &Change<'_>) -> Result<Step<()>, Failure> {
    let held = match claim(asked, open).await? {
        Step::Done(held) => held,
        Step::Superseded(by) => return Ok(Step::Superseded(by)),
        Step::Overtaken => return Ok(Step::Overtaken),
    };
    if let Some(model) = &change.model
        && let Step::Overtaken = remake(asked, open, model, &held).await?
    {
        return Ok(Step::Overtaken);
    }
    settle(asked, open, change, &held).await
}

/// Has the user carry a profile of this attempt's, and drops those of all earlier ones. The profile's name.
///
/// Dying here leaves the claim, or the profile alone: a repetition goes on from either, and so does a later attempt.
async fn claim(asked: &Asked<'_>, open: &Open<'_>) -> Result<Step<String>, Failure> {
    let (attempt, user, doing, api) = (asked.attempt(), asked.user(), &*open.doing, &open.api);
    let standing = |seen: &User| seen.entries.standing(attempt, user, open.node, doing);
    if let Some(seen) = &open.seen.user
        && let Standing::Own(_) | Standing::Claimed = standing(seen)?
        && let Some(own) = seen.entries.strongest()
    {
        if let Some(others) = seen.entries.drop_all_but(&own.name) {
            api.change(&others, doing).await?;
            between!(if asked.retires(); "clickhouse.retire.barred", else "clickhouse.install.barred");
        }
        return Ok(Step::Done(own.name.clone()));
    }
    let claim = Entry::claim(attempt, user).name;
    let (name, profile) = (ident(user.as_str()), ident(&claim));
    api.change(&format!("CREATE SETTINGS PROFILE IF NOT EXISTS {profile}"), doing).await?;
    between!(if asked.retires(); "clickhouse.retire.made", else "clickhouse.install.made");
    let statement = match &open.seen.user {
        Some(_) => Statement::new(format!("ALTER USER {name} ADD PROFILES {profile}")),
        None => {
            let nobodys = ways(&[])?;
            Statement::new(format!(
                "CREATE USER IF NOT EXISTS {name} IDENTIFIED WITH {} SETTINGS PROFILE {profile}",
                *nobodys
            ))
        }
    };
    if api.change(&statement, doing).await? == Outcome::Missing {
        return Ok(Step::Overtaken);
    }
    between!(if asked.retires(); "clickhouse.retire.claimed", else "clickhouse.install.claimed");
    let now = seen::entries(api, user, doing).await?;
    if let Standing::Later(by) = now.standing(attempt, user, open.node, doing)? {
        api.change(&format!("DROP SETTINGS PROFILE IF EXISTS {profile}"), doing).await?;
        return Ok(Step::Superseded(by));
    }
    if !now.has(&claim) {
        return Ok(Step::Overtaken);
    }
    // From here on nothing that an earlier attempt still has on the way is carried out.
    if let Some(others) = now.drop_all_but(&claim) {
        api.change(&others, doing).await?;
    }
    between!(if asked.retires(); "clickhouse.retire.barred", else "clickhouse.install.barred");
    Ok(Step::Done(claim))
}

/// Makes the user anew, closed, with another id: whoever is connected as the one before is out.
///
/// Dying here leaves a user that nobody can log in as, and that may lack rights: an install gives them again.
async fn remake(asked: &Asked<'_>, open: &Open<'_>, model: &Model, held: &str) -> Result<Step<()>, Failure> {
    let (user, doing) = (asked.user(), &*open.doing);
    let name = ident(user.as_str());
    let making = model.clauses.making(held);
    let statement =
        Statement::new(format!("CREATE USER OR REPLACE {name} IDENTIFIED WITH {}{making}", *ways(&[])?));
    if open.api.change(&statement, doing).await? == Outcome::Missing {
        return Ok(Step::Overtaken);
    }
    between!(if asked.retires(); "clickhouse.retire.replaced", else "clickhouse.install.replaced");
    let roles = model.clauses.default_role().map(|roles| format!("ALTER USER {name} DEFAULT ROLE {roles}"));
    let (mut failed, mut left) = (None, Vec::new());
    for statement in model.grants.iter().map(|line| named(line, user)).chain(roles) {
        match open.api.change(&statement, doing).await {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Missing) => return Ok(Step::Overtaken),
            // All that it can be given it is given: with the rest by hand it is as it should be, and not made again.
            Err(failure) if matches!(failure.class(), FailureClass::Denied | FailureClass::Invalid) => {
                failed.get_or_insert(failure);
                left.push(statement);
            }
            Err(failure) => return Err(lacking(failure)),
        }
    }
    failed.map_or(Ok(Step::Done(())), |failure| {
        Err(lacking(failure).with_remedy(format!("as a user who may grant it: {}", left.join("; "))))
    })
}

/// The user is closed then, and the repeated call goes on.
fn lacking(failure: Failure) -> Failure {
    let reason = format!("it cannot be given what it is to have: {}", failure.reason());
    failure.with_reason(reason)
}

/// Sets the ways to log in, and the marker in the place of what the attempt holds the user with.
async fn settle(
    asked: &Asked<'_>,
    open: &Open<'_>,
    change: &Change<'_>,
    held: &str,
) -> Result<Step<()>, Failure> {
    let (attempt, user, doing, api) = (asked.attempt(), asked.user(), &*open.doing, &open.api);
    let marker = Entry::new(attempt, change.state, user).name;
    let (name, profile, holding) = (ident(user.as_str()), ident(&marker), ident(held));
    if marker != held {
        api.change(&format!("CREATE SETTINGS PROFILE IF NOT EXISTS {profile}"), doing).await?;
    }
    between!(if asked.retires(); "clickhouse.retire.marked", else "clickhouse.install.marked");
    let identified = match &change.values {
        Values::Kept => Statement::default(),
        Values::Exactly(values) => Statement::new(format!(" IDENTIFIED WITH {}", *ways(values)?)),
        Values::Added(value) => Statement::new(format!(" ADD IDENTIFIED WITH {}", *ways(&[value])?)),
    };
    let statement = Statement::new(format!(
        "ALTER USER {name}{} DROP PROFILES {holding} ADD PROFILES {profile}",
        *identified
    ));
    if api.change(&statement, doing).await? == Outcome::Missing {
        return Ok(Step::Overtaken);
    }
    between!(if asked.retires(); "clickhouse.retire.changed", else "clickhouse.install.changed");
    // From here on it has taken effect, and has to be repeated if anything else did not.
    let unseen = |failure: Failure| after(true, failure);
    let now = seen::entries(api, user, doing).await.map_err(unseen)?;
    match now.standing(attempt, user, open.node, doing).map_err(unseen)? {
        Standing::Later(by) => return Ok(Step::Superseded(by)),
        Standing::Own(_) if now.has(&marker) => {}
        _ => {
            let reason = "somebody else changed the user at the same time";
            return Err(Failure::new(FailureClass::Ambiguous, doing, reason)
                .with_remedy("find out who else changes it, and let one rekeyd alone rotate it"));
        }
    }
    if marker != held {
        // Dying here leaves a profile that no user has.
        api.change(&format!("DROP SETTINGS PROFILE IF EXISTS {holding}"), doing).await.map_err(unseen)?;
    }
    between!(if asked.retires(); "clickhouse.retire.settled", else "clickhouse.install.settled");
    Ok(Step::Done(()))
}

/// A failure that comes when something has the change already.
fn after(touched: bool, failure: Failure) -> Failure {
    if !touched || failure.class() == FailureClass::Ambiguous {
        return failure;
    }
    let reason = format!("{}; the change has taken effect in part", failure.reason());
    failure.with_reason(reason).reclassified(FailureClass::Ambiguous)
}
