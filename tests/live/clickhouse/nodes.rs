//! Two nodes that know nothing of each other.

use rekeyd::target::{Extent, Probe};

use crate::clickhouse_contract::{Step, World as _, done, install, making, new, probe, retire, slip, turn};
use crate::clickhouse_nodes::Corner;

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_changed_and_asked() {
    let corner = Corner::on_two().await;
    corner.say(&making("{p}_one")).await;
    let target = corner.target(corner.dual());
    let one = corner.name("one");
    let (first, second) = (new(&one), new(&one));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(install(&target, &step, &second, Some(&first)).await);
    assert!(corner.lets_in(&first).await && corner.lets_in(&second).await);
    let mut readers = [corner.open_at(0, &first).await, corner.open_at(1, &first).await];
    retire(&target, &step, &one, Extent::OtherValues, Some(&second)).await.expect("retired");
    for reader in &mut readers {
        assert!(!reader.lives().await, "its query was ended");
    }
    assert!(!corner.lets_in(&first).await);
    assert!(corner.lets_in(&second).await);
}

/// Each node gives a user another id.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_takes_turns_on_every_node() {
    let corner = Corner::on_two().await;
    let target = corner.target(corner.pair());
    let (first, second) = (new(&corner.name("a")), new(&corner.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(turn(&target, &step, &second, &first.principal).await);
    retire(&target, &step, &first.principal, Extent::Principal, None).await.expect("retired");
    assert!(!corner.lets_in(&first).await);
    assert!(corner.lets_in(&second).await);
}

/// Of what works at one node and not at the other nobody can say that it works, or that it is dead.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_alone_is_no_verdict() {
    let corner = Corner::on_two().await;
    corner.say(&making("{p}_one")).await;
    let target = corner.target(corner.dual());
    let first = new(&corner.name("one"));
    done(install(&target, &Step::new(1), &first, None).await);
    let taken_away = corner.in_words(
        "ALTER USER {p}_one IDENTIFIED WITH sha256_password BY 'nobody knows' VALID UNTIL '2000-01-01 00:00:00'",
    );
    corner.say_at(1, &taken_away).await;
    let unfit = probe(&target, &first).await;
    assert!(
        matches!(&unfit, Probe::Unfit(failure) if failure.reason().contains("first one accepts")),
        "{unfit:?}"
    );
    slip(&corner, "everywhere").await;
    let everywhere = crate::postgres_support::credential_of(&corner.name("one"), "everywhere");
    assert_eq!(probe(&target, &everywhere).await, Probe::Accepted);
}
