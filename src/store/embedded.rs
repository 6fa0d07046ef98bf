//! The embedded store: one database file of rekeyd's own, every value sealed.
//!
//! The file is SQLite with a write-ahead log. Several processes may use it at the same time, a daemon and
//! a command line say; compare-and-set holds between them. It must be on a local disk. Names (paths and
//! policies) and revisions stand in it in the clear; credentials, principals included, and control
//! documents are sealed with a key that is kept elsewhere.
//!
//! Nothing is deleted. A revision is a number that a store gives out once.

mod content;
mod database;
mod fault;
mod key;
mod preflight;
mod reader;
mod seal;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use self::content::{decode, encode};
use self::database::Database;
use self::fault::Fault;
use self::key::Key;
use self::reader::Reader;
use self::seal::{Kind, Sealer};
use self::writer::{Write, Writer};
use super::{Control, Current, Place, Promotion, Revision, Store};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::PolicyName;
use crate::secret::SecretValue;
use crate::settings::EmbeddedSettings;

/// How long a call may take, a disk that does not answer included. Longer than the wait for a lock.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store in a file of this machine.
pub struct EmbeddedStore {
    writer: Arc<Writer>,
    reader: Arc<Reader>,
    database: Arc<Database>,
}

impl EmbeddedStore {
    /// Opens the store, and makes it first when the file is missing. Blocks for a few disk accesses.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong: no folder, no key, another key, a file that is not a store
    /// or that others may open; `Denied` when rekeyd's user may not write it; `Unavailable` when the disk
    /// fails or is full. The file is as it was then.
    pub fn open(settings: &EmbeddedSettings) -> Result<Self, Failure> {
        let sealer = Arc::new(Sealer::new(&Key::load(&settings.key)?));
        let (database, connection) = Database::open(&settings.path, &sealer)
            .map_err(|fault| fault.into_failure(format!("open store {}", settings.path.display())))?;
        let database = Arc::new(database);
        Ok(Self {
            writer: Writer::new(connection, Arc::clone(&database), Arc::clone(&sealer)),
            reader: Reader::new(Arc::clone(&database), sealer),
            database,
        })
    }

    /// What a first opening will need, looked at without making the store; `None` when there is one.
    #[must_use]
    pub fn preflight_absent(settings: &EmbeddedSettings) -> Option<Vec<Finding>> {
        preflight::absent(settings)
    }

    /// Writes a fresh sealing key to a new file that only its owner may read.
    ///
    /// # Errors
    /// `Conflict` when there is a file already, which stays as it is.
    pub fn generate_key_file(path: &Path) -> Result<(), Failure> {
        Key::generate_file(path)
    }

    async fn read(
        &self,
        kind: Kind,
        name: String,
    ) -> Result<Option<(Zeroizing<Vec<u8>>, Revision)>, Failure> {
        let doing = self.doing("read", kind, &name);
        match tokio::time::timeout(DEADLINE, self.reader.entry(kind, name)).await {
            Ok(Ok(entry)) => Ok(entry.map(|(plain, revision)| (plain, Revision::new(revision)))),
            Ok(Err(fault)) => Err(fault.into_failure(doing)),
            Err(_) => Err(Failure::new(FailureClass::Unavailable, doing, "the disk does not answer")),
        }
    }

    async fn write(
        &self,
        kind: Kind,
        name: String,
        plain: Zeroizing<Vec<u8>>,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let doing = self.doing("write", kind, &name);
        let expected = match expected.map(|revision| revision.as_str().parse()) {
            None => None,
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => {
                let reason = "the expected revision is not one of this store";
                return Err(Failure::new(FailureClass::Invalid, doing, reason));
            }
        };
        let answer = self.writer.submit(Write { kind, name, expected, plain });
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(Ok(revision))) => Ok(Revision::new(revision)),
            Ok(Ok(Err(fault))) => Err(fault.into_failure(doing)),
            // The write stays in the queue and may be committed yet.
            Ok(Err(_)) => Err(Failure::new(FailureClass::Ambiguous, doing, "rekeyd is stopping")),
            Err(_) => Err(Failure::new(FailureClass::Ambiguous, doing, "the disk does not answer")),
        }
    }

    fn doing(&self, verb: &str, kind: Kind, name: &str) -> String {
        let object = match kind {
            Kind::Control => "the control document of ",
            Kind::Credential | Kind::KeyCheck => "",
        };
        format!("{verb} {object}{name} in store {}", self.database.path().display())
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure> {
        let name = place.path.to_string();
        let Some((plain, revision)) = self.read(Kind::Credential, name.clone()).await? else {
            return Ok(None);
        };
        let credential = decode(&plain).ok_or_else(|| {
            let doing = self.doing("read", Kind::Credential, &name);
            Failure::new(FailureClass::Invalid, doing, "the entry is not a credential")
        })?;
        Ok(Some(Current { credential, revision }))
    }

    async fn promote(
        &self,
        place: Place<'_>,
        Promotion { credential, expected, .. }: Promotion<'_>,
    ) -> Result<Revision, Failure> {
        self.write(Kind::Credential, place.path.to_string(), encode(credential), expected).await
    }

    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure> {
        let entry = self.read(Kind::Control, policy.to_string()).await?;
        Ok(entry.map(|(mut plain, revision)| Control {
            document: SecretValue::new(std::mem::take(&mut *plain)),
            revision,
        }))
    }

    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let plain = Zeroizing::new(document.expose().to_vec());
        self.write(Kind::Control, policy.to_string(), plain, expected).await
    }

    async fn policies(&self) -> Result<Vec<PolicyName>, Failure> {
        let doing = || format!("list the policies in store {}", self.database.path().display());
        let names = match tokio::time::timeout(DEADLINE, self.reader.names(Kind::Control)).await {
            Ok(result) => result.map_err(|fault| fault.into_failure(doing()))?,
            Err(_) => {
                return Err(Failure::new(FailureClass::Unavailable, doing(), "the disk does not answer"));
            }
        };
        names
            .iter()
            .map(|name| {
                name.parse().map_err(|error| {
                    Fault::new(FailureClass::Invalid, format!("an entry has a wrong name: {error}"))
                        .into_failure(doing())
                })
            })
            .collect()
    }

    async fn preflight(&self, place: Place<'_>, _policy: &PolicyName) -> Vec<Finding> {
        preflight::look(self, place).await
    }
}
