//! A Secret of a cluster, and the workloads whose pods read it.
//!
//! The Secret is written by server-side apply: rekeyd owns the keys that the policy names and its own
//! annotations, and nothing else of the object. It says which policy and version it holds, so a daemon
//! that crashed knows what is there. Its readers are restarted through the version in their pod template,
//! so each restarts once for a version, whatever crashes; and they have moved when every pod is ready with it.

mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use self::secret::{Content, Filled, Live, Over};
use super::{Consumer, Observed, PublishRequest, Published, Reach};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{PolicyName, Version};
use crate::kubernetes::gitops::{self, Layout};
use crate::kubernetes::{Clusters, MANAGER, failure, only};
use crate::policy::spec::{KubernetesSpec, OnFailure};
use crate::rollout::Readers;
use crate::rollout::edition::SKEW;
use crate::rollout::governor::Turns;
use crate::rollout::reference::{Names, frozen_name};

/// Times a write is begun anew because somebody else wrote in between.
const TRIES: usize = 4;

/// A Secret and its readers.
pub struct KubernetesConsumer {
    spec: KubernetesSpec,
    namespace: String,
    content: Content,
    clusters: Arc<Clusters>,
    /// What its readers have asked of the governor, while somebody is at a rotation.
    turns: Arc<Turns>,
    /// How a GitOps tool keeps it was looked at.
    is_judged: AtomicBool,
}

impl KubernetesConsumer {
    /// # Errors
    /// When a template cannot be parsed.
    pub fn new(spec: &KubernetesSpec, clusters: Arc<Clusters>) -> Result<Self, Failure> {
        let namespace = spec.namespace.as_ref().ok_or_else(|| {
            Failure::new(FailureClass::Invalid, format!("use Secret {}", spec.secret), "it has no namespace")
        })?;
        let turns =
            Turns::new(clusters.governor(), spec.cluster.clone(), namespace.to_string(), Names::of(spec));
        Ok(Self {
            turns: Arc::new(turns),
            is_judged: AtomicBool::new(false),
            namespace: namespace.to_string(),
            content: Content::new(spec)?,
            spec: spec.clone(),
            clusters,
        })
    }

    fn doing(&self, verb: &str) -> String {
        format!("{verb} {}", self.label())
    }

    async fn secrets(&self) -> Result<Api<k8s_openapi::api::core::v1::Secret>, Failure> {
        let client = self.clusters.client(&self.spec.cluster).await?;
        Ok(Api::namespaced(client, &self.namespace))
    }

    async fn live(&self, verb: &str) -> Result<Option<Live>, Failure> {
        let secret = self
            .secrets()
            .await?
            .get_opt(self.spec.secret.as_str())
            .await
            .map_err(|error| failure(&error, &self.doing(verb)))?;
        Ok(secret.map(Live::from))
    }

    /// What a preflight says of a GitOps tool that keeps the Secret.
    async fn kept(&self, label: &str, live: &Live) -> Option<Finding> {
        let subject = format!("layout of {label}");
        match self.layout(live).await {
            Ok(Layout::Free) => None,
            Ok(Layout::Safe { tool, why }) => Some(Finding::pass(subject, format!("{tool} keeps it: {why}"))),
            Ok(Layout::Unsafe { tool, why, remedy }) => {
                Some(Finding::fail(subject, format!("{tool} keeps it: {why}"), remedy))
            }
            Err(failure) => Some(Finding::from_failure(subject, &failure)),
        }
    }

    async fn apply(&self, params: &PatchParams, body: &Value) -> Result<Live, Failure> {
        let secrets = self.secrets().await?;
        let written = secrets.patch(self.spec.secret.as_str(), params, &Patch::Apply(body)).await;
        written.map(Live::from).map_err(|error| failure(&error, &self.doing("write")))
    }

