//! Notices when somebody changes a Secret, by a watch on that one alone. Of the object only its metadata is
//! read: no value comes here.

use std::sync::Arc;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};

use super::policies::Said;
use super::{Clusters, failure};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::{DnsLabel, ObjectName};

/// Where a Secret is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretPlace {
    pub cluster: DnsLabel,
    pub namespace: DnsLabel,
    pub name: ObjectName,
}

impl SecretPlace {
    /// Calls `changed` whenever the Secret is another one than before, and when it is first seen or seen
    /// again after a time in which nothing was.
    pub async fn watch(self, clusters: Arc<Clusters>, changed: impl Fn()) {
        let client = loop {
            match clusters.watcher(&self.cluster).await {
                Ok(client) => break client,
                Err(failure) => {
                    tracing::warn!(%failure, "cannot watch a Secret");
                    SystemClock.sleep(std::time::Duration::from_secs(60)).await;
                }
            }
        };
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client, self.namespace.as_str());
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(secrets, config).default_backoff().boxed();
        let mut is_failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                    is_failing = false;
                    changed();
                }
                Ok(Event::Init | Event::InitApply(_)) => {}
                Err(error) => {
                    if let watcher::Error::InitialListFailed(error)
                    | watcher::Error::WatchStartFailed(error)
                    | watcher::Error::WatchFailed(error) = &error
                        && !is_failing
                    {
                        let doing = format!("watch Secret {}/{}", self.namespace, self.name);
                        let failure = failure(error, &doing);
                        tracing::warn!(%failure, "who changes it meanwhile is noticed later");
                        is_failing = true;
                    }
                }
            }
        }
    }

    /// Says in an Event that it was mended.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn tell(
        &self,
        clusters: &Clusters,
        note: &str,
        instance: &str,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: Some(self.name.to_string()),
            namespace: Some(self.namespace.to_string()),
            ..ObjectReference::default()
        };
        let client = clusters.client(&self.cluster).await?;
        Said { regarding, is_warning: true, reason: "Mended", action: "Mend", note, instance }
            .tell(client, now)
            .await
    }
}
