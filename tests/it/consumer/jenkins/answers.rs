//! What Jenkins, and whatever stands before it, may answer instead.

use rekeyd::consumer::Published;
use rekeyd::failure::FailureClass;

use super::Place;
use crate::consumer::assert_refused;
use crate::consumer::contract::{publish, value};
use crate::jenkins::Fate;

#[tokio::test]
async fn what_is_no_answer_of_jenkins_is_said_and_nothing_is_written() {
    let page = "<!DOCTYPE html><html><body><form>Sign in</form></body></html>";
    for (answer, class, reason) in [
        (Fate::Answer(200, page), FailureClass::Invalid, "a page for people"),
        (Fate::Answer(200, "{\"error\": 1}"), FailureClass::Invalid, "no credential"),
        (Fate::Answer(200, "<a><b></a>"), FailureClass::Invalid, "no credential"),
        (Fate::Answer(302, ""), FailureClass::Invalid, "redirects"),
        (Fate::Answer(401, page), FailureClass::Denied, "refuses the admin credential"),
        (Fate::Answer(403, page), FailureClass::Denied, "Credentials/View"),
        (Fate::Answer(405, ""), FailureClass::Invalid, "it answers 405"),
        (Fate::Answer(429, ""), FailureClass::Unavailable, "it answers 429"),
        (Fate::Answer(503, "Jenkins is getting ready to work"), FailureClass::Unavailable, "it answers 503"),
    ] {
        let place = Place::new().await;
        place.jenkins.next("read", answer);
        assert_refused(publish(&place.consumer(), 1).await, class, reason);
        assert_eq!((place.kept(), place.jenkins.requests()), (None, vec!["read".to_owned()]));
        publish(&place.consumer(), 1).await.expect("published");
    }
    let place = Place::new().await;
    place.jenkins.next("read", Fate::Huge(5 * 1024 * 1024));
    let failure = publish(&place.consumer(), 1).await.expect_err("it was read");
    assert_eq!(failure.class(), FailureClass::Unavailable);
    assert!(failure.reason().contains("larger than"), "{failure}");
    place.jenkins.next("list", Fate::Answer(200, page));
    assert_refused(publish(&place.consumer(), 1).await, FailureClass::Invalid, "a page for people");
}

#[tokio::test]
async fn a_store_that_is_not_there_is_told_from_a_credential_that_is_not() {
    let place = Place::with(serde_json::json!({"folder": "team/orders"})).await;
    place.jenkins.contents().domains.clear();
    let failure = publish(&place.consumer(), 1).await;
    assert_refused(failure, FailureClass::Invalid, "folder team/orders has no store with the domain _");
    let place = Place::new().await;
    place.jenkins.contents().lacks = ["View"].into();
    assert_refused(publish(&place.consumer(), 1).await, FailureClass::Invalid, "has no domain _");
}

#[tokio::test]
async fn a_write_without_an_answer_may_have_been_done_and_is_looked_for() {
    for (fate, is_done) in [
        (Fate::Unanswered, true),
        (Fate::Silence, false),
        (Fate::Answer(500, "Oops!"), false),
        (Fate::Answer(504, ""), false),
    ] {
        let place = Place::new().await;
        publish(&place.consumer(), 1).await.expect("published");
        place.jenkins.next("update", fate.clone());
        let failure = publish(&place.hasty(), 2).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fate:?}: {failure}");
        let again = if is_done { Published::Already(None) } else { Published::Now };
        assert_eq!(publish(&place.consumer(), 2).await, Ok(again), "{fate:?}");
        assert_eq!(place.kept().expect("one").field("password"), Some(&*value(2)));
    }
    let place = Place::new().await;
    place.jenkins.next("create", Fate::Answer(500, "Failed to parse credential the-value-of"));
    let failure =
        assert_refused(publish(&place.consumer(), 1).await, FailureClass::Ambiguous, "it answers 500");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("plugin")), "{failure}");
}

#[tokio::test]
async fn a_jenkins_that_is_slow_or_away_is_unavailable() {
    let mut place = Place::new().await;
    place.jenkins.next("read", Fate::Silence);
    let failure = publish(&place.hasty(), 1).await.expect_err("no answer came");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    place.jenkins.stop().await;
    assert_refused(publish(&place.consumer(), 1).await, FailureClass::Unavailable, "cannot be reached");
    place.jenkins.resume().await;
    publish(&place.consumer(), 1).await.expect("published");

    // What was written cannot be looked at: it may be there.
    place.jenkins.next("update", Fate::Away(503));
    let failure = publish(&place.consumer(), 2).await;
    assert_refused(failure, FailureClass::Ambiguous, "cannot be read back: it answers 503");
    assert_eq!(publish(&place.consumer(), 2).await, Ok(Published::Already(None)));
}

/// Who cannot show who it is gets no login.
#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key"),
        )
        .expect("a configuration");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a client");
        acceptor.accept(socket).await.err().map(|error| error.to_string())
    });
    let mut place = Place::new().await;
    place.spec["url"] = format!("https://localhost:{port}").into();
    let refused = publish(&place.consumer(), 1).await;
    assert_refused(refused, FailureClass::Invalid, "not signed by a trusted authority");
    assert!(server.await.expect("no panic").is_some(), "the handshake was completed");
}
