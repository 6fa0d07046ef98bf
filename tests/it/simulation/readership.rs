//! Those who read a policy's value at one of its places.

use std::path::PathBuf;
use std::sync::Arc;

use rekeyd::policy::spec::ConsumerSpec;
use rekeyd::secret::Credential;

use super::cluster::SecretReaders;
use super::network::Network;
use crate::world::checker::{Checker, Shown};
use crate::world::memory::MemoryReader;

pub(super) enum Readership {
    /// One that is told of a file, in memory.
    File(Arc<MemoryReader>),
    /// Pods that read a Secret.
    Secret(SecretReaders),
}

/// The name of a policy's place.
pub(super) fn place(spec: &ConsumerSpec) -> PathBuf {
    match spec {
        ConsumerSpec::File(file) => file.path.clone(),
        ConsumerSpec::Kubernetes(spec) => spec.secret.as_str().into(),
        other => unreachable!("no policy of a simulation has {other:?}"),
    }
}

impl Readership {
    /// They fail with values that are made from now on, or do not any more.
    pub(super) fn fail(&self, fails: bool) {
        match self {
            Self::File(reader) => reader.fail(fails),
            Self::Secret(readers) => readers.fail(fails),
        }
    }

    /// What one of them logs in with.
    pub(super) fn found(&self, network: &Network) -> Option<Credential> {
        match self {
            Self::File(reader) => reader.shown().map(|(credential, _)| credential),
            Self::Secret(readers) => {
                let mut used = readers.used();
                if used.is_empty() {
                    None
                } else {
                    used.swap_remove(network.dice(used.len() as u64) as usize)
                }
            }
        }
    }

    /// Why those are not at rest who read a Secret.
    pub(super) fn unrest(&self, current: &Credential) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::Secret(readers) => readers.unrest(current),
        }
    }
}

impl Shown for Readership {
    fn text(&self) -> Option<String> {
        match self {
            Self::File(reader) => {
                reader.shown().map(|(credential, version)| Checker::content(&credential, version.number()))
            }
            Self::Secret(readers) => readers.text(),
        }
    }

    fn used(&self) -> Vec<Option<Credential>> {
        match self {
            Self::File(reader) => vec![reader.used()],
            Self::Secret(readers) => readers.used(),
        }
    }

    fn told(&self) -> usize {
        match self {
            Self::File(reader) => reader.told().into_values().max().unwrap_or_default(),
            Self::Secret(readers) => readers.told(),
        }
    }
}
