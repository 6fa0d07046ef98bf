//! What every provider of keys is held to, whose answers come as its documentation says.

use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::target::{Extent, LastUse, PreflightRequest, Probe, ProbeDepth, Target as _};

use super::{ADMIN, Case, Turn};
use crate::providers_support::{Fate, INMOST};

/// Makes a module of tests for a case.
macro_rules! provider_contract {
    ($name:ident: $case:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn a_key_is_made_tried_found_and_revoked() {
                contract::a_key_is_made_tried_found_and_revoked($case).await;
            }

            #[tokio::test]
            async fn a_disabled_key_is_refused_where_keys_can_be_disabled() {
                contract::a_disabled_key_is_refused_where_keys_can_be_disabled($case).await;
            }

            #[tokio::test]
            async fn a_key_whose_answer_was_lost_is_found_and_revoked() {
                contract::a_key_whose_answer_was_lost_is_found_and_revoked($case).await;
            }

            #[tokio::test]
            async fn a_key_is_found_on_whichever_page_it_is() {
                contract::a_key_is_found_on_whichever_page_it_is($case).await;
            }

            #[tokio::test]
            async fn no_trouble_on_the_way_is_a_verdict() {
                contract::no_trouble_on_the_way_is_a_verdict($case).await;
            }

            #[tokio::test]
            async fn a_wrong_admin_changes_nothing() {
                contract::a_wrong_admin_changes_nothing($case).await;
            }

            #[tokio::test]
            async fn no_key_is_deleted_to_make_room() {
                contract::no_key_is_deleted_to_make_room($case).await;
            }

            #[tokio::test]
            async fn a_preflight_changes_nothing() {
                contract::a_preflight_changes_nothing($case).await;
            }
        }
    };
}
pub(super) use provider_contract;

/// Whatever may come back instead of an answer.
pub(super) const TROUBLES: [Fate; 10] = [
    Fate::LoseRequest,
    Fate::LoseReply,
    Fate::Html(200),
    Fate::Html(403),
    Fate::Html(404),
    Fate::Huge,
    Fate::TooMany,
    Fate::Elsewhere,
    Fate::Fails(500),
    Fate::Fails(503),
];

/// What such an answer to a request for a key means.
#[track_caller]
pub(super) fn assert_class(fate: Fate, failure: &Failure) {
    let class = failure.class();
    match fate {
        Fate::LoseRequest
        | Fate::LoseReply
        | Fate::Huge
        | Fate::Html(200)
        | Fate::DoneAndHtml
        | Fate::Fails(_) => assert_eq!(class, FailureClass::Ambiguous, "{fate:?}: {failure}"),
        Fate::TooMany => assert_eq!(class, FailureClass::Unavailable, "{failure}"),
        _ => assert!(class.is_certain(), "{fate:?}: {failure}"),
    }
}

/// A failure that tells nothing that must not be told.
#[track_caller]
pub(super) fn told(failure: &Failure, secrets: &[&str]) -> FailureClass {
    let text = format!("{failure} {failure:?} {}", failure.remedy().unwrap_or_default());
    for secret in secrets.iter().chain(&[ADMIN, INMOST]) {
        assert!(!text.contains(secret), "{text}");
    }
    failure.class()
}

pub(super) async fn a_key_is_made_tried_found_and_revoked(case: Case) {
    let (first, second) = (Turn::new(), Turn::new());
    let made = case.mint(&first).await.expect("a key");
    let other = case.mint(&second).await.expect("another");
    assert!(made.principal != other.principal && made.value != other.value);
    let mut keys = case.target.keys(&case.spec.owner).await.expect("keys");
    keys.sort_by_key(|key| key.id != made.principal);
    let ids: Vec<_> = keys.iter().map(|key| &key.id).collect();
    assert_eq!(ids, [&made.principal, &other.principal]);
    let rotations: Vec<_> = keys.iter().map(|key| key.tag.as_ref().map(|tag| tag.rotation)).collect();
    assert_eq!(rotations, [Some(first.rotation), Some(second.rotation)]);

    assert_eq!(case.target.probe(&made, ProbeDepth::Check).await, Probe::Accepted);
    let last = case.target.usage(&made.principal).await.expect("its use").last;
    assert!(
        if case.tried_by_list {
            last == LastUse::Never
        } else if case.told_of_use {
            matches!(last, LastUse::At(_))
        } else {
            last == LastUse::Untold
        },
        "{last:?}"
    );
    if case.told_of_use {
        let last = case.target.usage(&other.principal).await.expect("its use").last;
        assert_eq!(last, LastUse::Never, "nobody used it");
    }

    for _ in 0..2 {
        case.retire(&first, &made, Extent::Principal).await.expect("it is gone, or was before");
        assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused);
    }
    assert_eq!(case.target.probe(&other, ProbeDepth::Login).await, Probe::Accepted, "the other one lives");
    let keys = case.target.keys(&case.spec.owner).await.expect("keys");
    assert_eq!(keys.into_iter().map(|key| key.id).collect::<Vec<_>>(), [other.principal]);
}

