//! What an install writes, and when it refuses.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::policy::spec::{InPlaceSpec, MysqlAuthentication, MysqlStrategy};
use rekeyd::secret::Credential;
use rekeyd::target::mysql::{Deadlines, MysqlTarget};
use rekeyd::target::{
    Extent, Installed, Occupancy, PreflightRequest, Probe, ProbeDepth, Retired, Target as _,
};

use super::{install, install_with, on_each_server, remedy, retire};
use crate::mysql_support::{Kind, World};
use crate::postgres_support::{Try, credential, credential_of, known, text};

on_each_server! {
    the_attempt_is_kept_beside_the_account_and_a_damaged_one_says_nothing
    hostile_names_are_only_names
    an_account_changed_in_place_keeps_its_sessions_until_they_are_retired
    an_account_proves_its_value_as_before_and_a_new_one_in_the_best_way
    what_cannot_be_changed_safely_is_refused_with_a_remedy
    an_admin_without_a_right_is_told_which_one
    of_two_racing_installs_the_later_one_remains
    a_held_lock_is_waited_for_and_not_for_ever
    a_wrong_admin_password_names_the_admin_credential
    an_account_dropped_and_made_again_is_installed_anew
    a_host_is_the_same_in_capital_letters
}

async fn the_attempt_is_kept_beside_the_account_and_a_damaged_one_says_nothing(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.in_place());
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let candidate = credential(world.name("a").as_str());
    let step = Try::new(21);
    install(&target, &step, &candidate, None).await.expect("installed");
    let kept = world.kept().await.replace(": ", ":");
    for part in [
        "orders/orders-db".to_owned(),
        "\"fence\":21".to_owned(),
        step.rotation.to_string(),
        "installed".into(),
    ] {
        assert!(kept.contains(&part), "{part}: {kept}");
    }
    world
        .sql(kind.says(
            r#"UPDATE rekeyd.accounts SET marker = '{"fence": "x"}' WHERE user = '{p}_a'"#,
            r#"ALTER USER '{p}_a'@'%' ATTRIBUTE '{"rekeyd": {"fence": "x"}}'"#,
        ))
        .await;
    let next = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(22), &next, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert_eq!(target.probe(&candidate, ProbeDepth::Login).await, Probe::Accepted);
    let anew = remedy(&failure).split("to begin anew: ").nth(1).expect("a statement");
    world.sql(anew).await;
    // Nothing says any more that its value is rekeyd's.
    let failure = install(&target, &Try::new(22), &next, None).await.expect_err("it was replaced");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    world.sql("ALTER USER '{p}_a'@'%' ACCOUNT LOCK").await;
    install(&target, &Try::new(22), &next, None).await.expect("installed");
}

async fn hostile_names_are_only_names(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE DATABASE {p}; CREATE TABLE {p}.survivor (id int)").await;
    // MySQL's names have 32 characters at most.
    let statement = kind.says("'; DROP USER root@localhost; --", "'; KILL 5; --");
    for suffix in [statement, r#"`"\' %_ \"#, "Ünïcode ☃", "a'@'b", "UPPER"] {
        let mut spec = world.alternating();
        let MysqlStrategy::Alternating(pair) = &mut spec.strategy else {
            unreachable!("it is an alternating policy")
        };
        pair.users = [world.name(suffix), world.name(&format!("{suffix}2"))];
        let [a, b] = pair.users.clone();
        let target = world.target(spec);
        let (first, second) = (credential(a.as_str()), credential(b.as_str()));
        install(&target, &Try::new(1), &first, None).await.expect("installed");
        install(&target, &Try::new(2), &second, Some(&a)).await.expect("installed");
        for each in [&first, &second] {
            assert_eq!(target.probe(each, ProbeDepth::Check).await, Probe::Accepted, "{suffix}");
        }
        let mut session = world.connect(&second).await.expect("a session");
        assert_eq!(target.usage(&b).await.expect("usage").sessions.len(), 1, "{suffix}");
        retire(&target, &Try::new(3), &b, Extent::Principal).await.expect("retired");
        assert!(session.query("SELECT 1").await.is_err());
        assert_eq!(target.probe(&second, ProbeDepth::Login).await, Probe::Refused, "{suffix}");
    }
    assert_eq!(world.rows("SELECT * FROM {p}.survivor").await, [""; 0]);
}

