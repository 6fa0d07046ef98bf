//! The systems in memory keep the promises of the real ones.

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::consumer::Consumer;
use rekeyd::ident::StorePath;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::store::Store;

use crate::consumer::contract::{self as consumer_rules, consumer_contract};
use crate::store::contract::{self as store_rules, store_contract};
use crate::world::memory::{MemoryReader, MemoryStore};

#[async_trait]
impl store_rules::Fixture for Arc<MemoryStore> {
    fn open(&self) -> Arc<dyn Store> {
        Self::clone(self) as _
    }

    async fn delete(&self, path: &StorePath) {
        MemoryStore::delete(self, path);
    }
}

impl consumer_rules::Fixture for Arc<MemoryReader> {
    fn open(&self) -> Arc<dyn Consumer> {
        Self::clone(self) as _
    }

    fn shown(&self) -> Option<String> {
        let (credential, _) = MemoryReader::shown(self)?;
        Some(credential.value.expose_str().expect("text").to_owned())
    }

    fn told(&self) -> Option<usize> {
        Some(MemoryReader::told(self).values().sum())
    }

    fn tamper(&self) {
        let value = SecretValue::new(b"something else".to_vec());
        MemoryReader::tamper(self, Credential::new("app".parse().expect("a principal"), value));
    }
}

mod store {
    use super::*;

    store_contract!(Arc::<MemoryStore>::default());
}

mod consumer {
    use super::*;

    consumer_contract!(Arc::<MemoryReader>::default());
}
