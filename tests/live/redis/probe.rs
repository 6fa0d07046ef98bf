//! Logins, and what is taken for a verdict.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::{TlsMode, TlsSpec};
use rekeyd::target::redis::Deadlines;
use rekeyd::target::{Probe, ProbeDepth, Target as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{install, on_each_server, remedy};
use crate::postgres_support::Try;
use crate::redis_support::{Kind, Servers, World};

on_each_server! {
    a_value_is_dead_when_the_last_node_refuses_it
    the_check_is_what_the_user_must_be_able_to_do
    what_is_no_verdict_on_the_value_is_unknown
    a_server_that_has_too_many_clients_gives_no_verdict
}

async fn a_value_is_dead_when_the_last_node_refuses_it(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let one = world.credential();
    install(&target, &Try::new(1), &one, None).await.expect("installed");
    world.run::<()>(1, "ACL SETUSER {p}_app resetpass").await;
    assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Accepted);
    let Probe::Unfit(failure) = target.probe(&one, ProbeDepth::Check).await else {
        panic!("a node refuses it")
    };
    assert!(failure.to_string().contains(&world.servers.at.nodes[1].port.to_string()), "{failure}");
    let mut spec = world.spec();
    spec.nodes.reverse();
    for depth in [ProbeDepth::Login, ProbeDepth::Check] {
        let answer = world.target_of(spec.clone()).probe(&one, depth).await;
        assert!(matches!(answer, Probe::Unfit(_)), "a node accepts it: {answer:?}");
    }
    world.everywhere("ACL SETUSER {p}_app off").await;
    assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Refused, "who is off is refused");
}

async fn the_check_is_what_the_user_must_be_able_to_do(kind: Kind) {
    let world = World::shared(kind).await;
    let one = world.credential();
    let mut spec = world.spec();
    install(&world.target(), &Try::new(1), &one, None).await.expect("installed");
    let key = world.user().as_str().replace("_app", ":health");
    for (check, expected) in [
        (&["GET", &key][..], None),
        (&["EXISTS", &key, &key], None),
        (&["GET", "elsewhere"], Some((FailureClass::Denied, "ACL SETUSER"))),
        (&["OBJECT", "ENCODING", &key], None),
        (&["PING"], None),
        (&["GET"], Some((FailureClass::Invalid, "target.redis.check"))),
        // The user may do that.
        (&["SET", &key, "1"], Some((FailureClass::Invalid, "target.redis.check"))),
        (&["incr", &key], Some((FailureClass::Invalid, "target.redis.check"))),
        (&["FLUSHALL"], Some((FailureClass::Invalid, "target.redis.check"))),
        (
            &["EVAL", "return redis.call('SET', KEYS[1], '1')", "1", &key],
            Some((FailureClass::Invalid, "@read")),
        ),
        (&["CONFIG", "GET", "*"], Some((FailureClass::Invalid, "@read"))),
        (&["CLIENT", "KILL", "USER", world.user().as_str()], Some((FailureClass::Invalid, "@read"))),
        (&["SUBSCRIBE", &key], Some((FailureClass::Invalid, "@read"))),
    ] {
        spec.check = check.iter().map(|word| (*word).to_owned()).collect();
        let target = world.target_of(spec.clone());
        assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Accepted, "{check:?}");
        match (target.probe(&one, ProbeDepth::Check).await, expected) {
            (Probe::Accepted, None) => {}
            (Probe::Unfit(failure), Some((class, word))) => {
                assert_eq!(failure.class(), class, "{check:?}: {failure}");
                assert!(remedy(&failure).contains(word), "{check:?}: {failure:?}");
            }
            (answer, _) => panic!("{check:?}: {answer:?}"),
        }
        assert!(!world.run::<bool>(0, &format!("EXISTS {key}")).await, "{check:?} was run");
    }
}

