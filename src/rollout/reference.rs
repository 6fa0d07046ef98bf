//! How a pod template refers to a Secret.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::shape::{Container, PodSpec, Volume};
use crate::ident::{ObjectName, Version};
use crate::policy::spec::{GitopsSpec, KubernetesSpec};

/// How the pods of a template come to a Secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reference {
    /// Not by their template.
    #[default]
    None,
    /// When their image is pulled: who runs does not need it.
    Pull,
    /// In the environment, which a container has as it starts and never anew.
    Environment,
    /// In a volume, which is renewed while it runs.
    Volume,
}

/// The names under which a Secret is read, and under which its readers say which version they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(super) secret: ObjectName,
    /// Of pod templates.
    pub(super) annotation: String,
    /// Each version has a Secret of its own, too.
    pub(super) freezes: bool,
    /// The classes that the CSI driver fills the Secret from.
    pub(super) classes: BTreeSet<String>,
    /// Templates get their version by a commit to this file.
    pub(super) declared_in: Option<GitopsSpec>,
}

/// How an annotation of a pod template begins that says for which version of a Secret its pods were started.
pub(super) const ANNOTATION: &str = "rekeyd.dev/version.";

/// How a pod or a template refers to a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Referred {
    pub(super) way: Reference,
    /// Some of it stays as it was when a container started: its environment, or a part of a volume that is mounted
    /// by `subPath`.
    pub(super) stays: bool,
    /// The versions whose own Secrets it names; [`Version::NONE`] for the one that holds whatever is in force.
    pub(super) versions: BTreeSet<Version>,
}

impl Names {
    pub(crate) fn new(secret: &ObjectName, freezes: bool) -> Self {
        Self {
            secret: secret.clone(),
            annotation: annotation(secret),
            freezes,
            classes: BTreeSet::new(),
            declared_in: None,
        }
    }

    /// As a policy says.
    pub(crate) fn of(spec: &KubernetesSpec) -> Self {
        Self { declared_in: spec.workloads.gitops().cloned(), ..Self::new(&spec.secret, spec.immutable) }
    }

    /// Which Secret of ours a name is.
    fn version(&self, name: &str) -> Option<Version> {
        let rest = name.strip_prefix(self.secret.as_str())?;
        if rest.is_empty() {
            return Some(Version::NONE);
        }
        let digits = rest.strip_prefix("-v").filter(|_| self.freezes)?;
        let number = digits.parse().ok().filter(|_| !digits.starts_with(['0', '+']))?;
        Some(Version::new(number))
    }

    pub(super) fn in_pod(&self, pod: &PodSpec) -> Referred {
        let mut found = Referred::default();
        for (way, name) in references(pod) {
            if let Some(version) = self.version(name) {
                // The content of a version's own Secret never changes, wherever it is mounted.
                let way = if version == Version::NONE { way } else { way.min(Reference::Environment) };
                found.way = found.way.max(way);
                found.stays |= way == Reference::Environment;
                found.versions.insert(version);
            }
        }
        let parts = parts(pod).flat_map(in_volume);
        found.stays |= parts.filter_map(|name| self.version(name)).next().is_some();
        if classes(pod).any(|class| self.classes.contains(class)) {
            // The driver reads the store when a pod starts.
            found.way = found.way.max(Reference::Environment);
            found.stays = true;
            found.versions.insert(Version::NONE);
        }
        found
    }

    /// Has every reference of a pod's specification name the Secret of a version instead. The parts that changed.
    pub(super) fn point(&self, pod: &Value, version: Version) -> Map<String, Value> {
        let name = match version {
            Version::NONE => self.secret.to_string(),
            version => frozen_name(&self.secret, version),
        };
        let mut changed = Map::new();
        for part in ["containers", "initContainers", "volumes", "imagePullSecrets"] {
            let Some(before) = pod.get(part) else { continue };
            let mut after = before.clone();
            for entry in after.as_array_mut().into_iter().flatten() {
                self.rename(entry, part, &name);
            }
            if after != *before {
                changed.insert(part.to_owned(), after);
            }
        }
        changed
    }

