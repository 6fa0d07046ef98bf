//! What statements do.

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::words::{Reader, Word, quoted, shown, words};
use super::{NOW, RIGHTS, ROOT, Tables, User, Way};

/// What comes of a statement.
pub(super) enum Reply {
    Rows(Vec<Vec<Value>>),
    Done,
    Error(u32),
}

/// Statements, each with the right of its name.
const KNOWN: [&str; 14] = [
    "CREATE SETTINGS PROFILE",
    "DROP SETTINGS PROFILE",
    "CREATE USER",
    "ALTER USER",
    "DROP USER",
    "CREATE ROLE",
    "DROP ROLE",
    "CREATE ROW POLICY",
    "DROP ROW POLICY",
    "CREATE DATABASE",
    "CREATE TABLE",
    "KILL QUERY",
    "GRANT",
    "REVOKE",
];

const SYNTAX: u32 = 62;
const NO_PROFILE: u32 = 180;
const NO_USER: u32 = 192;
const EXISTS: u32 = 493;
const READONLY: u32 = 495;
const DENIED: u32 = 497;
const NO_POLICY: u32 = 523;

/// Carries a statement out for somebody who was let in.
pub(super) fn answer(tables: &mut Tables, user: &str, statement: &str) -> Reply {
    let Some(all) = words(statement) else { return strange(tables, statement) };
    let mut reader = Reader::new(&all);
    if reader.take("SELECT") {
        return select(tables, user, statement);
    }
    if reader.take("SHOW CREATE USER") {
        let Some(name) = reader.name() else { return strange(tables, statement) };
        return match tables.users.get(&name) {
            _ if !may(tables, user, "SHOW ACCESS") => Reply::Error(DENIED),
            Some(held) => Reply::Rows(vec![vec![json!(show(tables, &name, held))]]),
            None => Reply::Error(NO_USER),
        };
    }
    if reader.take("SHOW GRANTS FOR") {
        let Some(name) = reader.name() else { return strange(tables, statement) };
        if !may(tables, user, "SHOW ACCESS") {
            return Reply::Error(DENIED);
        }
        let Some(held) = tables.users.get(&name) else { return Reply::Error(NO_USER) };
        let to =
            if name.chars().all(|c| c.is_alphanumeric() || c == '_') { name } else { quoted(&name, '`') };
        let lines = told(&held.grants).into_iter().map(|line| vec![json!(line.replace("{}", &to))]);
        return Reply::Rows(lines.collect());
    }
    if reader.take("CHECK GRANT") {
        let right = reader.before(&["ON"]);
        return Reply::Rows(vec![vec![json!(u8::from(may(tables, user, &right)))]]);
    }
    let Some(known) = KNOWN.iter().find(|known| statement.starts_with(**known)) else {
        return strange(tables, statement);
    };
    // Who replaces a user drops one.
    let dropping = statement.starts_with("CREATE USER OR REPLACE") && !may(tables, user, "DROP USER");
    let granting = matches!(*known, "GRANT" | "REVOKE");
    if dropping || !granting && !may(tables, user, known) {
        return Reply::Error(DENIED);
    }
    reader.take(known);
    let done = match *known {
        "CREATE SETTINGS PROFILE" => create_profile(tables, &mut reader),
        "DROP SETTINGS PROFILE" => drop_profiles(tables, &mut reader),
        "CREATE USER" => create_user(tables, &mut reader),
        "ALTER USER" => alter_user(tables, &mut reader),
        "DROP USER" => reader.name().map(|name| tables.users.remove(&name).map(drop).ok_or(NO_USER)),
        "CREATE ROLE" => role(reader.name(), |name| tables.roles.insert(name)),
        "DROP ROLE" => role(reader.name(), |name| tables.roles.remove(&name)),
        "CREATE ROW POLICY" => create_row_policy(tables, &mut reader),
        "DROP ROW POLICY" => drop_row_policy(tables, &mut reader),
        "CREATE DATABASE" | "CREATE TABLE" => Some(Ok(())),
        "KILL QUERY" => kill(tables, &all),
        _ => grant(tables, user, &all),
    };
    match done {
        Some(Ok(())) => {
            if user != ROOT && !statement.contains(" TO NONE") {
                tables.changes.push(statement.to_owned());
            }
            Reply::Done
        }
        Some(Err(code)) => Reply::Error(code),
        None => strange(tables, statement),
    }
}

