//! Statements that make an account accept values, in each server's words.

use zeroize::Zeroizing;

use super::connect::Flavor;
use super::facts::{Account, Facts};
use super::marker::{Marker, State};
use super::sql::{account, literal};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::MysqlAuthentication;
use crate::secret::SecretValue;
use crate::target::Attempt;

/// A statement that may hold what a server keeps of a value.
pub(super) type Statement = Zeroizing<String>;

/// One account at a server, about to be written.
pub(super) struct Writing<'a> {
    pub(super) facts: &'a Facts,
    pub(super) principal: &'a Principal,
    pub(super) host: &'a str,
    pub(super) attempt: &'a Attempt<'a>,
}

/// What an account is to accept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values<'a> {
    One(&'a SecretValue),
    /// Both, the first one first.
    Two(&'a SecretValue, &'a SecretValue),
    /// None, and nobody may log in.
    None,
}

/// What is sent in one batch, and the place of the statement from which on it counts.
pub(super) struct Batch {
    pub(super) statements: Vec<Statement>,
    pub(super) decisive: usize,
}

impl Writing<'_> {
    fn name(&self) -> String {
        account(self.principal.as_str(), self.host)
    }

    fn held(&self) -> Option<&Account> {
        self.facts.account(self.principal, self.host)
    }

    fn before(&self) -> Option<&Marker> {
        self.facts.marker.as_ref().ok()?.as_ref()
    }

    pub(super) fn marker(&self, state: State) -> Marker {
        Marker::new(self.attempt, state, self.before())
    }

    /// The statement that writes a marker and nothing else. On MySQL it needs an account to stand in.
    pub(super) fn mark(&self, marker: &Marker) -> Statement {
        Zeroizing::new(marker.write(self.facts.flavor, self.principal.as_str(), self.host))
    }

    /// Makes an account that is not there, closed: what it needs comes before it is opened.
    pub(super) fn make(&self, method: MysqlAuthentication, value: &SecretValue) -> Option<Statement> {
        self.held().is_none().then(|| {
            let attribute = self.attribute(State::Installing);
            Zeroizing::new(format!(
                "CREATE USER IF NOT EXISTS {}{} ACCOUNT LOCK{attribute}",
                self.name(),
                *self.identified(&[(method, value)]),
            ))
        })
    }

    /// The statements that set what the account accepts. The first one counts; in it is MySQL's marker.
    pub(super) fn set(
        &self,
        method: MysqlAuthentication,
        values: Values<'_>,
        state: State,
    ) -> Vec<Statement> {
        let name = self.name();
        let alter = |clauses: String| Zeroizing::new(format!("ALTER USER {name}{clauses}"));
        let attribute = self.attribute(state);
        match (self.facts.flavor, values) {
            (Flavor::MariaDb, Values::None) => {
                // What the server itself writes for an account that no password opens.
                vec![alter(" IDENTIFIED VIA mysql_native_password USING 'invalid' ACCOUNT LOCK".to_owned())]
            }
            (Flavor::MariaDb, Values::One(value)) => {
                let identified = self.identified(&[(method, value)]);
                vec![alter(format!("{} ACCOUNT UNLOCK", *identified))]
            }
            (Flavor::MariaDb, Values::Two(new, old)) => {
                let identified = self.identified(&[(method, new), (method, old)]);
                vec![alter(format!("{} ACCOUNT UNLOCK", *identified))]
            }
            // A hash of something that nobody knows. The second password would live on without the last one.
            (Flavor::MySql, Values::None) => {
                let nobodys = crate::secret::ValueSpec::default().generate();
                let identified = self.identified(&[(method, &nobodys)]);
                vec![
                    alter(format!("{} ACCOUNT LOCK{attribute}", *identified)),
                    alter(" DISCARD OLD PASSWORD".to_owned()),
                ]
            }
            (Flavor::MySql, Values::One(value)) => {
                let identified = self.identified(&[(method, value)]);
                let discard = alter(" DISCARD OLD PASSWORD".to_owned());
                // Where it is there already, only the other one goes, and at no time is it away.
                let is_first = self
                    .held()
                    .is_some_and(|held| held.methods.first().is_some_and(|first| first.holds(value)));
                let first = if is_first { String::new() } else { identified.to_string() };
                vec![alter(format!("{first} ACCOUNT UNLOCK{attribute}")), discard]
            }
            (Flavor::MySql, Values::Two(new, old)) => {
                let held = self.held().map(|held| held.methods.as_slice()).unwrap_or_default();
                // Of another plugin's password none is retained.
                let is_first =
                    held.first().is_some_and(|first| first.plugin == method.plugin() && first.holds(old));
                let identified = self.identified(&[(method, new)]);
                let both =
                    alter(format!("{} RETAIN CURRENT PASSWORD ACCOUNT UNLOCK{attribute}", *identified));
                if is_first {
                    return vec![both];
                }
                // Only what is first is retained. As what is first now is nobody's, it may go.
                let first = alter(self.identified(&[(method, old)]).to_string());
                vec![first, both]
            }
        }
    }

    fn attribute(&self, state: State) -> String {
        match self.facts.flavor {
            Flavor::MariaDb => String::new(),
            Flavor::MySql => self.marker(state).attribute(),
        }
    }

    fn identified(&self, values: &[(MysqlAuthentication, &SecretValue)]) -> Statement {
        let mut clause = Zeroizing::new(String::new());
        for (index, (method, value)) in values.iter().enumerate() {
            let kept = self.facts.kept(*method, value);
            match self.facts.flavor {
                Flavor::MariaDb => {
                    let word = if index == 0 { " IDENTIFIED VIA" } else { " OR" };
                    // Its verifiers are printable ASCII.
                    let kept = Zeroizing::new(String::from_utf8_lossy(&kept).into_owned());
                    clause.push_str(&format!("{word} {} USING {}", method.plugin(), literal(&kept)));
                }
                Flavor::MySql => {
                    let hex: String = kept.iter().map(|byte| format!("{byte:02x}")).collect();
                    clause.push_str(&format!(" IDENTIFIED WITH '{}' AS 0x{hex}", method.plugin()));
                }
            }
        }
        clause
    }
}

