//! Plug-ins whose answers are none, or not to be believed.

use rekeyd::failure::{Failure, FailureClass};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::exec::ExecTarget;
use rekeyd::target::{
    Extent, InstallRequest, Installed, LastUse, Occupancy, PreflightRequest, Probe, ProbeDepth,
    RetireRequest, Retired, Target as _,
};
use serde_json::json;
use tempfile::TempDir;

use super::{in_place, install, name, spec};
use crate::keys_contract::{Step, request};

/// A value that could pass for a code.
const VALUE: &str = "the-value-itself-0123456789";

/// A plug-in that is a shell script, and its folder.
pub(super) struct Script {
    pub(super) folder: TempDir,
    pub(super) target: ExecTarget,
}

impl Script {
    pub(super) fn new(body: &str) -> Self {
        Self::within(body, "30s", in_place())
    }

    pub(super) fn within(body: &str, timeout: &str, strategy: serde_json::Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let body = body.replace("FOLDER", &folder.path().display().to_string());
        let program = install(folder.path(), "script", format!("#!/bin/sh\n{body}\n").as_bytes());
        let mut spec = spec(&program, strategy);
        spec.timeout = timeout.parse().expect("an interval");
        spec.arguments = vec!["one two".to_owned(), "three".to_owned()];
        Self { folder, target: ExecTarget::new(spec, None) }
    }

    /// One that says this, whatever it is asked.
    fn saying(document: &str) -> Self {
        Self::new(&format!("/bin/cat >/dev/null\n/bin/cat <<'END'\n{document}\nEND"))
    }

    pub(super) async fn install(&self) -> Result<Installed, Failure> {
        let step = Step::new(3);
        let candidate = credential();
        let request = InstallRequest {
            attempt: step.attempt(),
            candidate: &candidate,
            peer: None,
            beside: None,
            occupancy: Occupancy::Keep,
        };
        self.target.install(request).await
    }

    pub(super) async fn probe(&self) -> Probe {
        self.target.probe(&credential(), ProbeDepth::Login).await
    }

    async fn retire(&self) -> Result<Retired, Failure> {
        let (step, credential) = (Step::new(3), credential());
        let request = RetireRequest {
            attempt: step.attempt(),
            principal: &credential.principal,
            extent: Extent::Principal,
            outgoing: Some(&credential),
            beside: None,
        };
        self.target.retire(request).await
    }
}

fn credential() -> Credential {
    Credential::new(name("toy"), SecretValue::new(VALUE.into()))
}

/// The class of a failure that tells nothing of the value.
#[track_caller]
fn class(failure: &Failure) -> FailureClass {
    let text = format!("{failure} {failure:?} {}", failure.remedy().unwrap_or_default());
    assert!(!text.contains(VALUE), "{text}");
    failure.class()
}

#[track_caller]
pub(super) fn unknown(probe: &Probe) -> &Failure {
    match probe {
        Probe::Unknown(failure) => {
            class(failure);
            failure
        }
        verdict => panic!("it counts as {verdict:?}"),
    }
}

const DONE: &str = r#"{"result": {"done": {"at": "2026-01-01T00:00:00Z", "sessionsClosed": 0}}}"#;

