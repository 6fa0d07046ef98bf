//! In the place of an API server, for the tokens of service accounts.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rekeyd::failure::Verdict;
use rekeyd::kubernetes::Clusters;
use rekeyd::policy::spec::{BoundSpec, Interval, LongLivedSpec, ServiceAccountSpec, ServiceAccountStrategy};
use rekeyd::settings::{ClusterSettings, KubeconfigSettings, LimitSettings};
use rekeyd::target::service_account::ServiceAccountTarget;
use rekeyd::target::{LastUse, MintRequest, Minted, PreflightRequest, Retired};
use serde_json::{Value, json};

use super::*;
use crate::keys_contract::request;
use crate::stranger::{Asked, Stranger};

const ACCOUNT: &str = "GET /api/v1/namespaces/orders/serviceaccounts/deployer";
const SECRETS: &str = "POST /api/v1/namespaces/orders/secrets";
const TOKEN: &str = "POST /api/v1/namespaces/orders/serviceaccounts/deployer/token";
const REVIEW: &str = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
const READ: &str = "GET /api/v1/namespaces/orders/secrets/deployer-token-1";
const DELETE: &str = "DELETE /api/v1/namespaces/orders/secrets/deployer-token-1";
const LIST: &str = "GET /api/v1/namespaces/orders/secrets?";

fn long_lived() -> ServiceAccountStrategy {
    ServiceAccountStrategy::LongLived(LongLivedSpec {})
}

fn bound() -> ServiceAccountStrategy {
    let expiration = Interval::from_duration(Duration::from_secs(3_600));
    ServiceAccountStrategy::Bound(BoundSpec { expiration })
}

/// The account's tokens at whoever listens there, whom this authority vouches for.
fn target(
    url: &str,
    authority: &str,
    strategy: ServiceAccountStrategy,
) -> (ServiceAccountTarget, tempfile::NamedTempFile) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "main", "user": "rekeyd"}}],
        "clusters": [{"name": "main", "cluster": {
            "server": url, "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": "rekeyd", "user": {"token": "hunter2"}}],
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), config.to_string()).expect("written");
    let cluster: rekeyd::ident::DnsLabel = "main".parse().expect("a name");
    let kubeconfig = KubeconfigSettings { path: file.path().to_owned(), context: None };
    let settings = BTreeMap::from([(cluster.clone(), ClusterSettings::Kubeconfig(kubeconfig))]);
    let clusters = Arc::new(Clusters::new(&settings, LimitSettings::default()));
    let spec = ServiceAccountSpec {
        cluster,
        namespace: Some("orders".parse().expect("a label")),
        service_account: name("deployer"),
        strategy,
    };
    (ServiceAccountTarget::new(spec, clusters), file)
}

fn status(code: u16, reason: &str, message: &str) -> Manner {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code,
    });
    Manner::json(code, &status)
}

/// An API server with the account and one token, in which requests that begin with one of these have another end.
async fn server(other: Vec<(&'static str, Manner)>) -> Stranger {
    let secret = |data: Value| {
        Manner::json(
            200,
            &json!({
                "apiVersion": "v1", "kind": "Secret", "data": data,
                "metadata": {
                    "name": "deployer-token-1", "namespace": "orders", "uid": "1",
                    "labels": {"rekeyd.dev/token-of": "deployer"},
                },
            }),
        )
    };
    Stranger::serve(move |asked: &Asked| {
        // The library asks for no more than metadata with a parameter of its own.
        if let Some((_, manner)) = other.iter().find(|(begin, _)| asked.line.starts_with(begin)) {
            return manner.clone();
        }
        match asked.line.split('?').next().unwrap_or_default() {
            ACCOUNT => Manner::json(
                200,
                &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "deployer"}}),
            ),
            SECRETS | READ => secret(json!({"token": STANDARD.encode("a token")})),
            DELETE => Manner::json(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
            TOKEN => Manner::json(
                201,
                &json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                    "spec": {"audiences": []},
                    "status": {"token": "a token", "expirationTimestamp": "2030-01-01T00:00:00Z"},
                }),
            ),
            REVIEW => Manner::json(
                201,
                &json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
                    "status": {"userInfo": {"username": "system:serviceaccount:orders:deployer"}},
                }),
            ),
            other => panic!("what is this: {other}"),
        }
    })
    .await
}

