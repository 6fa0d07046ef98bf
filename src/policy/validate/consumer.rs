//! The rules of a consumer.

mod copy;
mod http;
mod jenkins;

use std::path::{Component, Path};

pub(super) use self::http::settle;
use super::rule::LONGEST_RELOAD;
use super::{Breaches, Rule, Surroundings, ends_as_arn};
use crate::ident::PolicyName;
use crate::policy::shape::FieldPath;
use crate::policy::spec::{
    ConsumerSpec, ExecStrategy, FileSpec, KubernetesSpec, MysqlStrategy, PostgresStrategy, TargetSpec,
    WorkloadKind, WorkloadName, WorkloadsSpec,
};
use crate::recipe::RecipeStrategy;
use crate::settings::{Places, ResourcesSettings, Settings};
use crate::template::Template;

pub(super) fn rules(
    at: &FieldPath,
    consumer: &ConsumerSpec,
    surroundings: &Surroundings<'_>,
    found: &mut Breaches,
) {
    match consumer {
        ConsumerSpec::File(file) => file_rules(&at.join("file"), file, &surroundings.places, found),
        ConsumerSpec::Kubernetes(kubernetes) => {
            kubernetes_rules(&at.join("kubernetes"), kubernetes, surroundings.settings, found);
        }
        ConsumerSpec::Jenkins(jenkins) => {
            self::jenkins::rules(&at.join("jenkins"), jenkins, surroundings.settings, found);
        }
        ConsumerSpec::Vault(spec) => {
            copy::vault_rules(&at.join("vault"), spec, surroundings.settings, found);
        }
        ConsumerSpec::AwsSecretsManager(spec) => {
            copy::aws_rules(&at.join("awsSecretsManager"), spec, surroundings.settings, found);
        }
        ConsumerSpec::Http(spec) => self::http::rules(&at.join("http"), spec, found),
    }
}

/// What needs two values that work at a time.
pub(super) fn overlap(at: &FieldPath, consumer: &ConsumerSpec, target: &TargetSpec, found: &mut Breaches) {
    if let ConsumerSpec::Kubernetes(kubernetes) = consumer
        && kubernetes.workloads.canary_pod.is_some()
        && is_in_place(target)
    {
        found.add(at.join("kubernetes").join("workloads").join("canaryPod"), Rule::CanaryPodInPlace);
    }
}

const fn is_in_place(target: &TargetSpec) -> bool {
    match target {
        TargetSpec::Postgres(postgres) => matches!(postgres.strategy, PostgresStrategy::InPlace(_)),
        TargetSpec::Mysql(mysql) => matches!(mysql.strategy, MysqlStrategy::InPlace(_)),
        TargetSpec::Http(http) => matches!(http.strategy(), RecipeStrategy::Reissued),
        TargetSpec::Exec(exec) => {
            matches!(exec.strategy, ExecStrategy::InPlace(_) | ExecStrategy::Reissued(_))
        }
        TargetSpec::Redis(_)
        | TargetSpec::Rabbitmq(_)
        | TargetSpec::Clickhouse(_)
        | TargetSpec::Vault(_)
        | TargetSpec::AwsIam(_)
        | TargetSpec::KubernetesServiceAccount(_)
        | TargetSpec::Generated(_) => false,
        #[cfg(feature = "proving")]
        TargetSpec::Simulated(_) | TargetSpec::SimulatedKeys(_) => false,
    }
}

