//! Ending what an outgoing value lets in.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::target::postgres::Deadlines;
use rekeyd::target::{Extent, Probe, ProbeDepth, Retired, Target as _};

use rustix::process::{Pid, Signal, kill_process};

use super::{install, remedy, retire};
use crate::postgres_support::{Try, World, credential, soon, text};

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_end_whatever_they_are_doing() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    let step = Try::new(1);
    install(&target, &step, &a, None).await.expect("installed");
    world.sql("CREATE TABLE t (id int); GRANT ALL ON t TO {p}_a").await;
    let mut sessions = Vec::new();
    for number in 0..21 {
        let session = world.connect(&a).await.expect("a session");
        match number % 3 {
            0 => session.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("idle in transaction"),
            1 => session.batch_execute("BEGIN; SELECT pg_advisory_lock_shared(1)").await.expect("a lock"),
            _ => {}
        }
        sessions.push(session);
    }
    let busy = world.connect(&a).await.expect("a session");
    let work = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(600)").await });
    let started =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND usename = '{p}_a'";
    soon("the work starts", async || world.row(started).await == "1").await;

    let retired = retire(&target, &step, &a.principal, Extent::Principal).await.expect("retired");
    assert_eq!(retired, Retired::Done { sessions_closed: 22 });
    work.await.expect("joined").expect_err("it was cut off");
    for session in sessions {
        session.simple_query("SELECT 1").await.expect_err("the session is gone");
    }
    assert_eq!(target.usage(&a.principal).await.expect("usage").sessions, []);
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
    let role = "SELECT concat(rolcanlogin, rolpassword IS NULL) FROM pg_authid WHERE rolname = '{p}_a'";
    assert_eq!(world.row(role).await, "ft");
    let comment = "SELECT shobj_description('{p}_a'::regrole, 'pg_authid')";
    assert!(world.row(comment).await.ends_with("state=retired]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_end_is_waited_for_and_reported() {
    let world = World::shared().await;
    let deadlines = Deadlines { statement: Duration::from_millis(500), ..Deadlines::default() };
    let target = world.target(world.alternating()).with_deadlines(deadlines);
    let a = credential(world.name("a").as_str());
    let step = Try::new(1);
    install(&target, &step, &a, None).await.expect("installed");
    let _session = world.connect(&a).await.expect("a session");
    let pid = world.row("SELECT pid FROM pg_stat_activity WHERE usename = '{p}_a'").await;
    let pid = Pid::from_raw(pid.parse().expect("a number")).expect("a process");
    kill_process(pid, Signal::STOP).expect("the session's process is held");
    let failure = retire(&target, &step, &a.principal, Extent::Principal).await;
    kill_process(pid, Signal::CONT).expect("the session's process goes on");
    let failure = failure.expect_err("the session is still there");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("do not end"), "{failure}");
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused, "nobody new gets in");
    retire(&target, &step, &a.principal, Extent::Principal).await.expect("retired");
}

#[tokio::test(flavor = "multi_thread")]
async fn lifting_one_of_the_two_locks_by_hand_does_not_revive_the_value() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    retire(&target, &Try::new(2), &a.principal, Extent::Principal).await.expect("retired");
    world.sql("ALTER ROLE {p}_a LOGIN").await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
    world.sql(&format!("ALTER ROLE {{p}}_a NOLOGIN PASSWORD '{}'", text(&a))).await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_that_may_not_end_sessions_is_told_so() {
    let world = World::shared().await;
    world.sql("REVOKE pg_signal_backend FROM {p}_admin").await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    let step = Try::new(1);
    install(&target, &step, &a, None).await.expect("installed");
    let session = world.connect(&a).await.expect("a session");
    let failure = retire(&target, &step, &a.principal, Extent::Principal).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(remedy(&failure).contains("GRANT pg_signal_backend TO"), "{failure:?}");
    session.simple_query("SELECT 1").await.expect("the session lives on");

    world.sql("GRANT pg_signal_backend TO {p}_admin").await;
    let retired = retire(&target, &step, &a.principal, Extent::Principal).await.expect("retired");
    assert_eq!(
        retired,
        Retired::Done { sessions_closed: 1 },
        "the repeated retire ends what the first could not"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_that_may_not_see_sessions_is_told_so_and_sees_them_all_the_same() {
    let world = World::shared().await;
    world.sql("REVOKE pg_read_all_stats FROM {p}_admin").await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    let step = Try::new(1);
    install(&target, &step, &a, None).await.expect("installed");
    assert_eq!(target.usage(&a.principal).await.expect("none is to be seen").sessions, []);
    let _session = world.connect(&a).await.expect("a session");
    let next = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(2), &next, None).await.expect_err("it is in use");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    let blind = [
        target.usage(&a.principal).await.expect_err("blind"),
        retire(&target, &step, &a.principal, Extent::SessionsBefore(jiff::Timestamp::MAX))
            .await
            .expect_err("blind"),
    ];
    for failure in blind {
        assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
        assert!(remedy(&failure).contains("GRANT pg_read_all_stats TO"), "{failure:?}");
    }
    // When all are to end, it does not matter when they began.
    let retired = retire(&target, &step, &a.principal, Extent::Principal).await.expect("retired");
    assert_eq!(retired, Retired::Done { sessions_closed: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_of_the_same_group_keeps_its_sessions() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let (a, b) = (credential(world.name("a").as_str()), credential(world.name("b").as_str()));
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    let reader = world.connect(&b).await.expect("a session");
    reader.batch_execute(&format!("SET ROLE {}", world.name("group"))).await.expect("its group's rights");
    let taken_on = world.connect(&a).await.expect("a session");
    taken_on.batch_execute(&format!("SET ROLE {}", world.name("group"))).await.expect("its group's rights");
    let retired = retire(&target, &Try::new(2), &a.principal, Extent::Principal).await.expect("retired");
    assert_eq!(retired, Retired::Done { sessions_closed: 1 }, "a session belongs to the role that logged in");
    reader.simple_query("SELECT 1").await.expect("the reader lives");
    taken_on.simple_query("SELECT 1").await.expect_err("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_gone_is_retired() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    for extent in [Extent::Principal, Extent::Attempt, Extent::SessionsBefore(jiff::Timestamp::MAX)] {
        let retired = retire(&target, &Try::new(1), &world.name("a"), extent).await.expect("retired");
        assert_eq!(retired, Retired::Done { sessions_closed: 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_died_before_ending_sessions_is_completed() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    let step = Try::new(1);
    install(&target, &step, &a, None).await.expect("installed");
    let _session = world.connect(&a).await.expect("a session");
    world.sql("REVOKE pg_signal_backend FROM {p}_admin").await;
    retire(&target, &step, &a.principal, Extent::Attempt).await.expect_err("its sessions cannot be ended");
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
    world.sql("GRANT pg_signal_backend TO {p}_admin").await;
    let retired = retire(&target, &step, &a.principal, Extent::Attempt).await.expect("undone");
    assert_eq!(retired, Retired::Done { sessions_closed: 1 });
}