    /// Writes over what is there, or makes it.
    ///
    /// To make one is no compare-and-set: the API server takes an apply for whatever is there by then, and makes
    /// it if nothing is. So it is asked for in another manager's name and not by force: whoever made one
    /// meanwhile owns it, and this one is refused. Dying before that manager has given its part up: it does at
    /// the next write.
    async fn write(&self, over: &Over, mut body: Value) -> Result<(), Failure> {
        let (mut makers, mut uid) = (over.makers(), over.uid());
        if over.is_nothing() {
            let maker = secret::maker();
            let made = self.apply(&PatchParams::apply(&maker), &body).await?;
            let is_ours = made.is_of(&maker);
            makers.push(maker);
            uid = made.uid();
            if !is_ours {
                self.give_up(&makers, uid).await?;
                return Err(Failure::new(
                    FailureClass::Conflict,
                    self.doing("write"),
                    "somebody made it meanwhile",
                ));
            }
            body["metadata"]["resourceVersion"] = made.revision().into();
            body["metadata"]["uid"] = uid.as_deref().into();
            between!("kubernetes.secret.made");
        }
        self.apply(&PatchParams::apply(MANAGER).force(), &body).await?;
        between!("kubernetes.secret.written");
        self.give_up(&makers, uid).await
    }

    /// Makes the Secret of this version, where each has one; whether it was not there. The other one names it
    /// already, so that none is forgotten. Dying before it is there: whoever looks next makes it.
    async fn freeze(&self, request: PublishRequest<'_>, content: &Filled<'_>) -> Result<bool, Failure> {
        if !self.spec.immutable {
            return Ok(false);
        }
        let (secrets, name) = (self.secrets().await?, frozen_name(&self.spec.secret, request.version));
        let doing = || format!("write Secret {}:{}/{name}", self.spec.cluster, self.namespace);
        let found = secrets.get_opt(&name).await.map_err(|error| failure(&error, &doing()))?;
        match found.map(Live::from) {
            Some(live) if content.is_whole(&live, request.policy) => return Ok(false),
            Some(_) => {
                return Err(Failure::new(
                    FailureClass::Conflict,
                    doing(),
                    "it is there and holds something else",
                )
                .with_remedy("see whose it is; if nobody's, delete it"));
            }
            None => {}
        }
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let object = serde_json::from_value(content.frozen(request, &self.namespace))
            .map_err(|_| Failure::new(FailureClass::Invalid, doing(), "it has an unknown form"))?;
        match secrets.create(&params, &object).await {
            Ok(_) => {
                between!("kubernetes.secret.frozen");
                Ok(true)
            }
            // Somebody made it meanwhile: looked at next time.
            Err(error) => {
                let failure = failure(&error, &doing());
                Err(match failure.class() {
                    FailureClass::Conflict => failure.reclassified(FailureClass::Unavailable),
                    _ => failure,
                })
            }
        }
    }

