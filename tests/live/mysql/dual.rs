//! One account that takes two values at a time, in each way that MariaDB and MySQL have.

use async_trait::async_trait;
use rekeyd::ident::Principal;
use rekeyd::policy::spec::MysqlAuthentication;
use rekeyd::secret::Credential;
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::{
    Extent, InstallRequest, Installed, Occupancy, Probe, ProbeDepth, RetireRequest, Target as _,
};

use super::on_each_server;
use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::mysql_support::{Kind, World};
use crate::mysql8_contract::Spoken;
use crate::postgres_support::{Try, credential, credential_of, text};
use crate::proxy::{Fault, Proxy};
use crate::target_contract::Open;

mod ed25519 {
    use super::{Dual, Kind, MysqlAuthentication, dual_password_contract};

    dual_password_contract!(Dual::new(Kind::MariaDb, MysqlAuthentication::Ed25519).await);
}

mod caching_sha2 {
    use super::{Dual, Kind, MysqlAuthentication, dual_password_contract};

    dual_password_contract!(Dual::new(Kind::MySql, MysqlAuthentication::CachingSha2).await);
}

mod native {
    use super::{Dual, Kind, MysqlAuthentication, dual_password_contract};

    dual_password_contract!(Dual::new(Kind::MySql, MysqlAuthentication::Native).await);
}

on_each_server! {
    two_values_work_without_a_plugin_too
    a_change_whose_answer_was_lost_is_looked_for_before_it_is_repeated
    another_way_to_log_in_keeps_both_values
}

struct Dual {
    world: World,
    target: MysqlTarget,
    authentication: MysqlAuthentication,
}

impl Dual {
    async fn new(kind: Kind, authentication: MysqlAuthentication) -> Self {
        let world = World::shared(kind).await;
        let method = kind.says(" IDENTIFIED VIA mysql_native_password USING 'invalid'", "");
        world.sql(&format!("CREATE USER '{{p}}_a'@'%'{method} ACCOUNT LOCK")).await;
        let target = world.target(world.dual(Some(authentication)));
        Self { world, target, authentication }
    }
}

/// What the scripted server is held to.
#[tokio::test(flavor = "multi_thread")]
async fn mysql_8_answers_as_it_is_taken_to() {
    crate::mysql8_contract::it_answers_as_mysql_8_does(&World::shared(Kind::MySql).await).await;
}

#[async_trait]
impl Spoken for World {
    async fn say(&self, statement: &str) -> Result<Vec<String>, u16> {
        self.root.lock().await.query(statement).await.map_err(|error| {
            let code = error.strip_prefix("ERROR ").and_then(|rest| rest.split(' ').next());
            code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no error: {error}"))
        })
    }

    fn user(&self) -> String {
        self.name("a").to_string()
    }

    fn role(&self) -> String {
        self.name("group").to_string()
    }
}

#[async_trait]
impl DualBench for Dual {
    type Target = MysqlTarget;

    fn target(&self) -> &MysqlTarget {
        &self.target
    }

    fn user(&self) -> Principal {
        self.world.name("a")
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        Box::new(self.world.connect(credential).await.expect("a session"))
    }

    async fn by_hand(&self, credential: &Credential) {
        let live = text(credential);
        let identified = match self.authentication {
            MysqlAuthentication::Native => self.world.kind().identified_plainly(live),
            _ => self.world.kind().identified(live),
        };
        self.world.sql(&format!("ALTER USER '{{p}}_a'@'%' {identified} ACCOUNT UNLOCK")).await;
    }

