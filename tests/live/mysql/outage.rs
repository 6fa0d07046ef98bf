//! Servers that are away, half there, or go away in the middle.

use std::net::TcpListener;
use std::time::Duration;

use rekeyd::failure::{Failure, FailureClass};
use rekeyd::secret::Credential;
use rekeyd::target::mysql::{Deadlines, MysqlTarget};
use rekeyd::target::{Extent, Installed, Occupancy, Probe, ProbeDepth, Target as _};

use super::{install, install_with, on_each_server, remedy, retire};
use crate::mysql_support::{Kind, Server, World};
use crate::postgres_support::{Try, credential};
use crate::proxy::{Fault, Proxy};

on_each_server! {
    a_server_that_is_away_or_silent_is_unavailable
    a_lost_change_is_ambiguous_and_can_be_repeated_or_undone
    a_server_that_changes_its_ways
}

/// Every verb of a target that cannot be reached, with what each answered.
async fn everything(target: &MysqlTarget, world: &World) -> Vec<Failure> {
    let a = credential(world.name("a").as_str());
    let mut failures = vec![
        install(target, &Try::new(1), &a, None).await.expect_err("no install"),
        retire(target, &Try::new(1), &a.principal, Extent::Principal).await.expect_err("no retire"),
        target.usage(&a.principal).await.expect_err("no usage"),
    ];
    match target.probe(&a, ProbeDepth::Login).await {
        Probe::Unknown(failure) => failures.push(failure),
        verdict => panic!("a verdict without an answer: {verdict:?}"),
    }
    failures
}

async fn a_server_that_is_away_or_silent_is_unavailable(kind: Kind) {
    let world = World::shared(kind).await;
    let mut spec = world.alternating();
    spec.endpoint.port = 1;
    for failure in everything(&world.target(spec.clone()), &world).await {
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.to_string().contains("connection refused"), "{failure}");
    }
    // The kernel completes the connection; nobody ever writes to it.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    spec.endpoint.port = listener.local_addr().expect("an address").port();
    let deadlines = Deadlines { login: Duration::from_millis(200), ..Deadlines::default() };
    for failure in everything(&world.target(spec).with_deadlines(deadlines), &world).await {
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    }
}

/// A change whose outcome is not known is repeated or undone, and comes out right either way.
async fn a_lost_change_is_ambiguous_and_can_be_repeated_or_undone(kind: Kind) {
    let world = World::shared(kind).await.plainly().await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    if kind == Kind::MariaDb {
        world.sql("CREATE DATABASE IF NOT EXISTS rekeyd").await;
    }
    let direct = world.target(world.in_place());
    // In place, as a value is changed that readers have.
    let change = async |target: &MysqlTarget, step: &Try, candidate: &Credential| {
        install_with(target, step, candidate, None, Occupancy::Keep).await
    };
    let at = world.server.at();
    // In the batch, and in the note of when sessions began.
    let triggers = ["ALTER USER", "\"marks\":[{"];
    for (index, trigger) in (0_u64..).zip(triggers) {
        for (round, fault) in (0_u64..).zip([Fault::LoseRequest, Fault::LoseReply]) {
            let fence = 10 + index * 10 + round * 3;
            let proxy = Proxy::start((&at.host, at.port), trigger, fault).await;
            let mut spec = world.in_place();
            spec.endpoint.port = proxy.port;
            let candidate = credential(world.name("a").as_str());
            let step = Try::new(fence);
            let failure = change(&world.target(spec), &step, &candidate).await.expect_err("lost");
            assert_eq!(proxy.faults(), 1, "{trigger} {fault:?}");
            assert_eq!(failure.class(), FailureClass::Ambiguous, "{trigger} {fault:?}: {failure}");
            let repeated = change(&direct, &step, &candidate).await;
            assert!(matches!(repeated, Ok(Installed::Done { .. })), "{trigger} {fault:?}: {repeated:?}");
            assert_eq!(direct.probe(&candidate, ProbeDepth::Login).await, Probe::Accepted);

            let mut spec = world.in_place();
            let proxy = Proxy::start((&at.host, at.port), trigger, fault).await;
            spec.endpoint.port = proxy.port;
            let (step, candidate) = (Try::new(fence + 1), credential(world.name("a").as_str()));
            change(&world.target(spec), &step, &candidate).await.expect_err("lost");
            retire(&direct, &step, &candidate.principal, Extent::Attempt).await.expect("undone");
            let late = change(&direct, &step, &candidate).await;
            assert!(matches!(late, Ok(Installed::Superseded { .. })), "{trigger} {fault:?}: {late:?}");
            assert_eq!(direct.probe(&candidate, ProbeDepth::Login).await, Probe::Refused);
        }
    }
}

