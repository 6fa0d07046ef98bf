//! The Secret itself: what is there, whether it may be written, and what is written.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::consumer::PublishRequest;
use crate::failure::{Failure, FailureClass};
use crate::ident::{ObjectName, PolicyName, Version};
use crate::kubernetes::{FROZEN, MANAGER, POLICY, REPLACES, RESTORES, SENT, SINCE, VERSION};
use crate::policy::spec::KubernetesSpec;
use crate::rollout::edition::{Edition, SKEW, Span};
use crate::rollout::pods::moment;
use crate::rollout::reference::frozen_name;
use crate::secret::SecretValue;
use crate::template::{Template, Values};

/// What the policy puts into the Secret.
pub(super) struct Content {
    name: ObjectName,
    freezes: bool,
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
        Ok(Self {
            name: spec.secret.clone(),
            freezes: spec.immutable,
            secret_type: spec.secret_type.clone(),
            templates,
        })
    }

    pub(super) fn render(&self, request: PublishRequest<'_>, doing: &str) -> Result<Filled<'_>, Failure> {
        let values =
            Values { policy: request.policy, version: request.version, credential: request.credential };
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
    /// The object as it is applied, over what is there.
    pub(super) fn apply(
        &self,
        request: PublishRequest<'_>,
        namespace: &str,
        over: &Over,
        now: Timestamp,
    ) -> Value {
        let Story { edition, replaces } = over.story.unwrap_or_else(|| {
            let new = Edition::written(request.version, now);
            let Some(held) = over.held else { return Story { edition: new, replaces: None } };
            let replaced = Span::replaced(&held.edition, now);
            // Either it never came to hold what was taken back, or it says what that replaced.
            let earlier = [Some(replaced), held.replaces].into_iter().flatten();
            let restores = earlier.into_iter().find(|earlier| Some(earlier.version) == request.restores);
            Story { edition: Edition { restores, ..new }, replaces: Some(replaced) }
        });
        let data = self.encoded();
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.content.name,
                "namespace": namespace,
                "annotations": {
                    POLICY: request.policy.to_string(),
                    VERSION: request.version.number().to_string(),
                    SINCE: format!("{:.0}", edition.since),
                    SENT: format!("{now:.0}"),
                },
            },
            "type": self.content.secret_type,
            "data": data,
        });
        let own = self.content.freezes.then_some(request.version);
        let frozen: BTreeSet<Version> = over.frozen.iter().copied().chain(own).collect();
        if !frozen.is_empty() {
            let numbers: Vec<String> = frozen.iter().map(|version| version.number().to_string()).collect();
            body["metadata"]["annotations"][FROZEN] = numbers.join(" ").into();
        }
        for (annotation, span) in [(REPLACES, replaces), (RESTORES, edition.restores)] {
            if let Some(span) = span {
                body["metadata"]["annotations"][annotation] = span.to_string().into();
            }
        }
        if let Some(revision) = &over.revision
            && !mutated!(BlindSecret)
        {
            body["metadata"]["resourceVersion"] = revision.as_str().into();
            // By that alone an apply makes anew what is gone when it arrives.
            body["metadata"]["uid"] = over.uid.as_deref().into();
        }
        body
    }

    fn encoded(&self) -> BTreeMap<&str, String> {
        self.data.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value.expose()))).collect()
    }

    /// The Secret of this version alone.
    pub(super) fn frozen(&self, request: PublishRequest<'_>, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": frozen_name(&self.content.name, request.version),
                "namespace": namespace,
                "annotations": {
                    POLICY: request.policy.to_string(),
                    VERSION: request.version.number().to_string(),
                },
            },
            "type": self.content.secret_type,
            "immutable": true,
            "data": self.encoded(),
        })
    }

    /// Whether a Secret holds this, and says that it is a policy's.
    pub(super) fn is_whole(&self, live: &Live, policy: &PolicyName) -> bool {
        live.owner().is_some_and(|owner| owner == policy.to_string()) && self.is_in(live)
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

    /// What it holds; who reads it finds that from an unknown time on, if it does not say since when.
    pub(super) fn edition(&self) -> Edition {
        let restores = self.annotation(RESTORES).and_then(|text| text.parse().ok());
        Edition { version: self.version(), since: self.since(), restores }
    }

    /// From when on readers find it, as its writer said. A write may come to the API server long after it was sent,
    /// and who was created meanwhile has read what was there before: then from when that server wrote it.
    fn since(&self) -> Timestamp {
        let told = |name| self.annotation(name).and_then(|text| text.parse::<Timestamp>().ok());
        let said = told(SINCE).unwrap_or(Timestamp::MAX);
        let managers = self.0.metadata.managed_fields.iter().flatten();
        let own = managers.filter(|entry| entry.manager.as_deref() == Some(MANAGER));
        let arrived = own.filter_map(|entry| entry.time.as_ref()).map(moment).max();
        match (told(SENT), arrived) {
            (Some(sent), Some(arrived)) if arrived.duration_since(sent) > SKEW => {
                said.max(arrived.saturating_add(SKEW).unwrap_or(Timestamp::MAX))
            }
            _ => said,
        }
    }

    /// The versions that have Secrets of their own beside it.
    pub(super) fn frozen(&self) -> BTreeSet<Version> {
        let numbers = self.annotation(FROZEN).unwrap_or_default().split(' ');
        numbers.filter_map(|number| number.parse().ok()).map(Version::new).collect()
    }

    /// To write it again as it is, with other versions beside it.
    pub(super) fn over(&self, frozen: BTreeSet<Version>) -> Over {
        let story = Some(self.story());
        Over {
            revision: self.revision().map(ToOwned::to_owned),
            uid: self.uid(),
            held: story,
            story,
            makers: self.makers(),
            frozen,
        }
    }

    pub(super) fn revision(&self) -> Option<&str> {
        self.0.metadata.resource_version.as_deref()
    }

    /// Tells it from another one of its name, before or after it.
    pub(super) fn uid(&self) -> Option<String> {
        self.0.metadata.uid.clone()
    }

    /// Whether one manager owns all of it.
    pub(super) fn is_of(&self, maker: &str) -> bool {
        let managers = self.0.metadata.managed_fields.iter().flatten();
        managers.into_iter().all(|entry| entry.manager.as_deref() == Some(maker))
    }

    fn makers(&self) -> Vec<String> {
        let managers = self.0.metadata.managed_fields.iter().flatten();
        let names = managers.filter_map(|entry| entry.manager.clone());
        names.filter(|name| name.starts_with(MAKER)).collect()
    }

    fn story(&self) -> Story {
        let replaces = self.annotation(REPLACES).and_then(|text| text.parse().ok());
        Story { edition: self.edition(), replaces }
    }

    fn secret_type(&self) -> &str {
        self.0.type_.as_deref().unwrap_or("Opaque")
    }
}

