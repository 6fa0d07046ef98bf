//! Making users accept a value.

use futures_util::future::join_all;
use rekeyd::failure::FailureClass;
use rekeyd::ident::Fence;
use rekeyd::target::{Extent, Installed, Occupancy, Probe, ProbeDepth, Retired, Target as _};

use super::{install, install_with, on_each_server, remedy, retire};
use crate::postgres_support::{Try, credential_of, text};
use crate::redis_support::{Kind, Servers, World, hash};

on_each_server! {
    every_node_has_it_and_keeps_it_over_a_restart
    the_marker_is_one_entry_that_lets_nobody_in
    of_attempts_that_race_for_a_new_user_the_last_one_holds_it
    what_a_process_left_before_its_change_means_nothing
    nothing_is_concluded_from_two_markers
    a_user_who_lets_everybody_in_is_not_closed_to_its_readers
    a_user_that_is_missing_on_one_node_is_not_made
    values_of_any_bytes_are_taken
}

async fn every_node_has_it_and_keeps_it_over_a_restart(kind: Kind) {
    for arguments in [&[][..], &["--no-aclfile"]] {
        let world = World::on(Servers::private(kind, arguments)).await;
        let target = world.target();
        let (old, new) = (world.credential(), world.credential());
        install(&target, &Try::new(1), &old, None).await.expect("installed");
        let step = Try::new(2);
        install(&target, &step, &new, Some(&old)).await.expect("installed");
        world.servers.restart(arguments);
        for credential in [&old, &new] {
            assert_eq!(target.probe(credential, ProbeDepth::Check).await, Probe::Accepted, "{arguments:?}");
        }
        let late = install(&target, &Try::new(1), &old, None).await.expect("an answer");
        assert_eq!(late, Installed::Superseded { by: Fence::new(2) }, "the marker outlives a restart, too");

        retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await.expect("retired");
        world.servers.restart(arguments);
        assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused, "{arguments:?}");
        assert_eq!(target.probe(&new, ProbeDepth::Check).await, Probe::Accepted, "{arguments:?}");
    }
}

async fn the_marker_is_one_entry_that_lets_nobody_in(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let new = world.credential();
    let step = Try::new(1);
    for _ in 0..2 {
        install(&target, &step, &new, None).await.expect("installed");
    }
    for node in 0..2 {
        assert_eq!(world.values(node).await, [hash(text(&new))]);
        let markers = world.markers(node).await;
        let [marker] = markers.as_slice() else { panic!("{markers:?}") };
        // Neither as it is written nor as the bytes it stands for.
        assert!(world.connect(node, &credential_of(&world.user(), marker)).await.is_err());
    }
}

async fn of_attempts_that_race_for_a_new_user_the_last_one_holds_it(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let attempts: Vec<_> = (1..=6).map(|fence| (Try::new(fence), world.credential())).collect();
    let raced = attempts
        .iter()
        .map(|(step, candidate)| install_with(&target, step, candidate, None, Occupancy::Close));
    for (raced, (step, _)) in join_all(raced).await.into_iter().zip(&attempts) {
        match raced {
            Ok(Installed::Done { .. }) => {}
            Ok(Installed::Superseded { by }) => {
                assert!(by > step.fence, "{by} is no later than {}", step.fence)
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    let (_, last) = attempts.last().expect("there are six");
    for node in 0..2 {
        assert_eq!(world.values(node).await, [hash(text(last))], "on node {node}");
        assert_eq!(world.markers(node).await.len(), 1, "on node {node}");
    }
}

async fn what_a_process_left_before_its_change_means_nothing(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    // A state of zero, and whatever behind it.
    let left = format!("72656b657900{}", "ab".repeat(26));
    world.everywhere(&format!("ACL SETUSER {{p}}_app #{left}")).await;
    let new = world.credential();
    install(&target, &Try::new(1), &new, None).await.expect("installed");
    for node in 0..2 {
        assert_eq!(world.markers(node).await.len(), 1, "it goes with the next change");
    }
}

async fn nothing_is_concluded_from_two_markers(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let another = format!("72656b657901{}", "ab".repeat(26));
    world.run::<()>(1, &format!("ACL SETUSER {{p}}_app #{another}")).await;
    let failure = install(&target, &Try::new(2), &new, Some(&old)).await.expect_err("two markers");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(remedy(&failure).contains(&format!("ACL SETUSER {} !72656b6579", world.user())), "{failure:?}");
    assert_eq!(world.values(0).await, [hash(text(&old))], "no node was changed");
}

async fn a_user_who_lets_everybody_in_is_not_closed_to_its_readers(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let new = world.credential();
    world.run::<()>(1, "ACL SETUSER {p}_app nopass").await;
    for occupancy in [Occupancy::Refuse, Occupancy::Keep] {
        let step = Try::new(1);
        let failure =
            install_with(&target, &step, &new, None, occupancy).await.expect_err("everybody is let in");
        assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
        let undone = retire(&target, &step, Extent::Attempt, None, &world.user()).await;
        assert_eq!(undone.expect_err("it would close it").class(), FailureClass::Conflict);
        assert!(world.connect(1, &world.credential()).await.is_ok(), "whoever came before comes again");
    }
    let contained = install_with(&target, &Try::new(2), &new, None, Occupancy::Close).await;
    contained.expect("a containment closes it");
    assert_eq!(target.probe(&world.credential(), ProbeDepth::Check).await, Probe::Refused);
    assert_eq!(target.probe(&new, ProbeDepth::Check).await, Probe::Accepted);
}

async fn a_user_that_is_missing_on_one_node_is_not_made(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    world.run::<()>(1, "ACL DELUSER {p}_app").await;
    let new = world.credential();
    let failure = install(&target, &Try::new(1), &new, None).await.expect_err("it is not there");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.to_string().contains(&world.servers.at.nodes[1].port.to_string()), "{failure}");
    assert!(remedy(&failure).contains("ACL SETUSER"), "{failure:?}");
    assert_eq!(world.values(0).await, Vec::<String>::new(), "the other node was left alone");
    let retired = retire(&target, &Try::new(1), Extent::Attempt, None, &world.user()).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 0 }));
}

async fn values_of_any_bytes_are_taken(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let odd = credential_of(&world.user(), "with space\r\n$5\r\nand \"quotes\" \u{e4}\u{1f511} #!>");
    install(&target, &Try::new(1), &odd, None).await.expect("installed");
    assert_eq!(target.probe(&odd, ProbeDepth::Check).await, Probe::Accepted);
    let nothing = credential_of(&world.user(), "");
    let failure = install(&target, &Try::new(2), &nothing, Some(&odd)).await.expect_err("it is empty");
    assert_eq!(failure.class(), FailureClass::Refused, "{failure}");
}
