//! Events: what `kubectl describe` shows of an object's story.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as EventObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;

use super::failure;
use crate::failure::Failure;

/// An Event about an object.
pub(crate) struct Said<'a> {
    pub(crate) regarding: ObjectReference,
    pub(crate) is_warning: bool,
    /// In one word.
    pub(crate) reason: &'a str,
    pub(crate) action: &'a str,
    /// Without a value.
    pub(crate) note: &'a str,
    /// The process that says so.
    pub(crate) instance: &'a str,
}

/// The longest note that an Event takes.
const LONGEST_NOTE: usize = 1_000;

impl Said<'_> {
    pub(crate) async fn tell(self, client: kube::Client, now: Timestamp) -> Result<(), Failure> {
        let moment = k8s_openapi::jiff::Timestamp::from_microsecond(now.as_microsecond());
        let moment = moment.unwrap_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let name = self.regarding.name.clone().unwrap_or_default();
        let namespace = self.regarding.namespace.clone().unwrap_or_default();
        let event = EventObject {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", name, now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(moment)),
            action: Some(self.action.into()),
            reason: Some(self.reason.into()),
            note: Some(self.note.chars().take(LONGEST_NOTE).collect()),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.into()),
            reporting_controller: Some("rekeyd.dev/rekeyd".into()),
            reporting_instance: Some(self.instance.into()),
            regarding: Some(self.regarding),
            ..EventObject::default()
        };
        let doing = format!("tell of {name} in namespace {namespace}");
        let events: Api<EventObject> = Api::namespaced(client, &namespace);
        let told = events.create(&PostParams::default(), &event).await;
        told.map(drop).map_err(|error| failure(&error, &doing))
    }
}