    /// Deletes the Secrets of versions that nobody names any more. Dying in between: the other one still names
    /// those that are gone.
    async fn sweep(
        &self,
        request: PublishRequest<'_>,
        live: &Live,
        in_use: &BTreeSet<Version>,
    ) -> Result<(), Failure> {
        let needed = |version: &Version| *version >= live.version() || in_use.contains(version);
        let (kept, stale): (BTreeSet<Version>, BTreeSet<Version>) =
            live.frozen().into_iter().partition(needed);
        // A later one is another's to write: this one would write what was there before.
        if stale.is_empty() || live.version() != request.version {
            return Ok(());
        }
        let secrets = self.secrets().await?;
        for version in stale {
            let name = frozen_name(&self.spec.secret, version);
            let doing = || format!("delete Secret {}:{}/{name}", self.spec.cluster, self.namespace);
            let found =
                secrets.get_opt(&name).await.map_err(|error| failure(&error, &doing()))?.map(Live::from);
            // Somebody else's by now is left alone.
            let is_ours = |live: &Live| live.owner().is_some_and(|owner| owner == request.policy.to_string());
            let Some(ours) = found.filter(is_ours) else { continue };
            match secrets.delete(&name, &only(ours.uid())).await {
                Ok(_) => {
                    between!("kubernetes.secret.deleted");
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(failure(&error, &doing())),
            }
        }
        let content = self.content.render(request, &self.doing("write"))?;
        let body = content.apply(request, &self.namespace, &live.over(kept), self.clusters.clock().now());
        self.apply(&PatchParams::apply(MANAGER).force(), &body).await.map(drop)
    }

    /// Leaves what these managers own to whoever else owns it. Of this very Secret: where it is gone by the time that
    /// this arrives, it would make an empty one, which is nobody's.
    async fn give_up(&self, makers: &[String], uid: Option<String>) -> Result<(), Failure> {
        let nothing = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.spec.secret, "namespace": self.namespace, "uid": uid},
        });
        for maker in makers {
            match self.apply(&PatchParams::apply(maker), &nothing).await {
                Ok(_) => {}
                // It is gone, or another one is there instead: and with it what they owned.
                Err(failure) if matches!(failure.class(), FailureClass::Conflict | FailureClass::Invalid) => {
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn readers(&self) -> Result<Readers, Failure> {
        Readers::find(&self.clusters, &self.namespace, &self.spec, Arc::clone(&self.turns)).await
    }

    /// The readers, with the restarts announced that they are to have.
    async fn announced(&self, policy: &PolicyName) -> Result<Readers, Failure> {
        let mut readers = self.readers().await?;
        readers.announce(policy);
        self.turns.arrive(policy);
        Ok(readers)
    }

    /// Readers whose restart a sync takes back, which is one more.
    async fn replaced(&self, label: &str, readers: &Readers) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (workload, tool, says_so) in readers.kept() {
            // One that cannot be read is said of the Secret, where it decides.
            let application = self.clusters.application(tool).await.ok().flatten().unwrap_or_default();
            if says_so || gitops::replaces(&Value::Null, &application) {
                findings.push(Finding::warn(
                    format!("readers of {label}"),
                    format!("{tool} replaces {workload} as a whole at each sync: one more restart each time"),
                    "take `Replace=true` out of the Application's syncOptions, and out of the annotation \
                     `argocd.argoproj.io/sync-options` of the workload; or restart by Git: `workloads.restart.gitops`",
                ));
            }
        }
        findings
    }

    /// How a GitOps tool keeps the Secret, if one does.
    async fn layout(&self, live: &Live) -> Result<Layout, Failure> {
        let metadata = live.metadata();
        let application = match gitops::keeper(&metadata) {
            Some(keeper) => self.clusters.application(&keeper).await?,
            None => None,
        };
        Ok(gitops::layout(&metadata, application.as_ref()))
    }

    /// Refuses where a GitOps tool would lose a new value, or copy it.
    async fn judge_layout(&self, live: Option<&Live>) -> Result<(), Failure> {
        if let Some(live) = live
            && let Layout::Unsafe { tool, why, remedy } = self.layout(live).await?
        {
            let reason = format!("{tool} keeps it: {why}");
            return Err(Failure::new(FailureClass::Invalid, self.doing("write"), reason).with_remedy(remedy));
        }
        self.is_judged.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What the Secret holds of the policy's.
    async fn own(&self, policy: &PolicyName, verb: &str) -> Result<Option<(Version, Live)>, Failure> {
        let Some(live) = self.live(verb).await? else { return Ok(None) };
        match live.owner() {
            Some(owner) if owner == *policy.to_string() => Ok(Some((live.version(), live))),
            Some(owner) => Err(secret::taken(&owner, self.doing(verb))),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Consumer for KubernetesConsumer {
    fn label(&self) -> String {
        format!("Secret {}:{}/{}", self.spec.cluster, self.namespace, self.spec.secret)
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        let content = self.content.render(request, &self.doing("write"))?;
        let live = self.live("read").await?;
        let judged = secret::judge(live.as_ref(), request, &content, &self.spec, || self.doing("write"))?;
        self.judge_layout(live.as_ref()).await?;
        let readers = self.announced(request.policy).await?;
        readers.review(&self.spec.workloads)?;
        let held = live.as_ref().map_or(Version::NONE, Live::version);
        if readers.review_numbers(request.version, held).is_err() {
            // Another process may have brought it to them meanwhile.
            let now = self.live("read").await?.as_ref().map_or(Version::NONE, Live::version);
            readers.review_numbers(request.version, now)?;
        }
        readers.rehearse_canary(&self.spec.workloads).await?;
        readers.rehearse_commit().await?;
        let ailing = match self.spec.workloads.on_failure {
            OnFailure::RollBack => readers.ailing(),
            OnFailure::Hold => Vec::new(),
        };
        let Some(over) = judged else { return Ok(ailing) };
        // Asks for everything that a write needs, and nothing is written.
        let params = PatchParams { dry_run: true, ..PatchParams::apply(MANAGER).force() };
        self.apply(&params, &content.apply(request, &self.namespace, &over, self.clusters.clock().now()))
            .await?;
        Ok(ailing)
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let doing = || self.doing("write");
        let content = self.content.render(request, &doing())?;
        let mut last = None;
        for _ in 0..TRIES {
            let live = self.live("read").await?;
            let judged = secret::judge(live.as_ref(), request, &content, &self.spec, doing)?;
            let Some(over) = judged else {
                // When it was written; readers find it a little later for sure.
                let since = live.and_then(|live| live.edition().since.checked_sub(SKEW).ok());
                let is_news = self.freeze(request, &content).await?;
                return Ok(if is_news { Published::Now } else { Published::Already(since) });
            };
            // Where nobody could look before this was begun. What is urgent, or brought back, is out already.
            if !self.is_judged.load(Ordering::Relaxed)
                && !request.is_urgent
                && request.restores.is_none()
                && live
                    .as_ref()
                    .is_some_and(|live| Version::NONE < live.version() && live.version() < request.version)
            {
                self.judge_layout(live.as_ref()).await?;
            }
            let body = content.apply(request, &self.namespace, &over, self.clusters.clock().now());
            match self.write(&over, body).await {
                Ok(()) => {
                    self.freeze(request, &content).await?;
                    return Ok(Published::Now);
                }
                Err(failure) if failure.class() == FailureClass::Conflict => {
                    last = Some(failure.reclassified(FailureClass::Unavailable));
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(last.expect("there is at least one try"))
    }

    /// Dying in between: whoever has the version in its template already is left alone.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let own = self.own(request.policy, "read").await?;
        let Some((_, live)) = own.filter(|(version, _)| *version >= request.version) else {
            let reason = format!("it does not hold {} yet", request.version);
            return Err(Failure::new(FailureClass::Unavailable, self.doing("restart readers of"), reason));
        };
        let spec = &self.spec.workloads;
        self.announced(request.policy).await?.restart(live.edition(), spec, request.is_urgent).await.map(drop)
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        let own = self.own(request.policy, "read").await?;
        let Some((_, live)) = own.filter(|(version, _)| *version >= request.version) else {
            return Ok(Reach::Moving(format!("{} does not hold {} any more", self.label(), request.version)));
        };
        let (edition, spec) = (live.edition(), &self.spec.workloads);
        let mut readers = self.announced(request.policy).await?;
        match readers.follow(edition, spec, request.is_urgent).await? {
            Reach::Moving(how) if readers.is_late() => {
                let doing = format!("move readers of {} within {}", self.label(), spec.deadline);
                Err(Failure::new(FailureClass::Unavailable, doing, how)
                    .with_remedy("look at the pods; the outgoing value lives on until they have moved"))
            }
            Reach::Moved => {
                // That it could not be done keeps nobody from being done.
                if let Err(failure) = self.sweep(request, &live, &readers.frozen_in_use()).await {
                    tracing::warn!(%failure, "a Secret that nobody needs is still there");
                }
                Ok(Reach::Moved)
            }
            reach => Ok(reach),
        }
    }

    fn knows_addresses(&self) -> bool {
        true
    }

    async fn at_addresses(&self, addresses: &BTreeSet<String>) -> BTreeMap<String, String> {
        match self.readers().await {
            Ok(readers) => readers.at(addresses),
            Err(failure) => {
                tracing::debug!(%failure, "sessions are not matched to pods");
                BTreeMap::new()
            }
        }
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        let Some((published, live)) = self.own(policy, "read").await? else { return Ok(Observed::default()) };
        // That the readers cannot be looked at changes nothing about what they may have read.
        let told = self.readers().await.is_ok_and(|readers| readers.told(live.edition()));
        Ok(Observed { published, reloaded: if told { published } else { Version::NONE } })
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        let label = self.label();
        let mut findings = Vec::new();
        match self.live("read").await {
            Err(failure) => return vec![Finding::from_failure(label, &failure)],
            Ok(live) => match secret::foreign(live.as_ref(), policy, &self.spec, || self.doing("write")) {
                Err(failure) => findings.push(Finding::from_failure(&label, &failure)),
                Ok(said) => {
                    findings.push(Finding::pass(&label, said));
                    if let Some(live) = &live {
                        findings.extend(self.kept(&label, live).await);
                    }
                }
            },
        }
        match self.readers().await {
            Err(failure) => findings.push(Finding::from_failure(format!("readers of {label}"), &failure)),
            Ok(readers) => {
                findings.extend(readers.findings(&label, &self.spec.workloads));
                findings.extend(self.replaced(&label, &readers).await);
                findings.extend(readers.commit_finding(&label).await);
            }
        }
        findings
    }
}
