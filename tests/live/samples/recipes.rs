//! Samples of keys of HTTP APIs, on stubs of the providers.

use rekeyd::secret::Credential;
use serde_json::{Value, json};

use super::sample::Sample;
use crate::postgres_support::{credential_of, text};
use crate::providers_support::cohere::Cohere;
use crate::providers_support::github::DeployKeys;
use crate::providers_support::sendgrid::SendGrid;
use crate::providers_support::slack::Slack;
use crate::providers_support::{Fate, Provider, Stub};
use crate::site::write_secret;

const ADMIN: &str = "the-admins-value";

/// A provider of the test's own behind a sample, which knows its admin.
async fn provider(sample: &Sample, provider: impl Provider) -> Stub {
    let stub = Stub::start(provider).await;
    sample.at.change_settings(|settings| settings["outbound"] = json!({"privateHosts": ["127.0.0.1"]}));
    sample.target("http", |http| http["base"] = json!(format!("http://{}", stub.address)));
    if let Some(name) = sample.document()["spec"]["target"]["http"]["admin"].as_str() {
        sample.admin(name, &credential("admin", ADMIN), "127.0.0.1");
    }
    stub
}

fn credential(name: &str, value: &str) -> Credential {
    credential_of(&name.parse().expect("a principal"), value)
}

/// Whether a provider lets a value in.
fn lets_in(stub: &Stub, credential: &Credential) -> bool {
    stub.with(|keys| keys.made.iter().any(|key| key.value == text(credential) && !key.disabled))
}

pub(super) async fn key(mut sample: Sample) {
    let stub = provider(&sample, SendGrid { admin: ADMIN.into() }).await;
    sample.lives(async |credential| lets_in(&stub, credential)).await;
    let said = stub.with(|keys| keys.made.iter().map(|key| key.said.clone()).collect::<Vec<_>>());
    assert_eq!(said, [json!(["mail.send"])], "one key, with the scopes that the sample asks for");
}

pub(super) async fn deploy_key(mut sample: Sample) {
    let stub = provider(&sample, DeployKeys { admin: ADMIN.into() }).await;
    sample.target("http", |http| {
        // The repository that the stub has.
        http["parameters"]["account"] = json!("acme");
        http["parameters"]["repository"] = json!("orders");
    });
    // The provider knows public keys alone, each by its id.
    let knows = |credential: &Credential| {
        stub.with(|keys| keys.made.iter().any(|key| key.id == credential.principal.as_str()))
    };
    sample.lives(async |credential| knows(credential)).await;
}

/// A person makes each key, hands it over, and deletes the one before.
pub(super) async fn hand_off(mut sample: Sample) {
    let stub = provider(&sample, Cohere).await;
    sample.check().await;
    let mut outgoing: Option<Credential> = None;
    for command in ["rotate", "rotate", "contain"] {
        let policy = sample.policy.clone();
        let mut rotation = sample.at.start(&[command, &policy, "--patience", "5m", "-o", "json"]);
        rotation.until_told(&format!("rekeyd supply {policy}")).await;
        let made = stub.with(|keys| keys.make("key-", "co-", "by hand", Value::Null));
        let supply = ["supply", &policy, "--principal", &made.id];
        sample.at.run_with(&supply, made.value.as_bytes()).await.ended(0).says(&["is the candidate"]);
        if let Some(outgoing) = &outgoing {
            rotation.until_told("is still accepted: delete the key").await;
            stub.with(|keys| keys.delete(outgoing.principal.as_str()));
            rotation.end().await.ended(0).says(&["old value refused"]);
        } else {
            rotation.end().await.ended(0);
        }
        let current = sample.arrived().await;
        assert_eq!((current.principal.as_str(), text(&current)), (&*made.id, &*made.value));
        outgoing = Some(current);
    }
    sample.at.run(&["audit", "verify"]).await.ended(0);
}

/// The first pair is taken over, as the sample says.
pub(super) async fn refresh_chain(mut sample: Sample) {
    let slack = Slack::new("admin", ADMIN);
    let stub = provider(&sample, slack.clone()).await;
    sample.check().await;
    let (token, refresh) = stub.with(|keys| slack.install(keys));
    write_secret(&sample.at.path("refresh"), &refresh);
    let part = format!("refreshToken={}", sample.at.path("refresh").display());
    let policy = sample.policy.clone();
    let adopt = ["adopt", &policy, "--principal", "notifier", "--part", &part];
    sample.at.run_with(&adopt, token.as_bytes()).await.ended(0);
    let mut outgoing = sample.stored().await;
    assert_eq!(text(&outgoing), token);
    sample.version = 1;
    for command in ["rotate", "contain"] {
        let current = sample.turn(command).await;
        assert!(lets_in(&stub, &current) && !lets_in(&stub, &outgoing), "{command}");
        assert!(current.parts != outgoing.parts, "{command}: the refresh token is the one before");
        assert_eq!(slack.lost_its_channels(), command == "contain", "{command}");
        outgoing = current;
    }

    // An answer that is lost takes the chain with it. The token in force works on, and a person begins another chain.
    stub.next(("POST", "oauth.v2.access"), Fate::LoseReply);
    let broken = sample.at.run(&["rotate", &sample.policy, "--patience", "10s"]).await;
    assert_ne!(broken.code, Some(0), "{broken}");
    broken.says(&["was used before", "rekeyd resume POLICY --abandon"]);
    assert!(lets_in(&stub, &outgoing));
    sample.at.run(&["resume", &sample.policy, "--abandon"]).await;
    let (token, refresh) = stub.with(|keys| slack.install(keys));
    write_secret(&sample.at.path("refresh"), &refresh);
    let adopt = [&adopt[..], &["--replace"]].concat();
    sample.at.run_with(&adopt, token.as_bytes()).await.ended(0);
    sample.version += 1;
    assert_eq!(text(&sample.stored().await), token);
    sample.turn("rotate").await;
    sample.at.run(&["audit", "verify"]).await.ended(0);
}
