//! The rules of a target that is a service account.

use super::{Breaches, Rule, field, length_rule};
use crate::ident::{DnsLabel, PolicyName};
use crate::policy::spec::{Interval, ServiceAccountSpec, ServiceAccountStrategy, TargetSpec};
use crate::settings::{ResourcesSettings, Settings};

/// An API server gives out no token that ends sooner.
const SHORTEST: Interval = Interval::from_duration(std::time::Duration::from_secs(600));

pub(super) fn rules(account: &ServiceAccountSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "kubernetesServiceAccount"]);
    if !settings.clusters.contains_key(&account.cluster) {
        let known = settings.clusters.keys().cloned().collect();
        found.add(at.join("cluster"), Rule::UnknownCluster { name: account.cluster.clone(), known });
    }
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |end: Option<u8>| end.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let name = account.service_account.as_str();
    if !name.bytes().all(byte) || !ends(name.bytes().next()) || !ends(name.bytes().last()) {
        found.add(at.join("serviceAccount"), Rule::NotAServiceAccount(account.service_account.clone()));
    }
    // Its tokens carry it as a label.
    let at_name = at.join("serviceAccount");
    length_rule(&at_name, &account.service_account, name.len() <= 63, "63 characters of a label", found);
    if let ServiceAccountStrategy::Bound(bound) = &account.strategy
        && bound.expiration < SHORTEST
    {
        let at = at.join("strategy").join("bound").join("expiration");
        found.add(at, Rule::TokenTooShort(bound.expiration));
    }
}

/// Whoever may write resources of a namespace has rights there, and no others.
pub(in crate::policy::validate) fn confined(
    target: &TargetSpec,
    name: &PolicyName,
    resources: &ResourcesSettings,
    found: &mut Breaches,
) {
    let TargetSpec::KubernetesServiceAccount(account) = target else { return };
    let at = field(["spec", "target", "kubernetesServiceAccount"]);
    if account.cluster != resources.cluster {
        found.add(at.join("cluster"), Rule::ClusterOfResource(resources.cluster.clone()));
    }
    if account.namespace.as_ref().map(DnsLabel::as_str).is_some_and(|own| own != name.namespace()) {
        found.add(at.join("namespace"), Rule::NamespaceOfResource(name.namespace().to_owned()));
    }
}
