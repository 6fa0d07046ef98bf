//! Keeps the two accounts of a pair equal, so that taking turns changes nothing for their reader.
//!
//! Privileges, roles, default roles and limits of the candidate are made those of its peer, as far as the
//! admin may grant them; the statement that it may not run is named. The peer is in use and never
//! changed. An account owns nothing: what it is the definer of runs with its rights whether it may log in or not.

use super::connect::Flavor;
use super::facts::{Account, Facts, Limits};
use super::sql::{account, ident, literal};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// One statement that brings the candidate closer to its peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) sql: String,
    /// In words, such as `the role orders`.
    pub(super) what: String,
    /// What the admin has to be able to grant for it, as `SELECT ON ...` or a role.
    pub(super) needs: Option<String>,
}

/// A difference that rekeyd cannot repair.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drift {
    pub(super) what: String,
    pub(super) remedy: String,
}

/// What makes `candidate` equal to `peer` and gives it `groups`; the account itself is made before, if it is
/// missing.
///
/// # Errors
/// The differences that stand in the way. Nothing may be changed then.
pub(super) fn equalise(
    facts: &Facts,
    candidate: &Principal,
    peer: Option<&Principal>,
    host: &str,
    groups: &[Principal],
) -> Result<Vec<Change>, Vec<Drift>> {
    let mut drifts: Vec<Drift> = groups
        .iter()
        .filter(|group| !facts.has_group(group))
        .map(|group| Drift {
            what: format!("the role {group} does not exist"),
            remedy: format!("CREATE ROLE {}", literal(group.as_str())),
        })
        .collect();
    let fresh = Account { user: candidate.to_string(), host: host.to_owned(), ..Account::default() };
    let held = facts.account(candidate, host).unwrap_or(&fresh);
    let model = peer.and_then(|peer| facts.account(peer, host));
    if let (Some(peer), None) = (peer, model) {
        drifts.push(Drift {
            what: format!("the account {peer}, whose turn it was, does not exist"),
            remedy: "restore the account, or correct target.mysql.strategy.alternating.users".to_owned(),
        });
    }
    let mut grants = match model {
        Some(model) => privileges(held, model, &mut drifts),
        None => Vec::new(),
    };
    grants.extend(memberships(facts.flavor, held, model, groups));
    grants.extend(default_roles(facts.flavor, held, model, groups));
    grants.extend(model.and_then(|model| limits(held, model)));
    if drifts.is_empty() { Ok(grants) } else { Err(drifts) }
}

/// The differences as one failure.
pub(super) fn failure(drifts: &[Drift], doing: &str) -> Failure {
    let whats: Vec<&str> = drifts.iter().map(|drift| drift.what.as_str()).collect();
    let mut remedies: Vec<&str> = drifts.iter().map(|drift| drift.remedy.as_str()).collect();
    remedies.dedup();
    Failure::new(FailureClass::Invalid, doing, whats.join("; ")).with_remedy(remedies.join("; "))
}

/// A line of `SHOW GRANTS` in its parts: what is granted, and how; who it is granted to is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    what: String,
    /// ` WITH GRANT OPTION`, ` WITH ADMIN OPTION` or nothing.
    option: &'static str,
}

impl Grant {
    /// `None` for what is no grant, or is none of privileges: `USAGE`, a default role.
    fn parse(line: &str, account: &Account) -> Option<Self> {
        let to = format!(" TO {}@{}", ident(&account.user), ident(&account.host));
        let (what, rest) = line.strip_prefix("GRANT ")?.split_once(&to)?;
        // After the account stand its password and its limits, which are not of interest here.
        let option = if rest.contains(" WITH ADMIN OPTION") {
            " WITH ADMIN OPTION"
        } else if rest.contains("GRANT OPTION") {
            " WITH GRANT OPTION"
        } else {
            ""
        };
        let is_nothing = what == "USAGE ON *.*" && option.is_empty();
        (!is_nothing).then(|| Self { what: what.to_owned(), option })
    }

    fn give(&self, to: &str) -> String {
        format!("GRANT {} TO {to}{}", self.what, self.option)
    }

