//! Servers that refuse, answers that are lost or are none, processes that die, and requests that come late.

use rekeyd::failure::FailureClass;
use rekeyd::ident::Fence;
use rekeyd::policy::spec::{TlsMode, TlsSpec};
use rekeyd::target::{Extent, Installed, Probe, Target as _};

use super::{ADMIN, SHORT, dual, name, one, pair, spec, target};
use crate::clickhouse_contract::preflight::{failed, only};
use crate::clickhouse_contract::{Step, done, install, new, probe, retire, turn};
use crate::clickhouse_server::Fault;

#[tokio::test]
async fn what_the_admin_may_not_do_is_denied() {
    let (server, target) = dual().await;
    for right in ["ALTER USER", "CREATE SETTINGS PROFILE"] {
        server.tables().users.get_mut(ADMIN).expect("the admin").rights.remove(right);
        let failure =
            install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
        assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains(right)), "{failure:?}");
        server.tables().users.get_mut(ADMIN).expect("the admin").rights.insert(right.into());
    }
    // Who replaces a user drops one.
    let (other, pair) = pair().await;
    let first = new(&name("app_a"));
    let step = Step::new(1);
    done(install(&pair, &step, &first, None).await);
    other.say("REVOKE DROP USER ON *.* FROM rekeyd");
    let failure = retire(&pair, &step, &first.principal, Extent::Principal, None).await.expect_err("retired");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("DROP USER")), "{failure:?}");
    assert_eq!(probe(&pair, &first).await, Probe::Accepted);

    server.tables().users.get_mut(ADMIN).expect("the admin").ways.clear();
    let failure = install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.reason().contains("refuses the admin credential"), "{failure}");
}

#[tokio::test]
async fn users_of_a_configuration_file_are_refused_with_what_to_do() {
    let (server, target) = dual().await;
    server.tables().users.get_mut("app_one").expect("the user").storage = "users_xml".into();
    let failure = install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("users.xml")), "{failure:?}");
    let subject = "user app_one";
    only(&failed(&target, None).await, subject, "cannot be changed by a statement", "users.xml");
    // One that is not there could not be made either.
    let (other, pair) = pair().await;
    other.tables().directories = vec!["users_xml".into(), "ldap".into()];
    only(&failed(&pair, None).await, "user app_a", "cannot be changed by a statement", "users.xml");
    // One of a storage with another name, or none that takes a user at all.
    server.tables().users.get_mut("app_one").expect("the user").storage = "local_directory".into();
    for code in [495, 514, 36, 62] {
        server.fault("ALTER USER", Fault::Error(code));
        let failure =
            install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    }
}

#[tokio::test]
async fn an_old_server_is_told_to_be_upgraded() {
    let (server, target) = dual().await;
    for version in ["24.11.3.66", "18.16.1", "23.8", "?"] {
        server.tables().version = version.into();
        let failure =
            install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.reason().contains("too old"), "{failure}");
    }
    assert!(server.tables().changes.is_empty());
    server.tables().version = "24.12.1.1".into();
    done(install(&target, &Step::new(1), &new(&name("app_one")), None).await);
}

