//! Whatever may come back, or not, where a recipe is right.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::Interval;
use rekeyd::target::{Probe, ProbeDepth, Target as _};
use serde_json::json;

use super::{ADMIN, Case, Turn, case, target_of};
use crate::providers_support::Fate;
use crate::providers_support::docker_hub::DockerHub;
use crate::providers_support::gitea::Gitea;
use crate::providers_support::sendgrid::SendGrid;
use crate::providers_support::twilio::Twilio;

async fn sendgrid() -> Case {
    case("sendgrid", SendGrid { admin: ADMIN.into() }, json!({"parameters": {"scopes": ["mail.send"]}})).await
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_with_the_deadline() {
    let mut case = sendgrid().await;
    let recipe = case.spec.definition.as_mut().expect("a recipe");
    recipe.limits.timeout = Interval::from_duration(Duration::from_millis(200));
    case.target = target_of(&case.spec, Some(ADMIN));
    let made = case.mint(&Turn::new()).await.expect("a key");
    case.stub.next(("GET", ""), Fate::Silence);
    assert!(matches!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Unknown(_)));
    case.stub.next(("POST", ""), Fate::Silence);
    let failure = case.mint(&Turn::new()).await.expect_err("no answer");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
}

#[tokio::test]
async fn what_only_the_inside_can_reach_is_not_asked() {
    let mut case = sendgrid().await;
    for base in
        ["https://10.11.12.13", "https://169.254.169.254", "https://[fd00:ec2::254]", "https://0.0.0.0"]
    {
        case.spec.base = Some(base.into());
        let target = target_of(&case.spec, Some(ADMIN));
        let failure = target.keys(&case.spec.owner).await.expect_err("it is not asked");
        assert_eq!(failure.class(), FailureClass::Denied, "{base}: {failure}");
        assert!(failure.to_string().contains("address is"), "{failure}");
    }
    for base in ["http://example.com", "ftp://127.0.0.1", "nowhere"] {
        case.spec.base = Some(base.into());
        let failure =
            target_of(&case.spec, Some(ADMIN)).keys(&case.spec.owner).await.expect_err("it is not asked");
        assert_eq!(failure.class(), FailureClass::Invalid, "{base}: {failure}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let mut case = sendgrid().await;
    case.spec.base = Some(format!("https://{}", case.stub.address));
    let failure =
        target_of(&case.spec, Some(ADMIN)).keys(&case.spec.owner).await.expect_err("it has no certificate");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.to_string().contains("TLS"), "{failure}");
    assert_eq!(case.stub.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_that_is_not_known_yet_is_refused_until_it_is() {
    let case = sendgrid().await;
    let made = case.mint(&Turn::new()).await.expect("a key");
    case.stub.with(|keys| keys.lag = 1);
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Accepted);
}

/// Gitea says of every token what it says of a dead one while it cannot reach its database, and Twilio of every key of an
/// account that is suspended.
#[tokio::test]
async fn a_refusal_counts_only_where_all_is_well() {
    let twilio = json!({"parameters": {"account": "AC1"}});
    for (case, health) in [
        (case("gitea-token", Gitea { admin: ADMIN.into() }, json!({})).await, "healthz"),
        (case("twilio-api-key", Twilio { admin: ADMIN.into() }, twilio).await, "Keys.json"),
    ] {
        let made = case.mint(&Turn::new()).await.expect("a key");
        case.stub.with(|keys| keys.down = true);
        let Probe::Unknown(failure) = case.target.probe(&made, ProbeDepth::Login).await else {
            panic!("{health}: it counts as a verdict")
        };
        assert!(failure.to_string().contains("no verdict on the key"), "{failure}");
        case.stub.with(|keys| keys.down = false);
        assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Accepted);
        case.stub.with(|keys| keys.delete(made.principal.as_str()));
        // Whatever becomes of the question whether all is well, the refusal is none without its answer.
        for fate in [Fate::LoseRequest, Fate::LoseReply, Fate::Html(200), Fate::Fails(503), Fate::Elsewhere] {
            case.stub.next(("GET", health), fate);
            let probe = case.target.probe(&made, ProbeDepth::Login).await;
            assert!(matches!(probe, Probe::Unknown(_)), "{health} {fate:?}: {probe:?}");
        }
        assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused, "{health}");
    }
}

/// A session that Docker Hub gives for a token may do nothing with tokens.
#[tokio::test]
async fn a_token_of_docker_hub_makes_no_tokens() {
    let case = case("docker-hub", DockerHub { admin: ADMIN.into() }, json!({})).await;
    let made = case.mint(&Turn::new()).await.expect("a token");
    let admin = case.of_admin(made.value.expose_str().expect("text"));
    let failure = admin.mint(Turn::new().request(&case.spec)).await.expect_err("it is refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.to_string().contains("lets no token make tokens"), "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("password")), "{failure:?}");
    let failure = admin.keys(&case.spec.owner).await.expect_err("nor does it list them");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert_eq!(case.stub.with(|keys| keys.made.len()), 1);
}

#[tokio::test]
async fn an_admin_value_that_no_header_takes_is_told_and_not_shown() {
    let case = sendgrid().await;
    let failure =
        case.of_admin("hunter2\nhunter3").keys(&case.spec.owner).await.expect_err("it cannot be sent");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(!format!("{failure:?}").contains("hunter"), "{failure:?}");
}
