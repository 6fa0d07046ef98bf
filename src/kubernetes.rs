//! Clusters: how rekeyd speaks to an API server, and under which names it leaves its marks there.
//!
//! Shared by whatever reads or writes objects of a cluster. An API server's messages may quote an object,
//! so none of them is passed on but those that say which right is missing.

pub(crate) mod event;
pub mod gitops;
pub mod placeholders;
pub mod policies;
pub mod resource;
pub mod rights;
pub mod secrets;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Limited;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::client::{Client, ClientBuilder};
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use tower::util::MapResponseLayer;

use self::gitops::Tool;
use crate::clock::{Clock, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::rollout::declared::Repository;
use crate::rollout::governor::Governor;
use crate::settings::{ArgoCdSettings, ClusterSettings, GitopsSettings, LimitSettings};

/// Who owns the fields that rekeyd writes.
pub(crate) const MANAGER: &str = "rekeyd";

/// On what rekeyd writes: the policy that it is of.
pub(crate) const POLICY: &str = "rekeyd.dev/policy";

/// The version that it holds, a number.
pub(crate) const VERSION: &str = "rekeyd.dev/version";

/// A moment from which on whoever reads it finds that version.
pub(crate) const SINCE: &str = "rekeyd.dev/version-since";

/// When the last write of it was sent, by the clock of who sent it.
pub(crate) const SENT: &str = "rekeyd.dev/sent";

/// The version that it replaced, and while that could be read there.
pub(crate) const REPLACES: &str = "rekeyd.dev/replaces";

/// An earlier version that had the same values, and while that could be read there.
pub(crate) const RESTORES: &str = "rekeyd.dev/restores";

/// The versions that have Secrets of their own beside it, numbers.
pub(crate) const FROZEN: &str = "rekeyd.dev/frozen-versions";

/// On a pod that tries a version before others restart for it: the Secret.
pub(crate) const CANARY: &str = "rekeyd.dev/canary-of";

/// On such a pod: the generation of the workload whose template it was made from.
pub(crate) const MADE_FROM: &str = "rekeyd.dev/made-from-generation";

/// What rekeyd calls itself.
const AGENT: &str = concat!("rekeyd/", env!("CARGO_PKG_VERSION"));

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes: the pods of a large namespace.
const MOST_BYTES: usize = 128 << 20;

/// How long a watch may be silent: API servers end one after five minutes.
const SILENCE: Duration = Duration::from_secs(295);

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Requests that are answered soon or never.
    Ask,
    /// Watches: nothing may happen for minutes.
    Watch,
}

/// The clusters that the settings name. Each is connected to when it is first needed.
pub struct Clusters {
    settings: BTreeMap<DnsLabel, ClusterSettings>,
    open: Mutex<BTreeMap<(DnsLabel, Use), Client>>,
    governor: Arc<Governor>,
    argo_cd: Option<ArgoCdSettings>,
    gitops: BTreeMap<DnsLabel, GitopsSettings>,
    repositories: Mutex<BTreeMap<DnsLabel, Arc<Repository>>>,
    identity: String,
    clock: Arc<dyn Clock>,
}

impl Clusters {
    #[must_use]
    pub fn new(settings: &BTreeMap<DnsLabel, ClusterSettings>, limits: LimitSettings) -> Self {
        let governor = Arc::new(Governor::new(limits));
        Self {
            settings: settings.clone(),
            open: Mutex::default(),
            governor,
            argo_cd: None,
            gitops: BTreeMap::new(),
            repositories: Mutex::default(),
            identity: identity(),
            clock: Arc::new(SystemClock),
        }
    }

    /// A cluster that is spoken to through this client, whatever the settings say of it. For an API server that
    /// is no process: `settings` cannot describe one.
    #[must_use]
    pub fn with_client(self, name: &DnsLabel, client: &Client) -> Self {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.extend([Use::Ask, Use::Watch].map(|what| ((name.clone(), what), client.clone())));
        drop(open);
        self
    }

    /// Time as what is written to their objects, and waited for there, has it: the operating system's without this.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Argo CD may keep objects of theirs.
    #[must_use]
    pub fn with_argo_cd(self, argo_cd: Option<ArgoCdSettings>) -> Self {
        Self { argo_cd, ..self }
    }