fn strange(tables: &mut Tables, statement: &str) -> Reply {
    tables.strange.push(statement.to_owned());
    Reply::Error(SYNTAX)
}

fn may(tables: &Tables, user: &str, right: &str) -> bool {
    user == ROOT || tables.users.get(user).is_some_and(|user| user.rights.contains(right))
}

fn select(tables: &mut Tables, user: &str, statement: &str) -> Reply {
    let all = words(statement).unwrap_or_default();
    let text =
        || all.iter().find_map(|word| if let Word::Text(text) = word { Some(text.clone()) } else { None });
    let rows = |rows| Reply::Rows(rows);
    match statement {
        "SELECT currentUser()" => rows(vec![vec![json!(user)]]),
        "SELECT version(), currentUser(), toString(now())" => {
            rows(vec![vec![json!(tables.version), json!(user), json!(NOW)]])
        }
        "SELECT toString(toUnixTimestamp64Micro(now64(6)))" => {
            let now = SystemClock.now().as_microsecond().to_string();
            rows(vec![vec![json!(now)]])
        }
        "SELECT type FROM system.user_directories" => {
            rows(tables.directories.iter().map(|kind| vec![json!(kind)]).collect())
        }
        _ if statement.starts_with("SELECT count() FROM ") => {
            let Some(Word::Plain(database)) = all.get(5) else { return strange(tables, statement) };
            match tables.users[user].grants.iter().any(|line| line.contains(&format!(" ON {database}."))) {
                true => rows(vec![vec![json!(0)]]),
                false => Reply::Error(DENIED),
            }
        }
        _ if statement.contains(" FROM system.") && !may(tables, user, "SELECT") => Reply::Error(DENIED),
        _ if statement.starts_with("SELECT toString(length(auth_type)) FROM system.users WHERE name =") => {
            let held = text().and_then(|name| tables.users.get(&name));
            rows(held.map(|user| vec![json!(user.ways.len().to_string())]).into_iter().collect())
        }
        "SELECT name FROM system.settings_profiles" => {
            rows(tables.profiles.keys().map(|name| vec![json!(name)]).collect())
        }
        _ if statement.starts_with("SELECT toString(id) FROM system.users WHERE name =") => {
            let held = text().and_then(|name| tables.users.get(&name));
            rows(held.map(|user| vec![json!(user.id.to_string())]).into_iter().collect())
        }
        _ if statement.starts_with("SELECT name FROM system.roles") => {
            let asked =
                all.iter().filter_map(|word| if let Word::Text(text) = word { Some(text) } else { None });
            rows(asked.filter(|name| tables.roles.contains(*name)).map(|name| vec![json!(name)]).collect())
        }
        _ if statement.contains("FROM system.users WHERE name =") => {
            let Some(held) = text().and_then(|name| tables.users.get(&name)) else { return rows(Vec::new()) };
            let kinds: Vec<&str> = held.ways.iter().map(|way| way.kind.as_str()).collect();
            rows(vec![vec![json!(held.storage), json!(kinds)]])
        }
        _ if statement.contains("FROM system.settings_profile_elements") => {
            let Some(held) = text().and_then(|name| tables.users.get(&name)) else { return rows(Vec::new()) };
            rows(tables.profiles_of(held).into_iter().map(|name| vec![json!(name)]).collect())
        }
        _ if statement.contains("FROM system.row_policies") => {
            let texts: Vec<&String> = all
                .iter()
                .filter_map(|word| if let Word::Text(text) = word { Some(text) } else { None })
                .collect();
            let Some(held) = texts.get(1).and_then(|name| tables.users.get(*name)) else {
                return rows(Vec::new());
            };
            let naming = tables.policies.iter().filter(|(_, users)| users.contains(&held.id));
            rows(naming.map(|(name, _)| vec![json!(name)]).collect())
        }
        _ if statement.contains("FROM system.processes") => {
            let name = text().unwrap_or_default();
            let own = tables.queries.iter().filter(|(_, query)| query.user == name);
            rows(
                own.map(|(id, query)| {
                    let elapsed = query.since.elapsed().as_micros().to_string();
                    let address = "::ffff:127.0.0.1";
                    vec![json!(id.to_string()), json!(address), json!(""), json!(query.agent), json!(elapsed)]
                })
                .collect(),
            )
        }
        _ => strange(tables, statement),
    }
}

