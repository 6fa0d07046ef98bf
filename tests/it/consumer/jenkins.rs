//! The Jenkins consumer: the contract, and what Jenkins and whatever stands before it can answer. On a stub.

mod answers;
mod rotation;

use std::sync::Arc;
use std::time::Duration;

use rekeyd::consumer::jenkins::{Deadlines, JenkinsConsumer};
use rekeyd::consumer::{Consumer, Observed, Published, Reach};
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ident::Version;
use rekeyd::policy::spec::JenkinsSpec;
use serde_json::{Value, json};

use super::assert_refused;
use super::contract::{Fixture, Publication, consumer_contract, policy, publish, value};
use crate::jenkins::{Jenkins, Kept, Login, PASSWORD, TOKEN};

consumer_contract!(Place::new().await);

const SYSTEM: &str = "credentials/store/system/domain/_";
const FOLDER: &str = "job/team/job/orders/credentials/store/folder/domain/_";
const ID: &str = "orders-db";

/// A Jenkins, and where a policy has its credential there.
pub(super) struct Place {
    pub(super) jenkins: Jenkins,
    pub(super) spec: Value,
    domain: &'static str,
}

impl Place {
    pub(super) async fn new() -> Self {
        Self::with(json!({})).await
    }

    /// Says more than where Jenkins is.
    pub(super) async fn with(more: Value) -> Self {
        let jenkins = Jenkins::start().await;
        let mut spec = json!({
            "url": jenkins.url(), "admin": "jenkins", "id": ID, "credential": {"usernamePassword": {}},
        });
        let domain = if more["folder"].is_string() { FOLDER } else { SYSTEM };
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Self { jenkins, spec, domain }
    }

    pub(super) fn consumer(&self) -> JenkinsConsumer {
        self.consumer_as(TOKEN)
    }

    fn consumer_as(&self, value: &'static str) -> JenkinsConsumer {
        let spec: JenkinsSpec = serde_json::from_value(self.spec.clone()).expect("a specification");
        JenkinsConsumer::new(&spec, Arc::new(Login(value))).expect("a consumer")
    }

    /// One that does not wait for long.
    pub(super) fn hasty(&self) -> JenkinsConsumer {
        let soon = Duration::from_millis(150);
        self.consumer().with_deadlines(Deadlines { connect: soon, request: soon })
    }

    pub(super) fn kept(&self) -> Option<Kept> {
        self.jenkins.kept(self.domain, ID)
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        let mut contents = self.jenkins.contents();
        let domain = contents.domains.get_mut(self.domain).expect("the domain");
        change(domain.get_mut(ID).expect("the credential"));
    }

    /// Somebody's, of the same id.
    fn put(&self, kept: Kept) {
        self.jenkins.contents().domains.get_mut(self.domain).expect("the domain").insert(ID.into(), kept);
    }
}

/// A credential that a person made.
pub(super) fn somebodys(description: &str) -> Kept {
    let fields = [
        ("scope", "SYSTEM"),
        ("id", ID),
        ("description", description),
        ("username", "somebody"),
        ("password", "somebody's password"),
        ("usernameSecret", "true"),
    ];
    Kept {
        class: "com.cloudbees.plugins.credentials.impl.UsernamePasswordCredentialsImpl".into(),
        fields: fields.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
    }
}

impl Fixture for Place {
    fn open(&self) -> Arc<dyn Consumer> {
        Arc::new(self.consumer())
    }

    fn shown(&self) -> Option<String> {
        self.kept()?.field("password").map(ToOwned::to_owned)
    }

    fn told(&self) -> Option<usize> {
        None
    }

    /// Somebody puts another user in, with the value that goes with it.
    fn tamper(&self) {
        self.change(|kept| {
            kept.set("username", "somebody");
            kept.set("password", "somebody's");
        });
    }
}

#[tokio::test]
async fn each_kind_holds_what_builds_ask_it_for() {
    let place = Place::new().await;
    publish(&place.consumer(), 1).await.expect("published");
    let kept = place.kept().expect("a credential");
    assert_eq!((kept.field("username"), kept.field("password")), (Some("app"), Some(&*value(1))));
    assert_eq!((kept.field("scope"), kept.field("id")), (Some("GLOBAL"), Some(ID)));
    assert_eq!(kept.field("description"), Some("[rekeyd policy=contract/consumer version=1]"));

    let text = json!({"secretText": {"content": "postgres://{{ principal }}:{{ value }}@db/<&>"}});
    let place = Place::with(json!({"credential": text, "scope": "system"})).await;
    publish(&place.consumer(), 1).await.expect("published");
    let kept = place.kept().expect("a credential");
    assert_eq!(kept.class, "org.jenkinsci.plugins.plaincredentials.impl.StringCredentialsImpl");
    let whole = format!("postgres://app:{}@db/<&>", value(1));
    assert_eq!((kept.field("secret"), kept.field("scope")), (Some(&*whole), Some("SYSTEM")));

    let file = json!({"file": {"name": "db.env", "content": "DB={{ value }}\r\n"}});
    let place = Place::with(json!({"credential": file, "folder": "team/orders"})).await;
    publish(&place.consumer(), 1).await.expect("published");
    let kept = place.kept().expect("a credential, in the folder's store");
    use base64::Engine as _;
    let bytes = kept.field("secretBytes").expect("its content");
    let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).expect("base64");
    assert_eq!(bytes, format!("DB={}\r\n", value(1)).into_bytes());
    assert_eq!(kept.field("fileName"), Some("db.env"));
    assert_eq!(
        place.consumer().label(),
        format!("Jenkins credential {}/ci:team/orders/{ID}", place.jenkins.address)
    );
}

