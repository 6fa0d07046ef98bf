//! Servers that are away, half there, or go away in the middle.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::policy::spec::{InPlaceSpec, PostgresEndpoint, PostgresSpec, PostgresStrategy, TlsMode};
use rekeyd::secret::Credential;
use rekeyd::target::postgres::{Deadlines, Pool, PostgresTarget};
use rekeyd::target::{AdminCredential, Extent, Installed, Probe, ProbeDepth, Target as _};

use super::{install, remedy, retire};
use crate::postgres_support::{Server, Try, World, credential, known, plaintext, soon, text};
use crate::proxy::{Fault, Proxy};

/// Every verb of a target that cannot be reached, with what each answered.
async fn everything(target: &PostgresTarget, world: &World) -> Vec<Failure> {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_unavailable() {
    let world = World::on(Server::private(&[])).await;
    world.server.stop();
    let target = world.target(world.alternating());
    for failure in everything(&target, &world).await {
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.to_string().contains("connection refused"), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_never_answers_ends_in_the_deadline() {
    let world = World::shared().await;
    // The kernel completes the connection; nobody ever reads from it.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let mut spec = world.alternating();
    spec.endpoint.port = listener.local_addr().expect("an address").port();
    let deadlines = Deadlines { login: Duration::from_millis(300), ..Deadlines::default() };
    for mode in [TlsMode::Disable, TlsMode::Require] {
        spec.endpoint.tls.mode = mode;
        let target = world.target(spec.clone()).with_deadlines(deadlines);
        let started = Instant::now();
        for failure in everything(&target, &world).await {
            assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        }
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(3), "four calls took {elapsed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_read_only() {
    let mut server = Server::private(&[]);
    let admin = credential("standby_admin");
    let root = server.superuser("postgres").await;
    let password = text(&admin);
    root.batch_execute(&format!(
        "CREATE ROLE standby_admin LOGIN CREATEROLE PASSWORD '{password}'; CREATE ROLE one NOLOGIN"
    ))
    .await
    .expect("roles");
    drop(root);
    server.restart(&[], |data| std::fs::write(data.join("standby.signal"), "").expect("written"));

    let target = one_on(&server, &admin);
    let one = credential("one");
    let failure = install(&target, &Try::new(1), &one, None).await.expect_err("read-only");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("standby"), "{failure}");
    assert!(remedy(&failure).contains("primary"), "{failure:?}");
    assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Refused, "a login needs no writing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_set_to_read_only_is_unavailable() {
    let world = World::shared().await;
    world.sql("ALTER ROLE {p}_admin SET default_transaction_read_only = on").await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(1), &a, None).await.expect_err("read-only");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("read-only"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_starting_is_unavailable() {
    let mut server = Server::private(&[]);
    // A standby that lets nobody in answers as one that starts: both are 57P03.
    server.restart(&["--no-wait", "--", "-c", "hot_standby=off"], |data| {
        std::fs::write(data.join("standby.signal"), "").expect("written");
    });
    let admin = credential("anyone");
    let target = one_on(&server, &admin);
    let failure = install(&target, &Try::new(1), &credential("one"), None).await.expect_err("starting");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("starting"), "{failure}");
    let probe = target.probe(&credential("one"), ProbeDepth::Login).await;
    assert!(
        matches!(&probe, Probe::Unknown(failure) if failure.class() == FailureClass::Unavailable),
        "{probe:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_unavailable() {
    let options = ["--", "-c", "max_connections=6", "-c", "superuser_reserved_connections=4"];
    let world = World::on(Server::private(&options)).await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    let mut held = Vec::new();
    while let Ok(session) = world.connect(&a).await {
        held.push(session);
    }
    let probe = world.target(world.in_place()).probe(&a, ProbeDepth::Login).await;
    assert!(
        matches!(&probe, Probe::Unknown(failure) if failure.class() == FailureClass::Unavailable),
        "{probe:?}"
    );
    let target = PostgresTarget::new(
        world.in_place(),
        known(world.admin()),
        Arc::new(Pool::new(1, Duration::from_secs(60))),
    );
    let failure = install(&target, &Try::new(2), &a, None).await.expect_err("full");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.reason().contains("too many connections"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_whose_reply_is_lost_is_ambiguous_and_repeatable() {
    for (fault, took_effect) in
        [(Fault::LoseReply, true), (Fault::LoseRequest, false), (Fault::Silence, true)]
    {
        let world = World::shared().await;
        world.sql("CREATE ROLE {p}_a NOLOGIN").await;
        let a = credential(world.name("a").as_str());
        let at = world.server.at();
        let proxy = Proxy::start((&at.host, at.port), "COMMENT ON ROLE", fault).await;
        let mut spec = world.in_place();
        spec.endpoint.port = proxy.port;
        let deadlines = Deadlines { statement: Duration::from_secs(1), ..Deadlines::default() };
        let through = world.target(spec).with_deadlines(deadlines);
        let step = Try::new(1);
        let failure = install(&through, &step, &a, None).await.expect_err("the reply is lost");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        assert_eq!(proxy.faults(), 1);

        let direct = world.target(world.in_place());
        let expected = if took_effect { Probe::Accepted } else { Probe::Refused };
        assert_eq!(direct.probe(&a, ProbeDepth::Login).await, expected, "{fault:?}");
        let again = install(&direct, &step, &a, None).await;
        assert!(matches!(again, Ok(Installed::Done { .. })), "{again:?}");
        assert_eq!(direct.probe(&a, ProbeDepth::Login).await, Probe::Accepted);

        let failure = retire(&through, &step, &a.principal, Extent::Principal).await.expect_err("lost again");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        retire(&direct, &step, &a.principal, Extent::Principal).await.expect("retired");
        assert_eq!(direct.probe(&a, ProbeDepth::Login).await, Probe::Refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_changes_nothing_is_never_ambiguous() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let at = world.server.at();
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Silence] {
        let proxy = Proxy::start((&at.host, at.port), "pg_advisory_xact_lock", fault).await;
        let mut spec = world.in_place();
        spec.endpoint.port = proxy.port;
        let deadlines = Deadlines { statement: Duration::from_millis(500), ..Deadlines::default() };
        let target = world.target(spec).with_deadlines(deadlines);
        let a = credential(world.name("a").as_str());
        let failure = install(&target, &Try::new(1), &a, None).await.expect_err("lost");
        assert_eq!(failure.class(), FailureClass::Unavailable, "{fault:?}: {failure}");
    }
    // The locks went with the sessions.
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_shut_down_during_the_change_leaves_it_ambiguous() {
    let world = World::on(Server::private(&[])).await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let target = world.target(world.in_place());
    let a = credential(world.name("a").as_str());
    // Holds the role's row, so that the change waits in the server when its session is ended.
    world.sql("BEGIN; ALTER ROLE {p}_a CONNECTION LIMIT 5").await;
    let watcher = world.server.superuser("postgres").await;
    let step = Try::new(1);
    let (outcome, ()) = tokio::join!(install(&target, &step, &a, None), async {
        let waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' AND usename LIKE '%_admin'";
        let ended = async || !watcher.query(waiting, &[]).await.expect("the server").is_empty();
        soon("the change waits for the lock", ended).await;
    });
    let failure = outcome.expect_err("it was cut off");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_admin_sessions_are_shared_dropped_when_broken_and_closed_in_time() {
    let world = World::shared().await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = '{p}_admin'";
    let pool = Arc::new(Pool::new(4, Duration::from_millis(200)));
    let admin = Arc::new(Counted { source: known(world.admin()), asked: AtomicUsize::new(0) });
    let asked = || admin.asked.load(Ordering::SeqCst);
    let target = |spec| PostgresTarget::new(spec, admin.clone(), Arc::clone(&pool));
    let (one, two) = (target(world.alternating()), target(world.in_place()));
    for _ in 0..3 {
        one.usage(&world.name("a")).await.expect("usage");
        two.usage(&world.name("a")).await.expect("usage");
    }
    assert_eq!((asked(), world.row(count).await.as_str()), (1, "1"));
    world
        .sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{p}_admin'")
        .await;
    // Whether the pool knows by now that its session is gone is a matter of luck; it does afterwards.
    if let Err(failure) = one.usage(&world.name("a")).await {
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        one.usage(&world.name("a")).await.expect("usage");
    }
    assert_eq!((asked(), world.row(count).await.as_str()), (2, "1"));
    soon("the idle session is closed", async || world.row(count).await == "0").await;
}

/// An admin credential that counts how often it is asked for.
struct Counted {
    source: Arc<dyn AdminCredential>,
    asked: AtomicUsize,
}

#[async_trait]
impl AdminCredential for Counted {
    async fn credential(&self) -> Result<Credential, Failure> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.source.credential().await
    }
}

/// A target for the role `one` on a server without a world.
fn one_on(server: &Server, admin: &Credential) -> PostgresTarget {
    let at = server.at();
    let spec = PostgresSpec {
        endpoint: PostgresEndpoint {
            host: at.host.clone(),
            port: at.port,
            database: "postgres".to_owned(),
            tls: plaintext(),
        },
        also_verify: Vec::new(),
        admin: "orders-admin".parse().expect("a label"),
        strategy: PostgresStrategy::InPlace(InPlaceSpec { user: "one".parse().expect("a principal") }),
        check: None,
    };
    PostgresTarget::new(spec, known(admin), Arc::new(Pool::new(1, Duration::from_secs(60))))
}
