//! What the server knows about the accounts of a policy.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::connect::{Flavor, Session};
use super::error::{Stage, batch_failure};
use super::marker::{Marker, UnreadableMarker};
use super::rights::{Rights, SYSTEM_USER};
use super::sql::{self, Row, account, literal, lock_name};
use super::verifier::{self, Rounds};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::secret::SecretValue;

/// Which accounts to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) principal: &'a Principal,
    /// The host part of both.
    pub(super) host: &'a str,
    pub(super) peer: Option<&'a Principal>,
    pub(super) groups: &'a [Principal],
}

/// Whether an account's lock is taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locking {
    /// It is held for as long as the session lasts.
    Yes,
    No,
}

#[derive(Debug)]
pub(super) struct Facts {
    pub(super) flavor: Flavor,
    pub(super) version: String,
    /// When the server started, by its own clock.
    pub(super) boot: i64,
    /// The server's time, in microseconds.
    pub(super) now: i64,
    pub(super) read_only: bool,
    /// Whether it takes no hash in the place of a password.
    pub(super) refuses_hashes: bool,
    /// The ways to log in that it has.
    pub(super) plugins: Vec<String>,
    /// How often MySQL hashes.
    pub(super) rounds: Rounds,
    /// What is to be kept of values by `caching_sha2_password`, as far as that was worked out.
    pub(super) made: Vec<(Arc<SecretValue>, Zeroizing<Vec<u8>>)>,
    /// Who rekeyd is there, `user@host`.
    pub(super) admin: String,
    /// Of the users that were asked for, and without a name.
    accounts: Vec<Account>,
    /// Which of the groups exist.
    groups: Vec<String>,
    /// Whether there is a table for markers.
    pub(super) has_table: bool,
    pub(super) marker: Result<Option<Marker>, UnreadableMarker>,
    pub(super) sessions: Vec<Thread>,
}

/// One account.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) user: String,
    pub(super) host: String,
    /// In the order in which they are tried.
    pub(super) methods: Vec<Method>,
    pub(super) locked: bool,
    pub(super) limits: Limits,
    /// As statements name them.
    pub(super) default_roles: Vec<String>,
    /// As `SHOW GRANTS` tells them.
    pub(super) grants: Vec<String>,
}

impl Account {
    /// Whether a value lets somebody in.
    pub(super) fn is_open(&self) -> bool {
        !self.locked && self.methods.iter().any(|method| !method.is_void())
    }
}

/// One way to log in to an account.
#[derive(Debug, Clone)]
pub(super) struct Method {
    pub(super) plugin: String,
    pub(super) kept: Vec<u8>,
    /// Whether it is of these values.
    pub(super) compared: Vec<(Arc<SecretValue>, bool)>,
}

impl Method {
    pub(super) const fn new(plugin: String, kept: Vec<u8>) -> Self {
        Self { plugin, kept, compared: Vec::new() }
    }

    pub(super) fn holds(&self, value: &SecretValue) -> bool {
        let known = self.compared.iter().find(|(compared, _)| **compared == *value);
        known.map_or_else(|| verifier::holds(&self.plugin, &self.kept, value), |(_, holds)| *holds)
    }

    /// Whether nobody chose it: it lets nobody in, or was never given a password.
    pub(super) fn is_void(&self) -> bool {
        self.kept.is_empty() || (self.plugin == "mysql_native_password" && self.kept == b"invalid")
    }
}

/// What is asked of an account's connections, and how much it may use.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Limits {
    /// 0 is nothing, 1 TLS, 2 a certificate, 3 a certificate of this kind.
    #[serde(default)]
    pub(super) ssl_type: u8,
    #[serde(default)]
    pub(super) ssl_cipher: String,
    #[serde(default)]
    pub(super) x509_issuer: String,
    #[serde(default)]
    pub(super) x509_subject: String,
    #[serde(default)]
    pub(super) max_questions: u64,
    #[serde(default)]
    pub(super) max_updates: u64,
    #[serde(default)]
    pub(super) max_connections: u64,
    #[serde(default)]
    pub(super) max_user_connections: i64,
    #[serde(default)]
    pub(super) max_statement_time: f64,
}

/// A session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) id: u64,
    /// The client's address.
    pub(super) client: String,
    /// How long it has done what it does now, in milliseconds: it began before.
    pub(super) idle: i64,
}

