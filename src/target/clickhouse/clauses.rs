//! What a user is made with, as `SHOW CREATE USER` tells it.
//!
//! ```text
//! CREATE USER app IDENTIFIED WITH sha256_password, sha256_password VALID UNTIL '2000-01-01 00:00:00'
//! HOST IP '10.0.0.0/8' DEFAULT DATABASE shop DEFAULT ROLE reader SETTINGS PROFILE `ro`, max_threads = 3 GRANTEES NONE
//! ```
//!
//! A clause that is usual is left out. The texts of clauses are passed on as they are: they are the server's own.

use super::marker::Entry;

/// The clauses of a user, without its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clauses {
    /// One for each way to log in.
    ways: Vec<String>,
    host: Option<String>,
    default_database: Option<String>,
    default_role: Option<String>,
    /// Without markers.
    settings: Vec<String>,
    grantees: Option<String>,
}

impl Clauses {
    /// `None` where it is not of that form.
    pub(super) fn parse(shown: &str) -> Option<Self> {
        let rest = shown.strip_prefix("CREATE USER ")?;
        let text = &rest[name_length(rest)?..];
        let marks = marks(text);
        let mut clauses = Self::default();
        if marks.first().is_some_and(|(_, start, _)| !text[..*start].trim().is_empty()) {
            return None;
        }
        for (index, (clause, _, start)) in marks.iter().enumerate() {
            let end = marks.get(index + 1).map_or(text.len(), |(_, start, _)| *start);
            let inside = text[*start..end].trim().to_owned();
            match clause {
                Clause::NotIdentified => clauses.ways = vec!["no_password".to_owned()],
                Clause::Identified => clauses.ways = parts(inside.strip_prefix("WITH ")?),
                Clause::Host => clauses.host = Some(inside),
                Clause::DefaultDatabase => clauses.default_database = Some(inside),
                Clause::DefaultRole => clauses.default_role = Some(inside),
                Clause::Grantees => clauses.grantees = Some(inside),
                Clause::Settings => {
                    clauses.settings =
                        parts(&inside).into_iter().filter(|item| !Entry::is_in_setting(item)).collect();
                }
            }
        }
        Some(clauses)
    }

    /// Until when each way to log in is valid, by the server's time; nothing where it is for ever.
    pub(super) fn valid_until(&self) -> Vec<Option<&str>> {
        let until = |way: &String| -> Option<(usize, usize)> {
            let start = way.find("VALID UNTIL '")? + "VALID UNTIL '".len();
            Some((start, start + way[start..].find('\'')?))
        };
        self.ways.iter().map(|way| until(way).map(|(start, end)| &way[start..end])).collect()
    }

    /// What differs besides the ways to log in, in words.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let mut differ = Vec::new();
        let pairs = [
            ("the hosts that it may log in from", self.host != other.host),
            ("the default database", self.default_database != other.default_database),
            ("the default roles", self.default_role != other.default_role),
            ("the settings", self.settings != other.settings),
            ("whom it may grant to", self.grantees != other.grantees),
        ];
        differ.extend(pairs.iter().filter(|(_, differs)| *differs).map(|(what, _)| *what));
        differ
    }

    /// What a user is made with that has these clauses, and this profile besides.
    pub(super) fn making(&self, profile: &str) -> String {
        let mut text = String::new();
        let mut push = |word: &str, inside: &Option<String>| {
            if let Some(inside) = inside {
                text.push_str(&format!(" {word} {inside}"));
            }
        };
        push("HOST", &self.host);
        push("DEFAULT DATABASE", &self.default_database);
        let profile = format!("PROFILE {}", super::sql::ident(profile));
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).chain([&*profile]).collect();
        push("SETTINGS", &Some(settings.join(", ")));
        push("GRANTEES", &self.grantees);
        text
    }

    /// Roles are granted before they can be default ones.
    pub(super) fn default_role(&self) -> Option<&str> {
        self.default_role.as_deref()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    NotIdentified,
    Identified,
    Host,
    DefaultDatabase,
    DefaultRole,
    Settings,
    Grantees,
}