/// As `SHOW GRANTS` does: roles behind the rest, several in one line.
fn told(grants: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = grants.iter().filter(|line| line.contains(" ON ")).cloned().collect();
    for option in ["", " WITH ADMIN OPTION"] {
        let role = |line: &String| {
            let role = line.strip_prefix("GRANT ")?.strip_suffix(option)?.strip_suffix(" TO {}")?;
            (!line.contains(" ON ")).then(|| role.to_owned())
        };
        let mut roles: Vec<String> = grants.iter().filter_map(role).collect();
        roles.sort();
        if !roles.is_empty() {
            lines.push(format!("GRANT {} TO {{}}{option}", roles.join(", ")));
        }
    }
    lines
}

/// As `SHOW CREATE USER` does, without hashes.
fn show(tables: &Tables, name: &str, user: &User) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let mut text = format!("CREATE USER {}", if plain { name.to_owned() } else { quoted(name, '`') });
    let ways: Vec<String> = user
        .ways
        .iter()
        .map(|way| match &way.until {
            Some(until) => format!("{} VALID UNTIL '{until}'", way.kind),
            None => way.kind.clone(),
        })
        .collect();
    text.push_str(&format!(" IDENTIFIED WITH {}", ways.join(", ")));
    let profiles = tables.profiles_of(user).into_iter().map(|name| format!("PROFILE {}", quoted(&name, '`')));
    let settings: Vec<String> = user.settings.iter().cloned().chain(profiles).collect();
    let settings = (!settings.is_empty()).then(|| settings.join(", "));
    for (word, inside) in [
        ("HOST", &user.host),
        ("DEFAULT DATABASE", &user.default_database),
        ("DEFAULT ROLE", &user.default_role),
        ("SETTINGS", &settings),
        ("GRANTEES", &user.grantees),
    ] {
        if let Some(inside) = inside {
            text.push_str(&format!(" {word} {inside}"));
        }
    }
    text
}

type Done = Option<Result<(), u32>>;

/// Makes a role or drops it; there is one of the name, or none, from then on.
fn role(name: Option<String>, change: impl FnOnce(String) -> bool) -> Done {
    change(name?);
    Some(Ok(()))
}

fn create_profile(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let lenient = reader.take("IF NOT EXISTS");
    let name = reader.name()?;
    if tables.profiles.contains_key(&name) {
        return Some(if lenient { Ok(()) } else { Err(EXISTS) });
    }
    let id = tables.id();
    tables.profiles.insert(name, id);
    reader.is_done().then_some(Ok(()))
}

fn drop_profiles(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let lenient = reader.take("IF EXISTS");
    loop {
        let name = reader.name()?;
        let id = tables.profiles.remove(&name);
        if id.is_none() && !lenient {
            return Some(Err(NO_PROFILE));
        }
        tables.users.values_mut().for_each(|user| user.profiles.retain(|other| Some(*other) != id));
        if !reader.sign(',') {
            return reader.is_done().then_some(Ok(()));
        }
    }
}

fn create_user(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let (lenient, replaces) = (reader.take("IF NOT EXISTS"), reader.take("OR REPLACE"));
    let name = reader.name()?;
    reader.take("IDENTIFIED WITH").then_some(())?;
    let ways = identified(reader)?;
    let mut user = User::new(0, ways);
    while !reader.is_done() {
        match clause(tables, reader, &mut user)? {
            Ok(()) => {}
            Err(code) => return Some(Err(code)),
        }
    }
    match tables.users.get(&name) {
        Some(_) if lenient => return Some(Ok(())),
        Some(held) if held.storage == "users_xml" => return Some(Err(READONLY)),
        Some(_) if !replaces => return Some(Err(EXISTS)),
        // What named the one before names nobody now.
        Some(held) => {
            let id = held.id;
            tables.policies.values_mut().for_each(|users| users.retain(|named| *named != id));
        }
        None => {}
    }
    user.id = tables.id();
    tables.users.insert(name, user);
    Some(Ok(()))
}

