//! The rights that rekeyd needs in a cluster for the policies that there are, as manifests: Secrets by name, each
//! watched alone. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::ident::{DnsLabel, ObjectName, Principal};
use crate::policy::Policy;
use crate::policy::spec::{ServiceAccountStrategy, TargetSpec, WorkloadKind};
use crate::settings::Settings;

/// What stands in the name of each role.
const NAME: &str = "rekeyd";

/// Who gets the rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub namespace: DnsLabel,
    pub name: DnsLabel,
}

/// What rekeyd does in one namespace.
#[derive(Default)]
struct Needs<'a> {
    secrets: BTreeSet<&'a ObjectName>,
    /// Workloads that are looked at, and those among them whose template is changed.
    workloads: BTreeMap<WorkloadKind, [Which<'a>; 2]>,
    /// For a canary pod: its name is another for each version, which no role can say.
    makes_pods: bool,
    /// Secrets of single versions: another name each time, too.
    freezes: bool,
    /// Service accounts whose tokens are made.
    accounts: BTreeSet<&'a Principal>,
    /// Those of them whose tokens are asked for, with an end.
    bound: BTreeSet<&'a Principal>,
}

/// Of a kind of workload, those of these names, or all.
enum Which<'a> {
    Named(BTreeSet<&'a ObjectName>),
    All,
}

impl Default for Which<'_> {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl<'a> Which<'a> {
    fn add(&mut self, name: Option<&'a ObjectName>) {
        match (self, name) {
            (Self::Named(names), Some(name)) => drop(names.insert(name)),
            (all, None) => *all = Self::All,
            (Self::All, Some(_)) => {}
        }
    }
}

/// The roles and bindings of an account in a cluster, by namespace.
#[must_use]
pub fn manifests<'a>(
    settings: &Settings,
    policies: impl IntoIterator<Item = &'a Policy>,
    cluster: &DnsLabel,
    account: &Account,
) -> Vec<Value> {
    let mut namespaces: BTreeMap<String, Needs<'a>> = BTreeMap::new();
    for policy in policies {
        if let TargetSpec::KubernetesServiceAccount(account) = &policy.spec().target
            && account.cluster == *cluster
        {
            let own = policy.name().namespace();
            let namespace = account.namespace.as_ref().map_or(own, DnsLabel::as_str);
            let needs = namespaces.entry(namespace.to_owned()).or_default();
            needs.accounts.insert(&account.service_account);
            if matches!(account.strategy, ServiceAccountStrategy::Bound(_)) {
                needs.bound.insert(&account.service_account);
            }
        }
        for (spec, namespace) in policy.secrets_in(cluster) {
            let needs = namespaces.entry(namespace.to_owned()).or_default();
            needs.secrets.insert(&spec.secret);
            needs.freezes |= spec.immutable;
            needs.makes_pods |= spec.workloads.canary_pod.is_some();
            let found = WorkloadKind::ALL.into_iter().filter(|_| spec.workloads.discover);
            let named = spec.workloads.named().map(|named| (named.kind, Some(&named.name)));
            for (kind, name) in found.map(|kind| (kind, None)).chain(named) {
                let [looked_at, changed] = needs.workloads.entry(kind).or_default();
                looked_at.add(name);
                // A GitOps tool changes the others.
                if spec.workloads.gitops().is_none() {
                    changed.add(name);
                }
            }
        }
    }
    let mut manifests = Vec::new();
    for (namespace, needs) in &namespaces {
        role(&mut manifests, Some(namespace), NAME, &needs.rules(), account);
    }
    if let Some(resources) = settings.policies.resources.as_ref().filter(|found| found.cluster == *cluster) {
        let rules = [
            json!({"apiGroups": ["rekeyd.dev"], "resources": ["rotationpolicies"], "verbs": ["list", "watch"]}),
            json!({"apiGroups": ["rekeyd.dev"], "resources": ["rotationpolicies/status"], "verbs": ["patch"]}),
            json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}),
        ];
        match resources.namespaces.as_slice() {
            [] => role(&mut manifests, None, "rekeyd-policies", &rules, account),
            some => {
                for namespace in some {
                    role(&mut manifests, Some(namespace.as_str()), "rekeyd-policies", &rules, account);
                }
            }
        }
    }
    if let Some(leader) = settings.leader_election.as_ref().filter(|leader| leader.cluster == *cluster) {
        let rules = [
            json!({
                "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                "resourceNames": [leader.name], "verbs": ["get", "update", "watch"],
            }),
            // A name cannot be asked for before the object is there.
            json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}),
        ];
        role(&mut manifests, Some(leader.namespace.as_str()), "rekeyd-leader", &rules, account);
    }
    if let Some(argo_cd) = settings.argo_cd.as_ref().filter(|argo_cd| argo_cd.cluster == *cluster) {
        let rules = [json!({"apiGroups": ["argoproj.io"], "resources": ["applications"], "verbs": ["get"]})];
        role(&mut manifests, Some(argo_cd.namespace.as_str()), "rekeyd-layouts", &rules, account);
    }
    manifests
}

