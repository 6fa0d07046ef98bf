//! Slack's refresh chain: the next token is asked for with a refresh token that works once.

use std::time::Duration;

use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::{Extent, Probe, ProbeDepth, RetireRequest, Retired, Target as _};
use serde_json::json;

use super::{ADMIN, Case, Turn, case};
use crate::providers_support::slack::Slack;
use crate::providers_support::{Fate, INMOST};

/// An app, and the pair that its installation gave out.
pub(super) async fn installed() -> (Case, Slack, Credential) {
    let slack = Slack::new("admin", ADMIN);
    let case = case("slack-token", slack.clone(), json!({})).await;
    let pair = case.stub.with(|keys| slack.install(keys));
    let pair = credential(&case, pair);
    (case, slack, pair)
}

fn credential(case: &Case, (token, refresh): (String, String)) -> Credential {
    let secret = |text: String| SecretValue::new(text.into_bytes());
    let parts = [("refreshToken".parse().expect("a name"), secret(refresh))].into();
    Credential::new(case.spec.owner.clone(), secret(token)).with_parts(parts)
}

impl Case {
    async fn next(&self, outgoing: &Credential) -> Result<Credential, rekeyd::failure::Failure> {
        self.mint_after(&Turn::new(), Some(outgoing)).await
    }

    async fn end(&self, outgoing: &Credential, beside: &Credential) -> Retired {
        let turn = Turn::new();
        let (attempt, principal) = (turn.attempt(), &outgoing.principal);
        let (outgoing, beside) = (Some(outgoing), Some(beside));
        let request = RetireRequest { attempt, principal, extent: Extent::OtherValues, outgoing, beside };
        self.target.retire(request).await.expect("it is revoked")
    }

    async fn tried(&self, credential: &Credential) -> Probe {
        self.target.probe(credential, ProbeDepth::Check).await
    }
}

#[tokio::test]
async fn each_token_is_asked_for_with_the_refresh_token_of_the_one_before() {
    let (case, slack, mut current) = installed().await;
    assert!(case.target.lapse().is_some(), "each rotation would take the bot out of its channels");
    for _ in 0..3 {
        let next = case.next(&current).await.expect("a token");
        assert!(next.value != current.value && next.parts != current.parts);
        assert_eq!(next.principal, case.spec.owner);
        assert_eq!((case.tried(&next).await, case.tried(&current).await), (Probe::Accepted, Probe::Accepted));
        // It lives on beside its successor, and is ended; that it is gone already is right, too.
        for _ in 0..2 {
            assert_eq!(case.end(&current, &next).await, Retired::Done { sessions_closed: 0 });
            assert_eq!(case.tried(&current).await, Probe::Refused);
        }
        assert!(slack.lost_its_channels(), "what only a containment does");
        assert_eq!(case.tried(&next).await, Probe::Accepted);
        current = next;
    }
}

#[tokio::test]
async fn a_refresh_token_that_was_used_is_told_with_what_to_do() {
    let (case, _, first) = installed().await;
    case.stub.next(("POST", "oauth.v2.access"), Fate::LoseReply);
    let failure = case.next(&first).await.expect_err("no answer");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    // Whoever asks again learns that the chain is broken; the token in force works on.
    let failure = case.next(&first).await.expect_err("it works once");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(
        failure.remedy().is_some_and(|remedy| remedy.contains("--part refreshToken=FILE")),
        "{failure:?}"
    );
    assert_eq!(case.tried(&first).await, Probe::Accepted);
}

#[tokio::test]
async fn without_a_refresh_token_nothing_is_asked() {
    let (case, _, first) = installed().await;
    let bare = Credential::new(first.principal.clone(), first.value.duplicate());
    case.stub.requests();
    for failure in
        [case.next(&bare).await.expect_err("no part"), case.mint(&Turn::new()).await.expect_err("none")]
    {
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.reason().contains("has no part `refreshToken`"), "{failure}");
    }
    assert_eq!(case.stub.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn what_slack_says_is_told_as_what_it_is() {
    let (case, slack, first) = installed().await;
    for (error, class) in [
        ("bad_client_secret", FailureClass::Denied),
        ("ratelimited", FailureClass::Unavailable),
        ("fatal_error", FailureClass::Ambiguous),
        ("something_new", FailureClass::Ambiguous),
    ] {
        slack.fails("oauth.v2.access", error);
        let failure = case.next(&first).await.expect_err(error);
        assert_eq!(failure.class(), class, "{error}: {failure}");
        assert!(!format!("{failure:?}").contains(INMOST) && !format!("{failure:?}").contains(ADMIN));
    }
    for error in ["ratelimited", "not_authed", "invalid_auth", "something_new"] {
        slack.fails("auth.test", error);
        assert!(matches!(case.tried(&first).await, Probe::Unknown(_)), "{error} is no verdict");
    }
    for error in ["token_expired", "account_inactive"] {
        slack.fails("auth.test", error);
        assert_eq!(case.tried(&first).await, Probe::Refused, "{error}");
    }
    let second = case.next(&first).await.expect("nothing was used up");
    assert_eq!(case.tried(&second).await, Probe::Accepted);
}

/// A rotation goes on until the token before ends, so that the time of the next one may pass.
#[tokio::test]
async fn a_token_lives_for_two_rotations() {
    let (case, ..) = installed().await;
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3_600));
    for (needed, verdict) in [
        (None, Verdict::Pass),
        (hours(6), Verdict::Pass),
        (hours(7), Verdict::Warn),
        (hours(12), Verdict::Warn),
        (hours(13), Verdict::Fail),
    ] {
        let findings = case.target.preflight_life(needed).await;
        assert_eq!(
            findings.iter().map(|finding| finding.verdict).collect::<Vec<_>>(),
            [verdict],
            "{findings:?}"
        );
    }
}
