//! AWS Secrets Manager.
//!
//! A policy's path is the name of a secret. Its value is the JSON object that AWS's own clients expect: the
//! current credential under the policy's two keys, what the policy says under `extra`, and whatever
//! somebody else has put beside them, which a promotion keeps. A policy's control document is the value of a
//! secret of rekeyd's own, `<control path>/<namespace>/<policy>`. A revision is the id of a version.
//!
//! The service has no write with a condition, but it has one for labels: `AWSCURRENT` moves from the version that
//! is named and from no other. So a new version is put first under a label of its own that no
//! other attempt has, where nobody looks for it and nobody loses a label to it; then `AWSCURRENT` moves to it
//! from the version that was expected, which is the compare-and-set, and `AWSPREVIOUS` follows by itself.
//! Dying in between leaves a version that is not in force. The id of a promoted version follows from the
//! rotation, so whoever repeats a promotion repeats it with the same version. See `write`.
//!
//! Reads may be older than writes. What this process has written or was refused is remembered, and a reading that
//! contradicts it is repeated for a moment; see `lag`. A stale reading of another process does no harm: its write
//! meets the label where it is.
//!
//! Versions cannot be deleted. The service takes away those without a label when there are about 100 of a
//! secret, and none that is younger than a day: earlier values and control documents can be read by their id until
//! then, by whoever may read the secret.
//!
//! The bodies of requests and answers pass through buffers of the driver, which does not wipe them. Its log
//! targets must stay off, and nothing of its types is ever printed.

mod answer;
mod content;
mod copies;
mod lag;
mod preflight;
pub mod rights;
mod secret;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{Config, IdentityCache, Region, StalledStreamProtectionConfig};
use uuid::Uuid;

use self::lag::Memory;
use self::write::{Creation, Label, Put};
use super::{Control, Current, Place, Promotion, Revision, Store};
use crate::aws::{Connection, Login};
use crate::copies::CopyPlace;
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{PolicyName, StorePath};
use crate::secret::SecretValue;
use crate::settings::AwsSettings;

/// Stands with the secrets that rekeyd makes.
const OF_VALUES: &str = "A credential that rekeyd rotates";
const OF_COPIES: &str = "A copy of a credential that rekeyd rotates";
const OF_CONTROL: &str = "rekeyd's own: do not change or delete it while the policy is in use";

/// A store at AWS Secrets Manager.
#[derive(Clone)]
pub struct AwsStore {
    client: Client,
    control_path: StorePath,
    kms_key: Option<String>,
    /// Names the store in failures.
    label: String,
    memory: Arc<Memory>,
}

impl AwsStore {
    /// Reads the file of authorities, and nothing else yet: the first call connects and looks for a login.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub fn open(settings: &AwsSettings) -> Result<Self, Failure> {
        let label = match &settings.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("AWS Secrets Manager in {}", settings.region),
        };
        let connection = Connection::new(settings)
            .map_err(|reason| Failure::new(FailureClass::Invalid, format!("use {label}"), reason))?;
        let timeout = settings.timeout.as_duration();
        // By hand and not from the environment: that could name another address to send values to.
        let mut config = Config::builder()
            .behavior_version_latest()
            .region(Region::new(settings.region.clone()))
            .http_client(connection.clone())
            .credentials_provider(Login::new(settings, connection))
            .identity_cache(IdentityCache::lazy().load_timeout(timeout).build())
            // A write that is repeated unseen could not be told from somebody else's.
            .retry_config(RetryConfig::disabled())
            // The connection keeps the time, and knows whether anything was sent by then.
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint.trim_end_matches('/'));
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            control_path: settings.control_path.clone(),
            kms_key: settings.kms_key.clone(),
            label,
            memory: Arc::default(),
        })
    }

    fn control_name(&self, policy: &PolicyName) -> String {
        format!("{}/{policy}", self.control_path)
    }

    /// An application's path must be outside of rekeyd's own folder.
    fn check_place(&self, verb: &str, path: &StorePath) -> Result<(), Failure> {
        if !path.is_within(&self.control_path) {
            return Ok(());
        }
        let reason = format!("`{}` is rekeyd's own folder", self.control_path);
        Err(Failure::new(FailureClass::Invalid, self.doing(verb, path.as_str()), reason)
            .with_remedy("give the policy another path, or the store another `controlPath`"))
    }

    /// A revision is the id of a version, as the service gives them out.
    fn version<'a>(&self, object: &str, revision: &'a Revision) -> Result<&'a str, Failure> {
        let id = revision.as_str();
        if (32..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(id);
        }
        let reason = "the expected revision is not one of this store";
        Err(Failure::new(FailureClass::Invalid, self.doing("write", object), reason))
    }

    fn doing(&self, verb: &str, object: &str) -> String {
        format!("{verb} {object} at {}", self.label)
    }
}

