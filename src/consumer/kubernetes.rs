//! A Secret of a cluster, and the workloads whose pods read it.
//!
//! The Secret is written by server-side apply: rekeyd owns the keys that the policy names and its own
//! annotations, and nothing else of the object. It says which policy and version it holds, so a daemon
//! that crashed knows what is there. Its readers are restarted through the version in their pod template,
//! so each restarts once for a version, whatever crashes; and they have moved when every pod is ready with it.

mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use self::secret::{Content, Live, Over};
use super::{Consumer, Observed, PublishRequest, Published, Reach};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{PolicyName, Version};
use crate::kubernetes::gitops::{self, Layout};
use crate::kubernetes::{Clusters, MANAGER, failure};
use crate::policy::spec::{KubernetesSpec, OnFailure};
use crate::rollout::governor::Turns;
use crate::rollout::{Readers, annotation};

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
}

impl KubernetesConsumer {
    /// # Errors
    /// When a template cannot be parsed.
    pub fn new(spec: &KubernetesSpec, clusters: Arc<Clusters>) -> Result<Self, Failure> {
        let namespace = spec.namespace.as_ref().ok_or_else(|| {
            Failure::new(FailureClass::Invalid, format!("use Secret {}", spec.secret), "it has no namespace")
        })?;
        let turns = Turns::new(
            clusters.governor(),
            spec.cluster.clone(),
            namespace.to_string(),
            annotation(&spec.secret),
        );
        Ok(Self {
            turns: Arc::new(turns),
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
        let mut makers = over.makers();
        if over.is_nothing() {
            let maker = secret::maker();
            let made = self.apply(&PatchParams::apply(&maker), &body).await?;
            let is_ours = made.is_of(&maker);
            makers.push(maker);
            if !is_ours {
                self.give_up(&makers).await?;
                return Err(Failure::new(
                    FailureClass::Conflict,
                    self.doing("write"),
                    "somebody made it meanwhile",
                ));
            }
            body["metadata"]["resourceVersion"] = made.revision().into();
            between!("kubernetes.secret.made");
        }
        self.apply(&PatchParams::apply(MANAGER).force(), &body).await?;
        between!("kubernetes.secret.written");
        self.give_up(&makers).await
    }

    /// Leaves what these managers own to whoever else owns it.
    async fn give_up(&self, makers: &[String]) -> Result<(), Failure> {
        let nothing = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.spec.secret, "namespace": self.namespace},
        });
        for maker in makers {
            self.apply(&PatchParams::apply(maker), &nothing).await?;
        }
        Ok(())
    }

    async fn readers(&self) -> Result<Readers, Failure> {
        Readers::find(&self.clusters, &self.namespace, &self.spec, Arc::clone(&self.turns)).await
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
        if let Some(live) = &live
            && let Layout::Unsafe { tool, why, remedy } = self.layout(live).await?
        {
            let reason = format!("{tool} keeps it: {why}");
            return Err(Failure::new(FailureClass::Invalid, self.doing("write"), reason).with_remedy(remedy));
        }
        let readers = self.readers().await?;
        readers.announce();
        self.turns.arrive(request.policy);
        let ailing = match self.spec.workloads.on_failure {
            OnFailure::RollBack => readers.ailing(),
            OnFailure::Hold => Vec::new(),
        };
        let Some(over) = judged else { return Ok(ailing) };
        // Asks for everything that a write needs, and nothing is written.
        let params = PatchParams { dry_run: true, ..PatchParams::apply(MANAGER).force() };
        self.apply(&params, &content.apply(request, &self.namespace, &over)).await?;
        Ok(ailing)
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let doing = || self.doing("write");
        let content = self.content.render(request, &doing())?;
        let mut last = None;
        for _ in 0..TRIES {
            let live = self.live("read").await?;
            let judged = secret::judge(live.as_ref(), request, &content, &self.spec, doing)?;
            let Some(over) = judged else { return Ok(Published::Already) };
            let body = content.apply(request, &self.namespace, &over);
            match self.write(&over, body).await {
                Ok(()) => return Ok(Published::Now),
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
        self.turns.arrive(request.policy);
        let own = self.own(request.policy, "read").await?;
        let Some((_, live)) = own.filter(|(version, _)| *version >= request.version) else {
            let reason = format!("it does not hold {} yet", request.version);
            return Err(Failure::new(FailureClass::Unavailable, self.doing("restart readers of"), reason));
        };
        let spec = &self.spec.workloads;
        self.readers().await?.restart(live.edition(), spec, request.is_urgent).await
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        self.turns.arrive(request.policy);
        let own = self.own(request.policy, "read").await?;
        let Some((_, live)) = own.filter(|(version, _)| *version >= request.version) else {
            return Ok(Reach::Moving(format!("{} does not hold {} any more", self.label(), request.version)));
        };
        let (edition, spec) = (live.edition(), &self.spec.workloads);
        let mut readers = self.readers().await?;
        match readers.follow(edition, spec, request.is_urgent).await? {
            Reach::Moving(how) if readers.is_late() => {
                let doing = format!("move readers of {} within {}", self.label(), spec.deadline);
                Err(Failure::new(FailureClass::Unavailable, doing, how)
                    .with_remedy("look at the pods; the outgoing value lives on until they have moved"))
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
            Ok(readers) => findings.extend(readers.findings(&label)),
        }
        findings
    }
}
