//! What providers let be done: how many keys, how often they may be asked, and how long they take to know.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::failure::FailureClass;
use rekeyd::recipe::{Meaning, shipped};
use rekeyd::target::{Extent, Probe, ProbeDepth, Target as _};
use serde_json::json;

use super::{ADMIN, Case, Turn, by_hand, case, signed, target_paced};
use crate::providers_support::Fate;
use crate::providers_support::azure::Azure;
use crate::providers_support::datadog::Datadog;
use crate::providers_support::github::GitHub;
use crate::providers_support::sendgrid::SendGrid;
use crate::world::clock::TestClock;

/// Recipes of providers that document no answer to a key too many, as they say in a comment.
const ROOM_UNTOLD: [&str; 12] = [
    "cloudflare-token",
    "datadog-api-key",
    "docker-hub",
    "gitea-token",
    "github-app-installation",
    "github-deploy-key",
    "gitlab-project-token",
    "grafana-service-account",
    "openai-service-account",
    "openbao-userpass",
    "rabbitmq-user",
    "slack-token",
];

/// Recipes of providers that document no number of requests of this kind, as they say in a comment.
const RATE_UNTOLD: [&str; 10] = [
    "anthropic",
    "datadog-api-key",
    "docker-hub",
    "gitea-token",
    "grafana-service-account",
    "openai-service-account",
    "openbao-userpass",
    "rabbitmq-user",
    "sendgrid",
    "twilio-api-key",
];

