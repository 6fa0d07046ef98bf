//! What is committed, and what is not, in a bare repository on this machine.

use serde_json::json;

use super::*;
use crate::git::branch::tests::git;
use crate::policy::spec::WorkloadKind;

const ANNOTATION: &str = "rekeyd.dev/version.db";
const SEED: &str = "# rekeyd.dev/versions-of main:orders\n";

/// A repository with a file of rekeyd's.
fn ground(file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    git(dir.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "remote"]);
    git(dir.path(), &["clone", "--quiet", "remote", "team"]);
    let team = dir.path().join("team");
    git(&team, &["checkout", "--quiet", "-B", "main"]);
    std::fs::write(team.join("versions.yaml"), file).expect("written");
    git(&team, &["add", "--all"]);
    git(&team, &["commit", "--quiet", "--message", "Begin"]);
    git(&team, &["push", "--quiet", "origin", "main"]);
    dir
}

/// What one process has of it.
fn declared(dir: &tempfile::TempDir, folder: &str) -> Declared {
    let settings = json!({"path": dir.path().join(folder), "remote": {"url": dir.path().join("remote")}});
    let settings = serde_json::from_value(settings).expect("settings");
    let repository = Repository::new(&"platform".parse().expect("a name"), &settings).expect("a repository");
    Declared {
        repository: Arc::new(repository),
        file: "versions.yaml".parse().expect("a file"),
        place: Place { cluster: "main".parse().expect("a name"), namespace: "orders".into() },
    }
}

fn app(name: &str) -> WorkloadName {
    WorkloadName { kind: WorkloadKind::Deployment, name: name.parse().expect("a name") }
}

fn wanted(name: &str, version: u64, until: u64) -> Wanted {
    let over = (Version::NONE, Version::new(until));
    Wanted { workload: app(name), annotation: ANNOTATION.into(), version: Version::new(version), over }
}

/// Whether it took a commit.
async fn commit(declared: &Declared, wanted: &[Wanted]) -> Result<bool, Failure> {
    let policy = "orders/db".parse().expect("a name");
    let message = |changed: &BTreeSet<_>| message(Some(&policy), wanted[0].over.1, "orders", changed);
    declared.commit(wanted, message).await.map(|changed| !changed.is_empty())
}

fn in_git(dir: &tempfile::TempDir, name: &str) -> Version {
    let content = git(&dir.path().join("remote"), &["show", "main:versions.yaml"]);
    declared(dir, "none").read(Some(content.as_bytes())).expect("a file").of(&app(name), ANNOTATION)
}

fn log(dir: &tempfile::TempDir) -> String {
    git(&dir.path().join("remote"), &["log", "-1", "--format=%B", "main"])
}

fn commits(dir: &tempfile::TempDir) -> usize {
    let count = git(&dir.path().join("remote"), &["rev-list", "--count", "main"]);
    count.parse().expect("a number")
}

#[tokio::test]
async fn one_commit_carries_several_workloads_and_names_no_more_than_them() {
    let dir = ground(SEED);
    let one = declared(&dir, "one");
    assert_eq!(commit(&one, &[wanted("web", 2, 2)]).await, Ok(true));
    assert_eq!(log(&dir), "Restart Deployment orders/web for v2 of orders/db");
    let all = [wanted("web", 2, 2), wanted("api", 2, 2), wanted("job", 2, 2)];
    assert_eq!(commit(&one, &all).await, Ok(true));
    assert_eq!(
        log(&dir),
        "Restart 2 workloads for v2 of orders/db\n\nDeployment orders/api\nDeployment orders/job"
    );
    assert_eq!(commit(&one, &all).await, Ok(false));
    // Another process, which knows nothing of it.
    assert_eq!(commit(&declared(&dir, "other"), &all).await, Ok(false));
    assert_eq!(commits(&dir), 3);
}

#[tokio::test]
async fn nobodys_later_version_is_written_over() {
    let dir = ground(SEED);
    let (newer, older) = (declared(&dir, "newer"), declared(&dir, "older"));
    commit(&newer, &[wanted("web", 3, 3)]).await.expect("committed");
    assert_eq!(commit(&older, &[wanted("web", 2, 2)]).await, Ok(false));
    assert_eq!(in_git(&dir, "web"), Version::new(3));
    // What was taken back goes, to the version before or to none; what was brought back stays.
    assert_eq!(commit(&newer, &[wanted("web", 2, 4)]).await, Ok(true));
    assert_eq!(commit(&newer, &[wanted("web", 0, 5)]).await, Ok(true));
    assert_eq!(in_git(&dir, "web"), Version::NONE);
    // What never came to a workload is recalled, and nothing else.
    let recalled = |from| Wanted { over: (Version::new(from), Version::new(5)), ..wanted("api", 1, 5) };
    commit(&newer, &[wanted("api", 3, 3)]).await.expect("committed");
    assert_eq!(commit(&newer, &[recalled(4)]).await, Ok(false));
    assert_eq!(commit(&newer, &[recalled(2)]).await, Ok(true));
    assert_eq!(in_git(&dir, "api"), Version::new(1));
    commit(&newer, &[wanted("web", 6, 6)]).await.expect("committed");
    assert_eq!(commit(&older, &[wanted("web", 5, 6)]).await, Ok(false));
    assert_eq!(in_git(&dir, "web"), Version::new(6));
}

#[tokio::test]
async fn what_is_not_rekeyds_is_refused_and_stays_as_it_is() {
    for (file, reason) in [
        ("kind: Deployment\n", "its first line does not say that it is rekeyd's, for main:orders"),
        (
            "# rekeyd.dev/versions-of main:shop\n",
            "its first line does not say that it is rekeyd's, for main:orders",
        ),
        (
            "# rekeyd.dev/versions-of main:orders\nreplicas: 3\n",
            "document 1 is not a workload with versions of Secrets alone",
        ),
    ] {
        let dir = ground(file);
        let failure = commit(&declared(&dir, "one"), &[wanted("web", 2, 2)]).await.expect_err(file);
        assert_eq!((failure.class(), failure.reason()), (FailureClass::Invalid, reason));
        assert!(
            failure.to_string().starts_with("cannot use versions.yaml of the GitOps repository platform: ")
        );
        assert!(failure.remedy().is_some());
        assert_eq!(commits(&dir), 1);
    }
    let dir = ground(SEED);
    let missing = Declared { file: "gone.yaml".parse().expect("a file"), ..declared(&dir, "one") };
    let failure = commit(&missing, &[wanted("web", 2, 2)]).await.expect_err("there is none");
    let remedy = failure.remedy().expect("a remedy");
    assert!(remedy.contains("`# rekeyd.dev/versions-of main:orders`"), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_commit_a_version_once() {
    let dir = ground(SEED);
    let both = ["one", "other"].map(|folder| {
        let declared = declared(&dir, folder);
        tokio::spawn(async move { commit(&declared, &[wanted("web", 2, 2)]).await })
    });
    let mut news = Vec::new();
    for done in both {
        news.push(done.await.expect("no panic").expect("committed"));
    }
    // Whoever comes second finds it there, or pushed the very same commit: parent, content and second are the same.
    assert!(news.contains(&true), "{news:?}");
    assert_eq!(commits(&dir), 2);
}
