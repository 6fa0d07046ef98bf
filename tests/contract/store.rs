//! What every store does, whatever is behind it.
//!
//! `store_contract!` makes one test of each rule; the adapter's test file says how a store is had.

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ident::{PolicyName, RotationId, StorePath, Version};
use rekeyd::policy::spec::{Extra, FieldNames};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::store::{Place, Promotion, Revision, Store};

/// An empty store under test.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// A handle on the store, as a process of its own would have.
    fn open(&self) -> Arc<dyn Store>;

    /// Deletes what is at a path, as a foreign hand would.
    async fn delete(&self, path: &StorePath);
}

/// One test for each rule of the contract, on the fixture that the expression makes.
macro_rules! store_contract {
    ($fixture:expr) => {
        crate::store::contract::store_contract! { $fixture;
            an_empty_path_holds_nothing
            a_path_is_created_once
            a_promotion_needs_the_revision_it_read
            a_conflict_leaves_the_value_in_force
            a_revision_never_comes_back
            what_was_written_is_read_by_every_handle
            every_text_comes_back_as_it_was
            long_values_come_back_as_they_were
            a_control_document_is_opened_once
            a_control_document_needs_the_revision_it_read
            of_many_that_open_one_wins
            of_many_that_promote_one_wins
            paths_and_policies_are_apart
            policies_lists_every_policy_with_a_document
            a_deleted_path_is_empty_and_can_be_filled
            a_revision_of_another_store_is_refused
            parts_are_kept_with_their_value
            preflight_passes_and_changes_nothing
        }
    };
    ($fixture:expr; $($rule:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            let fixture = $fixture;
            crate::store::contract::$rule(&fixture).await;
        }
    )+};
}
pub(crate) use store_contract;

pub(crate) async fn an_empty_path_holds_nothing(fixture: &impl Fixture) {
    let store = fixture.open();
    assert!(current(&*store, "apps/orders/db").await.is_none());
    assert!(store.control(&policy("orders/db")).await.expect("a reading").is_none());
    assert!(store.policies().await.expect("a listing").is_empty());
}

