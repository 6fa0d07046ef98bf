//! Keeps the two users of a pair equal, so that taking turns changes nothing for their reader.
//!
//! A user that differs from its peer, or that is to lose its connections, is made anew in one statement, under the
//! same name and with another id, and is given what its peer has before anybody can log in. Nobody uses it meanwhile.

use super::clauses::{parts, words};
use super::seen::{Seen, User};
use super::sql::{ident, literal};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// What a user is to be made like.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) clauses: super::clauses::Clauses,
    /// With `{}` in the place of the user's name.
    pub(super) grants: Vec<String>,
}

impl Model {
    pub(super) fn of(user: &User) -> Self {
        Self { clauses: user.clauses.clone(), grants: user.grants.clone() }
    }
}

/// What is granted, in the server's own words but for the user's name, and for roles, which it tells several of in one
/// line: each has its own here, behind the rest. Order matters: what is taken out of something that was granted comes
/// after it.
pub(super) fn nameless(lines: &[String], user: &Principal) -> Option<Vec<String>> {
    let names = [user.as_str().to_owned(), ident(user.as_str())];
    let nameless = |line: &String| {
        let options = [" WITH GRANT OPTION", " WITH ADMIN OPTION", ""];
        let option = options.iter().find(|option| line.ends_with(**option))?;
        let rest = line.strip_suffix(*option)?;
        let before = names.iter().find_map(|name| rest.strip_suffix(name.as_str()))?;
        (before.ends_with(" TO ") || before.ends_with(" FROM ")).then(|| format!("{before}{{}}{option}"))
    };
    let mut all = Vec::new();
    for line in lines.iter().map(nameless) {
        let line = line?;
        match roles(&line) {
            Some(roles) => all.extend(roles),
            None => all.push(line),
        }
    }
    arrange(&mut all);
    Some(all)
}

/// Roles one by one, where a line grants some: nothing that can be done ON something.
fn roles(line: &str) -> Option<Vec<String>> {
    let (names, option) = line.strip_prefix("GRANT ")?.rsplit_once(" TO {}")?;
    if words(names).iter().any(|(_, word)| *word == "ON") {
        return None;
    }
    let quoted = |name: String| if name.starts_with('`') { name } else { ident(&name) };
    Some(parts(names).into_iter().map(|name| format!("GRANT {} TO {{}}{option}", quoted(name))).collect())
}

/// Roles behind the rest, in the order of their names: theirs does not matter.
fn arrange(lines: &mut [String]) {
    let role = |line: &String| line.starts_with("GRANT `").then(|| line.clone());
    lines.sort_by_cached_key(role);
}

/// With the user's name again.
pub(super) fn named(line: &str, user: &Principal) -> String {
    given_to(line, &ident(user.as_str()))
}

/// With somebody in the place of the user's name.
pub(super) fn given_to(line: &str, whom: &str) -> String {
    // The last one: a table may be called so, too.
    match line.rsplit_once("{}") {
        Some((before, after)) => format!("{before}{whom}{after}"),
        None => line.to_owned(),
    }
}

/// A role that both have, as [`nameless`] tells it.
fn membership(role: &Principal) -> String {
    format!("GRANT {} TO {{}}", ident(role.as_str()))
}

