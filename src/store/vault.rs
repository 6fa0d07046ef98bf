//! OpenBao and Vault: a KV version 2 mount.
//!
//! A policy's path holds one map of two fields, the current credential, and nothing else: a promotion
//! replaces the map. A policy's control document is the field `document` at
//! `<control path>/<namespace>/<policy>`. Both are written with `cas` only; a revision is the version
//! number of the entry, which grows through deletions and ends only with the entry's metadata. Nobody
//! but rekeyd should have rights below the control path.
//!
//! The server keeps the earlier versions of an application's path as its own settings say: dead values,
//! once their rotation is closed. Of a control document it keeps none, because those hold candidates and
//! outgoing values: rekeyd limits it to one version.
//!
//! The bodies of requests and answers pass through buffers of the driver and of the HTTP client, which
//! do not wipe them. The driver's log targets `vaultrs` and `rustify` must stay off, and nothing of its
//! types is ever printed.

mod copies;
mod kv;
mod preflight;
mod system;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use self::kv::Entry;
use super::{Control, Current, Place, Promotion, Revision, Store};
use crate::copies::CopyPlace;
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{PolicyName, StorePath};
use crate::secret::{Credential, Parts, SecretValue};
use crate::settings::VaultSettings;
use crate::vault::{LastFailure, Session};

/// The field that holds a control document.
const DOCUMENT: &str = "document";

/// A store at OpenBao or Vault.
pub struct VaultStore {
    session: Arc<Session>,
    mount: String,
    control_path: StorePath,
    /// Names the store in failures: address and mount.
    label: String,
    mount_checked: OnceCell<()>,
    mount_failed: LastFailure,
    /// The policies whose control documents this process has limited to one version.
    limited: Mutex<HashSet<PolicyName>>,
}

impl VaultStore {
    /// Reads the file of authorities, and nothing else yet: the first call connects and logs in.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub fn open(settings: &VaultSettings) -> Result<Self, Failure> {
        let label = format!("{}/{}", settings.address.trim_end_matches('/'), settings.mount);
        // A mount becomes a part of the URL: it has the form of a path of names.
        if let Err(error) = settings.mount.parse::<StorePath>() {
            return Err(Failure::new(FailureClass::Invalid, format!("use {label}"), error));
        }
        Ok(Self {
            session: Session::open(settings)?,
            mount: settings.mount.clone(),
            control_path: settings.control_path.clone(),
            label,
            mount_checked: OnceCell::new(),
            mount_failed: LastFailure::default(),
            limited: Mutex::default(),
        })
    }

    /// The same server and login, and another mount.
    fn at_mount(&self, mount: &str) -> Self {
        let address = self.label.strip_suffix(&format!("/{}", self.mount)).unwrap_or(&self.label);
        Self {
            session: Arc::clone(&self.session),
            mount: mount.to_owned(),
            control_path: self.control_path.clone(),
            label: format!("{address}/{mount}"),
            mount_checked: OnceCell::new(),
            mount_failed: LastFailure::default(),
            limited: Mutex::default(),
        }
    }

    /// Writes what is at `expected`. `None` means absent or deleted: a deleted version still counts for
    /// `cas`, so it is looked up. Between that and the write somebody may undelete it and be overwritten;
    /// any new version is a conflict as ever.
    async fn put_current(
        &self,
        path: &str,
        expected: Option<&Revision>,
        data: impl Fn() -> Value + Send + Sync,
    ) -> Result<u64, Failure> {
        let Some(expected) = expected else {
            let conflict = match self.write(path, path, 0, &data).await {
                Err(failure) if failure.class() == FailureClass::Conflict => failure,
                result => return result,
            };
            return match self.read(path, path).await? {
                Entry::Deleted { version } => self.write(path, path, self.cas(path, version)?, data).await,
                Entry::Absent | Entry::Present { .. } => Err(conflict),
            };
        };
        self.write(path, path, self.cas(path, expected.as_str())?, data).await
    }

    fn cas(&self, object: &str, revision: impl ToString) -> Result<u32, Failure> {
        match revision.to_string().parse() {
            // 0 would mean "absent" to the server.
            Ok(number) if number > 0 => Ok(number),
            _ => {
                let reason = "the expected revision is not one of this store";
                Err(Failure::new(FailureClass::Invalid, self.doing("write", object), reason))
            }
        }
    }

    fn control_entry(&self, policy: &PolicyName) -> String {
        format!("{}/{policy}", self.control_path)
    }

    fn is_limited(&self, policy: &PolicyName) -> bool {
        self.limited.lock().expect("nothing panics while it holds the set").contains(policy)
    }

    /// Before a further version of a control document is written, once in the life of the process.
    async fn limit(&self, policy: &PolicyName) -> Result<(), Failure> {
        self.keep_latest_only(&self.control_entry(policy), &control_of(policy)).await?;
        self.limited.lock().expect("nothing panics while it holds the set").insert(policy.clone());
        Ok(())
    }

    /// An application's path must be outside of rekeyd's own folder.
    fn check_place(&self, verb: &str, path: &StorePath) -> Result<(), Failure> {
        match path.as_str().strip_prefix(self.control_path.as_str()) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let reason = format!("`{}` is rekeyd's own folder", self.control_path);
                Err(Failure::new(FailureClass::Invalid, self.doing(verb, path.as_str()), reason)
                    .with_remedy("give the policy another path, or the store another `controlPath`"))
            }
            _ => Ok(()),
        }
    }

    /// Takes the text of a field that has to be there.
    fn text(&self, data: &mut Map<String, Value>, field: &str, path: &str) -> Result<String, Failure> {
        take_text(data, field).ok_or_else(|| {
            let reason = format!("it has no field `{}` that holds text", field.escape_default());
            Failure::new(FailureClass::Invalid, self.doing("read", path), reason)
                .with_remedy("name the fields in the policy's `store.fields`")
        })
    }

    fn doing(&self, verb: &str, object: &str) -> String {
        format!("{verb} {object} at {}", self.label)
    }
}