pub(crate) async fn a_path_is_created_once(fixture: &impl Fixture) {
    let store = fixture.open();
    let revision = promote(&*store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    assert_eq!(current(&*store, "apps/a").await, found("app_a", "one", &revision));
    let second = promote(&*store, "apps/a", "app_b", "two", None).await;
    assert_eq!(second, Err(FailureClass::Conflict), "a value in force was taken for an empty path");
    assert_eq!(current(&*store, "apps/a").await, found("app_a", "one", &revision));
}

pub(crate) async fn a_promotion_needs_the_revision_it_read(fixture: &impl Fixture) {
    let store = fixture.open();
    let first = promote(&*store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    let second = promote(&*store, "apps/a", "app_b", "two", Some(&first)).await.expect("a promotion");
    assert_eq!(current(&*store, "apps/a").await, found("app_b", "two", &second));
    let stale = promote(&*store, "apps/a", "app_a", "three", Some(&first)).await;
    assert_eq!(stale, Err(FailureClass::Conflict));
}

pub(crate) async fn a_conflict_leaves_the_value_in_force(fixture: &impl Fixture) {
    let store = fixture.open();
    let first = promote(&*store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    let second = promote(&*store, "apps/a", "app_b", "two", Some(&first)).await.expect("a promotion");
    for expected in [None, Some(&first)] {
        let refused = promote(&*store, "apps/a", "app_a", "three", expected).await;
        assert_eq!(refused, Err(FailureClass::Conflict));
        assert_eq!(current(&*store, "apps/a").await, found("app_b", "two", &second));
    }
    let absent = promote(&*store, "apps/b", "app_a", "one", Some(&second)).await;
    assert_eq!(absent, Err(FailureClass::Conflict), "an empty path was taken for a revision");
    assert!(current(&*store, "apps/b").await.is_none());
}

pub(crate) async fn a_revision_never_comes_back(fixture: &impl Fixture) {
    let store = fixture.open();
    let mut seen: Vec<Revision> = Vec::new();
    for round in 0..5 {
        let value = if round % 2 == 0 { "one" } else { "two" };
        let revision = promote(&*store, "apps/a", "app_a", value, seen.last()).await.expect("a promotion");
        assert!(!seen.contains(&revision), "{revision:?} was given twice");
        seen.push(revision);
    }
}

pub(crate) async fn what_was_written_is_read_by_every_handle(fixture: &impl Fixture) {
    let (one, other) = (fixture.open(), fixture.open());
    let mut last = None;
    for round in 0..10 {
        let (writer, reader) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let value = format!("value {round}");
        let revision =
            promote(&**writer, "apps/a", "app_a", &value, last.as_ref()).await.expect("a promotion");
        assert_eq!(current(&**reader, "apps/a").await, found("app_a", &value, &revision));
        assert_eq!(current(&**writer, "apps/a").await, found("app_a", &value, &revision));
        last = Some(revision);
    }
}

pub(crate) async fn every_text_comes_back_as_it_was(fixture: &impl Fixture) {
    let store = fixture.open();
    let texts =
        ["", " ", "ä€😀\u{202e}", "\"\\/\u{8}\t\n\r\u{0}\u{1f}", "{\"a\":1}", "${x}{{y}}%s", "trailing\n"];
    for (index, text) in texts.iter().enumerate() {
        let path = format!("apps/{index}");
        let revision = promote(&*store, &path, "app ä", text, None).await.expect("a promotion");
        assert_eq!(current(&*store, &path).await, found("app ä", text, &revision), "{text:?}");
        let name = format!("texts/t{index}");
        save(&*store, &name, text, None).await.expect("a saving");
        assert_eq!(control(&*store, &name).await.map(|(text, _)| text).as_deref(), Some(*text));
    }
}

pub(crate) async fn long_values_come_back_as_they_were(fixture: &impl Fixture) {
    let store = fixture.open();
    let long: String = ('a'..='z').cycle().take(60 * 1024).collect();
    let revision = promote(&*store, "apps/long", "app_a", &long, None).await.expect("a promotion");
    assert!(current(&*store, "apps/long").await == found("app_a", &long, &revision));
    save(&*store, "long/document", &long, None).await.expect("a saving");
    assert!(control(&*store, "long/document").await.is_some_and(|(text, _)| text == long));
}

pub(crate) async fn a_control_document_is_opened_once(fixture: &impl Fixture) {
    let store = fixture.open();
    let revision = save(&*store, "orders/db", "one", None).await.expect("a saving");
    assert_eq!(save(&*store, "orders/db", "two", None).await, Err(FailureClass::Conflict));
    assert_eq!(control(&*store, "orders/db").await, Some(("one".into(), revision)));
}

pub(crate) async fn a_control_document_needs_the_revision_it_read(fixture: &impl Fixture) {
    let store = fixture.open();
    let mut last = save(&*store, "orders/db", "0", None).await.expect("a saving");
    let mut seen = vec![last.clone()];
    for round in 1..5 {
        let revision = save(&*store, "orders/db", &round.to_string(), Some(&last)).await.expect("a saving");
        let stale = save(&*store, "orders/db", "stale", Some(&last)).await;
        assert_eq!(stale, Err(FailureClass::Conflict));
        assert!(!seen.contains(&revision), "{revision:?} was given twice");
        seen.push(revision.clone());
        assert_eq!(control(&*store, "orders/db").await, Some((round.to_string(), revision.clone())));
        last = revision;
    }
    assert_eq!(save(&*store, "orders/other", "x", Some(&last)).await, Err(FailureClass::Conflict));
}

pub(crate) async fn of_many_that_open_one_wins(fixture: &impl Fixture) {
    let racers = (0..16).map(|racer| {
        let store = fixture.open();
        tokio::spawn(async move { save(&*store, "orders/db", &racer.to_string(), None).await })
    });
    let winner = only_winner(racers.collect()).await;
    let (text, _) = control(&*fixture.open(), "orders/db").await.expect("a document");
    assert_eq!(text, winner.to_string());
}

pub(crate) async fn of_many_that_promote_one_wins(fixture: &impl Fixture) {
    let first = promote(&*fixture.open(), "apps/a", "app_a", "first", None).await.expect("a promotion");
    let racers = (0..16).map(|racer| {
        let (store, first) = (fixture.open(), first.clone());
        tokio::spawn(
            async move { promote(&*store, "apps/a", "app_b", &racer.to_string(), Some(&first)).await },
        )
    });
    let winner = only_winner(racers.collect()).await;
    let (_, value, _) = current(&*fixture.open(), "apps/a").await.expect("a value");
    assert_eq!(value, winner.to_string());
}

pub(crate) async fn paths_and_policies_are_apart(fixture: &impl Fixture) {
    let store = fixture.open();
    save(&*store, "apps/orders", "document", None).await.expect("a saving");
    assert!(current(&*store, "apps/orders").await.is_none(), "a document was read as a credential");
    let revision = promote(&*store, "apps/orders", "app_a", "value", None).await.expect("a promotion");
    assert_eq!(current(&*store, "apps/orders").await, found("app_a", "value", &revision));
    assert_eq!(control(&*store, "apps/orders").await.map(|(text, _)| text).as_deref(), Some("document"));
}

pub(crate) async fn policies_lists_every_policy_with_a_document(fixture: &impl Fixture) {
    let store = fixture.open();
    let names = ["a/a", "a/b", "b/a", "longer-name/another-0"];
    for name in names {
        save(&*store, name, "document", None).await.expect("a saving");
    }
    promote(&*store, "apps/c", "app_a", "no policy", None).await.expect("a promotion");
    let mut listed = store.policies().await.expect("a listing");
    listed.sort();
    assert_eq!(listed, names.map(policy));
}

pub(crate) async fn a_deleted_path_is_empty_and_can_be_filled(fixture: &impl Fixture) {
    let store = fixture.open();
    let path: StorePath = "apps/a".parse().expect("a path");
    let mut seen = Vec::new();
    for round in ["one", "two", "three"] {
        let revision = promote(&*store, "apps/a", "app_a", round, None).await.expect("a promotion");
        assert!(!seen.contains(&revision), "{revision:?} was given twice");
        seen.push(revision);
        fixture.delete(&path).await;
        assert!(current(&*store, "apps/a").await.is_none(), "a deleted value was read");
    }
    let racers = (0..16).map(|racer| {
        let store = fixture.open();
        tokio::spawn(async move { promote(&*store, "apps/a", "app_b", &racer.to_string(), None).await })
    });
    let winner = only_winner(racers.collect()).await;
    let (_, value, _) = current(&*store, "apps/a").await.expect("a value");
    assert_eq!(value, winner.to_string());
}

pub(crate) async fn a_revision_of_another_store_is_refused(fixture: &impl Fixture) {
    let store = fixture.open();
    promote(&*store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    for foreign in ["", "abc", "-1", "1.5", "99999999999999999999999"] {
        let result = promote(&*store, "apps/a", "app_a", "two", Some(&Revision::new(foreign))).await;
        assert!(
            matches!(result, Err(FailureClass::Invalid | FailureClass::Conflict)),
            "{foreign:?} gave {result:?}"
        );
    }
    assert_eq!(current(&*store, "apps/a").await.map(|(_, value, _)| value).as_deref(), Some("one"));
}

pub(crate) async fn parts_are_kept_with_their_value(fixture: &impl Fixture) {
    let store = fixture.open();
    let (path, name) = ("apps/a".parse().expect("a path"), |name: &str| name.parse().expect("a name"));
    let fields = FieldNames {
        parts: [(name("refreshToken"), "refresh_token".into()), (name("note"), "note".into())].into(),
        ..FieldNames::default()
    };
    let place = Place { path: &path, fields: &fields };
    let text = |text: &str| SecretValue::new(text.as_bytes().to_vec());
    let whole = Credential::new("app_a".parse().expect("a principal"), text("one"))
        .with_parts([(name("refreshToken"), text("two\nlines\n")), (name("note"), text("\"three\""))].into());
    let first = store.promote(place, fresh(&whole, None)).await.expect("a promotion");
    let read = fixture.open().current(place).await.expect("a reading").expect("a value");
    assert_eq!((&read.credential, &read.revision), (&whole, &first));
    // A part that the next one does not have must not pass for one of its own.
    let less = Credential::new("app_a".parse().expect("a principal"), text("four"))
        .with_parts([(name("refreshToken"), text("five"))].into());
    store.promote(place, fresh(&less, Some(&first))).await.expect("a promotion");
    assert_eq!(store.current(place).await.expect("a reading").expect("a value").credential, less);
}

pub(crate) async fn preflight_passes_and_changes_nothing(fixture: &impl Fixture) {
    let store = fixture.open();
    let (path, fields) = ("apps/a".parse().expect("a path"), FieldNames::default());
    for _ in 0..2 {
        let findings = store.preflight(Place { path: &path, fields: &fields }, &policy("orders/db")).await;
        assert!(!findings.is_empty());
        for finding in &findings {
            assert_ne!(finding.verdict, Verdict::Fail, "{finding:?}");
        }
    }
    an_empty_path_holds_nothing(fixture).await;
    let revision = promote(&*store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    store.preflight(Place { path: &path, fields: &fields }, &policy("orders/db")).await;
    assert_eq!(current(&*store, "apps/a").await, found("app_a", "one", &revision));
}

// The rules above in fewer words: plain text in, plain text out.

type Found = Option<(String, String, Revision)>;

fn found(principal: &str, value: &str, revision: &Revision) -> Found {
    Some((principal.into(), value.into(), revision.clone()))
}

pub(crate) fn policy(name: &str) -> PolicyName {
    name.parse().expect("a policy name")
}

pub(crate) async fn current(store: &dyn Store, path: &str) -> Found {
    let (path, fields) = (path.parse().expect("a path"), FieldNames::default());
    let current = store.current(Place { path: &path, fields: &fields }).await.expect("a reading");
    current.map(|current| {
        let value = current.credential.value.expose_str().expect("text").to_owned();
        (current.credential.principal.to_string(), value, current.revision)
    })
}

pub(crate) async fn promote(
    store: &dyn Store,
    path: &str,
    principal: &str,
    value: &str,
    expected: Option<&Revision>,
) -> Result<Revision, FailureClass> {
    let (path, fields) = (path.parse().expect("a path"), FieldNames::default());
    let value = SecretValue::new(value.as_bytes().to_vec());
    let credential = Credential::new(principal.parse().expect("a principal"), value);
    let place = Place { path: &path, fields: &fields };
    store.promote(place, fresh(&credential, expected)).await.map_err(|failure| failure.class())
}

/// A promotion by a rotation that has made none before.
pub(crate) fn fresh<'a>(credential: &'a Credential, expected: Option<&'a Revision>) -> Promotion<'a> {
    static NONE: Extra = Extra::new();
    let (rotation, version) = (RotationId::generate(), Version::new(1));
    Promotion { credential, expected, rotation, version, extra: &NONE }
}

pub(crate) async fn control(store: &dyn Store, name: &str) -> Option<(String, Revision)> {
    let control = store.control(&policy(name)).await.expect("a reading")?;
    Some((control.document.expose_str().expect("text").to_owned(), control.revision))
}

pub(crate) async fn save(
    store: &dyn Store,
    name: &str,
    text: &str,
    expected: Option<&Revision>,
) -> Result<Revision, FailureClass> {
    let document = SecretValue::new(text.as_bytes().to_vec());
    store.save(&policy(name), &document, expected).await.map_err(|failure| failure.class())
}

/// The number of the one racer that won; every other one met a conflict.
async fn only_winner(racers: Vec<tokio::task::JoinHandle<Result<Revision, FailureClass>>>) -> usize {
    let mut winners = Vec::new();
    for (number, racer) in racers.into_iter().enumerate() {
        match racer.await.expect("a racer") {
            Ok(_) => winners.push(number),
            Err(class) => assert_eq!(class, FailureClass::Conflict, "racer {number}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?} won");
    winners[0]
}