impl Needs<'_> {
    fn rules(&self) -> Vec<Value> {
        // A rule without names would be one for all.
        let mut rules = if self.secrets.is_empty() { Vec::new() } else { self.rules_of_readers() };
        if !self.accounts.is_empty() {
            // Each has another name, which no role can say.
            rules.push(json!({
                "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "delete"],
            }));
            rules.push(json!({
                "apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": self.accounts,
                "verbs": ["get"],
            }));
            if !self.bound.is_empty() {
                rules.push(json!({
                    "apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": self.bound,
                    "verbs": ["create"],
                }));
            }
        }
        rules
    }

    fn rules_of_readers(&self) -> Vec<Value> {
        let mut rules = vec![json!({
            "apiGroups": [""], "resources": ["secrets"], "resourceNames": self.secrets,
            "verbs": ["get", "patch", "create", "list", "watch"],
        })];
        if self.freezes {
            rules.push(json!({
                "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "delete"],
            }));
        }
        for (kind, which) in &self.workloads {
            let (group, resource) = match kind {
                WorkloadKind::Deployment => ("apps", "deployments"),
                WorkloadKind::StatefulSet => ("apps", "statefulsets"),
                WorkloadKind::DaemonSet => ("apps", "daemonsets"),
                WorkloadKind::Rollout => ("argoproj.io", "rollouts"),
                WorkloadKind::CronJob => ("batch", "cronjobs"),
            };
            let on = |verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
            let named = |verbs: &[&str], names: &BTreeSet<&ObjectName>| {
                let mut rule = on(verbs);
                rule["resourceNames"] = json!(names);
                (!names.is_empty()).then_some(rule)
            };
            match which {
                [_, Which::All] => rules.push(on(&["list", "get", "patch"])),
                [Which::All, Which::Named(changed)] => {
                    rules.push(on(&["list", "get"]));
                    rules.extend(named(&["patch"], changed));
                }
                [Which::Named(looked_at), Which::Named(changed)] => {
                    rules.push(on(&["list"]));
                    rules.extend(named(&["get", "patch"], changed));
                    rules.extend(named(&["get"], &(looked_at - changed)));
                }
            }
        }
        let pods: &[&str] =
            if self.makes_pods { &["list", "watch", "create", "delete"] } else { &["list", "watch"] };
        rules.push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": pods}));
        if self.workloads.contains_key(&WorkloadKind::StatefulSet) {
            // What cannot live with a version that was taken back: see `rollout::stuck`.
            rules.push(json!({"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]}));
        }
        rules.push(json!({
            "apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["list"],
        }));
        rules.push(json!({"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["list"]}));
        rules.push(json!({
            "apiGroups": ["secrets-store.csi.x-k8s.io"], "resources": ["secretproviderclasses"], "verbs": ["get"],
        }));
        rules.push(json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}));
        rules
    }
}

fn role(to: &mut Vec<Value>, namespace: Option<&str>, name: &str, rules: &[Value], account: &Account) {
    let (role, binding) = match namespace {
        Some(_) => ("Role", "RoleBinding"),
        None => ("ClusterRole", "ClusterRoleBinding"),
    };
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    const GROUP: &str = "rbac.authorization.k8s.io";
    let version = format!("{GROUP}/v1");
    to.push(json!({"apiVersion": version, "kind": role, "metadata": metadata, "rules": rules}));
    to.push(json!({
        "apiVersion": version, "kind": binding, "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": role, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}],
    }));
}
