//! Two users that take turns.

use rekeyd::failure::FailureClass;
use rekeyd::target::{Extent, LastUse, Occupancy, Probe, ProbeDepth, Target as _};

use super::preflight::look;
use super::{Step, World, done, install, install_with, making, new, probe, retire, turn};

pub(crate) async fn the_candidate_gets_what_its_peer_has(world: &impl World) {
    let target = world.target(world.pair());
    let (a, first, second) = (world.name("a"), new(&world.name("a")), new(&world.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    assert_eq!(world.shape("a").await, ["".to_owned(), world.in_words("GRANT {p}_group TO itself")]);
    for statement in [
        "CREATE SETTINGS PROFILE {p}_heavy",
        "GRANT SELECT ON {p}.* TO {admin} WITH GRANT OPTION",
        "GRANT SELECT ON {p}.* TO {p}_a WITH GRANT OPTION",
        "CREATE ROLE {p}_more",
        "GRANT {p}_more TO {admin} WITH ADMIN OPTION",
        "GRANT {p}_more TO {p}_a",
        "ALTER USER {p}_a HOST IP '127.0.0.0/8', '::1'",
        "ALTER USER {p}_a DEFAULT DATABASE {p}",
        "ALTER USER {p}_a DEFAULT ROLE {p}_group",
        "ALTER USER {p}_a GRANTEES NONE",
        "ALTER USER {p}_a ADD PROFILES {p}_heavy",
        "ALTER USER {p}_a ADD SETTINGS max_threads = 3",
    ] {
        world.say(statement).await;
    }
    let model = world.shape("a").await;
    for said in ["HOST", "DEFAULT DATABASE", "DEFAULT ROLE", "max_threads = 3", "_heavy", "GRANTEES NONE"] {
        assert!(model[0].contains(said), "{model:?}");
    }
    assert_eq!(model.len(), 3, "both roles are in one line: {model:?}");
    for fence in 2..4 {
        done(turn(&target, &Step::new(fence), &second, &a).await);
        assert_eq!(world.shape("b").await, model);
        let (ways, profiles) = world.kept("b").await;
        assert_eq!(ways, 1);
        assert_eq!(profiles.len(), 2, "and its own marker, not its peer's: {profiles:?}");
        assert_eq!(probe(&target, &second).await, Probe::Accepted);
        let findings = look(&target, Some(&first)).await;
        let pair = findings.iter().find(|finding| finding.subject == "pair").expect("a finding");
        assert!(pair.detail.contains("needs nothing"), "{pair:?}");
        // A drift that somebody brings in by hand is mended.
        world.say("GRANT INSERT ON {p}.* TO {p}_b").await;
        world.say("ALTER USER {p}_b DROP SETTINGS max_threads").await;
        assert_ne!(world.shape("b").await, model);
    }
    assert_eq!(probe(&target, &first).await, Probe::Accepted, "who is in use is not touched");
}

/// A connection belongs to an id: who is retired gets another one, and what it had.
pub(crate) async fn a_retired_user_is_another_one_with_the_same_rights(world: &impl World) {
    let target = world.target(world.pair());
    let (first, second) = (new(&world.name("a")), new(&world.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(turn(&target, &step, &second, &first.principal).await);
    let (id, shape) = (world.id("a").await, world.shape("a").await);
    retire(&target, &step, &first.principal, Extent::Principal, None).await.expect("retired");
    let another = world.id("a").await;
    assert_ne!(another, id);
    retire(&target, &step, &first.principal, Extent::Principal, None).await.expect("retired again");
    assert_eq!(world.id("a").await, another, "once is enough");
    assert_eq!(target.usage(&first.principal).await.expect("no query").last, LastUse::BySessions);
    assert_eq!(world.shape("a").await, shape);
    assert_eq!(probe(&target, &first).await, Probe::Refused);
    assert_eq!(probe(&target, &second).await, Probe::Accepted);
}

/// A containment takes a spare over that somebody uses, connections and all.
pub(crate) async fn a_seized_spare_is_another_one(world: &impl World) {
    let target = world.target(world.pair());
    let (a, b) = (world.name("a"), world.name("b"));
    done(install(&target, &Step::new(1), &new(&a), None).await);
    done(turn(&target, &Step::new(2), &new(&b), &a).await);
    let (before, seized, step) = (world.id("a").await, new(&a), Step::new(3));
    let mut after = String::new();
    for _ in 0..2 {
        done(install_with(&target, &step, &seized, Some(&b), None, Occupancy::Close).await);
        let now = world.id("a").await;
        assert_ne!(now, before);
        assert!(after.is_empty() || after == now, "a repetition's own readers are left alone");
        after = now;
    }
    assert_eq!(probe(&target, &seized).await, Probe::Accepted);
}

/// A row policy knows its users by their ids, and would not hold for another one.
pub(crate) async fn a_user_that_a_policy_names_is_not_made_anew(world: &impl World) {
    let target = world.target(world.pair());
    let (a, b) = (world.name("a"), world.name("b"));
    let (first, second) = (new(&a), new(&b));
    done(install(&target, &Step::new(1), &first, None).await);
    world.say("CREATE ROW POLICY own ON {p}.orders USING 1 TO {p}_a").await;
    let failure = turn(&target, &Step::new(2), &second, &a).await.expect_err("b would see all rows");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    let reason = world.in_words("row policy own ON {p}.orders names {p}_a and not {p}_b");
    assert!(failure.reason().contains(&reason), "{failure}");

    world.say(&making("{p}_b")).await;
    world.say("DROP ROW POLICY own ON {p}.orders").await;
    world.say("CREATE ROW POLICY own ON {p}.orders USING 1 TO {p}_a, {p}_b").await;
    let failure = turn(&target, &Step::new(2), &second, &a).await.expect_err("it lacks a role");
    assert!(failure.reason().contains("it differs from its peer"), "{failure}");
    world.say("GRANT {p}_group TO {p}_b").await;
    let (step, ids) = (Step::new(2), [world.id("a").await, world.id("b").await]);
    done(turn(&target, &step, &second, &a).await);
    retire(&target, &step, &a, Extent::Principal, None).await.expect("retired");
    let last = target.usage(&a).await.expect("its queries").last;
    assert_eq!(last, LastUse::ByListed, "an idle connection of it may be left");
    assert_eq!([world.id("a").await, world.id("b").await], ids);
    assert_eq!(probe(&target, &first).await, Probe::Refused);
    world.say("DROP ROW POLICY own ON {p}.orders").await;
}

pub(crate) async fn a_right_that_the_admin_may_not_grant_is_named(world: &impl World) {
    let target = world.target(world.pair());
    let (first, second) = (new(&world.name("a")), new(&world.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    world.say("GRANT SELECT ON {p}.* TO {p}_a").await;
    let failure = turn(&target, &Step::new(2), &second, &first.principal).await.expect_err("it was granted");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    let remedy = failure.remedy().unwrap_or_default();
    let statement = world.in_words("GRANT SELECT ON {p}.* TO `{p}_b`");
    assert_eq!(
        world.shape("b").await[1..],
        [world.in_words("GRANT {p}_group TO itself")],
        "what it may give"
    );
    assert_eq!(remedy, format!("as a user who may grant it: {statement}"), "{failure:?}");
    assert_eq!(probe(&target, &second).await, Probe::Refused, "nobody can log in yet");
    world.say(&statement).await;
    done(turn(&target, &Step::new(3), &second, &first.principal).await);
    assert_eq!(world.shape("a").await, world.shape("b").await);
    assert_eq!(probe(&target, &second).await, Probe::Accepted);
}

pub(crate) async fn a_role_that_does_not_exist_is_named(world: &impl World) {
    let target = world.target(world.pair());
    world.say("DROP ROLE {p}_group").await;
    let failure =
        install(&target, &Step::new(1), &new(&world.name("a")), None).await.expect_err("no such role");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(failure.remedy(), Some(&*world.in_words("CREATE ROLE `{p}_group`")));
}

pub(crate) async fn the_check_is_run_as_the_candidate(world: &impl World) {
    let mut spec = world.pair();
    spec.check = Some(world.in_words("SELECT count() FROM {p}.orders WHERE false"));
    let target = world.target(spec);
    let first = new(&world.name("a"));
    done(install(&target, &Step::new(1), &first, None).await);
    let unfit = target.probe(&first, ProbeDepth::Check).await;
    assert!(matches!(&unfit, Probe::Unfit(failure) if failure.class() == FailureClass::Denied), "{unfit:?}");
    assert_eq!(probe(&target, &first).await, Probe::Accepted);
    world.say("GRANT SELECT ON {p}.orders TO {p}_a").await;
    assert_eq!(target.probe(&first, ProbeDepth::Check).await, Probe::Accepted);
}