/// From the first value to the end of the outgoing one's sessions.
async fn an_account_changed_in_place_keeps_its_sessions_until_they_are_retired(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.in_place());
    let a = world.name("a");
    let (old, new) = (credential(a.as_str()), credential(a.as_str()));
    let failure = install(&target, &Try::new(1), &old, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(remedy(&failure), format!("CREATE USER '{a}'@'%' ACCOUNT LOCK"));

    world.sql("CREATE USER '{p}_a'@'%' IDENTIFIED BY 'somebody knows this one'").await;
    let live = credential_of(&a, "somebody knows this one");
    let failure = install(&target, &Try::new(1), &old, None).await.expect_err("it was replaced");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(remedy(&failure).contains("`rekeyd adopt`"), "{failure:?}");
    assert_eq!(target.probe(&live, ProbeDepth::Login).await, Probe::Accepted);
    // Somebody says that nobody uses it.
    let lock = remedy(&failure).split("if nobody uses it: ").nth(1).expect("a statement");
    world.sql(lock).await;
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    assert_eq!(target.probe(&live, ProbeDepth::Login).await, Probe::Refused);
    let mut straggler = world.connect(&old).await.expect("a session");
    let step = Try::new(2);
    let failure = install(&target, &step, &new, None).await.expect_err("it is in use");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(failure.reason().contains("1 open session from localhost"), "{failure}");
    let Ok(Installed::Done { at }) = install_with(&target, &step, &new, None, Occupancy::Keep).await else {
        panic!("not installed")
    };
    assert!(straggler.query("SELECT 1").await.is_ok(), "it lives on");
    let mut reader = world.connect(&new).await.expect("a session");
    let usage = target.usage(&a).await.expect("usage").sessions;
    assert_eq!(
        usage.iter().map(|session| session.since < at).collect::<Vec<_>>(),
        [true, false],
        "{usage:?}"
    );
    // Repeated, as after a crash: the earlier moment still divides them.
    install_with(&target, &step, &new, None, Occupancy::Keep).await.expect("installed");
    let retired = retire(&target, &step, &a, Extent::SessionsBefore(at)).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 1 }));
    assert!(straggler.query("SELECT 1").await.is_err());
    assert!(reader.query("SELECT 1").await.is_ok());
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(target.probe(&new, ProbeDepth::Login).await, Probe::Accepted);
}

async fn an_account_proves_its_value_as_before_and_a_new_one_in_the_best_way(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql(&format!("CREATE USER '{{p}}_a'@'%' {} ACCOUNT LOCK", kind.identified_plainly("x"))).await;
    let plugin = async |user: &str| {
        world.row(&format!("SELECT plugin FROM mysql.user WHERE User = '{{p}}_{user}'")).await
    };
    let best = kind.says("ed25519", "caching_sha2_password");
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    assert_eq!(plugin("a").await, "mysql_native_password");
    let mut spec = world.in_place();
    spec.authentication = Some(kind.best());
    let a = credential(a.principal.as_str());
    install(&world.target(spec.clone()), &Try::new(2), &a, None).await.expect("installed");
    assert_eq!(plugin("a").await, best);
    world.connect(&a).await.expect("a session").close().await;

    let (others, absent) = kind.says(
        (MysqlAuthentication::CachingSha2, "caching_sha2_password"),
        (MysqlAuthentication::Ed25519, "ed25519"),
    );
    spec.authentication = Some(others);
    let target = world.target(spec);
    let failure = install_with(&target, &Try::new(3), &a, None, Occupancy::Keep).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.reason().contains(&format!("no authentication plugin {absent}")), "{failure}");

    let b = credential(world.name("b").as_str());
    install(&world.target(world.alternating()), &Try::new(1), &b, None).await.expect("installed");
    assert_eq!(plugin("b").await, best);
}

