//! Opening a session: socket, TLS and login, each within its deadline.
//!
//! The login is done here rather than by a driver: a MariaDB account with two passwords asks for the second
//! one only when the first was refused, which drivers give up at; and a driver hands a value to whatever
//! server asks for it. Here a login proves knowledge of the value. The one exception is the way in which
//! MySQL's `caching_sha2_password` learns a value that was changed: see [`hand_over`].

use std::sync::Arc;

use mysql_common::constants::CapabilityFlags as Flags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, HandshakePacket, HandshakeResponse, SslRequest};
use mysql_common::proto::MySerialize as _;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use super::error::{LoginError, refusal};
use super::wire::{Answer, Wire};
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::{MysqlAuthentication, MysqlEndpoint, TlsMode};
use crate::secret::Credential;
use crate::target::dial::{self, Deadlines, unavailable, within};
use crate::target::{APPLICATION, tls};

/// An open session. Dropping it cuts the connection; [`Session::close`] takes leave of the server.
pub(super) struct Session {
    wire: Wire,
    id: u64,
    flavor: Flavor,
    proof: MysqlAuthentication,
}

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    MariaDb,
    MySql,
}

impl Session {
    pub(super) const fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The server's number for it. A later session has a higher one, until the server starts or begins anew after four
    /// bytes.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) const fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// How the value was proven.
    pub(super) const fn proof(&self) -> MysqlAuthentication {
        self.proof
    }

    /// Takes leave of the server and waits until it has ended the session.
    pub(super) async fn close(mut self) {
        // A server that does not end it in time has it cut off.
        let _ = tokio::time::timeout(FAREWELL, self.wire.close()).await;
    }
}

/// How long a session that is of no more use is waited for.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// What a session is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Purpose {
    pub(super) usage: Use,
    /// Whether the settings name the server's host. Who writes policies may not have values handed to another.
    pub(super) vouched: bool,
}

/// What a session may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Batches of rekeyd's own statements.
    Administer,
    /// One statement at a time: it may be a policy's.
    Try,
}

/// Logs in.
pub(super) async fn open(
    endpoint: &MysqlEndpoint,
    credential: &Credential,
    purpose: Purpose,
    deadlines: &Deadlines,
) -> Result<Session, LoginError> {
    let doing = format!("log in as {} at {endpoint}", credential.principal);
    match tokio::time::timeout(deadlines.login, login(endpoint, credential, purpose, deadlines, &doing)).await
    {
        Ok(outcome) => outcome,
        Err(_) => {
            let reason = format!("no answer within {} ms", deadlines.login.as_millis());
            let remedy = "check that a MariaDB or MySQL server listens there and is not overloaded";
            Err(unavailable(&doing, reason).with_remedy(remedy).into())
        }
    }
}

