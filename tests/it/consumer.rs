//! The file consumer: the contract, and what a file system and a command can do to it.

mod aws;
mod command;
#[path = "../contract/consumer.rs"]
pub(crate) mod contract;
mod faults;
mod jenkins;
mod kubernetes;
mod pipelines;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekeyd::consumer::Consumer;
use rekeyd::consumer::file::FileConsumer;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::policy::spec::FileSpec;
use serde_json::json;

use self::contract::{Fixture, consumer_contract, policy, publish, reload, value};

consumer_contract!(Folder::new());

/// A folder for one file.
struct Folder {
    dir: tempfile::TempDir,
    /// What the policy says besides the path and the content.
    more: serde_json::Value,
}

impl Folder {
    fn new() -> Self {
        Self::with(json!({}))
    }

    fn with(more: serde_json::Value) -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), more }
    }

    fn path(&self) -> PathBuf {
        self.beside("db.env")
    }

    fn note(&self) -> PathBuf {
        self.beside(".db.env.rekeyd")
    }

    fn draft(&self) -> PathBuf {
        self.beside(".db.env.rekeyd-draft")
    }

    fn lock(&self) -> PathBuf {
        self.beside(".db.env.rekeyd-lock")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spec(&self) -> FileSpec {
        let told = self.beside("told");
        let mut spec = json!({
            "path": self.path(),
            "content": "user={{ principal }}\nvalue={{ value }}\n",
            "reload": ["/bin/sh", "-c", "echo told >> \"$0\"", told],
        });
        spec.as_object_mut().expect("an object").extend(self.more.as_object().expect("an object").clone());
        serde_json::from_value(spec).expect("a specification")
    }

    fn consumer(&self) -> FileConsumer {
        FileConsumer::new(&self.spec()).expect("a consumer")
    }

    fn content(&self) -> String {
        fs::read_to_string(self.path()).expect("the file")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("a listing");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }
}

impl Fixture for Folder {
    fn open(&self) -> Arc<dyn Consumer> {
        Arc::new(self.consumer())
    }

    fn shown(&self) -> Option<String> {
        let content = fs::read_to_string(self.path()).ok()?;
        content.lines().find_map(|line| line.strip_prefix("value=").map(ToOwned::to_owned))
    }

    fn told(&self) -> Option<usize> {
        Some(fs::read_to_string(self.beside("told")).map_or(0, |told| told.lines().count()))
    }

    fn tamper(&self) {
        fs::write(self.path(), "value=not rekeyd's\n").expect("a file");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, Failure>,
    class: FailureClass,
    reason: &str,
) -> Failure {
    let failure = result.expect_err("it was done");
    assert!(failure.to_string().contains(reason), "{failure}");
    assert_eq!(failure.class(), class, "{failure}");
    assert!(failure.remedy().is_some(), "{failure} has no remedy");
    assert!(!failure.to_string().contains("the-value-of"), "{failure}");
    failure
}

#[tokio::test]
async fn a_file_is_what_the_template_makes_of_it_and_open_to_nobody_else() {
    let folder = Folder::new();
    publish(&folder.consumer(), 1).await.expect("published");
    assert_eq!(folder.content(), format!("user=app\nvalue={}\n", value(1)));
    assert_eq!(folder.names(), [".db.env.rekeyd", ".db.env.rekeyd-lock", "db.env"], "stray files");
    for name in folder.names() {
        let mode = mode(&folder.beside(&name));
        assert_eq!(mode & 0o077, 0, "{name} is open to others: {mode:o}");
    }
    let note = fs::read_to_string(folder.note()).expect("the note");
    assert!(!note.contains("the-value-of"), "the note holds the value");
}

/// A reader that looks again and again meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_the_old_content_or_the_new_and_never_a_part() {
    let rest = "x".repeat(200_000);
    let folder = Folder::with(json!({ "content": format!("{{{{ value }}}}\n{rest}\n{{{{ value }}}}\n") }));
    publish(&folder.consumer(), 1).await.expect("published");
    let path = folder.path();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        let mut looks = 0;
        while stopped.try_recv().is_err() {
            let content = fs::read_to_string(&path).expect("the file is always there");
            let (first, last) = (content.lines().next(), content.lines().last());
            assert!(content.len() > 200_000 && first == last, "a part was seen");
            looks += 1;
        }
        looks
    });
    for version in 2..60 {
        publish(&folder.consumer(), version).await.expect("published");
    }
    stop.send(()).expect("the reader is there");
    assert!(reader.join().expect("the reader saw whole files") > 10);
}

#[tokio::test]
async fn mode_and_owner_are_as_the_policy_says_and_are_put_right() {
    // Only root can give files away; anybody else keeps them.
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let (user, group) = if user.is_root() { (12345, 23456) } else { (user.as_raw(), group.as_raw()) };
    let folder = Folder::with(json!({ "mode": "0640", "owner": format!("{user}:{group}") }));
    let as_it_should_be = |folder: &Folder| {
        let metadata = fs::symlink_metadata(folder.path()).expect("the file");
        (mode(&folder.path()), metadata.uid(), metadata.gid()) == (0o640, user, group)
    };
    publish(&folder.consumer(), 1).await.expect("published");
    assert!(as_it_should_be(&folder));
    assert_eq!(mode(&folder.note()), 0o600);
    for wrong in [0o644, 0o600, 0o4640] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(wrong)).expect("a mode");
        publish(&folder.consumer(), 1).await.expect("published");
        assert!(as_it_should_be(&folder), "{wrong:o} was left");
    }
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for (wrong_user, wrong_group) in [(Some(own.0), None), (None, Some(own.1))] {
        std::os::unix::fs::chown(folder.path(), wrong_user, wrong_group).expect("an owner");
        publish(&folder.consumer(), 1).await.expect("published");
        assert!(as_it_should_be(&folder), "{wrong_user:?}:{wrong_group:?} was left");
    }

    let folder = Folder::with(json!({ "owner": "nobody-of-that-name" }));
    let published = publish(&folder.consumer(), 1).await;
    assert_refused(published, FailureClass::Invalid, "no user `nobody-of-that-name`");
    assert!(!folder.path().exists() && !folder.draft().exists());
    let findings = folder.consumer().preflight(&policy()).await;
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{findings:?}");
}

