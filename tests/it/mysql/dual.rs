//! One account with a second password.

use async_trait::async_trait;
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{InPlaceSpec, MysqlAuthentication, MysqlStrategy};
use rekeyd::secret::{Credential, SecretValue, ValueSpec};
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::{
    Attempt, Extent, InstallRequest, Installed, Occupancy, Probe, ProbeDepth, RetireRequest, Target as _,
};

use super::{ADMIN, PASSWORD, log_in, name, target};
use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::keys_contract::Step;
use crate::mysql8::{Account, Mysql8, native};
use crate::target_contract::Open;

mod hashed_twice {
    use super::{Dual, MysqlAuthentication, dual_password_contract};

    dual_password_contract!(Dual::new(MysqlAuthentication::Native));
}

mod salted {
    use super::{Dual, MysqlAuthentication, dual_password_contract};

    dual_password_contract!(Dual::new(MysqlAuthentication::CachingSha2));
}

pub(super) struct Dual {
    pub(super) server: Mysql8,
    pub(super) target: MysqlTarget,
}

impl Dual {
    pub(super) fn new(authentication: MysqlAuthentication) -> Self {
        let server = Mysql8::start(ADMIN, PASSWORD);
        let closed = Account {
            plugin: "mysql_native_password".into(),
            primary: native("nobody knows"),
            locked: true,
            ..Account::default()
        };
        server.state.tables().accounts.insert(("app".into(), "%".into()), closed);
        let strategy = MysqlStrategy::DualPassword(InPlaceSpec { user: name("app") });
        let target = target(&server, strategy, authentication);
        Self { server, target }
    }

    pub(super) fn account(&self) -> Account {
        self.server.state.tables().accounts[&("app".to_owned(), "%".to_owned())].clone()
    }
}

#[async_trait]
impl DualBench for Dual {
    type Target = MysqlTarget;

    fn target(&self) -> &MysqlTarget {
        &self.target
    }

    fn user(&self) -> Principal {
        name("app")
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        Box::new(log_in(&self.server, credential).await)
    }

    async fn by_hand(&self, credential: &Credential) {
        let mut tables = self.server.state.tables();
        let account = tables.accounts.get_mut(&("app".to_owned(), "%".to_owned())).expect("the account");
        account.primary = rekeyd::target::mysql::kept(&account.plugin, &credential.value);
        account.locked = false;
    }

    async fn slip(&self, credential: &Credential) {
        // By the plugin that the account has, as the second password that it has not.
        let kept = rekeyd::target::mysql::kept(&self.account().plugin, &credential.value);
        let mut tables = self.server.state.tables();
        let account = tables.accounts.get_mut(&("app".to_owned(), "%".to_owned())).expect("the account");
        account.secondary = Some(kept);
    }
}

/// As the server is told to, and as one was that made the value in force.
#[tokio::test]
async fn a_value_is_hashed_as_often_as_the_server_says() {
    for (rounds, prefix) in [(0, b"$A$005$"), (5_000, b"$A$005$"), (12_999, b"$A$00C$")] {
        let bench = Dual::new(MysqlAuthentication::CachingSha2);
        bench.server.state.tables().rounds = rounds;
        // MySQL 8.0.31 with caching_sha2_password_digest_rounds = 10000 keeps this of `one`.
        let made = b"$A$00A$\x16\x18\x16\x06\x05\x1eLG\x10\x0bWO~D\x01,dx:\x07Y8U8LncK2pq59vAX32w048JK8cIuqKAEUkhAqpWBnw8";
        {
            let mut tables = bench.server.state.tables();
            let account = tables.accounts.get_mut(&("app".to_owned(), "%".to_owned())).expect("the account");
            account.plugin = "caching_sha2_password".to_owned();
            (account.primary, account.locked) = (made.to_vec(), false);
        }
        let first = Credential::new(name("app"), SecretValue::new(b"one".to_vec()));
        let second = Credential::new(name("app"), ValueSpec::default().generate());
        let step = Step::new(1);
        let request = InstallRequest {
            attempt: step.attempt(),
            candidate: &second,
            peer: None,
            beside: Some(&first),
            occupancy: Occupancy::Refuse,
        };
        bench.target.install(request).await.expect("installed");
        let account = bench.account();
        assert!(account.primary.starts_with(prefix), "{rounds}: {}", account.primary.escape_ascii());
        assert_eq!(account.secondary.as_deref(), Some(&made[..]), "{rounds}");
        for each in [&first, &second] {
            assert_eq!(bench.target.probe(each, ProbeDepth::Login).await, Probe::Accepted, "{rounds}");
        }
    }
}

/// A second `RETAIN` would push the outgoing value out while it is in use.
#[tokio::test]
async fn a_change_whose_answer_was_lost_is_looked_for_before_it_is_repeated() {
    let bench = Dual::new(MysqlAuthentication::Native);
    let policy = "orders/db".parse().expect("a policy name");
    let rotation = rekeyd::ident::RotationId::generate();
    let attempt = |fence| Attempt {
        policy: &policy,
        rotation,
        version: rekeyd::ident::Version::new(fence),
        fence: rekeyd::ident::Fence::new(fence),
    };
    let [first, second] = [(); 2].map(|()| Credential::new(name("app"), ValueSpec::default().generate()));
    let install = async |fence, candidate, beside| {
        let request = InstallRequest {
            attempt: attempt(fence),
            candidate,
            peer: None,
            beside,
            occupancy: Occupancy::Refuse,
        };
        let installed = bench.target.install(request).await;
        assert!(matches!(installed, Ok(Installed::Done { .. })), "{installed:?}");
    };
    install(1, &first, None).await;
    for _ in 0..3 {
        install(2, &second, Some(&first)).await;
        let account = bench.account();
        assert_eq!(account.primary, native(second.value.expose_str().expect("text")));
        assert_eq!(account.secondary, Some(native(first.value.expose_str().expect("text"))));
        // In the statement that changed the password.
        assert_eq!(account.attribute["rekeyd"]["fence"], 2);
        assert_eq!(account.attribute["rekeyd"]["state"], "installed");
    }
    // A person's own attributes are left alone.
    let principal = name("app");
    let retire = async || {
        let request = RetireRequest {
            attempt: attempt(2),
            principal: &principal,
            extent: Extent::OtherValues,
            outgoing: None,
            beside: Some(&second),
        };
        bench.target.retire(request).await.expect("retired");
    };
    bench
        .server
        .state
        .tables()
        .accounts
        .get_mut(&("app".to_owned(), "%".to_owned()))
        .expect("the account")
        .attribute
        .insert("team".to_owned(), "search".into());
    retire().await;
    let account = bench.account();
    assert_eq!(account.secondary, None, "without DISCARD OLD PASSWORD it would live on");
    assert_eq!(account.attribute["team"], "search");
    assert_eq!(bench.target.probe(&first, ProbeDepth::Login).await, Probe::Refused);
}