impl Facts {
    /// Reads them, in two round trips.
    pub(super) async fn read(
        session: &mut Session,
        question: &Question<'_>,
        locking: Locking,
        deadline: Duration,
        doing: &str,
    ) -> Result<Self, Failure> {
        let flavor = session.flavor();
        let Question { principal, host, peer, groups } = *question;
        let mut statements = Vec::new();
        if locking == Locking::Yes {
            let seconds = (deadline.as_secs_f64() * 0.6).max(0.1);
            let name = literal(&lock_name(principal.as_str(), host));
            statements.push(format!("SELECT GET_LOCK({name}, {seconds})"));
        }
        let first = statements.len();
        let names =
            [Some(principal), peer].into_iter().flatten().chain(groups).map(|name| literal(name.as_str()));
        let names = names.collect::<Vec<_>>().join(", ");
        statements.extend(questions(flavor, &names));
        statements.push(SEES_ALL.to_owned());
        statements.push(threads(flavor, principal));
        let replies = sql::run(session, statements, deadline).await.map_err(|error| {
            let failure = batch_failure(&error, Stage::Reading, doing);
            if failure.class() == FailureClass::Denied { failure.with_remedy(RIGHTS) } else { failure }
        })?;
        if locking == Locking::Yes && cell(&replies[0], 0) != Some("1") {
            return Err(Failure::new(FailureClass::Unavailable, doing, "another change holds the account"));
        }
        let unknown =
            || Failure::new(FailureClass::Invalid, doing, "the server describes itself in an unknown form");
        let mut facts = Self::parse(flavor, &replies[first..], groups).ok_or_else(unknown)?;

        let mut statements = vec![match flavor {
            Flavor::MariaDb if !facts.has_table => "SELECT NULL LIMIT 0".to_owned(),
            Flavor::MariaDb => format!(
                "SELECT marker FROM rekeyd.accounts WHERE user = {} AND host = {}",
                literal(principal.as_str()),
                literal(host)
            ),
            Flavor::MySql => format!(
                "SELECT JSON_EXTRACT(ATTRIBUTE, '$.rekeyd') FROM information_schema.USER_ATTRIBUTES \
                 WHERE USER = {} AND HOST = {}",
                literal(principal.as_str()),
                literal(host)
            ),
        }];
        let mut asked = Vec::new();
        for name in [Some(principal), peer].into_iter().flatten() {
            if facts.account(name, host).is_some() {
                statements.push(format!("SHOW GRANTS FOR {}", account(name.as_str(), host)));
                asked.push(name);
            }
        }
        let replies = sql::run(session, statements, deadline).await.map_err(|error| {
            let failure = batch_failure(&error, Stage::Reading, doing);
            if failure.class() == FailureClass::Denied { failure.with_remedy(RIGHTS) } else { failure }
        })?;
        facts.marker = cell(&replies[0], 0).map(Marker::parse).transpose();
        for (name, rows) in asked.into_iter().zip(&replies[1..]) {
            let lines = rows.iter().filter_map(|row| row.first()?.clone()).collect();
            if let Some(account) = facts.account_mut(name, host) {
                account.grants = lines;
            }
        }
        Ok(facts)
    }

    fn parse(flavor: Flavor, replies: &[Vec<Row>], groups: &[Principal]) -> Option<Self> {
        let [server, plugins, accounts, roles, table, _, sessions] = replies else { return None };
        let server = server.first()?;
        let text = |index: usize| server.get(index).and_then(Option::as_deref);
        let accounts: Vec<Account> = accounts
            .iter()
            .map(|row| match flavor {
                Flavor::MariaDb => mariadb_account(row),
                Flavor::MySql => mysql_account(row),
            })
            .collect::<Option<_>>()?;
        let exists = |group: &&Principal| match flavor {
            Flavor::MariaDb => accounts.iter().any(|a| a.host.is_empty() && a.user == group.as_str()),
            Flavor::MySql => accounts.iter().any(|a| a.host == "%" && a.user == group.as_str()),
        };
        let groups = groups.iter().filter(exists).map(|group| group.as_str().to_owned()).collect();
        let mut facts = Self {
            flavor,
            version: text(0)?.to_owned(),
            boot: text(1)?.parse().ok()?,
            now: text(2)?.parse().ok()?,
            read_only: text(3)? != "0",
            refuses_hashes: text(4)? != "0",
            admin: text(5)?.to_owned(),
            rounds: text(6).and_then(Rounds::configured).unwrap_or(Rounds::LEAST),
            made: Vec::new(),
            plugins: plugins.iter().filter_map(|row| row.first()?.clone()).collect(),
            accounts,
            groups,
            has_table: !table.is_empty(),
            marker: Ok(None),
            sessions: self::sessions(sessions)?,
        };
        for row in roles {
            let [Some(user), Some(host), Some(role)] = row.as_slice() else { return None };
            let mut own = facts.accounts.iter_mut().filter(|a| a.user == *user && a.host == *host);
            if let Some(account) = own.next() {
                account.default_roles.push(role.clone());
            }
        }
        Some(facts)
    }

