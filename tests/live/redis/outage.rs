//! Nodes that are away, half there, or go away in the middle.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::RedisSpec;
use rekeyd::target::redis::Deadlines;
use rekeyd::target::{Extent, Installed, Probe, ProbeDepth, Target as _};

use super::{install, on_each_server, remedy, retire};
use crate::postgres_support::{Try, text};
use crate::proxy::{Fault, Proxy};
use crate::redis_support::{Kind, World, hash};

on_each_server! {
    while_a_node_is_down_no_node_is_changed
    an_answer_that_is_lost_is_no_answer
    a_change_that_a_node_cannot_keep_is_not_done
    a_right_that_is_missing_on_one_node_keeps_all_from_being_changed
}

async fn while_a_node_is_down_no_node_is_changed(kind: Kind) {
    let world = World::private(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    world.servers.kill(1).await;
    let step = Try::new(2);
    let failures = [
        install(&target, &step, &new, Some(&old)).await.expect_err("a node is down"),
        retire(&target, &step, Extent::OtherValues, Some(&new), &world.user())
            .await
            .expect_err("a node is down"),
        retire(&target, &step, Extent::Attempt, Some(&old), &world.user()).await.expect_err("a node is down"),
        target.usage(&world.user()).await.expect_err("a node is down"),
    ];
    let port = world.servers.at.nodes[1].port.to_string();
    for failure in failures {
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.to_string().contains(&port), "{failure}");
    }
    assert_eq!(world.values(0).await, [hash(text(&old))]);
    // Not dead before the last node says so, and alive where the first one does.
    assert!(matches!(target.probe(&new, ProbeDepth::Login).await, Probe::Unknown(_)));
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Accepted);
    assert!(matches!(target.probe(&old, ProbeDepth::Check).await, Probe::Unknown(_)));

    world.servers.start(1).await;
    let installed = install(&target, &step, &new, Some(&old)).await;
    assert!(matches!(installed, Ok(Installed::Done { .. })), "{installed:?}");
    retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await.expect("retired");
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(target.probe(&new, ProbeDepth::Check).await, Probe::Accepted);
}

/// The spec with a proxy before the second node.
async fn through(world: &World, fault: Fault) -> (Proxy, RedisSpec) {
    let mut spec = world.spec();
    let proxy = Proxy::start(("127.0.0.1", spec.nodes[1].port), "EXEC", fault).await;
    spec.nodes[1].port = proxy.port;
    (proxy, spec)
}

async fn an_answer_that_is_lost_is_no_answer(kind: Kind) {
    for (fault, arrives) in [(Fault::LoseReply, true), (Fault::LoseRequest, false), (Fault::Silence, true)] {
        let world = World::shared(kind).await;
        let target = world.target();
        let (old, new) = (world.credential(), world.credential());
        install(&target, &Try::new(1), &old, None).await.expect("installed");
        let (proxy, spec) = through(&world, fault).await;
        let deadlines = Deadlines { command: Duration::from_millis(300), ..Deadlines::default() };
        let lossy = world.target_of(spec).with_deadlines(deadlines);
        let step = Try::new(2);
        let failure = install(&lossy, &step, &new, Some(&old)).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        assert_eq!(proxy.faults(), 1, "{fault:?}");
        assert_eq!(world.values(1).await.contains(&hash(text(&new))), arrives, "{fault:?}");
        assert!(world.values(0).await.contains(&hash(text(&new))), "the other node has it");

        install(&target, &step, &new, Some(&old)).await.expect("repeating it is right");
        assert_eq!(target.probe(&new, ProbeDepth::Check).await, Probe::Accepted);
        let failure = retire(&lossy, &step, Extent::OtherValues, Some(&new), &world.user()).await;
        assert_eq!(failure.expect_err("no answer came").class(), FailureClass::Ambiguous, "{fault:?}");
        retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await.expect("retired");
        assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
        assert_eq!(target.probe(&new, ProbeDepth::Check).await, Probe::Accepted);
    }
}

async fn a_change_that_a_node_cannot_keep_is_not_done(kind: Kind) {
    let world = World::private(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let folder = &world.servers.at.nodes[1].folder;
    let away = folder.with_extension("away");
    std::fs::rename(folder, &away).expect("moved");
    let step = Try::new(2);
    let failure = install(&target, &step, &new, Some(&old)).await.expect_err("it cannot be kept");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    assert!(failure.reason().contains("not written to its ACL file"), "{failure}");
    std::fs::rename(&away, folder).expect("moved");
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    let kept = std::fs::read_to_string(folder.join("users.acl")).expect("the users");
    assert!(kept.contains(&hash(text(&new))), "repeating it writes it");
}

async fn a_right_that_is_missing_on_one_node_keeps_all_from_being_changed(kind: Kind) {
    for right in
        ["acl|setuser", "acl|save", "client|kill", "exec", "config|get", "acl|whoami", "time", "info"]
    {
        let world = World::shared(kind).await;
        let target = world.target();
        let (old, new) = (world.credential(), world.credential());
        install(&target, &Try::new(1), &old, None).await.expect("installed");
        world.run::<()>(1, &format!("ACL SETUSER {{p}}_admin -{right}")).await;
        let failure = install(&target, &Try::new(2), &new, Some(&old)).await.expect_err("it may not");
        let expected = if right == "exec" { FailureClass::Ambiguous } else { FailureClass::Denied };
        assert_eq!(failure.class(), expected, "{right}: {failure}");
        assert!(remedy(&failure).contains("+acl +client"), "{right}: {failure:?}");
        if right != "exec" {
            assert_eq!(world.values(0).await, [hash(text(&old))], "{right}");
        }
        assert_eq!(world.values(1).await, [hash(text(&old))], "{right}");
    }
}
