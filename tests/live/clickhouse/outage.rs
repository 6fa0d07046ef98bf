//! Requests and answers that are lost on the way to a real engine.

use rekeyd::failure::FailureClass;
use rekeyd::target::clickhouse::ClickhouseTarget;
use rekeyd::target::{Extent, Installed, Probe};

use crate::clickhouse_contract::{Step, World as _, done, install, making, new, probe, retire, turn};
use crate::clickhouse_nodes::Corner;
use crate::proxy::{Fault, Proxy};

/// A target that is reached through somebody who loses something.
async fn through(
    corner: &Corner,
    is_pair: bool,
    trigger: &'static str,
    fault: Fault,
) -> (ClickhouseTarget, Proxy) {
    let proxy = Proxy::start(("127.0.0.1", corner.servers.port(0)), trigger, fault).await;
    let mut spec = if is_pair { corner.pair() } else { corner.dual() };
    spec.nodes[0].port = proxy.port;
    (corner.target(spec), proxy)
}

/// Every change that an install makes, and what a repetition and a retreat make of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_change_is_in_doubt_and_can_be_repeated_or_undone() {
    let corner = Corner::on_one().await;
    corner.say(&making("{p}_one")).await;
    let direct = corner.target(corner.dual());
    let one = corner.name("one");
    let mut current = new(&one);
    done(install(&direct, &Step::new(1), &current, None).await);
    let mut fence = 2;
    for trigger in ["CREATE SETTINGS PROFILE", "ADD PROFILES", "DROP SETTINGS PROFILE", "IDENTIFIED WITH"] {
        for fault in [Fault::LoseRequest, Fault::LoseReply] {
            let at = format!("{trigger} {fault:?}");
            let (lossy, proxy) = through(&corner, false, trigger, fault).await;
            let (step, candidate) = (Step::new(fence), new(&one));
            let failure = install(&lossy, &step, &candidate, Some(&current)).await.expect_err("lost");
            assert_eq!(proxy.faults(), 1, "{at}");
            assert_eq!(failure.class(), FailureClass::Ambiguous, "{at}: {failure}");
            assert_eq!(probe(&direct, &current).await, Probe::Accepted, "{at}: its readers are out");
            done(install(&direct, &step, &candidate, Some(&current)).await);
            retire(&direct, &step, &one, Extent::OtherValues, Some(&candidate)).await.expect("retired");
            assert_eq!(probe(&direct, &candidate).await, Probe::Accepted, "{at}");
            assert_eq!(probe(&direct, &current).await, Probe::Refused, "{at}");
            let (ways, profiles) = corner.kept("one").await;
            assert_eq!((ways, profiles.len()), (1, 1), "{at}: {profiles:?}");
            current = candidate;

            let (lossy, _proxy) = through(&corner, false, trigger, fault).await;
            let (step, candidate) = (Step::new(fence + 1), new(&one));
            install(&lossy, &step, &candidate, Some(&current)).await.expect_err("lost");
            retire(&direct, &step, &one, Extent::Attempt, Some(&current)).await.expect("undone");
            let late = install(&direct, &step, &candidate, Some(&current)).await;
            assert!(matches!(late, Ok(Installed::Superseded { .. })), "{at}: {late:?}");
            assert_eq!(probe(&direct, &candidate).await, Probe::Refused, "{at}");
            assert_eq!(probe(&direct, &current).await, Probe::Accepted, "{at}");
            fence += 2;
        }
    }
}

/// Where a user is made anew, it may be there and lack what it is to have.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_was_half_made_is_made_to_its_end() {
    let corner = Corner::on_one().await;
    let direct = corner.target(corner.pair());
    let names = [corner.name("a"), corner.name("b")];
    let mut current = new(&names[0]);
    done(install(&direct, &Step::new(1), &current, None).await);
    corner.say("ALTER USER {p}_a DEFAULT ROLE {p}_group").await;
    let (shape, mut fence) = (corner.shape("a").await, 2);
    for trigger in ["CREATE USER IF NOT EXISTS", "CREATE USER OR REPLACE", "GRANT ", "DEFAULT ROLE"] {
        for fault in [Fault::LoseRequest, Fault::LoseReply] {
            let at = format!("{trigger} {fault:?}");
            let spare = usize::from(current.principal == names[0]);
            let (lossy, proxy) = through(&corner, true, trigger, fault).await;
            corner.say(&format!("DROP USER IF EXISTS {}", names[spare])).await;
            let (step, candidate) = (Step::new(fence), new(&names[spare]));
            let failure = turn(&lossy, &step, &candidate, &current.principal).await.expect_err("lost");
            assert_eq!(proxy.faults(), 1, "{at}");
            assert_eq!(failure.class(), FailureClass::Ambiguous, "{at}: {failure}");
            assert_eq!(
                probe(&direct, &candidate).await,
                Probe::Refused,
                "{at}: it is open before it is whole"
            );
            done(turn(&direct, &step, &candidate, &current.principal).await);
            assert_eq!(corner.shape(["a", "b"][spare]).await, shape, "{at}");
            assert_eq!(probe(&direct, &candidate).await, Probe::Accepted, "{at}");
            fence += 1;
            retire(&direct, &step, &current.principal, Extent::Principal, None).await.expect("retired");
            assert_eq!(probe(&direct, &current).await, Probe::Refused, "{at}");
            current = candidate;
        }
    }
}
