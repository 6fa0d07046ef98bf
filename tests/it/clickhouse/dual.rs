//! One user with several ways to log in.

use async_trait::async_trait;
use rekeyd::failure::FailureClass;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::clickhouse::ClickhouseTarget;
use rekeyd::target::{Extent, Probe};

use super::{ADMIN, PASSWORD, Step, done, install, name, new, one, open, probe, retire, spec, target};
use crate::clickhouse_server::{Clickhouse, Way};
use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::target_contract::Open;

dual_password_contract!(Dual::new().await);

pub(super) struct Dual {
    pub(super) server: Clickhouse,
    pub(super) target: ClickhouseTarget,
}

impl Dual {
    pub(super) async fn new() -> Self {
        let server = Clickhouse::start(ADMIN, PASSWORD).await;
        server.make("app");
        let target = target(spec(&[server.port], one()));
        Self { server, target }
    }
}

#[async_trait]
impl DualBench for Dual {
    type Target = ClickhouseTarget;

    fn target(&self) -> &ClickhouseTarget {
        &self.target
    }

    fn user(&self) -> Principal {
        name("app")
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        open(&self.server, credential).await
    }

    async fn slip(&self, credential: &Credential) {
        self.server.slip("app", credential.value.expose_str().expect("text"));
    }
}

/// Nothing is left of an attempt but its marker, and the user's own profiles are left alone.
#[tokio::test]
async fn a_user_keeps_what_is_its_own() {
    let Dual { server, target } = Dual::new().await;
    {
        let mut tables = server.tables();
        tables.profiles.insert("heavy".into(), 900);
        let user = tables.users.get_mut("app").expect("the user");
        user.profiles.push(900);
        user.settings.push("max_threads = 3".into());
        user.grants.push("GRANT SELECT ON shop.* TO {}".into());
    }
    let before = server.user("app");
    let (first, second) = (new("app"), new("app"));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(install(&target, &step, &second, Some(&first)).await);
    retire(&target, &step, "app", Extent::OtherValues, Some(&second)).await.expect("retired");
    let after = server.user("app");
    assert_eq!((after.id, after.settings, after.grants), (before.id, before.settings, before.grants));
    let profiles = server.profiles_of("app");
    assert_eq!(profiles.len(), 2, "{profiles:?}");
    assert_eq!(profiles[0], "heavy");
    assert!(profiles[1].contains("policy=orders/olap version=2 fence=2"), "{profiles:?}");
    assert_eq!(server.tables().profiles.len(), 2, "no profile is left behind");
    assert_eq!(after.ways.len(), 1);
}

/// Its readers would be locked out.
#[tokio::test]
async fn other_ways_to_log_in_are_not_taken_away() {
    for kind in ["ldap", "double_sha1_password", "ssl_certificate", "no_password"] {
        let Dual { server, target } = Dual::new().await;
        let way = Way { kind: kind.into(), ..Way::of("") };
        server.tables().users.get_mut("app").expect("the user").ways.push(way);
        let failure =
            install(&target, &Step::new(1), &new("app"), None).await.expect_err("it was taken away");
        assert_eq!(failure.class(), FailureClass::Conflict, "{kind}: {failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("`app`")), "{kind}: {failure:?}");
        assert!(server.tables().changes.is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_value_in_use_is_not_replaced_by_a_first_one() {
    let Dual { server, target } = Dual::new().await;
    server.slip("app", "in use");
    let failure = install(&target, &Step::new(1), &new("app"), None).await.expect_err("it was replaced");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("rekeyd adopt")), "{failure:?}");
    assert!(server.tables().changes.is_empty());
}

#[tokio::test]
async fn a_user_that_is_not_there_is_not_made() {
    let server = Clickhouse::start(ADMIN, PASSWORD).await;
    let target = target(spec(&[server.port], one()));
    let failure = install(&target, &Step::new(1), &new("app"), None).await.expect_err("it was made");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.starts_with("CREATE USER `app`")), "{failure:?}");
    assert_eq!(probe(&target, &new("app")).await, Probe::Refused);
}