    /// Workloads of theirs may be restarted by a commit to one of these.
    #[must_use]
    pub fn with_gitops(self, gitops: BTreeMap<DnsLabel, GitopsSettings>) -> Self {
        Self { gitops, ..self }
    }

    /// A GitOps repository. Nothing is sent yet.
    pub(crate) fn repository(&self, name: &DnsLabel) -> Result<Arc<Repository>, Failure> {
        let mut open = self.repositories.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(repository) = open.get(name) {
            return Ok(Arc::clone(repository));
        }
        let settings = self.gitops.get(name).ok_or_else(|| {
            let doing = format!("use the GitOps repository {name}");
            Failure::new(FailureClass::Invalid, doing, "the settings have none of that name")
                .with_remedy("add it under `gitops` in the settings")
        })?;
        let repository = Arc::new(Repository::new(name, settings)?);
        open.insert(name.clone(), Arc::clone(&repository));
        Ok(repository)
    }

    /// What Argo CD says of the Application that keeps an object; `None` where that is not known.
    ///
    /// # Errors
    /// When the API server does not show it.
    pub(crate) async fn application(&self, keeper: &Tool) -> Result<Option<serde_json::Value>, Failure> {
        let (Some(argo_cd), Tool::ArgoCd { namespace, application }) = (&self.argo_cd, keeper) else {
            return Ok(None);
        };
        let namespace = namespace.as_deref().unwrap_or(argo_cd.namespace.as_str());
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Application"));
        let client = self.client(&argo_cd.cluster).await?;
        let applications: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
        let found = applications.get_opt(application).await;
        let found =
            found.map_err(|error| failure(&error, &format!("read Application {namespace}/{application}")))?;
        Ok(found.map(|application| application.data))
    }

    /// This process, for whoever looks at a Lease or an Event: a name that no other has.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Lets workloads of all of them restart.
    pub(crate) fn governor(&self) -> Arc<Governor> {
        Arc::clone(&self.governor)
    }

    /// A client of a cluster. Nothing is sent yet.
    pub(crate) async fn client(&self, name: &DnsLabel) -> Result<Client, Failure> {
        self.client_for(name, Use::Ask).await
    }

    /// The same, for watches that last.
    pub(crate) async fn watcher(&self, name: &DnsLabel) -> Result<Client, Failure> {
        self.client_for(name, Use::Watch).await
    }

    async fn client_for(&self, name: &DnsLabel, what: Use) -> Result<Client, Failure> {
        let key = (name.clone(), what);
        let known = |open: &BTreeMap<(DnsLabel, Use), Client>| {
            let is_valid = |client: &&Client| {
                let now = self.clock.now().as_second();
                client.valid_until().as_ref().is_none_or(|until| until.as_second() > now)
            };
            open.get(&key).filter(is_valid).cloned()
        };
        if let Some(client) = known(&self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) {
            return Ok(client);
        }
        let client = connect(name, self.config(name, what).await?, what)?;
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.insert(key, client.clone());
        Ok(client)
    }

    /// A client of a cluster that sends a token instead of rekeyd's own credentials. Nothing is sent yet.
    pub(crate) async fn client_with_token(&self, name: &DnsLabel, token: &str) -> Result<Client, Failure> {
        let mut config = self.config(name, Use::Ask).await?;
        config.auth_info = AuthInfo::default();
        let (header, value) = ("authorization".parse().expect("a name"), format!("Bearer {token}").parse());
        let value = value.map_err(|_| invalid(name, &"the token is not text", "give it another"))?;
        config.headers.push((header, value));
        if let Some((_, value)) = config.headers.last_mut() {
            value.set_sensitive(true);
        }
        connect(name, config, Use::Ask)
    }

