//! Providers where the admin logs in by a signature, and whose keys have no names.

use rekeyd::clock::SystemClock;
use rekeyd::failure::FailureClass;
use rekeyd::target::{Extent, LastUse, Probe, ProbeDepth, Target as _};
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
    signed(case_of_google(json!({})).await)
}

async fn case_of_google(more: serde_json::Value) -> Case {
    case("google-service-account-key", Google, more).await.full_at(10)
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
async fn the_last_use_is_asked_for_each_key_where_the_list_does_not_tell_it() {
    let case = google().await;
    let made = case.mint(&Turn::new()).await.expect("a key");
    assert_eq!(case.target.usage(&made.principal).await.expect("no use").last, LastUse::Untold);
    let asked = |requests: Vec<String>| requests.iter().any(|asked| asked.contains("activities:query"));
    assert!(!asked(case.stub.requests()), "nobody names a project");

    let case = signed(case_of_google(json!({"parameters": {"project": "p"}})).await);
    let used = case.mint(&Turn::new()).await.expect("a key");
    let other = case.mint(&Turn::new()).await.expect("another");
    let usage = async |id| case.target.usage(id).await.map(|usage| usage.last);
    assert_eq!(usage(&used.principal).await, Ok(LastUse::Untold), "that it tells of none is no `never`");
    assert_eq!(case.target.probe(&used, ProbeDepth::Login).await, Probe::Accepted);
    let at = case.stub.with(|keys| keys.made[0].used).expect("it was used");
    assert_eq!(usage(&used.principal).await, Ok(LastUse::At(at)));
    assert_eq!(usage(&other.principal).await, Ok(LastUse::Untold), "the other one's use is not its own");
    // Orphans are not told by it: nobody is asked about keys that are only listed.
    case.stub.requests();
    assert_eq!(case.target.keys(&case.spec.owner).await.expect("keys").len(), 2);
    assert!(!asked(case.stub.requests()));
    for (fate, class) in [
        (Fate::Html(200), FailureClass::Unavailable),
        (Fate::Html(404), FailureClass::Unavailable),
        (Fate::TooMany, FailureClass::Unavailable),
        (Fate::Fails(500), FailureClass::Unavailable),
        (Fate::Fails(403), FailureClass::Denied),
        (Fate::LoseReply, FailureClass::Unavailable),
    ] {
        case.stub.next(("GET", "activities:query"), fate);
        let failure = usage(&used.principal).await.expect_err("no answer");
        assert_eq!(failure.class(), class, "{fate:?}: {failure}");
    }
    // One that is gone is used by nobody, and that holds no rotation up.
    case.retire(&Turn::new(), &used, Extent::Principal).await.expect("gone");
    assert_eq!(usage(&used.principal).await, Ok(LastUse::Untold));
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
