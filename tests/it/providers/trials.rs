//! What goes wrong at the providers that `contract` does not fit: whose keys a person makes, whose admin signs, or whose
//! tokens are a chain.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::clock::Clock as _;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::policy::spec::Interval;
use rekeyd::secret::Credential;
use rekeyd::target::{Extent, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired, Target as _};
use serde_json::json;

use super::contract::{TROUBLES, assert_class, told};
use super::{ADMIN, Case, Turn, by_hand, case, chain, signed, target_of, target_paced};
use crate::providers_support::Fate;
use crate::providers_support::anthropic::Anthropic;
use crate::providers_support::cohere::Cohere;
use crate::providers_support::github::GitHub;
use crate::world::clock::TestClock;

/// Makes a module of tests for a provider; `$make` is a function that makes a [`Trial`].
macro_rules! trouble_contract {
    ($($make:ident)+) => {$(
        mod $make {
            trouble_contract! { $make;
                no_trouble_on_the_way_is_a_verdict_and_nothing_is_lost
                an_answer_that_never_comes_ends_with_the_deadline
                who_is_asked_to_come_back_later_does
                a_right_that_is_missing_is_told_and_changes_nothing
                a_key_that_somebody_else_revoked_is_told_as_dead
                a_key_whose_answer_was_lost_takes_nothing_with_it
            }
        }
    )+};
    ($make:ident; $($promise:ident)+) => {$(
        #[tokio::test]
        async fn $promise() {
            super::$promise(super::$make).await;
        }
    )+};
}

trouble_contract!(slack cohere anthropic github_token github_app google);

/// A provider with a key in force.
struct Trial {
    case: Case,
    current: Credential,
    /// What it answers, to which request, whom a right is missing.
    denials: &'static [(Call, u16, &'static str)],
}

/// What is asked of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Make,
    Try,
    List,
    Revoke,
}