pub(super) async fn a_disabled_key_is_refused_where_keys_can_be_disabled(case: Case) {
    let turn = Turn::new();
    let made = case.mint(&turn).await.expect("a key");
    for _ in 0..2 {
        case.retire(&turn, &made, Extent::Disabled).await.expect("it is disabled, or was before");
    }
    let can = case.spec.definition.as_ref().is_some_and(|recipe| recipe.disable.is_some());
    let wanted = if can { Probe::Refused } else { Probe::Accepted };
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, wanted);
    let keys = case.target.keys(&case.spec.owner).await.expect("keys");
    assert!(keys.iter().any(|key| key.id == made.principal), "it is still there");
    case.retire(&turn, &made, Extent::Principal).await.expect("it is gone");
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Refused);
}

pub(super) async fn a_key_whose_answer_was_lost_is_found_and_revoked(case: Case) {
    for fate in [Fate::LoseReply, Fate::DoneAndHtml, Fate::Huge] {
        let turn = Turn::new();
        case.stub.next(case.creating(), fate);
        let failure = case.mint(&turn).await.expect_err("no answer");
        assert_eq!(told(&failure, &[]), FailureClass::Ambiguous, "{fate:?}: {failure}");
        let keys = case.target.keys(&case.spec.owner).await.expect("keys");
        let of_turn = |tag: &rekeyd::target::Tag| tag.rotation == turn.rotation;
        let orphan =
            keys.iter().find(|key| key.tag.as_ref().is_some_and(of_turn)).expect("an orphan with its tag");
        let orphan =
            rekeyd::secret::Credential::new(orphan.id.clone(), rekeyd::secret::SecretValue::new(vec![b'x']));
        case.retire(&turn, &orphan, Extent::Principal).await.expect("it is gone");
        assert!(case.target.keys(&case.spec.owner).await.expect("keys").is_empty(), "{fate:?}");
    }
}

pub(super) async fn a_key_is_found_on_whichever_page_it_is(case: Case) {
    let turns = [Turn::new(), Turn::new(), Turn::new(), Turn::new(), Turn::new()];
    let mut made = Vec::new();
    for turn in &turns {
        made.push((case.mint(turn).await.expect("a key").principal, Some(turn.rotation)));
    }
    case.stub.requests();
    let keys = case.target.keys(&case.spec.owner).await.expect("keys");
    let listed: Vec<_> = keys.into_iter().map(|key| (key.id, key.tag.map(|tag| tag.rotation))).collect();
    assert_eq!(listed, made);
    let (method, part) = case.listing();
    let asked = case.stub.requests();
    let pages = asked.iter().filter(|asked| asked.starts_with(method) && asked.contains(part)).count();
    let paged =
        case.spec.definition.as_ref().and_then(|recipe| recipe.list.as_ref()?.pages.as_ref()).is_some();
    // The stub of a provider that has pages has short ones.
    assert!(if paged { pages >= 3 } else { pages == 1 }, "{asked:?}");
}