/// Only the server's own number is a verdict on a value.
#[tokio::test]
async fn nothing_but_a_refused_login_is_a_refusal() {
    let (server, target) = dual().await;
    let target = target.with_deadlines(SHORT);
    let candidate = new(&name("app_one"));
    done(install(&target, &Step::new(1), &candidate, None).await);
    for fault in [
        Fault::Page(403),
        Fault::Page(401),
        Fault::Page(200),
        Fault::Page(502),
        Fault::LoseRequest,
        Fault::LoseReply,
        Fault::Silence,
        Fault::Huge,
        Fault::Error(201),
        Fault::Error(202),
        Fault::Error(241),
        Fault::Error(497),
        Fault::Error(720),
        Fault::Error(192),
    ] {
        server.fault("SELECT currentUser()", fault);
        let answer = probe(&target, &candidate).await;
        assert!(matches!(answer, Probe::Unknown(_)), "{fault:?}: {answer:?}");
        assert!(!server.is_spared());
    }
    assert_eq!(probe(&target, &new(&name("app_one"))).await, Probe::Refused);
    assert_eq!(probe(&target, &candidate).await, Probe::Accepted);
    let port = server.port;
    drop(server);
    let gone = probe(&target, &candidate).await;
    assert!(matches!(gone, Probe::Unknown(_)), "nobody listens at {port}: {gone:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_talked_to() {
    let (server, _) = dual().await;
    let mut spec = spec(&[server.port], one());
    spec.tls = TlsSpec { mode: TlsMode::VerifyFull, ca_file: None, allow_plaintext: false };
    let target = target(spec).with_deadlines(SHORT);
    let failure = install(&target, &Step::new(1), &new(&name("app_one")), None).await.expect_err("installed");
    assert!(failure.class().is_certain(), "{failure}");
    assert!(matches!(probe(&target, &new(&name("app_one"))).await, Probe::Unknown(_)));
    assert!(server.tables().seen.is_empty(), "no login went over the wire");
}

/// Before anything was changed, the failure is certain; after that it is not.
#[tokio::test]
async fn an_answer_that_is_none_is_told_as_what_it_may_have_done() {
    let (server, target) = dual().await;
    let target = target.with_deadlines(SHORT);
    let candidate = new(&name("app_one"));
    for (fault, class) in [
        (Fault::Page(200), FailureClass::Invalid),
        (Fault::Page(503), FailureClass::Unavailable),
        (Fault::LoseReply, FailureClass::Unavailable),
        (Fault::Silence, FailureClass::Unavailable),
        (Fault::Huge, FailureClass::Unavailable),
        (Fault::Error(241), FailureClass::Unavailable),
    ] {
        server.fault("SHOW CREATE USER", fault);
        let failure = install(&target, &Step::new(1), &candidate, None).await.expect_err("installed");
        assert_eq!(failure.class(), class, "{fault:?}: {failure}");
    }
    assert!(server.tables().changes.is_empty());
    let step = Step::new(1);
    for fault in [
        Fault::Page(200),
        Fault::Page(502),
        Fault::Page(403),
        Fault::LoseRequest,
        Fault::LoseReply,
        Fault::Silence,
        Fault::Error(999),
        Fault::Error(159),
    ] {
        server.fault("IDENTIFIED WITH", fault);
        let failure = install(&target, &step, &candidate, None).await.expect_err("installed");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("SALT"), "{failure}");
        done(install(&target, &step, &candidate, None).await);
        assert_eq!(server.user("app_one").ways.len(), 1);
        assert_eq!(probe(&target, &candidate).await, Probe::Accepted);
        // Once more from the start.
        server.tables().profiles.clear();
        server.make("app_one");
    }
}

/// Whatever is lost, and wherever a process dies: the value in force goes on working, and the next one gets there.
#[tokio::test]
async fn a_rotation_survives_a_death_at_each_change() {
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        let mut deaths = 0;
        for at in 0.. {
            let (server, target) = dual().await;
            let (first, second) = (new(&name("app_one")), new(&name("app_one")));
            done(install(&target, &Step::new(1), &first, None).await);
            let step = Step::new(2);
            server.fault_at(at, fault);
            let (mut installed, mut retired) = (false, false);
            while !retired {
                let tried = if installed {
                    let outcome =
                        retire(&target, &step, &name("app_one"), Extent::OtherValues, Some(&second)).await;
                    retired = outcome.is_ok();
                    outcome.map(drop)
                } else {
                    let outcome = install(&target, &step, &second, Some(&first)).await;
                    installed = outcome.is_ok();
                    outcome.map(drop)
                };
                if let Err(failure) = tried {
                    assert_eq!(failure.class(), FailureClass::Ambiguous, "{at}: {failure}");
                    deaths += 1;
                    if !installed {
                        assert_eq!(
                            probe(&target, &first).await,
                            Probe::Accepted,
                            "{at}: its readers are out"
                        );
                    }
                }
                if installed {
                    assert_eq!(probe(&target, &second).await, Probe::Accepted, "{at}");
                }
            }
            assert_eq!(probe(&target, &first).await, Probe::Refused, "{at}");
            assert_eq!(server.user("app_one").ways.len(), 1, "{at}");
            assert_eq!(server.profiles_of("app_one").len(), 1, "{at}");
            if server.is_spared() {
                break;
            }
        }
        assert_eq!(deaths, 7, "{fault:?}: six changes of an install, and one of a retire");
    }
}

