//! Keeps the two roles of a pair equal, so that taking turns changes nothing for their reader.
//!
//! What `CREATEROLE` can change is repaired on the candidate: attributes, memberships, role settings.
//! What only an owner can change (objects, direct grants, row-level security policies) is reported with
//! the statement that mends it, before anything is touched. The peer is in use and never changed.

use std::collections::BTreeMap;

use super::facts::{Attributes, Facts, Lone, LoneKind, Membership, Role};
use super::sql::{ident, literal};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// One statement that brings the candidate closer to its peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) sql: String,
    /// In words, such as `the membership in orders`.
    pub(super) what: String,
}

/// A difference that rekeyd cannot repair.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drift {
    pub(super) what: String,
    pub(super) remedy: String,
}

/// What makes `candidate` equal to `peer` and a member of `groups`, creating it if it is missing.
///
/// # Errors
/// The differences that stand in the way. Nothing may be changed then.
pub(super) fn equalise(
    facts: &Facts,
    candidate: &Principal,
    peer: Option<&Principal>,
    groups: &[Principal],
) -> Result<Vec<Change>, Vec<Drift>> {
    let mut drifts: Vec<Drift> = groups
        .iter()
        .filter(|group| !facts.has_group(group))
        .map(|group| Drift {
            what: format!("the group role {group} does not exist"),
            remedy: format!("CREATE ROLE {} NOLOGIN", ident(group.as_str())),
        })
        .collect();
    drifts.extend(facts.lone.iter().map(|lone| describe(lone, groups)));
    let model = peer.and_then(|peer| facts.role(peer));
    if let (Some(peer), None) = (peer, model) {
        drifts.push(Drift {
            what: format!("the role {peer}, whose turn it was, does not exist"),
            remedy: "restore the role, or correct target.postgres.strategy.alternating.users".to_owned(),
        });
    }

    let name = ident(candidate.as_str());
    let mut changes = Vec::new();
    let fresh = Role::fresh(candidate);
    let role = facts.role(candidate).unwrap_or_else(|| {
        changes.push(Change { sql: format!("CREATE ROLE {name}"), what: "the role itself".to_owned() });
        &fresh
    });
    if let Some(model) = model {
        let wanted = Attributes {
            // The candidate must be able to log in, whatever became of its peer.
            valid_until: model.attributes.valid_until.clone().filter(|_| !model.expired),
            ..model.attributes.clone()
        };
        match attributes(&name, &role.attributes, &wanted, facts.admin.superuser) {
            Ok(change) => changes.extend(change),
            Err(drift) => drifts.push(drift),
        }
        changes.extend(settings(&name, role, model));
    }
    changes.extend(memberships(&name, role, model, groups));
    if drifts.is_empty() { Ok(changes) } else { Err(drifts) }
}

/// The differences as one failure.
pub(super) fn failure(drifts: &[Drift], doing: &str) -> Failure {
    let mut remedies: Vec<&str> = Vec::new();
    for drift in drifts {
        if !remedies.contains(&drift.remedy.as_str()) {
            remedies.push(&drift.remedy);
        }
    }
    let whats: Vec<&str> = drifts.iter().map(|drift| drift.what.as_str()).collect();
    Failure::new(FailureClass::Invalid, doing, whats.join("; ")).with_remedy(remedies.join("; "))
}

fn describe(lone: &Lone, groups: &[Principal]) -> Drift {
    let Lone { holder, kind, database, object } = lone;
    let place = if database.is_empty() { String::new() } else { format!(" in database {database}") };
    let group = groups.first().map_or("<group>".to_owned(), |group| ident(group.as_str()));
    let holder_name = ident(holder);
    match kind {
        LoneKind::Owns => Drift {
            what: format!("{holder} owns {object}{place}"),
            remedy: format!(
                "in each such database: REASSIGN OWNED BY {holder_name} TO {group}; and once: \
                 ALTER ROLE {holder_name} SET ROLE {group}"
            ),
        },
        LoneKind::Granted => Drift {
            what: format!("{holder} alone was granted {object}{place}"),
            remedy: format!("GRANT the privilege to {group} and REVOKE it FROM {holder_name}"),
        },
        LoneKind::Policy => Drift {
            what: format!("{holder} alone is named in {object}{place}"),
            remedy: format!("ALTER the POLICY to name {group} instead of {holder_name}"),
        },
    }
}

