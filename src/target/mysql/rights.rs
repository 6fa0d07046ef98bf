//! What an account may grant to others, as its own `SHOW GRANTS` tells it.
//!
//! A privilege is granted by whoever has it and `GRANT OPTION`, each of them on the object itself or on what it is part
//! of; a role by whoever has it with `ADMIN OPTION`, on MySQL by `ROLE_ADMIN` too. What roles in force have counts as well,
//! and both servers tell of it.

use super::connect::Flavor;
use super::pair::split_list;
use super::sql::{Row, ident};

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum May {
    No,
    /// It cannot be told.
    Perhaps,
    Yes,
}

/// What an account has.
#[derive(Debug)]
pub(super) struct Rights {
    flavor: Flavor,
    lines: Vec<Line>,
    /// MySQL's restrictions of what is granted on everything.
    has_revokes: bool,
}

/// A line of `SHOW GRANTS`.
#[derive(Debug)]
struct Line {
    /// Privileges, or roles.
    what: Vec<String>,
    /// Roles are on nothing.
    object: Option<Object>,
    /// Whether others may be given it.
    has_option: bool,
}

/// What a privilege is on. Names are as they are quoted.
#[derive(Debug, PartialEq, Eq)]
enum Object {
    Everything,
    Database(String),
    /// A table, or a routine and what kind of one.
    Part(String, String),
    /// An account that another one may stand for.
    Other(String),
}

impl Rights {
    pub(super) fn of(flavor: Flavor, lines: &[String]) -> Self {
        let has_revokes = lines.iter().any(|line| line.starts_with("REVOKE "));
        Self { flavor, lines: lines.iter().filter_map(|line| Line::parse(line)).collect(), has_revokes }
    }

    /// Whether it has a privilege on everything.
    pub(super) fn has(&self, privilege: &str) -> bool {
        let everywhere = self.lines.iter().filter(|line| line.object == Some(Object::Everything));
        everywhere.flat_map(|line| &line.what).any(|what| what == privilege)
    }

    /// Whether it may grant this, or take it away: `SELECT ON ...`, or a role.
    pub(super) fn may_grant(&self, what: &str) -> May {
        let Some((privileges, object)) = split(what, " ON ") else { return self.may_grant_role(what) };
        let object = Object::parse(object);
        if let Object::Other(_) = object {
            let same = |line: &&Line| line.object.as_ref() == Some(&object) && line.has_option;
            return if self.lines.iter().any(|line| same(&line)) { May::Yes } else { May::Perhaps };
        }
        let option = self.best(&object, |line| if line.has_option { May::Yes } else { May::No });
        let mut worst = option;
        for privilege in split_list(privileges) {
            worst = worst.min(self.has_on(&privilege, &object));
        }
        let is_restricted = self.has_revokes && object != Object::Everything;
        if is_restricted { worst.min(May::Perhaps) } else { worst }
    }

    fn has_on(&self, privilege: &str, object: &Object) -> May {
        if privilege == "USAGE" {
            return May::Yes;
        }
        // Each of MySQL's newer ones is granted by itself; their names have no blanks.
        if privilege.contains('_') && *object == Object::Everything {
            let own = |line: &Line| line.what.iter().any(|what| what == privilege) && line.has_option;
            return if self.lines.iter().any(own) { May::Yes } else { May::No };
        }
        let (name, columns) = columns(privilege);
        let held = self.best(object, |line| {
            let of = |what: &String| {
                let (held, among) = self::columns(what);
                match (held == name || held == ALL, among, columns) {
                    (false, ..) => May::No,
                    (true, None, _) => May::Yes,
                    (true, Some(among), Some(columns)) => {
                        let among = split_list(among);
                        let all = split_list(columns).iter().all(|column| among.contains(column));
                        if all { May::Yes } else { May::Perhaps }
                    }
                    (true, Some(_), None) => May::No,
                }
            };
            line.what.iter().map(of).max().unwrap_or(May::No)
        });
        if name != ALL || held == May::Yes {
            return held;
        }
        let every = self.every(object).into_iter().map(|privilege| self.has_on(privilege, object));
        every.min().unwrap_or(May::Perhaps)
    }

