//! Places that recipes tell of: the contract, on a stub of each system that rekeyd brings a recipe for.

mod github;
mod gitlab;
mod outbound;
mod races;
mod rotation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::clock::{Clock, SystemClock};
use rekeyd::consumer::Requests;
use rekeyd::consumer::http::HttpConsumer;
use rekeyd::failure::Failure;
use rekeyd::http::outbound::Outbound;
use rekeyd::http::pace::Paces;
use rekeyd::policy::spec::HttpPlaceSpec;
use rekeyd::recipe::shipped;
use rekeyd::secret::{AdminCredential, Credential, SecretValue};
use serde_json::{Value, json};

use crate::providers_support::{Provider, Stub};

/// The admin's value, in every one of these tests.
const ADMIN: &str = "admin-key-of-the-test";

/// A system, and where a policy has its place there.
pub(super) struct Site {
    pub(super) stub: Stub,
    pub(super) spec: HttpPlaceSpec,
}

impl Site {
    /// `more` of the consumer's fields as a policy says them.
    async fn new(recipe: &str, provider: impl Provider, more: Value) -> Self {
        let stub = Stub::start(provider).await;
        let mut fields =
            json!({"recipe": recipe, "base": format!("http://{}", stub.address), "admin": "pipelines"});
        fields.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        let mut spec: HttpPlaceSpec = serde_json::from_value(fields).expect("a consumer");
        let recipe = shipped::find_place(&spec.recipe).expect("a recipe");
        for (name, parameter) in &recipe.parameters {
            if let Some(default) = &parameter.default {
                spec.parameters.entry(name.clone()).or_insert_with(|| default.clone());
            }
        }
        let mut recipe = recipe.as_ref().clone();
        // How requests are kept apart is tried elsewhere.
        recipe.limits.requests_per_second = None;
        spec.definition = Some(Box::new(recipe));
        Self { stub, spec }
    }

    fn consumer(&self) -> HttpConsumer {
        self.consumer_as(ADMIN)
    }

    fn consumer_as(&self, value: &str) -> HttpConsumer {
        let admin = Arc::new(Known(value.to_owned()));
        HttpConsumer::new(&self.spec, Some(admin), BTreeMap::new(), requests())
            .expect("a consumer")
            .with_patience(Duration::from_millis(100))
    }

    /// One that another clock is for, as patient as in a daemon.
    fn by(&self, clock: Arc<dyn Clock>) -> HttpConsumer {
        let requests = Requests { clock, ..requests() };
        HttpConsumer::new(&self.spec, Some(Arc::new(Known(ADMIN.into()))), BTreeMap::new(), requests)
            .expect("a consumer")
    }

    /// One that does not wait for long.
    fn hasty(&self) -> HttpConsumer {
        self.consumer().with_timeout(Duration::from_millis(150))
    }

    /// One that sends so many requests a second.
    fn paced(&self, rate: u32, paces: &Arc<Paces>) -> HttpConsumer {
        let mut spec = self.spec.clone();
        let recipe = spec.definition.as_mut().expect("a recipe");
        recipe.limits.requests_per_second = Some(rate);
        let requests = Requests { paces: Arc::clone(paces), ..requests() };
        HttpConsumer::new(&spec, Some(Arc::new(Known(ADMIN.into()))), BTreeMap::new(), requests)
            .expect("a consumer")
    }

    fn set(&mut self, name: &str, value: Value) {
        let value = serde_json::from_value(value).expect("a parameter");
        self.spec.parameters.insert(name.into(), value);
    }
}

fn requests() -> Requests {
    let clock = Arc::new(SystemClock);
    Requests {
        outbound: Outbound::new(&["127.0.0.1".to_owned()]),
        paces: Arc::new(Paces::new(Arc::clone(&clock) as _)),
        clock,
        is_for: Box::new(|_| true),
    }
}

struct Known(String);

#[async_trait]
impl AdminCredential for Known {
    async fn credential(&self) -> Result<Credential, Failure> {
        let value = SecretValue::new(self.0.clone().into_bytes());
        Ok(Credential::new("admin".parse().expect("a principal"), value))
    }
}
