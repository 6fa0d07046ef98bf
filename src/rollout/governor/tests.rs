//! Who restarts when.

use serde_json::json;

use super::*;
use crate::policy::spec::WorkloadKind;

const V2: Version = Version::new(2);
const V7: Version = Version::new(7);

fn governor(rollouts: u16, restarting_pods: u16) -> Arc<Governor> {
    Arc::new(Governor::new(LimitSettings { rollouts, restarting_pods, ..LimitSettings::default() }))
}

fn turns(governor: &Arc<Governor>, secret: &str) -> Turns {
    let cluster = "main".parse().expect("a name");
    Turns::new(Arc::clone(governor), cluster, "orders".into(), names(secret))
}

fn names(secret: &str) -> Names {
    Names::new(&secret.parse().expect("a name"), false)
}

fn room(pods: usize) -> Room {
    Room { pods, ..Room::default() }
}

fn enter(
    turns: &Turns,
    name: &str,
    version: Version,
    pods: usize,
    is_urgent: bool,
) -> Result<Vec<(Names, Version)>, Wait> {
    turns.enter(&app(name), version, &room(pods), is_urgent, |_| None)
}

fn app(name: &str) -> WorkloadName {
    WorkloadName { kind: WorkloadKind::Deployment, name: name.parse().expect("a name") }
}

#[tokio::test]
async fn no_more_restart_at_once_than_may() {
    let governor = governor(2, 10);
    let turns = turns(&governor, "db");
    assert!(enter(&turns, "a", V2, 3, false).is_ok());
    assert!(enter(&turns, "b", V2, 3, false).is_ok());
    assert_eq!(enter(&turns, "c", V2, 3, false), Err(Wait::Turn(2)));
    // Who restarts already has its turn, and what is urgent does not wait.
    assert!(enter(&turns, "a", V2, 3, false).is_ok());
    assert!(enter(&turns, "d", V2, 3, true).is_ok());
    turns.leave(&app("d"));
    turns.leave(&app("a"));
    assert!(enter(&turns, "c", V2, 3, false).is_ok());
}

#[tokio::test]
async fn pods_count_and_one_workload_may_have_more_than_all() {
    let governor = governor(9, 10);
    let turns = turns(&governor, "db");
    assert!(enter(&turns, "large", V2, 100, false).is_ok());
    assert_eq!(enter(&turns, "small", V2, 1, false), Err(Wait::Turn(1)));
    turns.leave(&app("large"));
    assert!(enter(&turns, "small", V2, 6, false).is_ok());
    assert_eq!(enter(&turns, "other", V2, 6, false), Err(Wait::Turn(1)));
    drop(turns);
    assert!(enter(&self::turns(&governor, "db"), "other", V2, 6, false).is_ok());
}

#[tokio::test]
async fn who_came_first_has_the_first_turn() {
    let governor = governor(9, 10);
    let turns = turns(&governor, "db");
    assert!(enter(&turns, "a", V2, 4, false).is_ok());
    assert_eq!(enter(&turns, "large", V2, 9, false), Err(Wait::Turn(1)));
    assert_eq!(enter(&turns, "small", V2, 1, false), Err(Wait::Turn(1)), "it came later");
    turns.leave(&app("a"));
    assert_eq!(enter(&turns, "small", V2, 1, false), Err(Wait::Turn(0)));
    assert!(enter(&turns, "large", V2, 9, false).is_ok());
    assert!(enter(&turns, "small", V2, 1, false).is_ok());
    // Who went away is waited for by nobody.
    let others = self::turns(&governor, "others");
    assert_eq!(enter(&others, "huge", V2, 99, false), Err(Wait::Turn(2)));
    turns.leave(&app("small"));
    assert_eq!(enter(&turns, "b", V2, 1, false), Err(Wait::Turn(1)));
    drop(others);
    assert!(enter(&turns, "b", V2, 1, false).is_ok());
}

