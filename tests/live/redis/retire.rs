//! Ending what an outgoing value lets in.

use rekeyd::failure::FailureClass;
use rekeyd::target::{Extent, Probe, ProbeDepth, Retired, Target as _};

use super::{install, on_each_server, remedy, retire};
use crate::postgres_support::{Try, credential_of, text};
use crate::redis_support::{Kind, World, command, hash};
use crate::target_contract::Open as _;

on_each_server! {
    sessions_end_on_every_node_whatever_they_are_doing
    a_session_that_comes_after_the_removal_lives
    whoever_let_everybody_in_meanwhile_does_not_lock_the_readers_out
    a_user_as_a_whole_is_closed
    an_admin_that_may_not_end_sessions_is_told_so
    an_undo_takes_back_what_its_attempt_installed_and_nothing_else
}

async fn sessions_end_on_every_node_whatever_they_are_doing(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let step = Try::new(2);
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    let mut sessions = Vec::new();
    for number in 0..12 {
        let mut session = world.connect(number % 2, &old).await.expect("a session");
        if number % 3 == 0 {
            command("MULTI").exec_async(&mut session).await.expect("a transaction");
        }
        sessions.push(session);
    }
    let queue = format!("{}:queue", world.user().as_str().trim_end_matches("_app"));
    let mut blocked = world.connect(0, &old).await.expect("a session");
    let waits = tokio::spawn(async move {
        command(&format!("BLPOP {queue} 0")).query_async::<redis::Value>(&mut blocked).await
    });
    let id = format!("user={}", world.user());
    crate::postgres_support::soon("it waits", async || {
        let list: String = world.run(0, "CLIENT LIST").await;
        list.lines().any(|line| line.contains(&id) && line.contains("cmd=blpop"))
    })
    .await;
    let mut other = world.servers.root(1).await;

    let retired = retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 13 }));
    waits.await.expect("joined").expect_err("it was cut off");
    for mut session in sessions {
        assert!(!session.lives().await);
    }
    assert!(other.lives().await, "another user's");
    assert_eq!(target.usage(&world.user()).await.expect("usage").sessions, []);
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
}

async fn a_session_that_comes_after_the_removal_lives(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let step = Try::new(2);
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    // Readers come and go all the time, with the value that stays.
    let coming = async {
        let mut last = None;
        for _ in 0..40 {
            last = Some(world.connect(0, &new).await.expect("the new value works throughout"));
        }
        last
    };
    let user = world.user();
    let (last, retired) =
        tokio::join!(coming, retire(&target, &step, Extent::OtherValues, Some(&new), &user));
    retired.expect("retired");
    // It may have begun before the removal; what comes now did not.
    drop(last);
    let mut reader = world.connect(0, &new).await.expect("a session");
    assert!(reader.lives().await);
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
}

async fn whoever_let_everybody_in_meanwhile_does_not_lock_the_readers_out(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let step = Try::new(2);
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    world.everywhere("ACL SETUSER {p}_app nopass").await;
    retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await.expect("retired");
    assert_eq!(target.probe(&old, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(target.probe(&new, ProbeDepth::Check).await, Probe::Accepted);
}

async fn a_user_as_a_whole_is_closed(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let one = world.credential();
    let step = Try::new(1);
    install(&target, &step, &one, None).await.expect("installed");
    let mut session = world.connect(1, &one).await.expect("a session");
    let retired = retire(&target, &step, Extent::Principal, None, &world.user()).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 1 }));
    assert!(!session.lives().await);
    assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Refused);
    world.everywhere("ACL SETUSER {p}_app on").await;
    assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Refused, "its value is gone, too");
    let moment = Extent::SessionsBefore(jiff::Timestamp::MAX);
    let failure = retire(&target, &step, moment, None, &world.user()).await.expect_err("there is none");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
}

async fn an_admin_that_may_not_end_sessions_is_told_so(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let step = Try::new(2);
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    let mut session = world.connect(0, &old).await.expect("a session");
    world.everywhere("ACL SETUSER {p}_admin -client|kill").await;
    let failure = retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await;
    let failure = failure.expect_err("it may not");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(remedy(&failure).contains("+client"), "{failure:?}");
    assert!(session.lives().await);
    world.everywhere("ACL SETUSER {p}_admin +client|kill").await;
    let retired = retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await;
    assert_eq!(
        retired,
        Ok(Retired::Done { sessions_closed: 1 }),
        "repeating it ends what the first could not"
    );
}

async fn an_undo_takes_back_what_its_attempt_installed_and_nothing_else(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (old, new) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let step = Try::new(2);
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    let by_hand = credential_of(&world.user(), "set by hand in the meantime");
    world.everywhere(&format!("ACL SETUSER {{p}}_app #{}", hash(text(&by_hand)))).await;
    retire(&target, &step, Extent::Attempt, Some(&old), &world.user()).await.expect("undone");
    for node in 0..2 {
        let mut expected = vec![hash(text(&old)), hash(text(&by_hand))];
        let mut found = world.values(node).await;
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }
}
