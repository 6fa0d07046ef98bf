//! What to rotate, when, where its value lives, who reads it: a policy, valid by construction.
//!
//! The serde shape of a policy document is [`Spec`]; [`load`] turns a directory of documents into
//! [`Policy`] values or [`diagnostic`]s that name file, line, column and field. A `Policy` that exists
//! has passed every check that needs no server.
//!
//! This module is pure: no I/O outside [`load`], no clock.

pub mod diagnostic;
pub mod document;
pub mod load;
pub(crate) mod node;
pub(crate) mod shape;
pub mod spec;
pub(crate) mod validate;

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::document::{LabelKey, LabelValue};
pub use self::spec::Spec;
use self::spec::{ConsumerSpec, KubernetesSpec};
use crate::ident::{DnsLabel, PolicyName, Principal};

/// The `apiVersion` of policy documents.
pub const API_VERSION: &str = "rekeyd.dev/v1alpha1";

/// The `kind` of policy documents.
pub const KIND: &str = "RotationPolicy";

/// A policy that passed every check that needs no server. Cloning it shares the specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    name: PolicyName,
    labels: Box<[(LabelKey, LabelValue)]>,
    spec: Arc<Spec>,
    source: Box<str>,
}

impl Policy {
    #[must_use]
    pub const fn name(&self) -> &PolicyName {
        &self.name
    }

    /// The Secrets of a cluster that it writes, each with its namespace.
    pub(crate) fn secrets_in(&self, cluster: &DnsLabel) -> impl Iterator<Item = (&KubernetesSpec, &str)> {
        self.spec.consumers.iter().filter_map(move |consumer| {
            let ConsumerSpec::Kubernetes(spec) = consumer else { return None };
            let namespace = spec.namespace.as_ref().map_or(self.name.namespace(), DnsLabel::as_str);
            (spec.cluster == *cluster).then_some((spec, namespace))
        })
    }

    /// The labels by which policies are selected, by key.
    #[must_use]
    pub const fn labels(&self) -> &[(LabelKey, LabelValue)] {
        &self.labels
    }

    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it was read from, for messages: `policies/orders.yaml:1`.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The file it was read from.
    #[must_use]
    pub fn file(&self) -> &str {
        self.source.rsplit_once(':').map_or(&*self.source, |(file, _)| file)
    }

    /// SHA-256 over the specification, in lower-case hexadecimal: says under which text of a policy a
    /// rotation ran. Comments and the order of keys do not change it.
    #[must_use]
    pub fn spec_hash(&self) -> String {
        let canonical = serde_json::to_vec(self.spec()).expect("a specification has only string keys");
        Sha256::digest(&canonical).iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// The same policy for another target, one that no document can name.
    #[cfg(feature = "proving")]
    #[must_use]
    pub fn with_target(mut self, target: spec::TargetSpec) -> Self {
        Arc::make_mut(&mut self.spec).target = target;
        self
    }

    /// The principals this policy changes.
    #[must_use]
    pub fn principals(&self) -> Vec<&Principal> {
        self.spec.target.principals()
    }
}
