//! The Secret itself: what is there, whether it may be written, and what is written.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::clock::{Clock as _, SystemClock};
use crate::consumer::PublishRequest;
use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, Version};
use crate::kubernetes::{POLICY, SINCE, VERSION};
use crate::policy::spec::KubernetesSpec;
use crate::secret::SecretValue;
use crate::template::{Template, Values};

/// Clocks of a cluster and of rekeyd may differ so much. A pod that was created within this time after a
/// write is taken for one that may have read what was there before.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// What the policy puts into the Secret.
pub(super) struct Content {
    name: String,
    secret_type: String,
    templates: BTreeMap<String, Template>,
}

/// The same, filled.
pub(super) struct Filled<'a> {
    content: &'a Content,
    data: BTreeMap<String, SecretValue>,
}

impl Content {
    pub(super) fn new(spec: &KubernetesSpec) -> Result<Self, Failure> {
        let mut templates = BTreeMap::new();
        for (key, source) in &spec.data {
            let template = Template::parse(source).map_err(|error| {
                let doing = format!("use key {key} of Secret {}", spec.secret);
                Failure::new(FailureClass::Invalid, doing, error)
            })?;
            templates.insert(key.clone(), template);
        }
        Ok(Self { name: spec.secret.to_string(), secret_type: spec.secret_type.clone(), templates })
    }

    pub(super) fn render(&self, request: PublishRequest<'_>, doing: &str) -> Result<Filled<'_>, Failure> {
        let values = Values {
            policy: request.policy,
            version: request.version,
            principal: &request.credential.principal,
            value: &request.credential.value,
        };
        let mut data = BTreeMap::new();
        for (key, template) in &self.templates {
            let filled = template.render(&values).map_err(|error| {
                Failure::new(FailureClass::Invalid, doing, format_args!("key {key}: {error}"))
                    .with_remedy("correct `data` in the policy")
            })?;
            data.insert(key.clone(), filled);
        }
        Ok(Filled { content: self, data })
    }
}

impl Filled<'_> {
    /// The object as it is applied, at a revision if there is one already.
    pub(super) fn apply(
        &self,
        request: PublishRequest<'_>,
        namespace: &str,
        revision: Option<&str>,
        since: Option<Timestamp>,
    ) -> Value {
        let since = since.unwrap_or_else(|| SystemClock.now() + SKEW);
        let data: BTreeMap<&str, String> =
            self.data.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value.expose()))).collect();
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.content.name,
                "namespace": namespace,
                "annotations": {
                    POLICY: request.policy.to_string(),
                    VERSION: request.version.number().to_string(),
                    SINCE: format!("{since:.0}"),
                },
            },
            "type": self.content.secret_type,
            "data": data,
        });
        if let Some(revision) = revision {
            body["metadata"]["resourceVersion"] = revision.into();
        }
        body
    }

    fn is_in(&self, live: &Live) -> bool {
        let held = |key: &String, value: &SecretValue| {
            let data = live.0.data.as_ref().and_then(|data| data.get(key));
            data.is_some_and(|bytes| SecretValue::new(bytes.0.clone()) == *value)
        };
        self.data.iter().all(|(key, value)| held(key, value))
    }
}

/// A Secret as it is.
pub(super) struct Live(Secret);

impl From<Secret> for Live {
    fn from(secret: Secret) -> Self {
        Self(secret)
    }
}

impl Live {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.0.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// As it is in the cluster, without its content.
    pub(super) fn metadata(&self) -> Value {
        serde_json::to_value(&self.0.metadata).unwrap_or_default()
    }

    /// The policy that writes it.
    pub(super) fn owner(&self) -> Option<String> {
        self.annotation(POLICY).map(|owner| owner.chars().take(127).collect())
    }

    pub(super) fn version(&self) -> Version {
        self.annotation(VERSION).and_then(|text| text.parse().ok()).map_or(Version::NONE, Version::new)
    }

    /// From when on whoever reads it finds this version; never, if that is not known.
    pub(super) fn since(&self) -> Timestamp {
        self.annotation(SINCE).and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MAX)
    }

    fn secret_type(&self) -> &str {
        self.0.type_.as_deref().unwrap_or("Opaque")
    }
}

/// What is to be done with a Secret.
pub(super) enum Judgement {
    Write {
        /// As it was read; none where there is none yet.
        revision: Option<String>,
        /// Kept where only the content is mended.
        since: Option<Timestamp>,
    },
    Nothing,
}

/// Whether a version may be written over what is there.
pub(super) fn judge(
    live: Option<&Live>,
    request: PublishRequest<'_>,
    content: &Filled<'_>,
    spec: &KubernetesSpec,
    doing: impl Fn() -> String,
) -> Result<Judgement, Failure> {
    foreign(live, request.policy, spec, &doing)?;
    let Some(live) = live else { return Ok(Judgement::Write { revision: None, since: None }) };
    let revision = live.0.metadata.resource_version.clone();
    if live.owner().is_none() {
        return Ok(Judgement::Write { revision, since: None });
    }
    let held = live.version();
    if held > request.version {
        let reason = format!("it holds {held} already");
        return Err(Failure::new(FailureClass::Conflict, doing(), reason)
            .with_remedy("see whether the store was restored; if the store is right, delete the Secret"));
    }
    let same_version = held == request.version;
    if same_version && content.is_in(live) {
        return Ok(Judgement::Nothing);
    }
    if live.0.immutable == Some(true) {
        return Err(Failure::new(FailureClass::Conflict, doing(), "it is immutable")
            .with_remedy("delete it and let rekeyd make it anew, without `immutable`"));
    }
    Ok(Judgement::Write {
        revision,
        since: same_version.then(|| live.since()).filter(|at| *at != Timestamp::MAX),
    })
}

/// Whether what is there is the policy's to write; in words, if it is.
pub(super) fn foreign(
    live: Option<&Live>,
    policy: &PolicyName,
    spec: &KubernetesSpec,
    doing: impl Fn() -> String,
) -> Result<String, Failure> {
    let Some(live) = live else { return Ok("it is not there yet, and will be made".into()) };
    if live.secret_type() != spec.secret_type {
        let reason = format!("its type is {}, which cannot be changed", live.secret_type());
        return Err(Failure::new(FailureClass::Invalid, doing(), reason)
            .with_remedy("set `type` to that, or delete the Secret"));
    }
    match live.owner() {
        Some(owner) if owner == policy.to_string() => Ok(format!("it holds {}", live.version())),
        Some(owner) => Err(taken(&owner, doing())),
        None if spec.adopt => Ok("it was not written by rekeyd, and will be taken over".into()),
        None => Err(Failure::new(FailureClass::Conflict, doing(), "rekeyd did not write it")
            .with_remedy("set `adopt: true` to take it over, or delete it")),
    }
}

pub(super) fn taken(owner: &str, doing: String) -> Failure {
    Failure::new(FailureClass::Conflict, doing, format_args!("policy {owner} writes it already")).with_remedy(
        format!(
            "give each policy a Secret of its own; if {owner} is no more, remove the annotation {POLICY}"
        ),
    )
}