async fn mint(stranger: &Stranger, strategy: ServiceAccountStrategy) -> Result<Minted, Failure> {
    let (target, _file) = target(&stranger.url(), "", strategy);
    let (owner, step) = (name("deployer"), Step::new(1));
    target.mint(request(&step, &owner, None)).await.map_err(untold)
}

fn is_deleted(stranger: &Stranger) -> bool {
    stranger.requests().iter().any(|line| line.starts_with(DELETE))
}

/// Each right that is missing is named, with what to do about it; a Secret without a token is not left behind.
#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let denied = |what: &str, resource: &str| {
        let who = "User \"system:serviceaccount:rekeyd:rekeyd\" cannot";
        let place = "in API group \"\" in the namespace \"orders\"";
        let message = format!("{resource} is forbidden: {who} {what} resource \"{resource}\" {place}");
        status(403, "Forbidden", &message)
    };
    for (request, right) in [
        (ACCOUNT, denied("get", "serviceaccounts")),
        (SECRETS, denied("create", "secrets")),
        (TOKEN, denied("create", "serviceaccounts/token")),
    ] {
        let Manner::Says(_, _, text) = &right else { unreachable!("it is said") };
        let wanted = if text.contains("cannot get") { "to get resource" } else { "to create resource" };
        // What is longer begins with the same.
        let others = [(TOKEN, right.clone()), (request, right.clone())];
        let stranger = server(others[usize::from(request != TOKEN)..].to_vec()).await;
        let failure = mint(&stranger, bound()).await.expect_err("it is not allowed");
        assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
        assert!(failure.reason().contains(wanted), "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("Role")), "{failure:?}");
        assert_eq!(is_deleted(&stranger), request == TOKEN, "{request}");
    }
    for (request, what) in [(READ, "get"), (DELETE, "delete")] {
        let stranger = server(vec![(request, denied(what, "secrets"))]).await;
        let (target, _file) = target(&stranger.url(), "", bound());
        let failure =
            retire(&target, &name("deployer-token-1"), Extent::Principal).await.expect("it is denied");
        assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
        assert!(failure.reason().contains(&format!("to {what} resource")), "{failure}");
    }
    let stranger = server(vec![(LIST, denied("list", "secrets"))]).await;
    let (target, _file) = target(&stranger.url(), "", bound());
    let failure = untold(target.keys(&name("deployer")).await.expect_err("it is denied"));
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
}

#[tokio::test]
async fn a_token_that_is_not_given_leaves_no_secret() {
    let busy =
        Manner::Says(429, "Retry-After: 1\r\nContent-Type: text/plain\r\n", "Too many requests".into());
    for (manner, class) in [
        (busy, FailureClass::Unavailable),
        (status(429, "TooManyRequests", INMOST), FailureClass::Unavailable),
        (status(404, "NotFound", INMOST), FailureClass::Conflict),
        (status(422, "Invalid", INMOST), FailureClass::Invalid),
        (status(500, "InternalError", INMOST), FailureClass::Ambiguous),
        (status(503, "ServiceUnavailable", INMOST), FailureClass::Unavailable),
        (Manner::page(200), FailureClass::Ambiguous),
        (Manner::page(403), FailureClass::Unavailable),
        (Manner::page(404), FailureClass::Unavailable),
        (Manner::page(502), FailureClass::Ambiguous),
        (Manner::HangsUp, FailureClass::Ambiguous),
        (Manner::Breaks, FailureClass::Ambiguous),
        (Manner::Noise, FailureClass::Ambiguous),
        (Manner::Endless, FailureClass::Ambiguous),
    ] {
        let stranger = server(vec![(TOKEN, manner.clone())]).await;
        let failure = mint(&stranger, bound()).await.expect_err("there is no token");
        assert_eq!(failure.class(), class, "{manner:?}: {failure}");
        assert!(is_deleted(&stranger), "{manner:?}: an empty Secret is left");
        // Where it cannot be taken back, whoever asks next has to look for it.
        let stranger = server(vec![(TOKEN, manner.clone()), (DELETE, Manner::page(502))]).await;
        let failure = mint(&stranger, bound()).await.expect_err("there is no token");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{manner:?}: {failure}");
    }
    let nothing = Manner::json(201, &json!({"spec": {"audiences": []}, "status": null}));
    let failure = mint(&server(vec![(TOKEN, nothing)]).await, bound()).await.expect_err("there is no token");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
}

