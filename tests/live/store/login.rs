//! Tokens: from a file, by AppRole, by Kubernetes; renewed in time and replaced when they are dead.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::settings::{AppRoleAuth, KubernetesAuth};

use super::*;
use crate::openbao::unique;

#[tokio::test]
async fn a_dead_token_is_reported_and_the_file_read_again() {
    let bench = Bench::new();
    let first = bench.token(json!({}));
    bench.write_token(&first);
    let store = bench.store();
    promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    bench.server.revoke(&first);
    for failure in [read_failure(&store, "apps/a").await, write_failure(&store, "apps/b").await] {
        assert_failed(&failure, FailureClass::Denied, "the server refuses the token in");
        assert!(failure.remedy().is_some());
        assert!(!failure.to_string().contains(&first), "{failure} shows the token");
    }
    let findings = preflight(&store).await;
    assert_eq!(findings.last().map(|finding| finding.verdict), Some(Verdict::Fail), "{findings:?}");
    bench.write_token(&bench.token(json!({})));
    assert_eq!(current(&store, "apps/a").await.map(|found| found.1).as_deref(), Some("one"));
}

#[tokio::test]
async fn a_token_file_that_is_none_is_named() {
    let bench = Bench::new();
    std::fs::remove_file(bench.token_file()).expect("the token gone");
    let store = bench.store();
    assert_failed(&read_failure(&store, "apps/a").await, FailureClass::Unavailable, "No such file");
    for text in ["", "two lines\nhunter2", "hunter2\u{7f}", "hunter2 hunter2"] {
        std::fs::write(bench.token_file(), text).expect("a file");
        let failure = read_failure(&store, "apps/a").await;
        assert_failed(&failure, FailureClass::Invalid, "does not hold one line of printable text");
    }
    bench.write_token(&bench.token(json!({})));
    assert!(current(&store, "apps/a").await.is_none());
}

#[tokio::test]
async fn a_token_is_renewed_while_the_store_is_idle() {
    let bench = Bench::new();
    let token = bench.token(json!({"period": "6s"}));
    bench.write_token(&token);
    let store = bench.store();
    assert!(current(&store, "apps/a").await.is_none());
    until("the token is renewed", || {
        bench.server.make("POST", "auth/token/lookup", json!({"token": token}))["data"]["last_renewal"]
            .is_string()
    })
    .await;
}

#[tokio::test]
async fn an_agent_s_new_token_is_taken_before_the_old_one_ends() {
    let bench = Bench::new();
    let old = bench.token(json!({"ttl": "6s", "renewable": false}));
    bench.write_token(&old);
    let store = bench.store();
    assert!(current(&store, "apps/a").await.is_none());
    let new = bench.token(json!({"num_uses": 50}));
    bench.write_token(&new);
    let uses = |token: &str| {
        let body = json!({"token": token});
        bench.server.call("POST", "auth/token/lookup", body).1["data"]["num_uses"].as_u64()
    };
    until("the new token is used", || uses(&new) < Some(50)).await;
    assert!(uses(&old).is_some(), "the old token had ended");
}

#[tokio::test]
async fn approle_logs_in_again_after_its_token_was_revoked() {
    let bench = Bench::new();
    let role = Role::new(&bench, json!({"token_ttl": "1h"}));
    let store = role.store();
    let revision = promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    role.revoke_tokens();
    let revision = promote(&store, "apps/a", "app_b", "two", Some(&revision)).await.expect("a promotion");
    role.revoke_tokens();
    // Sixteen calls meet the dead token at once; one of them logs in.
    let store = Arc::new(store);
    let calls = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { current(&*store, "apps/a").await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("a call"), Some(("app_b".into(), "two".into(), revision.clone())));
    }
    assert_eq!(role.tokens().len(), 1, "more than one login");
}

#[tokio::test]
async fn approle_reports_a_secret_id_that_is_used_up() {
    let bench = Bench::new();
    let role = Role::new(&bench, json!({"secret_id_num_uses": 1}));
    let store = role.store();
    assert!(current(&store, "apps/a").await.is_none());
    role.revoke_tokens();
    let failure = write_failure(&store, "apps/a").await;
    assert_failed(&failure, FailureClass::Denied, "refuses the login");
    role.write_secret_id();
    assert!(promote(&store, "apps/a", "app_a", "one", None).await.is_ok());
}

