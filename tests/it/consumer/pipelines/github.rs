//! A secret of GitHub Actions, and the mark in a variable beside it.

use std::sync::Arc;

use rekeyd::consumer::{Consumer, Observed, Published, Reach};
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ident::Version;
use serde_json::{Value, json};

use super::super::assert_refused;
use super::super::contract::{Fixture, Publication, consumer_contract, policy, publish, value};
use super::{ADMIN, Site};
use crate::providers_support::github_actions::{ENVIRONMENT, GitHubActions, ORGANISATION, REPOSITORY, Sites};
use crate::providers_support::{Fate, INMOST};

// Of two that publish at once `races` tells, in an order that is the test's.
consumer_contract!(Secret::new().await, raced elsewhere);

pub(super) const NAME: &str = "ORDERS_DB";
pub(super) const MARK: &str = "ORDERS_DB_REKEYD";

struct Secret {
    site: Site,
    sites: Sites,
    at: &'static str,
}

impl Secret {
    async fn new() -> Self {
        Self::with(json!({})).await
    }

    /// Says more than where the secret is.
    async fn with(more: Value) -> Self {
        let of = json!({"owner": "Acme", "repository": "orders", "name": NAME});
        Self::of("github-secret", REPOSITORY, of, more).await
    }

    async fn of(recipe: &str, at: &'static str, parameters: Value, more: Value) -> Self {
        let (provider, sites) = GitHubActions::new(ADMIN);
        let mut fields = json!({"parameters": parameters});
        fields.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        Self { site: Site::new(recipe, provider, fields).await, sites, at }
    }

    fn with_kept<T>(&self, work: impl FnOnce(&mut crate::providers_support::github_actions::Site) -> T) -> T {
        work(self.sites.lock().expect("no panic").get_mut(self.at).expect("the site"))
    }

    fn mark(&self) -> Option<String> {
        self.with_kept(|kept| Some(kept.variables.get(MARK)?["value"].as_str()?.to_owned()))
    }

    fn set_mark(&self, text: &str) {
        self.with_kept(|kept| kept.variables.insert(MARK.into(), json!({"name": MARK, "value": text})));
    }

    /// Somebody writes it so many seconds later.
    fn put(&self, value: &str, seconds: i64) {
        self.with_kept(|kept| {
            let last = kept.secrets.get(NAME).map(|secret| secret.updated_at.as_second());
            let at = jiff::Timestamp::from_second(last.unwrap_or(1_767_225_600) + seconds).expect("a time");
            let secret = crate::providers_support::github_actions::Secret {
                value: value.as_bytes().to_vec(),
                updated_at: at,
                said: Value::Null,
            };
            kept.secrets.insert(NAME.into(), secret);
        });
    }

    /// The requests that arrived, each by its method and what it is about.
    fn requests(&self) -> Vec<String> {
        let short = |request: String| {
            let (method, path) = request.split_once(' ').expect("a method");
            let about = ["public-key", "secrets", "variables"].into_iter().find(|part| path.contains(part));
            format!("{method} {}", about.unwrap_or(path))
        };
        self.site.stub.requests().into_iter().map(short).collect()
    }
}

impl Fixture for Secret {
    fn open(&self) -> Arc<dyn Consumer> {
        Arc::new(self.site.consumer())
    }

    /// What a job is given.
    fn shown(&self) -> Option<String> {
        self.with_kept(|kept| Some(String::from_utf8(kept.secrets.get(NAME)?.value.clone()).expect("text")))
    }

    fn told(&self) -> Option<usize> {
        None
    }

    fn tamper(&self) {
        self.put("somebody's", 1);
    }
}

#[tokio::test]
async fn the_mark_is_written_before_the_secret_and_after_it() {
    let secret = Secret::new().await;
    assert_eq!(publish(&secret.site.consumer(), 1).await, Ok(Published::Now));
    assert_eq!(
        secret.requests(),
        [
            "GET secrets",
            "GET variables",
            "POST variables",
            "GET public-key",
            "GET variables",
            "PUT secrets",
            "GET secrets",
            "GET variables",
            "PATCH variables",
            "GET variables"
        ]
    );
    let at = secret.with_kept(|kept| kept.secrets[NAME].updated_at);
    assert_eq!(secret.mark(), Some(format!("{at} [rekeyd policy=contract/consumer version=1]")));
    assert_eq!(secret.shown(), Some(value(1)));
    assert_eq!(publish(&secret.site.consumer(), 1).await, Ok(Published::Already(None)));
    assert_eq!(secret.requests(), ["GET secrets", "GET variables"]);
    assert_eq!(
        secret.site.consumer().label(),
        format!("GitHub secret {NAME} of acme/orders at {}", secret.site.stub.address)
    );
}

