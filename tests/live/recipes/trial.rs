//! `rekeyd recipe try` where no key can be made beside the one in force.

use rekeyd::secret::Credential;
use serde_json::{Value, json};

use super::{POLICY, installation};
use crate::installation::{Installation, read};
use crate::postgres_support::{credential_of, text};
use crate::providers_support::cohere::Cohere;
use crate::providers_support::slack::Slack;
use crate::providers_support::{Keys, Provider, Reply, Request, Stub};
use crate::site::{credential_in, write_secret};

fn credential(principal: &str, value: &str) -> Credential {
    credential_of(&principal.parse().expect("a principal"), value)
}

/// Writes a value to a file, and gives its path.
fn kept(at: &Installation, name: &str, value: &str) -> String {
    write_secret(&at.path(name), value);
    at.path(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_person_makes_is_tried_and_no_other_is_asked_for() {
    let stub = Stub::start(Cohere).await;
    let base = format!("http://{}", stub.address);
    let at =
        installation(json!({"recipe": "cohere", "owner": "search", "base": base}), &credential("a", "b"))
            .await;
    at.run(&["recipe", "try", POLICY]).await.ended(1).says(&["the store holds no key yet"]);
    let [made, revoked] =
        [(); 2].map(|()| stub.with(|keys| keys.make("key-", "co-", "by hand", Value::Null)));
    stub.with(|keys| keys.delete(&revoked.id));
    let adopt = ["adopt", POLICY, "--principal", &made.id];
    at.run_with(&adopt, made.value.as_bytes()).await.ended(0);
    let (dead, alive) = (kept(&at, "dead", &revoked.value), kept(&at, "alive", &made.value));
    at.run(&["recipe", "try", POLICY, "--dead", &dead]).await.ended(0).says(&[
        &format!("key {} is accepted", made.id),
        "a wrong value is refused",
        "the value that is to be dead is refused",
        "tells nothing of its use",
        "not tried",
        "making a key, which a person does here",
        "revoking, which a person does here",
    ]);
    let wrong = at.run(&["recipe", "try", POLICY, "--dead", &alive]).await.ended(1);
    let wrong = wrong.says(&["the value that is to be dead is accepted"]);
    assert!(!format!("{wrong}").contains(&made.value), "{wrong}");
    at.run(&["recipe", "try", POLICY, "--spend"]).await.ended(1).says(&["nothing is spent"]);
    stub.with(|keys| keys.delete(&made.id));
    at.run(&["recipe", "try", POLICY]).await.ended(1).says(&["is refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_chain_is_tried_without_spending_what_works_once() {
    let slack = Slack::new("app", "secret");
    let stub = Stub::start(slack.clone()).await;
    let fields = json!({"recipe": "slack-token", "owner": "notifier", "admin": "bao",
        "base": format!("http://{}", stub.address)});
    let at = installation(fields, &credential("app", "secret")).await;
    let (token, refresh) = stub.with(|keys| slack.install(keys));
    let part = format!("refreshToken={}", kept(&at, "refresh", &refresh));
    let adopt = ["adopt", POLICY, "--principal", "notifier", "--part", &part];
    at.run_with(&adopt, token.as_bytes()).await.ended(0);
    let spent = |stub: &Stub| stub.requests().iter().any(|asked| asked.contains("oauth.v2.access"));
    at.run(&["recipe", "try", POLICY]).await.ended(0).says(&[
        "key notifier is accepted",
        "a wrong value is refused",
        "not tried",
        "that spends `refreshToken` of the one in force, which works once",
    ]);
    assert!(!spent(&stub));
    at.run(&["recipe", "try", POLICY, "--spend"]).await.ended(0).says(&["old value refused"]);
    assert!(spent(&stub));
    let current = credential_in(&read(&at.path("api.env")));
    assert!(text(&current) != token && stub.with(|keys| keys.is_used(text(&current)).is_some()));
}

/// A provider that has one value for an owner, and tells of its use in a call of its own.
struct OneValue;

const RECIPE: &str = r#"
apiVersion: rekeyd.dev/v1alpha1
kind: Recipe
metadata: {name: one-value}
spec:
  title: A value that takes the place of another
  testedOn: a stub
  strategy: reissued
  admin: who replaces values
  create:
    request: {method: POST, path: "/v1/owners/{{ owner }}/value", bearer: "{{ admin.value }}"}
    value: /value
  verify:
    request: {method: GET, path: /v1/me, bearer: "{{ value }}"}
    acceptedWhen: [{status: [200], at: /owner}]
    refusedWhen: [{status: [401], at: /error, is: [unknown_value]}]
  list:
    request: {method: GET, path: /v1/owners, bearer: "{{ admin.value }}"}
    items: /owners
  usage:
    request: {method: GET, path: "/v1/owners/{{ id }}/use", bearer: "{{ admin.value }}"}
    usedAt: /at
    unusedWhen: [{status: [200], at: /never, is: [true]}]
  examples:
    - {call: usage, status: 200, body: {at: "2026-11-01T07:00:00Z"}, means: used, shows: ["2026-11-01T07:00:00Z"]}
    - {call: usage, status: 200, body: {never: true}, means: unused}
    - {call: usage, status: 200, body: {}, means: untold}
    - {call: usage, status: 404, means: untold}
    - {call: usage, status: 403, body: {error: forbidden}, means: failed}
"#;

impl Provider for OneValue {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        match (method, path.as_slice()) {
            ("POST", ["v1", "owners", owner, "value"]) => {
                keys.made.clear();
                let made = keys.make(owner, "ov-", "", Value::Null);
                Reply::new(200, json!({"value": made.value}))
            }
            ("GET", ["v1", "me"]) => match keys.is_used(request.bearer()) {
                Some(key) => Reply::new(200, json!({"owner": key.id})),
                None => Reply::new(401, json!({"error": "unknown_value"})),
            },
            ("GET", ["v1", "owners"]) => Reply::new(200, json!({"owners": ["orders"]})),
            ("GET", ["v1", "owners", "orders", "use"]) => Reply::new(
                200,
                match keys.made.first().and_then(|key| key.used) {
                    Some(at) => json!({"at": at.to_string()}),
                    None => json!({"never": true}),
                },
            ),
            _ => Reply::nothing_there(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_another_one_replaces_is_tried_and_not_replaced() {
    let stub = Stub::start(OneValue).await;
    let fields = json!({"recipe": "one-value", "owner": "orders", "admin": "bao",
        "base": format!("http://{}", stub.address)});
    let at = installation(fields, &credential("app", "secret")).await;
    std::fs::write(at.path("policies/one-value.yaml"), RECIPE).expect("a recipe");
    let file = at.path("policies/one-value.yaml").display().to_string();
    at.run(&["recipe", "test", &file]).await.ended(0).says(&["1 recipe, 5 examples"]);
    at.run(&["rotate", POLICY]).await.ended(0);
    let current = || credential_in(&read(&at.path("api.env")));
    let first = current();
    let dead = kept(&at, "dead", "ov-of-somebody");
    at.run(&["recipe", "try", POLICY, "--dead", &dead]).await.ended(0).says(&[
        "key orders is accepted",
        "a wrong value is refused",
        "key orders found in the list",
        "its last use is told: 20",
        "the value that is to be dead is refused",
        "not tried",
        "it takes the place of the one in force, which is dead from then on",
    ]);
    assert_eq!(current(), first);
    assert_eq!(stub.with(|keys| keys.made[0].value.clone()), text(&first), "it was replaced");
    at.run(&["recipe", "try", POLICY, "--spend"]).await.ended(0);
    assert_ne!(current(), first);
}
