//! How a pod template refers to a Secret.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, PodSpec, Volume};

use crate::ident::ObjectName;

/// How the pods of a template come to a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reference {
    /// Not by their template.
    None,
    /// When their image is pulled: who runs does not need it.
    Pull,
    /// In the environment, which a container has as it starts and never anew.
    Environment,
    /// In a volume, which is renewed while it runs.
    Volume,
}

pub(super) fn reference(pod: &PodSpec, secret: &ObjectName) -> Reference {
    let name = secret.as_str();
    if pod.volumes.iter().flatten().any(|volume| in_volume(volume, name)) {
        Reference::Volume
    } else if in_environment(pod, name) {
        Reference::Environment
    } else if pod.image_pull_secrets.iter().flatten().any(|reference| reference.name == name) {
        Reference::Pull
    } else {
        Reference::None
    }
}

fn in_environment(pod: &PodSpec, name: &str) -> bool {
    let of_variable = |variable: &EnvVar| {
        let source = variable.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref());
        source.is_some_and(|source| source.name == name)
    };
    let of_all = |all: &EnvFromSource| all.secret_ref.as_ref().is_some_and(|source| source.name == name);
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    let mut of_containers = containers.map(|container| (&container.env, &container.env_from));
    of_containers
        .any(|(env, env_from)| env.iter().flatten().any(of_variable) || env_from.iter().flatten().any(of_all))
}

fn in_volume(volume: &Volume, name: &str) -> bool {
    let whole = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    let mut parts = projected.filter_map(|source| source.secret.as_ref());
    whole == Some(name) || parts.any(|secret| secret.name == name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(pod: Value) -> Reference {
        let mut whole = json!({"containers": [{"name": "app"}]});
        for (key, value) in pod.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        let pod: PodSpec = serde_json::from_value(whole).expect("a pod");
        reference(&pod, &"db".parse().expect("a name"))
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
}