    /// What `ALL PRIVILEGES` stands for. On everything it is not told apart from what a server of another version has.
    fn every(&self, object: &Object) -> Vec<&'static str> {
        let both = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "REFERENCES", "INDEX", "ALTER"];
        let views = ["CREATE VIEW", "SHOW VIEW", "TRIGGER"];
        let databases =
            ["CREATE TEMPORARY TABLES", "LOCK TABLES", "EXECUTE", "CREATE ROUTINE", "ALTER ROUTINE", "EVENT"];
        let history: &[&str] = match self.flavor {
            Flavor::MariaDb => &["DELETE HISTORY"],
            Flavor::MySql => &[],
        };
        match object {
            Object::Database(_) => [&both[..], &views, &databases, history].concat(),
            Object::Part(..) => [&both[..], &views, history].concat(),
            Object::Everything | Object::Other(_) => Vec::new(),
        }
    }

    /// The best that the lines on an object, or on what it is part of, come to.
    fn best(&self, object: &Object, of: impl Fn(&Line) -> May) -> May {
        let lines = self.lines.iter();
        lines
            .map(|line| line.object.as_ref().map_or(May::No, |on| on.covers(object)).min(of(line)))
            .max()
            .unwrap_or(May::No)
    }

    fn may_grant_role(&self, role: &str) -> May {
        let mut roles = self.lines.iter().filter(|line| line.object.is_none());
        let may = roles.any(|line| line.has_option && line.what.iter().any(|held| held == role));
        let is_admin = self.flavor == Flavor::MySql && (self.has("ROLE_ADMIN") || self.has("SUPER"));
        if may || is_admin { May::Yes } else { May::No }
    }
}

/// Of MySQL's: whoever has not got it cannot change who has.
pub(super) const SYSTEM_USER: &str = "SYSTEM_USER";

const ALL: &str = "ALL PRIVILEGES";

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (granted, rest) = split(line.strip_prefix("GRANT ")?, " TO ")?;
        let (what, object) = match split(granted, " ON ") {
            Some((what, object)) => (what, Some(Object::parse(object))),
            None => (granted, None),
        };
        let option = if object.is_some() { "GRANT OPTION" } else { "WITH ADMIN OPTION" };
        Some(Self { what: split_list(what), object, has_option: rest.contains(option) })
    }
}

impl Object {
    fn parse(text: &str) -> Self {
        if text == "*.*" {
            return Self::Everything;
        }
        match split(text, ".") {
            Some((database, "*")) => Self::Database(database.to_owned()),
            Some((database, part)) => {
                // Of a routine, what kind of one stands before its database.
                let (kind, database) = database
                    .rsplit_once(' ')
                    .filter(|(kind, _)| !kind.contains('`'))
                    .unwrap_or(("", database));
                Self::Part(database.to_owned(), format!("{kind} {part}"))
            }
            None => Self::Other(text.to_owned()),
        }
    }

    /// Whether what is granted on it holds for another.
    fn covers(&self, other: &Self) -> May {
        match (self, other) {
            (Self::Everything, Self::Everything | Self::Database(_) | Self::Part(..)) => May::Yes,
            (Self::Database(own), Self::Database(name) | Self::Part(name, _)) => {
                let (plain, is_pattern) = begin(own);
                let name_as_is = name.replace('\\', "").to_ascii_lowercase();
                let fits = if is_pattern { name_as_is.starts_with(&plain) } else { name_as_is == plain };
                match () {
                    () if own == name => May::Yes,
                    () if fits => May::Perhaps,
                    () => May::No,
                }
            }
            (Self::Part(own, part), Self::Part(name, other)) => match () {
                () if own == name && part == other => May::Yes,
                () if own.eq_ignore_ascii_case(name) && part.eq_ignore_ascii_case(other) => May::Perhaps,
                () => May::No,
            },
            _ => May::No,
        }
    }
}

