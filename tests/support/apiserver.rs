//! A Kubernetes API server in memory, behind a client of the real library: objects at revisions, server-side
//! apply, watches, and a cluster behind it that makes pods. What happens to each request is the road's to say.

mod apply;
pub(crate) mod fate;
mod kubelets;
mod objects;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use kube::Client;
use rekeyd::clock::Clock;
use rekeyd::secret::Credential;
use serde_json::{Value, json};
use tower::BoxError;
use url::form_urlencoded;

use self::fate::{Fate, Happens};
use self::kubelets::Kubelets;
pub(crate) use self::kubelets::{Running, Works};
use self::objects::{Key, Moment, Objects, Refusal};

/// So long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The resources that it knows.
const RESOURCES: [&str; 9] = [
    "secrets",
    "pods",
    "events",
    "deployments",
    "statefulsets",
    "daemonsets",
    "cronjobs",
    "poddisruptionbudgets",
    "resourcequotas",
];

/// A status code, and an object.
pub(crate) type Answer = (u16, Arc<Value>);

/// The way between clients and the server.
pub(crate) trait Road: Send + Sync + 'static {
    /// What happens to the next request.
    fn fate(&self, verb: &'static str) -> Fate;

    /// Has a request arrive after a time, whatever becomes of who sent it.
    fn carry(
        &self,
        verb: &'static str,
        after: Duration,
        effect: BoxFuture<'static, Answer>,
    ) -> BoxFuture<'static, Answer>;
}

/// On which everything arrives at once.
pub(crate) struct Smooth;

impl Road for Smooth {
    fn fate(&self, _: &'static str) -> Fate {
        Fate::default()
    }

    fn carry(
        &self,
        _: &'static str,
        _: Duration,
        effect: BoxFuture<'static, Answer>,
    ) -> BoxFuture<'static, Answer> {
        effect
    }
}

pub(crate) struct ApiServer {
    clock: Arc<dyn Clock>,
    road: Arc<dyn Road>,
    state: Mutex<State>,
    /// Wakes whoever watches.
    revision: tokio::sync::watch::Sender<u64>,
}

struct State {
    objects: Objects,
    kubelets: Kubelets,
    rng: fastrand::Rng,
}

/// A request, taken apart.
#[derive(Debug)]
struct Asked {
    verb: &'static str,
    key: Key,
    query: BTreeMap<String, String>,
    body: Value,
}

impl ApiServer {
    /// `works`: whether pods can use a credential.
    pub(crate) fn new(seed: u64, clock: Arc<dyn Clock>, road: Arc<dyn Road>, works: Works) -> Arc<Self> {
        let state = State {
            objects: Objects::default(),
            kubelets: Kubelets::new(seed, works),
            rng: fastrand::Rng::with_seed(seed),
        };
        let (revision, _) = tokio::sync::watch::channel(0);
        Arc::new(Self { clock, road, state: Mutex::new(state), revision })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn moment(&self) -> Moment {
        Moment::new(self.clock.now(), self.clock.monotonic())
    }

    /// Changes what there is, and wakes whoever watches.
    fn change<T>(&self, change: impl FnOnce(&mut State, &Moment) -> T) -> T {
        let now = self.moment();
        let mut state = self.state();
        let changed = change(&mut state, &now);
        self.revision.send_replace(state.objects.revision);
        changed
    }

    /// A client. It belongs to the runtime that it is made in.
    pub(crate) fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request| Arc::clone(&server).answer(request));
        Client::new(service, "default")
    }

    /// The cluster's controllers and kubelets, for as long as this is not dropped.
    pub(crate) async fn live(self: Arc<Self>) {
        loop {
            let pause = self.state().rng.u64(60..350);
            self.clock.sleep(Duration::from_millis(pause)).await;
            self.change(|state, now| state.kubelets.step(&mut state.objects, now));
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<kube::client::Body>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
        let (parts, body) = request.into_parts();
        let asked = match Asked::read(&parts, &body.collect().await?.to_bytes()) {
            Ok(asked) => asked,
            Err(refusal) => return respond((refusal.code, Arc::new(refusal.status()))),
        };
        let verb = asked.verb;
        let Fate { there, back, happens } = self.road.fate(verb);
        let lost = |why: std::io::ErrorKind| Err(BoxError::from(std::io::Error::from(why)));
        let effect = |behind: Option<Duration>, is_overtaken: bool| {
            let server = Arc::clone(&self);
            self.road.carry(verb, there, Box::pin(async move { server.serve(&asked, behind, is_overtaken) }))
        };
        match happens {
            Happens::Served if verb == "api.watch" => self.watch(effect, None).await,
            Happens::Leaks(..) | Happens::Cut(_) if verb == "api.watch" => {
                self.watch(effect, Some(happens)).await
            }
            Happens::Served | Happens::Leaks(..) | Happens::Cut(_) => {
                let answer = effect(None, false).await;
                self.clock.sleep(back).await;
                respond(answer)
            }
            Happens::Overtaken => respond(effect(None, true).await),
            Happens::Stale(behind) => respond(effect(Some(behind), false).await),
            Happens::TurnedAway(code) => {
                self.clock.sleep(there).await;
                respond((code, Arc::new(refused(code))))
            }
            Happens::FailsAfter => {
                effect(None, false).await;
                respond((500, Arc::new(refused(500))))
            }
            Happens::Lost => {
                self.clock.sleep(PATIENCE).await;
                lost(std::io::ErrorKind::TimedOut)
            }
            Happens::Breaks => {
                self.clock.sleep(there).await;
                lost(std::io::ErrorKind::ConnectionReset)
            }
            Happens::BreaksAfter => {
                effect(None, false).await;
                lost(std::io::ErrorKind::ConnectionReset)
            }
            Happens::Late => {
                tokio::spawn(effect(None, false));
                self.clock.sleep(PATIENCE).await;
                lost(std::io::ErrorKind::TimedOut)
            }
        }
    }

    /// Does what is asked for, as a whole.
    fn serve(&self, asked: &Asked, behind: Option<Duration>, is_overtaken: bool) -> Answer {
        self.change(|state, now| {
            if is_overtaken {
                state.touch(&asked.key, now);
            }
            let served = state.serve(asked, behind.map(|behind| now.passed.saturating_sub(behind)), now);
            served.unwrap_or_else(|refusal| (refusal.code, Arc::new(refusal.status())))
        })
    }
}