/// As it does that runs with `--service-account-max-token-expiration`: a header warns of it, and nothing else.
fn shortening(seconds: i64) -> Vec<(&'static str, Manner)> {
    let at =
        |seconds: i64| jiff::Timestamp::from_second(1_893_456_000 + seconds).expect("a time").to_string();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "deployer-token-1", "namespace": "orders", "uid": "1", "creationTimestamp": at(0),
            "labels": {"rekeyd.dev/token-of": "deployer"},
        },
    });
    let token = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": seconds},
        "status": {"token": "a token", "expirationTimestamp": at(seconds)},
    });
    let none = json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": []});
    vec![
        (TOKEN, Manner::json(201, &token)),
        (SECRETS, Manner::json(201, &secret)),
        (LIST, Manner::json(200, &none)),
    ]
}

#[tokio::test]
async fn a_token_that_was_cut_short_is_not_kept() {
    let told = "the policy says that it lives 1h, and the server gives it 30m";
    let looked = async |seconds| {
        let stranger = server(shortening(seconds)).await;
        let (target, _file) = target(&stranger.url(), "", bound());
        let step = Step::new(1);
        let findings = target.preflight(PreflightRequest { policy: &step.policy, current: None }).await;
        let finding = findings.into_iter().find(|finding| finding.subject == "life of a token");
        assert!(!is_deleted(&stranger));
        finding.expect("it is looked at")
    };
    let stranger = server(shortening(1_800)).await;
    let failure = mint(&stranger, bound()).await.expect_err("it ends too early");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.reason().contains(told), "{failure}");
    assert!(is_deleted(&stranger), "its Secret is left");
    assert_eq!(looked(1_800).await.verdict, Verdict::Fail);
    // Where it cannot be taken back, whoever asks next has to look for it.
    let stranger = server([vec![(DELETE, Manner::page(502))], shortening(1_800)].concat()).await;
    let failure = mint(&stranger, bound()).await.expect_err("it ends too early");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    // A leak does not wait.
    let stranger = server(shortening(1_800)).await;
    let (leaking, _file) = target(&stranger.url(), "", bound());
    let (owner, step) = (name("deployer"), Step::new(1));
    let made = leaking.mint(MintRequest { contains: true, ..request(&step, &owner, None) }).await;
    let Ok(Minted::Short(_, reason)) = made.map_err(untold) else { panic!("it is not told") };
    assert!(reason.contains(told) && !is_deleted(&stranger), "{reason}");
    // An answer takes a moment.
    for seconds in [3_598, 3_600, 7_200] {
        let stranger = server(shortening(seconds)).await;
        assert!(mint(&stranger, bound()).await.is_ok() && !is_deleted(&stranger), "{seconds}");
        assert_eq!(looked(seconds).await.verdict, Verdict::Pass, "{seconds}");
    }
}

#[tokio::test]
async fn only_what_may_have_been_done_is_in_doubt() {
    for manner in Manner::all() {
        let stranger = server(vec![(SECRETS, manner.clone())]).await;
        let failure = mint(&stranger, long_lived()).await.expect_err("there is no Secret");
        let is_doubt = failure.class() == FailureClass::Ambiguous;
        // What is unavailable has not passed it on. Of a redirection the library says no more than that it is no answer.
        let is_certain = matches!(manner, Manner::Says(400..=499 | 503, ..));
        assert_eq!(is_doubt, !is_certain, "{manner:?}: {failure}");
        assert!(
            !stranger.requests().iter().any(|line| line.starts_with(READ)),
            "{manner:?} is taken for a Secret"
        );
    }
    assert!(mint(&server(Vec::new()).await, long_lived()).await.is_ok());
}

