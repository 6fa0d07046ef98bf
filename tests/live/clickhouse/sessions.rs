//! Connections of the native protocol, which log in once.

use rekeyd::target::Extent;

use crate::clickhouse_contract::{Step, World as _, done, install, making, new, retire, turn};
use crate::clickhouse_nodes::Corner;

/// It is another user of the same name from then on, and nothing can be asked as the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_retired_user_of_a_pair_takes_its_idle_connections_along() {
    let corner = Corner::on_one().await;
    let target = corner.target(corner.pair());
    let (first, second) = (new(&corner.name("a")), new(&corner.name("b")));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(turn(&target, &step, &second, &first.principal).await);
    let idle = [corner.connect(&first).await, corner.connect(&first).await, corner.connect(&second).await];
    let [before, after, peer] = idle.map(|idle| idle.expect("it is let in"));
    assert!(before.answers().await);
    retire(&target, &step, &first.principal, Extent::Principal, None).await.expect("retired");
    assert!(!after.answers().await, "it still asks as who was retired");
    assert!(peer.answers().await, "the peer is in use and left alone");
    assert!(corner.connect(&first).await.is_none());
    assert!(corner.connect(&second).await.is_some());
}

/// As SECURITY.md says: with one user nothing can be done about it but to close it at its client or by a timeout.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_outlives_one_of_two_values() {
    let corner = Corner::on_one().await;
    corner.say(&making("{p}_one")).await;
    let target = corner.target(corner.dual());
    let one = corner.name("one");
    let (first, second) = (new(&one), new(&one));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(install(&target, &step, &second, Some(&first)).await);
    let idle = corner.connect(&first).await.expect("it is let in");
    retire(&target, &step, &one, Extent::OtherValues, Some(&second)).await.expect("retired");
    assert!(corner.connect(&first).await.is_none(), "nobody logs in with it again");
    assert!(idle.answers().await, "the engine ends such connections: say so, and rely on it");
}