/// One that says how a user is to be, besides the ways to log in.
fn clause(tables: &Tables, reader: &mut Reader<'_>, user: &mut User) -> Done {
    const NEXT: [&str; 4] = ["HOST", "DEFAULT", "SETTINGS", "GRANTEES"];
    let usual = |told: String| (told != "ANY").then_some(told);
    if reader.take("HOST") {
        user.host = usual(reader.before(&NEXT));
    } else if reader.take("DEFAULT DATABASE") {
        user.default_database = Some(reader.before(&NEXT));
    } else if reader.take("DEFAULT ROLE") {
        user.default_role = Some(reader.before(&NEXT));
    } else if reader.take("GRANTEES") {
        user.grantees = usual(reader.before(&NEXT));
    } else if reader.take("SETTINGS") {
        // All of them, instead of those that there were.
        (user.settings, user.profiles) = (Vec::new(), Vec::new());
        if reader.take("NONE") {
            return Some(Ok(()));
        }
        loop {
            if reader.take("PROFILE") {
                match tables.profiles.get(&reader.name()?) {
                    Some(id) => user.profiles.push(*id),
                    None => return Some(Err(NO_PROFILE)),
                }
            } else {
                let name = reader.name()?;
                reader.sign('=').then_some(())?;
                user.settings.push(format!("{name} = {}", reader.name()?));
            }
            if !reader.sign(',') {
                break;
            }
        }
    } else {
        return None;
    }
    Some(Ok(()))
}

fn alter_user(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let name = reader.name()?;
    let Some(mut user) = tables.users.get(&name).cloned() else { return Some(Err(NO_USER)) };
    while !reader.is_done() {
        if reader.take("NOT IDENTIFIED") {
            user.ways = vec![Way { kind: "no_password".to_owned(), ..Way::of("") }];
        } else if reader.take("IDENTIFIED WITH") {
            user.ways = identified(reader)?;
        } else if reader.take("ADD IDENTIFIED WITH") {
            user.ways.extend(identified(reader)?);
        } else if reader.take("DROP PROFILES") {
            let Some(id) = tables.profiles.get(&reader.name()?) else { return Some(Err(NO_PROFILE)) };
            user.profiles.retain(|other| other != id);
        } else if reader.take("ADD SETTINGS") {
            let name = reader.name()?;
            reader.sign('=').then_some(())?;
            user.settings.push(format!("{name} = {}", reader.name()?));
        } else if reader.take("DROP SETTINGS") {
            let name = format!("{} = ", reader.name()?);
            user.settings.retain(|setting| !setting.starts_with(&name));
        } else if reader.take("ADD PROFILES") {
            let Some(id) = tables.profiles.get(&reader.name()?) else { return Some(Err(NO_PROFILE)) };
            user.profiles.retain(|other| other != id);
            user.profiles.push(*id);
        } else if let Err(code) = clause(tables, reader, &mut user)? {
            return Some(Err(code));
        }
    }
    if user.storage == "users_xml" {
        return Some(Err(READONLY));
    }
    tables.users.insert(name, user);
    Some(Ok(()))
}

fn identified(reader: &mut Reader<'_>) -> Option<Vec<Way>> {
    let mut ways = Vec::new();
    loop {
        let mut way = way(reader)?;
        if reader.take("VALID UNTIL") {
            way.until = Some(reader.text()?);
        }
        ways.push(way);
        if !reader.sign(',') {
            return Some(ways);
        }
    }
}

fn way(reader: &mut Reader<'_>) -> Option<Way> {
    let other = |kind: &str| Way { kind: kind.to_owned(), ..Way::of("") };
    if reader.take("sha256_password BY") {
        return Some(Way::of(&reader.text()?));
    }
    if reader.take("sha256_hash BY") {
        let hash = reader.text()?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        reader.take("SALT").then_some(())?;
        let salt = reader.text()?;
        return Some(Way { hash, salt, ..Way::of("") });
    }
    let others = [
        ("ldap SERVER", "ldap"),
        ("ssl_certificate CN", "ssl_certificate"),
        ("double_sha1_password BY", "double_sha1_password"),
    ];
    let (_, kind) = others.into_iter().find(|(words, _)| reader.take(words))?;
    reader.text()?;
    Some(other(kind))
}