/// How an account is to prove its value: as the policy says; as its peer does, which is in use; as it does
/// itself; or in the best way that the server has.
pub(super) fn method(
    facts: &Facts,
    asked: Option<MysqlAuthentication>,
    held: Option<&Account>,
    peer: Option<&Account>,
    doing: &str,
) -> Result<MysqlAuthentication, Failure> {
    let of = |account: &Account| {
        let first = account.methods.iter().find(|method| !method.is_void())?;
        MysqlAuthentication::of_plugin(&first.plugin)
    };
    let best = match facts.flavor {
        Flavor::MariaDb if facts.plugins.iter().any(|name| name == "ed25519") => MysqlAuthentication::Ed25519,
        Flavor::MariaDb => MysqlAuthentication::Native,
        Flavor::MySql => MysqlAuthentication::CachingSha2,
    };
    let method = asked.or_else(|| peer.and_then(of)).or_else(|| held.and_then(of)).unwrap_or(best);
    if !facts.plugins.iter().any(|name| name == method.plugin()) {
        let reason = format!("{} has no authentication plugin {} in use", facts.product(), method.plugin());
        let remedy = match (facts.flavor, method) {
            (Flavor::MariaDb, MysqlAuthentication::Ed25519) => "INSTALL SONAME 'auth_ed25519' at the server",
            _ => "choose another target.mysql.authentication",
        };
        return Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy));
    }
    Ok(method)
}