    /// The statements, and what each takes.
    fn take(&self, from: &str) -> Vec<(String, String)> {
        let mut statements = Vec::new();
        if self.option == " WITH GRANT OPTION"
            && let Some((_, object)) = self.what.rsplit_once(" ON ")
        {
            let option = format!("REVOKE GRANT OPTION ON {object} FROM {from}");
            statements.push((option, format!("USAGE ON {object}")));
        }
        if !self.what.starts_with("USAGE ON ") {
            statements.push((format!("REVOKE {} FROM {from}", self.what), self.what.clone()));
        }
        statements
    }

    /// Whether a role is granted: such a grant is on nothing.
    fn is_role(&self) -> bool {
        self.what.starts_with('`') && !self.what.contains(" ON ")
    }
}

fn parse(account: &Account) -> Vec<Grant> {
    account.grants.iter().filter_map(|line| Grant::parse(line, account)).collect()
}

fn privileges(held: &Account, model: &Account, drifts: &mut Vec<Drift>) -> Vec<Change> {
    if let Some(line) = model.grants.iter().find(|line| line.starts_with("REVOKE ")) {
        drifts.push(Drift {
            what: format!("{} has partial revokes, which are not copied", model.user),
            remedy: format!("grant what it needs through a role instead of: {line}"),
        });
    }
    let name = account(&held.user, &held.host);
    let [has, wanted] = [held, model]
        .map(|account| parse(account).into_iter().filter(|grant| !grant.is_role()).collect::<Vec<_>>());
    let what = |grant: &Grant| format!("the privilege {}{}", grant.what, grant.option);
    // First what it should not have: a privilege of both lists would be lost otherwise.
    let surplus = has.iter().filter(|grant| !wanted.contains(grant)).flat_map(|grant| {
        let changes = grant.take(&name).into_iter();
        changes.map(move |(sql, needs)| Change { sql, what: what(grant), needs: Some(needs) })
    });
    let missing = wanted.iter().filter(|grant| !has.contains(grant));
    let missing = missing.map(|grant| Change {
        sql: grant.give(&name),
        what: what(grant),
        needs: Some(grant.what.clone()),
    });
    surplus.chain(missing).collect()
}

/// A role as `SHOW GRANTS` names it.
fn role(flavor: Flavor, group: &Principal) -> String {
    match flavor {
        Flavor::MariaDb => ident(group.as_str()),
        Flavor::MySql => format!("{}@`%`", ident(group.as_str())),
    }
}

fn memberships(flavor: Flavor, held: &Account, model: Option<&Account>, groups: &[Principal]) -> Vec<Change> {
    let name = account(&held.user, &held.host);
    // A line of several roles is one for each.
    let roles = |account: &Account| -> Vec<Grant> {
        let lines = parse(account).into_iter().filter(Grant::is_role);
        lines
            .flat_map(|grant| {
                split_list(&grant.what).into_iter().map(move |what| Grant { what, option: grant.option })
            })
            .collect()
    };
    let has = roles(held);
    let mut wanted = model.map(roles).unwrap_or_default();
    for group in groups {
        let what = role(flavor, group);
        if !wanted.iter().any(|grant| grant.what == what) {
            // Through `memberOf` any membership will do; as a copy of the peer's it must be the same.
            let own = has.iter().find(|grant| grant.what == what).cloned();
            wanted.push(own.unwrap_or(Grant { what, option: "" }));
        }
    }
    let mut changes = Vec::new();
    let is_surplus = |grant: &&Grant| model.is_some() && !wanted.contains(grant);
    for grant in has.iter().filter(is_surplus) {
        let sql = format!("REVOKE {} FROM {name}", grant.what);
        changes.push(Change {
            sql,
            what: format!("the role {}", grant.what),
            needs: Some(grant.what.clone()),
        });
    }
    for grant in wanted.iter().filter(|grant| !has.contains(grant)) {
        changes.push(Change {
            sql: grant.give(&name),
            what: format!("the role {}{}", grant.what, grant.option),
            needs: Some(grant.what.clone()),
        });
    }
    changes
}