impl Role {
    /// A role as `CREATE ROLE` makes it.
    fn fresh(name: &Principal) -> Self {
        Self {
            has_password: None,
            name: name.as_str().to_owned(),
            attributes: Attributes {
                superuser: false,
                replication: false,
                bypass_rls: false,
                inherit: true,
                create_role: false,
                create_db: false,
                connection_limit: -1,
                valid_until: None,
            },
            login: false,
            expired: false,
            comment: String::new(),
            memberships: BTreeMap::new(),
            settings: Vec::new(),
            administered: true,
            inherited: false,
            sessions: 0,
            session_examples: Vec::new(),
        }
    }
}

fn attributes(
    name: &str,
    has: &Attributes,
    wanted: &Attributes,
    admin_is_superuser: bool,
) -> Result<Option<Change>, Drift> {
    let flag = |has: bool, wanted: bool, word: &str| {
        (has != wanted).then(|| format!("{}{word}", if wanted { "" } else { "NO" }))
    };
    let reserved: Vec<String> = [
        flag(has.superuser, wanted.superuser, "SUPERUSER"),
        flag(has.replication, wanted.replication, "REPLICATION"),
        flag(has.bypass_rls, wanted.bypass_rls, "BYPASSRLS"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !reserved.is_empty() && !admin_is_superuser {
        let reserved = reserved.join(" ");
        return Err(Drift {
            what: format!("the pair differs in an attribute that only a superuser may set: {reserved}"),
            remedy: format!("as a superuser: ALTER ROLE {name} {reserved}"),
        });
    }
    let mut options = reserved;
    options.extend(flag(has.inherit, wanted.inherit, "INHERIT"));
    options.extend(flag(has.create_role, wanted.create_role, "CREATEROLE"));
    options.extend(flag(has.create_db, wanted.create_db, "CREATEDB"));
    if has.connection_limit != wanted.connection_limit {
        options.push(format!("CONNECTION LIMIT {}", wanted.connection_limit));
    }
    if has.valid_until != wanted.valid_until {
        let until = wanted.valid_until.as_deref().unwrap_or("infinity");
        options.push(format!("VALID UNTIL {}", literal(until)));
    }
    Ok((!options.is_empty()).then(|| {
        let options = options.join(" ");
        Change { sql: format!("ALTER ROLE {name} {options}"), what: format!("the attributes {options}") }
    }))
}

fn memberships(name: &str, role: &Role, model: Option<&Role>, groups: &[Principal]) -> Vec<Change> {
    // A membership of one of the pair in the other says nothing about what the two may do elsewhere.
    let others = |group: &str| group != role.name && model.is_none_or(|model| model.name != group);
    let mut wanted: BTreeMap<&str, Option<Membership>> =
        groups.iter().map(|group| (group.as_str(), None)).collect();
    if let Some(model) = model {
        let memberships = model.memberships.iter().filter(|(group, _)| others(group));
        wanted.extend(memberships.map(|(group, how)| (group.as_str(), Some(*how))));
    }
    let mut changes = Vec::new();
    for (group, how) in &wanted {
        let has = role.memberships.get(*group);
        // Through `groups` any membership will do; as a copy of the peer's it must be the same.
        if has.is_some_and(|has| how.is_none_or(|how| *has == how)) {
            continue;
        }
        let what = format!("the membership in {group}");
        let group = ident(group);
        if has.is_some_and(|has| has.admin) && !how.is_some_and(|how| how.admin) {
            let sql = format!("REVOKE ADMIN OPTION FOR {group} FROM {name}");
            changes.push(Change { sql, what: what.clone() });
        }
        let sql = format!("GRANT {group} TO {name}{}", grant_options(*how));
        changes.push(Change { sql, what });
    }
    if model.is_some() {
        let surplus =
            role.memberships.keys().filter(|group| !wanted.contains_key(group.as_str()) && others(group));
        changes.extend(surplus.map(|group| Change {
            sql: format!("REVOKE {} FROM {name}", ident(group)),
            what: format!("the membership in {group}"),
        }));
    }
    changes
}

fn grant_options(how: Option<Membership>) -> String {
    match how {
        // PostgreSQL 16 and later; not tested here, where 15 is to be had.
        Some(Membership { admin, inherit: Some(inherit), set: Some(set) }) => {
            format!(" WITH ADMIN {admin}, INHERIT {inherit}, SET {set}")
        }
        Some(Membership { admin: true, .. }) => " WITH ADMIN OPTION".to_owned(),
        _ => String::new(),
    }
}

fn settings(name: &str, role: &Role, model: &Role) -> Vec<Change> {
    let (has, wanted) = (settings_map(role), settings_map(model));
    let place = |database: &str| {
        if database.is_empty() { String::new() } else { format!(" IN DATABASE {}", ident(database)) }
    };
    let surplus = has.keys().filter(|key| !wanted.contains_key(*key)).map(|(database, setting)| Change {
        sql: format!("ALTER ROLE {name}{} RESET {}", place(database), setting_name(setting)),
        what: format!("the setting {setting}"),
    });
    let missing = wanted.iter().filter(|(key, value)| has.get(*key) != Some(*value));
    let missing = missing.map(|((database, setting), value)| Change {
        sql: format!(
            "ALTER ROLE {name}{} SET {} TO {}",
            place(database),
            setting_name(setting),
            setting_value(setting, value)
        ),
        what: format!("the setting {setting}"),
    });
    surplus.chain(missing).collect()
}

fn settings_map(role: &Role) -> BTreeMap<(&str, &str), &str> {
    let per_database = role.settings.iter().flat_map(|settings| {
        let entries = settings.entries.iter().filter_map(|entry| entry.split_once('='));
        entries.map(|(name, value)| ((settings.database.as_str(), name), value))
    });
    per_database.collect()
}

/// A setting's name, whose parts are joined by dots: `search_path`, `app.tenant`.
fn setting_name(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

/// A setting's stored value as `SET` takes it. Lists of names are stored quoted and would be quoted
/// twice as one text: as in pg_dump, they are taken apart.
fn setting_value(name: &str, value: &str) -> String {
    const NAME_LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    if !NAME_LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        return literal(value);
    }
    let names = split_names(value);
    if names.is_empty() {
        return literal("");
    }
    names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ")
}

/// The names in `"$user", public`; a doubled quote within quotes stands for one.
fn split_names(list: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = list.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            c if c.is_whitespace() && !quoted => {}
            c => name.push(c),
        }
    }
    if !list.trim().is_empty() {
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_are_not_quoted_twice() {
        assert_eq!(setting_value("search_path", r#""$user", public"#), "'$user', 'public'");
        assert_eq!(setting_value("search_path", r#""My, ""odd"" one",b"#), r#"'My, "odd" one', 'b'"#);
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("search_path", r#""""#), "''");
        assert_eq!(setting_value("DateStyle", "ISO, DMY"), "'ISO, DMY'");
        assert_eq!(setting_name("app.tenant"), r#""app"."tenant""#);
    }

    fn name(text: &str) -> Principal {
        text.parse().expect("a principal")
    }

    fn facts(version: u32, superuser: bool, roles: Vec<Role>, lone: &str) -> Facts {
        let mut facts: Facts = serde_json::from_value(serde_json::json!({
            "version": version, "inRecovery": false, "readOnly": false, "roles": [], "groups": ["orders"],
            "admin": {"login": "rekeyd", "name": "rekeyd", "superuser": superuser, "createRole": true,
                      "endsSessions": true, "seesSessions": true},
            "lone": serde_json::from_str::<serde_json::Value>(lone).expect("JSON"),
        }))
        .expect("facts");
        facts.roles = roles;
        facts
    }

    fn statements(facts: &Facts) -> Vec<String> {
        let changes = equalise(facts, &name("b"), Some(&name("a")), &[name("orders")]);
        changes.expect("no drift").into_iter().map(|change| change.sql).collect()
    }

    fn peer() -> Role {
        let mut peer = Role::fresh(&name("a"));
        peer.attributes.inherit = false;
        peer.attributes.connection_limit = 7;
        let how = Membership { admin: true, inherit: None, set: None };
        peer.memberships.insert("reporting".to_owned(), how);
        peer.memberships.insert("b".to_owned(), how);
        peer.settings = serde_json::from_value(serde_json::json!([
            {"database": "", "entries": ["role=orders", "app.tenant=o'neill=1"]},
            {"database": "shop", "entries": ["search_path=\"$user\", public"]},
        ]))
        .expect("settings");
        peer
    }

    #[test]
    fn a_missing_spare_is_made_from_its_peer() {
        assert_eq!(
            statements(&facts(150_018, false, vec![peer()], "[]")),
            [
                r#"CREATE ROLE "b""#,
                r#"ALTER ROLE "b" NOINHERIT CONNECTION LIMIT 7"#,
                r#"ALTER ROLE "b" SET "app"."tenant" TO 'o''neill=1'"#,
                r#"ALTER ROLE "b" SET "role" TO 'orders'"#,
                r#"ALTER ROLE "b" IN DATABASE "shop" SET "search_path" TO '$user', 'public'"#,
                r#"GRANT "orders" TO "b""#,
                r#"GRANT "reporting" TO "b" WITH ADMIN OPTION"#,
            ]
        );
    }

    #[test]
    fn an_equal_spare_is_left_alone_and_a_different_one_repaired() {
        let mut spare = Role { name: "b".to_owned(), ..peer() };
        spare.memberships.remove("b");
        let how = Membership { admin: false, inherit: None, set: None };
        spare.memberships.insert("orders".to_owned(), how);
        assert_eq!(statements(&facts(150_018, false, vec![peer(), spare.clone()], "[]")), [""; 0]);

        spare.memberships.insert("payroll".to_owned(), how);
        spare.memberships.remove("reporting");
        spare.attributes.valid_until = Some("2020-01-01".to_owned());
        spare.settings[0].entries.push("work_mem=1GB".to_owned());
        assert_eq!(
            statements(&facts(150_018, false, vec![peer(), spare], "[]")),
            [
                r#"ALTER ROLE "b" VALID UNTIL 'infinity'"#,
                r#"ALTER ROLE "b" RESET "work_mem""#,
                r#"GRANT "reporting" TO "b" WITH ADMIN OPTION"#,
                r#"REVOKE "payroll" FROM "b""#,
            ]
        );
    }

    #[test]
    fn from_16_on_memberships_are_copied_with_their_options() {
        let mut peer = peer();
        let how = Membership { admin: false, inherit: Some(true), set: Some(false) };
        peer.memberships = [("reporting".to_owned(), how)].into();
        let statements = statements(&facts(160_004, false, vec![peer], "[]"));
        let grant = r#"GRANT "reporting" TO "b" WITH ADMIN false, INHERIT true, SET false"#;
        assert!(statements.iter().any(|sql| sql == grant), "{statements:?}");
    }

    #[test]
    fn an_expired_peer_does_not_lock_the_spare_out() {
        let mut peer = peer();
        (peer.attributes.valid_until, peer.expired) = (Some("2020-01-01".to_owned()), true);
        let statements = statements(&facts(150_018, false, vec![peer], "[]"));
        assert!(!statements.iter().any(|sql| sql.contains("VALID UNTIL")), "{statements:?}");
    }

    #[test]
    fn what_cannot_be_repaired_is_named_with_its_remedy() {
        let mut peer = peer();
        peer.attributes.replication = true;
        let lone = r#"[{"holder": "a", "kind": "owns", "database": "shop", "object": "table t"},
                       {"holder": "b", "kind": "granted", "database": "", "object": "select on table u"},
                       {"holder": "a", "kind": "policy", "database": "", "object": "policy p on table t"}]"#;
        let facts = facts(150_018, false, vec![peer], lone);
        let groups = [name("orders"), name("absent")];
        let drifts = equalise(&facts, &name("b"), Some(&name("a")), &groups).expect_err("drift");
        let failure = failure(&drifts, "install role b");
        assert_eq!(failure.class(), FailureClass::Invalid);
        assert_eq!(
            failure.reason(),
            "the group role absent does not exist; a owns table t in database shop; \
             b alone was granted select on table u; a alone is named in policy p on table t; \
             the pair differs in an attribute that only a superuser may set: REPLICATION"
        );
        let remedy = failure.remedy().unwrap_or_default();
        for part in [
            r#"CREATE ROLE "absent" NOLOGIN"#,
            r#"REASSIGN OWNED BY "a" TO "orders""#,
            r#"REVOKE it FROM "b""#,
            r#"as a superuser: ALTER ROLE "b" REPLICATION"#,
        ] {
            assert!(remedy.contains(part), "{remedy}");
        }
    }

    #[test]
    fn a_superuser_admin_repairs_reserved_attributes_too() {
        let mut peer = peer();
        peer.attributes.replication = true;
        let statements = statements(&facts(150_018, true, vec![peer], "[]"));
        assert!(statements.iter().any(|sql| sql.contains("REPLICATION")), "{statements:?}");
    }
}
