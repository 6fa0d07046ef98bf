//! What is wrong with a Secret in a cluster.

use super::{takes, tells};
use crate::policy::sample;

fn shop() -> String {
    sample("postgres-kubernetes.yaml")
}

#[test]
fn a_cluster_that_the_settings_do_not_have() {
    tells(
        &shop(),
        "cluster: edge",
        "cluster: «egde",
        "error: spec.consumers[1].kubernetes.cluster: the settings have no cluster `egde` (did you mean `edge`? Known: `edge`, `main`)",
    );
}

#[test]
fn a_secret_that_kubernetes_fills() {
    for kind in ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"] {
        tells(
            &shop(),
            "adopt: true",
            &format!("type: «{kind}"),
            &format!(
                "error: spec.consumers[1].kubernetes.type: Kubernetes fills Secrets of type `{kind}` itself (use `Opaque`, or another type that holds what it is given)"
            ),
        );
    }
    takes(&shop(), "adopt: true", "type: kubernetes.io/basic-auth");
}

#[test]
fn keys_of_the_secret() {
    tells(
        &shop(),
        "adopt: true",
        "«data: {}",
        "error: spec.consumers[1].kubernetes.data: the Secret would have no key (name one, as in `password: \"{{ value }}\"`)",
    );
    tells(
        &shop(),
        "adopt: true",
        "data: {a/b: «\"{{ value }}\"}",
        "error: spec.consumers[1].kubernetes.data[\"a/b\"]: `a/b` is not the key of a Secret: use 1 to 253 letters, digits, `-`, `_` and `.` (rename it)",
    );
    tells(
        &shop(),
        "adopt: true",
        "«data: {user: \"{{ principal }}\"}",
        "warning: spec.consumers[1].kubernetes.data: no key of the Secret uses the value (put `{{ value }}` where the value belongs)",
    );
    tells(
        &shop(),
        "adopt: true",
        "data: {password: «\"{{ vlaue }}\"}",
        "error: spec.consumers[1].kubernetes.data.password: the template uses `vlaue`, which is not defined (use namespace, policy, principal, value, version, or parts.NAME)",
    );
}

#[test]
fn workloads() {
    tells(
        &shop(),
        "              name: reports\n",
        "              name: reports\n            - «{kind: Deployment, name: reports}\n",
        "error: spec.consumers[0].kubernetes.workloads.also[1]: `Deployment reports` stands here twice (name it once)",
    );
    tells(
        &shop(),
        "kind: StatefulSet",
        "kind: «Statefulset",
        "error: spec.consumers[0].kubernetes.workloads.reloadThemselves[0].kind: `Statefulset` is not among the choices (did you mean `StatefulSet`? Known: `Deployment`, `StatefulSet`, `DaemonSet`, `Rollout`, `CronJob`)",
    );
    tells(
        &shop(),
        "deadline: 15m",
        "deadline: «0s",
        "error: spec.consumers[0].kubernetes.workloads.deadline: an interval of 0s never has room for a rotation (give it a length, or remove it)",
    );
}

#[test]
fn restarts_by_git() {
    let billing = sample("postgres-gitops.yaml");
    let at = "spec.consumers[0].kubernetes.workloads.restart.gitops";
    tells(
        &billing,
        "repository: platform",
        "repository: «platfrom",
        &format!(
            "error: {at}.repository: the settings have no GitOps repository `platfrom` (did you mean `platform`? Known: `platform`)"
        ),
    );
    for file in ["/etc/passwd", "../other.yaml", ".github/workflows/a.yaml", "apps/README.md", "a//b.yaml"] {
        let file = format!("file: {file}\n");
        let (lines, _) =
            super::said(&super::changed(&billing, "file: apps/billing/rekeyd-versions.yaml\n", &file));
        assert!(lines.len() == 1 && lines[0].contains("is not a file of a repository"), "{file}: {lines:?}");
    }
    tells(
        &billing,
        "secret: billing-db\n        workloads:\n          restart:\n            gitops:\n",
        "secret: billing-db\n        immutable: true\n        workloads:\n          restart:\n            «gitops:\n",
        &format!(
            "error: {at}: which Secret a workload names cannot be committed to a GitOps repository yet, only its version (leave out `immutable` or `restart.gitops`)"
        ),
    );
}

#[test]
fn workloads_in_order() {
    let ordered = |workload: &str, first: &str| {
        format!(
            "deadline: 15m\n          canary: {{kind: Deployment, name: reports}}\n          «after:\n            - workload: {{kind: Deployment, name: {workload}}}\n              waitsFor: [{{kind: Deployment, name: {first}}}]\n"
        )
    };
    takes(&shop(), "deadline: 15m\n", &ordered("web", "reports").replace('«', ""));
    for (workload, first) in [("reports", "web"), ("web", "web")] {
        tells(
            &shop(),
            "deadline: 15m\n",
            &ordered(workload, first),
            &format!(
                "error: spec.consumers[0].kubernetes.workloads.after: Deployment {workload} waits for itself, through those that it comes after (let the canary and whoever comes first wait for nobody)"
            ),
        );
    }
}

#[test]
fn names() {
    for name in ["Shop", "shop_db", "-a", "a..b", "a/b", "../a"] {
        let (lines, _) =
            super::said(&super::changed(&shop(), "secret: shop-db\n", &format!("secret: {name}\n")));
        assert!(lines.len() == 1 && lines[0].contains("is not the name of an object"), "{name}: {lines:?}");
    }
    takes(&shop(), "secret: shop-db\n", "secret: shop.db-1\n");
}
