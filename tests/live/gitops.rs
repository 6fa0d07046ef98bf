//! Peace with a real Argo CD that heals and prunes by itself: whatever rekeyd writes stays, and where it would not
//! stay nothing is begun.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::cluster::{ANNOTATION, SECRET, application, counted, prepared, told};
use crate::kubernetes::{Cluster, Namespace, PATIENCE};
use crate::openbao::servers;
use crate::site::*;

/// A cluster has one Argo CD at most: tests with one take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// Argo CD on the shared cluster.
pub(crate) struct ArgoCd {
    cluster: Cluster,
    run: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl ArgoCd {
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let turn = TURN.lock().await;
        let run = servers().join("argocd");
        std::fs::create_dir_all(&run).expect("a folder");
        let output =
            script().arg("start").arg(&run).arg(&cluster.kubeconfig).output().expect("deploy/dev/argocd");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { cluster: cluster.clone(), run, _turn: turn }
    }

    /// An Application of a repository's folder, with automated self-heal and prune.
    pub(crate) async fn follow(
        &self,
        repository: &Repository,
        folder: &str,
        space: &Namespace,
    ) -> Application<'_> {
        let application = Application { argo: self, name: space.name.clone() };
        let object = json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
            "metadata": {"name": application.name, "namespace": "argocd"},
            "spec": {
                "project": "default",
                "source": {
                    "repoURL": format!("file://{}", repository.bare.display()),
                    "path": folder, "targetRevision": "main",
                },
                "destination": {"server": "https://kubernetes.default.svc", "namespace": space.name},
                "syncPolicy": {"automated": {"selfHeal": true, "prune": true}},
            },
        });
        self.cluster.kubectl(&["create", "-f", "-"], &object.to_string()).await;
        application
    }
}

impl Drop for ArgoCd {
    fn drop(&mut self) {
        let stopped = script().arg("stop").arg(&self.run).stdout(Stdio::null()).status();
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "Argo CD was not stopped");
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/argocd"))
}

pub(crate) struct Application<'a> {
    argo: &'a ArgoCd,
    name: String,
}

impl Application<'_> {
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.argo.cluster.kubectl(&[&["--namespace", "argocd"], arguments].concat(), "").await
    }

    /// Waits until a commit is what the cluster has.
    pub(crate) async fn synced(&self, revision: &str) {
        self.kubectl(&[
            "annotate",
            "application",
            &self.name,
            "argocd.argoproj.io/refresh=normal",
            "--overwrite",
        ])
        .await;
        self.becomes(&format!("{{.status.sync.revision}}={revision}")).await;
        self.becomes("{.status.sync.status}=Synced").await;
    }

    async fn becomes(&self, what: &str) {
        let application = format!("application/{}", self.name);
        self.kubectl(&["wait", &application, &format!("--for=jsonpath={what}"), PATIENCE]).await;
    }

    pub(crate) async fn is_well(&self) {
        self.becomes("{.status.sync.status}=Synced").await;
        self.becomes("{.status.health.status}=Healthy").await;
    }

    /// Waits until it has compared what is there with Git once more, and has healed what it would heal.
    pub(crate) async fn looked(&self) {
        let reconciled = async || {
            let at = "jsonpath={.status.reconciledAt}";
            self.kubectl(&["get", "application", &self.name, "-o", at]).await
        };
        let before = reconciled().await;
        self.kubectl(&[
            "annotate",
            "application",
            &self.name,
            "argocd.argoproj.io/refresh=hard",
            "--overwrite",
        ])
        .await;
        // It takes the annotation away when it has.
        let application = format!("application/{}", self.name);
        let gone = "--for=jsonpath={.status.sync.status}=Synced";
        while reconciled().await == before {
            self.kubectl(&["wait", &application, gone, PATIENCE]).await;
        }
    }
}

/// A Git repository that Argo CD follows.
pub(crate) struct Repository {
    pub(crate) bare: PathBuf,
    pub(crate) work: PathBuf,
}

impl Repository {
    pub(crate) fn new(site: &Site) -> Self {
        let (bare, work) = (site.at.path("gitops.git"), site.at.path("gitops"));
        let new = Self { bare, work };
        git(&site.at.path(""), &["init", "--quiet", "--bare", "--initial-branch=main", "gitops.git"]);
        git(&site.at.path(""), &["clone", "--quiet", "gitops.git", "gitops"]);
        git(&new.work, &["checkout", "--quiet", "-B", "main"]);
        new
    }

    /// Commits manifests; the commit.
    pub(crate) fn commit(&self, files: &[(&str, &Value)]) -> String {
        let files: Vec<_> = files.iter().map(|(path, object)| (*path, format!("{object:#}\n"))).collect();
        let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        self.commit_texts(&files)
    }

    /// Commits files on top of what others pushed; the commit.
    pub(crate) fn commit_texts(&self, files: &[(&str, &str)]) -> String {
        if git(&self.work, &["ls-remote", "origin", "main"]).contains("main") {
            git(&self.work, &["pull", "--quiet", "--rebase", "origin", "main"]);
        }
        for (path, text) in files {
            let path = self.work.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("written");
        }
        git(&self.work, &["add", "--all"]);
        git(&self.work, &["commit", "--quiet", "--message", "Change what is wanted"]);
        git(&self.work, &["push", "--quiet", "origin", "main"]);
        git(&self.work, &["rev-parse", "HEAD"])
    }
}

