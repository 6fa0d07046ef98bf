//! One account that takes two values at a time, in each way that MariaDB has.

use async_trait::async_trait;
use rekeyd::ident::Principal;
use rekeyd::policy::spec::MysqlAuthentication;
use rekeyd::secret::Credential;
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::{InstallRequest, Installed, Occupancy, Probe, ProbeDepth, Target as _};

use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::mysql_support::World;
use crate::postgres_support::{Try, credential, text};
use crate::target_contract::Open;

dual_password_contract!(Dual::new(MysqlAuthentication::Ed25519).await);

struct Dual {
    world: World,
    target: MysqlTarget,
}

impl Dual {
    async fn new(authentication: MysqlAuthentication) -> Self {
        let world = World::shared().await;
        let made =
            "CREATE USER '{p}_a'@'%' IDENTIFIED VIA mysql_native_password USING 'invalid' ACCOUNT LOCK";
        world.sql(made).await;
        let target = world.target(world.dual(Some(authentication)));
        Self { world, target }
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

    async fn slip(&self, credential: &Credential) {
        let held = self.world.row("SHOW CREATE USER '{p}_a'@'%'").await;
        let method = held.split(" IDENTIFIED VIA ").nth(1).expect("a method");
        let stray = text(credential);
        self.world
            .sql(&format!(
                "ALTER USER '{{p}}_a'@'%' IDENTIFIED VIA {method} OR ed25519 USING PASSWORD('{stray}')"
            ))
            .await;
    }
}

/// In the way that any client knows.
#[tokio::test(flavor = "multi_thread")]
async fn two_values_work_without_a_plugin_too() {
    let bench = Dual::new(MysqlAuthentication::Native).await;
    let user = bench.user();
    let (first, second) = (credential(user.as_str()), credential(user.as_str()));
    for (fence, candidate, beside) in [(1, &first, None), (2, &second, Some(&first))] {
        let step = Try::new(fence);
        let request = InstallRequest {
            attempt: step.attempt(),
            candidate,
            peer: None,
            beside,
            occupancy: Occupancy::Refuse,
        };
        let installed = bench.target.install(request).await;
        assert!(matches!(installed, Ok(Installed::Done { .. })), "{installed:?}");
    }
    for each in [&first, &second] {
        assert_eq!(bench.target.probe(each, ProbeDepth::Login).await, Probe::Accepted);
        assert!(bench.world.connect(each).await.is_ok());
    }
    let wrong = credential(user.as_str());
    assert_eq!(bench.target.probe(&wrong, ProbeDepth::Login).await, Probe::Refused);
    let shown = bench.world.row("SHOW CREATE USER '{p}_a'@'%'").await;
    assert_eq!(shown.matches("mysql_native_password USING '*").count(), 2, "{shown}");
}
