//! Who signs certificates that policies ask for.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names_host;
use crate::policy::spec::Interval;
use crate::secret::CertificateUsage;

/// Who signs certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthoritySettings {
    /// PEM file of its certificate, and of those that it is signed by, if it is no root.
    pub certificate_file: PathBuf,
    /// PEM file of its private key, in PKCS #8.
    pub key_file: PathBuf,
    /// What it signs for: a name as it is, `*.example.com` for all below, `spiffe://example.com/orders/` for all URIs
    /// that begin so.
    #[schemars(length(min = 1))]
    pub names: Vec<String>,
    /// What the certificates that it signs may be for. Never another authority's: no policy can ask for one.
    #[serde(default = "all_usages")]
    #[schemars(length(min = 1))]
    pub usages: Vec<CertificateUsage>,
    /// How long a certificate may be valid.
    #[serde(default = "ninety_days")]
    pub longest: Interval,
}

fn all_usages() -> Vec<CertificateUsage> {
    vec![CertificateUsage::Server, CertificateUsage::Client]
}

fn ninety_days() -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(90 * 86_400))
}

impl AuthoritySettings {
    /// Whether it signs for a name.
    #[must_use]
    pub fn permits(&self, name: &str) -> bool {
        names_host(&self.names, name)
    }

    /// Whether it signs for a URI: by its whole text, or by how it begins after `scheme://`.
    #[must_use]
    pub fn permits_uri(&self, uri: &str) -> bool {
        // Whoever decodes it must not come out elsewhere.
        let lower = uri.to_ascii_lowercase();
        let is_plain = !["%2f", "%5c", "%2e", "\\"].iter().any(|way| lower.contains(way));
        self.names.iter().any(|pattern| {
            let begins =
                pattern.contains("://") && pattern.ends_with('/') && uri.starts_with(pattern.as_str());
            pattern == uri || is_plain && begins
        })
    }
}