/// Whoever may write resources of a namespace has rights there, and no others.
pub(super) fn confined(
    at: &FieldPath,
    consumer: &ConsumerSpec,
    name: &PolicyName,
    resources: &ResourcesSettings,
    found: &mut Breaches,
) {
    let kubernetes = match consumer {
        ConsumerSpec::Kubernetes(kubernetes) => kubernetes,
        ConsumerSpec::File(_) => return found.add(at.join("file"), Rule::FileOfResource),
        ConsumerSpec::Jenkins(_) => {
            return found.add(at.join("jenkins"), Rule::PlaceOfResource("a Jenkins"));
        }
        ConsumerSpec::Vault(_) => {
            return found.add(at.join("vault"), Rule::PlaceOfResource("other paths of a store"));
        }
        ConsumerSpec::AwsSecretsManager(_) => {
            let rule = Rule::PlaceOfResource("other paths of a store");
            return found.add(at.join("awsSecretsManager"), rule);
        }
        ConsumerSpec::Http(_) => {
            return found.add(at.join("http"), Rule::PlaceOfResource("a place told by a recipe"));
        }
    };
    let at = at.join("kubernetes");
    if kubernetes.cluster != resources.cluster {
        found.add(at.join("cluster"), Rule::ClusterOfResource(resources.cluster.clone()));
    }
    if kubernetes.namespace.as_ref().is_some_and(|namespace| namespace.as_str() != name.namespace()) {
        found.add(at.join("namespace"), Rule::NamespaceOfResource(name.namespace().to_owned()));
    }
}

fn kubernetes_rules(at: &FieldPath, kubernetes: &KubernetesSpec, settings: &Settings, found: &mut Breaches) {
    if !settings.clusters.contains_key(&kubernetes.cluster) {
        let known = settings.clusters.keys().cloned().collect();
        found.add(at.join("cluster"), Rule::UnknownCluster { name: kubernetes.cluster.clone(), known });
    }
    found.text(&at.join("type"), &kubernetes.secret_type);
    // Whoever could have one filled by Kubernetes would be handed a token of any account.
    if FILLED_BY_KUBERNETES.contains(&kubernetes.secret_type.as_str()) {
        found.add(at.join("type"), Rule::SecretOfTokens(kubernetes.secret_type.clone()));
    }
    if kubernetes.immutable && kubernetes.secret.as_str().len() > LONGEST_FROZEN {
        found.add(at.join("secret"), Rule::SecretNameTooLong);
    }
    let data = at.join("data");
    if kubernetes.data.is_empty() {
        found.add(data.clone(), Rule::SecretWithoutKeys);
    }
    let mut uses_value = kubernetes.data.is_empty();
    for (key, template) in &kubernetes.data {
        let at = data.join(key.clone());
        if !is_secret_key(key) {
            found.add(at.clone(), Rule::NotASecretKey(key.chars().take(64).collect()));
        }
        match Template::parse(template) {
            Err(error) => {
                uses_value = true;
                found.add(at, Rule::Template(error));
            }
            Ok(template) => uses_value |= template.uses_value(),
        }
    }
    if !uses_value {
        found.add(data, Rule::SecretWithoutValue);
    }
    let WorkloadsSpec { also, reload_themselves, deadline, .. } = &kubernetes.workloads;
    let at = at.join("workloads");
    for (field, names) in [("also", also), ("reloadThemselves", reload_themselves)] {
        let mut seen: Vec<&WorkloadName> = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if seen.contains(&name) {
                found.add(at.join(field).join(index), Rule::WorkloadTwice(name.clone()));
            }
            seen.push(name);
        }
    }
    if let Some(name) = kubernetes.workloads.circle() {
        found.add(at.join("after"), Rule::WorkloadCircle(name.clone()));
    }
    if let Some(WorkloadName { kind, .. }) = kubernetes.workloads.canary_pod.as_ref()
        && !matches!(kind, WorkloadKind::Deployment | WorkloadKind::Rollout)
    {
        found.add(at.join("canaryPod"), Rule::CanaryPodOf(*kind));
    }
    if let Some(gitops) = kubernetes.workloads.gitops() {
        let at = at.join("restart").join("gitops");
        if !settings.gitops.contains_key(&gitops.repository) {
            let known = settings.gitops.keys().cloned().collect();
            let name = gitops.repository.clone();
            found.add(at.join("repository"), Rule::UnknownRepository { name, known });
        }
        if kubernetes.immutable {
            found.add(at, Rule::ImmutableByGit);
        }
    }
    if deadline.as_duration().is_zero() {
        found.add(at.join("deadline"), Rule::ZeroInterval);
    }
}

/// Leaves room for a version within the 253 characters of a name.
const LONGEST_FROZEN: usize = 253 - "-v18446744073709551615".len();

const FILLED_BY_KUBERNETES: [&str; 2] =
    ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];

