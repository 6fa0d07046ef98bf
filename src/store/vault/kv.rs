//! The KV version 2 engine: an entry is read, written by compare-and-set, and listed.
//!
//! A version number only grows, through deletions too: `cas` counts a deleted version, so a deletion is
//! not the same as absence. Version 0 stands for "nothing was ever here".

use serde_json::{Map, Value};
use tokio::time::Instant;
use vaultrs::api::kv2::requests::{
    ListSecretsRequest, ReadSecretRequest, SetSecretMetadataRequest, SetSecretRequest,
    SetSecretRequestOptions,
};

use super::VaultStore;
use crate::failure::{Failure, FailureClass};
use crate::vault::{Call, Effect, NOT_KV2};

/// What is at a path.
pub(super) enum Entry {
    /// Nothing ever was.
    Absent,
    /// The latest version was deleted or destroyed.
    Deleted {
        version: u64,
    },
    Present {
        data: Map<String, Value>,
        version: u64,
    },
}

impl VaultStore {
    pub(super) async fn read(&self, path: &str, object: &str) -> Result<Entry, Failure> {
        self.check_mount().await?;
        let request = || {
            ReadSecretRequest::builder()
                .mount(&self.mount)
                .path(path)
                .build()
                .expect("mount and path are set")
        };
        match self.session.fetch(request).await {
            Ok(answer) => match answer.data {
                Value::Object(data) => Ok(Entry::Present { data, version: answer.metadata.version }),
                _ => {
                    Err(Failure::new(FailureClass::Invalid, self.doing("read", object), "it holds no fields"))
                }
            },
            Err(trouble) => match trouble.deleted_version() {
                Some(version) => Ok(Entry::Deleted { version }),
                None if trouble.is_absent() => Ok(Entry::Absent),
                None => Err(trouble.into_failure(Call {
                    doing: self.doing("read", object),
                    path: format!("{}/data/{path}", self.mount),
                    needs: "`read`",
                    effect: Effect::Reads,
                })),
            },
        }
    }

    /// Writes an entry that is at version `cas`; the answer is its new version. `data` is asked again
    /// when the call is repeated with another token.
    pub(super) async fn write(
        &self,
        path: &str,
        object: &str,
        cas: u32,
        data: impl Fn() -> Value + Send + Sync,
    ) -> Result<u64, Failure> {
        self.check_mount().await?;
        let request = || {
            SetSecretRequest::builder()
                .mount(&self.mount)
                .path(path)
                .data(data())
                .options(SetSecretRequestOptions { cas })
                .build()
                .expect("everything is set")
        };
        let answer = self.session.fetch(request).await.map_err(|trouble| {
            if trouble.is_conflict() && cas == 0 {
                let reason = "there is something already";
                return Failure::new(FailureClass::Conflict, self.doing("write", object), reason);
            }
            trouble.into_failure(Call {
                doing: self.doing("write", object),
                path: format!("{}/data/{path}", self.mount),
                needs: "`create` and `update`",
                effect: Effect::Writes,
            })
        })?;
        Ok(answer.version)
    }

    /// The names below a folder; those that end in `/` are folders.
    pub(super) async fn list(&self, folder: &str, object: &str) -> Result<Vec<String>, Failure> {
        self.check_mount().await?;
        let request = || {
            ListSecretsRequest::builder()
                .mount(&self.mount)
                .path(folder)
                .build()
                .expect("mount and path are set")
        };
        match self.session.fetch(request).await {
            Ok(answer) => Ok(answer.keys),
            Err(trouble) if trouble.is_absent() => Ok(Vec::new()),
            Err(trouble) => Err(trouble.into_failure(Call {
                doing: self.doing("list", object),
                path: format!("{}/metadata/{folder}/", self.mount),
                needs: "`list`",
                effect: Effect::Reads,
            })),
        }
    }

    /// Makes the server forget all versions of an entry but the latest, with the next write, and refuse a
    /// write without compare-and-set.
    pub(super) async fn keep_latest_only(&self, path: &str, object: &str) -> Result<(), Failure> {
        let request = || {
            SetSecretMetadataRequest::builder()
                .mount(&self.mount)
                .path(path)
                .max_versions(1_u64)
                .cas_required(true)
                .build()
                .expect("mount and path are set")
        };
        self.session.send(request).await.map_err(|trouble| {
            trouble.into_failure(Call {
                doing: self.doing("limit the versions of", object),
                path: format!("{}/metadata/{path}", self.mount),
                needs: "`create` and `update`",
                // Repeating it is always right, and nothing depends on whether it happened.
                effect: Effect::Reads,
            })
        })
    }

    /// Makes sure, once, that the mount is KV version 2. A mount of version 1 takes every request of
    /// version 2 as one for a path that begins with `data/`, without an error and without
    /// compare-and-set.
    async fn check_mount(&self) -> Result<(), Failure> {
        let arrived = Instant::now();
        self.mount_checked
            .get_or_try_init(|| async {
                self.mount_failed.since(arrived)?;
                let mount = self.mount_kind().await.map_err(|failure| self.mount_failed.keep(failure))?;
                if mount.is_kv2() {
                    return Ok(());
                }
                let reason = format!("the mount is {mount}");
                Err(Failure::new(FailureClass::Invalid, format!("use {}", self.label), reason)
                    .with_remedy(NOT_KV2))
            })
            .await
            .copied()
    }
}
