//! Two users that take turns.

use async_trait::async_trait;
use rekeyd::failure::FailureClass;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::clickhouse::ClickhouseTarget;
use rekeyd::target::{Extent, Occupancy, Probe, ProbeDepth, Target as _};

use super::{
    ADMIN, PASSWORD, Step, done, install, install_with, name, new, open, pair_of, probe, retire, spec,
    target, turn,
};
use crate::clickhouse_server::Clickhouse;
use crate::target_contract::{Bench, Open, target_contract};

// Without `only_sessions_before_the_moment_are_ended`: nothing changes in place here.
target_contract! { Pair::new().await;
    a_value_is_refused_before_its_install_and_accepted_after
    installing_the_same_candidate_again_is_right
    only_the_very_value_of_the_very_principal_is_accepted
    an_older_attempt_changes_nothing
    a_fence_belongs_to_one_rotation
    one_policy_does_not_take_anothers_principal
    usage_lists_the_open_sessions
    a_spare_in_use_is_not_taken
    a_seized_spare_loses_its_sessions
    a_retired_principal_is_refused_and_has_no_session
    retiring_again_or_what_is_not_there_is_right
    an_older_attempt_retires_nothing
    undoing_takes_back_what_was_installed
    undoing_what_never_arrived_bars_its_arrival
    undoing_bars_the_arrival_at_a_principal_that_is_not_there
    undoing_leaves_a_later_attempt_alone
    a_later_attempt_follows_an_undone_one
    a_retired_principal_serves_again
    a_preflight_changes_nothing
}

pub(super) struct Pair {
    pub(super) server: Clickhouse,
    pub(super) target: ClickhouseTarget,
}

impl Pair {
    pub(super) async fn new() -> Self {
        let server = Clickhouse::start(ADMIN, PASSWORD).await;
        server.tables().roles.insert("reader".into());
        let target = target(spec(&[server.port], pair_of(&["reader"])));
        Self { server, target }
    }
}

#[async_trait]
impl Bench for Pair {
    type Target = ClickhouseTarget;

    fn target(&self) -> &ClickhouseTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        ["app_a", "app_b"].map(name)
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        open(&self.server, credential).await
    }
}

#[tokio::test]
async fn the_candidate_gets_what_its_peer_has() {
    let Pair { server, target } = Pair::new().await;
    let (first, second) = (new("app_a"), new("app_b"));
    done(install(&target, &Step::new(1), &first, None).await);
    assert_eq!(server.user("app_a").grants, ["GRANT reader TO {}"], "the role that both have");
    {
        let mut tables = server.tables();
        tables.profiles.insert("heavy".into(), 900);
        let user = tables.users.get_mut("app_a").expect("the user");
        user.grants.extend([
            "GRANT SELECT ON shop.* TO {} WITH GRANT OPTION".to_owned(),
            "REVOKE SELECT ON shop.secret FROM {}".to_owned(),
        ]);
        user.host = Some("IP '10.0.0.0/8', NAME 'db.example.com'".into());
        user.default_database = Some("shop".into());
        user.default_role = Some("reader".into());
        user.grantees = Some("NONE".into());
        user.settings.push("max_threads = 3".into());
        user.profiles.push(900);
    }
    let model = server.user("app_a");
    for fence in 2..4 {
        done(turn(&target, &Step::new(fence), &second, "app_a").await);
        let made = server.user("app_b");
        assert_eq!(made.grants, model.grants);
        assert_eq!((made.host, made.default_database), (model.host.clone(), model.default_database.clone()));
        assert_eq!((made.default_role, made.grantees), (model.default_role.clone(), model.grantees.clone()));
        assert_eq!(made.settings, model.settings);
        assert_eq!(server.profiles_of("app_b")[0], "heavy");
        assert_eq!(server.profiles_of("app_b").len(), 2, "and its own marker, not its peer's");
        // A drift that somebody brings in by hand is mended.
        let mut tables = server.tables();
        let user = tables.users.get_mut("app_b").expect("the user");
        user.grants.push("GRANT DROP TABLE ON *.* TO {}".into());
        user.settings.clear();
    }
    assert_eq!(server.user("app_a").ways, model.ways, "who is in use is not touched");
}

/// A connection belongs to an id: who is retired gets another one, and what it had.
#[tokio::test]
async fn a_retired_user_is_another_one_with_the_same_rights() {
    let Pair { server, target } = Pair::new().await;
    let (first, second) = (new("app_a"), new("app_b"));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(turn(&target, &step, &second, "app_a").await);
    let before = server.user("app_a");
    for _ in 0..2 {
        retire(&target, &step, "app_a", Extent::Principal, None).await.expect("retired");
    }
    let after = server.user("app_a");
    assert_ne!(after.id, before.id);
    assert_eq!(after.grants, before.grants);
    assert_eq!(
        server.tables().changes.iter().filter(|change| change.contains("OR REPLACE `app_a`")).count(),
        2
    );
    assert_eq!(probe(&target, &first).await, Probe::Refused);
    assert_eq!(probe(&target, &second).await, Probe::Accepted);
}