/// What a Secret says of the versions that it held.
#[derive(Debug, Clone, Copy)]
struct Story {
    edition: Edition,
    replaces: Option<Span>,
}

/// What a write finds.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// As it was read; none where there is none yet.
    revision: Option<String>,
    uid: Option<String>,
    /// Of the policy's.
    held: Option<Story>,
    /// Kept where only the content is mended.
    story: Option<Story>,
    /// Who made it and died before giving it up.
    makers: Vec<String>,
    /// The versions that have Secrets of their own beside it.
    frozen: BTreeSet<Version>,
}

impl Over {
    /// Whether there is none yet.
    pub(super) const fn is_nothing(&self) -> bool {
        self.revision.is_none()
    }

    pub(super) fn makers(&self) -> Vec<String> {
        self.makers.clone()
    }

    pub(super) fn uid(&self) -> Option<String> {
        self.uid.clone()
    }
}

/// Begins the names of those who make Secrets.
const MAKER: &str = "rekeyd-maker-";

/// Names one who makes a Secret: another each time, since a manager may always write over what is its own.
pub(super) fn maker() -> String {
    format!("{MAKER}{}", uuid::Uuid::now_v7().simple())
}

/// What is there that a version may be written over; `None` when there is nothing to do.
///
/// # Errors
/// When it may not be written over.
pub(super) fn judge(
    live: Option<&Live>,
    request: PublishRequest<'_>,
    content: &Filled<'_>,
    spec: &KubernetesSpec,
    doing: impl Fn() -> String,
) -> Result<Option<Over>, Failure> {
    foreign(live, request.policy, spec, &doing)?;
    let Some(live) = live else { return Ok(Some(Over::default())) };
    let (revision, uid) = (live.0.metadata.resource_version.clone(), live.uid());
    if live.owner().is_none() {
        return Ok(Some(Over { revision, uid, ..Over::default() }));
    }
    let held = live.version();
    if held > request.version {
        let reason = format!("it holds {held} already");
        return Err(Failure::new(FailureClass::Conflict, doing(), reason)
            .with_remedy("see whether the store was restored; if the store is right, delete the Secret"));
    }
    let same_version = held == request.version;
    let frozen = live.frozen();
    if same_version && content.is_in(live) && (!content.content.freezes || frozen.contains(&request.version))
    {
        return Ok(None);
    }
    if live.0.immutable == Some(true) {
        return Err(Failure::new(FailureClass::Conflict, doing(), "it is immutable")
            .with_remedy("delete it and let rekeyd make it anew, without `immutable`"));
    }
    let held = live.story();
    let is_known = held.edition.since != Timestamp::MAX;
    let story = Some(held).filter(|_| same_version && is_known);
    Ok(Some(Over { revision, uid, held: Some(held), story, makers: live.makers(), frozen }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_while_a_write_is_under_way_finds_what_was_there_before() {
        let since = |arrived: &str| {
            let secret = json!({"metadata": {
                "annotations": {
                    VERSION: "2", SINCE: "2026-01-04T02:00:05Z", SENT: "2026-01-04T02:00:00Z",
                },
                "managedFields": [
                    {"manager": MANAGER, "operation": "Apply", "time": arrived},
                    {"manager": "somebody", "operation": "Update", "time": "2026-01-04T09:00:00Z"},
                ],
            }});
            Live(serde_json::from_value(secret).expect("a Secret")).edition().since.to_string()
        };
        assert_eq!(since("2026-01-04T02:00:01Z"), "2026-01-04T02:00:05Z");
        assert_eq!(since("2026-01-04T02:01:12Z"), "2026-01-04T02:01:17Z", "the write came late");
    }
}