pub(crate) fn git(at: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .current_dir(at)
        .args(["-c", "user.name=team", "-c", "user.email=team@example.com"])
        .args(arguments);
    let output = command.output().expect("git");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// The manifest of the Secret as rekeyd says that Git may hold it.
pub(crate) async fn bare_secret(site: &Site) -> Value {
    let written = site.at.run(&["placeholders"]).await.ended(0).stdout;
    serde_saphyr::from_str(written.trim_start_matches("---\n")).expect("a manifest")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rotated_survives_argo_cd_and_what_would_not_is_not_begun() {
    let (cluster, space, site) = prepared().await;
    let argo = ArgoCd::start(&cluster).await;
    site.at.change_settings(|settings| settings["argoCd"] = json!({}));
    let repository = Repository::new(&site);
    let app = application(&site, 2).await;
    let first =
        repository.commit(&[("deploy/secret.json", &bare_secret(&site).await), ("deploy/app.json", &app)]);
    let application = argo.follow(&repository, "deploy", &space).await;
    application.synced(&first).await;
    // The Secret is Argo CD's, so it has to be taken over; pods wait for its content.
    site.at.change_policy(NAME, |policy| policy["spec"]["consumers"][0]["kubernetes"]["adopt"] = json!(true));
    let answer = site.at.run(&["preflight", POLICY, "-o", "text"]).await;
    assert!(answer.stdout.contains("Git holds the object without data"), "{answer}");
    site.at.run(&["rotate", POLICY]).await.ended(0);
    space.rolled_out("deployment/app").await;
    application.is_well().await;

    // A rotation, what Argo CD makes of it, and commits to both manifests.
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let value = space.credential(SECRET).await;
    assert!(site.accepts(&value).await);
    let restarted = told(&space, "deployment/app").await;
    assert_eq!(restarted.0.as_deref(), Some("2"));
    let stays = async || {
        assert_eq!(space.credential(SECRET).await, value, "it was written over");
        assert_eq!(told(&space, "deployment/app").await.0.as_deref(), Some("2"), "the restart was stripped");
    };
    application.looked().await;
    application.is_well().await;
    stays().await;
    let mut scaled = app.clone();
    scaled["spec"]["replicas"] = json!(3);
    let mut labelled = bare_secret(&site).await;
    labelled["metadata"]["labels"] = json!({"team": "orders"});
    let second = repository.commit(&[("deploy/app.json", &scaled), ("deploy/secret.json", &labelled)]);
    application.synced(&second).await;
    application.is_well().await;
    stays().await;
    assert_eq!(space.read(&format!("secret/{SECRET}")).await["metadata"]["labels"]["team"], "orders");
    let (pods, queries, failed) = counted(&site.world).await;
    assert!(pods > 2 && queries > 0, "{queries} queries by {pods} pods");
    assert_eq!(failed, 0, "{queries} queries by {pods} pods");
    let in_git = std::fs::read_to_string(repository.work.join("deploy/secret.json")).expect("a manifest");
    assert!(in_git.contains("rekeyd://orders/orders-db"), "{in_git}");

    // A placeholder as data: Argo CD writes it over the value, and rekeyd begins nothing.
    let mut wrong = labelled.clone();
    wrong["stringData"] = json!({"password": "rekeyd://orders/orders-db#password"});
    let third = repository.commit(&[("deploy/secret.json", &wrong)]);
    application.synced(&third).await;
    let stored = site.stored().await;
    let answer = site.rotate_in_vain().await;
    assert!(answer.stderr.contains(&format!("Argo CD (Application {}) keeps it", space.name)), "{answer}");
    assert!(answer.stderr.contains("take `data` and `stringData` out of the manifest in Git"), "{answer}");
    assert_eq!(site.stored().await, stored, "it was begun");

    // What the remedy says, followed to the letter.
    let remedy = json!({"spec": {
        "ignoreDifferences": [{"kind": "Secret", "name": SECRET, "jsonPointers": ["/data", "/stringData"]}],
        "syncPolicy": {"syncOptions": ["RespectIgnoreDifferences=true", "ServerSideApply=true"]},
    }});
    let patch = remedy.to_string();
    application.kubectl(&["patch", "application", &application.name, "--type=merge", "-p", &patch]).await;
    // Applied by the server from now on: what the client noted before goes with the manifest's next change.
    let note = "kubectl.kubernetes.io/last-applied-configuration-";
    space.kubectl(&["annotate", "secret", SECRET, note]).await;
    application.looked().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let value = space.credential(SECRET).await;
    assert!(site.accepts(&value).await);
    let mut changed = wrong.clone();
    changed["metadata"]["labels"]["team"] = json!("shop");
    let fourth = repository.commit(&[("deploy/secret.json", &changed)]);
    application.synced(&fourth).await;
    application.looked().await;
    application.is_well().await;
    let secret = space.read(&format!("secret/{SECRET}")).await;
    assert_eq!(secret["metadata"]["labels"]["team"], "shop");
    assert_eq!(space.credential(SECRET).await, value, "it was written over");
    let applied = &secret["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(applied.is_null(), "a sync copied the value into an annotation");

    // Where Git says which version pods are of, a restart would be written back.
    let mut pinned = scaled.clone();
    pinned["spec"]["template"]["metadata"]["annotations"] = json!({ANNOTATION: "2"});
    application.synced(&repository.commit(&[("deploy/app.json", &pinned)])).await;
    application.is_well().await;
    let answer = site.rotate_in_vain().await;
    let why = format!("writes back what Git says of {ANNOTATION} in Deployment app");
    assert!(answer.stderr.contains(&why), "{answer}");
    let mut replaced = scaled.clone();
    replaced["metadata"]["annotations"] = json!({"argocd.argoproj.io/sync-options": "Replace=true"});
    application.synced(&repository.commit(&[("deploy/app.json", &replaced)])).await;
    application.is_well().await;
    let answer = site.at.run(&["preflight", POLICY, "-o", "text"]).await;
    assert!(answer.stdout.contains("replaces Deployment app as a whole at each sync"), "{answer}");
}
