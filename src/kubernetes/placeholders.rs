//! Secrets as a GitOps repository may hold them: the object without `data`, so that Argo CD and Flux keep it and leave
//! its content alone, whichever way they apply it.

use serde_json::{Value, json};

use crate::ident::DnsLabel;
use crate::policy::Policy;

/// Says what Git holds in place of the value.
const PLACEHOLDER: &str = "rekeyd.dev/placeholder";

/// Types that an API server takes with all of their keys only.
const WITH_KEYS: [&str; 6] = [
    "kubernetes.io/basic-auth",
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/service-account-token",
    "kubernetes.io/ssh-auth",
    "kubernetes.io/tls",
];

/// What is to be written, and what cannot be.
pub struct Placeholders {
    pub manifests: Vec<Value>,
    /// `namespace/name` of Secrets that Git cannot hold so, and their types.
    pub left_out: Vec<(String, String)>,
}

/// The Secrets of a cluster that policies write.
#[must_use]
pub fn manifests<'a>(policies: impl IntoIterator<Item = &'a Policy>, cluster: &DnsLabel) -> Placeholders {
    let mut found = Placeholders { manifests: Vec::new(), left_out: Vec::new() };
    for policy in policies {
        for (spec, namespace) in policy.secrets_in(cluster) {
            if WITH_KEYS.contains(&spec.secret_type.as_str()) {
                found.left_out.push((format!("{namespace}/{}", spec.secret), spec.secret_type.clone()));
                continue;
            }
            found.manifests.push(json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": spec.secret,
                    "namespace": namespace,
                    // Without the version: Git would have to change with each.
                    "annotations": {PLACEHOLDER: format!("rekeyd://{}", policy.name())},
                },
                "type": spec.secret_type,
            }));
        }
    }
    found
}