async fn what_cannot_be_changed_safely_is_refused_with_a_remedy(kind: Kind) {
    let world = World::shared(kind).await;
    let a = credential(world.name("a").as_str());
    let (made, reason) = kind.says(
        ("CREATE USER '{p}_a'@'%' IDENTIFIED VIA unix_socket", "it logs in by unix_socket"),
        ("CREATE USER '{p}_a'@'%' IDENTIFIED WITH sha256_password BY 'x'", "it logs in by sha256_password"),
    );
    let cases = [
        (made, "DROP USER '{p}_a'@'%'", reason, "IDENTIFIED VIA ed25519"),
        (
            "CREATE USER '{p}_a'@'%'; CREATE USER '{p}_a'@'10.0.%'",
            "DROP USER '{p}_a'@'%'; DROP USER '{p}_a'@'10.0.%'",
            "other accounts beside the one for %",
            "DROP USER",
        ),
    ];
    for (made, unmade, reason, mend) in cases {
        world.sql(made).await;
        let failure = install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect_err(made);
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.reason().contains(reason), "{failure}");
        assert!(remedy(&failure).contains(mend), "{failure:?}");
        world.sql(unmade).await;
    }
    let mut spec = world.in_place();
    spec.strategy = MysqlStrategy::InPlace(InPlaceSpec { user: world.name("admin") });
    let own = credential(world.name("admin").as_str());
    let failure = install(&world.target(spec), &Try::new(1), &own, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    if kind == Kind::MySql {
        let long = credential(&"n".repeat(33));
        let failure =
            install(&world.target(world.in_place()), &Try::new(1), &long, None).await.expect_err("refused");
        assert!(failure.reason().contains("more than the 32 characters"), "{failure}");
    }
    for odd in ["", "a\0b"] {
        let odd = credential_of(&a.principal, odd);
        let failure =
            install(&world.target(world.in_place()), &Try::new(1), &odd, None).await.expect_err("refused");
        assert_eq!(failure.class(), FailureClass::Refused, "{failure}");
    }
}

async fn an_admin_without_a_right_is_told_which_one(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK; CREATE USER '{p}_b'@'%' ACCOUNT LOCK").await;
    let target = world.target(world.in_place());
    let a = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    let mut cases = vec![
        ("CREATE USER ON *.*", "GRANT CREATE USER"),
        ("SELECT ON mysql.*", "GRANT SELECT ON mysql.*"),
        // Without it a server lists no session of another user, and does not say so.
        ("PROCESS ON *.*", "GRANT PROCESS"),
    ];
    if kind == Kind::MariaDb {
        // Either of this and CREATE USER lets one change any account.
        world.sql("REVOKE UPDATE ON mysql.* FROM '{p}_admin'@'%'").await;
        cases.push(("ALL PRIVILEGES ON rekeyd.*", "rekeyd"));
    }
    for (fence, (right, mend)) in (2..).zip(cases) {
        world.sql(&format!("REVOKE {right} FROM '{{p}}_admin'@'%'")).await;
        let next = credential(a.principal.as_str());
        let keeping = install_with(&target, &Try::new(fence), &next, None, Occupancy::Keep).await;
        let failure = keeping.expect_err(right);
        assert_eq!(failure.class(), FailureClass::Denied, "{right}: {failure}");
        assert!(remedy(&failure).contains(mend), "{right}: {failure:?}");
        assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted, "{right}");
        world.sql(&format!("GRANT {right} TO '{{p}}_admin'@'%'")).await;
    }
    if kind == Kind::MySql {
        world.sql("GRANT SYSTEM_USER ON *.* TO '{p}_a'@'%'").await;
        let next = credential(a.principal.as_str());
        let failure = install(&target, &Try::new(6), &next, None).await.expect_err("it is out of reach");
        assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
        assert!(remedy(&failure).contains("GRANT SYSTEM_USER"), "{failure:?}");
        world.sql("REVOKE SYSTEM_USER ON *.* FROM '{p}_a'@'%'").await;
    }
    // A server says that all is well when it ends nothing for whoever may not.
    let _session = world.connect(&a).await.expect("a session");
    let right = kind.says("CONNECTION ADMIN", "CONNECTION_ADMIN");
    world.sql(&format!("REVOKE {right} ON *.* FROM '{{p}}_admin'@'%'")).await;
    let failure = retire(&target, &Try::new(9), &a.principal, Extent::Principal).await.expect_err("no right");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(remedy(&failure).contains(right), "{failure:?}");
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused, "it is locked all the same");
}