#[tokio::test]
async fn secrets_of_an_environment_and_of_an_organization() {
    let of = json!({"owner": "acme", "repository": "orders", "environment": "production", "name": NAME});
    let secret = Secret::of("github-environment-secret", ENVIRONMENT, of, json!({})).await;
    publish(&secret.site.consumer(), 1).await.expect("published");
    assert_eq!(secret.shown(), Some(value(1)));

    for (more, said) in [
        (json!({"visibility": "private"}), json!({"visibility": "private"})),
        (json!({"visibility": "all"}), json!({"visibility": "all"})),
        (
            json!({"visibility": "selected", "repositories": [4, 2]}),
            json!({"visibility": "selected", "selected_repository_ids": [4, 2]}),
        ),
    ] {
        let mut of = json!({"organization": "acme", "name": NAME});
        of.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        let secret = Secret::of("github-organization-secret", ORGANISATION, of, json!({})).await;
        for version in 1..3 {
            publish(&secret.site.consumer(), version).await.expect("published");
            assert_eq!(secret.shown(), Some(value(version)));
        }
        let mut sent = secret.with_kept(|kept| kept.secrets[NAME].said.clone());
        let sent = sent.as_object_mut().expect("a map");
        sent.retain(|name, _| name != "encrypted_value" && name != "key_id");
        assert_eq!(json!(sent), said);
    }
}

#[tokio::test]
async fn what_others_wrote_is_left_alone() {
    let secret = Secret::new().await;
    secret.put("theirs", 0);
    let refused = publish(&secret.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Conflict, "rekeyd did not write it");
    assert_eq!((secret.shown().as_deref(), secret.mark()), (Some("theirs"), None));
    // A variable of that name that is somebody's, too.
    let secret = Secret::new().await;
    secret.set_mark("theirs");
    let refused = publish(&secret.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Conflict, "rekeyd did not write it");
    assert_eq!((secret.shown(), secret.mark().as_deref()), (None, Some("theirs")));

    let secret = Secret::with(json!({"adopt": true})).await;
    secret.put("theirs", 0);
    assert_eq!(publish(&secret.site.consumer(), 1).await, Ok(Published::Now));
    assert_eq!(secret.shown(), Some(value(1)));
    let absent = Secret::with(json!({"create": false})).await;
    assert_refused(publish(&absent.site.consumer(), 1).await, FailureClass::Invalid, "there is none");
    assert_eq!((absent.shown(), absent.mark()), (None, None));
}

#[tokio::test]
async fn a_change_by_somebody_else_is_seen_by_its_time() {
    let secret = Secret::new().await;
    publish(&secret.site.consumer(), 1).await.expect("published");
    let at = Publication::new("contract/consumer", 1);
    assert_eq!(secret.site.consumer().reach(at.request()).await, Ok(Reach::Moved));
    secret.tamper();
    let reach = secret.site.consumer().reach(at.request()).await.expect("looked at");
    assert!(matches!(reach, Reach::Moving(_)), "{reach:?}");
    assert_eq!(secret.site.consumer().observe(&policy()).await, Ok(Observed::default()));
    assert_eq!(publish(&secret.site.consumer(), 1).await, Ok(Published::Now));
    assert_eq!(secret.shown(), Some(value(1)));
    // It is taken away.
    secret.with_kept(|kept| kept.secrets.clear());
    assert_eq!(secret.site.consumer().observe(&policy()).await, Ok(Observed::default()));
    assert_eq!(publish(&secret.site.consumer(), 1).await, Ok(Published::Now));
    let both = Version::new(1);
    let observed = secret.site.consumer().observe(&policy()).await;
    assert_eq!(observed, Ok(Observed { published: both, reloaded: both }));
    // So is its mark: whose it is cannot be told.
    secret.with_kept(|kept| kept.variables.clear());
    let refused = publish(&secret.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Conflict, "rekeyd did not write it");
}