#[tokio::test]
async fn what_does_not_end_in_time_gives_its_turn_up() {
    let governor = governor(1, 10);
    let turns = turns(&governor, "db");
    assert!(enter(&turns, "stuck", V2, 1, false).is_ok());
    assert_eq!(enter(&turns, "b", V2, 1, false), Err(Wait::Turn(1)));
    turns.give_up(&app("stuck"));
    turns.give_up(&app("stuck"));
    assert!(enter(&turns, "b", V2, 1, false).is_ok());
    // It does not come back by being looked at, and leaves nothing behind.
    turns.rolls(&app("stuck"), &room(1));
    turns.leave(&app("b"));
    turns.leave(&app("stuck"));
    assert!(governor.state().rolling.is_empty() && governor.state().intents.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_may_be_about_to_open_beside_it_is_waited_for() {
    let governor = governor(9, 10);
    let (one, other) = (turns(&governor, "one"), turns(&governor, "other"));
    let policy: PolicyName = "orders/other".parse().expect("a name");
    let spec = json!({"kubernetes": {"namespace": "orders", "secret": "other"}});
    let reader: ConsumerSpec = serde_json::from_value(spec).expect("a consumer");
    let abroad = json!({"kubernetes": {"namespace": "abroad", "secret": "other"}});
    let abroad: ConsumerSpec = serde_json::from_value(abroad).expect("a consumer");

    let expected = governor.expect(&policy, std::slice::from_ref(&reader));
    assert_eq!(enter(&one, "a", V2, 1, false), Err(Wait::Company));
    assert!(enter(&one, "urgent", V2, 1, true).is_ok());
    other.announce(&app("b"));
    other.arrive(&policy);
    assert!(enter(&one, "a", V2, 1, false).is_ok());
    assert_eq!(enter(&one, "b", V2, 1, false), Err(Wait::Company));
    drop(expected);

    // Neither one that comes to nothing, nor one that never comes to anything, nor one elsewhere.
    drop(governor.expect(&policy, std::slice::from_ref(&reader)));
    assert!(enter(&one, "c", V2, 1, false).is_ok());
    let elsewhere = governor.expect(&policy, &[abroad]);
    assert!(enter(&one, "d", V2, 1, false).is_ok());
    drop(elsewhere);
    let hangs = governor.expect(&policy, std::slice::from_ref(&reader));
    assert_eq!(enter(&one, "e", V2, 1, false), Err(Wait::Company));
    tokio::time::advance(COMPANY).await;
    assert!(enter(&one, "e", V2, 1, false).is_ok());
    // Two look at it, and one comes to nothing; its other Secret is still to come, too.
    let third: ConsumerSpec =
        serde_json::from_value(json!({"kubernetes": {"namespace": "orders", "secret": "third"}}))
            .expect("a consumer");
    let looks = [
        governor.expect(&policy, std::slice::from_ref(&reader)),
        governor.expect(&policy, &[reader.clone(), third]),
    ];
    let [first, second] = looks;
    drop(first);
    assert_eq!(enter(&one, "f", V2, 1, false), Err(Wait::Company));
    other.arrive(&policy);
    assert_eq!(enter(&one, "f", V2, 1, false), Err(Wait::Company));
    // One that comes to nothing again and again holds a version back once.
    tokio::time::advance(COMPANY).await;
    let again = governor.expect(&policy, &[reader]);
    assert_eq!(enter(&one, "g", V2, 1, false), Err(Wait::Company));
    assert!(enter(&one, "f", V2, 1, false).is_ok());
    drop((second, hangs, again));
    assert!(governor.state().expected.is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_secrets_of_one_workload_are_one_restart() {
    let governor = governor(9, 10);
    let (one, other) = (turns(&governor, "one"), turns(&governor, "other"));
    one.announce(&app("a"));
    other.announce(&app("a"));
    assert_eq!(enter(&one, "a", V2, 1, false), Err(Wait::Company));
    let both = vec![(names("one"), V2), (names("other"), V7)];
    assert_eq!(enter(&other, "a", V7, 1, false), Ok(both.clone()));
    assert_eq!(enter(&one, "a", V2, 1, false), Ok(both));
    // Who never comes is not waited for for ever, and who gave up not at all.
    let third = turns(&governor, "third");
    third.announce(&app("b"));
    assert_eq!(enter(&one, "b", V2, 1, false), Err(Wait::Company));
    tokio::time::advance(COMPANY).await;
    assert_eq!(enter(&one, "b", V2, 1, false), Ok(vec![(names("one"), V2)]));
    third.announce(&app("c"));
    assert_eq!(enter(&one, "c", V2, 1, false), Err(Wait::Company));
    drop(third);
    assert!(enter(&one, "c", V2, 1, false).is_ok());
}

/// Whoever looks at a budget sees what restarts beside it, whichever policy it is for.
#[tokio::test]
async fn what_restarts_for_others_is_held_against_a_budget() {
    let governor = governor(9, 10);
    let (one, other) = (turns(&governor, "one"), turns(&governor, "other"));
    let takes = |labels: &[(&str, &str)]| Room {
        pods: 2,
        takes: 1,
        labels: labels.iter().map(|(key, value)| (String::from(*key), String::from(*value))).collect(),
        ..Room::default()
    };
    let shop = takes(&[("tier", "shop")]);
    let alone = |others: &[(&WorkloadName, &Room)]| {
        let taken: i64 = others.iter().map(|(_, room)| room.takes).sum();
        (taken > 0).then(|| "waits for a budget".to_owned())
    };
    assert!(one.enter(&app("a"), V2, &shop, false, alone).is_ok());
    let waits = Err(Wait::Limit("waits for a budget".to_owned()));
    assert_eq!(other.enter(&app("b"), V7, &shop, false, alone), waits);
    assert!(one.enter(&app("a"), V2, &shop, false, alone).is_ok(), "it is no other");
    assert!(other.enter(&app("c"), V7, &shop, true, alone).is_ok(), "it is urgent");
    other.leave(&app("c"));
    one.leave(&app("a"));
    assert!(other.enter(&app("b"), V7, &shop, false, alone).is_ok());
}

#[tokio::test]
async fn whoever_a_budget_holds_back_holds_nobody_else_back() {
    let governor = governor(1, 10);
    let (one, other) = (turns(&governor, "one"), turns(&governor, "other"));
    assert!(enter(&one, "a", V2, 1, false).is_ok());
    assert_eq!(enter(&one, "b", V2, 1, false), Err(Wait::Turn(1)));
    assert_eq!(enter(&other, "c", V7, 1, false), Err(Wait::Turn(1)));
    one.leave(&app("a"));
    // It was the first to wait, and a budget of it is overdrawn by now.
    let overdrawn = |_: &[(&WorkloadName, &Room)]| Some("waits for a budget".to_owned());
    let waits = Err(Wait::Limit("waits for a budget".to_owned()));
    assert_eq!(one.enter(&app("b"), V2, &room(1), false, overdrawn), waits);
    assert!(enter(&other, "c", V7, 1, false).is_ok());
}