/// The parts of `` `a`@`%`,`b`@`%` `` or of ``SELECT (`a`, `b`), LOCK TABLES``; a comma may be of a name.
pub(super) fn split_list(list: &str) -> Vec<String> {
    let (mut parts, mut quoted, mut inside, mut begin) = (Vec::new(), false, false, 0);
    for (at, c) in list.char_indices() {
        match c {
            '`' => quoted = !quoted,
            '(' | ')' if !quoted => inside = c == '(',
            ',' if !quoted && !inside => {
                parts.push(list[begin..at].trim().to_owned());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(list[begin..].trim().to_owned());
    parts
}

/// Without a default role, what is granted through roles is out of reach of whoever logs in.
fn default_roles(
    flavor: Flavor,
    held: &Account,
    model: Option<&Account>,
    groups: &[Principal],
) -> Option<Change> {
    let wanted: Vec<String> = match model {
        Some(model) if !model.default_roles.is_empty() || !held.default_roles.is_empty() => {
            model.default_roles.clone()
        }
        None if held.default_roles.is_empty() => match flavor {
            // It takes one only.
            Flavor::MariaDb => groups.first().map(ToString::to_string).into_iter().collect(),
            Flavor::MySql => groups.iter().map(|group| account(group.as_str(), "%")).collect(),
        },
        _ => return None,
    };
    if wanted == held.default_roles {
        return None;
    }
    let name = account(&held.user, &held.host);
    let sql = match (flavor, wanted.first()) {
        (Flavor::MariaDb, Some(role)) => format!("SET DEFAULT ROLE {} FOR {name}", literal(role)),
        (Flavor::MariaDb, None) => format!("SET DEFAULT ROLE NONE FOR {name}"),
        (Flavor::MySql, Some(_)) => format!("ALTER USER {name} DEFAULT ROLE {}", wanted.join(", ")),
        (Flavor::MySql, None) => format!("ALTER USER {name} DEFAULT ROLE NONE"),
    };
    Some(Change { sql, what: format!("the default role {}", wanted.join(", ")), needs: None })
}

fn limits(held: &Account, model: &Account) -> Option<Change> {
    if held.limits == model.limits {
        return None;
    }
    let Limits { ssl_type, ssl_cipher, x509_issuer, x509_subject, .. } = &model.limits;
    let Limits { max_questions, max_updates, max_connections, max_user_connections, .. } = &model.limits;
    let require = match ssl_type {
        1 => "SSL".to_owned(),
        2 => "X509".to_owned(),
        3 => [("CIPHER", ssl_cipher), ("ISSUER", x509_issuer), ("SUBJECT", x509_subject)]
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(word, text)| format!("{word} {}", literal(text)))
            .collect::<Vec<_>>()
            .join(" AND "),
        _ => "NONE".to_owned(),
    };
    let name = account(&held.user, &held.host);
    let mut sql = format!(
        "ALTER USER {name} REQUIRE {require} WITH MAX_QUERIES_PER_HOUR {max_questions} MAX_UPDATES_PER_HOUR \
         {max_updates} MAX_CONNECTIONS_PER_HOUR {max_connections} MAX_USER_CONNECTIONS {max_user_connections}"
    );
    if held.limits.max_statement_time != model.limits.max_statement_time {
        sql.push_str(&format!(" MAX_STATEMENT_TIME {}", model.limits.max_statement_time));
    }
    Some(Change { sql, what: "the limits of its connections".to_owned(), needs: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Principal {
        text.parse().expect("a principal")
    }

    fn held(user: &str, grants: &[&str], default_role: Option<&str>) -> Account {
        Account {
            user: user.to_owned(),
            host: "%".to_owned(),
            grants: grants.iter().map(|line| line.replace("{}", &format!("`{user}`@`%`"))).collect(),
            default_roles: default_role.map(str::to_owned).into_iter().collect(),
            ..Account::default()
        }
    }

    fn statements(candidate: &Account, peer: &Account, groups: &[&str]) -> Vec<String> {
        let groups: Vec<Principal> = groups.iter().map(|group| name(group)).collect();
        let facts = Facts::of(Flavor::MariaDb, vec![candidate.clone(), peer.clone()], &groups);
        let peer = name(&peer.user);
        let changes = equalise(&facts, &name(&candidate.user), Some(&peer), "%", &groups);
        changes.expect("no drift").into_iter().map(|change| change.sql).collect()
    }

    const PEER: [&str; 5] = [
        "GRANT `grp` TO {} WITH ADMIN OPTION",
        "GRANT USAGE ON *.* TO {} IDENTIFIED VIA ed25519 USING 'x' REQUIRE SSL WITH MAX_USER_CONNECTIONS 5",
        "GRANT SELECT ON `shop`.* TO {} WITH GRANT OPTION",
        "GRANT SELECT (`a`), UPDATE (`b`) ON `shop`.`t` TO {}",
        "SET DEFAULT ROLE `grp` FOR {}",
    ];

    #[test]
    fn a_new_spare_is_given_what_its_peer_has() {
        assert_eq!(
            statements(&held("b", &[], None), &held("a", &PEER, Some("grp")), &["grp"]),
            [
                "GRANT SELECT ON `shop`.* TO 'b'@'%' WITH GRANT OPTION",
                "GRANT SELECT (`a`), UPDATE (`b`) ON `shop`.`t` TO 'b'@'%'",
                "GRANT `grp` TO 'b'@'%' WITH ADMIN OPTION",
                "SET DEFAULT ROLE 'grp' FOR 'b'@'%'",
            ]
        );
    }

    #[test]
    fn an_equal_spare_is_left_alone_and_a_different_one_repaired() {
        let peer = held("a", &PEER, Some("grp"));
        assert_eq!(statements(&held("b", &PEER, Some("grp")), &peer, &["grp"]), [""; 0]);
        let drifted = [
            "GRANT `payroll` TO {}",
            "GRANT `grp` TO {}",
            "GRANT PROCESS ON *.* TO {} IDENTIFIED BY PASSWORD '*AB'",
            "GRANT SELECT, INSERT ON `shop`.* TO {} WITH GRANT OPTION",
            "GRANT SELECT (`a`), UPDATE (`b`) ON `shop`.`t` TO {}",
        ];
        let mut spare = held("b", &drifted, None);
        spare.limits.max_questions = 7;
        assert_eq!(
            statements(&spare, &peer, &["grp"]),
            [
                "REVOKE PROCESS ON *.* FROM 'b'@'%'",
                "REVOKE GRANT OPTION ON `shop`.* FROM 'b'@'%'",
                "REVOKE SELECT, INSERT ON `shop`.* FROM 'b'@'%'",
                "GRANT SELECT ON `shop`.* TO 'b'@'%' WITH GRANT OPTION",
                "REVOKE `payroll` FROM 'b'@'%'",
                "REVOKE `grp` FROM 'b'@'%'",
                "GRANT `grp` TO 'b'@'%' WITH ADMIN OPTION",
                "SET DEFAULT ROLE 'grp' FOR 'b'@'%'",
                "ALTER USER 'b'@'%' REQUIRE NONE WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 \
                 MAX_CONNECTIONS_PER_HOUR 0 MAX_USER_CONNECTIONS 0",
            ]
        );
    }

    #[test]
    fn names_that_look_like_grants_are_names() {
        let odd = ["GRANT SELECT ON `a TO ``b``@``%```.* TO {}"];
        let parsed = Grant::parse(&held("a", &odd, None).grants[0], &held("a", &[], None));
        assert_eq!(parsed.map(|grant| grant.what).as_deref(), Some("SELECT ON `a TO ``b``@``%```.*"));
        assert_eq!(split_list("`a,b`@`%`,`c`@`%`"), ["`a,b`@`%`", "`c`@`%`"]);
        assert_eq!(split_list("SELECT (`a`, `(,`), LOCK TABLES"), ["SELECT (`a`, `(,`)", "LOCK TABLES"]);
    }

    #[test]
    fn what_cannot_be_repaired_is_named_with_its_remedy() {
        let peer = held("a", &["REVOKE SELECT ON `mysql`.* FROM {}"], None);
        let groups = [name("absent")];
        let facts = Facts::of(Flavor::MySql, vec![peer], &[]);
        let drifts = equalise(&facts, &name("b"), Some(&name("a")), "%", &groups).expect_err("drift");
        let failure = failure(&drifts, "install account b");
        assert_eq!(failure.class(), FailureClass::Invalid);
        assert_eq!(
            failure.reason(),
            "the role absent does not exist; a has partial revokes, which are not copied"
        );
        assert!(
            failure.remedy().is_some_and(|remedy| remedy.starts_with("CREATE ROLE 'absent'")),
            "{failure:?}"
        );
    }
}