    pub(super) fn account(&self, name: &Principal, host: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.user == name.as_str() && account.host == host)
    }

    pub(super) fn account_mut(&mut self, name: &Principal, host: &str) -> Option<&mut Account> {
        self.accounts.iter_mut().find(|account| account.user == name.as_str() && account.host == host)
    }

    /// The host parts of other accounts of that name. MariaDB's roles have none.
    pub(super) fn other_hosts(&self, name: &Principal, host: &str) -> Vec<&str> {
        let others = self.accounts.iter().filter(|a| a.user == name.as_str() && a.host != host);
        others.map(|account| account.host.as_str()).filter(|host| !host.is_empty()).collect()
    }

    /// The host parts of accounts without a name, which may take a login before a named one does.
    pub(super) fn nameless_hosts(&self) -> Vec<&str> {
        self.accounts.iter().filter(|a| a.user.is_empty()).map(|account| account.host.as_str()).collect()
    }

    pub(super) fn has_group(&self, name: &Principal) -> bool {
        self.groups.iter().any(|group| group == name.as_str())
    }

    /// The server as messages name it.
    pub(super) const fn product(&self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => "MariaDB",
            Flavor::MySql => "MySQL",
        }
    }

    /// Who rekeyd is there, as statements name it.
    pub(super) fn admin_account(&self) -> String {
        let (user, host) = self.admin.rsplit_once('@').unwrap_or((&self.admin, "%"));
        account(user, host)
    }

    /// An account that was asked for and that MySQL keeps from all who are not of its kind.
    pub(super) fn system_user(&self) -> Option<String> {
        let is_one = |held: &&Account| Rights::of(self.flavor, &held.grants).has(SYSTEM_USER);
        self.accounts.iter().find(is_one).map(|held| account(&held.user, &held.host))
    }

    /// Who rekeyd logs in as, without the host part.
    pub(super) fn admin_user(&self) -> &str {
        self.admin.rsplit_once('@').map_or(self.admin.as_str(), |(user, _)| user)
    }
}

/// What the admin needs to look.
pub(super) const RIGHTS: &str =
    "GRANT PROCESS ON *.* and GRANT SELECT ON mysql.* to the admin, as the documentation of the target says";

/// Fails for whoever would be shown no sessions but its own, and would take that for all: it needs the same
/// privilege as the list, which does not say so.
pub(super) const SEES_ALL: &str = "SELECT COUNT(*) FROM information_schema.INNODB_CMP";

/// The sessions of a user: their numbers, where they come from, and for how many milliseconds they have done
/// what they do. Names are compared by their bytes, as they are at a login.
pub(super) fn threads(flavor: Flavor, principal: &Principal) -> String {
    let time = match flavor {
        Flavor::MariaDb => "TIME_MS",
        Flavor::MySql => "TIME * 1000",
    };
    format!(
        "SELECT ID, HOST, CAST({time} AS SIGNED) FROM information_schema.PROCESSLIST \
         WHERE CAST(USER AS BINARY) = CAST({} AS BINARY) AND ID <> CONNECTION_ID() ORDER BY ID",
        literal(principal.as_str())
    )
}

pub(super) fn sessions(rows: &[Row]) -> Option<Vec<Thread>> {
    rows.iter()
        .map(|row| {
            let [id, client, idle] = row.as_slice() else { return None };
            let client = client.as_deref().unwrap_or_default();
            // The port says nothing to anybody. A colon may be of an address, too.
            let client = client.rsplit_once(':').map_or(client, |(client, _)| client).to_owned();
            let idle = idle.as_deref().and_then(|idle| idle.parse().ok()).unwrap_or_default();
            Some(Thread { id: id.as_deref()?.parse().ok()?, client, idle })
        })
        .collect()
}

