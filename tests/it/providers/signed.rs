//! Providers where the admin logs in by a signature, and whose keys have no names.

use rekeyd::clock::SystemClock;
use rekeyd::failure::FailureClass;
use rekeyd::target::{Extent, Probe, ProbeDepth, Target as _};
use serde_json::json;

use super::{Case, Turn, case, target_by, target_of};
use crate::providers_support::github::GitHub;
use crate::providers_support::google::Google;
use crate::providers_support::{Fate, jwt};

fn signed(mut case: Case) -> Case {
    case.admin = Some(jwt::KEY);
    case.target = target_of(&case.spec, case.admin);
    case
}

pub(super) async fn google() -> Case {
    signed(case("google-service-account-key", Google, json!({})).await.full_at(10))
}

pub(super) async fn github() -> Case {
    signed(case("github-app-installation", GitHub, json!({"parameters": {"installation": 5}})).await)
}

#[tokio::test]
async fn a_key_of_google_is_made_tried_disabled_and_revoked() {
    let case = google().await;
    let (turn, made) = (Turn::new(), case.mint(&Turn::new()).await.expect("a key"));
    let file: serde_json::Value =
        serde_json::from_slice(made.value.expose()).expect("what applications read");
    assert_eq!(file["private_key_id"], made.principal.as_str());
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Accepted);
    case.retire(&turn, &made, Extent::Disabled).await.expect("disabled");
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused);
    let keys = case.target.keys(&case.spec.owner).await.expect("keys");
    assert_eq!(keys.len(), 1);
    assert!(keys[0].tag.is_none() && keys[0].used.is_none() && keys[0].made_at.is_some(), "{keys:?}");
    for _ in 0..2 {
        case.retire(&turn, &made, Extent::Principal).await.expect("gone");
    }
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused);
}

#[tokio::test]
async fn ten_keys_of_google_are_enough() {
    super::contract::no_key_is_deleted_to_make_room(google().await).await;
}

#[tokio::test]
async fn an_admin_key_that_is_none_is_told_and_not_shown() {
    for case in [google().await, github().await] {
        let failure = case.of_admin("hunter2-is-no-key").mint(Turn::new().request(&case.spec)).await;
        let failure = failure.expect_err("it cannot be signed with");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.to_string().contains("not in PEM"), "{failure}");
        assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_token_of_an_app_is_made_tried_and_revoked_with_itself() {
    let case = github().await;
    let turn = Turn::new();
    let made = case.mint(&turn).await.expect("a token");
    assert!(made.principal.as_str().starts_with(&format!("rekeyd-{}-", turn.rotation)), "{}", made.principal);
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Accepted);
    for _ in 0..2 {
        case.retire(&turn, &made, Extent::Principal).await.expect("gone, or was before");
        assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused);
    }
    case.stub.next(("GET", ""), Fate::Fails(502));
    assert!(matches!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Unknown(_)));
}

/// A machine whose clock is an hour ahead, or behind.
struct Wrong(i64);

#[async_trait::async_trait]
impl rekeyd::clock::Clock for Wrong {
    fn now(&self) -> jiff::Timestamp {
        SystemClock.now() + jiff::SignedDuration::from_hours(self.0)
    }

    fn monotonic(&self) -> std::time::Duration {
        SystemClock.monotonic()
    }

    async fn sleep(&self, duration: std::time::Duration) {
        SystemClock.sleep(duration).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_and_no_verdict() {
    let cases = [(google().await, 1), (google().await, -1), (github().await, 1), (github().await, -1)];
    for (mut case, hours) in cases {
        let made = case.mint(&Turn::new()).await.expect("a key");
        case.target = target_by(&case.spec, Some(jwt::KEY), std::sync::Arc::new(Wrong(hours)));
        let failure = case.mint(&Turn::new()).await.expect_err("it is signed for another time");
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("set the clock")), "{failure:?}");
        // A key of Google is tried by a signature, too.
        let probe = case.target.probe(&made, ProbeDepth::Login).await;
        assert_ne!(probe, Probe::Refused, "a wrong clock is taken for a dead key");
    }
}
