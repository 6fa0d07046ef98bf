//! Which answers to a login are verdicts; and TLS.

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::{MysqlEndpoint, TlsMode, TlsSpec};
use rekeyd::target::{Occupancy, Probe, ProbeDepth, Target as _};

use super::{install, install_with, on_each_server};
use crate::mysql_support::{Kind, World};
use crate::postgres_support::{Try, credential, text};

on_each_server! {
    a_locked_account_is_refused_with_the_right_value_too
    what_says_nothing_about_the_value_is_unknown
    an_account_that_is_not_there_is_refused
    a_login_as_another_account_proves_nothing
    the_check_runs_as_the_candidate_and_cannot_write
    another_endpoint_that_refuses_is_no_verdict
    each_tls_mode_checks_what_it_says
}

/// The world with the one user `a`, and its value.
async fn one(kind: Kind) -> (World, rekeyd::secret::Credential) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK; CREATE DATABASE {p}; CREATE TABLE {p}.t (id int)").await;
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    (world, a)
}

async fn a_locked_account_is_refused_with_the_right_value_too(kind: Kind) {
    let (world, a) = one(kind).await;
    let target = world.target(world.in_place());
    world.sql("ALTER USER '{p}_a'@'%' ACCOUNT LOCK").await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
    world.sql("ALTER USER '{p}_a'@'%' ACCOUNT UNLOCK").await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted);
    world.sql("DROP USER '{p}_a'@'%'").await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
}

async fn what_says_nothing_about_the_value_is_unknown(kind: Kind) {
    let (world, a) = one(kind).await;
    let target = world.target(world.in_place());
    // Only sessions that began under the limit count.
    world.sql("ALTER USER '{p}_a'@'%' WITH MAX_USER_CONNECTIONS 1").await;
    let busy = world.connect(&a).await.expect("a session");
    let probe = target.probe(&a, ProbeDepth::Login).await;
    assert!(matches!(&probe, Probe::Unknown(f) if f.class() == FailureClass::Unavailable), "{probe:?}");
    world.sql("ALTER USER '{p}_a'@'%' WITH MAX_USER_CONNECTIONS 0").await;
    busy.close().await;
    world.sql("ALTER USER '{p}_a'@'%' PASSWORD EXPIRE").await;
    let probe = target.probe(&a, ProbeDepth::Login).await;
    assert!(matches!(&probe, Probe::Unknown(f) if f.reason().contains("expired")), "{probe:?}");
    world.sql("ALTER USER '{p}_a'@'%' PASSWORD EXPIRE NEVER").await;
    let a = credential(a.principal.as_str());
    install_with(&target, &Try::new(2), &a, None, Occupancy::Keep).await.expect("installed");
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted);
    for (database, class) in [("absent", FailureClass::Denied), (world.prefix.as_str(), FailureClass::Denied)]
    {
        let mut spec = world.in_place();
        spec.endpoint.database = Some(database.to_owned());
        let probe = world.target(spec).probe(&a, ProbeDepth::Login).await;
        assert!(matches!(&probe, Probe::Unknown(f) if f.class() == class), "{database}: {probe:?}");
    }
}

/// So that nobody can tell them from others, MySQL asks for the value of each in a way that it draws.
async fn an_account_that_is_not_there_is_refused(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.in_place());
    for number in 0..10 {
        let nobody = credential(world.name(&format!("n{number}")).as_str());
        assert_eq!(target.probe(&nobody, ProbeDepth::Login).await, Probe::Refused, "{nobody:?}");
    }
}

/// The server chooses the account by where a login comes from: a proof about one is none about another.
async fn a_login_as_another_account_proves_nothing(kind: Kind) {
    let (world, a) = one(kind).await;
    world.sql(&format!("CREATE USER '{{p}}_a'@'127.0.0.1' {}", kind.identified(text(&a)))).await;
    let probe = world.target(world.in_place()).probe(&a, ProbeDepth::Login).await;
    let Probe::Unknown(failure) = probe else { panic!("a verdict: {probe:?}") };
    assert!(failure.reason().contains("@127.0.0.1, and not for"), "{failure}");
}