/// Answers every connection in the same way.
async fn answering(answer: &'static [u8], stays: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Some answer before they are asked.
                if stays {
                    let _ = client.read(&mut [0; 1024]).await;
                }
                let _ = client.write_all(answer).await;
                if stays {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    port
}

async fn what_is_no_verdict_on_the_value_is_unknown(kind: Kind) {
    let world = World::shared(kind).await;
    let one = world.credential();
    let deadlines = Deadlines { login: Duration::from_millis(300), ..Deadlines::default() };
    let unavailable = FailureClass::Unavailable;
    let cases: [(&'static [u8], bool, FailureClass); 11] = [
        (b"-LOADING Redis is loading the dataset in memory\r\n", true, unavailable),
        (b"-MASTERDOWN Link with MASTER is down\r\n", true, unavailable),
        (b"-BUSY Redis is busy running a script\r\n", true, unavailable),
        (b"-ERR max number of clients reached\r\n", false, unavailable),
        (b"-ERR max number of clients reached\r\n", true, unavailable),
        (b"-DENIED Redis is running in protected mode\r\n", false, FailureClass::Denied),
        (b"-NOAUTH Authentication required.\r\n", true, FailureClass::Denied),
        (b"-ERR unknown command 'AUTH'\r\n", true, FailureClass::Invalid),
        (b"+PONG\r\n", true, FailureClass::Invalid),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", true, FailureClass::Invalid),
        (b"", true, unavailable),
    ];
    for (answer, stays, class) in cases {
        let mut spec = world.spec();
        spec.nodes.truncate(1);
        spec.nodes[0].port = answering(answer, stays).await;
        let target = world.target_of(spec).with_deadlines(deadlines);
        let told = String::from_utf8_lossy(answer);
        match target.probe(&one, ProbeDepth::Login).await {
            Probe::Unknown(failure) => assert_eq!(failure.class(), class, "{told}: {failure}"),
            verdict => panic!("{told}: {verdict:?}"),
        }
        let failure = install(&target, &Try::new(1), &one, None).await.expect_err("no answer");
        assert_eq!(failure.class(), class, "{told}: {failure}");
    }
}

async fn a_server_that_has_too_many_clients_gives_no_verdict(kind: Kind) {
    let world = World::on(Servers::private(kind, &["--single"])).await;
    let one = world.credential();
    let target = world.target();
    install(&target, &Try::new(1), &one, None).await.expect("installed");
    // The superuser's own connection is the one there is.
    world.run::<()>(0, "CONFIG SET maxclients 1").await;
    match target.probe(&one, ProbeDepth::Login).await {
        Probe::Unknown(failure) => {
            assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
            assert!(failure.reason().contains("too many clients"), "{failure}");
        }
        verdict => panic!("a verdict without a login: {verdict:?}"),
    }
    world.run::<()>(0, "CONFIG SET maxclients 100").await;
    assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Accepted);
}

/// On Redis alone: the Valkey that there is was built without TLS.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_what_the_policy_says() {
    let world = World::on(Servers::private(Kind::Redis, &["--tls"])).await;
    let one = world.credential();
    install(&world.target(), &Try::new(1), &one, None).await.expect("installed");
    let ca_file = world.servers.at.ca_file.clone();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), other.cert.pem()).expect("written");
    let unknown = Some(file.path().to_owned());
    for (host, tls_port, mode, ca_file, expected) in [
        ("localhost", true, TlsMode::VerifyFull, &ca_file, None),
        ("127.0.0.1", true, TlsMode::VerifyCa, &ca_file, None),
        ("127.0.0.1", true, TlsMode::Require, &None, None),
        ("127.0.0.2", true, TlsMode::VerifyFull, &ca_file, Some("refused")),
        ("localhost", true, TlsMode::VerifyFull, &unknown, Some("not signed by a trusted authority")),
        ("localhost", false, TlsMode::VerifyFull, &ca_file, Some("no answer within")),
        ("localhost", true, TlsMode::Disable, &None, Some("the connection was lost")),
    ] {
        let mut spec = world.spec();
        for node in &mut spec.nodes {
            host.clone_into(&mut node.host);
            node.port += u16::from(tls_port);
        }
        spec.tls = TlsSpec { mode, ca_file: ca_file.clone(), allow_plaintext: false };
        // A Redis takes the beginning of a handshake for that of a command, and waits for its end.
        let deadlines = Deadlines { login: Duration::from_millis(1_000), ..Deadlines::default() };
        let target = world.target_of(spec).with_deadlines(deadlines);
        match (target.probe(&one, ProbeDepth::Check).await, expected) {
            (Probe::Accepted, None) => {}
            (Probe::Unknown(failure), Some(words)) => {
                assert!(failure.reason().contains(words), "{host} {mode:?}: {failure}");
            }
            (answer, _) => panic!("{host} {mode:?}: {answer:?}"),
        }
    }
}