pub(super) async fn no_trouble_on_the_way_is_a_verdict(case: Case) {
    let turn = Turn::new();
    let made = case.mint(&turn).await.expect("a key");
    let value = made.value.expose_str().expect("text").to_owned();
    for fate in TROUBLES {
        case.stub.next(("", ""), fate);
        match case.target.probe(&made, ProbeDepth::Login).await {
            Probe::Unknown(failure) => {
                let class = told(&failure, &[&value]);
                // What is too long says nothing of the key, either, and takes no rotation back.
                assert!(fate != Fate::Huge || class == FailureClass::Unavailable, "{failure}");
            }
            verdict => panic!("{fate:?} counts as {verdict:?}"),
        }
        // What may have been done is not taken for done, nor for not done.
        case.stub.next(case.creating(), fate);
        let failure = case.mint(&Turn::new()).await.expect_err("nothing that counts came back");
        told(&failure, &[&value]);
        assert_class(fate, &failure);
        case.stub.next(case.revoking(), fate);
        let gone = case.retire(&turn, &made, Extent::Principal).await;
        told(&gone.expect_err("nothing that counts came back"), &[&value]);
    }
}

pub(super) async fn a_wrong_admin_changes_nothing(case: Case) {
    let turn = Turn::new();
    let made = case.mint(&turn).await.expect("a key");
    let before = case.stub.with(|keys| keys.made.len());
    let wrong = case.of_admin("another-value-altogether");
    let failure = wrong.mint(turn.request(&case.spec)).await.expect_err("it is refused");
    assert_eq!(told(&failure, &["another-value-altogether"]), FailureClass::Denied, "{failure}");
    let failure = wrong.keys(&case.spec.owner).await.expect_err("it is refused");
    assert_eq!(told(&failure, &["another-value-altogether"]), FailureClass::Denied, "{failure}");
    assert_eq!(case.stub.with(|keys| keys.made.len()), before);
    assert_eq!(case.target.probe(&made, ProbeDepth::Login).await, Probe::Accepted);
}

pub(super) async fn no_key_is_deleted_to_make_room(case: Case) {
    let Some(most) = case.full_at else { return };
    for _ in 0..most {
        case.stub.with(|keys| keys.make("foreign", "v", "somebody's", serde_json::Value::Null));
    }
    // Where it does not count them itself, or somebody else was quicker than it, the provider says so.
    let uncounted = case.changed(|recipe| recipe.limits.live_keys = None);
    for target in [&case.target, &uncounted] {
        case.stub.requests();
        let failure = target.mint(Turn::new().request(&case.spec)).await.expect_err("there is no room");
        assert_eq!(told(&failure, &[]), FailureClass::Conflict, "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("delete")), "{failure:?}");
        assert_eq!(case.stub.with(|keys| keys.made.len()), most, "somebody else's were touched");
    }
    let (method, part) = case.creating();
    let asked = case.stub.requests();
    assert!(asked.iter().any(|asked| asked.starts_with(method) && asked.contains(part)), "{asked:?}");
}

pub(super) async fn a_preflight_changes_nothing(case: Case) {
    let turn = Turn::new();
    let made = case.mint(&turn).await.expect("a key");
    case.stub.requests();
    let policy = "orders/orders-api".parse().expect("a name");
    let request = PreflightRequest { policy: &policy, current: Some(&made) };
    let findings = case.target.preflight(request).await;
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Pass), "{findings:?}");
    assert_eq!(case.stub.with(|keys| keys.made.len()), 1);
    case.stub.with(|keys| keys.made.clear());
    let findings = case.target.preflight(request).await;
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{findings:?}");
}

impl Case {
    /// The request that makes a key: its method, and the last part of its path that is the same for all.
    pub(super) fn creating(&self) -> (&str, &str) {
        let recipe = self.spec.definition.as_ref().expect("a recipe");
        asks(&recipe.create.as_ref().expect("a call that makes keys").request)
    }

    pub(super) fn listing(&self) -> (&str, &str) {
        let recipe = self.spec.definition.as_ref().expect("a recipe");
        asks(&recipe.list.as_ref().expect("a call that lists them").request)
    }

    pub(super) fn revoking(&self) -> (&str, &str) {
        let recipe = self.spec.definition.as_ref().expect("a recipe");
        asks(&recipe.revoke.as_ref().expect("a call that revokes them").request)
    }
}

fn asks(request: &rekeyd::recipe::Request) -> (&str, &str) {
    let part = request.path.rsplit('/').find(|part| !part.contains("{{") && !part.contains("}}"));
    (request.method.as_str(), part.unwrap_or_default())
}
