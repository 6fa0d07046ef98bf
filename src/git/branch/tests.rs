//! A branch that others push to as well, in bare repositories on this machine.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::*;

const FILE: &str = "apps/orders/versions.yaml";

/// A remote, and the clone of somebody else.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let ground = Self { dir: tempfile::tempdir().expect("a folder") };
        git(ground.dir.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "remote"]);
        git(ground.dir.path(), &["clone", "--quiet", "remote", "team"]);
        git(&ground.path("team"), &["checkout", "--quiet", "-B", "main"]);
        ground.push(&[(FILE, "0\n"), ("README.md", "hello\n")]);
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Somebody else's commit.
    fn push(&self, files: &[(&str, &str)]) {
        let team = self.path("team");
        git(&team, &["fetch", "--quiet", "origin"]);
        if !git(&team, &["branch", "--remotes"]).is_empty() {
            git(&team, &["reset", "--quiet", "--hard", "origin/main"]);
        }
        for (path, content) in files {
            fs::create_dir_all(team.join(path).parent().expect("a folder")).expect("a folder");
            fs::write(team.join(path), content).expect("written");
        }
        git(&team, &["add", "--all"]);
        git(&team, &["commit", "--quiet", "--message", "Change something"]);
        git(&team, &["push", "--quiet", "origin", "main"]);
    }

    fn branch(&self, folder: &str) -> Branch {
        let settings = json!({"path": self.path(folder), "remote": {"url": self.path("remote")}});
        let settings = serde_json::from_value(settings).expect("settings");
        Branch::new(&"platform".parse().expect("a name"), &settings).expect("a branch")
    }

    fn remote(&self, arguments: &[&str]) -> String {
        git(&self.path("remote"), arguments)
    }

    fn commits(&self) -> usize {
        self.remote(&["rev-list", "--count", "main"]).parse().expect("a number")
    }

    fn content(&self) -> String {
        self.remote(&["show", &format!("main:{FILE}")])
    }
}