    async fn slip(&self, credential: &Credential) {
        let stray = text(credential);
        let statement = match (self.world.kind(), self.authentication) {
            (Kind::MariaDb, _) => {
                let held = self.world.row("SHOW CREATE USER '{p}_a'@'%'").await;
                let method = held.split(" IDENTIFIED VIA ").nth(1).expect("a method");
                format!(
                    "ALTER USER '{{p}}_a'@'%' IDENTIFIED VIA {method} OR ed25519 USING PASSWORD('{stray}')"
                )
            }
            // As the second one, behind the one that is there.
            (Kind::MySql, MysqlAuthentication::Native) => {
                let held =
                    self.world.row("SELECT authentication_string FROM mysql.user WHERE User = '{p}_a'").await;
                format!(
                    "ALTER USER '{{p}}_a'@'%' IDENTIFIED BY '{stray}';
                     ALTER USER '{{p}}_a'@'%' IDENTIFIED WITH mysql_native_password AS '{held}' RETAIN CURRENT PASSWORD"
                )
            }
            // As the first one, as whoever gives an account a value does.
            (Kind::MySql, _) => {
                format!("ALTER USER '{{p}}_a'@'%' IDENTIFIED BY '{stray}' RETAIN CURRENT PASSWORD")
            }
        };
        self.world.sql(&statement).await;
    }
}

async fn install(
    target: &MysqlTarget,
    step: &Try,
    candidate: &Credential,
    beside: Option<&Credential>,
) -> Result<Installed, rekeyd::failure::Failure> {
    let request = InstallRequest {
        attempt: step.attempt(),
        candidate,
        peer: None,
        beside,
        occupancy: Occupancy::Refuse,
    };
    target.install(request).await
}

async fn done(target: &MysqlTarget, step: &Try, candidate: &Credential, beside: Option<&Credential>) {
    let installed = install(target, step, candidate, beside).await;
    assert!(matches!(installed, Ok(Installed::Done { .. })), "{installed:?}");
}

async fn accepted(bench: &Dual, target: &MysqlTarget, values: &[&Credential]) {
    for each in values {
        assert_eq!(target.probe(each, ProbeDepth::Login).await, Probe::Accepted);
        assert!(bench.world.connect(each).await.is_ok());
    }
}

/// In the way that any client knows.
async fn two_values_work_without_a_plugin_too(kind: Kind) {
    let bench = Dual::new(kind, MysqlAuthentication::Native).await;
    let user = bench.user();
    let (first, second) = (credential(user.as_str()), credential(user.as_str()));
    done(&bench.target, &Try::new(1), &first, None).await;
    done(&bench.target, &Try::new(2), &second, Some(&first)).await;
    accepted(&bench, &bench.target, &[&first, &second]).await;
    let wrong = credential(user.as_str());
    assert_eq!(bench.target.probe(&wrong, ProbeDepth::Login).await, Probe::Refused);
    let (query, hashes) = kind.says(
        ("SHOW CREATE USER '{p}_a'@'%'", "mysql_native_password USING '*"),
        ("SELECT CONCAT(plugin, authentication_string, ' ', User_attributes) FROM mysql.user WHERE User = '{p}_a'", "*"),
    );
    let shown = bench.world.row(query).await;
    assert_eq!(shown.matches(hashes).count(), 2, "{shown}");
}