/// Whatever a process dies at, the next one does the rest, and an earlier version is refused.
#[tokio::test]
async fn a_publication_that_was_cut_short_is_done_again() {
    for (request, is_written) in
        [(("PATCH", "variables"), false), (("GET", "public-key"), false), (("PUT", "secrets"), true)]
    {
        let secret = Secret::new().await;
        publish(&secret.site.consumer(), 1).await.expect("published");
        secret.site.stub.next(request, Fate::LoseReply);
        publish(&secret.site.consumer(), 2).await.expect_err("it was cut short");
        assert_eq!(secret.shown(), Some(value(if is_written { 2 } else { 1 })), "{request:?}");
        assert!(secret.mark().is_some_and(|mark| mark.starts_with("writing ")), "{:?}", secret.mark());
        assert_eq!(secret.site.consumer().observe(&policy()).await, Ok(Observed::default()));
        let refused = publish(&secret.site.consumer(), 1).await;
        assert_refused(refused, FailureClass::Conflict, "it holds v2 already");
        assert_eq!(publish(&secret.site.consumer(), 2).await, Ok(Published::Now));
        assert_eq!(secret.shown(), Some(value(2)));
    }
    // The last write of the mark.
    let secret = Secret::new().await;
    publish(&secret.site.consumer(), 1).await.expect("published");
    secret.site.stub.next(("PATCH", "variables"), Fate::Fails(502));
    let failure = publish(&secret.site.consumer(), 2).await.expect_err("it was cut short");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
}

/// What another process did between one's own write and the look after it is said in the mark.
#[tokio::test]
async fn whoever_finds_anothers_mark_after_its_write_says_so_there() {
    let secret = Secret::new().await;
    publish(&secret.site.consumer(), 1).await.expect("published");
    // The second look at the mark shows this process's own, the third one another's: as if that had come between.
    let consumer = secret.site.consumer();
    let stub = &secret.site.stub;
    let theirs = "{\"name\":\"M\",\"value\":\"writing x [rekeyd policy=contract/consumer version=3]\"}";
    stub.answer_nth(("GET", "variables"), 2, Fate::Says(200, theirs));
    let refused = publish(&consumer, 2).await;
    assert_refused(refused, FailureClass::Conflict, "it is being given v3 by somebody else");
    let mark = secret.mark().expect("a mark");
    assert!(mark.starts_with("disturbed ") && mark.ends_with("version=3]"), "{mark}");
    assert_eq!(publish(&secret.site.consumer(), 3).await, Ok(Published::Now));
    assert_eq!(secret.shown(), Some(value(3)));

    // At its last look, after it settled its own: the other one may have looked before that, and believe the value its own.
    let settled =
        "{\"name\":\"M\",\"value\":\"2026-01-01T00:00:00Z [rekeyd policy=contract/consumer version=5]\"}";
    stub.answer_nth(("GET", "variables"), 3, Fate::Says(200, settled));
    let refused = publish(&consumer, 4).await;
    assert_refused(refused, FailureClass::Conflict, "it is being given v5 by somebody else");
    let mark = secret.mark().expect("a mark");
    assert!(mark.starts_with("disturbed ") && mark.ends_with("version=5]"), "{mark}");
    assert_eq!(publish(&secret.site.consumer(), 5).await, Ok(Published::Now));

    // Where it does not learn whether its value was written: it may be, and over the other one's.
    stub.next(("PUT", "secrets"), Fate::LoseReply);
    let theirs_now = "{\"name\":\"M\",\"value\":\"writing x [rekeyd policy=contract/consumer version=7]\"}";
    stub.answer_nth(("GET", "variables"), 2, Fate::Says(200, theirs_now));
    let refused = publish(&consumer, 6).await;
    assert_refused(refused, FailureClass::Conflict, "it is being given v7 by somebody else");
    assert!(secret.mark().is_some_and(|mark| mark.starts_with("disturbed ")), "{:?}", secret.mark());
    assert_eq!(publish(&secret.site.consumer(), 7).await, Ok(Published::Now));

    // Before its write: nothing is written.
    stub.answer_nth(("GET", "variables"), 1, Fate::Says(200, theirs_now));
    let failure = publish(&secret.site.consumer(), 8).await.expect_err("another process is at it");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert_eq!(failure.reason(), "somebody else writes it at the same time");
    assert_eq!(secret.shown(), Some(value(7)));
}

