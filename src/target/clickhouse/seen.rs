//! What a node knows of the users of a policy.

use jiff::Timestamp;
use serde_json::Value;

use super::api::{Api, READONLY, READONLY_REMEDY, Rows, odd};
use super::clauses::Clauses;
use super::marker::Entries;
use super::pair;
use super::sql::{ident, literal, literals};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// What a node was found like.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) version: String,
    /// Which of the roles that were asked for exist.
    pub(super) roles: Vec<String>,
    pub(super) user: Option<User>,
    /// The one that it takes turns with.
    pub(super) peer: Option<User>,
}

/// A user.
#[derive(Debug, Clone)]
pub(super) struct User {
    storage: String,
    pub(super) ways: Vec<Way>,
    pub(super) clauses: Clauses,
    pub(super) entries: Entries,
    /// As the server tells them, with `{}` in the place of the user's name.
    pub(super) grants: Vec<String>,
    /// What names the user itself, and would forget it with its id: `row policy p ON shop.t`.
    pub(super) named_by: Vec<String>,
}

/// A way to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) kind: String,
    /// Whether it lets nobody in any more.
    pub(super) is_over: bool,
}

/// Which users to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) user: &'a Principal,
    pub(super) peer: Option<&'a Principal>,
    pub(super) roles: &'a [Principal],
    /// Whether what they may do matters.
    pub(super) is_pair: bool,
}

/// The oldest version whose `ALTER USER` changes ways to log in and profiles in one statement.
const OLDEST: (u32, u32) = (24, 12);

impl Seen {
    pub(super) async fn read(api: &Api, question: &Question<'_>, doing: &str) -> Result<Self, Failure> {
        let rows = api.ask("SELECT version(), currentUser(), toString(now())", doing).await?;
        let (Some(version), Some(admin), Some(now)) = (text(&rows, 0), text(&rows, 1), text(&rows, 2)) else {
            return Err(odd("itself", doing));
        };
        check_version(version, doing)?;
        // A proxy may say that a login worked, and go on as somebody else.
        if admin != api.credential().principal.as_str() {
            let reason = "the login as the admin ended as another user";
            return Err(Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy("point the nodes at the servers themselves, not at a proxy that maps users"));
        }
        let roles = if question.roles.is_empty() {
            Vec::new()
        } else {
            let names = literals(question.roles.iter().map(Principal::as_str));
            let rows =
                api.ask(&format!("SELECT name FROM system.roles WHERE name IN {names}"), doing).await?;
            column(rows)
        };
        let user = User::read(api, question.user, question.is_pair, now, doing).await?;
        let peer = match question.peer {
            Some(peer) => User::read(api, peer, question.is_pair, now, doing).await?,
            None => None,
        };
        Ok(Self { version: version.to_owned(), roles, user, peer })
    }
}

impl User {
    async fn read(
        api: &Api,
        name: &Principal,
        is_pair: bool,
        now: &str,
        doing: &str,
    ) -> Result<Option<Self>, Failure> {
        let user = literal(name.as_str());
        let kinds = format!(
            "SELECT storage, arrayMap(kind -> toString(kind), auth_type) FROM system.users WHERE name = {user}"
        );
        let rows = api.ask(&kinds, doing).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let kinds = rows.first().and_then(|row| row.get(1)).and_then(Value::as_array);
        let (Some(storage), Some(kinds)) = (text(&rows, 0), kinds) else { return Err(odd("a user", doing)) };
        let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();

        let shown = api.ask(&format!("SHOW CREATE USER {}", ident(name.as_str())), doing).await?;
        let clauses = text(&shown, 0).and_then(Clauses::parse).ok_or_else(|| odd("a user", doing))?;
        let until = clauses.valid_until();
        let ways = kinds.iter().enumerate().map(|(index, kind)| Way {
            kind: (*kind).to_owned(),
            // Texts of one form, year first, compare like times.
            is_over: until.len() == kinds.len() && until[index].is_some_and(|until| until < now),
        });
        let ways = ways.collect();
        let mut found = Self {
            storage: storage.to_owned(),
            ways,
            entries: entries(api, name, doing).await?,
            clauses,
            grants: Vec::new(),
            named_by: Vec::new(),
        };
        if is_pair {
            let rows = api.ask(&format!("SHOW GRANTS FOR {}", ident(name.as_str())), doing).await?;
            found.grants =
                pair::nameless(&column(rows), name).ok_or_else(|| odd("what a user may do", doing))?;
            found.named_by = named_by(api, name, doing).await?;
        }
        Ok(Some(found))
    }