async fn login(
    endpoint: &MysqlEndpoint,
    credential: &Credential,
    purpose: Purpose,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<Session, LoginError> {
    let lost = |error: std::io::Error| connection_failure(&error, doing);
    let tls = tls::client_config(&endpoint.tls).await.map_err(|reason| {
        Failure::new(FailureClass::Invalid, doing, reason)
            .with_remedy("name a PEM file that rekeyd may read and that holds the server's authority")
    })?;
    let mut wire = if endpoint.is_socket() {
        let socket = within(deadlines.connect, UnixStream::connect(&endpoint.host)).await;
        Wire::new(socket.map_err(|reason| unavailable(doing, format!("cannot reach it: {reason}")))?)
    } else {
        let (connect, statement) = (deadlines.connect, deadlines.statement);
        Wire::new(dial::reach(&endpoint.host, endpoint.port, connect, statement, doing).await?)
    };

    let packet = wire.read().await.map_err(lost)?;
    if let Answer::Error(code) = Answer::first(&packet) {
        // Nobody was asked for a value: whatever it is, it is no verdict on one.
        return Err(match refusal(code, doing) {
            LoginError::Rejected => {
                unavailable(doing, format!("the server refuses with error {code}")).into()
            }
            failed => failed,
        });
    }
    let greeting = greeting(&packet).ok_or_else(|| strange(doing))?;
    let mut capabilities = Flags::CLIENT_LONG_PASSWORD
        | Flags::CLIENT_LONG_FLAG
        | Flags::CLIENT_PROTOCOL_41
        | Flags::CLIENT_TRANSACTIONS
        | Flags::CLIENT_SECURE_CONNECTION
        | Flags::CLIENT_MULTI_RESULTS
        | Flags::CLIENT_PLUGIN_AUTH
        | Flags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA
        | Flags::CLIENT_CONNECT_ATTRS;
    if purpose.usage == Use::Administer {
        capabilities |= Flags::CLIENT_MULTI_STATEMENTS;
    }
    let needed = Flags::CLIENT_PROTOCOL_41 | Flags::CLIENT_PLUGIN_AUTH | Flags::CLIENT_SECURE_CONNECTION;
    if !greeting.capabilities.contains(needed) {
        return Err(strange(doing).into());
    }
    // An admin needs no right on the database: what it is sent names everything in full.
    let database = endpoint.database.as_deref().filter(|_| purpose.usage == Use::Try);
    if database.is_some() {
        // MySQL reads what follows by what was said before the encryption began.
        capabilities |= Flags::CLIENT_CONNECT_WITH_DB;
    }
    capabilities &= greeting.capabilities;

    let mut trust = if endpoint.is_socket() { Trust::Known } else { Trust::Unknown };
    if let Some(tls) = tls.filter(|_| !endpoint.is_socket()) {
        if !greeting.capabilities.contains(Flags::CLIENT_SSL) {
            return Err(Failure::new(FailureClass::Invalid, doing, "the server does not offer TLS")
                .with_remedy("give the server a certificate, or set tls.mode disable if plaintext is meant")
                .into());
        }
        capabilities |= Flags::CLIENT_SSL;
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| {
            Failure::new(FailureClass::Invalid, doing, "its name cannot stand in a certificate")
        })?;
        let mut request = Vec::new();
        SslRequest::new(capabilities, LONGEST_ANSWER, UTF8MB4).serialize(&mut request);
        wire.write(&request).await.map_err(lost)?;
        // Nothing that was sent in the clear is left unread: it would pass for what comes out of the encryption.
        let (stream, sequence) = wire.into_parts();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(lost)?;
        wire = Wire::from_parts(stream, sequence);
        if matches!(endpoint.tls.mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
            trust = Trust::Known;
        }
    }
    let trust = if purpose.vouched { trust } else { Trust::Unknown };
    let login = Login { credential, trust, doing };
    let proof = login.perform(&mut wire, &greeting, capabilities, database).await?;
    Ok(Session { wire, id: greeting.id, flavor: greeting.flavor, proof })
}

const LONGEST_ANSWER: u32 = 16 * 1024 * 1024;
/// `utf8mb4_general_ci`.
const UTF8MB4: u8 = 45;

/// Whether it is known whose server is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Known,
    Unknown,
}

/// What the server says of itself.
struct Greeting {
    id: u64,
    flavor: Flavor,
    capabilities: Flags,
    plugin: AuthPlugin<'static>,
    nonce: Vec<u8>,
}

fn greeting(packet: &[u8]) -> Option<Greeting> {
    // The parser takes this byte for a number with a sign: version, its end, and 20 bytes before it.
    let version_end = packet.iter().skip(1).position(|byte| *byte == 0)? + 1;
    if packet.first() != Some(&10) || *packet.get(version_end + 21)? > 127 {
        return None;
    }
    let parsed: HandshakePacket<'_> = ParseBuf(packet).parse(()).ok()?;
    let mut nonce = parsed.scramble_1_ref().to_vec();
    nonce.extend_from_slice(parsed.scramble_2_ref()?);
    nonce.truncate(SCRAMBLE);
    let is_mariadb = String::from_utf8_lossy(parsed.server_version_ref()).contains("MariaDB");
    // MySQL greets with the same number for any plugin that it does not expect: native is its oldest.
    let plugin = match parsed.auth_plugin() {
        Some(AuthPlugin::CachingSha2Password) => AuthPlugin::CachingSha2Password,
        _ => AuthPlugin::MysqlNativePassword,
    };
    (nonce.len() == SCRAMBLE).then(|| Greeting {
        id: u64::from(parsed.connection_id()),
        flavor: if is_mariadb { Flavor::MariaDb } else { Flavor::MySql },
        capabilities: parsed.capabilities(),
        plugin,
        nonce,
    })
}

