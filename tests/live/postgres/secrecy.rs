//! No value reaches the server, its log or its statistics.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::target::postgres::{Pool, PostgresTarget};
use rekeyd::target::{Extent, PreflightRequest, ProbeDepth, Target as _};

use super::{install, retire};
use crate::postgres_support::{Try, World, credential, credential_of, known, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_log_and_statistics_hold_no_value() {
    let world = World::shared().await;
    let settings =
        "SELECT concat_ws(' ', current_setting('log_statement'), current_setting('log_min_error_statement'))";
    assert_eq!(world.row(settings).await, "all error", "the server logs all there is to log");

    // Every path that handles a value, with failures that log their statement.
    let mark = RANDOM_MARK.replace("{}", world.name("x").as_str());
    let (a, b) = (
        credential_of(&world.name("a"), &format!("{mark}a")),
        credential_of(&world.name("b"), &format!("{mark}b")),
    );
    let target = world.target(world.alternating());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    target.probe(&b, ProbeDepth::Check).await;
    target.probe(&credential_of(&a.principal, &format!("{mark}c")), ProbeDepth::Login).await;
    target.preflight(PreflightRequest { policy: &Try::new(3).policy, current: Some(&b) }).await;
    world.sql("ALTER ROLE {p}_admin SET session_preload_libraries = passwordcheck").await;
    let fresh = Arc::new(Pool::new(1, Duration::from_secs(60)));
    let refused = PostgresTarget::new(world.in_place(), known(world.admin()), fresh);
    let weak = credential_of(&a.principal, a.principal.as_str());
    install(&refused, &Try::new(4), &weak, None).await.expect_err("refused");
    retire(&target, &Try::new(5), &a.principal, Extent::Principal).await.expect("retired");

    // The control: a value that is sent in a statement is found in both.
    let careless = credential(world.name("careless").as_str());
    world.sql(&format!("CREATE ROLE {{p}}_careless PASSWORD '{}'", text(&careless))).await;
    let statistics = world.server.statistics().await;
    let log = String::from_utf8_lossy(&std::fs::read(&world.server.at().log).expect("the log")).into_owned();
    for (place, content) in [("the log", &log), ("the statistics", &statistics)] {
        assert!(content.contains(text(&careless)), "the control is not in {place}");
        assert!(
            content.contains(&format!("ALTER ROLE \"{}\" LOGIN PASSWORD", a.principal)),
            "nothing of rekeyd in {place}"
        );
        assert!(!content.contains(&mark), "a value is in {place}");
    }
}

/// Characters that a statement, a DSN or JSON would escape are left out: it stands as it is or not at all.
const RANDOM_MARK: &str = "Marked.{}.value.";
