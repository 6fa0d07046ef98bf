//! Notices when somebody changes a Secret, by a watch on that one alone. Of the object only its metadata is
//! read: no value comes here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};

use super::event::Said;
use super::{Clusters, is_stranger, trouble};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::{DnsLabel, ObjectName};

/// Until a client is asked for again.
const PAUSE: Duration = Duration::from_secs(30);

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
        let mut is_failing = false;
        loop {
            match clusters.watcher(&self.cluster).await {
                Ok(client) => self.watch_with(client, &changed, &mut is_failing).await,
                Err(failure) => {
                    tracing::warn!(%failure, "cannot watch a Secret");
                    SystemClock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Until the server does not know who asks any more: a client's credentials may have come to their end.
    async fn watch_with(&self, client: kube::Client, changed: &impl Fn(), is_failing: &mut bool) {
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client, self.namespace.as_str());
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(secrets, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                    *is_failing = false;
                    changed();
                }
                Ok(Event::Init | Event::InitApply(_)) => {}
                Err(error) => {
                    let doing = format!("watch Secret {}/{}", self.namespace, self.name);
                    let failure = trouble(&error, &doing);
                    if !std::mem::replace(is_failing, true) {
                        tracing::warn!(%failure, "who changes it meanwhile is noticed later");
                    }
                    if is_stranger(&error) {
                        return SystemClock.sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Says in an Event that it was mended.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn tell(&self, clusters: &Clusters, note: &str, now: Timestamp) -> Result<(), Failure> {
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: Some(self.name.to_string()),
            namespace: Some(self.namespace.to_string()),
            ..ObjectReference::default()
        };
        let client = clusters.client(&self.cluster).await?;
        let instance = clusters.identity();
        Said { regarding, is_warning: true, reason: "Mended", action: "Mend", note, instance }
            .tell(client, now)
            .await
    }
}