    fn rename(&self, entry: &mut Value, part: &str, name: &str) {
        let within = |entry: &mut Value, list: &str, pointer: &str| {
            let list = entry.pointer_mut(list).and_then(Value::as_array_mut);
            for one in list.into_iter().flatten() {
                self.rename_at(one, pointer, name);
            }
        };
        match part {
            "volumes" => {
                self.rename_at(entry, "/secret/secretName", name);
                within(entry, "/projected/sources", "/secret/name");
            }
            "imagePullSecrets" => self.rename_at(entry, "/name", name),
            _ => {
                within(entry, "/env", "/valueFrom/secretKeyRef/name");
                within(entry, "/envFrom", "/secretRef/name");
            }
        }
    }

    fn rename_at(&self, entry: &mut Value, pointer: &str, name: &str) {
        if let Some(found) = entry.pointer_mut(pointer)
            && found.as_str().is_some_and(|found| self.version(found).is_some())
        {
            *found = name.into();
        }
    }
}

/// See [`ANNOTATION`].
fn annotation(secret: &ObjectName) -> String {
    /// So long may the part after the slash be.
    const LONGEST: usize = 63 - "version.".len();
    let name = secret.as_str();
    if name.len() <= LONGEST {
        return format!("{ANNOTATION}{name}");
    }
    let short = short_digest(name, 6);
    format!("{ANNOTATION}{}.{short}", name[..LONGEST - 13].trim_end_matches(['.', '-']))
}

