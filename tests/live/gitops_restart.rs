//! Restarts by Git, with a real Argo CD that heals by itself: rekeyd commits the version, Argo CD rolls it out, and
//! rekeyd needs no right to change a workload.

use serde_json::{Value, json};

use crate::account::Account;
use crate::cluster::{SECRET, prepared, told, version_of};
use crate::gitops::{ArgoCd, Repository, bare_secret, git};
use crate::kubernetes::{Namespace, idle};
use crate::postgres_support::text;
use crate::site::*;

const FILE: &str = "deploy/rekeyd-versions.yaml";

const KUSTOMIZATION: &str = "resources: [secret.json, app.json]\npatches:\n  - path: rekeyd-versions.yaml\n";

impl Repository {
    /// Has the site's policy restart workloads by this repository.
    fn restarts(&self, site: &Site, space: &Namespace) -> String {
        site.at.change_settings(|settings| {
            settings["gitops"] = json!({"platform": {
                "path": site.at.path("platform.git"), "remote": {"url": self.bare},
            }});
        });
        site.at.change_policy(NAME, |policy| {
            let reader = &mut policy["spec"]["consumers"][0]["kubernetes"];
            // The Secret is Argo CD's.
            reader["adopt"] = json!(true);
            reader["workloads"]["restart"] = json!({"gitops": {"repository": "platform", "file": FILE}});
        });
        format!("# rekeyd.dev/versions-of main:{}\n", space.name)
    }

    fn remote(&self, arguments: &[&str]) -> String {
        git(&self.bare, arguments)
    }

    /// How many commits are rekeyd's.
    fn by_rekeyd(&self) -> usize {
        self.remote(&["rev-list", "--count", "--author=rekeyd@localhost", "main"]).parse().expect("a number")
    }

    fn in_force(&self) -> String {
        self.remote(&["show", &format!("main:{FILE}")])
    }
}

/// The Deployment as its manifest has it: its namespace is left to Argo CD.
fn app() -> Value {
    idle("Deployment", "app", 2, SECRET)
}