#[tokio::test]
async fn a_missing_right_does_not_use_up_logins() {
    let bench = Bench::new();
    let role = Role::new(&bench, json!({"secret_id_num_uses": 1}));
    let store = role.store();
    for _ in 0..3 {
        let failure = read_failure(&store, "elsewhere/a").await;
        assert_failed(&failure, FailureClass::Denied, "permission denied on");
    }
    assert!(current(&store, "apps/a").await.is_none());
}

#[tokio::test]
async fn a_token_near_its_longest_life_is_replaced() {
    let bench = Bench::new();
    let role = Role::new(&bench, json!({"token_ttl": "10s", "token_explicit_max_ttl": "16s"}));
    let store = role.store();
    assert!(current(&store, "apps/a").await.is_none());
    let first = role.tokens();
    assert_eq!(first.len(), 1);
    until("another token is there before the first ends", || {
        let tokens = role.tokens();
        tokens.contains(&first[0]) && tokens.len() == 2
    })
    .await;
}

#[tokio::test]
async fn kubernetes_logs_in_with_the_service_account() {
    let bench = Bench::new();
    let cluster = token_review("rekeyd", "rekeyd");
    let mount = AuthMount::new(&bench, "kubernetes");
    bench.server.make(
        "POST",
        &format!("auth/{}/config", mount.name),
        json!({
            "kubernetes_host": cluster,
            // The method wants one, and needs none for plain http.
            "kubernetes_ca_cert": authority(),
            "disable_local_ca_jwt": true,
            "token_reviewer_jwt": jwt("reviewer", "reviewer"),
        }),
    );
    bench.server.make(
        "POST",
        &format!("auth/{}/role/rekeyd", mount.name),
        json!({
            "bound_service_account_names": ["rekeyd"],
            "bound_service_account_namespaces": ["rekeyd"],
            "token_policies": [bench.policy.name],
            "token_ttl": "1h",
        }),
    );
    let token_file = bench.folder.path().join("jwt");
    std::fs::write(&token_file, jwt("rekeyd", "rekeyd")).expect("a token file");
    let open = |role: &str| {
        let auth =
            KubernetesAuth { mount: mount.name.clone(), role: role.into(), token_file: token_file.clone() };
        VaultStore::open(&VaultSettings { auth: VaultAuth::Kubernetes(auth), ..bench.settings() })
            .expect("a store")
    };
    promote(&open("rekeyd"), "apps/a", "app_a", "one", None).await.expect("a promotion");
    let failure = read_failure(&open("other"), "apps/a").await;
    assert_failed(&failure, FailureClass::Denied, "refuses the login");
    std::fs::write(&token_file, jwt("somebody", "else")).expect("a token file");
    let failure = read_failure(&open("rekeyd"), "apps/a").await;
    assert_failed(&failure, FailureClass::Denied, "refuses the login");
}

#[tokio::test]
async fn a_namespace_is_a_place_of_its_own() {
    let bench = Bench::new();
    let namespace = unique("namespace");
    bench.server.make("POST", &format!("sys/namespaces/{namespace}"), json!({}));
    bench.server.enable_kv(&format!("{namespace}/"), &bench.mount.name, 2);
    let policy = sample_policy(&bench.mount.name);
    let path = format!("{namespace}/sys/policies/acl/rekeyd");
    bench.server.make("PUT", &path, json!({"policy": policy}));
    let path = format!("{namespace}/auth/token/create");
    let token = bench.server.make("POST", &path, json!({"policies": ["rekeyd"]}));
    bench.write_token(token["auth"]["client_token"].as_str().expect("a token"));

    let settings = VaultSettings { namespace: Some(namespace.clone()), ..bench.settings() };
    let store = VaultStore::open(&settings).expect("a store");
    promote(&store, "apps/a", "app_a", "inside", None).await.expect("a promotion");
    assert_eq!(current(&store, "apps/a").await.map(|found| found.1).as_deref(), Some("inside"));
    bench.write_token(&bench.token(json!({})));
    assert!(current(&bench.store(), "apps/a").await.is_none(), "it was written outside of the namespace");
    bench.server.make("DELETE", &format!("sys/namespaces/{namespace}"), json!({}));
}

/// An AppRole in a namespace of its own: the server lists the tokens of a namespace alone, and among those of
/// a whole run one that lives for seconds would be gone before it is found.
struct Role<'a> {
    bench: &'a Bench,
    namespace: String,
}