/// What MySQL asks a third of all accounts by that are not there, so that nobody can tell them from others: its refusal
/// is one. No account of rekeyd's has it, so nothing is concluded from a login that it lets in. Over a Unix socket it
/// takes no value as it is.
const FOR_NOBODY: &[u8] = b"sha256_password";

/// How many random bytes a server sends for a hash to be made with.
const SCRAMBLE: usize = 20;
/// And for a signature.
const TO_SIGN: usize = 32;

struct Login<'a> {
    credential: &'a Credential,
    trust: Trust,
    doing: &'a str,
}

impl Login<'_> {
    /// Proves the value in whatever way the server asks for, and returns the one that it was content with.
    async fn perform(
        &self,
        wire: &mut Wire,
        greeting: &Greeting,
        capabilities: Flags,
        database: Option<&str>,
    ) -> Result<MysqlAuthentication, LoginError> {
        let lost = |error: std::io::Error| connection_failure(&error, self.doing);
        let (mut plugin, mut proof) =
            (greeting.plugin.clone(), self.prove(&greeting.plugin, &greeting.nonce)?);
        let response = HandshakeResponse::new(
            Some(proof.as_slice()),
            (5, 7, 0),
            Some(self.credential.principal.as_str().as_bytes()),
            database.map(str::as_bytes),
            Some(plugin.clone()),
            capabilities,
            Some([("program_name".to_owned(), APPLICATION.to_owned())].into()),
            LONGEST_ANSWER,
        );
        let mut packet = Vec::new();
        response.serialize(&mut packet);
        wire.write(&packet).await.map_err(lost)?;
        // A server asks once for each method of an account; more than this is none that means well.
        for _ in 0..8 {
            let packet = wire.read().await.map_err(lost)?;
            match packet.as_slice() {
                [0x00, ..] => return method(&plugin).ok_or_else(|| self.unknown().into()),
                [0xff, low, high, ..] => {
                    return Err(refusal(u16::from_le_bytes([*low, *high]), self.doing));
                }
                [0xfe, rest @ ..] => {
                    let end = rest.iter().position(|byte| *byte == 0).ok_or_else(|| strange(self.doing))?;
                    plugin = AuthPlugin::from_bytes(&rest[..end]).into_owned();
                    let is_protected = capabilities.contains(Flags::CLIENT_SSL);
                    if rest[..end] == *FOR_NOBODY && is_protected && self.trust == Trust::Known {
                        self.hand_over(wire).await?;
                        continue;
                    }
                    proof = self.prove(&plugin, &rest[end + 1..])?;
                    wire.write(&proof).await.map_err(lost)?;
                }
                // What it was sent was enough; its verdict follows.
                [0x01, 0x03] if plugin == AuthPlugin::CachingSha2Password => {}
                [0x01, 0x04] if plugin == AuthPlugin::CachingSha2Password => self.hand_over(wire).await?,
                _ => return Err(strange(self.doing).into()),
            }
        }
        Err(strange(self.doing).into())
    }

    fn prove(&self, plugin: &AuthPlugin<'_>, nonce: &[u8]) -> Result<Vec<u8>, LoginError> {
        let value = self.credential.value.expose_str().ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| {
            Failure::new(FailureClass::Invalid, self.doing, "only a text that is not empty can log in")
        })?;
        if method(plugin).is_none() {
            return Err(self.unknown().into());
        }
        // A hash is made with 20 bytes, after which a zero follows, and a signature with 32.
        let needed = if *plugin == AuthPlugin::Ed25519 { TO_SIGN } else { SCRAMBLE };
        let nonce = nonce.get(..needed).ok_or_else(|| strange(self.doing))?;
        let proof = plugin.gen_data(Some(value), nonce).ok_or_else(|| strange(self.doing))?;
        Ok(proof.to_vec())
    }

    /// MySQL keeps a salted hash that no proof can be checked against. Until it has seen the value once since the
    /// change, or since it started, it asks for the value itself: over TLS, or in a way that any server could
    /// read. It gets it where it is known whose server it is, by its certificate or by its socket, and the settings
    /// name its host: a policy's author could ask for any value that is in the store otherwise.
    async fn hand_over(&self, wire: &mut Wire) -> Result<(), LoginError> {
        if self.trust == Trust::Unknown {
            let reason = "the server asks for the value itself, and it is not known whose server it is";
            return Err(Failure::new(FailureClass::Invalid, self.doing, reason)
                .with_remedy(
                    "caching_sha2_password needs tls.mode verify-full, and the host in `hosts` of the admin credential \
                     in the settings",
                )
                .into());
        }
        let mut packet = zeroize::Zeroizing::new(self.credential.value.expose().to_vec());
        packet.push(0);
        wire.write(&packet).await.map_err(|error| connection_failure(&error, self.doing))
    }

    fn unknown(&self) -> Failure {
        let reason = "the server asks for something else than a proof of the value";
        Failure::new(FailureClass::Invalid, self.doing, reason).with_remedy(
            "let the account use ed25519, caching_sha2_password or mysql_native_password: a value is proven to \
             a server and never handed to one",
        )
    }
}