#[async_trait]
impl Store for VaultStore {
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure> {
        self.check_place("read", place.path)?;
        let path = place.path.as_str();
        let Entry::Present { mut data, version } = self.read(path, path).await? else { return Ok(None) };
        let value = SecretValue::new(self.text(&mut data, &place.fields.value, path)?.into_bytes());
        let principal = self.text(&mut data, &place.fields.principal, path)?.parse().map_err(|_| {
            // The text may be anything, a value in the wrong field too: it is not shown.
            let reason =
                format!("field `{}` does not hold a principal", place.fields.principal.escape_default());
            Failure::new(FailureClass::Invalid, self.doing("read", path), reason)
        })?;
        let mut parts = Parts::new();
        for (name, field) in &place.fields.parts {
            if !data.contains_key(field) {
                continue;
            }
            parts.insert(name.clone(), SecretValue::new(self.text(&mut data, field, path)?.into_bytes()));
        }
        let credential = Credential::new(principal, value).with_parts(parts);
        Ok(Some(Current { credential, revision: Revision::new(version) }))
    }

    async fn promote(
        &self,
        place: Place<'_>,
        Promotion { credential, expected, .. }: Promotion<'_>,
    ) -> Result<Revision, Failure> {
        self.check_place("write", place.path)?;
        let path = place.path.as_str();
        let not_text = |error| Failure::new(FailureClass::Invalid, self.doing("write", path), error);
        let mut texts = vec![
            (&place.fields.principal, credential.principal.as_str()),
            (&place.fields.value, credential.value.expose_str().map_err(not_text)?),
        ];
        for (name, field) in &place.fields.parts {
            if let Some(part) = credential.parts.get(name) {
                texts.push((field, part.expose_str().map_err(not_text)?));
            }
        }
        let data = || {
            let fields = texts.iter().map(|(field, text)| ((*field).clone(), Value::from(*text)));
            Value::Object(fields.collect())
        };
        self.put_current(path, expected, data).await.map(Revision::new)
    }

    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure> {
        let object = control_of(policy);
        let invalid =
            |reason: String| Failure::new(FailureClass::Invalid, self.doing("read", &object), reason);
        match self.read(&self.control_entry(policy), &object).await? {
            Entry::Absent => Ok(None),
            // rekeyd never deletes it. Taking it for absent would begin a policy anew whose candidate may
            // be known nowhere else.
            Entry::Deleted { version } => Err(invalid("somebody deleted it".into()).with_remedy(format!(
                "bring it back with `bao kv undelete -mount={} -versions={version} {}`",
                self.mount,
                self.control_entry(policy)
            ))),
            Entry::Present { mut data, version } => match take_text(&mut data, DOCUMENT) {
                Some(text) => Ok(Some(Control {
                    document: SecretValue::new(text.into_bytes()),
                    revision: Revision::new(version),
                })),
                None => Err(invalid(format!("it has no field `{DOCUMENT}` that holds text"))),
            },
        }
    }

    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let (path, object) = (self.control_entry(policy), control_of(policy));
        let text = document
            .expose_str()
            .map_err(|error| Failure::new(FailureClass::Invalid, self.doing("write", &object), error))?;
        let cas = match expected {
            None => 0,
            Some(revision) => self.cas(&object, revision.as_str())?,
        };
        // A first version may stand alone for a while; a second must not be written beside it.
        if expected.is_some() && !self.is_limited(policy) {
            self.limit(policy).await?;
            between!("vault.save.limited");
        }
        let version = self.write(&path, &object, cas, || json!({ DOCUMENT: text })).await?;
        Ok(Revision::new(version))
    }

    async fn policies(&self) -> Result<Vec<PolicyName>, Failure> {
        let object = "the control documents";
        let folder = self.control_path.as_str();
        let mut policies = Vec::new();
        for namespace in self.list(folder, object).await? {
            let Some(namespace) = namespace.strip_suffix('/') else { continue };
            for name in self.list(&format!("{folder}/{namespace}"), object).await? {
                // What is not a policy's name was not put there by rekeyd.
                policies.extend(format!("{namespace}/{name}").parse::<PolicyName>());
            }
        }
        Ok(policies)
    }

    fn copy_at(&self, mount: Option<&StorePath>, path: &StorePath) -> Option<Arc<dyn CopyPlace>> {
        Some(self.copy_in(mount, path))
    }

    async fn preflight(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        self.look(place, policy).await
    }
}

fn control_of(policy: &PolicyName) -> String {
    format!("the control document of {policy}")
}

/// Takes a text out of the map, so that there is no second copy.
fn take_text(data: &mut Map<String, Value>, field: &str) -> Option<String> {
    match data.get_mut(field)?.take() {
        Value::String(text) => Some(text),
        _ => None,
    }
}