fn kill(tables: &mut Tables, all: &[Word]) -> Done {
    let ids = all.iter().filter_map(|word| if let Word::Text(id) = word { id.parse().ok() } else { None });
    let ids: Vec<u64> = ids.collect();
    tables.queries.retain(|id, _| !ids.contains(id));
    Some(Ok(()))
}

/// `GRANT ... TO user` and `REVOKE ... FROM user`; the user's name is the last one.
fn grant(tables: &mut Tables, by: &str, all: &[Word]) -> Done {
    let is_to = |word: &Word| matches!(word, Word::Plain(word) if word == "TO" || word == "FROM");
    let to = all.iter().rposition(is_to)?;
    let (Word::Name(name) | Word::Plain(name)) = all.get(to + 1)? else { return None };
    // A grant to nobody is checked like any.
    let is_nobody = all.get(to + 1) == Some(&Word::Plain("NONE".into()));
    if !is_nobody && !tables.users.contains_key(name) {
        return Some(Err(NO_USER));
    }
    let grants = all[0] == Word::Plain("GRANT".into());
    let (what, option) = (shown(&all[1..to]), shown(&all[to + 2..]));
    // Names are told without quotes where they need none.
    let what = match all {
        [_, Word::Name(role), Word::Plain(_), ..] => what.replacen(&quoted(role, '`'), role, 1),
        _ => what,
    };
    let own = |tables: &Tables| {
        let line = |option| format!("GRANT {what} TO {{}} WITH {option} OPTION");
        tables
            .users
            .get(by)
            .is_some_and(|by| by.grants.contains(&line("GRANT")) || by.grants.contains(&line("ADMIN")))
    };
    if by != ROOT && !own(tables) {
        return Some(Err(DENIED));
    }
    if is_nobody {
        return Some(Ok(()));
    }
    let user = tables.users.get_mut(name)?;
    // What one may do to others is kept by itself.
    let rights = what.strip_suffix(" ON *.*").or(what.strip_suffix(" ON system.*")).unwrap_or_default();
    let rights: Vec<&str> = rights.split(", ").filter(|right| RIGHTS.contains(right)).collect();
    if !rights.is_empty() {
        for right in rights {
            if grants {
                user.rights.insert(right.to_owned())
            } else {
                user.rights.remove(right)
            };
        }
        return Some(Ok(()));
    }
    let direction = if grants { "GRANT" } else { "REVOKE" };
    let joint = if grants { "TO" } else { "FROM" };
    let line = format!("{direction} {what} {joint} {{}} {option}").trim().to_owned();
    let granted = format!("GRANT {what} TO {{}}");
    if !grants && user.grants.iter().any(|line| line.starts_with(&granted)) {
        user.grants.retain(|line| !line.starts_with(&granted));
    } else if !user.grants.contains(&line) {
        user.grants.push(line);
    }
    Some(Ok(()))
}

/// `p ON db.t USING 1 TO a, b`
fn create_row_policy(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let name = reader.name()?;
    reader.take("ON").then_some(())?;
    let on = reader.before(&["USING"]);
    reader.take("USING").then_some(())?;
    reader.before(&["TO"]);
    reader.take("TO").then_some(())?;
    let mut users = std::collections::BTreeSet::new();
    loop {
        match tables.users.get(&reader.name()?) {
            Some(user) => users.insert(user.id),
            None => return Some(Err(NO_USER)),
        };
        if !reader.sign(',') {
            tables.policies.insert(format!("row policy {name} ON {on}"), users);
            return Some(Ok(()));
        }
    }
}

fn drop_row_policy(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let name = reader.name()?;
    reader.take("ON").then_some(())?;
    let name = format!("row policy {name} ON {}", reader.before(&[]));
    Some(tables.policies.remove(&name).map(drop).ok_or(NO_POLICY))
}