/// How long the name is that a text begins with.
fn name_length(text: &str) -> Option<usize> {
    if !text.starts_with('`') {
        return Some(text.find(' ').unwrap_or(text.len()));
    }
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '`' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Where clauses begin, and where what is in them.
fn marks(text: &str) -> Vec<(Clause, usize, usize)> {
    let words: Vec<(usize, &str)> = words(text);
    let mut marks = Vec::new();
    for (index, (start, word)) in words.iter().enumerate() {
        let next = words.get(index + 1).map_or(("", 0), |(at, next)| (*next, at + next.len()));
        let end = start + word.len();
        let (clause, end) = match (*word, next.0) {
            ("NOT", "IDENTIFIED") => (Clause::NotIdentified, next.1),
            ("IDENTIFIED", "WITH") => (Clause::Identified, end),
            ("HOST", _) => (Clause::Host, end),
            ("DEFAULT", "DATABASE") => (Clause::DefaultDatabase, next.1),
            ("DEFAULT", "ROLE") => (Clause::DefaultRole, next.1),
            ("SETTINGS", _) => (Clause::Settings, end),
            ("GRANTEES", _) => (Clause::Grantees, end),
            _ => continue,
        };
        marks.push((clause, *start, end));
    }
    marks
}

/// The words outside of quotes, and where they are.
pub(super) fn words(text: &str) -> Vec<(usize, &str)> {
    let (mut words, mut start) = (Vec::new(), None);
    for (at, c) in plain(text) {
        match (c.is_alphanumeric() || c == '_', start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push((from, &text[from..at]));
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|from| (from, &text[from..])));
    words
}

/// The parts between commas outside of quotes and brackets.
pub(super) fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, c) in plain(text) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim().to_owned());
    parts
}

/// The characters outside of quotes; a quote itself is among them.
fn plain(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    let mut escaped = false;
    text.char_indices().filter(move |(_, c)| match quote {
        Some(_) if escaped => {
            escaped = false;
            false
        }
        Some(_) if *c == '\\' => {
            escaped = true;
            false
        }
        Some(open) if *c == open => {
            quote = None;
            true
        }
        Some(_) => false,
        None => {
            if matches!(c, '\'' | '`' | '"') {
                quote = Some(*c);
            }
            true
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_shows_is_read() {
        // As ClickHouse 26.9 shows it.
        let shown = "CREATE USER app_a IDENTIFIED WITH sha256_password, double_sha1_password HOST IP '10.0.0.0/8', \
                     NAME 'db.example.com' DEFAULT DATABASE shop SETTINGS PROFILE `ro`";
        let clauses = Clauses::parse(shown).expect("clauses");
        assert_eq!(clauses.ways, ["sha256_password", "double_sha1_password"]);
        assert_eq!(clauses.host.as_deref(), Some("IP '10.0.0.0/8', NAME 'db.example.com'"));
        assert_eq!(clauses.default_database.as_deref(), Some("shop"));
        assert_eq!(clauses.settings, ["PROFILE `ro`"]);
        assert_eq!(
            clauses.making("x"),
            " HOST IP '10.0.0.0/8', NAME 'db.example.com' DEFAULT DATABASE shop SETTINGS PROFILE `ro`, PROFILE `x`"
        );
        let plain = Clauses::parse("CREATE USER app IDENTIFIED WITH sha256_password").expect("clauses");
        assert_eq!(plain.making("x"), " SETTINGS PROFILE `x`");
        assert_eq!(Clauses::parse("CREATE USER app NOT IDENTIFIED").expect("clauses").ways, ["no_password"]);
        assert_eq!(Clauses::parse("CREATE USER app").expect("clauses"), Clauses::default());
        assert_eq!(Clauses::parse("CREATE ROLE app"), None);
        assert_eq!(Clauses::parse("CREATE USER app WHATEVER x HOST ANY"), None);
    }

    #[test]
    fn words_in_quotes_are_no_clauses() {
        let shown = "CREATE USER `a HOST b\\` x` IDENTIFIED WITH sha256_password VALID UNTIL '2000-01-01 00:00:00', \
                     ldap SERVER 'HOST, SETTINGS \\' GRANTEES' DEFAULT ROLE `r, DEFAULT ROLE`, s SETTINGS x = \
                     'it\\'s, HOST', PROFILE `[rekeyd policy=a/b version=1 fence=1 \
                     rotation=0197a1b2-0000-7000-8000-000000000000 state=installed] a`, y = [1, 2] CONST GRANTEES `u`";
        let clauses = Clauses::parse(shown).expect("clauses");
        assert_eq!(clauses.ways.len(), 2);
        assert_eq!(clauses.valid_until(), [Some("2000-01-01 00:00:00"), None]);
        assert_eq!(clauses.host, None);
        assert_eq!(clauses.default_role(), Some("`r, DEFAULT ROLE`, s"));
        assert_eq!(clauses.settings, ["x = 'it\\'s, HOST'", "y = [1, 2] CONST"], "without the marker");
        assert_eq!(clauses.grantees.as_deref(), Some("`u`"));
        let other = Clauses { host: Some("NONE".into()), ways: Vec::new(), ..clauses.clone() };
        assert_eq!(clauses.differences(&other), ["the hosts that it may log in from"]);
    }
}
