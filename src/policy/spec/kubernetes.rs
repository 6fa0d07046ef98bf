//! A Secret in a cluster, and the workloads that read it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Interval, OnFailure};
use crate::ident::{DnsLabel, ObjectName, RepositoryFile};

/// A Secret of a Kubernetes cluster, and the workloads that read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSpec {
    /// The cluster, by its name in the settings.
    #[serde(default = "default_cluster")]
    pub cluster: DnsLabel,
    /// The namespace of the Secret and of its readers; the policy's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<DnsLabel>,
    /// The Secret's name.
    pub secret: ObjectName,
    /// The Secret's type. It cannot change later.
    #[serde(default = "default_type", rename = "type")]
    #[schemars(length(max = 253))]
    pub secret_type: String,
    /// The Secret's keys, each a template. `principal`, `value`, `version`, `policy` and `namespace` are defined.
    #[serde(default = "default_data")]
    pub data: BTreeMap<String, String>,
    /// Takes over a Secret that rekeyd did not write. Without it such a Secret is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Keeps each version in a Secret of its own, too, `orders-db-v17`, which nobody can change, and has workloads
    /// name that when they restart: pods of an earlier version start again with the value that they had. Those that
    /// nobody names any more are deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immutable: bool,
    /// Who reads the Secret.
    #[serde(default)]
    pub workloads: WorkloadsSpec,
}

impl KubernetesSpec {
    /// Where the Secret is: two consumers of one place are one.
    #[must_use]
    pub fn place(&self) -> (&DnsLabel, Option<&DnsLabel>, &ObjectName) {
        (&self.cluster, self.namespace.as_ref(), &self.secret)
    }
}

fn default_cluster() -> DnsLabel {
    "main".parse().expect("a literal label")
}

fn default_type() -> String {
    "Opaque".into()
}

fn default_data() -> BTreeMap<String, String> {
    let keys = [("username", "{{ principal }}"), ("password", "{{ value }}")];
    keys.map(|(key, template)| (key.to_owned(), template.to_owned())).into()
}

/// The workloads that read a Secret, and how they take a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadsSpec {
    /// Whether those that refer to the Secret in their pod template are found by that.
    pub discover: bool,
    /// Those that read it in another way, over the API for instance.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<WorkloadName>,
    /// Those whose pods take a new version by themselves: they are waited for and not restarted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reload_themselves: Vec<WorkloadName>,
    /// Restarted before all others, which wait until it has moved: what fails with a new value fails there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<WorkloadName>,
    /// A pod like those of this workload is started before anything restarts, and taken away afterwards: what fails
    /// with a new value fails there. A Deployment or a Rollout; the others replace one pod at a time anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_pod: Option<WorkloadName>,
    /// Those that restart only when others have moved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<OrderSpec>,
    /// How they are restarted: rekeyd changes their pod template, unless this says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSpec>,
    /// How long each new pod has to be ready before it counts.
    pub settle: Interval,
    /// How long a workload may take to move before its pods are said to be stuck.
    pub deadline: Interval,
    /// What follows when new pods crash, or are not ready within the deadline, and the earlier ones were well.
    pub on_failure: OnFailure,
}

impl Default for WorkloadsSpec {
    fn default() -> Self {
        Self {
            discover: true,
            also: Vec::new(),
            reload_themselves: Vec::new(),
            canary: None,
            canary_pod: None,
            after: Vec::new(),
            restart: None,
            settle: Interval::from_duration(Duration::from_secs(5)),
            deadline: Interval::from_duration(Duration::from_secs(600)),
            on_failure: OnFailure::RollBack,
        }
    }
}

/// How workloads are restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RestartSpec {
    /// The version is committed to a GitOps repository, and Argo CD or Flux brings it into the pod template. rekeyd
    /// needs no right to change workloads.
    Gitops(GitopsSpec),
}

/// A file of a GitOps repository that is rekeyd's own: a kustomize patch with the versions that pod templates are to
/// say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitopsSpec {
    /// The repository, by its name under `gitops` in the settings.
    pub repository: DnsLabel,
    /// The file's path there. Its first line says whose workloads it is for: `# rekeyd.dev/versions-of main:orders`.
    pub file: RepositoryFile,
}

/// A workload that restarts only when others have moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderSpec {
    pub workload: WorkloadName,
    /// Those that come first.
    pub waits_for: Vec<WorkloadName>,
}

impl WorkloadsSpec {
    /// Where versions are committed, if that is how workloads are restarted.
    #[must_use]
    pub const fn gitops(&self) -> Option<&GitopsSpec> {
        match &self.restart {
            Some(RestartSpec::Gitops(spec)) => Some(spec),
            None => None,
        }
    }

    /// Those that have to be there.
    pub fn named(&self) -> impl Iterator<Item = &WorkloadName> {
        self.also.iter().chain(&self.canary).chain(&self.canary_pod)
    }

    /// Those that have to have moved before a workload restarts.
    pub fn before<'a>(&'a self, workload: &'a WorkloadName) -> impl Iterator<Item = &'a WorkloadName> {
        let ordered = self.after.iter().filter(move |order| order.workload == *workload);
        let canary = self.canary.iter().filter(move |canary| *canary != workload);
        canary.chain(ordered.flat_map(|order| &order.waits_for))
    }

    /// A workload that waits for itself, through others or not; `None` when each can have its turn.
    #[must_use]
    pub fn circle(&self) -> Option<&WorkloadName> {
        let all = self.canary.iter().chain(self.after.iter().map(|order| &order.workload));
        let waits_for_itself = |start: &&WorkloadName| {
            let (mut seen, mut next) = (Vec::new(), self.before(start).collect::<Vec<_>>());
            while let Some(name) = next.pop() {
                if name == *start {
                    return true;
                }
                if !seen.contains(&name) {
                    seen.push(name);
                    next.extend(self.before(name));
                }
            }
            false
        };
        all.into_iter().find(waits_for_itself)
    }
}

/// A workload of the Secret's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadName {
    pub kind: WorkloadKind,
    /// As it is called in the Secret's namespace.
    pub name: ObjectName,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A kind of workload, as Kubernetes spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    /// Of Argo Rollouts.
    Rollout,
    CronJob,
}

impl WorkloadKind {
    pub const ALL: [Self; 5] =
        [Self::Deployment, Self::StatefulSet, Self::DaemonSet, Self::Rollout, Self::CronJob];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Rollout => "Rollout",
            Self::CronJob => "CronJob",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
