//! A variable of GitLab.

use std::sync::Arc;

use rekeyd::consumer::{Consumer, Observed, Published, Reach};
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ident::Version;
use serde_json::{Value, json};

use super::super::assert_refused;
use super::super::contract::{Fixture, Publication, consumer_contract, policy, publish, value};
use super::{ADMIN, Site};
use crate::providers_support::gitlab_variables::{GitLabVariables, Variables};
use crate::providers_support::{Fate, INMOST};

consumer_contract!(Variable::new().await);

const KEY: &str = "ORDERS_DB";

struct Variable {
    site: Site,
    variables: Variables,
}

impl Variable {
    async fn new() -> Self {
        Self::with(json!({})).await
    }

    /// Says more than where the variable is.
    async fn with(more: Value) -> Self {
        let variables = Variables::default();
        let provider = GitLabVariables { admin: ADMIN.into(), variables: Arc::clone(&variables) };
        let mut fields = json!({"parameters": {"project": 17, "key": KEY}});
        fields.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        Self { site: Site::new("gitlab-variable", provider, fields).await, variables }
    }

    fn kept(&self) -> Option<Value> {
        let scope = self.site.spec.parameters["scope"].0.as_str().expect("text").to_owned();
        self.variables.lock().expect("no panic").get(&(KEY.to_owned(), scope)).cloned()
    }

    /// Somebody changes it, or makes one.
    fn change(&self, more: Value) {
        let mut kept = self.kept().unwrap_or_else(
            || json!({"key": KEY, "value": "somebody's", "masked": false, "protected": false, "hidden": false,
                      "raw": false, "environment_scope": "*", "variable_type": "env_var", "description": null}),
        );
        kept.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        self.variables.lock().expect("no panic").insert((KEY.into(), "*".into()), kept);
    }
}

impl Fixture for Variable {
    fn open(&self) -> Arc<dyn Consumer> {
        Arc::new(self.site.consumer())
    }

    fn shown(&self) -> Option<String> {
        Some(self.kept()?["value"].as_str().expect("text").to_owned())
    }

    fn told(&self) -> Option<usize> {
        None
    }

    /// Somebody puts another value in, and leaves the mark.
    fn tamper(&self) {
        self.change(json!({"value": "somebody's"}));
    }
}

#[tokio::test]
async fn a_variable_is_made_as_the_policy_describes_it() {
    let variable = Variable::with(json!({
        "parameters": {"project": 17, "key": KEY, "scope": "production", "protected": false, "type": "file"},
        "content": "postgres://{{ principal }}:{{ value }}@db/orders",
    }))
    .await;
    publish(&variable.site.consumer(), 1).await.expect("published");
    let whole = format!("postgres://app:{}@db/orders", value(1));
    let kept = json!({"key": KEY, "value": whole, "environment_scope": "production", "masked": true, "protected": false,
        "hidden": false, "raw": true, "variable_type": "file",
        "description": "[rekeyd policy=contract/consumer version=1]"});
    assert_eq!(variable.kept(), Some(kept));
    assert_eq!(
        variable.site.consumer().label(),
        format!("GitLab variable {KEY} of project 17 for production at {}", variable.site.stub.address)
    );
}

#[tokio::test]
async fn an_update_keeps_what_people_wrote_beside_the_mark() {
    let variable = Variable::with(json!({"adopt": true})).await;
    variable.change(json!({"description": "ask Kim"}));
    for version in 1..3 {
        assert_eq!(publish(&variable.site.consumer(), version).await, Ok(Published::Now));
        let kept = variable.kept().expect("a variable");
        let mark = format!("ask Kim [rekeyd policy=contract/consumer version={version}]");
        assert_eq!(
            (&kept["description"], &kept["masked"], &kept["raw"]),
            (&json!(mark), &json!(true), &json!(true))
        );
        assert_eq!(publish(&variable.site.consumer(), version).await, Ok(Published::Already(None)));
    }
}

