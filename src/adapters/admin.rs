//! The credentials that rekeyd itself logs in with, from where the settings say they are.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::Stores;
use crate::failure::{Failure, FailureClass, IoReason};
use crate::ident::{DnsLabel, Principal};
use crate::secret::AdminCredential;
use crate::secret::{Credential, SecretValue};
use crate::settings::CredentialSource;
use crate::store::Place;

/// A value is shorter.
const MOST_BYTES: u64 = 64 * 1024;

/// A named credential of the settings. Read anew whenever it is asked for.
pub(super) struct Admin {
    name: DnsLabel,
    source: CredentialSource,
    stores: Arc<Stores>,
}

impl Admin {
    pub(super) fn new(name: DnsLabel, source: CredentialSource, stores: Arc<Stores>) -> Self {
        Self { name, source, stores }
    }
}

#[async_trait]
impl AdminCredential for Admin {
    async fn credential(&self) -> Result<Credential, Failure> {
        match &self.source {
            CredentialSource::File(file) => read_file(&self.name, &file.username, &file.path),
            CredentialSource::Store(stored) => {
                let place = Place { path: &stored.path, fields: &stored.fields };
                let current = self.stores.open(&stored.name)?.current(place).await?;
                current.map(|current| current.credential).ok_or_else(|| {
                    Failure::new(
                        FailureClass::Denied,
                        format!("read credential {}", self.name),
                        format_args!("store {} holds nothing at {}", stored.name, stored.path),
                    )
                    .with_remedy("write the admin's name and value there")
                })
            }
        }
    }
}

fn read_file(name: &DnsLabel, username: &Principal, path: &Path) -> Result<Credential, Failure> {
    let refuse = |reason: String, remedy: &'static str| {
        Failure::new(FailureClass::Denied, format!("read credential {name} from {}", path.display()), reason)
            .with_remedy(remedy)
    };
    let io = |error: std::io::Error| {
        refuse(IoReason(error.kind()).to_string(), "put the password there, readable by rekeyd's user alone")
    };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(refuse("it is not a file".into(), "name the file with the password"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(refuse(
            format!("its mode is {mode:04o}: others can get at it"),
            "chmod it to 0600 or 0400",
        ));
    }
    let mut value = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MOST_BYTES).read_to_end(&mut value).map_err(io)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    if value.is_empty() {
        return Err(refuse("it is empty".into(), "put the password there"));
    }
    Ok(Credential::new(username.clone(), SecretValue::new(std::mem::take(&mut *value))))
}