fn questions(flavor: Flavor, names: &str) -> Vec<String> {
    let plugins = "SELECT PLUGIN_NAME FROM information_schema.PLUGINS \
                   WHERE PLUGIN_TYPE = 'AUTHENTICATION' AND PLUGIN_STATUS = 'ACTIVE'"
        .to_owned();
    let now = "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";
    match flavor {
        Flavor::MariaDb => vec![
            format!(
                "SELECT VERSION(), CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS SIGNED), {now}, @@read_only, \
                 @@strict_password_validation AND EXISTS (SELECT 1 FROM information_schema.PLUGINS WHERE \
                 PLUGIN_TYPE = 'PASSWORD VALIDATION' AND PLUGIN_STATUS = 'ACTIVE'), CURRENT_USER() \
                 FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'"
            ),
            plugins,
            format!("SELECT User, Host, Priv FROM mysql.global_priv WHERE User IN ('', {names})"),
            "SELECT NULL LIMIT 0".to_owned(),
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'rekeyd' AND TABLE_NAME = 'accounts'"
                .to_owned(),
        ],
        Flavor::MySql => vec![
            format!(
                "SELECT VERSION(), CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS SIGNED), {now}, @@read_only, 0, CURRENT_USER(), \
                 (SELECT VARIABLE_VALUE FROM performance_schema.global_variables \
                 WHERE VARIABLE_NAME = 'caching_sha2_password_digest_rounds') \
                 FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Uptime'"
            ),
            plugins,
            format!(
                "SELECT User, Host, plugin, HEX(authentication_string), account_locked, User_attributes, \
                 ssl_type, CONVERT(ssl_cipher USING utf8mb4), CONVERT(x509_issuer USING utf8mb4), \
                 CONVERT(x509_subject USING utf8mb4), max_questions, max_updates, max_connections, \
                 max_user_connections FROM mysql.user WHERE User IN ('', {names})"
            ),
            format!(
                "SELECT USER, HOST, CONCAT(QUOTE(DEFAULT_ROLE_USER), '@', QUOTE(DEFAULT_ROLE_HOST)) \
                 FROM mysql.default_roles WHERE USER IN ({names}) ORDER BY 3"
            ),
            "SELECT NULL LIMIT 0".to_owned(),
        ],
    }
}

fn mariadb_account(row: &Row) -> Option<Account> {
    #[derive(Deserialize)]
    struct Priv {
        #[serde(default)]
        account_locked: bool,
        #[serde(default)]
        default_role: String,
        #[serde(default)]
        auth_or: Vec<Auth>,
        #[serde(flatten)]
        auth: Auth,
        #[serde(flatten)]
        limits: Limits,
    }
    #[derive(Deserialize)]
    struct Auth {
        plugin: Option<String>,
        #[serde(default)]
        authentication_string: String,
    }
    let method = |auth: &Auth| {
        let plugin = auth.plugin.clone()?;
        Some(Method::new(plugin, auth.authentication_string.clone().into_bytes()))
    };
    let [Some(user), Some(host), Some(json)] = row.as_slice() else { return None };
    let parsed: Priv = serde_json::from_str(json).ok()?;
    // One of several methods stands outside the list, and in it is a place without one where it belongs.
    let mut methods: Vec<Method> = Vec::new();
    for auth in &parsed.auth_or {
        methods.extend(method(auth).or_else(|| method(&parsed.auth)));
    }
    if parsed.auth_or.is_empty() {
        methods.extend(method(&parsed.auth));
    }
    Some(Account {
        user: user.clone(),
        host: host.clone(),
        methods,
        locked: parsed.account_locked,
        limits: parsed.limits,
        default_roles: Some(parsed.default_role).filter(|role| !role.is_empty()).into_iter().collect(),
        grants: Vec::new(),
    })
}