/// A database's name up to its first wildcard, in small letters, and whether there is one.
fn begin(database: &str) -> (String, bool) {
    let (mut plain, mut chars) = (String::new(), database.chars());
    while let Some(c) = chars.next() {
        match c {
            '%' | '_' => return (plain.to_ascii_lowercase(), true),
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    (plain.to_ascii_lowercase(), false)
}

/// ``SELECT (`a`, `b`)`` in its parts.
fn columns(privilege: &str) -> (&str, Option<&str>) {
    let parts = privilege.strip_suffix(')').and_then(|rest| rest.split_once('('));
    parts.map_or((privilege, None), |(name, columns)| (name.trim_end(), Some(columns)))
}

/// MariaDB's roles.
pub(super) const ROLES: &str = "SELECT User, Host, Role, Admin_option FROM mysql.roles_mapping";

/// What an account has of [`ROLES`], directly or through another role, in the form of `SHOW GRANTS`: that tells of those in
/// force only, and a role is granted by whoever administers it through any.
pub(super) fn roles_of(admin: &str, rows: &[Row]) -> Vec<String> {
    let (user, host) = admin.rsplit_once('@').unwrap_or((admin, "%"));
    let mut holders = vec![(user.to_owned(), host.to_owned())];
    let mut lines = Vec::new();
    let mut next = 0;
    while let Some(holder) = holders.get(next).cloned() {
        for row in rows {
            let [Some(user), Some(host), Some(role), Some(option)] = row.as_slice() else { continue };
            if (user, host) != (&holder.0, &holder.1) {
                continue;
            }
            let option = if option == "Y" { " WITH ADMIN OPTION" } else { "" };
            lines.push(format!("GRANT {} TO {}{option}", ident(role), ident(user)));
            let held = (role.clone(), String::new());
            if !holders.contains(&held) {
                holders.push(held);
            }
        }
        next += 1;
    }
    lines
}

/// At the first separator that is of no name.
fn split<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut places = text.match_indices(separator).map(|(at, _)| at);
    let at = places.find(|at| text[..*at].matches('`').count().is_multiple_of(2))?;
    Some((&text[..at], &text[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(flavor: Flavor, lines: &[&str]) -> Rights {
        Rights::of(flavor, &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_privilege_is_granted_by_whoever_has_it_and_the_option() {
        for flavor in [Flavor::MariaDb, Flavor::MySql] {
            let admin = rights(
                flavor,
                &[
                    "GRANT CREATE USER, PROCESS ON *.* TO `adm`@`%` IDENTIFIED BY PASSWORD '*AB'",
                    "GRANT SELECT, INSERT ON `shop`.* TO `adm`@`%` WITH GRANT OPTION",
                    "GRANT DELETE ON `shop`.* TO `adm`@`%`",
                    "GRANT SELECT (`a`, `b`), UPDATE (`a`) ON `log`.`t` TO `adm`@`%` WITH GRANT OPTION",
                    "GRANT EXECUTE ON PROCEDURE `log`.`p` TO `adm`@`%` WITH GRANT OPTION",
                    "GRANT DROP ON `other`.* TO `adm`@`%`",
                    r"GRANT SELECT ON `my\_db%`.* TO `adm`@`%` WITH GRANT OPTION",
                ],
            );
            for (what, may) in [
                ("SELECT ON `shop`.*", May::Yes),
                ("SELECT, INSERT ON `shop`.`t`", May::Yes),
                ("INSERT (`x`) ON `shop`.`t`", May::Yes),
                // The option of one line holds for what another one gives on the same object.
                ("DELETE ON `shop`.*", May::Yes),
                ("USAGE ON `shop`.*", May::Yes),
                ("UPDATE ON `shop`.*", May::No),
                ("DROP ON `other`.*", May::No),
                ("PROCESS ON *.*", May::No),
                ("SELECT ON *.*", May::No),
                ("SELECT (`b`) ON `log`.`t`", May::Yes),
                ("SELECT (`c`) ON `log`.`t`", May::Perhaps),
                ("SELECT ON `log`.`t`", May::No),
                ("EXECUTE ON PROCEDURE `log`.`p`", May::Yes),
                ("EXECUTE ON FUNCTION `log`.`p`", May::No),
                ("SELECT ON `Shop`.*", May::Perhaps),
                ("SELECT ON `my_db1`.*", May::Perhaps),
                ("SELECT ON `my_d`.*", May::No),
                ("ALL PRIVILEGES ON `shop`.*", May::No),
                ("PROXY ON `x`@`%`", May::Perhaps),
                ("SELECT ON ` ON ``shop``.* TO `.*", May::No),
            ] {
                assert_eq!(admin.may_grant(what), may, "{flavor:?}: {what}");
            }
            let all = rights(flavor, &["GRANT ALL PRIVILEGES ON `shop`.* TO `adm`@`%` WITH GRANT OPTION"]);
            for what in ["ALL PRIVILEGES ON `shop`.*", "ALL PRIVILEGES ON `shop`.`t`", "EVENT ON `shop`.*"] {
                assert_eq!(all.may_grant(what), May::Yes, "{what}");
            }
            assert_eq!(all.may_grant("SELECT ON `log`.*"), May::No);
        }
    }

    /// MySQL writes out what is granted on everything, and has privileges that are granted one by one.
    #[test]
    fn what_is_granted_on_everything_is_told_in_two_ways() {
        let maria = rights(Flavor::MariaDb, &["GRANT ALL PRIVILEGES ON *.* TO `adm`@`%` WITH GRANT OPTION"]);
        let parts = "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, \
            LOCK TABLES, EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER ON *.* TO `adm`@`%` \
            WITH GRANT OPTION";
        let dynamic = "GRANT CONNECTION_ADMIN,XA_RECOVER_ADMIN ON *.* TO `adm`@`%`";
        let mysql = rights(Flavor::MySql, &[parts, dynamic]);
        for admin in [&maria, &mysql] {
            for what in ["ALL PRIVILEGES ON `shop`.*", "SELECT ON *.*", "ALL PRIVILEGES ON `shop`.`t`"] {
                assert_eq!(admin.may_grant(what), May::Yes, "{what}");
            }
        }
        assert_eq!(mysql.may_grant("XA_RECOVER_ADMIN ON *.*"), May::No);
        let own = rights(Flavor::MySql, &["GRANT XA_RECOVER_ADMIN ON *.* TO `adm`@`%` WITH GRANT OPTION"]);
        assert_eq!(own.may_grant("XA_RECOVER_ADMIN ON *.*"), May::Yes);
        let restricted = rights(Flavor::MySql, &[parts, "REVOKE SELECT ON `shop`.* FROM `adm`@`%`"]);
        assert_eq!(restricted.may_grant("SELECT ON `shop`.*"), May::Perhaps);
        assert_eq!(restricted.may_grant("SELECT ON *.*"), May::Yes);
    }

    #[test]
    fn a_role_is_granted_by_whoever_administers_it() {
        let lines =
            ["GRANT `own`@`%`,`more`@`%` TO `adm`@`%` WITH ADMIN OPTION", "GRANT `held`@`%` TO `adm`@`%`"];
        let mysql = rights(Flavor::MySql, &lines);
        for (role, may) in [("own", May::Yes), ("more", May::Yes), ("held", May::No), ("none", May::No)] {
            assert_eq!(mysql.may_grant(&format!("`{role}`@`%`")), may, "{role}");
        }
        let all = rights(Flavor::MySql, &["GRANT CONNECTION_ADMIN,ROLE_ADMIN ON *.* TO `adm`@`%`"]);
        assert_eq!(all.may_grant("`none`@`%`"), May::Yes);
        let row = |user: &str, host: &str, role: &str, option: &str| {
            [user, host, role, option].map(|cell| Some(cell.to_owned())).to_vec()
        };
        let rows = [
            row("adm", "%", "own", "N"),
            row("own", "", "inner", "Y"),
            row("inner", "", "own", "N"),
            row("adm", "10.%", "more", "Y"),
            row("other", "", "more", "Y"),
        ];
        let mut lines = roles_of("adm@%", &rows);
        lines.push("GRANT ALL PRIVILEGES ON *.* TO `adm`@`%` WITH GRANT OPTION".to_owned());
        let maria = Rights::of(Flavor::MariaDb, &lines);
        for (role, may) in [("inner", May::Yes), ("own", May::No), ("more", May::No)] {
            assert_eq!(maria.may_grant(&format!("`{role}`")), may, "{role}");
        }
    }
}
