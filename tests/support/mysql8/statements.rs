//! The statements that the scripted server knows.

use std::time::Duration;

use regex::Regex;
use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Map, Value};

use super::{Account, State, Tables, Who};

/// What a statement is answered with.
pub(crate) enum Reply {
    Done,
    Error(u16),
    /// The number of columns, and the rows.
    Rows(usize, Vec<Vec<Option<String>>>),
}

const SYNTAX: u16 = 1064;
const NO_SUCH_USER: u16 = 1396;
const NO_SUCH_PLUGIN: u16 = 1524;
const NO_SUCH_HASH: u16 = 1827;
const UNKNOWN_AUTHORIZATION: u16 = 3523;
const ROLE_NOT_GRANTED: u16 = 3530;
const EMPTY_NOT_RETAINED: u16 = 3878;
const NOT_RETAINED_BY_ANOTHER_PLUGIN: u16 = 3894;
const NO_ATTRIBUTE: u16 = 3982;

/// When it started, by its own clock.
const BOOT: i64 = 1_700_000_000;

pub(crate) async fn answer(state: &State, who: &Who, statement: &str) -> Reply {
    if let Some(found) = matched(r"^SELECT GET_LOCK\('([^']*)', ([0-9.]+)\)$", statement) {
        let seconds = Duration::from_secs_f64(found[1].parse().expect("seconds"));
        return one(if take(state, who, &found[0], seconds).await { "1" } else { "0" });
    }
    let mut tables = state.tables();
    let reply = known(&mut tables, who, statement);
    if matches!(reply, Reply::Error(SYNTAX)) {
        tables.strange.push(statement.to_owned());
    }
    reply
}

async fn take(state: &State, who: &Who, name: &str, patience: Duration) -> bool {
    let wait = async {
        loop {
            let released = state.lock_released.notified();
            {
                let mut tables = state.tables();
                let holder = *tables.locks.entry(name.to_owned()).or_insert(who.id);
                if holder == who.id {
                    return;
                }
            }
            // Whoever ends in between is seen at the next look.
            let _ = tokio::time::timeout(Duration::from_millis(20), released).await;
        }
    };
    tokio::time::timeout(patience, wait).await.is_ok()
}