/// As a policy may have it. The server keeps it in small letters.
async fn a_host_is_the_same_in_capital_letters(kind: Kind) {
    let world = World::shared(kind).await;
    let mut spec = serde_json::to_value(world.in_place()).expect("a document");
    spec["accountHost"] = "LOCALHOST".into();
    spec["endpoint"]["host"] = world.server.at().socket.clone().into();
    spec["endpoint"]["tls"] = serde_json::json!({ "mode": "disable" });
    let target = world.target(serde_json::from_value(spec).expect("a target"));
    world.sql("CREATE USER '{p}_a'@'LOCALHOST' ACCOUNT LOCK").await;
    let mut current: Option<Credential> = None;
    for fence in 1..=2 {
        let step = Try::new(fence);
        let request = PreflightRequest { policy: &step.policy, current: current.as_ref() };
        let findings = target.preflight(request).await;
        let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
        assert_eq!(failed, None, "{fence}");
        let next = credential(world.name("a").as_str());
        install(&target, &step, &next, None).await.expect("installed");
        assert_eq!(target.probe(&next, ProbeDepth::Login).await, Probe::Accepted, "{fence}");
        current = Some(next);
    }
    let accounts = world.rows("SELECT Host FROM mysql.user WHERE User = '{p}_a'").await;
    assert_eq!(accounts, ["localhost"]);
}

async fn of_two_racing_installs_the_later_one_remains(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.in_place());
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let a = world.name("a");
    for round in 0..5 {
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

async fn a_held_lock_is_waited_for_and_not_for_ever(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let deadlines = Deadlines { statement: Duration::from_millis(500), ..Default::default() };
    let target = world.target(world.in_place()).with_deadlines(deadlines);
    let candidate = credential(world.name("a").as_str());
    // What another process would hold.
    let name = "CONCAT('rekeyd:', LEFT(SHA2(CONCAT('{p}_a', CHAR(0), '%'), 256), 32))";
    assert_eq!(world.row(&format!("SELECT GET_LOCK({name}, 0)")).await, "1");
    let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("it waits in vain");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("another change holds the account"), "{failure}");
    world.sql(&format!("DO RELEASE_LOCK({name})")).await;
    install(&target, &Try::new(1), &candidate, None).await.expect("installed");
}

async fn a_wrong_admin_password_names_the_admin_credential(kind: Kind) {
    let world = World::shared(kind).await;
    let wrong = credential(world.name("admin").as_str());
    let target = MysqlTarget::new(world.in_place(), known(&wrong), Arc::clone(&world.pool)).vouched(|_| true);
    let candidate = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(1), &candidate, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.to_string().contains("orders-admin"), "{failure}");
    assert!(!format!("{failure:?}").contains(text(&wrong)));
}

async fn an_account_dropped_and_made_again_is_installed_anew(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.alternating());
    let candidate = credential(world.name("a").as_str());
    let step = Try::new(1);
    install(&target, &step, &candidate, None).await.expect("installed");
    world.sql("DROP USER '{p}_a'@'%'").await;
    assert_eq!(target.probe(&candidate, ProbeDepth::Login).await, Probe::Refused);
    install(&target, &step, &candidate, None).await.expect("installed");
    assert_eq!(target.probe(&candidate, ProbeDepth::Login).await, Probe::Accepted);
}