/// A row policy knows its users by their ids, and would not hold for another one.
#[tokio::test]
async fn a_user_that_a_policy_names_is_not_made_anew() {
    let Pair { server, target } = Pair::new().await;
    let (first, second) = (new("app_a"), new("app_b"));
    done(install(&target, &Step::new(1), &first, None).await);
    let a = server.user("app_a").id;
    server.tables().policies.insert("row policy own ON shop.orders".into(), [a].into());
    let failure = turn(&target, &Step::new(2), &second, "app_a").await.expect_err("b would see all rows");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(
        failure.reason().contains("row policy own ON shop.orders names app_a and not app_b"),
        "{failure}"
    );

    server.make("app_b");
    let b = server.user("app_b").id;
    server.tables().policies.insert("row policy own ON shop.orders".into(), [a, b].into());
    let failure = turn(&target, &Step::new(2), &second, "app_a").await.expect_err("it lacks a role");
    assert!(failure.reason().contains("it differs from its peer"), "{failure}");
    server.tables().users.get_mut("app_b").expect("the user").grants.push("GRANT reader TO {}".into());
    let step = Step::new(2);
    done(turn(&target, &step, &second, "app_a").await);
    retire(&target, &step, "app_a", Extent::Principal, None).await.expect("retired");
    assert_eq!((server.user("app_a").id, server.user("app_b").id), (a, b));
    assert_eq!(probe(&target, &first).await, Probe::Refused);
}

#[tokio::test]
async fn a_right_that_the_admin_may_not_grant_is_named() {
    let Pair { server, target } = Pair::new().await;
    done(install(&target, &Step::new(1), &new("app_a"), None).await);
    server.tables().users.get_mut(ADMIN).expect("the admin").rights.remove("GRANT");
    let failure = turn(&target, &Step::new(2), &new("app_b"), "app_a").await.expect_err("it was granted");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    let remedy = failure.remedy().unwrap_or_default();
    assert_eq!(remedy, "as a user who may grant it: GRANT reader TO `app_b`", "{failure:?}");
    assert!(server.user("app_b").ways.iter().all(|way| way.until.is_some()), "nobody can log in yet");
    // Once it may, the same attempt goes on.
    server.tables().users.get_mut(ADMIN).expect("the admin").rights.insert("GRANT".into());
    done(turn(&target, &Step::new(3), &new("app_b"), "app_a").await);
}

#[tokio::test]
async fn a_role_that_does_not_exist_is_named() {
    let Pair { server, target } = Pair::new().await;
    server.tables().roles.clear();
    let failure = install(&target, &Step::new(1), &new("app_a"), None).await.expect_err("no such role");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(failure.remedy(), Some("CREATE ROLE `reader`"));
}

#[tokio::test]
async fn the_check_is_run_as_the_candidate() {
    let server = Clickhouse::start(ADMIN, PASSWORD).await;
    let mut spec = spec(&[server.port], pair_of(&[]));
    spec.check = Some("SELECT count() FROM shop.orders WHERE false".into());
    let target = target(spec);
    let first = new("app_a");
    done(install(&target, &Step::new(1), &first, None).await);
    let unfit = target.probe(&first, ProbeDepth::Check).await;
    assert!(matches!(&unfit, Probe::Unfit(failure) if failure.class() == FailureClass::Denied), "{unfit:?}");
    assert_eq!(target.probe(&first, ProbeDepth::Login).await, Probe::Accepted);
    let right = "GRANT SELECT ON shop.orders TO {}".to_owned();
    server.tables().users.get_mut("app_a").expect("the user").grants.push(right);
    assert_eq!(target.probe(&first, ProbeDepth::Check).await, Probe::Accepted);
}

/// A containment takes a spare over that somebody uses, connections and all.
#[tokio::test]
async fn a_seized_spare_is_another_one() {
    let Pair { server, target } = Pair::new().await;
    done(install(&target, &Step::new(1), &new("app_a"), None).await);
    done(turn(&target, &Step::new(2), &new("app_b"), "app_a").await);
    let before = server.user("app_a").id;
    let peer = name("app_b");
    let seized = new("app_a");
    let step = Step::new(3);
    for _ in 0..2 {
        done(install_with(&target, &step, &seized, Some(&peer), None, Occupancy::Close).await);
    }
    assert_eq!(
        server.tables().changes.iter().filter(|change| change.contains("OR REPLACE `app_a`")).count(),
        2
    );
    assert_ne!(server.user("app_a").id, before);
    assert_eq!(probe(&target, &seized).await, Probe::Accepted);
}