#[async_trait]
impl Store for AwsStore {
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure> {
        self.check_place("read", place.path)?;
        let path = place.path.as_str();
        let Some(found) = self.read(path, path).await? else { return Ok(None) };
        let revision = Revision::new(&found.version);
        let credential = content::credential(&found.text, place.fields).map_err(|reason| {
            Failure::new(FailureClass::Invalid, self.doing("read", path), reason).with_remedy(
                "name the keys in the policy's `store.fields`, or write the value as a JSON object",
            )
        })?;
        Ok(Some(Current { credential, revision }))
    }

    async fn rehearse(&self, place: Place<'_>) -> Result<(), Failure> {
        self.check_place("write", place.path)?;
        self.check_secret(place.path.as_str()).await
    }

    async fn promote(&self, place: Place<'_>, promotion: Promotion<'_>) -> Result<Revision, Failure> {
        self.check_place("write", place.path)?;
        let path = place.path.as_str();
        let token = token_of(path, &promotion);
        match promotion.expected {
            None => {
                let text = self.compose(place, &promotion, None)?;
                let label = Label::of(&token);
                let creation = Creation { name: path, object: path, description: OF_VALUES, label: &label };
                self.create(creation, &token, &text).await?;
            }
            Some(expected) => {
                let expected = self.version(path, expected)?;
                self.exchange(place, &promotion, &token, expected).await?;
            }
        }
        Ok(Revision::new(token))
    }

    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure> {
        let object = control_of(policy);
        let Some(found) = self.read(&self.control_name(policy), &object).await? else { return Ok(None) };
        let document = content::document(&found.text).ok_or_else(|| {
            let reason = "somebody else wrote it";
            Failure::new(FailureClass::Invalid, self.doing("read", &object), reason)
                .with_remedy("put AWSCURRENT back on the version that has AWSPREVIOUS")
        })?;
        Ok(Some(Control { document, revision: Revision::new(found.version) }))
    }

    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let (name, object) = (self.control_name(policy), control_of(policy));
        let text = content::of_document(document)
            .map_err(|reason| Failure::new(FailureClass::Invalid, self.doing("write", &object), reason))?;
        // Another one each time: a document that is written again is another one, whatever it holds.
        let token = Uuid::now_v7().to_string();
        let label = Label::of(&token);
        match expected {
            None => {
                let creation =
                    Creation { name: &name, object: &object, description: OF_CONTROL, label: &label };
                self.create(creation, &token, &text).await?;
            }
            Some(expected) => {
                let expected = self.version(&object, expected)?;
                let put = Put {
                    name: &name,
                    object: &object,
                    token: &token,
                    text: &text,
                    label: &label,
                    is_first: false,
                };
                self.put(put).await?;
                between!("aws.save.put");
                let shifted = self.shift(&name, &object, &token, Some(expected)).await;
                self.clear(&name, &token, &label, shifted.as_ref().err()).await;
                shifted?;
            }
        }
        Ok(Revision::new(token))
    }

    async fn policies(&self) -> Result<Vec<PolicyName>, Failure> {
        let prefix = format!("{}/", self.control_path);
        let names = self.list(&prefix).await?;
        // What is not a policy's name was not put there by rekeyd.
        let policies: BTreeSet<PolicyName> =
            names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        Ok(policies.into_iter().collect())
    }

    fn copy_at(&self, mount: Option<&StorePath>, path: &StorePath) -> Option<Arc<dyn CopyPlace>> {
        // There are no mounts.
        mount.is_none().then(|| self.copy_of(path))
    }

    async fn preflight(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        self.look(place, policy).await
    }
}

impl AwsStore {
    /// The text that a promotion writes: what was there beside the credential stays.
    fn compose(
        &self,
        place: Place<'_>,
        promotion: &Promotion<'_>,
        base: Option<&str>,
    ) -> Result<zeroize::Zeroizing<String>, Failure> {
        content::compose(base, place.fields, promotion.credential, promotion.extra).map_err(|reason| {
            Failure::new(FailureClass::Invalid, self.doing("write", place.path.as_str()), reason)
        })
    }
}

fn control_of(policy: &PolicyName) -> String {
    format!("the control document of {policy}")
}

/// The id of the version that a promotion makes: the same for each repetition of it, by any process, and another for
/// any other promotion, so that no revision comes back.
fn token_of(path: &str, promotion: &Promotion<'_>) -> String {
    let expected = promotion.expected.map_or("", Revision::as_str);
    let (rotation, version) = (promotion.rotation, promotion.version);
    token(&format!("rekeyd\n{path}\n{rotation}\n{version}\n{expected}"))
}

fn token(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(text);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}