#[tokio::test]
async fn what_is_no_answer_is_no_verdict() {
    for (body, timeout, reason) in [
        ("exit 0", "30s", "answered nothing"),
        ("exit 3", "30s", "failed without an answer (exit status: 3)"),
        ("kill -9 $$", "30s", "failed without an answer (signal: 9"),
        ("echo nonsense", "30s", "not one of the protocol"),
        ("/bin/cat", "30s", "not one of the protocol"),
        ("echo '{\"result\": \"refused\"} {\"result\": \"refused\"}'", "30s", "not one of the protocol"),
        (
            "echo '{\"result\": \"refused\", \"failure\": {\"class\": \"denied\", \"code\": \"a\"}}'",
            "30s",
            "not one",
        ),
        ("echo '{\"result\": \"refused\"}'; exit 1", "30s", "failed without an answer (exit status: 1)"),
        ("exec /usr/bin/yes", "30s", "answered with more than 1048576 bytes"),
        ("echo '{\"result\": \"refused\"}'; exec /bin/sleep 600", "300ms", "did not end within 300ms"),
    ] {
        let script = Script::within(body, timeout, in_place());
        let probe = script.probe().await;
        let failure = unknown(&probe);
        assert_eq!(failure.class(), FailureClass::Unavailable, "{body}: {failure}");
        assert!(failure.reason().contains(reason), "{body}: {failure}");
        let failure = script.install().await.expect_err("it is not known");
        assert_eq!(class(&failure), FailureClass::Ambiguous, "{body}: {failure}");
        assert!(failure.reason().contains(reason), "{body}: {failure}");
        let failure = script.retire().await.expect_err("it is not known");
        assert_eq!(class(&failure), FailureClass::Ambiguous, "{body}: {failure}");
        let failure = script.target.usage(&name("toy")).await.expect_err("nothing is told");
        assert_eq!(class(&failure), FailureClass::Unavailable, "{body}: {failure}");
    }
}