/// Who wrote the version in the template.
fn writers(object: &Value) -> Vec<String> {
    let fields = object["metadata"]["managedFields"].as_array().expect("fields").iter();
    let field = "/fieldsV1/f:spec/f:template/f:metadata/f:annotations/f:rekeyd.dev~1version.orders-db";
    let writers = fields.filter(|entry| entry.pointer(field).is_some());
    writers.map(|entry| entry["manager"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_committed_is_rolled_out_once_and_by_argo_cd_alone() {
    let (cluster, space, site) = prepared().await;
    let argo = ArgoCd::start(&cluster).await;
    site.at.change_settings(|settings| settings["argoCd"] = json!({}));
    let repository = Repository::new(&site);
    let mark = repository.restarts(&site, &space);
    let account = Account::make(&cluster, &space, &site).await;
    account.allow().await;
    let rights = std::fs::read_to_string(site.at.path("rights.yaml")).expect("rights");
    assert_eq!(rights.matches("patch").count(), 1, "of Secrets alone: {rights}");

    // A file that nobody gave to rekeyd is said to be missing, before anything is begun.
    let bare = bare_secret(&site).await;
    let files = |versions: &str| {
        let (secret, app) = (format!("{bare:#}\n"), format!("{:#}\n", app()));
        repository.commit_texts(&[
            ("deploy/kustomization.yaml", KUSTOMIZATION),
            ("deploy/secret.json", &secret),
            ("deploy/app.json", &app),
            (FILE, versions),
        ])
    };
    let first = files("replicas: 3\n");
    let answer = site.rotate_in_vain().await;
    assert!(
        answer.stderr.contains(&format!("cannot use {FILE} of the GitOps repository platform")),
        "{answer}"
    );
    assert!(answer.stderr.contains(mark.trim()), "{answer}");
    assert!(site.stored().await.is_none(), "it was begun");
    site.at.run(&["preflight", POLICY, "-o", "text"]).await.ended(1);
    assert_eq!(repository.remote(&["rev-parse", "main"]), first);

    // The Secret and the workload come from Git; the manifest leaves its namespace out, and so does the patch.
    let document = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\n";
    let seed = files(&format!("{mark}{document}"));
    let application = argo.follow(&repository, "deploy", &space).await;
    application.synced(&seed).await;
    let answer = site.at.run(&["preflight", POLICY, "-o", "text"]).await.ended(0);
    assert!(answer.stdout.contains(&format!("are committed to platform {FILE}")), "{answer}");
    site.at.run(&["rotate", POLICY]).await.ended(0);
    space.rolled_out("deployment/app").await;
    application.is_well().await;
    let before = repository.by_rekeyd();
    let (_, generation) = told(&space, "deployment/app").await;
    let outgoing = space.credential(SECRET).await;

    // A rotation: one commit, one restart, and the template's version is Argo CD's.
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let value = space.credential(SECRET).await;
    assert!(site.accepts(&value).await && !site.accepts(&outgoing).await);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), generation + 1));
    let pods = space.pods("app=app").await;
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| version_of(pod) == Some("2")), "{pods:#?}");
    assert_eq!(repository.by_rekeyd(), before + 1);
    assert_eq!(
        repository.remote(&["log", "-1", "--format=%B", "main"]),
        format!("Restart Deployment {}/app for v2 of {POLICY}", space.name)
    );
    assert_eq!(repository.remote(&["diff", "--name-only", "main~1", "main"]), FILE);
    assert!(!repository.in_force().contains(text(&value)));
    let object = space.kubectl(&["get", "deployment/app", "-o", "json", "--show-managed-fields"]).await;
    let object: Value = serde_json::from_str(&object).expect("JSON");
    assert_eq!(writers(&object), ["argocd-controller"]);
    application.looked().await;
    application.is_well().await;
    assert_eq!(
        told(&space, "deployment/app").await,
        (Some("2".into()), generation + 1),
        "it was healed away"
    );

    // Somebody else commits, and a rotation after that builds on it.
    repository.commit_texts(&[("README.md", "hello\n")]);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    application.is_well().await;
    assert_eq!(told(&space, "deployment/app").await, (Some("3".into()), generation + 2));
    assert_eq!(repository.remote(&["show", "main:README.md"]), "hello");

    // Killed right before and right after the push: one commit and one restart all the same.
    for (point, version) in [("kubernetes.restart.committed", 4), ("kubernetes.restart.pushed", 5)] {
        let (before, (_, generation)) = (repository.by_rekeyd(), told(&space, "deployment/app").await);
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let killed = site.at.spawn(command).end().await;
        assert_eq!(killed.code, None, "it was not killed at {point}: {killed}");
        site.at.run(&["resume", POLICY]).await.ended(0);
        assert_eq!(repository.by_rekeyd(), before + 1, "{point}");
        let restarted = (Some(version.to_string()), generation + 1);
        assert_eq!(told(&space, "deployment/app").await, restarted, "{point}");
    }

    // Committed, and nobody applies it: it is said who is waited for, and the outgoing value lives.
    let automated = async |automated: Value| {
        let patch = json!({"spec": {"syncPolicy": {"automated": automated}}}).to_string();
        application.kubectl(&["patch", "application", &space.name, "--type=merge", "-p", &patch]).await;
    };
    let within = |deadline: &str| {
        site.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["kubernetes"]["workloads"]["deadline"] = json!(deadline);
        });
    };
    automated(Value::Null).await;
    within("5s");
    let held = space.credential(SECRET).await;
    let answer = site.rotate_in_vain().await;
    let wait = format!("committed to platform {FILE}, waits for Argo CD (Application {})", space.name);
    assert!(answer.stdout.contains(&wait) || answer.stderr.contains(&wait), "{answer}");
    assert!(site.accepts(&held).await, "it was retired under its readers");
    automated(json!({"selfHeal": true, "prune": true})).await;
    within("10m");
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await.0.as_deref(), Some("6"));
    assert!(!site.accepts(&held).await);

    // Away: it is said what is, and a containment goes on when the repository is back.
    let away = repository.bare.with_extension("away");
    std::fs::rename(&repository.bare, &away).expect("renamed");
    let leaked = space.credential(SECRET).await;
    let answer = site.at.run(&["contain", POLICY, "--patience", "0s", "-o", "text"]).await;
    assert_ne!(answer.code, Some(0), "{answer}");
    assert!(answer.stderr.contains("the GitOps repository platform"), "{answer}");
    std::fs::rename(&away, &repository.bare).expect("renamed");
    site.at.run(&["resume", POLICY]).await.ended(0);
    application.is_well().await;
    assert!(!site.accepts(&leaked).await, "it works still");
    assert!(site.accepts(&space.credential(SECRET).await).await);
    site.at.run(&["audit", "verify"]).await.ended(0);
}
