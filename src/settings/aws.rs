//! The settings of a store at AWS Secrets Manager.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Partition, StoreSettings};
use crate::ident::StorePath;
use crate::policy::spec::Interval;

/// AWS Secrets Manager, in one region of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsSettings {
    /// `eu-central-1`.
    pub region: String,
    /// The 12 digits of the account: `rekeyd iam-policy` needs them, and it tells two accounts apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The key that secrets are encrypted with that rekeyd makes: an ARN, an id or an `alias/...`. The account's own
    /// `aws/secretsmanager` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// The profile of the shared files of AWS's tools to log in with; found as they find it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// A file of profiles to log in with, read again when it is needed, instead of all other ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// Where the service is, if not where the region says: an endpoint of a network of one's own, for instance. Plain
    /// http only on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where IAM is, for policies whose target it is, if not where the region's partition says. Plain http only on
    /// loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_endpoint: Option<String>,
    /// Where STS is, which says whether a key of IAM lets in, if not where the region says. Plain http only on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts_endpoint: Option<String>,
    /// PEM file of the authorities to trust, also where a login is had from; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// What the names of rekeyd's own secrets begin with, before a slash.
    #[serde(default = "default_control_path")]
    pub control_path: StorePath,
    /// How long one request may take.
    #[serde(default = "default_timeout")]
    pub timeout: Interval,
}

impl AwsSettings {
    pub(crate) fn partition(&self) -> &'static Partition {
        Partition::or_usual(&self.region)
    }

    /// Whether nothing has to be known of the region's partition.
    pub(crate) const fn says_where(&self) -> bool {
        self.endpoint.is_some() && self.iam_endpoint.is_some() && self.sts_endpoint.is_some()
    }
}

fn default_control_path() -> StorePath {
    "rekeyd/control".parse().expect("a literal path")
}

fn default_timeout() -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(10))
}

/// How many versions of one secret a store keeps within a time, whatever becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionBudget {
    /// So many.
    pub versions: u32,
    /// Within this time.
    pub within: std::time::Duration,
    /// What a rotation that meets no trouble writes to one secret, at most.
    pub per_rotation: u32,
}

impl VersionBudget {
    /// Secrets Manager keeps about 100 versions of a secret and takes none away that is younger than a day: one for
    /// every 14.4 minutes. Most of them go to the secret with the control document. A rotation opens, is told of its install, its publication and its readers' being well, and
    /// closes; a first one also says that it is about to make the secret.
    pub const SECRETS_MANAGER: Self =
        Self { versions: 100, within: std::time::Duration::from_secs(24 * 3_600), per_rotation: 6 };

    /// The same for a copy: it is written once, and once more where readers fail and have the earlier value again.
    pub const COPY: Self = Self { per_rotation: 2, ..Self::SECRETS_MANAGER };

    /// How many rotations of a policy fit.
    #[must_use]
    pub const fn rotations(&self) -> u32 {
        self.versions / self.per_rotation
    }
}

impl StoreSettings {
    /// The folder that control documents are kept in, where it is among the paths of policies.
    #[must_use]
    pub const fn control_path(&self) -> Option<&StorePath> {
        match self {
            Self::Embedded(_) => None,
            Self::Vault(vault) => Some(&vault.control_path),
            Self::AwsSecretsManager(aws) => Some(&aws.control_path),
        }
    }

    /// Whether it keeps more beside a credential than the policy's two fields.
    #[must_use]
    pub const fn keeps_extra(&self) -> bool {
        matches!(self, Self::AwsSecretsManager(_))
    }

    /// Whether it keeps a credential under keys that the policy chooses.
    #[must_use]
    pub const fn keeps_fields(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }

    /// How many versions fit, where that is bounded.
    #[must_use]
    pub const fn version_budget(&self) -> Option<VersionBudget> {
        match self {
            Self::Embedded(_) | Self::Vault(_) => None,
            Self::AwsSecretsManager(_) => Some(VersionBudget::SECRETS_MANAGER),
        }
    }

    /// The same for a copy in it.
    #[must_use]
    pub const fn copy_budget(&self) -> Option<VersionBudget> {
        match self.version_budget() {
            Some(_) => Some(VersionBudget::COPY),
            None => None,
        }
    }
}
