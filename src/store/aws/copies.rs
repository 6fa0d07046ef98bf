//! A copy of a value in another secret, for readers of their own: a JSON object of texts.
//!
//! Written as a promotion is: a version is put aside, and `AWSCURRENT` moves to it from the version that was read and from
//! no other. The id of the version follows from what is written over what, so whoever repeats it repeats that version.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::write::{Creation, Label, Put};
use super::{AwsStore, OF_COPIES, content, token};
use crate::copies::{CopyPlace, Fields, Held};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::StorePath;
use crate::secret::SecretValue;
use crate::settings::VersionBudget;

/// A secret.
struct Copy {
    store: AwsStore,
    path: StorePath,
}

impl AwsStore {
    pub(super) fn copy_of(&self, path: &StorePath) -> Arc<dyn CopyPlace> {
        Arc::new(Copy { store: self.clone(), path: path.clone() })
    }
}

#[async_trait]
impl CopyPlace for Copy {
    fn label(&self) -> String {
        format!("{} at {}", self.path, self.store.label)
    }

    async fn read(&self, doing: &str) -> Result<Held, Failure> {
        let path = self.path.as_str();
        let Some(found) = self.store.read(path, path).await.map_err(|failure| named(failure, doing))? else {
            return Ok(Held::default());
        };
        let mut held = Held { fields: Some(Fields::new()), revision: found.version.clone(), is_odd: false };
        match serde_json::from_str::<Map<String, Value>>(&found.text) {
            Err(_) => held.is_odd = true,
            Ok(object) => {
                let fields = held.fields.get_or_insert_default();
                for (key, value) in object {
                    match value {
                        Value::String(text) => {
                            fields.insert(key, SecretValue::new(text.into_bytes()));
                        }
                        _ => held.is_odd = true,
                    }
                }
            }
        }
        Ok(held)
    }

    /// Dying after the version is put: nobody sees it. Dying after the label moved: the copy is in force, with a label of
    /// rekeyd's too many, which the next write takes away.
    async fn write(&self, fields: &Fields, over: &Held, seed: &str, doing: &str) -> Result<(), Failure> {
        let (store, path) = (&self.store, self.path.as_str());
        let text = content::of_fields(fields)
            .map_err(|reason| Failure::new(FailureClass::Invalid, doing, reason))?;
        store.check_secret(path).await.map_err(|failure| named(failure, doing))?;
        let token = token(&format!("rekeyd copy\n{path}\n{}\n{seed}", over.revision));
        let label = Label::of(&token);
        if over.revision.is_empty() {
            let creation = Creation { name: path, object: path, description: OF_COPIES, label: &label };
            return store.create(creation, &token, &text).await.map_err(|failure| named(failure, doing));
        }
        let put =
            Put { name: path, object: path, token: &token, text: &text, label: &label, is_first: false };
        store.put(put).await.map_err(|failure| named(failure, doing))?;
        between!("aws.copy.put");
        let shifted = store.shift(path, path, &token, Some(&over.revision)).await;
        between!("aws.copy.moved");
        store.clear(path, &token, &label, shifted.as_ref().err()).await;
        shifted.map_err(|failure| named(failure, doing))
    }

    async fn preflight(&self) -> Vec<Finding> {
        let (subject, path) = (format!("secret {}", self.path), self.path.as_str());
        match self.store.check_secret(path).await {
            Ok(()) => {
                let budget = self.store.look_at_budget(path, path, VersionBudget::COPY).await;
                [Finding::pass(subject, "nobody else rotates it")].into_iter().chain(budget).collect()
            }
            Err(failure) => vec![Finding::from_failure(subject, &failure)],
        }
    }
}

/// Under the name of the copy.
fn named(failure: Failure, doing: &str) -> Failure {
    let named = Failure::new(failure.class(), doing, failure.reason());
    match failure.remedy() {
        Some(remedy) => named.with_remedy(remedy.to_owned()),
        None => named,
    }
}