    /// How a cluster is reached.
    async fn config(&self, name: &DnsLabel, what: Use) -> Result<Config, Failure> {
        let invalid = |reason: &dyn std::fmt::Display, remedy: &'static str| invalid(name, reason, remedy);
        let mut config = match self.settings.get(name) {
            None => {
                let remedy = "add it under `clusters` in the settings";
                return Err(invalid(&"the settings have none of that name", remedy));
            }
            Some(ClusterSettings::InCluster(_)) => Config::incluster().map_err(|_| {
                let reason = "rekeyd does not run as a pod, or its service account's token is not mounted";
                invalid(&reason, "run it in the cluster, or name a kubeconfig")
            })?,
            Some(ClusterSettings::Kubeconfig(kubeconfig)) => {
                let path = kubeconfig.path.display();
                let remedy = "see whether `kubectl` can use it";
                // What the library says of it could quote a token.
                let file = Kubeconfig::read_from(&kubeconfig.path).map_err(|_| {
                    invalid(&format_args!("{path} cannot be read or is no kubeconfig"), remedy)
                })?;
                let options =
                    KubeConfigOptions { context: kubeconfig.context.clone(), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(file, &options).await.map_err(|_| {
                    invalid(&format_args!("{path} has no such context, or its account is incomplete"), remedy)
                })?
            }
        };
        // For whoever reads the API server's audit log.
        let (name, value) = ("user-agent".parse().expect("a name"), AGENT.parse().expect("a value"));
        config.headers.push((name, value));
        config.connect_timeout = Some(TIMEOUT / 2);
        config.read_timeout = Some(if what == Use::Watch { SILENCE } else { TIMEOUT });
        config.write_timeout = Some(TIMEOUT);
        config.reset_reader_on_write = true;
        // Whoever asks decides whether to ask again.
        config.default_retry = false;
        Ok(config)
    }
}

fn connect(name: &DnsLabel, config: Config, what: Use) -> Result<Client, Failure> {
    let builder = ClientBuilder::try_from(config).map_err(|_| {
        invalid(name, &"its address, authority or account cannot be used", "see whether `kubectl` can use it")
    })?;
    let builder = builder.with_layer(&MapResponseLayer::new(doubted));
    Ok(match what {
        Use::Ask => {
            let limited = |response: http::Response<_>| response.map(|body| Limited::new(body, MOST_BYTES));
            builder.with_layer(&MapResponseLayer::new(limited)).build()
        }
        Use::Watch => builder.build(),
    })
}

/// What refuses a request without the words of an API server is a gateway before it: that it finds nothing there, or
/// does not know who asks, says nothing of the cluster. The library would believe it.
fn doubted<B>(mut response: http::Response<B>) -> http::Response<B> {
    let kind = response.headers().get(http::header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // In plain text it says that it does not serve such a resource.
    let is_own = ["application/json", "text/plain"].iter().any(|own| kind.starts_with(own));
    if response.status().is_client_error() && !is_own {
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn invalid(name: &DnsLabel, reason: &dyn std::fmt::Display, remedy: &'static str) -> Failure {
    Failure::new(FailureClass::Invalid, format!("use cluster {name}"), reason).with_remedy(remedy)
}

fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(char::is_ascii_graphic).take(63).collect();
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("{host}_{}", &id[20..])
}

/// What a watch met.
fn trouble(error: &watcher::Error, doing: &str) -> Failure {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => failure(error, doing),
        watcher::Error::WatchError(status) => failure(&kube::Error::Api(status.clone()), doing),
        watcher::Error::NoResourceVersion => {
            Failure::new(FailureClass::Unavailable, doing, "the watch ended")
        }
    }
}

/// Whether the server does not know who asks.
fn is_stranger(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    status.code == 401
}

/// Deletes this very object: another one may have its name by now.
pub(crate) fn only(uid: Option<String>) -> DeleteParams {
    let preconditions = Preconditions { uid, ..Preconditions::default() };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// What an API server's answer, or none, means for what was asked.
pub(crate) fn failure(error: &kube::Error, doing: &str) -> Failure {
    let failure = |class, reason: &dyn std::fmt::Display| Failure::new(class, doing, reason);
    let status = match error {
        kube::Error::Api(status) => status,
        kube::Error::Auth(_) => {
            return failure(FailureClass::Denied, &"rekeyd's account at the cluster cannot be used")
                .with_remedy("look at the token or certificate in the kubeconfig");
        }
        kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => {
            return failure(FailureClass::Invalid, &"the request cannot be made");
        }
        kube::Error::SerdeError(_) => {
            return failure(FailureClass::Ambiguous, &"the API server's answer is not understood");
        }
        error if is_unsent(error) => {
            return failure(FailureClass::Unavailable, &"the API server cannot be reached")
                .with_remedy("check that it runs, and that rekeyd's network policy lets it through");
        }
        _ => return failure(FailureClass::Ambiguous, &"the connection to the API server broke"),
    };
    match status.code {
        401 => failure(FailureClass::Denied, &"the API server does not know rekeyd's account")
            .with_remedy("look at the token or certificate that it has"),
        403 => match right(&status.message) {
            Some(right) => failure(FailureClass::Denied, &format_args!("{right} is not allowed"))
                .with_remedy("allow it in a Role that rekeyd's account is bound to"),
            None => failure(FailureClass::Denied, &"an admission policy, a webhook or a quota refuses it")
                .with_remedy("try the same with `kubectl --dry-run=server`, which says what refuses it"),
        },
        404 => failure(FailureClass::Conflict, &"it does not exist").with_remedy("create it first"),
        409 => failure(FailureClass::Conflict, &"somebody else changed it meanwhile"),
        410 => failure(FailureClass::Unavailable, &"it was asked for a state that is too old"),
        413 => failure(FailureClass::Invalid, &"it would be too large"),
        // Which fields, and not what is in them.
        400 | 415 | 422 => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let fields: Vec<&str> = causes.filter_map(|cause| field(&cause.field)).collect();
            let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
            failure(FailureClass::Invalid, &format_args!("the API server finds it invalid{fields}"))
        }
        429 => failure(FailureClass::Unavailable, &"the API server is busy, or a budget forbids it now"),
        // Of these it is not known how far the request came.
        500 | 502 | 504 => {
            failure(FailureClass::Ambiguous, &format_args!("the API server failed ({})", status.code))
        }
        code => failure(FailureClass::Unavailable, &format_args!("the API server answered {code}")),
    }
}

/// The part of an object that an API server names, without its keys. A webhook may put anything there.
fn field(named: &str) -> Option<&str> {
    const PARTS: [&str; 5] = ["metadata", "data", "type", "immutable", "spec"];
    let end = named.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(named.len());
    named.get(..end).filter(|part| PARTS.contains(part))
}

/// Whether the request certainly did not go out.
fn is_unsent(error: &kube::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return client.is_connect();
        }
        source = error.source();
    }
    false
}