/// Whether the account logs in by a value of rekeyd's kind, and by nothing beside it.
pub(super) fn check_methods(account: &Account, doing: &str) -> Result<(), Failure> {
    let foreign =
        account.methods.iter().find(|method| MysqlAuthentication::of_plugin(&method.plugin).is_none());
    let Some(foreign) = foreign else { return Ok(()) };
    // What it is called comes from the server.
    let plugin: String =
        foreign.plugin.chars().filter(|char| char.is_ascii_alphanumeric() || *char == '_').take(64).collect();
    let reason = format!("it logs in by {plugin}, which no value of rekeyd's can replace");
    Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(
        "let it log in by a password alone: ALTER USER ... IDENTIFIED VIA ed25519 (MariaDB), IDENTIFIED WITH \
         caching_sha2_password (MySQL)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{Fence, RotationId, Version};
    use crate::target::mysql::verifier::{Rounds, verifier};

    const NATIVE: MysqlAuthentication = MysqlAuthentication::Native;

    fn facts(flavor: Flavor, methods: &[&str]) -> Facts {
        let value = |text: &str| SecretValue::new(text.as_bytes().to_vec());
        let kept: Vec<String> = methods
            .iter()
            .map(|text| String::from_utf8_lossy(&verifier(NATIVE, &value(text), Rounds::LEAST)).into_owned())
            .collect();
        Facts::example(flavor, &kept)
    }

    fn texts(flavor: Flavor, held: &[&str], values: Values<'_>) -> Vec<String> {
        let policy = "orders/db".parse().expect("a policy name");
        let attempt = Attempt {
            policy: &policy,
            rotation: RotationId::generate(),
            version: Version::new(2),
            fence: Fence::new(3),
        };
        let principal = "app".parse().expect("a principal");
        let facts = facts(flavor, held);
        let writing = Writing { facts: &facts, principal: &principal, host: "%", attempt: &attempt };
        let hash = |text: &str| {
            let value = SecretValue::new(text.as_bytes().to_vec());
            String::from_utf8_lossy(&verifier(NATIVE, &value, Rounds::LEAST)).into_owned()
        };
        let hex = |text: &str| hash(text).bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let statements = writing.set(NATIVE, values, State::Installed);
        statements
            .iter()
            .map(|statement| {
                let mut text = statement.split(" ATTRIBUTE ").next().unwrap_or_default().to_owned();
                for value in ["old", "new"] {
                    text = text.replace(&format!("'{}'", hash(value)), value);
                    text = text.replace(&format!("0x{}", hex(value)), value);
                }
                text.replace("mysql_native_password", "native")
            })
            .collect()
    }

    #[test]
    fn each_server_is_told_in_its_own_words() {
        let [old, new] = ["old", "new"].map(|text| SecretValue::new(text.as_bytes().to_vec()));
        let (maria, mysql) = (Flavor::MariaDb, Flavor::MySql);
        assert_eq!(
            texts(maria, &["old"], Values::One(&new)),
            ["ALTER USER 'app'@'%' IDENTIFIED VIA native USING new ACCOUNT UNLOCK"]
        );
        assert_eq!(
            texts(maria, &["old"], Values::Two(&new, &old)),
            ["ALTER USER 'app'@'%' IDENTIFIED VIA native USING new OR native USING old ACCOUNT UNLOCK"]
        );
        assert_eq!(
            texts(maria, &["old"], Values::None),
            ["ALTER USER 'app'@'%' IDENTIFIED VIA native USING 'invalid' ACCOUNT LOCK"]
        );
        let discard = "ALTER USER 'app'@'%' DISCARD OLD PASSWORD";
        // Without the last one a second password would live on.
        assert_eq!(
            texts(mysql, &["old"], Values::One(&new)),
            ["ALTER USER 'app'@'%' IDENTIFIED WITH 'native' AS new ACCOUNT UNLOCK", discard]
        );
        assert_eq!(
            texts(mysql, &["new", "old"], Values::One(&new)),
            ["ALTER USER 'app'@'%' ACCOUNT UNLOCK", discard]
        );
        let retain =
            "ALTER USER 'app'@'%' IDENTIFIED WITH 'native' AS new RETAIN CURRENT PASSWORD ACCOUNT UNLOCK";
        assert_eq!(texts(mysql, &["old"], Values::Two(&new, &old)), [retain]);
        // What is first is retained, so it has to be the one that is to live on.
        assert_eq!(
            texts(mysql, &["strange"], Values::Two(&new, &old)),
            ["ALTER USER 'app'@'%' IDENTIFIED WITH 'native' AS old", retain]
        );
        let none = texts(mysql, &["old"], Values::None);
        assert!(none[0].ends_with(" ACCOUNT LOCK"), "{none:?}");
        assert_eq!(none[1], discard);
    }

    #[test]
    fn the_method_is_the_peers_or_its_own_or_the_best_one() {
        let facts = facts(Flavor::MariaDb, &["old"]);
        let account = |plugin: &str, kept: &str| Account {
            methods: vec![super::super::facts::Method::new(plugin.into(), kept.into())],
            ..Account::default()
        };
        let (native, ed) = (account("mysql_native_password", "*AB"), account("ed25519", "abc"));
        let closed = account("mysql_native_password", "invalid");
        let choose =
            |asked, held, peer| method(&facts, asked, held, peer, "").map_err(|f| f.reason().to_owned());
        assert_eq!(choose(None, None, None), Ok(MysqlAuthentication::Ed25519));
        assert_eq!(choose(None, Some(&native), None), Ok(NATIVE));
        assert_eq!(choose(None, Some(&native), Some(&ed)), Ok(MysqlAuthentication::Ed25519));
        assert_eq!(choose(None, Some(&closed), None), Ok(MysqlAuthentication::Ed25519));
        assert_eq!(choose(Some(NATIVE), Some(&ed), None), Ok(NATIVE));
        let absent = choose(Some(MysqlAuthentication::CachingSha2), None, None);
        assert!(absent.is_err_and(|reason| reason.contains("caching_sha2_password")));
        assert!(check_methods(&native, "").is_ok());
        let socket = check_methods(&account("unix_socket", ""), "").expect_err("refused");
        assert!(socket.reason().contains("unix_socket"), "{socket}");
    }
}
