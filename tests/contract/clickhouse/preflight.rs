//! What a preflight finds.

use rekeyd::failure::{Finding, Verdict};
use rekeyd::policy::spec::ClickhouseStrategy;
use rekeyd::secret::Credential;
use rekeyd::target::{PreflightRequest, Target};

use super::{Step, World, done, install, making, new, slip, turn};

pub(crate) async fn look(target: &impl Target, current: Option<&Credential>) -> Vec<Finding> {
    let policy = "orders/olap".parse().expect("a policy name");
    target.preflight(PreflightRequest { policy: &policy, current }).await
}

pub(crate) async fn failed(target: &impl Target, current: Option<&Credential>) -> Vec<Finding> {
    let findings = look(target, current).await;
    findings.into_iter().filter(|finding| finding.verdict == Verdict::Fail).collect()
}

#[track_caller]
pub(crate) fn only(found: &[Finding], subject: &str, detail: &str, remedy: &str) {
    let [finding] = found else { panic!("not one: {found:?}") };
    assert_eq!(finding.subject, subject);
    assert!(finding.detail.contains(detail), "{finding:?}");
    assert!(finding.remedy.as_deref().is_some_and(|told| told.contains(remedy)), "{finding:?}");
}

/// Each with the statement that mends it, which is carried out here.
pub(crate) async fn each_right_that_is_missing_is_named(world: &impl World) {
    let (pair, dual) = (world.target(world.pair()), world.target(world.dual()));
    world.say(&making("{p}_one")).await;
    let of_a_pair = ["CREATE USER", "DROP USER"];
    let of_all = [
        "ALTER USER",
        "CREATE SETTINGS PROFILE",
        "DROP SETTINGS PROFILE",
        "SHOW ACCESS",
        "KILL QUERY",
        "SELECT",
    ];
    for right in of_a_pair.into_iter().chain(of_all) {
        let on = if right == "SELECT" { "system.*" } else { "*.*" };
        let named = if right == "SELECT" { "SELECT on system.*" } else { right };
        world.say(&format!("REVOKE {right} ON {on} FROM {{admin}}")).await;
        let statement = world.in_words(&format!("GRANT {right} ON {on} TO `{{admin}}`"));
        let lacks = world.in_words(&format!("{{admin}} lacks {named}"));
        only(&failed(&pair, None).await, "rights", &lacks, &statement);
        if of_all.contains(&right) {
            only(&failed(&dual, None).await, "rights", &lacks, &statement);
        } else {
            assert_eq!(failed(&dual, None).await, [], "{right} is of no use to it");
        }
        world.say(&statement).await;
        assert_eq!(failed(&pair, None).await, [], "{right}");
    }
}

pub(crate) async fn a_user_that_cannot_be_rotated_is_told(world: &impl World) {
    let target = world.target(world.dual());
    world.say(&making("{p}_one")).await;
    let one = world.name("one");
    let (first, subject) = (new(&one), format!("user {one}"));
    done(install(&target, &Step::new(1), &first, None).await);
    assert_eq!(failed(&target, Some(&first)).await, []);
    only(
        &failed(&target, Some(&new(&one))).await[1..],
        "current credential",
        "refuses the value",
        "rekeyd adopt",
    );

    slip(world, "somebody").await;
    slip(world, "somebody else").await;
    let strange = "2 ways to log in that rekeyd does not know";
    only(&failed(&target, Some(&first)).await, &subject, strange, "containment");

    let value = first.value.expose_str().expect("text");
    let other =
        format!("ALTER USER {{p}}_one IDENTIFIED WITH sha256_password BY '{value}', ldap SERVER 'one'");
    world.say(&other).await;
    only(&failed(&target, Some(&first)).await, &subject, "does not keep: ldap", "a user of their own");

    world.say("DROP USER {p}_one").await;
    let statement = world.in_words("CREATE USER `{p}_one`");
    only(&failed(&target, None).await, &subject, "does not exist", &statement);
}

pub(crate) async fn a_server_that_lets_everybody_in_proves_nothing(world: &impl World) {
    let target = world.target(world.dual());
    world.say(&making("{p}_one")).await;
    world.say("ALTER USER {p}_one NOT IDENTIFIED").await;
    let found = failed(&target, None).await;
    let subjects: Vec<String> = found.iter().map(|finding| finding.subject.clone()).collect();
    assert_eq!(subjects, [world.in_words("user {p}_one"), "negative control".to_owned()]);
}

/// Each with the statement that mends it, which is carried out here: what the admin has, and what it may pass on, are two
/// things.
pub(crate) async fn what_the_admin_may_not_grant_is_named(world: &impl World) {
    let mut spec = world.pair();
    let ClickhouseStrategy::Alternating(pair) = &mut spec.strategy else { panic!("it is a pair") };
    pair.member_of.push(world.name("more"));
    let target = world.target(spec);
    world.say("CREATE ROLE {p}_more").await;
    for _ in 0..2 {
        let found = failed(&target, None).await;
        let statement = world.in_words("GRANT `{p}_more` TO `{admin}` WITH ADMIN OPTION");
        only(&found, "rights", &world.in_words("what the pair has: `{p}_more`"), &statement);
        world.say("GRANT {p}_more TO {admin}").await;
    }
    world.say("GRANT `{p}_more` TO `{admin}` WITH ADMIN OPTION").await;
    assert_eq!(failed(&target, None).await, []);

    let (first, second) = (new(&world.name("a")), new(&world.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    world.say("GRANT SELECT ON {p}.* TO {p}_a").await;
    for _ in 0..2 {
        let found = failed(&target, Some(&first)).await;
        let statement = world.in_words("GRANT SELECT ON {p}.* TO `{admin}` WITH GRANT OPTION");
        only(&found, "rights", &world.in_words("what the pair has: SELECT ON {p}.*"), &statement);
        world.say("GRANT SELECT ON {p}.* TO {admin}").await;
    }
    world.say("GRANT SELECT ON {p}.* TO `{admin}` WITH GRANT OPTION").await;
    assert_eq!(failed(&target, Some(&first)).await, []);
    let shape = world.shape("a").await;
    assert_eq!(world.kept("a").await.0, 1, "nothing came of it");
    done(turn(&target, &Step::new(2), &second, &first.principal).await);
    assert_eq!(world.shape("b").await, shape);
}

pub(crate) async fn what_a_pair_is_going_to_be_given_is_told(world: &impl World) {
    let target = world.target(world.pair());
    let (first, second) = (new(&world.name("a")), new(&world.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    done(turn(&target, &Step::new(2), &second, &first.principal).await);
    world.say("GRANT SELECT ON {p}.* TO {p}_b").await;
    world.say("ALTER USER {p}_a HOST LOCAL").await;
    let findings = look(&target, Some(&second)).await;
    let pair = findings.iter().find(|finding| finding.subject == "pair").expect("a finding");
    let given = "{p}_a will be given GRANT SELECT ON {p}.*; the hosts that it may log in from";
    assert_eq!(pair.detail, world.in_words(given));
    world.say("DROP ROLE {p}_group").await;
    let (detail, statement) = ("the role {p}_group does not exist", "CREATE ROLE `{p}_group`");
    let found = failed(&target, Some(&second)).await;
    only(&found, "pair", &world.in_words(detail), &world.in_words(statement));
}