const fn method(plugin: &AuthPlugin<'_>) -> Option<MysqlAuthentication> {
    match plugin {
        AuthPlugin::MysqlNativePassword => Some(MysqlAuthentication::Native),
        AuthPlugin::CachingSha2Password => Some(MysqlAuthentication::CachingSha2),
        AuthPlugin::Ed25519 => Some(MysqlAuthentication::Ed25519),
        _ => None,
    }
}

fn connection_failure(error: &std::io::Error, doing: &str) -> LoginError {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        let (reason, remedy) = tls::explain(error);
        return Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy).into();
    }
    unavailable(doing, format!("the connection failed: {}", error.kind())).into()
}

fn strange(doing: &str) -> Failure {
    Failure::new(FailureClass::Invalid, doing, "what answers there does not speak the protocol")
        .with_remedy("check that a MariaDB or MySQL server listens on that port")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretValue;

    #[test]
    fn a_hostile_greeting_is_none() {
        let mut good = b"\x0a8.0.36\0".to_vec();
        good.extend_from_slice(&7_u32.to_le_bytes());
        good.extend_from_slice(b"12345678\0\xff\xff\x2d\x02\0\xff\xff\x15");
        good.extend_from_slice(&[0; 10]);
        good.extend_from_slice(b"123456789012\0caching_sha2_password\0");
        let parsed = greeting(&good).expect("a greeting");
        assert_eq!((parsed.id, parsed.flavor), (7, Flavor::MySql));
        assert_eq!(parsed.plugin, AuthPlugin::CachingSha2Password);
        for length in 0..good.len().min(60) {
            assert!(greeting(&good[..length]).is_none_or(|cut| cut.nonce.len() == SCRAMBLE), "{length}");
        }
        let length_at = good.iter().position(|byte| *byte == 0x15).expect("its length");
        good[length_at] = 0x80;
        assert!(greeting(&good).is_none());
    }

    /// What a client sends in answer to these packets of a server's.
    async fn answer(
        trust: Trust,
        packets: &[&[u8]],
    ) -> (Result<MysqlAuthentication, LoginError>, Vec<Vec<u8>>) {
        answer_over(trust, Flags::empty(), packets).await
    }

    async fn answer_over(
        trust: Trust,
        also: Flags,
        packets: &[&[u8]],
    ) -> (Result<MysqlAuthentication, LoginError>, Vec<Vec<u8>>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (mut ours, mut theirs) = (Wire::new(ours), Wire::new(theirs));
        let value = SecretValue::new(b"the value itself".to_vec());
        let credential = Credential::new("app".parse().expect("a principal"), value);
        let greeting = Greeting {
            id: 1,
            flavor: Flavor::MySql,
            capabilities: Flags::all(),
            plugin: AuthPlugin::MysqlNativePassword,
            nonce: vec![7; SCRAMBLE],
        };
        let login = Login { credential: &credential, trust, doing: "log in" };
        let capabilities =
            Flags::CLIENT_PROTOCOL_41 | Flags::CLIENT_SECURE_CONNECTION | Flags::CLIENT_PLUGIN_AUTH | also;
        let server = async {
            let mut sent = vec![theirs.read().await.expect("a response")];
            for packet in packets {
                theirs.write(packet).await.expect("sent");
                if let Ok(Ok(answer)) =
                    tokio::time::timeout(std::time::Duration::from_millis(50), theirs.read()).await
                {
                    sent.push(answer);
                }
            }
            sent
        };
        tokio::join!(login.perform(&mut ours, &greeting, capabilities, None), server)
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_proven_and_handed_to_no_server_that_is_not_known() {
        let switch = |plugin: &[u8]| [b"\xfe", plugin, b"\0", &[9; 32], b"\0"].concat();
        let clear = [&b"mysql_clear_password"[..], b"dialog", b"mysql_old_password", b"unheard_of"];
        for plugin in clear {
            let (outcome, sent) = answer(Trust::Known, &[&switch(plugin)]).await;
            assert!(matches!(&outcome, Err(LoginError::Failed(_))), "{outcome:?}");
            assert_eq!(sent.len(), 1, "{plugin:?}");
        }
        let sha2 = switch(b"caching_sha2_password");
        let (outcome, sent) = answer(Trust::Unknown, &[&sha2, b"\x01\x04"]).await;
        assert!(
            matches!(&outcome, Err(LoginError::Failed(failure)) if failure.class() == FailureClass::Invalid)
        );
        assert!(!sent.iter().any(|packet| packet.windows(9).any(|part| part == b"the value")));
        let (outcome, sent) =
            answer(Trust::Known, &[&sha2, b"\x01\x04", b"\x00\x00\x00\x02\x00\x00\x00"]).await;
        assert!(matches!(outcome, Ok(MysqlAuthentication::CachingSha2)), "{outcome:?}");
        assert_eq!(sent.last().map(Vec::as_slice), Some(&b"the value itself\0"[..]));
    }

    /// MySQL asks so for an account that is not there, whoever's it would be.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_by_another_plugin_counts_where_the_value_may_be_handed_over() {
        let asked = [b"\xfesha256_password\0".as_slice(), &[9; 20], b"\0"].concat();
        let denied: &[u8] = b"\xff\x15\x04#28000no";
        let (outcome, sent) = answer_over(Trust::Known, Flags::CLIENT_SSL, &[&asked, denied]).await;
        assert!(matches!(outcome, Err(LoginError::Rejected)), "{outcome:?}");
        assert_eq!(sent.last().map(Vec::as_slice), Some(&b"the value itself\0"[..]));
        let let_in: &[u8] = b"\x00\x00\x00\x02\x00\x00\x00";
        let (outcome, _) = answer_over(Trust::Known, Flags::CLIENT_SSL, &[&asked, let_in]).await;
        assert!(matches!(&outcome, Err(LoginError::Failed(_))), "{outcome:?}");
        for (trust, also) in [(Trust::Unknown, Flags::CLIENT_SSL), (Trust::Known, Flags::empty())] {
            let (outcome, sent) = answer_over(trust, also, &[&asked, denied]).await;
            assert!(matches!(&outcome, Err(LoginError::Failed(_))), "{outcome:?}");
            assert_eq!(sent.len(), 1, "{trust:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_method_is_tried_and_a_server_without_end_is_not_followed() {
        let switch = |plugin: &[u8]| [b"\xfe", plugin, b"\0", &[9; 32]].concat();
        let (one, two) = (switch(b"client_ed25519"), switch(b"client_ed25519"));
        let (outcome, sent) = answer(Trust::Unknown, &[&one, &two, b"\x00\x00\x00\x02\x00\x00\x00"]).await;
        assert!(matches!(outcome, Ok(MysqlAuthentication::Ed25519)), "{outcome:?}");
        assert_eq!(sent.len(), 3);
        let (outcome, _) = answer(Trust::Unknown, &[one.as_slice(); 8]).await;
        assert!(matches!(&outcome, Err(LoginError::Failed(_))), "{outcome:?}");
    }
}