/// What the user has to be made like, and why in words; `None` where it is as it should be.
///
/// # Errors
/// What stands in the way. Nothing may be changed then.
pub(super) fn wanted(
    seen: &Seen,
    user: &Principal,
    peer: Option<&Principal>,
    roles: &[Principal],
    doing: &str,
) -> Result<(Model, Vec<String>), Failure> {
    let invalid = |reason: String, remedy: String| {
        Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy))
    };
    if let Some(role) = roles.iter().find(|role| !seen.roles.iter().any(|name| name == role.as_str())) {
        return invalid(
            format!("the role {role} does not exist"),
            format!("CREATE ROLE {}", ident(role.as_str())),
        );
    }
    if let (Some(peer), None) = (peer, &seen.peer) {
        return invalid(
            format!("the user {peer}, whose turn it was, does not exist"),
            "restore the user, or correct target.clickhouse.strategy.alternating.users".into(),
        );
    }
    let own = seen.user.as_ref();
    let mut model = seen.peer.as_ref().or(own).map(Model::of).unwrap_or_default();
    for role in roles {
        let membership = membership(role);
        if !model.grants.iter().any(|line| line.starts_with(&membership)) {
            model.grants.push(membership);
        }
    }
    arrange(&mut model.grants);
    let mut whats: Vec<String> = Vec::new();
    if let Some(own) = own {
        let missing = model.grants.iter().filter(|line| !own.grants.contains(line));
        whats.extend(missing.map(|line| line.replace(" TO {}", "")));
        let surplus = own.grants.iter().filter(|line| !model.grants.contains(line));
        whats.extend(surplus.map(|line| format!("no {}", line.replace(" TO {}", ""))));
        if whats.is_empty() && own.grants != model.grants {
            whats.push("what it may do, in another order".to_owned());
        }
        whats.extend(own.clauses.differences(&model.clauses).iter().map(ToString::to_string));
    }
    if let (Some(own), Some(peer), Some(peer_name)) = (own, &seen.peer, peer) {
        check_named(own, peer, user, peer_name, doing)?;
    } else if let (None, Some(peer), Some(peer_name)) = (own, &seen.peer, peer)
        && let Some(by) = peer.named_by.first()
    {
        return invalid(
            format!("{by} names {peer_name} and not {user}"),
            format!(
                "let it name a role that both have, or CREATE USER {} and name it there",
                ident(user.as_str())
            ),
        );
    }
    Ok((model, whats))
}

/// Whether policies and quotas that name one of a pair name the other one, too.
fn check_named(
    own: &User,
    peer: &User,
    user: &Principal,
    peer_name: &Principal,
    doing: &str,
) -> Result<(), Failure> {
    let mut pairs = [(peer, own, peer_name, user), (own, peer, user, peer_name)].into_iter();
    let found = pairs.find_map(|(one, other, name, missing)| {
        let by = one.named_by.iter().find(|by| !other.named_by.contains(by))?;
        Some(format!("{by} names {name} and not {missing}"))
    });
    found.map_or(Ok(()), |reason| {
        Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(format!(
            "let it name a role that both have, or both {} and {}",
            literal(user.as_str()),
            literal(peer_name.as_str())
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Principal {
        text.parse().expect("a principal")
    }

    #[test]
    fn a_grant_is_told_without_its_user_and_with_another() {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        // As ClickHouse 26.9 tells them.
        let told = lines(&[
            "GRANT SELECT ON shop.* TO app_a WITH GRANT OPTION",
            "REVOKE SELECT ON shop.secret FROM app_a",
            "GRANT INSERT ON shop.`{} TO app_a` TO app_a",
            "GRANT r, `a, b` TO app_a",
            "GRANT q TO app_a WITH ADMIN OPTION",
        ]);
        let nameless = nameless(&told, &name("app_a")).expect("grants");
        assert_eq!(nameless[1], "REVOKE SELECT ON shop.secret FROM {}");
        let given: Vec<String> = nameless.iter().map(|line| named(line, &name("b`c"))).collect();
        assert_eq!(
            given,
            [
                "GRANT SELECT ON shop.* TO `b\\`c` WITH GRANT OPTION",
                "REVOKE SELECT ON shop.secret FROM `b\\`c`",
                "GRANT INSERT ON shop.`{} TO app_a` TO `b\\`c`",
                "GRANT `a, b` TO `b\\`c`",
                "GRANT `q` TO `b\\`c` WITH ADMIN OPTION",
                "GRANT `r` TO `b\\`c`",
            ]
        );
        assert_eq!(super::nameless(&lines(&["GRANT r TO somebody"]), &name("app_a")), None);
        assert_eq!(
            super::nameless(&lines(&["GRANT r TO `a-b`"]), &name("a-b")).map(|all| all.len()),
            Some(1)
        );
    }
}