fn known(tables: &mut Tables, who: &Who, statement: &str) -> Reply {
    let text = |text: &str| Some(text.to_owned());
    if statement.starts_with("SET SESSION ")
        || statement == "START TRANSACTION READ ONLY"
        || statement == "ROLLBACK"
    {
        return Reply::Done;
    }
    if statement == "SELECT NULL LIMIT 0" {
        return Reply::Rows(1, Vec::new());
    }
    if statement == "SELECT 1" || statement == "SELECT COUNT(*) FROM information_schema.INNODB_CMP" {
        return one("1");
    }
    if statement == "SELECT CURRENT_USER()" {
        return one(&format!("{}@{}", who.user, who.host));
    }
    if statement == "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)" {
        return one(&now());
    }
    if statement.starts_with("SELECT VERSION(), ") && statement.contains("performance_schema.global_status") {
        let admin = format!("{}@{}", who.user, who.host);
        let rounds = (tables.rounds > 0).then(|| tables.rounds.to_string());
        let boot = BOOT.to_string();
        let row = vec![text("8.0.31"), text(&boot), text(&now()), text("0"), text("0"), text(&admin), rounds];
        return Reply::Rows(7, vec![row]);
    }
    if statement.starts_with("SELECT PLUGIN_NAME ") {
        let plugins = ["mysql_native_password", "caching_sha2_password", "sha256_password"];
        return Reply::Rows(1, plugins.iter().map(|plugin| vec![text(plugin)]).collect());
    }
    if statement.starts_with("SELECT User, Host, plugin, HEX(authentication_string)") {
        let names = names(statement);
        let own = tables.accounts.iter().filter(|((user, _), _)| names.contains(user));
        return Reply::Rows(14, own.map(|((user, host), account)| row(user, host, account)).collect());
    }
    if statement.starts_with("SELECT USER, HOST, CONCAT(QUOTE(DEFAULT_ROLE_USER)") {
        let own = tables.accounts.iter().flat_map(|((user, host), account)| {
            account.default_roles.iter().map(|role| vec![text(user), text(host), text(role)])
        });
        return Reply::Rows(3, own.collect());
    }
    if let Some(found) =
        matched(r"^SELECT ID, HOST, CAST\(TIME \* 1000 AS SIGNED\) .*CAST\('([^']*)' AS BINARY\)", statement)
    {
        let own = tables.sessions.iter().filter(|(id, session)| session.user == found[0] && **id != who.id);
        return Reply::Rows(
            3,
            own.map(|(id, _)| vec![text(&id.to_string()), text("localhost"), text("0")]).collect(),
        );
    }
    if let Some(found) = matched(
        r"^SELECT JSON_EXTRACT\(ATTRIBUTE, '\$\.rekeyd'\) .* WHERE USER = '([^']*)' AND HOST = '([^']*)'$",
        statement,
    ) {
        let account = tables.accounts.get(&(found[0].clone(), found[1].clone()));
        let rows = account.map(|account| vec![account.attribute.get("rekeyd").map(Value::to_string)]);
        return Reply::Rows(1, rows.into_iter().collect());
    }
    if statement == "SHOW GRANTS" {
        let to = format!("TO `{}`@`{}`", who.user, who.host);
        let rights =
            ["PROCESS, CREATE USER ON *.*", "CONNECTION_ADMIN,ROLE_ADMIN ON *.*", "SELECT ON `mysql`.*"];
        return Reply::Rows(1, rights.map(|right| vec![text(&format!("GRANT {right} {to}"))]).to_vec());
    }
    if let Some(found) = matched(r"^SHOW GRANTS FOR '([^']*)'@'([^']*)'$", statement) {
        let Some(account) = tables.accounts.get(&(found[0].clone(), found[1].clone())) else {
            return Reply::Error(1141);
        };
        let usage = format!("GRANT USAGE ON *.* TO `{}`@`{}`", found[0], found[1]);
        let roles = (!account.grants.is_empty())
            .then(|| format!("GRANT {} TO `{}`@`{}`", account.grants.join(","), found[0], found[1]));
        return Reply::Rows(1, std::iter::once(usage).chain(roles).map(|line| vec![Some(line)]).collect());
    }
    if let Some(found) = matched(r"^KILL CONNECTION ([0-9]+)$", statement) {
        let id = found[0].parse().expect("a number");
        let Some(session) = tables.sessions.get(&id) else { return Reply::Error(1094) };
        session.end.abort();
        return Reply::Done;
    }
    if let Some(found) = matched(r"^GRANT (`[^`]*`@`%`) TO '([^']*)'@'([^']*)'$", statement) {
        let exists = |user: &str| tables.accounts.contains_key(&(user.to_owned(), "%".to_owned()));
        let role = found[0].trim_start_matches('`').split('`').next().unwrap_or_default();
        if !exists(role) || !exists(&found[1]) {
            return Reply::Error(UNKNOWN_AUTHORIZATION);
        }
        return change(tables, &found[1], &found[2], |account| {
            if !account.grants.contains(&found[0]) {
                account.grants.push(found[0].clone());
                account.grants.sort();
            }
            Reply::Done
        });
    }
    if let Some(found) = matched(r"^CREATE USER IF NOT EXISTS '([^']*)'@'([^']*)'(.*)$", statement) {
        let key = (found[0].clone(), found[1].clone());
        if tables.accounts.contains_key(&key) {
            return Reply::Done;
        }
        tables.accounts.insert(key, Account::default());
        return change(tables, &found[0], &found[1], |account| alter(account, &found[2]));
    }
    if let Some(found) = matched(r"^ALTER USER '([^']*)'@'([^']*)'(.*)$", statement) {
        return change(tables, &found[0], &found[1], |account| alter(account, &found[2]));
    }
    Reply::Error(SYNTAX)
}

fn change(tables: &mut Tables, user: &str, host: &str, how: impl FnOnce(&mut Account) -> Reply) -> Reply {
    match tables.accounts.get_mut(&(user.to_owned(), host.to_owned())) {
        None => Reply::Error(NO_SUCH_USER),
        Some(account) => {
            let mut changed = account.clone();
            let reply = how(&mut changed);
            // A statement is done as a whole or not at all.
            if matches!(reply, Reply::Done) {
                *account = changed;
            }
            reply
        }
    }
}

