//! What every consumer does, whatever its readers are.
//!
//! `consumer_contract!` makes one test of each rule; the adapter's test file says how a consumer is had
//! and what its readers see.

use std::sync::Arc;

use rekeyd::consumer::{Consumer, Observed, PublishRequest, Published};
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::{PolicyName, Version};
use rekeyd::secret::{Credential, SecretValue};

/// A consumer that holds nothing yet.
pub(crate) trait Fixture: Send + Sync {
    /// A handle on it, as a process of its own would have.
    fn open(&self) -> Arc<dyn Consumer>;

    /// The value that a reader finds; `None` when there is nothing to find.
    fn shown(&self) -> Option<String>;

    /// How often readers were told to look again; `None` where nobody has to be told.
    fn told(&self) -> Option<usize>;

    /// Somebody changes what readers find.
    fn tamper(&self);
}

/// One test for each rule of the contract, on the fixture that the expression makes.
macro_rules! consumer_contract {
    ($fixture:expr) => {
        crate::consumer::contract::consumer_contract! { $fixture, raced elsewhere }
        crate::consumer::contract::consumer_contract! { $fixture; of_two_that_publish_at_once_the_newer_is_left }
    };
    // Where a test of its own says in which order two publish.
    ($fixture:expr, raced elsewhere) => {
        crate::consumer::contract::consumer_contract! { $fixture;
            nothing_is_held_before_the_first_version
            what_was_published_is_shown
            publishing_again_changes_nothing
            an_older_version_never_replaces_a_newer
            readers_are_told_once_of_each_version
            nobody_is_told_of_what_is_not_there
            what_was_changed_by_others_is_mended_and_told_again
            one_policy_does_not_write_what_another_does
            a_preflight_passes_and_changes_nothing
        }
    };
    ($fixture:expr; $($rule:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            crate::consumer::contract::$rule(&$fixture).await;
        }
    )+};
}
pub(crate) use consumer_contract;

pub(crate) async fn nothing_is_held_before_the_first_version(fixture: &impl Fixture) {
    assert_eq!(observe(fixture).await, Observed::default());
    assert_eq!(fixture.shown(), None);
}

pub(crate) async fn what_was_published_is_shown(fixture: &impl Fixture) {
    let consumer = fixture.open();
    for version in 1..4 {
        publish(&*consumer, version).await.expect("published");
        assert_eq!(fixture.shown(), Some(value(version)));
        assert_eq!(observe(fixture).await.published, Version::new(version));
    }
}

pub(crate) async fn publishing_again_changes_nothing(fixture: &impl Fixture) {
    for _ in 0..3 {
        publish(&*fixture.open(), 1).await.expect("published");
        reload(&*fixture.open(), 1).await.expect("reloaded");
        assert_eq!(fixture.shown(), Some(value(1)));
        assert_told(fixture, 1);
    }
}

pub(crate) async fn an_older_version_never_replaces_a_newer(fixture: &impl Fixture) {
    publish(&*fixture.open(), 2).await.expect("published");
    let failure = publish(&*fixture.open(), 1).await.expect_err("an older version");
    assert_eq!(failure.class(), FailureClass::Conflict);
    assert!(failure.remedy().is_some(), "{failure}");
    assert_eq!(fixture.shown(), Some(value(2)));
    assert_eq!(observe(fixture).await.published, Version::new(2));
}

pub(crate) async fn readers_are_told_once_of_each_version(fixture: &impl Fixture) {
    for version in 1..4 {
        publish(&*fixture.open(), version).await.expect("published");
        for _ in 0..2 {
            reload(&*fixture.open(), version).await.expect("reloaded");
            assert_told(fixture, usize::try_from(version).expect("a small number"));
        }
        let both = Version::new(version);
        assert_eq!(observe(fixture).await, Observed { published: both, reloaded: both });
    }
}

pub(crate) async fn nobody_is_told_of_what_is_not_there(fixture: &impl Fixture) {
    let failure = reload(&*fixture.open(), 1).await.expect_err("nothing was published");
    assert_eq!(failure.class(), FailureClass::Unavailable);
    publish(&*fixture.open(), 1).await.expect("published");
    let failure = reload(&*fixture.open(), 2).await.expect_err("that version was not published");
    assert_eq!(failure.class(), FailureClass::Unavailable);
    assert_told(fixture, 0);
}

