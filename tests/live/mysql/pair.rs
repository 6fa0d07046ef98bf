//! Keeping the two accounts of a pair equal.

use rekeyd::failure::FailureClass;
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use super::{install, on_each_server, remedy};
use crate::mysql_support::{Client, Kind, World};
use crate::postgres_support::{Try, credential};

on_each_server! {
    a_missing_spare_is_made_like_its_peer
    a_first_account_is_given_its_role_and_can_use_it
    a_spare_that_drifted_is_repaired_and_its_peer_left_alone
    what_the_admin_may_not_grant_is_named_as_a_statement
    a_missing_role_or_peer_is_named
}

/// A peer that has everything that can be copied, from an admin that may grant it.
const PEER: &str = "
    CREATE DATABASE {p}; CREATE TABLE {p}.t (a int, b int); CREATE ROLE '{p}_more';
    GRANT '{p}_more' TO '{p}_admin'@'%' WITH ADMIN OPTION;
    GRANT SELECT, INSERT, UPDATE ON {p}.* TO '{p}_admin'@'%' WITH GRANT OPTION;
    CREATE USER '{p}_a'@'%' REQUIRE NONE WITH MAX_USER_CONNECTIONS 17{more limits};
    GRANT SELECT ON {p}.* TO '{p}_a'@'%'; GRANT INSERT, UPDATE (b) ON {p}.t TO '{p}_a'@'%';
    GRANT '{p}_group' TO '{p}_a'@'%'; GRANT '{p}_more' TO '{p}_a'@'%'; {default role}";

async fn make_peer(world: &World) {
    let kind = world.kind();
    let made =
        PEER.replace("{more limits}", kind.says(" MAX_STATEMENT_TIME 2.5", " MAX_QUERIES_PER_HOUR 4711"));
    let default = kind.says(
        "SET DEFAULT ROLE '{p}_more' FOR '{p}_a'@'%'",
        "SET DEFAULT ROLE '{p}_more', '{p}_group' TO '{p}_a'@'%'",
    );
    world.sql(&made.replace("{default role}", default)).await;
}

/// What an account may, with nothing of its own in it.
async fn shape(world: &World, suffix: &str) -> Vec<String> {
    let mut lines = world.rows(&format!("SHOW GRANTS FOR '{{p}}_{suffix}'@'%'")).await;
    for line in &mut lines {
        *line = line.replace(&format!("{}_{suffix}", world.prefix), "itself");
        // MySQL tells limits elsewhere, below.
        if let Some((head, tail)) = line.clone().split_once(" IDENTIFIED ") {
            let limits =
                tail.split_once(" WITH ").map_or(String::new(), |(_, limits)| format!(" WITH {limits}"));
            *line = format!("{head}{limits}");
        }
    }
    if world.kind() == Kind::MySql {
        let made = world.row(&format!("SHOW CREATE USER '{{p}}_{suffix}'@'%'")).await;
        let begin = made.find(" DEFAULT ROLE ").or_else(|| made.find(" REQUIRE ")).expect("its limits");
        let end = made.find(" PASSWORD EXPIRE ").expect("their end");
        lines.push(made[begin..end].to_owned());
    }
    lines.sort();
    lines
}

async fn a_missing_spare_is_made_like_its_peer(kind: Kind) {
    let world = World::shared(kind).await;
    make_peer(&world).await;
    let target = world.target(world.alternating());
    let spare = credential(world.name("b").as_str());
    install(&target, &Try::new(1), &spare, Some(&world.name("a"))).await.expect("installed");
    let [a, b] = [shape(&world, "a").await, shape(&world, "b").await];
    assert_eq!(a, b);
    assert!(a.iter().any(|line| line.contains("MAX_USER_CONNECTIONS 17")), "{a:?}");
    assert!(a.iter().any(|line| line.contains("UPDATE (`b`)")), "{a:?}");
    assert_eq!(target.probe(&spare, ProbeDepth::Check).await, Probe::Accepted);
    let mut session = world.connect(&spare).await.expect("a session");
    assert_eq!(roles(&mut session).await, [kind.says(&["more"][..], &["group", "more"][..])].concat());
}

async fn a_first_account_is_given_its_role_and_can_use_it(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.alternating());
    let first = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &first, None).await.expect("installed");
    let mut session = world.connect(&first).await.expect("a session");
    assert_eq!(roles(&mut session).await, ["group"]);
}

/// What the session has, without the world's prefix.
async fn roles(session: &mut Client) -> Vec<String> {
    let row = session.query("SELECT CURRENT_ROLE()").await.expect("a row").remove(0);
    let role = |text: &str| {
        let name = text.trim_matches('`').split('`').next().unwrap_or_default().to_owned();
        name.split_once('_').map_or(name.clone(), |(_, name)| name.to_owned())
    };
    row.split(',').map(role).collect()
}

async fn a_spare_that_drifted_is_repaired_and_its_peer_left_alone(kind: Kind) {
    let world = World::shared(kind).await;
    make_peer(&world).await;
    world
        .sql(
            "CREATE ROLE '{p}_payroll'; GRANT '{p}_payroll' TO '{p}_admin'@'%' WITH ADMIN OPTION; CREATE USER '{p}_b'@'%' REQUIRE SSL;
             GRANT '{p}_payroll' TO '{p}_b'@'%'; GRANT SELECT, UPDATE ON {p}.* TO '{p}_b'@'%' WITH GRANT OPTION;
             GRANT SELECT (a) ON {p}.t TO '{p}_b'@'%'",
        )
        .await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let before = shape(&world, "a").await;
    install(&target, &Try::new(1), &b, Some(&a)).await.expect("installed");
    assert_eq!(shape(&world, "b").await, before);
    assert_eq!(shape(&world, "a").await, before);
    assert_eq!(target.probe(&b, ProbeDepth::Check).await, Probe::Accepted);
}

async fn what_the_admin_may_not_grant_is_named_as_a_statement(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%'; CREATE DATABASE {p}; GRANT SELECT ON {p}.* TO '{p}_a'@'%'").await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    let statement = remedy(&failure).strip_prefix("as a user who may grant it: ").expect("a statement");
    assert_eq!(target.probe(&b, ProbeDepth::Login).await, Probe::Refused, "it is not open yet");
    world.sql(statement).await;
    install(&target, &Try::new(2), &b, Some(&a)).await.expect("installed");
    assert!(shape(&world, "b").await.iter().any(|line| line.starts_with("GRANT SELECT ON")));
}

async fn a_missing_role_or_peer_is_named(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    let reason = format!("the account {a}, whose turn it was, does not exist");
    assert!(failure.reason().contains(&reason), "{failure}");

    world.sql("DROP ROLE '{p}_group'").await;
    let failure = install(&target, &Try::new(1), &credential(a.as_str()), None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(remedy(&failure), format!("CREATE ROLE '{}'", world.name("group")));
}