#[tokio::test]
async fn a_file_that_rekeyd_did_not_write_is_refused_or_adopted() {
    let folder = Folder::new();
    fs::write(folder.path(), "somebody's\n").expect("a file");
    let refused = publish(&folder.consumer(), 1).await;
    assert_refused(refused, FailureClass::Invalid, "rekeyd did not write it");
    assert_eq!(folder.content(), "somebody's\n");
    let findings = folder.consumer().preflight(&policy()).await;
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{findings:?}");

    let adopting = Folder { more: json!({ "adopt": true }), ..folder };
    publish(&adopting.consumer(), 1).await.expect("adopted");
    assert_eq!(adopting.shown(), Some(value(1)));
    // Once it is rekeyd's the permission is not needed any more.
    let folder = Folder { more: json!({}), ..adopting };
    publish(&folder.consumer(), 2).await.expect("published");
    assert_eq!(folder.shown(), Some(value(2)));
}

#[tokio::test]
async fn a_link_in_the_place_of_the_file_is_replaced_and_not_followed() {
    for leads_somewhere in [true, false] {
        let folder = Folder::new();
        let elsewhere = folder.beside("elsewhere");
        if leads_somewhere {
            fs::write(&elsewhere, "somebody's\n").expect("a file");
        }
        std::os::unix::fs::symlink(&elsewhere, folder.path()).expect("a link");
        let refused = publish(&folder.consumer(), 1).await;
        assert_refused(refused, FailureClass::Invalid, "rekeyd did not write it");

        let adopting = Folder { more: json!({ "adopt": true }), ..folder };
        publish(&adopting.consumer(), 1).await.expect("adopted");
        assert!(fs::symlink_metadata(adopting.path()).expect("a file").is_file());
        let found = fs::read_to_string(&elsewhere).ok();
        assert_eq!(found.as_deref(), leads_somewhere.then_some("somebody's\n"), "the link was followed");

        // Put there later: it is mended, and the content is not taken for the file's.
        fs::rename(adopting.path(), &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, adopting.path()).expect("a link");
        publish(&adopting.consumer(), 1).await.expect("mended");
        assert!(fs::symlink_metadata(adopting.path()).expect("a file").is_file());
    }
}

/// What a process leaves that dies between the note and the file, or the other way round.
#[tokio::test]
async fn whatever_a_death_leaves_the_next_publication_puts_right() {
    let write_note = |folder: &Folder, published: u64, reloaded: u64| {
        let note = json!({ "policy": policy(), "published": published, "reloaded": reloaded });
        fs::write(folder.note(), note.to_string()).expect("a note");
    };
    let write = |folder: &Folder, version: u64| {
        fs::write(folder.path(), format!("user=app\nvalue={}\n", value(version))).expect("a file");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o600)).expect("a mode");
    };
    // (note's version, file's version, drafts)
    for (note, file) in [(0, None), (0, Some(1)), (1, Some(1)), (1, Some(2)), (2, Some(1)), (2, None)] {
        let folder = Folder::new();
        write_note(&folder, note, note.saturating_sub(1));
        if let Some(version) = file {
            write(&folder, version);
        }
        fs::write(folder.draft(), "half a").expect("a draft");
        publish(&folder.consumer(), 2).await.expect("published");
        assert_eq!(folder.shown(), Some(value(2)), "note {note}, file {file:?}");
        reload(&folder.consumer(), 2).await.expect("reloaded");
        assert_eq!(folder.told(), Some(1), "note {note}, file {file:?}");
        assert!(!folder.draft().exists());
        let content = folder.content();
        publish(&folder.consumer(), 2).await.expect("published");
        reload(&folder.consumer(), 2).await.expect("reloaded");
        assert_eq!((folder.content(), folder.told()), (content, Some(1)));
    }
}

#[tokio::test]
async fn a_note_that_is_not_rekeyds_stops_it() {
    for text in ["", "{", "{\"policy\":\"a/b\"}", "\u{0}"] {
        let folder = Folder::new();
        fs::write(folder.note(), text).expect("a note");
        let refused = publish(&folder.consumer(), 1).await;
        assert_refused(refused, FailureClass::Invalid, "it is not one of rekeyd's");
        assert!(!folder.path().exists());
    }
}

#[test]
fn a_path_that_names_no_file_is_refused() {
    for path in ["relative/file", "/", "/tmp/.."] {
        let folder = Folder::with(json!({ "path": path }));
        let refused = FileConsumer::new(&folder.spec()).map(|_| ());
        let failure = refused.expect_err("it was taken");
        assert_eq!(failure.class(), FailureClass::Invalid);
    }
    let folder = Folder::with(json!({ "content": "{{ password }}" }));
    assert!(FileConsumer::new(&folder.spec()).is_err());
}
