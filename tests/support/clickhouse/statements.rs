//! What statements do.

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::words::{Reader, Word, quoted, shown, words};
use super::{NOW, Tables, User, Way};

/// What comes of a statement.
pub(super) enum Reply {
    Rows(Vec<Vec<Value>>),
    Done,
    Error(u32),
}

const SYNTAX: u32 = 62;
const NO_PROFILE: u32 = 180;
const NO_USER: u32 = 192;
const EXISTS: u32 = 493;
const READONLY: u32 = 495;
const DENIED: u32 = 497;

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
            Some(_) if !may(tables, user, "ALTER USER") => Reply::Error(DENIED),
            Some(held) => Reply::Rows(vec![vec![json!(show(tables, &name, held))]]),
            None => Reply::Error(NO_USER),
        };
    }
    if reader.take("SHOW GRANTS FOR") {
        let Some(name) = reader.name() else { return strange(tables, statement) };
        let Some(held) = tables.users.get(&name) else { return Reply::Error(NO_USER) };
        let to =
            if name.chars().all(|c| c.is_alphanumeric() || c == '_') { name } else { quoted(&name, '`') };
        return Reply::Rows(held.grants.iter().map(|line| vec![json!(line.replace("{}", &to))]).collect());
    }
    if reader.take("CHECK GRANT") {
        let right = reader.before(&["ON"]);
        return Reply::Rows(vec![vec![json!(u8::from(may(tables, user, &right)))]]);
    }
    let right = [
        "CREATE SETTINGS PROFILE",
        "DROP SETTINGS PROFILE",
        "CREATE USER",
        "ALTER USER",
        "KILL QUERY",
        "GRANT",
    ]
    .into_iter()
    .find(|right| statement.starts_with(right));
    let known = right.or(statement.starts_with("REVOKE").then_some("GRANT"));
    let Some(right) = known else { return strange(tables, statement) };
    if !may(tables, user, right) {
        return Reply::Error(DENIED);
    }
    reader.take(right);
    let done = match right {
        "CREATE SETTINGS PROFILE" => create_profile(tables, &mut reader),
        "DROP SETTINGS PROFILE" => drop_profiles(tables, &mut reader),
        "CREATE USER" => create_user(tables, &mut reader),
        "ALTER USER" => alter_user(tables, &mut reader),
        "KILL QUERY" => kill(tables, &all),
        _ => grant(tables, statement, &all),
    };
    match done {
        Some(Ok(())) => {
            tables.changes.push(statement.to_owned());
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
    tables.users.get(user).is_some_and(|user| user.rights.contains(right))
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
        "SELECT count() FROM shop.orders WHERE false" => {
            match tables.users[user].grants.iter().any(|line| line.contains("shop")) {
                true => rows(vec![vec![json!(1)]]),
                false => Reply::Error(DENIED),
            }
        }
        _ if statement.starts_with("SELECT name FROM system.roles") => {
            let asked =
                all.iter().filter_map(|word| if let Word::Text(text) = word { Some(text) } else { None });
            rows(asked.filter(|name| tables.roles.contains(*name)).map(|name| vec![json!(name)]).collect())
        }
        _ if statement.contains("FROM system.users WHERE name =") => {
            if !may(tables, user, "ALTER USER") {
                return Reply::Error(DENIED);
            }
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
    if !reader.take("IDENTIFIED WITH") {
        return None;
    }
    let ways = identified(reader)?;
    let mut user = User::new(0, ways);
    while !reader.is_done() {
        if reader.take("HOST") {
            user.host = Some(reader.before(&["DEFAULT", "SETTINGS", "GRANTEES"]));
        } else if reader.take("DEFAULT DATABASE") {
            user.default_database = Some(reader.before(&["DEFAULT", "SETTINGS", "GRANTEES"]));
        } else if reader.take("GRANTEES") {
            user.grantees = Some(reader.before(&["SETTINGS"]));
        } else if reader.take("SETTINGS") {
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

fn alter_user(tables: &mut Tables, reader: &mut Reader<'_>) -> Done {
    let name = reader.name()?;
    let Some(mut user) = tables.users.get(&name).cloned() else { return Some(Err(NO_USER)) };
    while !reader.is_done() {
        if reader.take("IDENTIFIED WITH") {
            user.ways = identified(reader)?;
        } else if reader.take("ADD IDENTIFIED WITH") {
            user.ways.extend(identified(reader)?);
        } else if reader.take("DEFAULT ROLE") {
            user.default_role = Some(reader.before(&["SETTINGS", "GRANTEES"]));
        } else if reader.take("DROP PROFILES") {
            let Some(id) = tables.profiles.get(&reader.name()?) else { return Some(Err(NO_PROFILE)) };
            user.profiles.retain(|other| other != id);
        } else if reader.take("ADD PROFILES") {
            let Some(id) = tables.profiles.get(&reader.name()?) else { return Some(Err(NO_PROFILE)) };
            user.profiles.retain(|other| other != id);
            user.profiles.push(*id);
        } else {
            return None;
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
        reader.take("sha256_hash BY").then_some(())?;
        let hash = reader.text()?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        reader.take("SALT").then_some(())?;
        let salt = reader.text()?;
        let until = if reader.take("VALID UNTIL") { Some(reader.text()?) } else { None };
        ways.push(Way { kind: "sha256_password".to_owned(), hash, salt, until });
        if !reader.sign(',') {
            return Some(ways);
        }
    }
}

fn kill(tables: &mut Tables, all: &[Word]) -> Done {
    let ids = all.iter().filter_map(|word| if let Word::Text(id) = word { id.parse().ok() } else { None });
    let ids: Vec<u64> = ids.collect();
    tables.queries.retain(|id, _| !ids.contains(id));
    Some(Ok(()))
}

/// `GRANT ... TO user`; the user's name is the last that is quoted.
fn grant(tables: &mut Tables, statement: &str, all: &[Word]) -> Done {
    let at = all.iter().rposition(|word| matches!(word, Word::Name(_)))?;
    let Word::Name(name) = &all[at] else { return None };
    let Some(user) = tables.users.get_mut(name) else { return Some(Err(NO_USER)) };
    let line = format!("{} {{}} {}", shown(&all[..at]), shown(&all[at + 1..])).trim().to_owned();
    // One role is told without quotes.
    let line = match all {
        [_, Word::Name(role), ..] if statement.starts_with("GRANT") => {
            line.replacen(&quoted(role, '`'), role, 1)
        }
        _ => line,
    };
    if !user.grants.contains(&line) {
        user.grants.push(line);
    }
    Some(Ok(()))
}