    /// How many ways to log in are not over.
    pub(super) fn open_ways(&self) -> usize {
        self.ways.iter().filter(|way| !way.is_over).count()
    }

    /// Whether it can be changed by a statement.
    pub(super) fn check_storage(&self, doing: &str) -> Result<(), Failure> {
        if !is_readonly(&self.storage) {
            return Ok(());
        }
        let reason = format!("{READONLY} (storage {})", self.storage);
        Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(READONLY_REMEDY))
    }
}

/// Whether a user that does not exist could be made: there is a storage that takes one.
pub(super) async fn check_directories(api: &Api, doing: &str) -> Result<(), Failure> {
    let kinds = column(api.ask("SELECT type FROM system.user_directories", doing).await?);
    if kinds.iter().any(|kind| !is_readonly(kind)) {
        return Ok(());
    }
    let reason = format!("{READONLY} ({})", kinds.join(", "));
    Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(READONLY_REMEDY))
}

fn is_readonly(storage: &str) -> bool {
    matches!(storage, "users_xml" | "users.xml" | "ldap")
}

/// The profiles of rekeyd's that a user has.
pub(super) async fn entries(api: &Api, user: &Principal, doing: &str) -> Result<Entries, Failure> {
    let statement = format!(
        "SELECT inherit_profile FROM system.settings_profile_elements WHERE user_name = {} AND inherit_profile IS \
         NOT NULL",
        literal(user.as_str())
    );
    let mut entries = Entries::default();
    column(api.ask(&statement, doing).await?).iter().for_each(|profile| entries.add(profile));
    Ok(entries)
}

/// What names a user itself, and not a role of its.
pub(super) async fn named_by(api: &Api, user: &Principal, doing: &str) -> Result<Vec<String>, Failure> {
    Ok(column(api.ask(&naming(user), doing).await?))
}

fn naming(user: &Principal) -> String {
    let user = literal(user.as_str());
    let of = |what: &str, table: &str| {
        format!(
            "SELECT concat('{what} ', name) FROM system.{table} WHERE has(apply_to_list, {user}) OR \
             has(apply_to_except, {user})"
        )
    };
    let tables =
        [("row policy", "row_policies"), ("quota", "quotas"), ("settings profile", "settings_profiles")];
    tables.map(|(what, table)| of(what, table)).join(" UNION ALL ")
}

/// The server's time.
pub(super) async fn time(api: &Api, doing: &str) -> Result<Timestamp, Failure> {
    let rows = api.ask("SELECT toString(toUnixTimestamp64Micro(now64(6)))", doing).await?;
    let at = text(&rows, 0).and_then(|at| at.parse().ok()).map(Timestamp::from_microsecond);
    at.and_then(Result::ok).ok_or_else(|| odd("its time", doing))
}

fn check_version(version: &str, doing: &str) -> Result<(), Failure> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let found = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if found >= OLDEST {
        return Ok(());
    }
    let shown: String = version.chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
    let reason = format!("this ClickHouse {shown} is too old: 24.12 is the oldest supported");
    Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy("upgrade the server"))
}

fn text(rows: &Rows, column: usize) -> Option<&str> {
    rows.first()?.get(column)?.as_str()
}

/// The first column.
fn column(rows: Rows) -> Vec<String> {
    rows.iter().filter_map(|row| row.first()?.as_str().map(str::to_owned)).collect()
}