/// Only the API server's own word on the token is a refusal.
#[tokio::test]
async fn no_answer_of_something_else_is_a_verdict() {
    let text = |code, text: &str| Manner::Says(code, "Content-Type: text/plain\r\n", text.into());
    let gateways = [
        text(401, "Unauthorized"),
        Manner::json(401, &json!({"error": "Unauthorized", "message": INMOST})),
        Manner::json(401, &json!({"code": 401, "message": "Unauthorized"})),
        status(403, "Forbidden", INMOST),
        status(429, "TooManyRequests", INMOST),
        status(500, "InternalError", INMOST),
        Manner::Endless,
    ];
    for manner in Manner::all().into_iter().chain(gateways) {
        let stranger = server(vec![(REVIEW, manner.clone())]).await;
        let (target, _file) = target(&stranger.url(), "", bound());
        no_verdict(&target, &new("deployer-token-1"), &manner).await;
    }
    let stranger = server(vec![(REVIEW, status(401, "Unauthorized", "Unauthorized"))]).await;
    let (refusing, _file) = target(&stranger.url(), "", bound());
    let key = new("deployer-token-1");
    assert_eq!(refusing.probe(&key, ProbeDepth::Login).await, Probe::Refused);
    let stranger = server(Vec::new()).await;
    let (accepting, _file) = target(&stranger.url(), "", bound());
    assert_eq!(accepting.probe(&key, ProbeDepth::Login).await, Probe::Accepted);
}

/// Somebody deleted its Secret: there is nothing left to retire. A gateway's word is none on that.
#[tokio::test]
async fn a_token_is_gone_only_where_the_api_server_says_so() {
    let key = name("deployer-token-1");
    for request in [READ, DELETE] {
        let stranger = server(vec![(request, status(404, "NotFound", "not found"))]).await;
        let (target, _file) = target(&stranger.url(), "", bound());
        assert!(retire(&target, &key, Extent::Principal).await.is_none(), "{request}");
    }
    let stranger = server(vec![(READ, status(404, "NotFound", "not found"))]).await;
    let (gone, _file) = target(&stranger.url(), "", bound());
    assert_eq!(gone.usage(&key).await.map(|usage| usage.last), Ok(LastUse::Untold));
    for manner in Manner::all() {
        // Of what was deleted the library reads no more than whether it was.
        let is_nonsense = matches!(&manner, Manner::Says(200, head, _) if head.contains("json"));
        for request in [READ, DELETE] {
            if is_nonsense && request == DELETE {
                continue;
            }
            let stranger = server(vec![(request, manner.clone())]).await;
            let (target, _file) = target(&stranger.url(), "", bound());
            let failure = retire(&target, &key, Extent::Principal).await;
            assert!(failure.is_some(), "{request}: {manner:?} is taken for its end");
        }
    }
    let stranger = server(Vec::new()).await;
    let (there, _file) = target(&stranger.url(), "", bound());
    let step = Step::new(1);
    let retired = there
        .retire(RetireRequest {
            attempt: step.attempt(),
            principal: &key,
            extent: Extent::Principal,
            outgoing: None,
            beside: None,
        })
        .await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 0 }));
    assert!(is_deleted(&stranger));
}

#[tokio::test]
async fn who_cannot_show_who_it_is_is_told_nothing() {
    for (stranger, vouched) in impostors().await {
        let authority = std::fs::read_to_string(vouched.path()).expect("an authority");
        let url = format!("https://localhost:{}", stranger.port());
        let (target, _file) = target(&url, &authority, bound());
        let failure = no_verdict(&target, &new("deployer-token-1"), &url).await;
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        let (owner, step) = (name("deployer"), Step::new(1));
        let failure =
            untold(target.mint(request(&step, &owner, None)).await.expect_err("nobody vouches for it"));
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    }
}