fn is_secret_key(key: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=253).contains(&key.len()) && key.bytes().all(valid) && key != "." && !key.starts_with("..")
}

fn file_rules(at: &FieldPath, file: &FileSpec, places: &Places, found: &mut Breaches) {
    path_rules(&at.join("path"), &file.path, places, found);
    if file.mode.bits() & 0o002 != 0 {
        found.add(at.join("mode"), Rule::FileWritableByOthers);
    } else if file.mode.bits() & 0o004 != 0 {
        found.add(at.join("mode"), Rule::FileReadableByOthers);
    }
    if let Some(owner) = &file.owner
        && !is_owner(owner)
    {
        found.add(at.join("owner"), Rule::NotAnOwner(owner.chars().take(64).collect()));
    }
    match Template::parse(&file.content) {
        Err(error) => found.add(at.join("content"), Rule::Template(error)),
        Ok(template) if !template.uses_value() => {
            found.add(at.join("content"), Rule::TemplateWithoutValue);
        }
        Ok(_) => {}
    }
    reload_rules(&at.join("reload"), &file.reload, found);
    if file.reload_timeout.as_duration().is_zero() || file.reload_timeout > LONGEST_RELOAD {
        found.add(at.join("reloadTimeout"), Rule::ReloadTimeout(file.reload_timeout));
    }
}

fn path_rules(at: &FieldPath, path: &Path, places: &Places, found: &mut Breaches) {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) {
        found.add(at.clone(), Rule::ControlCharacter);
    } else if !path.is_absolute() {
        found.add(at.clone(), Rule::FileNotAbsolute(path.to_owned()));
    } else if path.components().any(|part| part == Component::ParentDir) {
        found.add(at.clone(), Rule::FileThroughParent(path.to_owned()));
    } else if path.file_name().is_none() || text.ends_with('/') || text.ends_with("/.") {
        found.add(at.clone(), Rule::FileUnnamed(path.to_owned()));
    } else if let Some(what) = places.meaning_of(path) {
        found.add(at.clone(), Rule::FileOfRekeyd { path: path.to_owned(), what });
    }
}

fn reload_rules(at: &FieldPath, command: &[String], found: &mut Breaches) {
    for (index, argument) in command.iter().enumerate() {
        let at = at.join(index);
        if argument.trim().is_empty() {
            found.add(at, Rule::ReloadArgumentEmpty(index + 1));
        } else if argument.chars().any(char::is_control) {
            found.add(at, Rule::ControlCharacter);
        } else if argument.contains("{{") || argument.contains("{%") {
            found.add(at, Rule::ReloadTemplate);
        } else if index == 0 && argument.contains('/') && !argument.starts_with('/') {
            found.add(at, Rule::ReloadProgramRelative(argument.clone()));
        } else if command.len() == 1 && argument.contains(char::is_whitespace) {
            found.add(at, Rule::ReloadInOnePiece);
        }
    }
}

/// `user` or `user:group`, each a name as `useradd` takes it, or a number.
fn is_owner(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let name = |name: &str| {
        let name = name.strip_suffix('$').unwrap_or(name);
        (1..=32).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with(['-', '.'])
    };
    match text.split_once(':') {
        Some((user, group)) => name(user) && name(group),
        None => name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_kubernetes_takes() {
        for key in ["a", ".dockerconfigjson", "tls.crt", "A_b-c", &"a".repeat(253)] {
            assert!(is_secret_key(key), "{key} was refused");
        }
        for key in ["", ".", "..", "..a", "a/b", "a b", "é", &"a".repeat(254)] {
            assert!(!is_secret_key(key), "{key:?} was taken");
        }
    }

    #[test]
    fn owners_are_users_and_groups() {
        for owner in ["app", "app:app", "1000:1000", "_apt", "host$", "a.b-c"] {
            assert!(is_owner(owner), "{owner} was refused");
        }
        for owner in ["", ":", "app:", ":app", "a:b:c", "-a", "a b", "a/b", &"a".repeat(33)] {
            assert!(!is_owner(owner), "{owner:?} was taken");
        }
    }
}
