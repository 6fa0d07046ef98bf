//! Providers whose keys a person makes.

use rekeyd::recipe::ParameterValue;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::{Extent, Minted, Probe, ProbeDepth, RetireRequest, Retired, Target as _};
use serde_json::{Value, json};

use super::{ADMIN, Case, Turn, case};
use crate::providers_support::anthropic::Anthropic;
use crate::providers_support::cohere::Cohere;
use crate::providers_support::github::GitHub;

/// A person makes a key in the provider's dashboard.
pub(super) fn by_hand(case: &Case) -> Credential {
    let key = case.stub.with(|keys| keys.make("apikey_", "sk-", "by hand", Value::Null));
    Credential::new(key.id.parse().expect("a principal"), SecretValue::new(key.value.into_bytes()))
}

async fn retire(case: &Case, key: &Credential) -> Retired {
    let turn = Turn::new();
    let (attempt, principal, outgoing) = (turn.attempt(), &key.principal, Some(key));
    let request = RetireRequest { attempt, principal, extent: Extent::Principal, outgoing, beside: None };
    case.target.retire(request).await.expect("an answer")
}

async fn awaited(case: &Case, contains: bool) -> String {
    let turn = Turn::new();
    let mut request = turn.request(&case.spec);
    request.contains = contains;
    match case.target.mint(request).await.expect("an answer") {
        Minted::Awaited(what) => what,
        Minted::Made(_) | Minted::Short(..) => panic!("there is no call for that"),
    }
}

#[tokio::test]
async fn a_person_is_told_what_to_do_and_at_once_when_it_leaked() {
    let case = case("cohere", Cohere, json!({})).await;
    let what = awaited(&case, false).await;
    assert!(
        what.contains("dashboard.cohere.com") && what.contains("rekeyd supply orders/orders-api"),
        "{what}"
    );
    assert!(!what.contains("URGENT"), "{what}");
    assert!(awaited(&case, true).await.starts_with("URGENT"), "a containment says it at once");
    assert_eq!(case.stub.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_is_waited_for_until_a_person_has_deleted_it() {
    let case = case("cohere", Cohere, json!({})).await;
    let key = by_hand(&case);
    assert_eq!(case.target.probe(&key, ProbeDepth::Login).await, Probe::Accepted);
    assert!(matches!(retire(&case, &key).await, Retired::Awaited(what) if what.contains("delete the key")));
    case.stub.with(|keys| keys.delete(key.principal.as_str()));
    assert_eq!(retire(&case, &key).await, Retired::Done { sessions_closed: 0 });
    assert_eq!(case.target.probe(&key, ProbeDepth::Login).await, Probe::Refused);
}

#[tokio::test]
async fn a_key_that_a_person_made_is_revoked_by_the_api_where_there_is_one() {
    let anthropic = case("anthropic", Anthropic { admin: ADMIN.into() }, json!({})).await;
    let github = case("github-token", GitHub, json!({})).await;
    for case in [anthropic, github] {
        assert!(awaited(&case, false).await.contains("create a"));
        let key = by_hand(&case);
        assert_eq!(case.target.probe(&key, ProbeDepth::Login).await, Probe::Accepted);
        for _ in 0..2 {
            assert_eq!(retire(&case, &key).await, Retired::Done { sessions_closed: 0 });
            assert_eq!(case.target.probe(&key, ProbeDepth::Login).await, Probe::Refused);
        }
    }
}

#[tokio::test]
async fn a_key_that_a_person_made_is_found_on_whichever_page_it_is() {
    let case = case("anthropic", Anthropic { admin: ADMIN.into() }, json!({})).await;
    let made: Vec<_> = (0..5).map(|_| by_hand(&case).principal).collect();
    let listed: Vec<_> =
        case.target.keys(&case.spec.owner).await.expect("keys").into_iter().map(|key| key.id).collect();
    assert_eq!(listed, made);
    assert!(case.stub.requests().len() >= 3, "its pages are of two");
}

#[test]
fn parameters_may_be_anything_that_json_is() {
    let value: ParameterValue = serde_json::from_value(json!([{"a": [1, true, null]}])).expect("a value");
    assert_eq!(serde_json::to_value(&value).expect("JSON"), json!([{"a": [1, true, null]}]));
}
