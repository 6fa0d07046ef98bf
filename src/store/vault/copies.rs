//! A copy of a value in a mount of the same server, for readers of their own.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::VaultStore;
use super::kv::Entry;
use crate::copies::{CopyPlace, Fields, Held};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::StorePath;
use crate::secret::SecretValue;

/// A path of a mount.
struct Copy {
    store: VaultStore,
    path: StorePath,
}

impl VaultStore {
    /// A place in another mount, reached by the same login.
    pub(super) fn copy_in(&self, mount: Option<&StorePath>, path: &StorePath) -> Arc<dyn CopyPlace> {
        let mount = mount.map_or(self.mount.as_str(), StorePath::as_str);
        Arc::new(Copy { store: self.at_mount(mount), path: path.clone() })
    }
}

#[async_trait]
impl CopyPlace for Copy {
    fn label(&self) -> String {
        format!("{}/{}", self.store.label, self.path)
    }

    async fn read(&self, doing: &str) -> Result<Held, Failure> {
        let path = self.path.as_str();
        Ok(match self.store.read(path, path).await.map_err(|failure| named(failure, doing))? {
            Entry::Absent => Held::default(),
            Entry::Deleted { version } => Held { revision: version.to_string(), ..Held::default() },
            Entry::Present { data, version } => {
                let mut held =
                    Held { fields: Some(Fields::new()), revision: version.to_string(), is_odd: false };
                let fields = held.fields.get_or_insert_default();
                for (key, value) in data {
                    match value {
                        Value::String(text) => {
                            fields.insert(key, SecretValue::new(text.into_bytes()));
                        }
                        _ => held.is_odd = true,
                    }
                }
                held
            }
        })
    }

    async fn write(&self, fields: &Fields, over: &Held, _: &str, doing: &str) -> Result<(), Failure> {
        let path = self.path.as_str();
        let mut texts = Vec::new();
        for (key, value) in fields {
            let text =
                value.expose_str().map_err(|error| Failure::new(FailureClass::Invalid, doing, error))?;
            texts.push((key.as_str(), text));
        }
        let data = || {
            let map: Map<String, Value> =
                texts.iter().map(|(key, text)| ((*key).to_owned(), (*text).into())).collect();
            Value::Object(map)
        };
        // 0 stands for "nothing was ever here"; a deleted version counts.
        let cas = if over.revision.is_empty() { 0 } else { self.store.cas(path, &over.revision)? };
        self.store.write(path, path, cas, data).await.map(drop).map_err(|failure| named(failure, doing))
    }

    async fn preflight(&self) -> Vec<Finding> {
        self.store.look_at_copy(&self.path).await
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