/// The right that is missing, of a message by the authoriser: `secrets "orders-db" is forbidden: User
/// "x" cannot patch resource "secrets" in API group "" in the namespace "orders"`.
fn right(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("is forbidden: User ")?;
    let (_, right) = rest.split_once(" cannot ")?;
    let shown: String = right.chars().take(160).filter(|c| !c.is_control()).collect();
    Some(format!("to {}", shown.split(": ").next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, message: &str) -> Failure {
        let status = kube::core::Status { code, message: message.into(), ..Default::default() };
        failure(&kube::Error::Api(Box::new(status)), "write Secret orders/orders-db")
    }

    #[test]
    fn a_missing_right_is_named() {
        let message = "secrets \"orders-db\" is forbidden: User \"system:serviceaccount:rekeyd:rekeyd\" cannot \
                       patch resource \"secrets\" in API group \"\" in the namespace \"orders\"";
        assert_eq!(
            answered(403, message).reason(),
            "to patch resource \"secrets\" in API group \"\" in the namespace \"orders\" is not allowed"
        );
    }

    #[test]
    fn what_a_webhook_or_a_validation_says_is_not_passed_on() {
        for code in [400, 403, 409, 422, 500] {
            let failure = answered(code, "admission webhook denied: password \"hunter2hunter2\" is weak");
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn of_an_invalid_field_no_more_than_its_part_is_named() {
        assert_eq!(field("metadata.annotations[x]"), Some("metadata"));
        assert_eq!(field("data[hunter2]"), Some("data"));
        for other in ["hunter2", "datahunter2", "hunter", ""] {
            assert_eq!(field(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_server_that_failed_in_the_middle_leaves_it_open_what_became_of_a_request() {
        let class = |code| answered(code, "").class();
        assert_eq!(class(500), FailureClass::Ambiguous);
        assert_eq!(class(502), FailureClass::Ambiguous);
        assert_eq!(class(504), FailureClass::Ambiguous);
        assert_eq!(class(409), FailureClass::Conflict);
        assert_eq!(class(422), FailureClass::Invalid);
        for code in [410, 429, 503] {
            assert_eq!(class(code), FailureClass::Unavailable, "{code}");
        }
    }
}