/// On MySQL a second `RETAIN` would push the outgoing value out while it is in use.
async fn a_change_whose_answer_was_lost_is_looked_for_before_it_is_repeated(kind: Kind) {
    let world = World::shared(kind).await.plainly().await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let target = world.target(world.dual(None));
    let mut spec = world.dual(None);
    let bench = Dual { world, target, authentication: MysqlAuthentication::Native };
    let user = bench.user();
    let mut outgoing = credential(user.as_str());
    done(&bench.target, &Try::new(1), &outgoing, None).await;
    for (fence, fault) in (2..).zip([Fault::LoseRequest, Fault::LoseReply]) {
        let (step, candidate) = (Try::new(fence), credential(user.as_str()));
        let proxy =
            Proxy::start((&bench.world.server.at().host, bench.world.server.at().port), "ALTER USER", fault)
                .await;
        spec.endpoint.port = proxy.port;
        let through = bench.world.target(spec.clone());
        let failure = install(&through, &step, &candidate, Some(&outgoing)).await.expect_err("lost");
        assert_eq!(failure.class(), rekeyd::failure::FailureClass::Ambiguous, "{fault:?}: {failure}");
        assert_eq!(proxy.faults(), 1);
        for _ in 0..2 {
            done(&bench.target, &step, &candidate, Some(&outgoing)).await;
            accepted(&bench, &bench.target, &[&outgoing, &candidate]).await;
        }
        let kept = bench.world.kept().await.replace(": ", ":");
        for part in [format!("\"fence\":{fence}"), "\"state\":\"installed\"".to_owned()] {
            assert!(kept.contains(&part), "{part}: {kept}");
        }
        // What a person noted there is left alone.
        if kind == Kind::MySql {
            bench.world.sql(r#"ALTER USER '{p}_a'@'%' ATTRIBUTE '{"team": "search"}'"#).await;
        }
        let request = RetireRequest {
            attempt: step.attempt(),
            principal: &user,
            extent: Extent::OtherValues,
            outgoing: None,
            beside: Some(&candidate),
        };
        bench.target.retire(request).await.expect("retired");
        assert_eq!(bench.target.probe(&outgoing, ProbeDepth::Login).await, Probe::Refused, "it lives on");
        accepted(&bench, &bench.target, &[&candidate]).await;
        outgoing = candidate;
    }
    if kind == Kind::MySql {
        let query = "SELECT User_attributes->'$.metadata.team', User_attributes->'$.additional_password' IS NULL FROM mysql.user WHERE User = '{p}_a'";
        assert_eq!(bench.world.row(query).await, "\"search\"\t1");
    }
}

/// MySQL retains no password of another plugin's.
/// Of a server that is told to hash more often, or by a person at another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_hashed_more_often_is_known() {
    let world = World::shared(Kind::MySql).await;
    // MySQL 8.0.31 with caching_sha2_password_digest_rounds = 10000 keeps this of `one`.
    let made = "2441243030412416181606051E4C47100B574F7E44012C64783A07593855384C6E634B32707135397641583332773034384A4B3\
                8634975714B4145556B6841717057426E7738";
    world.sql(&format!("CREATE USER '{{p}}_a'@'%' IDENTIFIED WITH caching_sha2_password AS 0x{made}")).await;
    let target = world.target(world.dual(None));
    let (first, second) = (credential_of(&world.name("a"), "one"), credential(world.name("a").as_str()));
    let step = Try::new(1);
    done(&target, &step, &second, Some(&first)).await;
    for each in [&first, &second] {
        assert_eq!(target.probe(each, ProbeDepth::Login).await, Probe::Accepted);
        assert!(world.connect(each).await.is_ok());
    }
    let request = RetireRequest {
        attempt: step.attempt(),
        principal: &first.principal,
        extent: Extent::OtherValues,
        outgoing: None,
        beside: Some(&second),
    };
    target.retire(request).await.expect("retired");
    assert_eq!(target.probe(&first, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(target.probe(&second, ProbeDepth::Login).await, Probe::Accepted);
}

async fn another_way_to_log_in_keeps_both_values(kind: Kind) {
    let bench = Dual::new(kind, MysqlAuthentication::Native).await;
    let user = bench.user();
    let (first, second, third) =
        (credential(user.as_str()), credential(user.as_str()), credential(user.as_str()));
    done(&bench.target, &Try::new(1), &first, None).await;
    let better = bench.world.target(bench.world.dual(Some(kind.best())));
    done(&better, &Try::new(2), &second, Some(&first)).await;
    accepted(&bench, &better, &[&first, &second]).await;
    let step = Try::new(3);
    let retire = RetireRequest {
        attempt: step.attempt(),
        principal: &user,
        extent: Extent::OtherValues,
        outgoing: None,
        beside: Some(&second),
    };
    better.retire(retire).await.expect("retired");
    done(&bench.target, &Try::new(4), &third, Some(&second)).await;
    accepted(&bench, &bench.target, &[&second, &third]).await;
    assert_eq!(bench.target.probe(&first, ProbeDepth::Login).await, Probe::Refused);
    let plugin = bench.world.row("SELECT plugin FROM mysql.user WHERE User = '{p}_a'").await;
    assert_eq!(plugin, "mysql_native_password");
}