pub(crate) async fn what_was_changed_by_others_is_mended_and_told_again(fixture: &impl Fixture) {
    publish(&*fixture.open(), 1).await.expect("published");
    reload(&*fixture.open(), 1).await.expect("reloaded");
    fixture.tamper();
    assert_ne!(fixture.shown(), Some(value(1)));
    publish(&*fixture.open(), 1).await.expect("published");
    assert_eq!(fixture.shown(), Some(value(1)));
    reload(&*fixture.open(), 1).await.expect("reloaded");
    // A reader may have taken what was there.
    assert_told(fixture, 2);
}

pub(crate) async fn one_policy_does_not_write_what_another_does(fixture: &impl Fixture) {
    publish(&*fixture.open(), 1).await.expect("published");
    let foreign = Publication::new("billing/db", 9);
    let consumer = fixture.open();
    for failure in [
        consumer.publish(foreign.request()).await.expect_err("it was published"),
        consumer.reload(foreign.request()).await.expect_err("it was reloaded"),
        consumer.observe(&foreign.policy).await.expect_err("it was observed"),
    ] {
        assert_eq!(failure.class(), FailureClass::Conflict);
        assert!(failure.reason().contains("contract/consumer"), "{failure}");
        assert!(failure.remedy().is_some(), "{failure}");
    }
    assert_eq!(fixture.shown(), Some(value(1)));
    assert_told(fixture, 0);
    let findings = consumer.preflight(&foreign.policy).await;
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{findings:?}");
}

pub(crate) async fn of_two_that_publish_at_once_the_newer_is_left(fixture: &impl Fixture) {
    for version in (1..40).step_by(2) {
        let [older, newer] = [version, version + 1].map(|version| {
            let consumer = fixture.open();
            tokio::spawn(async move { publish(&*consumer, version).await })
        });
        let (older, newer) = (older.await.expect("no panic"), newer.await.expect("no panic"));
        // One may have met the other at work, or come too late.
        for failure in older.err().into_iter().chain(newer.err()) {
            let fine = matches!(failure.class(), FailureClass::Unavailable | FailureClass::Conflict);
            assert!(fine, "{failure}");
        }
        publish(&*fixture.open(), version + 1).await.expect("published");
        let late = publish(&*fixture.open(), version).await.expect_err("an older version");
        assert_eq!(late.class(), FailureClass::Conflict);
        assert_eq!(fixture.shown(), Some(value(version + 1)));
    }
}

pub(crate) async fn a_preflight_passes_and_changes_nothing(fixture: &impl Fixture) {
    let consumer = fixture.open();
    for version in 0..2 {
        if version > 0 {
            publish(&*consumer, version).await.expect("published");
        }
        let (shown, observed) = (fixture.shown(), observe(fixture).await);
        for _ in 0..2 {
            let findings = consumer.preflight(&policy()).await;
            assert!(!findings.is_empty());
            let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
            assert_eq!(failed, None);
        }
        assert_eq!((fixture.shown(), observe(fixture).await), (shown, observed));
    }
    assert_told(fixture, 0);
}

#[track_caller]
fn assert_told(fixture: &impl Fixture, times: usize) {
    assert!(fixture.told().is_none_or(|told| told == times), "told {:?} times, not {times}", fixture.told());
}

/// What a consumer is told.
pub(crate) struct Publication {
    pub(crate) policy: PolicyName,
    version: Version,
    credential: Credential,
}

impl Publication {
    pub(crate) fn new(policy: &str, version: u64) -> Self {
        let principal = "app".parse().expect("a principal");
        let value = SecretValue::new(value(version).into_bytes());
        Self {
            policy: policy.parse().expect("a policy name"),
            version: Version::new(version),
            credential: Credential::new(principal, value),
        }
    }

    pub(crate) fn request(&self) -> PublishRequest<'_> {
        PublishRequest {
            policy: &self.policy,
            version: self.version,
            credential: &self.credential,
            restores: None,
            is_urgent: false,
        }
    }
}

/// The value of a version.
pub(crate) fn value(version: u64) -> String {
    format!("the-value-of-version-{version}")
}

pub(crate) fn policy() -> PolicyName {
    "contract/consumer".parse().expect("a policy name")
}

pub(crate) async fn publish(consumer: &dyn Consumer, version: u64) -> Result<Published, Failure> {
    consumer.publish(Publication::new("contract/consumer", version).request()).await
}

pub(crate) async fn reload(consumer: &dyn Consumer, version: u64) -> Result<(), Failure> {
    consumer.reload(Publication::new("contract/consumer", version).request()).await
}

async fn observe(fixture: &impl Fixture) -> Observed {
    fixture.open().observe(&policy()).await.expect("observed")
}