/// Tells names apart that have no room whole.
pub(super) fn short_digest(name: &str, bytes: usize) -> String {
    Sha256::digest(name.as_bytes()).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The Secret of one version.
pub(crate) fn frozen_name(secret: &ObjectName, version: Version) -> String {
    format!("{secret}-v{}", version.number())
}

/// Every Secret that a pod refers to, and how.
fn references(pod: &PodSpec) -> impl Iterator<Item = (Reference, &str)> {
    let volumes = pod.volumes.iter().flat_map(in_volume).map(|name| (Reference::Volume, name));
    let containers = pod.containers.iter().chain(&pod.init_containers);
    let environment = containers.flat_map(in_container).map(|name| (Reference::Environment, name));
    let pulls = pod.image_pull_secrets.iter().map(|pull| (Reference::Pull, pull.name.as_str()));
    volumes.chain(environment).chain(pulls)
}

/// The volumes of which a container mounts a part, which is never renewed.
fn parts(pod: &PodSpec) -> impl Iterator<Item = &Volume> {
    let containers = pod.containers.iter().chain(&pod.init_containers);
    let mounts = containers.flat_map(|container| &container.volume_mounts);
    let parts = mounts.filter(|mount| mount.sub_path.is_some() || mount.sub_path_expr.is_some());
    parts.flat_map(|part| pod.volumes.iter().filter(move |volume| volume.name == part.name))
}

/// The classes of secrets that a pod mounts through the CSI driver.
pub(super) fn classes(pod: &PodSpec) -> impl Iterator<Item = &str> {
    const DRIVER: &str = "secrets-store.csi.k8s.io";
    let mounted = pod.volumes.iter().filter_map(|volume| volume.csi.as_ref());
    mounted.filter(|csi| csi.driver == DRIVER).filter_map(|csi| {
        let class = csi.volume_attributes.get("secretProviderClass")?;
        Some(class.as_str())
    })
}

fn in_container(container: &Container) -> impl Iterator<Item = &str> {
    let variables = container.env.iter().filter_map(|variable| {
        let key = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        Some(key.name.as_str())
    });
    let all = container.env_from.iter().filter_map(|all| Some(all.secret_ref.as_ref()?.name.as_str()));
    variables.chain(all)
}

fn in_volume(volume: &Volume) -> impl Iterator<Item = &str> {
    let whole = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
    let projected = volume.projected.iter().flat_map(|projected| &projected.sources);
    let parts = projected.filter_map(|source| Some(source.secret.as_ref()?.name.as_str()));
    whole.into_iter().chain(parts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(freezes: bool) -> Names {
        Names::new(&"db".parse().expect("a name"), freezes)
    }

    fn of(pod: Value) -> Reference {
        let mut whole = json!({"containers": [{"name": "app"}]});
        for (key, value) in pod.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        let pod: PodSpec = serde_json::from_value(whole).expect("a pod");
        names(false).in_pod(&pod).way
    }

    #[test]
    fn every_way_to_a_secret_is_seen() {
        let key = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "a"}}}]);
        let all = json!([{"prefix": "X", "secretRef": {"name": "db"}}]);
        for pod in [
            json!({"containers": [{"name": "app", "env": key}]}),
            json!({"containers": [{"name": "app"}, {"name": "other", "envFrom": all}]}),
            json!({"initContainers": [{"name": "first", "env": key}]}),
            json!({"initContainers": [{"name": "first", "envFrom": all}]}),
        ] {
            assert_eq!(of(pod.clone()), Reference::Environment, "{pod}");
        }
        let whole = json!([{"name": "v", "secret": {"secretName": "db"}}]);
        for pod in [
            json!({"volumes": whole}),
            json!({"volumes": whole, "containers": [{"name": "app", "env": key}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [
                {"configMap": {"name": "x"}}, {"secret": {"name": "db"}}]}}]}),
        ] {
            assert_eq!(of(pod.clone()), Reference::Volume, "{pod}");
        }
        assert_eq!(of(json!({"imagePullSecrets": [{"name": "db"}]})), Reference::Pull);
    }

    #[test]
    fn what_has_the_name_and_is_no_secret_is_not_taken_for_one() {
        for pod in [
            json!({}),
            json!({"volumes": [{"name": "db", "configMap": {"name": "db"}}]}),
            json!({"volumes": [{"name": "db", "secret": {"secretName": "db2"}}]}),
            json!({"containers": [{"name": "db", "envFrom": [{"configMapRef": {"name": "db"}}]}]}),
            json!({"containers": [{"name": "db", "env": [{"name": "db", "value": "db"}]}]}),
            json!({"serviceAccountName": "db"}),
        ] {
            assert_eq!(of(pod.clone()), Reference::None, "{pod}");
        }
    }

    #[test]
    fn versions_have_names_of_their_own_where_they_are_frozen() {
        for (name, version) in [("db", Some(0)), ("db-v17", Some(17)), ("db-v1", Some(1))] {
            assert_eq!(names(true).version(name), version.map(Version::new), "{name}");
        }
        for other in ["db2", "db-v", "db-v0", "db-v017", "db-v+1", "db-vx", "db-v1-v2", "another-v1", "d"] {
            assert_eq!(names(true).version(other), None, "{other}");
        }
        assert_eq!(names(false).version("db-v17"), None, "somebody else's");
        assert_eq!(frozen_name(&"db".parse().expect("a name"), Version::new(17)), "db-v17");
    }

    #[test]
    fn a_template_is_pointed_to_a_version_wherever_it_names_the_secret_and_nowhere_else() {
        let template = |name: &str| {
            json!({
                "containers": [{
                    "name": "app", "image": "x",
                    "env": [
                        {"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": "a"}}},
                        {"name": "B", "value": "db"},
                    ],
                    "envFrom": [{"secretRef": {"name": name}}, {"secretRef": {"name": "other"}}],
                }],
                "initContainers": [{"name": "first", "image": "x"}],
                "volumes": [
                    {"name": "db", "secret": {"secretName": name}},
                    {"name": "p", "projected": {"sources": [{"secret": {"name": name}}, {"configMap": {"name": "db"}}]}},
                ],
                "imagePullSecrets": [{"name": name}],
            })
        };
        let mut expected = template("db-v3");
        expected.as_object_mut().expect("an object").remove("initContainers");
        for before in ["db", "db-v2"] {
            assert_eq!(Value::from(names(true).point(&template(before), Version::new(3))), expected);
        }
        assert!(names(true).point(&template("db-v3"), Version::new(3)).is_empty());
        assert_eq!(
            names(true).point(&template("db-v3"), Version::NONE)["imagePullSecrets"],
            json!([{"name": "db"}])
        );
    }

    #[test]
    fn annotations_are_as_long_as_kubernetes_takes_and_no_two_secrets_share_one() {
        let annotation = |name: &str| annotation(&name.parse().expect("a name"));
        assert_eq!(annotation("orders-db"), "rekeyd.dev/version.orders-db");
        let long = ["a".repeat(60), "b".repeat(60)].join(".");
        let (one, other) = (annotation(&format!("{long}.c")), annotation(&format!("{long}.d")));
        assert_ne!(one, other);
        for annotation in [one, other] {
            assert!(annotation.len() - "rekeyd.dev/".len() <= 63, "{annotation}");
        }
    }
}
