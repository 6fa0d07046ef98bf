//! The store at AWS Secrets Manager, on a strict service in this process: the contract, and each promise.

mod faults;
mod preflight;
mod promotion;
mod rights;

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::StorePath;
use rekeyd::policy::spec::FieldNames;
use rekeyd::store::aws::AwsStore;
use rekeyd::store::{Current, Place, Store};

use crate::aws_service::{INMOST, Service};
use crate::store::contract::{Fixture, store_contract};

/// A service of the test's own.
struct Bench(Service);

impl Bench {
    async fn new() -> Self {
        Self(Service::start().await)
    }

    fn store(&self) -> AwsStore {
        self.0.store()
    }
}

#[async_trait]
impl Fixture for Bench {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }

    async fn delete(&self, path: &StorePath) {
        self.0.with(|account| account.delete(path.as_str()));
    }
}

mod strict {
    use super::*;

    store_contract!(Bench::new().await);
}

#[track_caller]
fn assert_failed(failure: &Failure, class: FailureClass, reason: &str) {
    let text = format!("{failure} {failure:?} {:?}", failure.remedy());
    assert!(failure.to_string().contains(reason), "{failure}");
    assert_eq!(failure.class(), class, "{failure}");
    assert!(!text.contains(INMOST) && !text.contains("hunter2"), "{text} tells what it must not");
}

async fn try_current(store: &dyn Store, path: &str) -> Result<Option<Current>, Failure> {
    let (path, fields) = (path.parse().expect("a path"), FieldNames::default());
    store.current(Place { path: &path, fields: &fields }).await
}