#[test]
fn a_key_too_many_is_known_of_every_provider_that_says_what_it_answers() {
    for (name, recipe) in shipped::all() {
        let Some(create) = &recipe.create else { continue };
        let knows = create.failures.iter().any(|known| known.means == Meaning::Conflict);
        assert_ne!(knows, ROOM_UNTOLD.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn every_recipe_keeps_to_the_rate_that_its_provider_documents() {
    let keys = shipped::all().map(|(name, recipe)| (name, recipe.limits.requests_per_second));
    let places = shipped::places().map(|(name, recipe)| (name, recipe.limits.requests_per_second));
    for (name, rate) in keys.chain(places) {
        assert_ne!(rate.is_some(), RATE_UNTOLD.contains(&name.as_str()), "{name}");
    }
}

async fn sendgrid() -> Case {
    case("sendgrid", SendGrid { admin: ADMIN.into() }, json!({"parameters": {"scopes": ["mail.send"]}})).await
}

/// One clock for whoever waits, which the test reads.
fn paced(case: &Case) -> (rekeyd::target::http::HttpTarget, Arc<TestClock>) {
    let clock = Arc::new(TestClock::new());
    let pace = Arc::clone(&clock);
    (target_paced(&case.spec, case.admin, Arc::new(SystemClock), pace), clock)
}

#[tokio::test]
async fn a_provider_is_asked_again_when_it_said() {
    let case = sendgrid().await;
    let made = case.mint(&Turn::new()).await.expect("a key");
    let (target, clock) = paced(&case);
    for (status, after, seconds) in [
        (429, "0", 0),
        (429, "42", 42),
        (503, "42", 42),
        (429, "Mon, 30 Nov 2026 12:01:30 GMT", 90),
        (503, "Mon, 30 Nov 2026 12:01:30 GMT", 90),
        // It is over already.
        (429, "Mon, 30 Nov 2026 11:00:00 GMT", 0),
        // Neither a number nor a date: as if it said nothing, which is a second after a 429.
        (429, "in a while", 1),
        (503, "in a while", 0),
        // Whoever waits has to learn of it.
        (429, "86400", 300),
        (429, "99999999999999999999999", 300),
        (429, "Tue, 01 Dec 2026 12:00:00 GMT", 300),
        // No server that refuses asks for it.
        (500, "42", 0),
    ] {
        let began = clock.monotonic();
        case.stub.next(("GET", "scopes"), Fate::Later(status, after));
        let probe = target.probe(&made, ProbeDepth::Login).await;
        assert!(matches!(probe, Probe::Unknown(_)), "{status} {after}: {probe:?}");
        assert_eq!(clock.monotonic(), began, "nobody waits for what failed");
        assert_eq!(target.probe(&made, ProbeDepth::Login).await, Probe::Accepted);
        assert_eq!(clock.monotonic() - began, Duration::from_secs(seconds), "{status} {after}");
    }
    // As GitHub answers who has used up all that an hour allows: that is no missing right.
    for status in [403, 429] {
        for (reset, seconds) in [("1796040041", 42), ("1796043600", 300), ("1796039000", 1)] {
            let began = clock.monotonic();
            case.stub.next(("GET", "api_keys"), Fate::UsedUp(status, reset));
            let failure = target.keys(&case.spec.owner).await.expect_err("it is to be asked later");
            assert_eq!(failure.class(), FailureClass::Unavailable, "{status}: {failure}");
            assert!(failure.reason().contains("asked too often"), "{status}: {failure}");
            target.keys(&case.spec.owner).await.expect("the keys");
            assert_eq!(clock.monotonic() - began, Duration::from_secs(seconds), "{status} {reset}");
        }
    }
    // And for its secondary limits, by words alone.
    for status in [403, 429] {
        let began = clock.monotonic();
        case.stub.next(("GET", "api_keys"), Fate::Limited(status));
        let failure = target.keys(&case.spec.owner).await.expect_err("it is to be asked later");
        assert_eq!(failure.class(), FailureClass::Unavailable, "{status}: {failure}");
        assert!(failure.reason().contains("asked too often"), "{status}: {failure}");
        target.keys(&case.spec.owner).await.expect("the keys");
        assert_eq!(clock.monotonic() - began, Duration::from_secs(60), "{status}");
    }
    // A key that is asked for waits, too.
    case.stub.next(("GET", "api_keys"), Fate::Later(429, "5"));
    let began = clock.monotonic();
    target.keys(&case.spec.owner).await.expect_err("it is to be asked later");
    target.mint(Turn::new().request(&case.spec)).await.expect("a key");
    assert_eq!(clock.monotonic() - began, Duration::from_secs(5));
}

/// A case of each recipe that says that its provider takes a while to know of a key, and a key of it.
async fn settling() -> Vec<(Case, rekeyd::secret::Credential)> {
    let parameters = json!({"tenant": "tenant-1", "application": "object-1", "client": "client-1"});
    let azure =
        case("azure-application-secret", Azure { admin: ADMIN.into() }, json!({"parameters": parameters}));
    let datadog = Datadog { admin: ADMIN.into(), api: "api-of-the-test".into() };
    let datadog = case("datadog-api-key", datadog, json!({"credentials": {"api": "datadog-api"}}));
    let mut cases = Vec::new();
    for case in [azure.await, datadog.await, signed::google().await, signed::github().await] {
        let made = case.mint(&Turn::new()).await.expect("a key");
        cases.push((case, made));
    }
    let case = case("github-token", GitHub, json!({})).await;
    let made = by_hand::by_hand(&case);
    cases.push((case, made));
    cases
}

#[tokio::test]
async fn a_provider_that_takes_its_time_says_the_right_thing_in_the_end() {
    let mut names = Vec::new();
    for (case, made) in settling().await {
        let name = case.spec.recipe.as_str().to_owned();
        assert!(case.target.settling() > Duration::ZERO, "{name}");
        let look = async || case.target.probe(&made, ProbeDepth::Check).await;
        case.stub.with(|keys| keys.lag = 3);
        for _ in 0..3 {
            assert_eq!(look().await, Probe::Refused, "{name}: it is not known yet");
        }
        assert_eq!(look().await, Probe::Accepted, "{name}");
        // A list that is late has not the key, and says so of no other one.
        if case.spec.definition.as_ref().is_some_and(|recipe| recipe.list.is_some()) {
            case.stub.with(|keys| keys.made[0].unlisted = 1);
            assert_eq!(case.target.keys(&case.spec.owner).await.expect("keys"), [], "{name}");
            let keys = case.target.keys(&case.spec.owner).await.expect("keys");
            assert_eq!(keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&made.principal], "{name}");
        }
        let turn = Turn::new();
        case.retire(&turn, &made, Extent::Principal).await.expect("gone");
        case.stub.with(|keys| keys.linger = 3);
        for _ in 0..3 {
            assert_eq!(look().await, Probe::Accepted, "{name}: that it is gone is not known yet");
        }
        assert_eq!(look().await, Probe::Refused, "{name}");
        names.push(name);
    }
    let settling = shipped::all().filter(|(_, recipe)| !recipe.limits.settling.is_zero());
    names.sort();
    assert_eq!(names, settling.map(|(name, _)| name.to_string()).collect::<Vec<_>>());
}
