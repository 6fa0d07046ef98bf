//! Which programs run, and how.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use rekeyd::adapters::Wiring;
use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::TargetSpec;
use rekeyd::rotation::engine::Adapters as _;
use rekeyd::settings::PluginsSettings;
use rekeyd::target::exec::ExecTarget;
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use super::answers::{Script, unknown};
use super::{in_place, install, root, spec};

const ACCEPTED: &str = "echo '{\"result\": \"accepted\"}'";

#[tokio::test]
async fn it_starts_with_nothing_but_what_the_policy_says() {
    let script = Script::new(
        "[ \"$(/bin/cat /proc/$$/environ | /usr/bin/wc -c)\" = 0 ] || exit 11\n\
         [ \"$#\" = 2 ] && [ \"$1\" = 'one two' ] && [ \"$2\" = three ] || exit 12\n\
         [ \"$(/bin/pwd)\" = / ] || exit 13\n\
         [ \"$(/usr/bin/cut -d' ' -f5 /proc/$$/stat)\" = $$ ] || exit 14\n\
         /bin/cat >FOLDER/request\n\
         echo '{\"result\": \"accepted\"}'",
    );
    assert_eq!(script.probe().await, Probe::Accepted);
    let request = std::fs::read(script.folder.path().join("request")).expect("it was told");
    let request: serde_json::Value = serde_json::from_slice(&request).expect("JSON");
    let expected = serde_json::json!({
        "protocol": 1,
        "verb": "probe",
        "strategy": "inPlace",
        "principals": ["toy"],
        "config": {},
        "credential": {"principal": "toy", "value": "the-value-itself-0123456789"},
        "depth": "login",
    });
    assert_eq!(request, expected);
}

#[tokio::test]
async fn another_content_is_not_run() {
    let script = Script::new(ACCEPTED);
    assert_eq!(script.probe().await, Probe::Accepted);
    let ran = script.folder.path().join("ran");
    install(script.folder.path(), "script", format!("#!/bin/sh\necho >{}\n", ran.display()).as_bytes());
    let probe = script.probe().await;
    let failure = unknown(&probe);
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.reason().contains("not the one that the policy pins"), "{failure}");
    let failure = script.install().await.expect_err("it does not run");
    assert_eq!(failure.class(), FailureClass::Invalid, "nothing was changed: {failure}");
    assert!(!ran.exists(), "it ran");
}

/// A script is read as it runs: what is exchanged under it would be run.
#[tokio::test]
async fn what_was_looked_at_is_what_runs() {
    let script = Script::new(
        "printf '#!/bin/sh\\nexit 9\\nexit 9\\nexit 9\\nexit 9\\nexit 9\\nexit 9\\nexit 9\\nexit 9\\n' >FOLDER/script\n\
         echo '{\"result\": \"accepted\"}'",
    );
    assert_eq!(script.probe().await, Probe::Accepted);
    let probe = script.probe().await;
    assert_eq!(unknown(&probe).class(), FailureClass::Invalid, "and it is another one now");
}

#[tokio::test]
async fn only_a_file_that_others_cannot_change_is_run() {
    let script = Script::new(ACCEPTED);
    let path = script.folder.path().join("script");
    for (mode, reason) in [
        (0o644, "may not be run"),
        (0o775, "others than its owner may write"),
        (0o757, "others than its owner may write"),
        (0o755, ""),
    ] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        let probe = script.probe().await;
        if reason.is_empty() {
            assert_eq!(probe, Probe::Accepted);
        } else {
            let failure = unknown(&probe);
            assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
            assert!(failure.reason().contains(reason), "{failure}");
        }
    }
    let mut pinned = spec(&path, in_place());
    let link = script.folder.path().join("link");
    symlink(&path, &link).expect("a link");
    for (program, reason) in [
        (link, "not a plain file"),
        (script.folder.path().to_owned(), "not a plain file"),
        (script.folder.path().join("absent"), "no such file or folder"),
    ] {
        pinned.program = program;
        let credential = rekeyd::secret::Credential::new(
            super::name("toy"),
            rekeyd::secret::ValueSpec::default().generate(),
        );
        let probe = ExecTarget::new(pinned.clone(), None).probe(&credential, ProbeDepth::Login).await;
        let failure = unknown(&probe);
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.reason().contains(reason), "{failure}");
    }
}

/// A file that is no program, though it is pinned and may be run.
#[tokio::test]
async fn what_cannot_be_started_changes_nothing() {
    let script = Script::new(ACCEPTED);
    let program = install(script.folder.path(), "odd", b"#!/no/such/interpreter\n");
    let target = ExecTarget::new(spec(&program, in_place()), None);
    let failure = target.usage(&super::name("toy")).await.expect_err("it cannot run");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.reason().contains("cannot be started"), "{failure}");
}

/// A rotation that was opened under other settings is held against those in force.
#[tokio::test]
async fn the_settings_in_force_say_what_may_run() {
    let mut settings = rekeyd::settings::load(&root().join("deploy/rekeyd.yaml")).expect("settings");
    let script = Script::new(ACCEPTED);
    let mut pinned = spec(&script.folder.path().join("script"), in_place());
    pinned.admin = Some("cache-admin".parse().expect("a label"));
    let plugins = |directory: &std::path::Path, credentials: &[&str]| PluginsSettings {
        directory: directory.to_owned(),
        credentials: credentials.iter().map(|name| name.parse().expect("a label")).collect(),
    };
    for (plugins, may) in [
        (None, false),
        (Some(plugins(&script.folder.path().join("below"), &["cache-admin"])), false),
        (Some(plugins(script.folder.path(), &["jenkins-admin"])), false),
        (Some(plugins(script.folder.path(), &["cache-admin"])), true),
    ] {
        settings.plugins = plugins;
        let target = Arc::new(Wiring::new(&settings)).target(&TargetSpec::Exec(pinned.clone()));
        match target {
            Ok(target) => assert!(may && target.is_some(), "{:?}", settings.plugins),
            Err(failure) => {
                assert!(!may, "{failure}");
                assert_eq!(failure.class(), FailureClass::Invalid);
            }
        }
    }
}