/// One private server, for what cannot be done to a shared one.
async fn a_server_that_changes_its_ways(kind: Kind) {
    let mut world = World::on(Server::private(kind, &["--tls"])).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let a = credential(world.name("a").as_str());
    // It has no table for notes yet, and its place is made.
    let step = Try::new(1);
    let Ok(Installed::Done { at }) = install(&world.target(world.in_place()), &step, &a, None).await else {
        panic!("not installed")
    };

    world.sql("SET GLOBAL read_only = ON").await;
    let failure =
        install(&world.target(world.in_place()), &Try::new(2), &a, None).await.expect_err("read-only");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(remedy(&failure).contains("primary"), "{failure:?}");
    world.sql("SET GLOBAL read_only = OFF").await;
    if kind == Kind::MariaDb {
        world.sql("INSTALL SONAME 'simple_password_check'").await;
        let failure =
            install(&world.target(world.in_place()), &Try::new(2), &a, None).await.expect_err("no hashes");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(remedy(&failure).contains("strict_password_validation"), "{failure:?}");
    }

    // The fewest that each server can be told; one more is kept for who may end sessions.
    world.sql(kind.says("SET GLOBAL max_connections = 10", "SET GLOBAL max_connections = 1")).await;
    let mut crowd = Vec::new();
    let full = loop {
        match world.connect(&a).await {
            Ok(session) => crowd.push(session),
            Err(error) => break error,
        }
    };
    assert!(full.starts_with("ERROR 1040"), "{full}");
    let probe = world.target(world.in_place()).probe(&a, ProbeDepth::Login).await;
    let Probe::Unknown(failure) = probe else { panic!("a verdict: {probe:?}") };
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(remedy(&failure).contains("max_connections"), "{failure:?}");
    drop(crowd);

    // After a restart the numbers of sessions begin anew: none of them is an old one.
    world.server.restart(kind.says(&["--tls", "--", "--strict-password-validation=OFF"], &["--tls"]));
    let target = world.target(world.in_place());
    let mut reader = world.connect(&a).await.expect("a session");
    let usage = target.usage(&a.principal).await.expect("usage").sessions;
    assert_eq!(usage.len(), 1);
    assert!(usage[0].since >= at, "{usage:?} {at}");
    let retired = retire(&target, &step, &a.principal, Extent::SessionsBefore(at)).await;
    assert_eq!(retired, Ok(rekeyd::target::Retired::Done { sessions_closed: 0 }));
    assert!(reader.query("SELECT 1").await.is_ok());

    // One that checks nothing lets anybody in, which proves nothing.
    world.server.restart(&["--tls", "--", "--skip-grant-tables"]);
    // MySQL listens to no network then.
    let mut spec = world.in_place();
    spec.endpoint.host.clone_from(&world.server.at().socket);
    for credential in [&a, &credential(a.principal.as_str())] {
        let probe = world.target(spec.clone()).probe(credential, ProbeDepth::Login).await;
        let Probe::Unknown(failure) = probe else { panic!("a verdict: {probe:?}") };
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(remedy(&failure).contains("skip-grant-tables"), "{failure:?}");
    }
}