async fn the_check_runs_as_the_candidate_and_cannot_write(kind: Kind) {
    let (world, a) = one(kind).await;
    world.sql("GRANT ALL ON {p}.t TO '{p}_a'@'%'; CREATE TABLE {p}.u (id int)").await;
    let with = |check: &str| {
        let mut spec = world.in_place();
        spec.check = Some(check.replace("{p}", &world.prefix));
        world.target(spec)
    };
    assert_eq!(with("SELECT * FROM {p}.t").probe(&a, ProbeDepth::Check).await, Probe::Accepted);
    assert_eq!(with("SELECT * FROM {p}.u").probe(&a, ProbeDepth::Login).await, Probe::Accepted);
    for (check, class) in [
        ("SELECT * FROM {p}.u", FailureClass::Denied),
        ("SELECT absent FROM {p}.t", FailureClass::Invalid),
        ("SELEKT", FailureClass::Invalid),
        ("INSERT INTO {p}.t VALUES (1)", FailureClass::Invalid),
        ("SELECT 1; SELECT 2", FailureClass::Invalid),
    ] {
        let probe = with(check).probe(&a, ProbeDepth::Check).await;
        assert!(matches!(&probe, Probe::Unfit(f) if f.class() == class), "{check}: {probe:?}");
    }
    assert_eq!(world.rows("SELECT * FROM {p}.t").await, [""; 0]);
}

async fn another_endpoint_that_refuses_is_no_verdict(kind: Kind) {
    let (world, a) = one(kind).await;
    let mut spec = world.in_place();
    let closed = MysqlEndpoint { port: 1, ..world.endpoint() };
    let socket = MysqlEndpoint { host: world.server.at().socket.clone(), ..world.endpoint() };
    spec.also_verify = vec![socket.clone()];
    assert_eq!(world.target(spec.clone()).probe(&a, ProbeDepth::Check).await, Probe::Accepted);
    spec.also_verify = vec![socket, closed];
    let probe = world.target(spec.clone()).probe(&a, ProbeDepth::Check).await;
    assert!(matches!(probe, Probe::Unknown(_)), "{probe:?}");
    assert_eq!(world.target(spec).probe(&a, ProbeDepth::Login).await, Probe::Accepted);
}

async fn each_tls_mode_checks_what_it_says(kind: Kind) {
    let (world, a) = one(kind).await;
    let own = world.server.at().ca_file.clone();
    assert!(own.is_some(), "the shared server has TLS");
    let folder = tempfile::tempdir().expect("a folder");
    let foreign = folder.path().join("foreign.pem");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&foreign, other.cert.pem()).expect("written");
    let foreign = Some(foreign);
    // It only lets in what is protected.
    world.sql("ALTER USER '{p}_a'@'%' REQUIRE SSL").await;
    for (mode, ca, expected) in [
        (TlsMode::VerifyCa, own.clone(), Ok(())),
        (TlsMode::VerifyFull, own.clone(), Ok(())),
        (TlsMode::VerifyCa, foreign.clone(), Err("not signed by a trusted authority")),
        (TlsMode::VerifyFull, foreign, Err("not signed by a trusted authority")),
        // By now MySQL knows the value, and need not be handed it.
        (TlsMode::Require, None, Ok(())),
    ] {
        let mut spec = world.in_place();
        spec.endpoint.tls = TlsSpec { mode, ca_file: ca, allow_plaintext: false };
        let probe = world.target(spec).probe(&a, ProbeDepth::Check).await;
        match (expected, probe) {
            (Ok(()), Probe::Accepted) => {}
            (Err(reason), Probe::Unknown(failure)) => {
                assert!(failure.reason().contains(reason), "{mode:?}: {failure}");
                assert_eq!(failure.class(), FailureClass::Invalid, "{mode:?}");
            }
            other => panic!("{mode:?}: {other:?}"),
        }
    }
}
