//! The MySQL target on a scripted server, which answers as MySQL 8 does: what takes no server.

mod dual;
mod faults;

use std::sync::Arc;

use async_trait::async_trait;
use mysql_common::constants::CapabilityFlags;
use mysql_common::packets::{AuthPlugin, HandshakeResponse};
use mysql_common::proto::MySerialize as _;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{
    AlternatingSpec, MysqlAuthentication, MysqlEndpoint, MysqlSpec, MysqlStrategy, TlsMode, TlsSpec,
};
use rekeyd::secret::Credential;
use rekeyd::target::mysql::{MysqlTarget, Pool};
use rekeyd::target::{AdminCredential, Probe, ProbeDepth, Target as _};
use tokio::net::UnixStream;

use crate::mysql8::{Account, Mysql8, Packets};
use crate::target_contract::{Bench, Open, target_contract};

target_contract!(Alternating::new(MysqlAuthentication::CachingSha2));

const ADMIN: &str = "rekeyd";
const PASSWORD: &str = "the password of the admin";

struct Alternating {
    server: Mysql8,
    target: MysqlTarget,
}

impl Alternating {
    fn new(authentication: MysqlAuthentication) -> Self {
        let server = Mysql8::start(ADMIN, PASSWORD);
        server.state.tables().accounts.insert(("grp".into(), "%".into()), Account::default());
        let users = ["app_a", "app_b"].map(name);
        let strategy = MysqlStrategy::Alternating(AlternatingSpec { users, member_of: vec![name("grp")] });
        let target = target(&server, strategy, authentication);
        Self { server, target }
    }
}

#[async_trait]
impl Bench for Alternating {
    type Target = MysqlTarget;

    fn target(&self) -> &MysqlTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        ["app_a", "app_b"].map(name)
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        Box::new(log_in(&self.server, credential).await)
    }

    async fn by_hand(&self, credential: &Credential) {
        let plugin = "mysql_native_password";
        let primary = rekeyd::target::mysql::kept(plugin, &credential.value);
        let account = Account { plugin: plugin.into(), primary, ..Account::default() };
        let key = (credential.principal.to_string(), "%".to_owned());
        self.server.state.tables().accounts.insert(key, account);
    }
}

fn name(text: &str) -> Principal {
    text.parse().expect("a principal")
}

fn target(server: &Mysql8, strategy: MysqlStrategy, authentication: MysqlAuthentication) -> MysqlTarget {
    let endpoint = MysqlEndpoint {
        host: server.socket.display().to_string(),
        port: 3306,
        database: None,
        tls: TlsSpec { mode: TlsMode::Disable, ca_file: None, allow_plaintext: false },
    };
    let spec = MysqlSpec {
        endpoint,
        also_verify: Vec::new(),
        admin: "admin".parse().expect("a label"),
        account_host: "%".to_owned(),
        authentication: Some(authentication),
        strategy,
        check: Some("SELECT 1".to_owned()),
    };
    MysqlTarget::new(spec, Arc::new(Admin), Arc::new(Pool::new(8))).vouched(|_| true)
}

struct Admin;

#[async_trait]
impl AdminCredential for Admin {
    async fn credential(&self) -> Result<Credential, Failure> {
        Ok(Credential::new(name(ADMIN), rekeyd::secret::SecretValue::new(PASSWORD.into())))
    }
}

#[tokio::test]
async fn the_scripted_server_answers_as_mysql_8_does() {
    let server = Mysql8::start(ADMIN, PASSWORD);
    server.state.tables().accounts.insert(("grp".into(), "%".into()), Account::default());
    crate::mysql8_contract::it_answers_as_mysql_8_does(&server).await;
}

#[async_trait]
impl crate::mysql8_contract::Spoken for Mysql8 {
    async fn say(&self, statement: &str) -> Result<Vec<String>, u16> {
        self.answer(ADMIN, statement).await
    }

    fn user(&self) -> String {
        "app_a".to_owned()
    }

    fn role(&self) -> String {
        "grp".to_owned()
    }
}

/// Whoever writes policies chooses the server, and could choose one that asks for what is in the store.
#[tokio::test]
async fn a_value_is_handed_to_no_server_that_the_settings_do_not_name() {
    let bench = Alternating::new(MysqlAuthentication::CachingSha2);
    let [user, _] = bench.pair();
    let credential = Credential::new(user, rekeyd::secret::ValueSpec::default().generate());
    let kept = rekeyd::target::mysql::kept("caching_sha2_password", &credential.value);
    let account = Account { plugin: "caching_sha2_password".into(), primary: kept, ..Account::default() };
    bench.server.state.tables().accounts.insert(("app_a".into(), "%".into()), account);
    assert_eq!(bench.target.probe(&credential, ProbeDepth::Login).await, Probe::Accepted);
    let unnamed = bench.target.vouched(|host| host == "db.example.com");
    let probe = unnamed.probe(&credential, ProbeDepth::Login).await;
    let Probe::Unknown(failure) = probe else { panic!("a verdict: {probe:?}") };
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("`hosts`")), "{failure:?}");
    let handed = bench.server.state.tables().handed;
    assert_eq!(handed, 1, "only the first one was handed over");
}

/// An application: it has the value, and hands it over where it is asked for.
async fn log_in(server: &Mysql8, credential: &Credential) -> Packets {
    let value = credential.value.expose_str().expect("text");
    let stream = UnixStream::connect(&server.socket).await.expect("the server");
    let mut packets = Packets { stream, sequence: 0 };
    packets.read().await.expect("a greeting");
    let capabilities = CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_PLUGIN_AUTH;
    let response = HandshakeResponse::new(
        Some(&[7_u8; 32][..]),
        (8, 0, 0),
        Some(credential.principal.as_str().as_bytes()),
        None::<&[u8]>,
        Some(AuthPlugin::CachingSha2Password),
        capabilities,
        None,
        1 << 20,
    );
    let mut packet = Vec::new();
    response.serialize(&mut packet);
    packets.write(&packet).await.expect("sent");
    let asked = packets.read().await.expect("a question");
    let proof = match asked.as_slice() {
        [0x01, 0x04] => [value.as_bytes(), b"\0"].concat(),
        [0xfe, ..] => {
            let proof = AuthPlugin::MysqlNativePassword.gen_data(Some(value), &asked[23..43]);
            proof.expect("a proof").to_vec()
        }
        other => panic!("what is this: {other:?}"),
    };
    packets.write(&proof).await.expect("sent");
    assert_eq!(packets.read().await.expect("a verdict").first(), Some(&0), "the login is refused");
    packets
}

#[async_trait]
impl Open for Packets {
    async fn lives(&mut self) -> bool {
        self.sequence = 0;
        // Whoever has ended the session may not have told yet; the answer does.
        self.write(b"\x03SELECT 1").await.is_ok() && self.answered().await
    }
}

impl Packets {
    async fn answered(&mut self) -> bool {
        // Count, column, end, row, end.
        for _ in 0..5 {
            if self.read().await.is_err() {
                return false;
            }
        }
        true
    }
}