#[tokio::test]
async fn what_github_answers_is_told_apart() {
    for (fate, class, reason) in [
        (Fate::Throttled, FailureClass::Unavailable, "asked too often"),
        (Fate::TooMany, FailureClass::Unavailable, "asked too often"),
        (Fate::Limited(403), FailureClass::Unavailable, "asked too often"),
        (Fate::Limited(429), FailureClass::Unavailable, "asked too often"),
        (Fate::Says(403, "{\"message\":\"no\"}"), FailureClass::Denied, "the admin may not do that"),
        (Fate::Html(404), FailureClass::Unavailable, "a page for people"),
        (Fate::Html(200), FailureClass::Unavailable, "a page for people"),
        (Fate::Fails(502), FailureClass::Unavailable, "answers 502"),
        (Fate::Says(200, "{}"), FailureClass::Unavailable, "has not what the recipe looks for"),
        (Fate::Elsewhere, FailureClass::Invalid, "sends requests elsewhere"),
    ] {
        for request in [("GET", "secrets/ORDERS"), ("GET", "variables"), ("GET", "public-key")] {
            let secret = Secret::new().await;
            secret.site.stub.next(request, fate);
            let failure = publish(&secret.site.consumer(), 1).await.expect_err("no answer");
            assert_eq!(failure.class(), class, "{request:?} {fate:?}: {failure}");
            assert!(failure.reason().contains(reason), "{request:?} {fate:?}: {failure}");
            assert!(!format!("{failure:?}").contains(INMOST), "{failure:?}");
            assert_eq!(secret.shown(), None, "{fate:?}");
            publish(&secret.site.consumer(), 1).await.expect("published");
        }
    }
    for (fate, class) in [
        (Fate::Throttled, FailureClass::Unavailable),
        (Fate::Limited(403), FailureClass::Unavailable),
        (Fate::Says(422, "{\"message\":\"Validation Failed\"}"), FailureClass::Invalid),
        (Fate::Fails(500), FailureClass::Ambiguous),
        (Fate::Html(502), FailureClass::Ambiguous),
        (Fate::DoneAndHtml, FailureClass::Ambiguous),
        (Fate::LoseReply, FailureClass::Ambiguous),
        (Fate::Silence, FailureClass::Ambiguous),
    ] {
        let secret = Secret::new().await;
        publish(&secret.site.consumer(), 1).await.expect("published");
        secret.site.stub.next(("PUT", ""), fate);
        let failure = publish(&secret.site.hasty(), 2).await.expect_err("no answer");
        assert_eq!(failure.class(), class, "{fate:?}: {failure}");
        assert!(!format!("{failure:?}").contains("the-value-of"), "{failure:?}");
        assert_eq!(publish(&secret.site.consumer(), 2).await, Ok(Published::Now));
        assert_eq!(secret.shown(), Some(value(2)));
    }
}

#[tokio::test]
async fn a_repository_that_nobody_may_see_is_told_from_a_secret_that_is_not_there() {
    let mut secret = Secret::new().await;
    secret.site.set("repository", json!("order"));
    let at = Publication::new("contract/consumer", 1);
    let refused = secret.site.consumer().rehearse(at.request()).await;
    assert_refused(refused, FailureClass::Invalid, "there is no such repository");
    let findings = secret.site.consumer().preflight(&policy()).await;
    assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
    secret.site.set("repository", json!("orders"));
    let refused = publish(&secret.site.consumer_as("wrong"), 1).await;
    assert_refused(refused, FailureClass::Denied, "GitHub refuses the admin credential");
    let refused = publish(&secret.site.consumer_as("without-rights"), 1).await;
    assert_refused(refused, FailureClass::Denied, "the admin may not do that");
    secret.site.set("name", json!("1ST"));
    assert_refused(
        publish(&secret.site.consumer(), 1).await,
        FailureClass::Invalid,
        "does not take what was sent",
    );
    let large = Secret::with(json!({"content": "{{ value }}".repeat(2_300)})).await;
    let refused = large.site.consumer().rehearse(at.request()).await;
    assert_refused(refused, FailureClass::Invalid, "49152 are the most");
}
