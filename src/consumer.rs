//! A place that applications read a credential from.
//!
//! A consumer is told the whole credential, never a change, so telling it twice is the same as once. It
//! keeps the version beside what it holds, so that a daemon that crashed knows what is there.

pub mod copy;
pub mod file;
pub mod http;
pub mod jenkins;
pub mod kubernetes;
mod mark;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::copies::CopyPlace;
use crate::failure::{Failure, Finding};
use crate::http::outbound::Outbound;
use crate::http::pace::Paces;
use crate::ident::{DnsLabel, PolicyName, StorePath, Version};
use crate::kubernetes::Clusters;
use crate::policy::spec::ConsumerSpec;
pub use crate::rollout::governor::Expected;
use crate::secret::{AdminCredential, Credential};

/// A place that applications read a credential from.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Names the consumer in progress, status and records: `file /run/orders/db.env`.
    fn label(&self) -> String;

    /// Whether a publication would be refused for sure, as far as can be said without writing anything. The
    /// readers that are not well as it is: what becomes of them says nothing about a new value.
    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure>;

    /// Makes the consumer hold the version. Already there is success. An older version never replaces
    /// a newer one: that is a `Conflict`.
    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure>;

    /// Makes the readers take what was published: runs the reload command. Once for each version, unless
    /// rekeyd died between the command and the note of it. `Refused` says that the reader fails with it.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure>;

    /// Whether the readers use the version by now. Those that had to wait for others are told meanwhile; what was
    /// published need not stay so, and is only looked at.
    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure>;

    /// Whether it can tell who is at an address.
    fn knows_addresses(&self) -> bool {
        false
    }

    /// Who is at these addresses, as far as it knows. Readers that cannot be looked at are nobody.
    async fn at_addresses(&self, _addresses: &BTreeSet<String>) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// What the consumer holds.
    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure>;

    /// Looks at everything a rotation will need, and changes nothing.
    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding>;
}

/// What a consumer is told.
#[derive(Debug, Clone, Copy)]
pub struct PublishRequest<'a> {
    pub policy: &'a PolicyName,
    pub version: Version,
    pub credential: &'a Credential,
    /// The earlier version whose values these are: what came in between was taken back, and who has that
    /// earlier version need not restart.
    pub restores: Option<Version>,
    /// A leak is being contained, or readers have nothing that works: they are told at once, whoever else restarts.
    pub is_urgent: bool,
}

/// What a consumer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// The version published, [`Version::NONE`] when nothing was.
    pub published: Version,
    /// The version that readers were last told of.
    pub reloaded: Version,
}

/// What came of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The consumer held that already; since when, where it says so.
    Already(Option<Timestamp>),
    /// It holds it now.
    Now,
}

/// How far readers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// All of them use it.
    Moved,
    /// Some do not yet, and why, in words.
    Moving(String),
    /// Some cannot: they fail with the new version. Only where the policy asks for it to be taken back then.
    Failing(Vec<Ailment>),
}

/// A reader that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ailment {
    /// As [`Consumer::rehearse`] names it: `Deployment main:orders/app`.
    pub reader: String,
    /// Without a value.
    pub why: String,
    /// It had the time that it was given.
    pub is_late: bool,
}

/// What adapters are made from.
pub trait Means {
    /// The clusters that the settings name.
    fn clusters(&self) -> &Arc<Clusters>;

    /// A credential that the settings name.
    ///
    /// # Errors
    /// When there is none of that name.
    fn admin(&self, name: &DnsLabel) -> Result<Arc<dyn AdminCredential>, Failure>;

    /// How requests are sent that a recipe tells of, with credentials that the settings name.
    fn requests(&self, credentials: &[&DnsLabel]) -> Requests;

    /// A place in a store that the settings name.
    ///
    /// # Errors
    /// When there is none of that name, or one that keeps no copies.
    fn copy(
        &self,
        store: &DnsLabel,
        mount: Option<&StorePath>,
        path: &StorePath,
    ) -> Result<Arc<dyn CopyPlace>, Failure>;
}

/// How requests are sent that a recipe tells of.
pub struct Requests {
    /// Where they may go.
    pub outbound: Outbound,
    /// How many at a time.
    pub paces: Arc<Paces>,
    pub clock: Arc<dyn Clock>,
    /// Where the settings let the credentials be used.
    pub is_for: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// The adapter for a policy's consumer.
///
/// # Errors
/// When its configuration cannot be used.
pub fn build(spec: &ConsumerSpec, means: &dyn Means) -> Result<Arc<dyn Consumer>, Failure> {
    match spec {
        ConsumerSpec::File(spec) => Ok(Arc::new(file::FileConsumer::new(spec)?)),
        ConsumerSpec::Kubernetes(spec) => {
            Ok(Arc::new(kubernetes::KubernetesConsumer::new(spec, Arc::clone(means.clusters()))?))
        }
        ConsumerSpec::Jenkins(spec) => {
            Ok(Arc::new(jenkins::JenkinsConsumer::new(spec, means.admin(&spec.admin)?)?))
        }
        ConsumerSpec::Vault(spec) => {
            let place = means.copy(&spec.store, spec.mount.as_ref(), &spec.path)?;
            Ok(Arc::new(copy::CopyConsumer::new(spec.content(), place)?))
        }
        ConsumerSpec::Http(spec) => {
            let admin = spec.admin.as_ref().map(|name| means.admin(name)).transpose()?;
            let others = spec.credentials.iter().map(|(name, of)| Ok((name.clone(), means.admin(of)?)));
            let others = others.collect::<Result<_, Failure>>()?;
            let named: Vec<_> = spec.admin.iter().chain(spec.credentials.values()).collect();
            Ok(Arc::new(http::HttpConsumer::new(spec, admin, others, means.requests(&named))?))
        }
        ConsumerSpec::AwsSecretsManager(spec) => {
            let place = means.copy(&spec.store, None, &spec.name)?;
            Ok(Arc::new(copy::CopyConsumer::new(spec.content(), place)?))
        }
    }
}
