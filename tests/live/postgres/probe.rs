//! Which answers to a login are verdicts.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::PostgresEndpoint;
use rekeyd::target::postgres::Deadlines;
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use super::install;
use crate::postgres_support::{Server, Try, World, credential};

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_log_in_is_refused_with_the_right_value_too() {
    let world = World::shared().await;
    let target = world.target(world.in_place());
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    for (change, back) in [("NOLOGIN", "LOGIN"), ("VALID UNTIL '2020-01-01'", "VALID UNTIL 'infinity'")] {
        world.sql(&format!("ALTER ROLE {{p}}_a {change}")).await;
        assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused, "{change}");
        world.sql(&format!("ALTER ROLE {{p}}_a {back}")).await;
        assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted, "{back}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_about_the_value_is_unknown() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    let cases = [
        (
            "ALTER ROLE {p}_a CONNECTION LIMIT 0",
            "ALTER ROLE {p}_a CONNECTION LIMIT -1",
            FailureClass::Unavailable,
        ),
        (
            "REVOKE CONNECT ON DATABASE {p} FROM PUBLIC",
            "GRANT CONNECT ON DATABASE {p} TO PUBLIC",
            FailureClass::Denied,
        ),
    ];
    let target = world.target(world.in_place());
    for (change, back, class) in cases {
        world.sql(change).await;
        let probe = target.probe(&a, ProbeDepth::Login).await;
        assert!(matches!(probe, Probe::Unknown(_)), "{change}: {probe:?}");
        assert_eq!(probe.failure_class(), Some(class), "{change}");
        world.sql(back).await;
    }
    let mut spec = world.in_place();
    "no_such_database".clone_into(&mut spec.endpoint.database);
    let probe = world.target(spec).probe(&a, ProbeDepth::Login).await;
    assert!(
        matches!(&probe, Probe::Unknown(failure) if failure.class() == FailureClass::Invalid),
        "{probe:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_runs_as_the_candidate_and_cannot_write() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN; CREATE TABLE t (id int); CREATE TABLE u (id int); GRANT ALL ON t TO {p}_a").await;
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    let with = |check: &str| {
        let mut spec = world.in_place();
        spec.check = Some(check.to_owned());
        world.target(spec)
    };
    assert_eq!(with("SELECT * FROM t").probe(&a, ProbeDepth::Check).await, Probe::Accepted);
    assert_eq!(with("SELECT * FROM u").probe(&a, ProbeDepth::Login).await, Probe::Accepted);
    for (check, class) in [
        ("SELECT * FROM u", FailureClass::Denied),
        ("SELECT * FROM absent", FailureClass::Invalid),
        ("SELEKT", FailureClass::Invalid),
        ("INSERT INTO t VALUES (1)", FailureClass::Invalid),
        ("SELECT 1; SELECT 2", FailureClass::Invalid),
    ] {
        let probe = with(check).probe(&a, ProbeDepth::Check).await;
        assert!(matches!(&probe, Probe::Unfit(failure) if failure.class() == class), "{check}: {probe:?}");
    }
    let deadlines = Deadlines { statement: Duration::from_millis(200), ..Default::default() };
    let slow = with("SELECT pg_sleep(60)").with_deadlines(deadlines);
    let probe = slow.probe(&a, ProbeDepth::Check).await;
    assert!(
        matches!(&probe, Probe::Unknown(failure) if failure.class() == FailureClass::Unavailable),
        "{probe:?}"
    );
    assert_eq!(world.row("SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_must_accept_the_candidate() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = credential(world.name("a").as_str());
    let here = world.endpoint();
    let socket = PostgresEndpoint { host: world.server.at().socket.clone(), ..here.clone() };
    let probe_with = async |also: Vec<PostgresEndpoint>| {
        let mut spec = world.in_place();
        spec.also_verify = also;
        world.target(spec).probe(&a, ProbeDepth::Check).await
    };
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    assert_eq!(probe_with(vec![socket.clone(), here.clone()]).await, Probe::Accepted);

    // Another server, which does not know the role: the main endpoint's word stands, this one is unfit.
    let other = Server::private(&[]);
    let elsewhere =
        PostgresEndpoint { port: other.at().port, database: "postgres".to_owned(), ..here.clone() };
    let probe = probe_with(vec![socket.clone(), elsewhere.clone()]).await;
    assert!(matches!(probe, Probe::Unfit(_)), "{probe:?}");
    drop(other);
    let probe = probe_with(vec![socket, elsewhere]).await;
    assert!(matches!(probe, Probe::Unknown(_)), "{probe:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_nothing_proves_nothing() {
    let world = World::on(Server::private(&[])).await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = credential(world.name("a").as_str());
    let target = world.target(world.in_place());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted);

    let wrong = credential(world.name("a").as_str());
    for (method, class) in [
        ("trust", FailureClass::Invalid),
        // The value would have to be sent as it is, to whoever listens there.
        ("password", FailureClass::Invalid),
        ("reject", FailureClass::Denied),
    ] {
        world.set_hba(&format!("host all {} all {method}", a.principal)).await;
        for credential in [&a, &wrong] {
            let probe = target.probe(credential, ProbeDepth::Login).await;
            assert!(
                matches!(&probe, Probe::Unknown(failure) if failure.class() == class),
                "{method}: {probe:?}"
            );
        }
    }
    // Nor where nobody can listen in: whoever put the server up is not given the value either.
    world.set_hba(&format!("local all {} password", a.principal)).await;
    let mut by_socket = world.in_place();
    by_socket.endpoint.host.clone_from(&world.server.at().socket);
    let probe = world.target(by_socket).probe(&a, ProbeDepth::Login).await;
    let asked = "the server asks for the value in the clear";
    assert!(matches!(&probe, Probe::Unknown(failure) if failure.reason() == asked), "{probe:?}");
    // A role that may not log in is refused even where no value is asked for.
    world.set_hba(&format!("host all {} all trust", a.principal)).await;
    world.sql("ALTER ROLE {p}_a NOLOGIN").await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Refused);
    // MD5 in pg_hba.conf still means SCRAM for a role with such a verifier.
    world.set_hba(&format!("host all {} all md5", a.principal)).await;
    world.sql("ALTER ROLE {p}_a LOGIN").await;
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted);
    assert_eq!(target.probe(&wrong, ProbeDepth::Login).await, Probe::Refused);
}
