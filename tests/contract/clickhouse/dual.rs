//! One user with several ways to log in.

use rekeyd::failure::FailureClass;
use rekeyd::target::{Extent, Probe};

use super::{Step, World, done, install, making, new, probe, retire};

/// Nothing is left of an attempt but its marker, and the user's own profiles are left alone.
pub(crate) async fn a_user_keeps_what_is_its_own(world: &impl World) {
    for statement in [
        &*making("{p}_one"),
        "CREATE SETTINGS PROFILE {p}_heavy",
        "ALTER USER {p}_one ADD PROFILES {p}_heavy",
        "ALTER USER {p}_one ADD SETTINGS max_threads = 3",
        "GRANT SELECT ON {p}.* TO {p}_one",
    ] {
        world.say(statement).await;
    }
    let target = world.target(world.dual());
    let (id, shape, user) = (world.id("one").await, world.shape("one").await, world.name("one"));
    let (first, second) = (new(&user), new(&user));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(install(&target, &step, &second, Some(&first)).await);
    retire(&target, &step, &user, Extent::OtherValues, Some(&second)).await.expect("retired");
    assert_eq!((world.id("one").await, world.shape("one").await), (id, shape));
    let (ways, mut profiles) = world.kept("one").await;
    assert_eq!(ways, 1);
    profiles.sort_by_key(|name| name.starts_with('['));
    assert_eq!(profiles.len(), 2, "{profiles:?}");
    assert_eq!(profiles[0], world.in_words("{p}_heavy"));
    assert!(profiles[1].contains("policy=orders/olap version=2 fence=2"), "{profiles:?}");
    let all = world.say("SELECT name FROM system.settings_profiles").await;
    let own = all.iter().filter(|name| name.contains(world.prefix())).count();
    assert_eq!(own, 2, "no profile is left behind: {all:?}");
}

/// Its readers would be locked out.
pub(crate) async fn other_ways_to_log_in_are_not_taken_away(world: &impl World) {
    let target = world.target(world.dual());
    let one = world.name("one");
    for way in ["ldap SERVER 'one'", "double_sha1_password BY 'x'", "ssl_certificate CN 'one'"] {
        world.say(&making("{p}_one")).await;
        world.say(&format!("ALTER USER {{p}}_one ADD IDENTIFIED WITH {way}")).await;
        let failure = install(&target, &Step::new(1), &new(&one), None).await.expect_err("it was taken away");
        assert_eq!(failure.class(), FailureClass::Conflict, "{way}: {failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains(one.as_str())), "{way}: {failure:?}");
        assert_eq!(world.kept("one").await, (2, Vec::new()), "{way}");
        world.say("DROP USER {p}_one").await;
    }
}

pub(crate) async fn a_user_that_is_not_there_is_not_made(world: &impl World) {
    let target = world.target(world.dual());
    let candidate = new(&world.name("one"));
    let failure = install(&target, &Step::new(1), &candidate, None).await.expect_err("it was made");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    let statement = world.in_words("CREATE USER `{p}_one`");
    assert!(failure.remedy().is_some_and(|remedy| remedy.starts_with(&statement)), "{failure:?}");
    assert_eq!(probe(&target, &candidate).await, Probe::Refused);
}