async fn slack() -> Trial {
    let (case, _, current) = chain::installed().await;
    let denials = &[
        (Call::Make, 200, r#"{"ok": false, "error": "invalid_client_id"}"#),
        (Call::Make, 200, r#"{"ok": false, "error": "bad_client_secret"}"#),
        (Call::Try, 200, r#"{"ok": false, "error": "missing_scope"}"#),
        (Call::Try, 200, r#"{"ok": false, "error": "access_denied"}"#),
    ];
    Trial { case, current, denials }
}

async fn cohere() -> Trial {
    let denials = &[
        (Call::Try, 403, r#"{"message": "you do not have access to this resource"}"#),
        (Call::Try, 498, r#"{"message": "invalid token in the request"}"#),
    ];
    made_by_hand(case("cohere", Cohere, json!({})).await, denials)
}

async fn anthropic() -> Trial {
    const LACKS: &str = r#"{"type": "error", "error": {"type": "permission_error"}}"#;
    let denials = &[
        (Call::Try, 403, LACKS),
        (Call::List, 403, LACKS),
        (Call::Revoke, 403, LACKS),
        (Call::Revoke, 401, r#"{"type": "error", "error": {"type": "authentication_error"}}"#),
    ];
    made_by_hand(case("anthropic", Anthropic { admin: ADMIN.into() }, json!({})).await, denials)
}

async fn github_token() -> Trial {
    let denials = &[
        (Call::Try, 403, r#"{"message": "Resource not accessible by personal access token"}"#),
        (Call::Try, 401, r#"{"message": "Requires authentication"}"#),
        (Call::Revoke, 403, r#"{"message": "Forbidden"}"#),
    ];
    made_by_hand(case("github-token", GitHub, json!({})).await, denials)
}

async fn github_app() -> Trial {
    const LACKS: &str = r#"{"message": "Resource not accessible by integration"}"#;
    let denials = &[
        (Call::Make, 403, r#"{"message": "This installation has been suspended"}"#),
        (Call::Make, 401, r#"{"message": "A JSON web token could not be decoded"}"#),
        (Call::Try, 403, LACKS),
        (Call::Revoke, 403, LACKS),
    ];
    made_by_itself(signed::github().await, denials).await
}

async fn google() -> Trial {
    const LACKS: &str = r#"{"error": {"code": 403, "status": "PERMISSION_DENIED"}}"#;
    let denials = &[
        (Call::Make, 403, LACKS),
        (
            Call::Make,
            400,
            r#"{"error": {"code": 400, "message": "Key creation is not allowed on this service account."}}"#,
        ),
        (Call::Try, 401, r#"{"error": "unauthorized_client"}"#),
        (Call::List, 403, LACKS),
        (Call::Revoke, 403, LACKS),
    ];
    made_by_itself(signed::google().await, denials).await
}

fn made_by_hand(case: Case, denials: &'static [(Call, u16, &'static str)]) -> Trial {
    let current = by_hand::by_hand(&case);
    Trial { case, current, denials }
}

async fn made_by_itself(case: Case, denials: &'static [(Call, u16, &'static str)]) -> Trial {
    let current = case.mint(&Turn::new()).await.expect("a key");
    Trial { case, current, denials }
}

impl Trial {
    fn can(&self, call: Call) -> bool {
        let recipe = self.case.spec.definition.as_ref().expect("a recipe");
        match call {
            Call::Make => recipe.create.is_some(),
            Call::Try => true,
            Call::List => recipe.list.is_some(),
            Call::Revoke => recipe.revoke.is_some(),
        }
    }

    /// What becomes of the next request of that kind.
    fn next(&self, call: Call, fate: Fate) {
        let asked = match call {
            Call::Make => self.case.creating(),
            Call::Try => ("", ""),
            Call::List => self.case.listing(),
            Call::Revoke => self.case.revoking(),
        };
        self.case.stub.next(asked, fate);
    }

    /// Asks for that and says what went wrong.
    async fn fails(&self, call: Call) -> Option<Failure> {
        match call {
            Call::Make => self.case.mint_after(&Turn::new(), Some(&self.current)).await.err(),
            Call::Try => match self.tried().await {
                Probe::Unknown(failure) => Some(failure),
                verdict => panic!("it counts as {verdict:?}"),
            },
            Call::List => self.case.target.keys(&self.case.spec.owner).await.err(),
            Call::Revoke => self.ended().await.err(),
        }
    }

    async fn tried(&self) -> Probe {
        self.case.target.probe(&self.current, ProbeDepth::Check).await
    }

    async fn ended(&self) -> Result<Retired, Failure> {
        let (turn, key) = (Turn::new(), &self.current);
        let (attempt, principal, outgoing) = (turn.attempt(), &key.principal, Some(key));
        let request = RetireRequest { attempt, principal, extent: Extent::Principal, outgoing, beside: None };
        self.case.target.retire(request).await
    }

    /// A failure that tells neither the key nor what is asked for others with.
    #[track_caller]
    fn told(&self, failure: &Failure) -> FailureClass {
        let parts = self.current.parts.values().chain([&self.current.value]);
        let secrets: Vec<&str> = parts.map(|part| part.expose_str().expect("text")).collect();
        told(failure, &secrets)
    }

    fn count(&self) -> usize {
        self.case.stub.with(|keys| keys.made.len())
    }
}

async fn no_trouble_on_the_way_is_a_verdict_and_nothing_is_lost(make: impl AsyncFn() -> Trial) {
    for fate in TROUBLES {
        let trial = make().await;
        for call in [Call::Try, Call::List, Call::Make, Call::Revoke] {
            if !trial.can(call) {
                continue;
            }
            trial.next(call, fate);
            let failure = trial.fails(call).await;
            let failure = failure.unwrap_or_else(|| panic!("{fate:?}: {call:?} counts as done"));
            trial.told(&failure);
            if call == Call::Make {
                assert_class(fate, &failure);
            }
            if call != Call::Revoke {
                assert_eq!(
                    trial.tried().await,
                    Probe::Accepted,
                    "{fate:?} of {call:?} took the key in force"
                );
            }
        }
        // Whatever came of it: whoever asks again ends the key, or learns that it is ended.
        match trial.ended().await.expect("an answer") {
            Retired::Done { .. } => assert_eq!(trial.tried().await, Probe::Refused, "{fate:?}"),
            Retired::Awaited(_) => assert!(!trial.can(Call::Revoke), "{fate:?}"),
            other => panic!("{fate:?}: {other:?}"),
        }
    }
}

async fn an_answer_that_never_comes_ends_with_the_deadline(make: impl AsyncFn() -> Trial) {
    let mut trial = make().await;
    let (ready, admin) = (trial.case.spec.clone(), trial.case.admin);
    let recipe = trial.case.spec.definition.as_mut().expect("a recipe");
    recipe.limits.timeout = Interval::from_duration(Duration::from_millis(250));
    for call in [Call::Make, Call::Try] {
        if trial.can(call) {
            trial.case.target = target_of(&trial.case.spec, admin);
            trial.next(call, Fate::Silence);
            let failure = trial.fails(call).await.expect("no answer came");
            trial.told(&failure);
            assert!(failure.reason().contains("no answer within the deadline"), "{failure}");
            assert_eq!(failure.class() == FailureClass::Ambiguous, call == Call::Make, "{failure}");
        }
        trial.case.target = target_of(&ready, admin);
        assert_eq!(trial.tried().await, Probe::Accepted);
    }
}

async fn who_is_asked_to_come_back_later_does(make: impl AsyncFn() -> Trial) {
    let seven = "Mon, 30 Nov 2026 12:00:07 GMT";
    // GitHub refuses in the second way who asks too often.
    for (status, after) in [(429, "7"), (403, "7"), (503, "7"), (429, seven)] {
        let mut trial = make().await;
        let clock = Arc::new(TestClock::new());
        let pace = Arc::clone(&clock);
        trial.case.target =
            target_paced(&trial.case.spec, trial.case.admin, Arc::new(rekeyd::clock::SystemClock), pace);
        for call in [Call::Try, Call::Make] {
            if !trial.can(call) {
                continue;
            }
            trial.next(call, Fate::Later(status, after));
            let began = clock.monotonic();
            let failure = trial.fails(call).await.expect("it is to be asked later");
            trial.told(&failure);
            if status != 503 {
                assert_eq!(failure.class(), FailureClass::Unavailable, "{status}: {failure}");
            }
            assert_eq!(clock.monotonic(), began, "nobody waits for what failed");
            assert_eq!(trial.tried().await, Probe::Accepted, "{status} {after}: {call:?}");
            assert_eq!(clock.monotonic() - began, Duration::from_secs(7), "{status} {after}: {call:?}");
        }
        if trial.can(Call::Make) {
            assert!(trial.fails(Call::Make).await.is_none(), "{status}: nothing was done before");
        }
    }
}

async fn a_right_that_is_missing_is_told_and_changes_nothing(make: impl AsyncFn() -> Trial) {
    let trial = make().await;
    let count = trial.count();
    for (call, status, body) in trial.denials {
        trial.next(*call, Fate::Says(*status, body));
        let failure = trial.fails(*call).await.unwrap_or_else(|| panic!("{call:?} {body} counts as done"));
        let class = trial.told(&failure);
        if *call != Call::Try {
            assert_eq!(class, FailureClass::Denied, "{call:?} {body}: {failure}");
            assert!(failure.remedy().is_some(), "{call:?} {body}: {failure:?}");
        }
        assert_eq!(trial.tried().await, Probe::Accepted, "{call:?} {body}");
        assert_eq!(trial.count(), count, "{call:?} {body}");
    }
}

async fn a_key_that_somebody_else_revoked_is_told_as_dead(make: impl AsyncFn() -> Trial) {
    let trial = make().await;
    let value = trial.current.value.expose_str().expect("text").to_owned();
    trial.case.stub.with(|keys| {
        // Of Google's the value is a file, and the id says which key is meant; Anthropic's are archived, and never gone.
        match trial.case.spec.recipe.as_str() {
            "anthropic" => assert!(keys.disable(trial.current.principal.as_str(), true)),
            "google-service-account-key" => assert!(keys.delete(trial.current.principal.as_str())),
            _ => assert!(keys.remove(|key| key.value == value)),
        }
    });
    assert_eq!(trial.tried().await, Probe::Refused);
    let keys = trial.case.target.keys(&trial.case.spec.owner).await.expect("keys");
    assert_eq!(keys, [], "a dead key is listed");
    let policy = "orders/orders-api".parse().expect("a name");
    let request = PreflightRequest { policy: &policy, current: Some(&trial.current) };
    let findings = trial.case.target.preflight(request).await;
    let finding = findings.iter().find(|finding| finding.subject == "current credential");
    assert_eq!(finding.expect("a finding").verdict, Verdict::Fail, "{findings:?}");
    // There is nothing to be ended any more, and the next one is made as ever.
    assert!(matches!(trial.ended().await, Ok(Retired::Done { .. })));
    if trial.can(Call::Make) {
        let next = trial.case.mint_after(&Turn::new(), Some(&trial.current)).await.expect("a key");
        assert_eq!(trial.case.target.probe(&next, ProbeDepth::Check).await, Probe::Accepted);
    }
}

async fn a_key_whose_answer_was_lost_takes_nothing_with_it(make: impl AsyncFn() -> Trial) {
    for fate in [Fate::LoseReply, Fate::DoneAndHtml, Fate::Huge] {
        let trial = make().await;
        if !trial.can(Call::Make) {
            // Only a person makes one, and nothing is asked for.
            trial.case.stub.requests();
            assert!(trial.case.target.mint(Turn::new().request(&trial.case.spec)).await.is_ok());
            assert_eq!(trial.case.stub.requests(), Vec::<String>::new());
            return;
        }
        trial.next(Call::Make, fate);
        let failure = trial.fails(Call::Make).await.expect("no answer");
        trial.told(&failure);
        assert_class(fate, &failure);
        assert_eq!(trial.tried().await, Probe::Accepted, "{fate:?}");
        let listed = trial.case.target.keys(&trial.case.spec.owner).await.expect("keys");
        let orphans: Vec<_> = listed.iter().filter(|key| key.id != trial.current.principal).collect();
        let recipe = trial.case.spec.definition.as_ref().expect("a recipe");
        match (orphans.as_slice(), recipe.limits.lifetime) {
            // It is named, and nothing tells that nobody needs it: a person decides.
            ([orphan], None) => {
                assert!(orphan.made_at.is_some() && orphan.tag.is_none(), "{fate:?}: {orphan:?}");
                assert_eq!(orphan.used, None, "{fate:?}: {orphan:?}");
            }
            ([], Some(_)) => assert_eq!(trial.count(), 2, "it dies by itself"),
            (orphans, _) => panic!("{fate:?}: {orphans:?}"),
        }
    }
}