/// What `git` prints, as somebody of the team.
pub(crate) fn git(at: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(at).args(["-c", "user.name=team", "-c", "user.email=team@example.com"]);
    let output = command.args(arguments).output().expect("git");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Adds a line, once.
fn with_line(content: Option<&[u8]>, line: &str) -> Result<Option<Change>, Failure> {
    let content = String::from_utf8(content.expect("a file").to_vec()).expect("text");
    let is_there = content.lines().any(|there| there == line);
    let change = || Change { content: format!("{content}{line}\n"), message: format!("Add {line}\n") };
    Ok((!is_there).then(change))
}

#[tokio::test]
async fn a_change_is_one_commit_and_what_is_there_already_is_none() {
    let ground = Ground::new();
    let branch = ground.branch("clone");
    assert_eq!(branch.look(FILE).await, Ok(Some(b"0\n".to_vec())));
    assert_eq!(branch.change(FILE, |content| with_line(content, "a")).await, Ok(true));
    assert_eq!(branch.change(FILE, |content| with_line(content, "a")).await, Ok(false));
    assert_eq!(ground.branch("another").change(FILE, |content| with_line(content, "a")).await, Ok(false));
    assert_eq!((ground.commits(), ground.content().as_str()), (2, "0\na"));
    assert_eq!(ground.remote(&["log", "-1", "--format=%an <%ae> %s"]), "rekeyd <rekeyd@localhost> Add a");
    assert_eq!(ground.remote(&["diff", "--name-only", "main~1", "main"]), FILE);
    ground.remote(&["fsck", "--strict"]);
}

#[tokio::test]
async fn somebody_who_pushes_in_between_is_built_upon() {
    let ground = Ground::new();
    let branch = ground.branch("clone");
    let asked = Cell::new(0);
    let changed = branch.change(FILE, |content| {
        asked.set(asked.get() + 1);
        if asked.get() == 1 {
            ground.push(&[(FILE, "0\nb\n"), ("other.yaml", "theirs\n")]);
        }
        with_line(content, "a")
    });
    assert_eq!(changed.await, Ok(true));
    assert_eq!((asked.get(), ground.commits(), ground.content().as_str()), (2, 3, "0\nb\na"));
    assert_eq!(ground.remote(&["show", "main:other.yaml"]), "theirs");
    // Whoever never gets there is told.
    let pushes = Cell::new(0);
    let changed = branch.change(FILE, |content| {
        pushes.set(pushes.get() + 1);
        ground.push(&[("other.yaml", &format!("{}\n", pushes.get()))]);
        with_line(content, "c")
    });
    let failure = changed.await.expect_err("others push all the time");
    assert_eq!((failure.class(), pushes.get()), (FailureClass::Unavailable, ROUNDS));
    assert!(failure.to_string().contains("platform"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_race_lose_nothing() {
    let ground = Ground::new();
    // Two of a machine, and one elsewhere.
    let work = ["clone", "clone", "elsewhere"].into_iter().enumerate().map(|(number, folder)| {
        let branch = ground.branch(folder);
        tokio::spawn(async move {
            for round in 0..3 {
                let line = format!("{number}-{round}");
                while branch.change(FILE, |content| with_line(content, &line)).await.is_err() {}
            }
        })
    });
    for done in futures_util::future::join_all(work).await {
        done.expect("no panic");
    }
    assert_eq!(ground.commits(), 10);
    assert_eq!(ground.content().lines().count(), 10);
}

/// As after a death between commit and push: what was not pushed is nobody's.
#[tokio::test]
async fn a_commit_that_was_not_pushed_is_made_again_on_the_newest_head() {
    let ground = Ground::new();
    let branch = ground.branch("clone");
    let hook = ground.path("remote/hooks/pre-receive");
    fs::create_dir_all(hook.parent().expect("a folder")).expect("a folder");
    fs::write(&hook, "#!/bin/sh\nexit 1\n").expect("written");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a mode");
    let failure = branch.change(FILE, |content| with_line(content, "a")).await.expect_err("it is refused");
    assert_eq!(failure.class(), FailureClass::Denied);
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("protection")), "{failure:?}");
    fs::remove_file(&hook).expect("removed");
    ground.push(&[("other.yaml", "theirs\n")]);
    assert_eq!(branch.change(FILE, |content| with_line(content, "a")).await, Ok(true));
    assert_eq!((ground.commits(), ground.content().as_str()), (3, "0\na"));
}

#[tokio::test]
async fn a_remote_that_is_away_is_said_to_be_and_used_when_it_is_back() {
    let ground = Ground::new();
    let branch = ground.branch("clone");
    fs::rename(ground.path("remote"), ground.path("away")).expect("renamed");
    let failure = branch.change(FILE, |content| with_line(content, "a")).await.expect_err("it is away");
    assert!(failure.to_string().contains("the GitOps repository platform"), "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("gitops.platform.remote")), "{failure:?}");
    fs::rename(ground.path("away"), ground.path("remote")).expect("renamed");
    assert_eq!(branch.change(FILE, |content| with_line(content, "a")).await, Ok(true));
}

#[tokio::test]
async fn links_and_folders_are_not_followed() {
    let ground = Ground::new();
    let team = ground.path("team");
    std::os::unix::fs::symlink("../../README.md", team.join("apps/orders/link.yaml")).expect("a link");
    std::os::unix::fs::symlink("orders", team.join("apps/folder")).expect("a link");
    ground.push(&[("apps/orders/inner.yaml/file", "x\n")]);
    let branch = ground.branch("clone");
    for (file, reason) in [
        ("apps/orders/link.yaml", "it is a link, a folder or a submodule"),
        ("apps/orders/inner.yaml", "it is a link, a folder or a submodule"),
        ("apps/folder/versions.yaml", "it leads through a link or a file"),
        ("README.md/versions.yaml", "it leads through a link or a file"),
    ] {
        let failure = branch.look(file).await.expect_err(file);
        assert_eq!((failure.class(), failure.reason()), (FailureClass::Invalid, reason), "{file}");
    }
    for file in ["apps/orders/none.yaml", "none/versions.yaml"] {
        assert_eq!(branch.look(file).await, Ok(None), "{file}");
    }
}

#[tokio::test]
async fn what_is_not_a_folder_of_its_own_is_left_alone() {
    let ground = Ground::new();
    for folder in ["team", "remote"] {
        let failure = ground.branch(folder).look(FILE).await.expect_err(folder);
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    }
    // Half of one, of somebody who died while making it.
    fs::create_dir(ground.path("half")).expect("a folder");
    fs::write(ground.path("half").join(LOCK), "").expect("written");
    assert!(ground.branch("half").look(FILE).await.is_ok());
}

#[tokio::test]
async fn a_glance_leaves_nothing_behind() {
    let ground = Ground::new();
    assert_eq!(ground.branch("clone").glance(FILE).await, Ok(Some(b"0\n".to_vec())));
    assert!(!ground.path("clone").exists());
}

#[tokio::test]
async fn a_branch_that_is_not_there_is_named() {
    let ground = Ground::new();
    let settings = json!({
        "path": ground.path("clone"), "branch": "live", "remote": {"url": ground.path("remote")},
    });
    let settings = serde_json::from_value(settings).expect("settings");
    let branch = Branch::new(&"platform".parse().expect("a name"), &settings).expect("a branch");
    let failure = branch.look(FILE).await.expect_err("there is none");
    assert_eq!(failure.reason(), "it has no branch live");
}