#[tokio::test]
async fn what_others_wrote_is_left_alone() {
    let variable = Variable::new().await;
    variable.change(json!({}));
    let refused = publish(&variable.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Conflict, "rekeyd did not write it");
    let findings = variable.site.consumer().preflight(&policy()).await;
    assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
    variable.change(json!({"description": "[rekeyd policy=a/b]"}));
    let refused = publish(&variable.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Invalid, "cannot be read");
    assert_eq!(variable.shown().as_deref(), Some("somebody's"));
    let absent = Variable::with(json!({"create": false})).await;
    assert_refused(publish(&absent.site.consumer(), 1).await, FailureClass::Invalid, "there is none");
    assert_eq!(absent.kept(), None);
}

/// The value is compared where GitLab shows it; of a hidden variable the mark alone speaks.
#[tokio::test]
async fn another_value_under_the_same_mark_is_seen_unless_it_is_hidden() {
    let variable = Variable::new().await;
    publish(&variable.site.consumer(), 1).await.expect("published");
    let at = Publication::new("contract/consumer", 1);
    assert_eq!(variable.site.consumer().reach(at.request()).await, Ok(Reach::Moved));
    variable.tamper();
    let reach = variable.site.consumer().reach(at.request()).await.expect("looked at");
    assert!(matches!(reach, Reach::Moving(_)), "{reach:?}");
    let failure = variable.site.consumer().reload(at.request()).await.expect_err("another value is there");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert_eq!(publish(&variable.site.consumer(), 1).await, Ok(Published::Now));

    variable.change(json!({"hidden": true, "value": "somebody's"}));
    assert_eq!(publish(&variable.site.consumer(), 1).await, Ok(Published::Already(None)));
    assert_eq!(publish(&variable.site.consumer(), 2).await, Ok(Published::Now));
    assert_eq!(variable.shown(), Some(value(2)));
    let both = Version::new(2);
    let observed = variable.site.consumer().observe(&policy()).await;
    assert_eq!(observed, Ok(Observed { published: both, reloaded: both }));
}

#[tokio::test]
async fn what_gitlab_would_not_mask_is_refused_before_anything_is_changed() {
    let variable = Variable::with(json!({"content": "{{ principal }}"})).await;
    let at = Publication::new("contract/consumer", 1);
    let refused = variable.site.consumer().rehearse(at.request()).await;
    let failure = assert_refused(refused, FailureClass::Invalid, "has 3 bytes, and 8 are the least");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("masked: false")), "{failure}");
    assert_eq!(variable.site.stub.requests(), Vec::<String>::new());

    let spaces = Variable::with(json!({"content": "user {{ principal }}\n{{ value }}"})).await;
    let refused = spaces.site.consumer().rehearse(at.request()).await;
    assert_refused(refused, FailureClass::Invalid, "spaces or line breaks");
    let mut spaces = spaces;
    spaces.site.set("masked", json!(false));
    publish(&spaces.site.consumer(), 1).await.expect("published");
    assert_eq!(spaces.kept().expect("one")["masked"], json!(false));

    // A GitLab that is stricter than this recipe knows.
    let variable = Variable::new().await;
    variable.site.stub.next(("POST", ""), Fate::Says(400, "{\"message\":{\"value\":[\"is invalid\"]}}"));
    let refused = publish(&variable.site.consumer(), 1).await;
    let failure = assert_refused(refused, FailureClass::Invalid, "GitLab does not take the value");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("at least 8 characters")), "{failure}");
}

#[tokio::test]
async fn who_may_not_is_told_what_is_missing() {
    let mut variable = Variable::new().await;
    let refused = publish(&variable.site.consumer_as("wrong"), 1).await;
    assert_refused(refused, FailureClass::Denied, "GitLab refuses the admin credential");
    let refused = publish(&variable.site.consumer_as("a-developer"), 1).await;
    assert_refused(refused, FailureClass::Denied, "may not see or change");
    variable.site.set("project", json!(18));
    let refused = publish(&variable.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Invalid, "there is no such project");
    assert_eq!(variable.kept(), None);
}

