//! Several servers, which share their users or not.

use rekeyd::failure::FailureClass;
use rekeyd::target::{Extent, Probe};

use super::{ADMIN, PASSWORD, SHORT, name, one, spec, target};
use crate::clickhouse_contract::{Step, done, install, new, probe, retire};
use crate::clickhouse_server::{Clickhouse, Fault};

async fn two() -> [Clickhouse; 2] {
    let servers = [Clickhouse::start(ADMIN, PASSWORD).await, Clickhouse::start(ADMIN, PASSWORD).await];
    servers.iter().for_each(|server| server.make("app_one"));
    servers
}

#[tokio::test]
async fn every_node_is_changed_and_asked() {
    let servers = two().await;
    let target = target(spec(&[servers[0].port, servers[1].port], one()));
    let (first, second) = (new(&name("app_one")), new(&name("app_one")));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(install(&target, &step, &second, Some(&first)).await);
    retire(&target, &step, &name("app_one"), Extent::OtherValues, Some(&second)).await.expect("retired");
    for server in &servers {
        assert_eq!(server.user("app_one").ways.len(), 1);
        assert_eq!(server.profiles_of("app_one").len(), 1);
    }
    assert_eq!(probe(&target, &first).await, Probe::Refused);
    assert_eq!(probe(&target, &second).await, Probe::Accepted);
}

#[tokio::test]
async fn a_node_that_is_down_leaves_all_as_they_were() {
    let [one_server, other] = two().await;
    let target = target(spec(&[one_server.port, other.port], one()));
    other.fault("SELECT version()", Fault::LoseRequest);
    let failure = install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(one_server.tables().changes.is_empty());
}

/// Two ways to one server: what was done over the first is found done over the second.
#[tokio::test]
async fn nodes_that_have_their_users_in_common_are_changed_once() {
    let [server, _] = two().await;
    let proxy = crate::clickhouse_server::Relay::start(server.port).await;
    let target = target(spec(&[server.port, proxy.port], one()));
    let (first, second) = (new(&name("app_one")), new(&name("app_one")));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    done(install(&target, &step, &second, Some(&first)).await);
    retire(&target, &step, &name("app_one"), Extent::OtherValues, Some(&second)).await.expect("retired");
    let changes = server.tables().changes.clone();
    let identified = changes.iter().filter(|change| change.contains("IDENTIFIED WITH"));
    assert_eq!(identified.count(), 3, "{changes:#?}");
    assert!(proxy.relayed() > 2, "the second node was asked");
    assert_eq!(probe(&target, &first).await, Probe::Refused);
    assert_eq!(probe(&target, &second).await, Probe::Accepted);
}

/// What came over one node only may work, and the other one may be asked next.
#[tokio::test]
async fn what_one_node_has_alone_is_no_verdict() {
    let [one_server, other] = two().await;
    let both = target(spec(&[one_server.port, other.port], one())).with_deadlines(SHORT);
    let candidate = new(&name("app_one"));
    let step = Step::new(1);
    other.fault("CREATE SETTINGS PROFILE", Fault::Error(497));
    let failure = install(&both, &step, &candidate, None).await.expect_err("installed");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "the first one has it: {failure}");
    let unfit = probe(&both, &candidate).await;
    assert!(
        matches!(&unfit, Probe::Unfit(failure) if failure.reason().contains("first one accepts")),
        "{unfit:?}"
    );
    let turned = target(spec(&[other.port, one_server.port], one()));
    let unfit = probe(&turned, &candidate).await;
    assert!(
        matches!(&unfit, Probe::Unfit(failure) if failure.reason().contains("first one refuses")),
        "{unfit:?}"
    );
    done(install(&both, &step, &candidate, None).await);
    assert_eq!(probe(&both, &candidate).await, Probe::Accepted);
    one_server.fault("SELECT currentUser()", Fault::Silence);
    let unknown = probe(&both, &candidate).await;
    assert!(matches!(unknown, Probe::Unknown(_)), "{unknown:?}");
}