#[tokio::test]
async fn what_a_plug_in_started_ends_with_it_at_the_deadline() {
    let body = "/bin/sleep 600 & echo $! >FOLDER/child; wait";
    let script = Script::within(body, "2s", in_place());
    unknown(&script.probe().await);
    let child = std::fs::read_to_string(script.folder.path().join("child")).expect("it ran");
    let stat = format!("/proc/{}/stat", child.trim());
    let began = std::time::Instant::now();
    // Killed, and perhaps not waited for yet by whoever inherited it.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "it lives on");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_answer_is_taken_as_it_is() {
    assert_eq!(Script::saying(r#"{"result": "accepted"}"#).probe().await, Probe::Accepted);
    assert_eq!(Script::saying(r#"{"result": "refused"}"#).probe().await, Probe::Refused);
    let unfit = Script::saying(r#"{"result": {"unfit": {"code": "no-rights"}}}"#).probe().await;
    assert!(matches!(&unfit, Probe::Unfit(failure) if failure.reason().contains("`no-rights`")), "{unfit:?}");
    let at = "2026-01-01T00:00:00Z".parse().expect("a moment");
    let done = r#"{"result": {"done": {"at": "2026-01-01T00:00:00Z"}}}"#;
    assert_eq!(Script::saying(done).install().await, Ok(Installed::Done { at }));
    assert_eq!(Script::saying(DONE).retire().await, Ok(Retired::Done { sessions_closed: 0 }));
    let awaited = Script::saying(r#"{"result": {"awaited": {"code": "delete-it-there"}}}"#).retire().await;
    assert!(
        matches!(&awaited, Ok(Retired::Awaited(what)) if what.contains("`delete-it-there`")),
        "{awaited:?}"
    );
    // One that asks nothing may have an answer before it was told anything.
    assert_eq!(Script::new("echo '{\"result\": \"accepted\"}'").probe().await, Probe::Accepted);
}

#[tokio::test]
async fn a_failure_is_told_by_class_and_code() {
    use FailureClass::{Ambiguous, Conflict, Denied, Invalid, Refused, Unavailable};
    for (told, of_install, of_retire, of_probe) in [
        ("refused", Refused, Ambiguous, Unavailable),
        ("ambiguous", Ambiguous, Ambiguous, Unavailable),
        ("unavailable", Unavailable, Unavailable, Unavailable),
        ("denied", Denied, Denied, Denied),
        ("conflict", Conflict, Conflict, Conflict),
        ("invalid", Invalid, Invalid, Invalid),
    ] {
        let document = json!({"failure": {"class": told, "code": "too-short", "message": VALUE}}).to_string();
        let script = Script::saying(&document);
        let failure = script.install().await.expect_err("it failed");
        assert_eq!(class(&failure), of_install, "{failure}");
        assert!(failure.reason().contains("`too-short`"), "{failure}");
        let failure = script.retire().await.expect_err("it failed");
        assert_eq!(class(&failure), of_retire, "{failure}");
        // A value is refused by a result alone.
        let probe = script.probe().await;
        assert_eq!(unknown(&probe).class(), of_probe);
    }
}

#[tokio::test]
async fn a_value_in_what_it_says_is_not_passed_on() {
    // A text, which is no code; a value that passes for one; and one beside it.
    for (code, told) in
        [(format!("wrong password {VALUE}"), false), (VALUE.to_owned(), true), (format!("not-{VALUE}"), true)]
    {
        let document = json!({"failure": {
            "class": "denied", "code": code, "policy": format!("a/{VALUE}"), "keys": [VALUE, "key-1"], "error": VALUE,
        }});
        let script = Script::new(&format!("echo {VALUE} >&2\n/bin/cat <<'END'\n{document}\nEND"));
        let failure = script.install().await.expect_err("it failed");
        assert_eq!(
            class(&failure),
            if told { FailureClass::Denied } else { FailureClass::Ambiguous },
            "{failure}"
        );
        assert_eq!(failure.reason().contains("key-1"), told, "{failure}");
        unknown(&script.probe().await);
        let (step, credential) = (Step::new(1), credential());
        let request = PreflightRequest { policy: &step.policy, current: Some(&credential) };
        let findings = script.target.preflight(request).await;
        assert!(!findings.is_empty() && !format!("{findings:?}").contains(VALUE), "{findings:?}");
    }
    let findings = json!({"result": {"findings": [{"subject": VALUE, "verdict": "fail", "code": VALUE}]}});
    let script = Script::saying(&findings.to_string());
    let (step, credential) = (Step::new(1), credential());
    let request = PreflightRequest { policy: &step.policy, current: Some(&credential) };
    let findings = script.target.preflight(request).await;
    assert!(findings.len() == 3 && !format!("{findings:?}").contains(VALUE), "{findings:?}");
}

#[tokio::test]
async fn a_session_is_told_by_plain_words() {
    let document = json!({"result": {"last": {"at": "2026-01-02T00:00:00Z"}, "sessions": [
        {"application": "later", "client": "[::1]:4711", "since": "2026-01-02T00:00:00Z"},
        {"application": "<script>", "client": "x".repeat(200), "since": "2026-01-01T00:00:00Z"},
    ]}});
    let usage = Script::saying(&document.to_string()).target.usage(&name("toy")).await.expect("usage");
    let told: Vec<_> = usage.sessions.iter().map(|s| (s.application.as_str(), s.client.as_str())).collect();
    assert_eq!(told, [("", ""), ("later", "[::1]:4711")]);
    assert!(matches!(usage.last, LastUse::At(_)));
}

#[tokio::test]
async fn an_earlier_attempt_does_not_come_later() {
    for (by, believed) in [(2, false), (3, true), (4, true)] {
        let script = Script::saying(&json!({"result": {"superseded": {"by": by}}}).to_string());
        let (installed, retired) = (script.install().await, script.retire().await);
        assert_eq!(matches!(installed, Ok(Installed::Superseded { .. })), believed, "{installed:?}");
        assert_eq!(matches!(retired, Ok(Retired::Superseded { .. })), believed, "{retired:?}");
        if let (Err(one), Err(other)) = (&installed, &retired) {
            assert_eq!((class(one), class(other)), (FailureClass::Ambiguous, FailureClass::Ambiguous));
        }
    }
}

#[tokio::test]
async fn a_key_without_a_value_is_none() {
    for (principal, value) in [("key-1", ""), (VALUE, VALUE), ("", VALUE)] {
        let document = json!({"result": {"made": {"principal": principal, "value": value}}}).to_string();
        let body = format!("/bin/cat >/dev/null\necho '{document}'");
        let script = Script::within(&body, "30s", json!({"dualKey": {"owner": "toy"}}));
        let (step, owner) = (Step::new(1), name("toy"));
        let failure = script.target.mint(request(&step, &owner, None)).await.expect_err("it is none");
        assert_eq!(class(&failure), FailureClass::Ambiguous, "{failure}");
    }
}
