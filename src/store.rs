//! The system of record for values.
//!
//! A store keeps two things for a policy. At the policy's *path* it keeps the current credential, alone
//! and plain, for applications to read. Under rekeyd's own prefix it keeps the *control document*, whose
//! content only [`crate::rotation::run`] understands: the open rotation, or the marker of the last
//! closed one. Each is written by compare-and-set on its own [`Revision`], which is what makes opening a
//! rotation a lock and promoting one safe against a foreign writer.
//!
//! No call retries. A write whose outcome is unknown fails with
//! [`FailureClass::Ambiguous`](crate::failure::FailureClass::Ambiguous); the caller reads again.

pub mod aws;
pub mod embedded;
pub mod vault;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use self::aws::AwsStore;
use self::embedded::EmbeddedStore;
use self::vault::VaultStore;
use crate::copies::CopyPlace;
use crate::failure::{Failure, Finding};
use crate::ident::{DnsLabel, PolicyName, RotationId, StorePath, Version};
use crate::policy::spec::{Extra, FieldNames, StoreSpec};
use crate::secret::{Credential, SecretValue};
use crate::settings::StoreSettings;

/// Makes the store that the settings describe. Blocks for a few disk accesses; connects to nothing.
///
/// # Errors
/// `Invalid` when the settings are wrong; see [`EmbeddedStore::open`] for what its file may lack.
pub fn build(name: &DnsLabel, settings: &StoreSettings) -> Result<Arc<dyn Store>, Failure> {
    let built: Result<Arc<dyn Store>, Failure> = match settings {
        StoreSettings::Embedded(settings) => {
            EmbeddedStore::open(settings).map(|store| Arc::new(store) as Arc<dyn Store>)
        }
        StoreSettings::Vault(settings) => {
            VaultStore::open(settings).map(|store| Arc::new(store) as Arc<dyn Store>)
        }
        StoreSettings::AwsSecretsManager(settings) => {
            AwsStore::open(settings).map(|store| Arc::new(store) as Arc<dyn Store>)
        }
    };
    built.map_err(|failure| {
        let named = Failure::new(failure.class(), format!("use store `{name}`"), &failure);
        match failure.remedy() {
            Some(remedy) => named.with_remedy(remedy.to_owned()),
            None => named,
        }
    })
}

/// What a store that does not exist yet will need, looked at without making it; `None` when it exists,
/// or lives elsewhere.
#[must_use]
pub fn preflight_absent(settings: &StoreSettings) -> Option<Vec<Finding>> {
    match settings {
        StoreSettings::Embedded(settings) => EmbeddedStore::preflight_absent(settings),
        StoreSettings::Vault(_) | StoreSettings::AwsSecretsManager(_) => None,
    }
}

/// A system of record for values.
#[async_trait]
pub trait Store: Send + Sync {
    /// The credential at a path; `None` when there never was one or it was deleted.
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure>;

    /// Whether a promotion at this place could succeed, as far as that can be seen without one: looked at
    /// before a rotation opens, since what a store refuses for sure is not begun.
    async fn rehearse(&self, place: Place<'_>) -> Result<(), Failure> {
        let _ = place;
        Ok(())
    }

    /// Writes the current credential if the path is still at the revision that the promotion expects.
    /// Fails with `Conflict` otherwise. Durable when it returns.
    async fn promote(&self, place: Place<'_>, promotion: Promotion<'_>) -> Result<Revision, Failure>;

    /// A policy's control document; `None` when there never was one. rekeyd never deletes one: where the
    /// store can tell that somebody else did, that is `Invalid`.
    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure>;

    /// Writes a policy's control document if it is still at `expected`, or still absent when `None`.
    /// Fails with `Conflict` otherwise. Durable when it returns.
    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure>;

    /// Every policy that has a control document, in any order.
    async fn policies(&self) -> Result<Vec<PolicyName>, Failure>;

    /// A place for a copy, where the store has such: in another mount of the same server, or its own.
    fn copy_at(&self, mount: Option<&StorePath>, path: &StorePath) -> Option<Arc<dyn CopyPlace>> {
        let _ = (mount, path);
        None
    }

    /// Looks at everything a rotation will need at this place, and changes nothing.
    async fn preflight(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding>;
}

/// Where a credential lives in a store.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub path: &'a StorePath,
    pub fields: &'a FieldNames,
}

impl<'a> From<&'a StoreSpec> for Place<'a> {
    fn from(spec: &'a StoreSpec) -> Self {
        Self { path: &spec.path, fields: &spec.fields }
    }
}

/// A credential on its way into force.
#[derive(Debug, Clone, Copy)]
pub struct Promotion<'a> {
    pub credential: &'a Credential,
    /// The revision that it replaces; `None` for an empty path.
    pub expected: Option<&'a Revision>,
    /// Names the write together with `version` and `expected`: whoever repeats it, in this process or another, gives
    /// the same, so that a store can tell a repetition from another write.
    pub rotation: RotationId,
    /// The version that readers know the credential by.
    pub version: Version,
    /// What stands beside the credential, in stores that keep more than that.
    pub extra: &'a Extra,
}

/// The credential in force.
#[derive(Debug)]
pub struct Current {
    pub credential: Credential,
    pub revision: Revision,
}

/// A control document as it was read.
#[derive(Debug)]
pub struct Control {
    pub document: SecretValue,
    pub revision: Revision,
}

/// A store's own version of one object, for compare-and-set. Only equality has a meaning outside the
/// store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Revision(Box<str>);

impl Revision {
    #[must_use]
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string().into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
