//! Servers that cannot show who they are: nothing is sent to them, and what they are like is no verdict on a key.

use rekeyd::failure::{Failure, FailureClass};
use rekeyd::target::{Extent, Probe, ProbeDepth, RetireRequest, Target as _};
use serde_json::json;

use super::contract::told;
use super::{ADMIN, Turn, case, target_of};
use crate::providers_support::INMOST;
use crate::providers_support::cohere::Cohere;
use crate::providers_support::handshake::{Front, Server};
use crate::providers_support::sendgrid::SendGrid;

const VALUE: &str = "value-of-the-key-in-force";

#[track_caller]
fn says(server: Server, reason: &str, failure: &Failure) {
    assert!(failure.to_string().contains(reason), "{server:?}: {failure}");
    // Of the fields that a policy has for it.
    assert!(failure.remedy().is_some_and(|remedy| !remedy.contains("tls.")), "{server:?}: {failure:?}");
    assert!(
        matches!(told(failure, &[VALUE]), FailureClass::Invalid | FailureClass::Unavailable),
        "{failure}"
    );
    // Nothing was sent, so nothing can have been done.
    assert!(failure.class().is_certain(), "{server:?}: {failure}");
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_that_cannot_show_who_it_is() {
    let mut case =
        case("sendgrid", SendGrid { admin: ADMIN.into() }, json!({"parameters": {"scopes": ["mail.send"]}}))
            .await;
    let key = rekeyd::secret::Credential::new(
        "Kq1".parse().expect("a principal"),
        rekeyd::secret::SecretValue::new(VALUE.into()),
    );
    for (server, reason) in Server::WRONG {
        let front = Front::start(server).await;
        case.spec.base = Some(front.base.clone());
        case.spec.ca_file = Some(front.ca_file.clone());
        let target = target_of(&case.spec, Some(ADMIN));
        match target.probe(&key, ProbeDepth::Login).await {
            Probe::Unknown(failure) => says(server, reason, &failure),
            verdict => panic!("{server:?} counts as {verdict:?}"),
        }
        says(server, reason, &target.keys(&case.spec.owner).await.expect_err("no list"));
        let uncounted = case.changed(|recipe| recipe.limits.live_keys = None);
        let turn = Turn::new();
        says(server, reason, &uncounted.mint(turn.request(&case.spec)).await.expect_err("no key"));
        let (attempt, principal, outgoing) = (turn.attempt(), &key.principal, Some(&key));
        let request = RetireRequest { attempt, principal, extent: Extent::Principal, outgoing, beside: None };
        says(server, reason, &target.retire(request).await.expect_err("not gone"));
        let saw = front.saw();
        for secret in ["HTTP/1.1", "/v3", VALUE, ADMIN, INMOST] {
            assert!(!saw.contains(secret), "{server:?} saw {secret}");
        }
    }
    // The same, where nothing is wrong.
    let front = Front::start(Server::Right).await;
    case.spec.base = Some(front.base.clone());
    case.spec.ca_file = Some(front.ca_file.clone());
    let probe = target_of(&case.spec, Some(ADMIN)).probe(&key, ProbeDepth::Login).await;
    assert!(matches!(&probe, Probe::Unknown(failure) if failure.to_string().contains("503")), "{probe:?}");
    assert!(front.saw().contains("GET /v3/scopes HTTP/1.1"), "{}", front.saw());
}

/// A server without TLS that says of every key that it is right, or that it is none.
#[tokio::test]
async fn no_answer_without_tls_counts() {
    let mut case = case("cohere", Cohere, json!({})).await;
    let front = Front::start(Server::Plain).await;
    case.spec.base = Some(front.base.clone());
    let key = super::by_hand::by_hand(&case);
    let probe = target_of(&case.spec, None).probe(&key, ProbeDepth::Login).await;
    assert!(matches!(&probe, Probe::Unknown(_)), "{probe:?}");
}