#[tokio::test]
async fn an_update_keeps_what_people_set_beside_it() {
    let place = Place::with(json!({"adopt": true})).await;
    place.put(somebodys("Orders <db> & more\n- ask Kim"));
    for version in 1..4 {
        assert_eq!(publish(&place.consumer(), version).await, Ok(Published::Now));
        let kept = place.kept().expect("a credential");
        let mark = format!("[rekeyd policy=contract/consumer version={version}]");
        assert_eq!(kept.field("description"), Some(&*format!("Orders <db> & more\n- ask Kim {mark}")));
        assert_eq!((kept.field("scope"), kept.field("usernameSecret")), (Some("SYSTEM"), Some("true")));
        assert_eq!((kept.field("username"), kept.field("password")), (Some("app"), Some(&*value(version))));
        assert_eq!(publish(&place.consumer(), version).await, Ok(Published::Already(None)));
    }
}

#[tokio::test]
async fn what_others_wrote_is_left_alone() {
    let place = Place::new().await;
    place.put(somebodys("theirs"));
    let failure = assert_refused(
        publish(&place.consumer(), 1).await,
        FailureClass::Conflict,
        "rekeyd did not write it",
    );
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("Configuration as Code")), "{failure}");
    let findings = place.consumer().preflight(&policy()).await;
    assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");

    for mark in ["[rekeyd policy=a/b]", "[rekeyd policy=contract/consumer version=1] [rekeyd "] {
        place.change(|kept| kept.set("description", mark));
        assert_refused(publish(&place.consumer(), 1).await, FailureClass::Invalid, "cannot be read");
    }
    let other = Place::with(json!({"adopt": true, "credential": {"secretText": {}}})).await;
    other.put(somebodys("theirs"));
    assert_refused(
        publish(&other.consumer(), 1).await,
        FailureClass::Invalid,
        "it is username with password",
    );
    let absent = Place::with(json!({"create": false})).await;
    assert_refused(publish(&absent.consumer(), 1).await, FailureClass::Invalid, "there is none");
    assert_eq!(place.kept().expect("theirs").field("password"), Some("somebody's password"));
    assert_eq!((other.kept(), absent.kept()), (Some(somebodys("theirs")), None));
}

/// The trap of this API.
#[tokio::test]
async fn an_update_that_is_answered_and_not_carried_out_is_noticed() {
    use crate::jenkins::Fate;
    let place = Place::new().await;
    publish(&place.consumer(), 1).await.expect("published");
    place.jenkins.next("update", Fate::Ignored);
    let failure =
        assert_refused(publish(&place.consumer(), 2).await, FailureClass::Invalid, "has not changed it");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("read-only")), "{failure}");
    assert_eq!(place.consumer().observe(&policy()).await.expect("observed").published, Version::new(1));
    publish(&place.consumer(), 2).await.expect("published");

    let place = Place::new().await;
    place.jenkins.next("create", Fate::Ignored);
    assert_refused(publish(&place.consumer(), 1).await, FailureClass::Invalid, "has not changed it");

    // The mark was right before, and what stands beside the secret was not.
    let place = Place::new().await;
    publish(&place.consumer(), 1).await.expect("published");
    place.tamper();
    place.jenkins.next("update", Fate::Ignored);
    assert_refused(publish(&place.consumer(), 1).await, FailureClass::Invalid, "has not changed it");
}

/// Jenkins shows a credential in ISO-8859-1, where nobody told its container otherwise.
#[tokio::test]
async fn what_people_wrote_in_other_letters_is_kept() {
    for text in ["Zugang für Aufträge", "База заказов – ask Kim", "why?"] {
        let place = Place::with(json!({"adopt": true})).await;
        place.put(somebodys(text));
        for version in 1..3 {
            assert_eq!(publish(&place.consumer(), version).await, Ok(Published::Now), "{text}");
            let mark = format!("[rekeyd policy=contract/consumer version={version}]");
            assert_eq!(place.kept().expect("one").field("description"), Some(&*format!("{text} {mark}")));
        }
        assert_eq!(place.consumer().observe(&policy()).await.expect("observed").published, Version::new(2));
    }
    for name in ["schlüssel.env", "ключ.env"] {
        let place =
            Place::with(json!({"credential": {"file": {"name": name, "content": "{{ value }}"}}})).await;
        assert_eq!(publish(&place.consumer(), 1).await, Ok(Published::Now), "{name}");
        assert_eq!(publish(&place.consumer(), 1).await, Ok(Published::Already(None)), "{name}");
        assert_eq!(place.kept().expect("one").field("fileName"), Some(name));
    }
}

