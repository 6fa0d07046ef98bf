//! What an install writes, and when it refuses.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::PostgresStrategy;
use rekeyd::target::postgres::{Deadlines, PostgresTarget};
use rekeyd::target::{Extent, Installed, Occupancy, PreflightRequest, Probe, ProbeDepth, Target as _};

use super::{install, install_beside, remedy, retire};
use crate::postgres_support::{Try, World, credential, credential_of, known, soon, text, verifier};

#[tokio::test(flavor = "multi_thread")]
async fn the_marker_stands_beside_a_persons_comment() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    world.sql("CREATE ROLE {p}_a NOLOGIN; COMMENT ON ROLE {p}_a IS 'Orders'' own role'").await;
    let candidate = credential(world.name("a").as_str());
    let step = Try::new(21);
    for _ in 0..2 {
        install(&target, &step, &candidate, None).await.expect("installed");
        let comment = world
            .row("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = '{p}_a'")
            .await;
        let expected = format!(
            "Orders' own role [rekeyd policy=orders/orders-db version=21 fence=21 rotation={} state=installed]",
            step.rotation
        );
        assert_eq!(comment, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_concluded_from_a_damaged_marker() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    world
        .sql("CREATE ROLE {p}_a NOLOGIN; COMMENT ON ROLE {p}_a IS '[rekeyd policy=orders/orders-db fence=x]'")
        .await;
    let candidate = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(remedy(&failure).contains("COMMENT ON ROLE"), "{failure:?}");
    assert_eq!(target.probe(&candidate, ProbeDepth::Login).await, Probe::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_only_names() {
    let world = World::shared().await;
    world.sql("CREATE TABLE survivor (id int)").await;
    for suffix in [
        r#"'; DROP TABLE survivor; --"#,
        r#""; DROP TABLE survivor; --"#,
        r#"$1"$tag$'\'' \"#,
        "Ünïcode ☃",
        "all",
        "UPPER case",
    ] {
        let mut spec = world.alternating();
        let PostgresStrategy::Alternating(pair) = &mut spec.strategy else {
            unreachable!("it is an alternating policy")
        };
        pair.users = [world.name(suffix), world.name(&format!("{suffix}2"))];
        pair.member_of = vec![world.name("group")];
        let [a, b] = pair.users.clone();
        let target = world.target(spec);
        let (first, second) = (credential(a.as_str()), credential(b.as_str()));
        install(&target, &Try::new(1), &first, None).await.expect("installed");
        install(&target, &Try::new(2), &second, Some(&a)).await.expect("installed");
        for each in [&first, &second] {
            assert_eq!(target.probe(each, ProbeDepth::Check).await, Probe::Accepted, "{suffix}");
        }
        let session = world.connect(&second).await.expect("a session");
        assert_eq!(target.usage(&b).await.expect("usage").sessions.len(), 1);
        retire(&target, &Try::new(3), &b, Extent::Principal).await.expect("retired");
        assert!(session.simple_query("SELECT 1").await.is_err());
        assert_eq!(target.probe(&second, ProbeDepth::Login).await, Probe::Refused, "{suffix}");
    }
    assert_eq!(world.rows("SELECT * FROM survivor").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_changed_in_place_keeps_its_sessions_and_must_exist() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    let a = world.name("a");
    let (old, new) = (credential(a.as_str()), credential(a.as_str()));
    let failure = install(&target, &Try::new(1), &old, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(remedy(&failure), format!("CREATE ROLE \"{a}\" NOLOGIN"));

    world.sql("CREATE ROLE {p}_a LOGIN").await;
    let failure = install(&target, &Try::new(1), &old, None).await.expect_err("it may have a password");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    let close = format!("ALTER ROLE \"{a}\" NOLOGIN");
    assert!(remedy(&failure).ends_with(&close), "{failure:?}");
    // A superuser is told whether it has one.
    world.sql("ALTER ROLE {p}_admin SUPERUSER").await;
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    world.sql("ALTER ROLE {p}_admin NOSUPERUSER").await;
    let session = world.connect(&old).await.expect("a session");
    let failure = install(&target, &Try::new(2), &new, None).await.expect_err("it is in use");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    install_beside(&target, &Try::new(2), &new, None, Occupancy::Keep).await.expect("installed");
    session.simple_query("SELECT 1").await.expect("the session lives on");
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(target.probe(&new, ProbeDepth::Login).await, Probe::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_changed_in_place_keeps_a_password_that_nobody_took_over() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    let (live, first) = (credential(world.name("a").as_str()), credential(world.name("a").as_str()));
    world.sql(&format!("CREATE ROLE {{p}}_a LOGIN PASSWORD '{}'", verifier(text(&live)))).await;
    let told = "with a password that rekeyd does not know";
    for (admin, told) in [("NOSUPERUSER", format!("{told} if it has one")), ("SUPERUSER", told.to_owned())] {
        world.sql(&format!("ALTER ROLE {{p}}_admin {admin}")).await;
        let failure = install(&target, &Try::new(1), &first, None).await.expect_err("it was replaced");
        assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
        assert!(failure.reason().ends_with(&told), "{failure}");
        assert!(remedy(&failure).contains("`rekeyd adopt`"), "{failure:?}");
        let policy = Try::new(1).policy;
        let findings = target.preflight(PreflightRequest { policy: &policy, current: None }).await;
        assert!(findings.iter().any(|finding| finding.detail.ends_with(&told)), "{findings:?}");
        assert!(world.accepts(&live).await);
        world.idle(&live.principal).await;
    }
    world.sql("ALTER ROLE {p}_a VALID UNTIL '2020-01-01'").await;
    let failure = install(&target, &Try::new(1), &first, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "nobody can use it: {failure}");
    world.sql("ALTER ROLE {p}_a VALID UNTIL 'infinity' NOLOGIN").await;
    install(&target, &Try::new(1), &first, None).await.expect("installed");
    assert!(world.accepts(&first).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_no_password_would_let_in_is_refused() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    let candidate = credential(world.name("a").as_str());
    for (made, expected) in [
        ("VALID UNTIL '2020-01-01'", "VALID UNTIL 'infinity'"),
        ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1"),
    ] {
        world.sql(&format!("CREATE ROLE {{p}}_a NOLOGIN {made}")).await;
        let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("refused");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(remedy(&failure).ends_with(expected), "{failure:?}");
        world.sql("DROP ROLE {p}_a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_and_superusers_are_out_of_reach() {
    let world = World::shared().await;
    let PostgresStrategy::InPlace(mut one) = world.in_place().strategy else {
        unreachable!("it changes in place")
    };
    one.user = world.name("admin");
    let mut spec = world.in_place();
    spec.strategy = PostgresStrategy::InPlace(one);
    let target = world.target(spec);
    let own = credential(world.name("admin").as_str());
    let failure = install(&target, &Try::new(1), &own, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");

    let target = world.target(world.in_place());
    world.sql("CREATE ROLE {p}_a NOLOGIN SUPERUSER").await;
    let candidate = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(remedy(&failure).contains("NOSUPERUSER"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_without_the_right_is_told_which_one() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    world.sql("CREATE ROLE {p}_a NOLOGIN; ALTER ROLE {p}_admin NOCREATEROLE").await;
    let candidate = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert_eq!(
        remedy(&failure),
        format!("as a superuser: ALTER ROLE \"{}\" CREATEROLE", world.name("admin"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_policys_refusal_is_final_for_this_value() {
    let world = World::shared().await;
    // passwordcheck finds out what is in a verifier only if it is the role's own name.
    world
        .sql("CREATE ROLE {p}_a NOLOGIN; ALTER ROLE {p}_admin SET session_preload_libraries = passwordcheck")
        .await;
    let target = world.target(world.in_place());
    let a = world.name("a");
    let weak = credential_of(&a, a.as_str());
    let failure = install(&target, &Try::new(1), &weak, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Refused, "{failure}");
    assert!(!format!("{failure:?}").contains("SCRAM"), "{failure:?}");
    let good = credential(a.as_str());
    install(&target, &Try::new(2), &good, None).await.expect("installed");

    let empty = credential_of(&a, "");
    let failure = install(&target, &Try::new(3), &empty, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Refused, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_racing_installs_the_later_one_remains() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = world.name("a");
    for round in 0..10 {
        let (early, late) = (credential(a.as_str()), credential(a.as_str()));
        let (one, two) = (Try::new(round * 2 + 1), Try::new(round * 2 + 2));
        let (first, second) =
            tokio::join!(install(&target, &one, &early, None), install(&target, &two, &late, None));
        assert!(matches!(second, Ok(Installed::Done { .. })), "{second:?}");
        assert!(matches!(first, Ok(Installed::Done { .. } | Installed::Superseded { .. })), "{first:?}");
        assert_eq!(target.probe(&late, ProbeDepth::Login).await, Probe::Accepted);
        assert_eq!(target.probe(&early, ProbeDepth::Login).await, Probe::Refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_is_waited_for_and_not_for_ever() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = world.name("a");
    let deadlines = Deadlines { statement: Duration::from_millis(500), ..Default::default() };
    let target = world.target(world.in_place()).with_deadlines(deadlines);
    let candidate = credential(a.as_str());
    install(&target, &Try::new(1), &candidate, None).await.expect("installed");
    // Another change of the same role, by somebody who does not take rekeyd's lock.
    world.sql("BEGIN; ALTER ROLE {p}_a CONNECTION LIMIT 5").await;
    let failure = install(&target, &Try::new(2), &candidate, None).await.expect_err("it waits in vain");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    world.sql("COMMIT").await;
    install(&target, &Try::new(2), &candidate, None).await.expect("installed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_meets_another_can_be_repeated() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let target = world.target(world.in_place());
    let (step, candidate) = (Try::new(1), credential(world.name("a").as_str()));
    world.sql("BEGIN; ALTER ROLE {p}_a CONNECTION LIMIT 5").await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = '{p}_admin'";
    let (outcome, ()) = tokio::join!(install(&target, &step, &candidate, None), async {
        soon("the change waits", async || {
            let watcher = world.server.superuser("postgres").await;
            let waiting = waiting.replace("{p}", &world.database);
            watcher.query_one(&waiting, &[]).await.expect("a row").get::<_, i64>(0) == 1
        })
        .await;
        // The server answers "tuple concurrently updated" now.
        world.sql("COMMIT").await;
    });
    let failure = outcome.expect_err("the other was first");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("XX000"), "{failure}");
    install(&target, &step, &candidate, None).await.expect("installed");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_roles_are_installed_over_a_few_sessions() {
    let world = World::shared().await;
    world.sql("DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('CREATE ROLE {p}_r%s NOLOGIN', i); END LOOP; END $$").await;
    let target = world.target(world.in_place());
    let installs = (1..=200).map(|number| {
        let (world, target) = (&world, &target);
        async move {
            let candidate = credential(world.name(&format!("r{number}")).as_str());
            install(target, &Try::new(1), &candidate, None).await.expect("installed");
        }
    });
    futures_util::future::join_all(installs).await;
    let sessions = world.row("SELECT count(*) FROM pg_stat_activity WHERE usename = '{p}_admin'").await;
    assert_eq!(sessions, "8", "the pool is bounded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_admin_password_names_the_admin_credential() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let wrong = credential(world.name("admin").as_str());
    let pool = Arc::clone(&world.pool);
    let target = PostgresTarget::new(world.in_place(), known(&wrong), pool);
    let candidate = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.to_string().contains("orders-admin"), "{failure}");
    assert!(!format!("{failure:?}").contains(text(&wrong)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_dropped_and_made_again_is_installed_anew() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let a = world.name("a");
    let candidate = credential(a.as_str());
    let step = Try::new(1);
    install(&target, &step, &candidate, None).await.expect("installed");
    world.sql("DROP ROLE {p}_a").await;
    assert_eq!(target.probe(&candidate, ProbeDepth::Login).await, Probe::Refused);
    install(&target, &step, &candidate, None).await.expect("installed");
    assert_eq!(target.probe(&candidate, ProbeDepth::Login).await, Probe::Accepted);
}