impl<'a> Role<'a> {
    fn new(bench: &'a Bench, options: Value) -> Self {
        let role = Self { bench, namespace: unique("role") };
        bench.server.make("POST", &format!("sys/namespaces/{}", role.namespace), json!({}));
        bench.server.enable_kv(&format!("{}/", role.namespace), &bench.mount.name, 2);
        let policy = sample_policy(&bench.mount.name);
        role.make("PUT", "sys/policies/acl/rekeyd", json!({"policy": policy}));
        role.make("POST", "sys/auth/approle", json!({"type": "approle"}));
        let mut body = json!({"token_policies": ["rekeyd"], "token_no_default_policy": true});
        body.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
        role.make("POST", "auth/approle/role/rekeyd", body);
        let id = role.make("GET", "auth/approle/role/rekeyd/role-id", json!({}));
        let id = id["data"]["role_id"].as_str().expect("an id");
        std::fs::write(bench.folder.path().join("role-id"), id).expect("a file");
        role.write_secret_id();
        role
    }

    /// Calls the API of the namespace as root.
    #[track_caller]
    fn make(&self, method: &str, path: &str, body: Value) -> Value {
        self.bench.server.make(method, &format!("{}/{path}", self.namespace), body)
    }

    fn write_secret_id(&self) {
        let id = self.make("POST", "auth/approle/role/rekeyd/secret-id", json!({}));
        let id = id["data"]["secret_id"].as_str().expect("an id");
        std::fs::write(self.bench.folder.path().join("secret-id"), id).expect("a file");
    }

    fn store(&self) -> VaultStore {
        let folder = self.bench.folder.path();
        let auth = AppRoleAuth {
            mount: "approle".into(),
            role_id_file: folder.join("role-id"),
            secret_id_file: folder.join("secret-id"),
        };
        let settings = VaultSettings {
            auth: VaultAuth::AppRole(auth),
            namespace: Some(self.namespace.clone()),
            ..self.bench.settings()
        };
        VaultStore::open(&settings).expect("a store")
    }

    /// The accessors of the role's living tokens.
    fn tokens(&self) -> Vec<String> {
        let path = format!("{}/auth/token/accessors", self.namespace);
        // An empty list is answered with 404.
        let (_, listed) = self.bench.server.call("LIST", &path, json!({}));
        let accessors = listed["data"]["keys"].as_array().cloned().unwrap_or_default();
        accessors.iter().map(|accessor| accessor.as_str().expect("text").into()).collect()
    }

    fn revoke_tokens(&self) {
        for accessor in self.tokens() {
            self.make("POST", "auth/token/revoke-accessor", json!({"accessor": accessor}));
        }
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        self.bench.server.call("DELETE", &format!("sys/namespaces/{}", self.namespace), json!({}));
    }
}

/// A login method that goes with the test.
struct AuthMount<'a> {
    bench: &'a Bench,
    name: String,
}

impl<'a> AuthMount<'a> {
    fn new(bench: &'a Bench, kind: &str) -> Self {
        let name = unique(kind);
        bench.server.make("POST", &format!("sys/auth/{name}"), json!({"type": kind}));
        Self { bench, name }
    }
}

impl Drop for AuthMount<'_> {
    fn drop(&mut self) {
        self.bench.server.call("DELETE", &format!("sys/auth/{}", self.name), json!({}));
    }
}

/// An authority that nobody knows.
pub(crate) fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["cluster".into()])
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("a certificate");
    certificate.pem()
}

/// A service account's token, unsigned: the stand-in for the cluster knows it by its content.
fn jwt(namespace: &str, name: &str) -> String {
    let claims = json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": "1",
        "kubernetes.io/serviceaccount/secret.name": "token",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    });
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.{}", part(json!({"alg": "RS256"})), part(claims), URL_SAFE_NO_PAD.encode("signature"))
}

/// Answers TokenReviews as a cluster would that knows one service account. Ends with the process.
fn token_review(namespace: &str, name: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let known = jwt(namespace, name);
    let username = format!("system:serviceaccount:{namespace}:{name}");
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(client.try_clone().expect("a socket"));
            let mut length = 0;
            for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().expect("a length");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let review: Value = serde_json::from_slice(&body).expect("a review");
            let authenticated = review["spec"]["token"].as_str() == Some(known.as_str());
            let answer = json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "status": {"authenticated": authenticated, "user": {"username": username, "uid": "1"}},
            })
            .to_string();
            let head = format!(
                "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                answer.len()
            );
            let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(answer.as_bytes()));
        }
    });
    address
}

/// Looks until something that takes its time has happened.
async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < deadline, "it did not come to pass that {what}");
        SystemClock.sleep(Duration::from_millis(50)).await;
    }
}
