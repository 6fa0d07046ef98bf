//! What the server says about itself: the mount, its health.
//!
//! The driver has no request for the first, and reads more out of the last than OpenBao says; they are written
//! out here.

use std::fmt;

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use serde::Deserialize;

use super::VaultStore;
use crate::failure::{Failure, FailureClass};
use crate::vault::{Call, Effect, Trouble};

/// `GET sys/internal/ui/mounts/{mount}`: any token may ask that has some right below the mount.
struct MountRequest<'a> {
    mount: &'a str,
}

impl Endpoint for MountRequest<'_> {
    type Response = MountKind;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("sys/internal/ui/mounts/{}", self.mount)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// What is mounted.
#[derive(Deserialize)]
pub(super) struct MountKind {
    #[serde(rename = "type")]
    kind: String,
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    version: Option<String>,
}

impl MountKind {
    pub(super) fn is_kv2(&self) -> bool {
        self.kind == "kv" && self.version() == Some("2")
    }

    fn version(&self) -> Option<&str> {
        self.options.as_ref()?.version.as_deref()
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind.as_str(), self.version()) {
            ("kv" | "generic", None | Some("1")) => f.write_str("KV version 1"),
            ("kv", Some("2")) => f.write_str("KV version 2"),
            (kind, _) => write!(f, "of type `{}`", kind.escape_default()),
        }
    }
}

/// `GET sys/health`: anybody may ask. The status of the answer is what it says.
struct HealthRequest;

impl Endpoint for HealthRequest {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "sys/health".into()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// How a server is.
pub(super) enum Health {
    Active,
    Standby,
    Sealed,
    Uninitialised,
}

impl VaultStore {
    pub(super) async fn health(&self) -> Result<Health, Failure> {
        let client = self.session.anonymous();
        let trouble = match client.send(HealthRequest).await {
            Ok(()) => return Ok(Health::Active),
            Err(error) => Trouble::Call(error),
        };
        match trouble.status() {
            Some(429 | 472 | 473) => Ok(Health::Standby),
            Some(501) => Ok(Health::Uninitialised),
            Some(503) => Ok(Health::Sealed),
            _ => Err(trouble.into_failure(Call {
                doing: format!("look at the server of {}", self.label),
                path: "sys/health".into(),
                needs: "`read`",
                effect: Effect::Reads,
            })),
        }
    }

    pub(super) async fn mount_kind(&self) -> Result<MountKind, Failure> {
        let result = self.session.fetch(|| MountRequest { mount: &self.mount }).await;
        result.map_err(|trouble| {
            let doing = format!("look at the mount of {}", self.label);
            // The server does not tell which.
            if trouble.is_forbidden() {
                let reason = "there is no such mount, or the token has no right in it";
                return Failure::new(FailureClass::Denied, doing, reason).with_remedy(format!(
                    "check `mount` and `namespace` of the store, and grant rights below `{}/` in the policy of \
                     rekeyd's token",
                    self.mount
                ));
            }
            let path = format!("sys/internal/ui/mounts/{}", self.mount);
            trouble.into_failure(Call { doing, path, needs: "`read`", effect: Effect::Reads })
        })
    }
}