#[tokio::test]
async fn whoever_is_faster_is_seen() {
    use crate::jenkins::Fate;
    let theirs = |version: u64| {
        let mut kept = somebodys(&format!("[rekeyd policy=contract/consumer version={version}]"));
        kept.set("username", "app");
        kept.set("password", &value(version));
        kept
    };
    let place = Place::new().await;
    place.jenkins.next("create", Fate::Overtaken(theirs(1)));
    assert_eq!(publish(&place.consumer(), 1).await, Ok(Published::Already(None)), "another process made it");
    assert_eq!(place.jenkins.requests(), ["read", "list", "create", "read"]);

    let place = Place::new().await;
    place.jenkins.next("create", Fate::Overtaken(somebodys("theirs")));
    assert_refused(publish(&place.consumer(), 1).await, FailureClass::Conflict, "rekeyd did not write it");

    // Later than what was read: whoever reads back finds it.
    let place = Place::new().await;
    publish(&place.consumer(), 1).await.expect("published");
    place.jenkins.next("read", Fate::Overtaken(theirs(1)));
    place.jenkins.next("read", Fate::Overtaken(theirs(3)));
    assert_refused(publish(&place.consumer(), 2).await, FailureClass::Conflict, "it holds v3 already");
    assert_eq!(place.shown(), Some(value(3)));
    // A late write of an earlier version is written over.
    place.put(theirs(2));
    let at = Publication::new("contract/consumer", 3);
    let reach = place.consumer().reach(at.request()).await.expect("looked at");
    assert!(matches!(reach, Reach::Moving(_)), "{reach:?}");
    assert_eq!(publish(&place.consumer(), 3).await, Ok(Published::Now));
    assert_eq!(place.consumer().reach(at.request()).await, Ok(Reach::Moved));
    let both = Version::new(3);
    assert_eq!(place.consumer().observe(&policy()).await, Ok(Observed { published: both, reloaded: both }));
}

#[tokio::test]
async fn a_preflight_says_which_right_is_missing() {
    let place = Place::new().await;
    let verdicts = async |place: &Place| -> Vec<Verdict> {
        place.consumer().preflight(&policy()).await.into_iter().map(|finding| finding.verdict).collect()
    };
    for right in ["Create", "Update"] {
        assert_eq!(verdicts(&place).await, [Verdict::Pass, Verdict::Pass]);
        place.jenkins.contents().lacks = [right].into();
        let findings = place.consumer().preflight(&policy()).await;
        assert_eq!(findings[1].verdict, Verdict::Fail, "{findings:?}");
        assert!(findings[1].detail.contains(&format!("Credentials/{right}")), "{findings:?}");
        let refused = publish(&place.consumer(), 1).await;
        assert_refused(refused, FailureClass::Denied, &format!("Credentials/{right} is missing"));
        place.jenkins.contents().lacks.clear();
        if right == "Create" {
            publish(&place.consumer(), 1).await.expect("published");
            place.change(|kept| kept.set("username", "somebody"));
        }
    }
    // Something between answers for it.
    place.jenkins.next("formless update", crate::jenkins::Fate::Answer(405, ""));
    assert_eq!(verdicts(&place).await, [Verdict::Pass, Verdict::Warn]);
    place.jenkins.contents().lacks = ["View"].into();
    assert_eq!(verdicts(&place).await, [Verdict::Fail]);
    let written =
        place.jenkins.requests().into_iter().filter(|verb| verb == "create" || verb == "update").count();
    assert_eq!(written, 3, "two refused, one done: a preflight writes nothing");
}

#[tokio::test]
async fn a_login_by_password_brings_a_crumb_when_it_is_asked_for_one() {
    let place = Place::new().await;
    publish(&place.consumer(), 1).await.expect("published");
    assert!(!place.jenkins.requests().contains(&"crumb".to_owned()), "a token needs none");
    publish(&place.consumer_as(PASSWORD), 2).await.expect("published");
    assert_eq!(place.jenkins.requests(), ["read", "update", "crumb", "update", "read"]);
    assert_eq!(place.shown(), Some(value(2)));
    place.jenkins.next("crumb", crate::jenkins::Fate::Answer(404, "no issuer"));
    let refused = publish(&place.consumer_as(PASSWORD), 3).await;
    assert_refused(refused, FailureClass::Denied, "asks for a crumb and hands out none");
    let refused = publish(&place.consumer_as("wrong"), 3).await;
    assert_refused(refused, FailureClass::Denied, "it refuses the admin credential");
}