#[tokio::test]
async fn a_turn_survives_a_death_at_each_change() {
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        let mut deaths = 0;
        for at in 0.. {
            let (server, target) = pair().await;
            let (first, second, third) = (new(&name("app_a")), new(&name("app_b")), new(&name("app_a")));
            done(install(&target, &Step::new(1), &first, None).await);
            server.say("GRANT SELECT ON shop.* TO rekeyd WITH GRANT OPTION");
            server.say("GRANT SELECT ON shop.* TO app_a");
            let step = Step::new(2);
            server.fault_at(at, fault);
            let mut tries = 0;
            loop {
                tries += 1;
                let outcome = match turn(&target, &step, &second, &name("app_a")).await {
                    Ok(_) => retire(&target, &step, &name("app_a"), Extent::Principal, None).await.map(drop),
                    Err(failure) => Err(failure),
                };
                let Err(failure) = outcome else { break };
                assert_eq!(failure.class(), FailureClass::Ambiguous, "{at}: {failure}");
                deaths += 1;
                assert!(tries < 3, "{at}: it does not get there");
            }
            assert_eq!(probe(&target, &second).await, Probe::Accepted, "{at}");
            assert_eq!(probe(&target, &first).await, Probe::Refused, "{at}");
            assert_eq!(
                server.user("app_b").grants,
                ["GRANT SELECT ON shop.* TO {}", "GRANT app_group TO {}"],
                "{at}"
            );
            let spared = server.is_spared();
            // And back: whatever the retired one lost is given to it again.
            done(turn(&target, &Step::new(3), &third, &name("app_b")).await);
            assert_eq!(server.user("app_a").grants, server.user("app_b").grants, "{at}");
            assert_eq!(probe(&target, &third).await, Probe::Accepted, "{at}");
            if spared {
                break;
            }
        }
        assert!(deaths > 12, "{fault:?}: only {deaths} deaths");
    }
}

/// Whatever of an install had been done when it was given up is undone, and the rest of it is barred.
#[tokio::test]
async fn an_install_is_undone_from_wherever_it_died() {
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        for at in 0.. {
            let (server, target) = dual().await;
            let (first, second) = (new(&name("app_one")), new(&name("app_one")));
            done(install(&target, &Step::new(1), &first, None).await);
            let step = Step::new(2);
            server.fault_at(at, fault);
            let _ = install(&target, &step, &second, Some(&first)).await;
            let spared = server.is_spared();
            retire(&target, &step, &name("app_one"), Extent::Attempt, Some(&first)).await.expect("undone");
            assert_eq!(probe(&target, &first).await, Probe::Accepted, "{at}");
            assert_eq!(probe(&target, &second).await, Probe::Refused, "{at}");
            let late = install(&target, &step, &second, Some(&first)).await;
            assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(2) }), "{at}");
            if spared {
                break;
            }
        }
    }
}

/// A process lost its claim while a request of its was on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_late_changes_nothing() {
    for late in ["IDENTIFIED WITH", "ADD PROFILES", "DROP SETTINGS PROFILE"] {
        let (server, target) = dual().await;
        let (first, old, new_one) = (new(&name("app_one")), new(&name("app_one")), new(&name("app_one")));
        done(install(&target, &Step::new(1), &first, None).await);
        let (server, target) = (std::sync::Arc::new(server), std::sync::Arc::new(target));
        server.fault(late, Fault::Hold);
        let step = Step::new(2);
        let slow = {
            let (target, old, first) = (target.clone(), old.duplicate(), first.duplicate());
            tokio::spawn(async move { install(&target, &step, &old, Some(&first)).await })
        };
        server.held().await;
        let later = Step::new(3);
        done(install(&target, &later, &new_one, Some(&first)).await);
        server.release();
        let outcome = slow.await.expect("no panic");
        assert_eq!(outcome, Ok(Installed::Superseded { by: Fence::new(3) }), "{late}");
        assert_eq!(probe(&target, &old).await, Probe::Refused, "{late}");
        for credential in [&first, &new_one] {
            assert_eq!(probe(&target, credential).await, Probe::Accepted, "{late}");
        }
        retire(&target, &later, &name("app_one"), Extent::OtherValues, Some(&new_one))
            .await
            .expect("retired");
        assert_eq!(server.user("app_one").ways.len(), 1, "{late}");
    }
}

#[tokio::test]
async fn the_admin_is_not_changed_as_itself() {
    let (server, _) = dual().await;
    let own = rekeyd::policy::spec::DualPasswordSpec { user: name(ADMIN) };
    let target = target(spec(&[server.port], rekeyd::policy::spec::ClickhouseStrategy::DualPassword(own)));
    let failure = install(&target, &Step::new(1), &new(&name(ADMIN)), None).await.expect_err("installed");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(target.usage(&name(ADMIN)).await.is_err());
    assert!(server.tables().seen.is_empty());
}