#[tokio::test]
async fn what_is_no_answer_of_gitlab_is_said_and_nothing_is_written() {
    for (fate, class, reason) in [
        (Fate::Html(200), FailureClass::Unavailable, "a page for people"),
        (Fate::Html(404), FailureClass::Unavailable, "a page for people"),
        (Fate::Elsewhere, FailureClass::Invalid, "sends requests elsewhere"),
        (Fate::TooMany, FailureClass::Unavailable, "asked too often"),
        (Fate::Fails(502), FailureClass::Unavailable, "answers 502"),
        (
            Fate::Says(404, "{\"error\":\"404 Not Found\"}"),
            FailureClass::Invalid,
            "knows nothing of that kind",
        ),
        (Fate::Says(200, "{}"), FailureClass::Unavailable, "has not what the recipe looks for"),
        (Fate::LoseReply, FailureClass::Unavailable, "connection was lost"),
        (Fate::Huge, FailureClass::Unavailable, "larger than"),
    ] {
        let variable = Variable::new().await;
        variable.site.stub.next(("GET", ""), fate);
        let failure = publish(&variable.site.consumer(), 1).await.expect_err("no answer");
        assert_eq!(failure.class(), class, "{fate:?}: {failure}");
        assert!(failure.reason().contains(reason), "{fate:?}: {failure}");
        assert!(!format!("{failure:?}").contains(INMOST), "{failure:?}");
        assert_eq!(variable.kept(), None, "{fate:?}");
        publish(&variable.site.consumer(), 1).await.expect("published");
    }
}

#[tokio::test]
async fn a_write_without_an_answer_may_have_been_done_and_is_looked_for() {
    for (fate, is_done) in [
        (Fate::LoseReply, true),
        (Fate::Silence, true),
        (Fate::DoneAndHtml, true),
        (Fate::Fails(500), false),
        (Fate::Html(504), false),
    ] {
        let variable = Variable::new().await;
        publish(&variable.site.consumer(), 1).await.expect("published");
        variable.site.stub.next(("PUT", ""), fate);
        let failure = publish(&variable.site.hasty(), 2).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fate:?}: {failure}");
        assert!(!format!("{failure:?}").contains("the-value-of"), "{failure:?}");
        let again = if is_done { Published::Already(None) } else { Published::Now };
        assert_eq!(publish(&variable.site.consumer(), 2).await, Ok(again), "{fate:?}");
        assert_eq!(variable.shown(), Some(value(2)));
    }
    let variable = Variable::new().await;
    publish(&variable.site.consumer(), 1).await.expect("published");
    variable.site.stub.next(("PUT", ""), Fate::Ignored);
    let refused = publish(&variable.site.consumer(), 2).await;
    assert_refused(refused, FailureClass::Invalid, "it has not changed");
    // What was written cannot be looked at.
    let variable = Variable::new().await;
    variable.site.stub.next(("GET", ""), Fate::Says(404, "{\"message\":\"404 Variable Not Found\"}"));
    variable.site.stub.next(("GET", ""), Fate::Fails(503));
    let refused = publish(&variable.site.consumer(), 1).await;
    assert_refused(refused, FailureClass::Ambiguous, "it cannot be read back");
}

#[tokio::test]
async fn whoever_is_faster_is_seen() {
    let variable = Variable::new().await;
    publish(&variable.site.consumer(), 1).await.expect("published");
    variable.site.stub.next(("GET", ""), Fate::Says(404, "{\"message\":\"404 Variable Not Found\"}"));
    assert_eq!(publish(&variable.site.consumer(), 1).await, Ok(Published::Already(None)), "another made it");
    assert_eq!(
        variable.site.stub.requests().iter().map(|request| &request[..4]).collect::<Vec<_>>(),
        ["GET ", "POST", "GET ", "GET ", "POST", "GET "]
    );
}