/// The clauses of `ALTER USER`, in the order that its grammar has.
fn alter(account: &mut Account, clauses: &str) -> Reply {
    let grammar = r"^(?: IDENTIFIED WITH '([a-z0-9_]+)' AS 0x([0-9a-f]+)( RETAIN CURRENT PASSWORD)?)?( DISCARD OLD PASSWORD)?(?: DEFAULT ROLE ([^ ]+))?( ACCOUNT LOCK| ACCOUNT UNLOCK)?(?: ATTRIBUTE '(.*)')?$";
    let Some(found) = matched(grammar, clauses) else { return Reply::Error(SYNTAX) };
    let [plugin, hash, retain, discard, role, lock, attribute] = found.as_slice() else {
        unreachable!("the grammar has seven groups")
    };
    if !plugin.is_empty() {
        let hash: Vec<u8> = hash
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
            .collect();
        let is_hash = match plugin.as_str() {
            "mysql_native_password" => hash.len() == 41 && hash.starts_with(b"*"),
            "caching_sha2_password" => hash.len() == 70 && hash.starts_with(b"$A$0") && hash[6] == b'$',
            _ => return Reply::Error(NO_SUCH_PLUGIN),
        };
        let same = account.plugin == *plugin;
        if !retain.is_empty() {
            if account.primary.is_empty() {
                return Reply::Error(EMPTY_NOT_RETAINED);
            }
            if !same {
                return Reply::Error(NOT_RETAINED_BY_ANOTHER_PLUGIN);
            }
        }
        if !is_hash {
            return Reply::Error(NO_SUCH_HASH);
        }
        if !retain.is_empty() {
            account.secondary = Some(std::mem::take(&mut account.primary));
        } else if !same {
            account.secondary = None;
        }
        (account.plugin, account.primary) = (plugin.clone(), hash);
    }
    if !discard.is_empty() {
        account.secondary = None;
    }
    if !role.is_empty() {
        let granted = |role: &str| account.grants.contains(&role.replace('\'', "`"));
        if !role.split(", ").all(granted) {
            return Reply::Error(ROLE_NOT_GRANTED);
        }
        account.default_roles = role.split(", ").map(str::to_owned).collect();
    }
    if !lock.is_empty() {
        account.locked = lock == " ACCOUNT LOCK";
    }
    if !attribute.is_empty() {
        let Ok(Value::Object(patch)) = serde_json::from_str(&attribute.replace("''", "'")) else {
            return Reply::Error(NO_ATTRIBUTE);
        };
        merge(&mut account.attribute, patch);
        account.had_attribute = true;
    }
    Reply::Done
}

/// As in RFC 7396.
fn merge(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                into.remove(&key);
            }
            Value::Object(patch) => {
                let entry = into.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                merge(entry.as_object_mut().expect("it is one now"), patch);
            }
            value => {
                into.insert(key, value);
            }
        }
    }
}

fn row(user: &str, host: &str, account: &Account) -> Vec<Option<String>> {
    let mut attributes = Map::new();
    if account.had_attribute || !account.attribute.is_empty() {
        attributes.insert("metadata".into(), Value::Object(account.attribute.clone()));
    }
    if let Some(second) = &account.secondary {
        let text = String::from_utf8(second.clone()).expect("a hash is text");
        attributes.insert("additional_password".into(), Value::String(text));
    }
    let hex: String = account.primary.iter().map(|byte| format!("{byte:02X}")).collect();
    let locked = if account.locked { "Y" } else { "N" };
    let attributes = (!attributes.is_empty()).then(|| Value::Object(attributes).to_string());
    let mut row: Vec<Option<String>> =
        [user, host, &account.plugin, &hex, locked].iter().map(|text| Some((*text).to_owned())).collect();
    row.push(attributes);
    row.extend(["", "", "", "", "0", "0", "0", "0"].map(|text| Some(text.to_owned())));
    row
}

/// The names in `User IN ('', 'a', 'b')`.
fn names(statement: &str) -> Vec<String> {
    let list = statement.split(" IN (").nth(1).unwrap_or_default().trim_end_matches(')');
    list.split(", ").map(|name| name.trim_matches('\'').to_owned()).collect()
}

fn matched(pattern: &str, text: &str) -> Option<Vec<String>> {
    let found = Regex::new(pattern).expect("a pattern").captures(text)?;
    let groups = found.iter().skip(1);
    Some(groups.map(|group| group.map(|group| group.as_str().to_owned()).unwrap_or_default()).collect())
}

fn one(value: &str) -> Reply {
    Reply::Rows(1, vec![vec![Some(value.to_owned())]])
}

fn now() -> String {
    SystemClock.now().as_microsecond().to_string()
}