fn mysql_account(row: &Row) -> Option<Account> {
    let text = |index: usize| row.get(index).and_then(Option::as_deref).unwrap_or_default();
    let number = |index: usize| text(index).parse().ok();
    let plugin = text(2).to_owned();
    let mut methods = vec![Method::new(plugin.clone(), unhex(text(3))?)];
    if let Some(attributes) = row.get(5)?.as_deref() {
        let attributes: serde_json::Value = serde_json::from_str(attributes).ok()?;
        if let Some(second) = attributes.get("additional_password").and_then(serde_json::Value::as_str) {
            methods.push(Method::new(plugin, second.as_bytes().to_vec()));
        }
    }
    Some(Account {
        user: text(0).to_owned(),
        host: text(1).to_owned(),
        methods,
        locked: text(4) == "Y",
        limits: Limits {
            ssl_type: match text(6) {
                "ANY" => 1,
                "X509" => 2,
                "SPECIFIED" => 3,
                _ => 0,
            },
            ssl_cipher: text(7).to_owned(),
            x509_issuer: text(8).to_owned(),
            x509_subject: text(9).to_owned(),
            max_questions: number(10)?,
            max_updates: number(11)?,
            max_connections: number(12)?,
            max_user_connections: text(13).parse().ok()?,
            max_statement_time: 0.0,
        },
        default_roles: Vec::new(),
        grants: Vec::new(),
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn cell(rows: &[Row], column: usize) -> Option<&str> {
    rows.first()?.get(column)?.as_deref()
}

#[cfg(test)]
impl Facts {
    /// A server with these accounts and roles.
    pub(super) fn of(flavor: Flavor, accounts: Vec<Account>, groups: &[Principal]) -> Self {
        let plugins: &[&str] = match flavor {
            Flavor::MariaDb => &["mysql_native_password", "ed25519", "unix_socket"],
            Flavor::MySql => &["mysql_native_password", "caching_sha2_password"],
        };
        Self {
            flavor,
            version: "1".to_owned(),
            boot: 0,
            now: 0,
            read_only: false,
            refuses_hashes: false,
            plugins: plugins.iter().map(|plugin| (*plugin).to_owned()).collect(),
            rounds: Rounds::LEAST,
            made: Vec::new(),
            admin: "rekeyd@%".to_owned(),
            accounts,
            groups: groups.iter().map(ToString::to_string).collect(),
            has_table: true,
            marker: Ok(None),
            sessions: Vec::new(),
        }
    }

    /// A server with the account `app`, which has these hashes.
    pub(super) fn example(flavor: Flavor, kept: &[String]) -> Self {
        let method = |kept: &String| Method::new("mysql_native_password".into(), kept.clone().into());
        let methods = kept.iter().map(method).collect();
        let account = Account { user: "app".into(), host: "%".into(), methods, ..Account::default() };
        Self::of(flavor, vec![account], &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Row {
        values.iter().map(|value| (*value != "NULL").then(|| (*value).to_owned())).collect()
    }

    #[test]
    fn mariadbs_methods_are_in_the_order_in_which_they_are_tried() {
        let json = r#"{"access":0,"plugin":"mysql_native_password","authentication_string":"*CD","auth_or":
            [{"plugin":"ed25519","authentication_string":"2My"},{}],"ssl_type":1,"max_questions":7,
            "max_statement_time":2.500000,"account_locked":true,"default_role":"grp"}"#;
        let account = mariadb_account(&row(&["app", "%", json])).expect("an account");
        let plugins: Vec<&str> = account.methods.iter().map(|method| method.plugin.as_str()).collect();
        assert_eq!(plugins, ["ed25519", "mysql_native_password"]);
        assert!(account.locked);
        assert_eq!((account.limits.ssl_type, account.limits.max_questions), (1, 7));
        assert_eq!(account.default_roles, ["grp"]);
        let one =
            mariadb_account(&row(&["app", "%", r#"{"plugin":"ed25519","authentication_string":"2My"}"#]));
        assert_eq!(one.expect("an account").methods.len(), 1);
        let role = mariadb_account(&row(&["grp", "", r#"{"access":0,"is_role":true}"#]));
        assert!(role.expect("a role").methods.is_empty());
    }

    #[test]
    fn mysqls_second_password_is_seen() {
        let attributes = r#"{"metadata": {"rekeyd": {}}, "additional_password": "$A$005$old"}"#;
        let values = [
            "app",
            "%",
            "caching_sha2_password",
            "2441",
            "N",
            attributes,
            "",
            "",
            "",
            "",
            "0",
            "0",
            "0",
            "0",
        ];
        let account = mysql_account(&row(&values)).expect("an account");
        let kept: Vec<&[u8]> = account.methods.iter().map(|method| method.kept.as_slice()).collect();
        assert_eq!(kept, [&b"$A"[..], b"$A$005$old"]);
    }
}