impl State {
    fn serve(&mut self, asked: &Asked, behind: Option<Duration>, now: &Moment) -> Result<Answer, Refusal> {
        let Asked { verb, key, query, body } = asked;
        let dry = query.get("dryRun").is_some_and(|dry| dry == "All");
        let manager = query.get("fieldManager").map_or("rekeyd", String::as_str);
        let objects = &mut self.objects;
        match *verb {
            "api.get" => Ok((200, objects.earlier(key, behind)?)),
            "api.list" => {
                let (revision, items) = objects.list(&key.resource, &key.namespace, behind);
                let items: Vec<&Value> = items.iter().map(|item| &**item).collect();
                let list = json!({
                    "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision.to_string()},
                    "items": items,
                });
                Ok((200, Arc::new(list)))
            }
            // What it finds is told as it comes.
            "api.watch" => Ok((
                200,
                Arc::new(json!({"namespace": key.namespace, "resource": key.resource, "query": query})),
            )),
            "api.create" => Ok((201, objects.create(key, manager, body, now, dry)?)),
            "api.apply" => {
                let force = query.get("force").is_some_and(|force| force == "true");
                Ok((200, objects.apply(key, (manager, force), body, now, dry)?))
            }
            "api.merge" => Ok((200, objects.merge(key, manager, body, now, dry)?)),
            _ => {
                let uid = body.pointer("/preconditions/uid").and_then(Value::as_str);
                let grace =
                    objects.peek(key).and_then(|pod| pod["spec"]["terminationGracePeriodSeconds"].as_i64());
                let until = (key.resource == "pods").then(|| now.later(grace.unwrap_or(30)));
                Ok((200, objects.delete(key, uid, until, now, dry)?))
            }
        }
    }

    /// Somebody else changes an object, in something that is nobody's business.
    fn touch(&mut self, key: &Key, now: &Moment) {
        let note =
            json!({"metadata": {"annotations": {"example.com/touched": self.objects.revision.to_string()}}});
        drop(self.objects.merge(key, "somebody", &note, now, false));
    }
}

impl Asked {
    /// `/api/v1/namespaces/orders/secrets/orders-db`, or below `/apis/<group>/<version>`.
    fn read(parts: &hyper::http::request::Parts, body: &[u8]) -> Result<Self, Refusal> {
        let unknown = || Refusal::new(404, "NotFound", "the server could not find the requested resource");
        let path: Vec<&str> =
            parts.uri.path().split('/').skip_while(|part| *part != "namespaces").skip(1).collect();
        let (namespace, resource, name) = match path[..] {
            [namespace, resource] => (namespace, resource, None),
            [namespace, resource, name] => (namespace, resource, Some(name)),
            _ => return Err(unknown()),
        };
        if !RESOURCES.contains(&resource) {
            return Err(unknown());
        }
        let query = parts.uri.query().unwrap_or_default();
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let body: Value = match body {
            [] => Value::Null,
            body => {
                serde_json::from_slice(body).map_err(|_| Refusal::new(400, "BadRequest", "it is no JSON"))?
            }
        };
        let applies =
            parts.headers.get("content-type").is_some_and(|kind| kind == "application/apply-patch+yaml");
        let verb = match (&parts.method, name) {
            (&Method::GET, None) if query.contains_key("watch") => "api.watch",
            (&Method::GET, None) => "api.list",
            (&Method::GET, Some(_)) => "api.get",
            (&Method::POST, _) => "api.create",
            (&Method::PATCH, _) if applies => "api.apply",
            (&Method::PATCH, _) => "api.merge",
            (&Method::DELETE, Some(_)) => "api.delete",
            _ => return Err(Refusal::new(405, "MethodNotAllowed", "it is not allowed")),
        };
        let name = name.or(body["metadata"]["name"].as_str()).unwrap_or_default();
        Ok(Self { verb, key: Key::new(resource, namespace, name), query, body })
    }
}

