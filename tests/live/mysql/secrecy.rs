//! No value reaches the server's log of statements, nor its list of what runs.

use rekeyd::target::{Extent, InstallRequest, Occupancy, PreflightRequest, ProbeDepth, Target as _};

use super::{install, install_with, on_each_server, retire};
use crate::mysql_support::{Kind, World};
use crate::postgres_support::{Try, credential_of};

on_each_server! {
    the_log_of_statements_holds_no_value
}

async fn the_log_of_statements_holds_no_value(kind: Kind) {
    let world = World::shared(kind).await;
    assert_eq!(world.row("SELECT @@general_log").await, "1", "the server logs all there is to log");
    // Every path that handles a value.
    let mark = format!("Marked.{}.value.", world.prefix);
    let [a, b] = ["a", "b"].map(|name| credential_of(&world.name(name), &format!("{mark}{name}")));
    let target = world.target(world.alternating());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    target.probe(&b, ProbeDepth::Check).await;
    target.probe(&credential_of(&a.principal, &format!("{mark}c")), ProbeDepth::Login).await;
    target.preflight(PreflightRequest { policy: &Try::new(3).policy, current: Some(&b) }).await;
    let dual = world.target(world.dual(None));
    let next = credential_of(&a.principal, &format!("{mark}d"));
    let step = Try::new(4);
    let request = InstallRequest {
        attempt: step.attempt(),
        candidate: &next,
        peer: None,
        beside: Some(&a),
        occupancy: Occupancy::Refuse,
    };
    dual.install(request).await.expect("installed");
    install_with(&target, &Try::new(3), &b, None, Occupancy::Close).await.expect("installed");
    retire(&target, &Try::new(5), &a.principal, Extent::Principal).await.expect("retired");

    // The control: a value that is sent in a statement is found.
    world.sql(&format!("CREATE USER '{{p}}_careless'@'%' IDENTIFIED BY '{}'", mark.to_lowercase())).await;
    let log =
        String::from_utf8_lossy(&std::fs::read(&world.server.at().statements).expect("the log")).into_owned();
    assert!(log.contains(&mark.to_lowercase()), "the control is not in the log");
    assert!(
        log.contains(&format!(
            "ALTER USER '{}'@'%' {}",
            a.principal,
            kind.says("IDENTIFIED VIA ed25519", "IDENTIFIED WITH 'caching_sha2_password' AS 0x")
        )),
        "nothing of rekeyd"
    );
    assert!(!log.contains(&mark), "a value is in the log");
}