fn refused(code: u16) -> Value {
    let reason = if code == 429 { "TooManyRequests" } else { "InternalError" };
    Refusal::new(code, reason, "a fault of the simulation's").status()
}

fn respond((code, object): Answer) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
    let mut response = Response::builder().status(code).header("content-type", "application/json");
    if code == 429 {
        response = response.header("retry-after", "1");
    }
    let body = Full::new(Bytes::from(object.to_string())).map_err(|never| match never {});
    Ok(response.body(body.boxed_unsync())?)
}

/// What people and tests do and see.
impl ApiServer {
    /// Somebody makes a Deployment whose pods have a Secret in their environment.
    pub(crate) fn deploy(&self, namespace: &str, name: &str, replicas: u64, secret: &str) {
        let labels = json!({"app": name});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{"name": "app", "image": "app", "envFrom": [{"secretRef": {"name": secret}}]}],
                    },
                },
            },
        });
        let key = Key::new("deployments", namespace, name);
        let made = self
            .change(|state, now| state.objects.create(&key, "kubectl", &deployment, now, false).map(drop));
        made.expect("there is none of that name");
    }

    /// Has everything that moves by itself come to rest, at once.
    pub(crate) fn hurry(&self) {
        for second in 0..120 {
            self.change(|state, now| {
                state.kubelets.step(&mut state.objects, &now.after(Duration::from_secs(second)));
            });
        }
    }

    /// Somebody changes an object by a merge patch.
    pub(crate) fn patch(&self, resource: &str, namespace: &str, name: &str, patch: &Value) -> bool {
        let key = Key::new(resource, namespace, name);
        self.change(|state, now| state.objects.merge(&key, "kubectl-edit", patch, now, false).is_ok())
    }

    /// Somebody deletes a Secret.
    pub(crate) fn delete_secret(&self, namespace: &str, secret: &str) {
        self.change(|state, now| state.objects.remove(&Key::new("secrets", namespace, secret), now));
    }

    /// An object as it is.
    pub(crate) fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.state().objects.get(&Key::new(resource, namespace, name)).ok()
    }

    /// What a Secret says.
    pub(crate) fn credential(&self, namespace: &str, secret: &str) -> Option<Credential> {
        kubelets::credential(&*self.object("secrets", namespace, secret)?)
    }

    /// The pods that read a Secret.
    pub(crate) fn running(&self, namespace: &str, secret: &str) -> Vec<Running> {
        let state = self.state();
        state.kubelets.running(&state.objects, namespace, secret)
    }

    /// Somebody deletes one of the pods of a namespace.
    pub(crate) fn evict_one(&self, namespace: &str) {
        self.change(|state, now| {
            let pods: Vec<Key> = state.objects.all("pods", namespace).map(|(key, _)| key.clone()).collect();
            if let Some(pod) = pods.get(state.rng.usize(0..pods.len().max(1))) {
                drop(state.objects.delete(pod, None, Some(now.later(5)), now, false));
            }
        });
    }

    /// How often the template of a Deployment was raised to each version of its Secrets.
    pub(crate) fn raised(&self, deployment: &str) -> Vec<usize> {
        let state = self.state();
        let own = state.objects.raised.iter().filter(|((name, ..), _)| name == deployment);
        own.map(|(_, times)| *times).collect()
    }

    /// Whoever reads a Secret and starts with something else than this crashes from now on; nobody without.
    pub(crate) fn only(&self, secret: &str, only: Option<Credential>) {
        self.state().kubelets.only(secret, only);
    }

    /// A container of a namespace ends, and starts again.
    pub(crate) fn crash_one(&self, namespace: &str) -> Option<String> {
        self.state().kubelets.crash_one(namespace)
    }

    /// Begins anew: whoever asks for what was before is told that it is too old.
    pub(crate) fn forget(&self) {
        self.state().objects.forget();
    }

    /// Every object but the content of Secrets, as text: no value may be in there.
    pub(crate) fn public(&self) -> Vec<(String, String)> {
        let state = self.state();
        let shown = state.objects.every().map(|(key, object)| {
            let mut object = object.clone();
            if key.resource == "secrets" {
                object["data"] = Value::Null;
            }
            (format!("{} {}", key.resource, key.name), object.to_string())
        });
        shown.collect()
    }
}
