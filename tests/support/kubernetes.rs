//! A real Kubernetes for a test: the one that all tests of a run share, and a namespace of the test's own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use rekeyd::secret::Credential;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::openbao::servers;
use crate::postgres_support::credential_of;
use crate::processes::until;

/// So long `kubectl` waits. Machines are slow when they do much at once: the end of it says that something hangs.
pub(crate) const PATIENCE: &str = "--timeout=300s";

/// A running cluster, and its administrator's rights.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// Where pods reach this machine.
    pub(crate) host: String,
    pub(crate) server: String,
    pub(crate) ca_file: PathBuf,
    /// Every request, without its content.
    pub(crate) audit_log: PathBuf,
    /// Where the nodes keep what pods print, one folder each.
    pub(crate) pod_logs: Vec<PathBuf>,
    etcd: String,
}

impl Cluster {
    pub(crate) fn shared() -> Self {
        Self::read(&servers())
    }

    /// The one that runs in a folder.
    pub(crate) fn read(run: &Path) -> Self {
        let path = run.join("kubernetes.json");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("no cluster runs ({}: {error}). Run `make test`", path.display()));
        let json: Value = serde_json::from_str(&text).expect("kubernetes.json is JSON");
        let file = |field: &str| PathBuf::from(json[field].as_str().expect("a path"));
        let text = |field: &str| json[field].as_str().expect("an address").to_owned();
        let folders = json["podLogs"].as_array().expect("folders").iter();
        let pod_logs = folders.map(|folder| folder.as_str().expect("a path").into()).collect();
        Self {
            kubeconfig: file("kubeconfig"),
            kubectl: file("kubectl"),
            host: text("host"),
            server: text("server"),
            ca_file: file("caFile"),
            audit_log: file("auditLog"),
            pod_logs,
            etcd: text("etcd"),
        }
    }

    /// A namespace of one's own. It is deleted when it is dropped.
    pub(crate) async fn namespace(&self) -> Namespace {
        let draw = std::iter::repeat_with(fastrand::lowercase).take(10);
        let name = format!("test-{}", draw.collect::<String>());
        let space = Namespace { cluster: self.clone(), client: OnceCell::new(), name };
        self.kubectl(&["create", "namespace", &space.name], "").await;
        space
    }

    /// Everything that the API server keeps: keys, and what stands there.
    pub(crate) async fn kept(&self) -> Vec<(String, Vec<u8>)> {
        let url = format!("{}/v3/kv/range", self.etcd);
        // From the first key to the last.
        let all = json!({"key": "AA==", "range_end": "AA=="}).to_string();
        let asked = tokio::task::spawn_blocking(move || {
            crate::openbao::client(None).post(url).body(all).send().expect("an answer").text().expect("text")
        });
        let answer: Value = serde_json::from_str(&asked.await.expect("no panic")).expect("JSON");
        let bytes = |pair: &Value, part: &str| {
            STANDARD.decode(pair[part].as_str().unwrap_or_default()).expect("base64")
        };
        let pairs = answer["kvs"].as_array().expect("pairs").iter();
        pairs
            .map(|pair| (String::from_utf8_lossy(&bytes(pair, "key")).into_owned(), bytes(pair, "value")))
            .collect()
    }

    /// Installs resource definitions, and waits until they are served.
    pub(crate) async fn define(&self, definitions: &str) {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], definitions).await;
        // `kubectl wait` takes one without any conditions yet for an error.
        let judged = async || {
            let conditions = ["get", "-f", "-", "-o", "jsonpath={.items[*].status.conditions[*].type}"];
            !self.kubectl(&conditions, definitions).await.is_empty()
        };
        until("the definitions are judged", judged).await;
        self.kubectl(&["wait", "-f", "-", "--for=condition=Established", PATIENCE], definitions).await;
    }

    /// What `kubectl` prints, which has to go well.
    pub(crate) async fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let (went_well, output, said) = self.try_kubectl(arguments, input).await;
        assert!(went_well, "kubectl {arguments:?}: {said}");
        output
    }

    /// `kubectl`, not started yet.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).kill_on_drop(true);
        command
    }

    async fn try_kubectl(&self, arguments: &[&str], input: &str) -> (bool, String, String) {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("written");
        drop(stdin);
        let output = child.wait_with_output().await.expect("an end");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.success(), text(output.stdout), text(output.stderr))
    }
}

/// A namespace of a test.
pub(crate) struct Namespace {
    cluster: Cluster,
    client: OnceCell<Client>,
    pub(crate) name: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.cluster.kubectl);
        command.arg("--kubeconfig").arg(&self.cluster.kubeconfig);
        command.args(["delete", "namespace", &self.name, "--wait=false"]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Namespace {
    /// What `kubectl` prints in this namespace.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat(), "").await
    }

    /// `kubectl` in this namespace, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.cluster.command(&[&["--namespace", &self.name], arguments].concat())
    }

    pub(crate) async fn create(&self, object: &Value) {
        let arguments = ["--namespace", &self.name, "create", "-f", "-"];
        self.cluster.kubectl(&arguments, &object.to_string()).await;
    }

    /// Changes an object to what is said here, by its whole content.
    pub(crate) async fn replace(&self, object: &Value) {
        let arguments = ["--namespace", &self.name, "replace", "-f", "-"];
        self.cluster.kubectl(&arguments, &object.to_string()).await;
    }

    /// Asks as somebody whether an object would be taken; what the API server says if not. Nothing is made.
    pub(crate) async fn try_as(&self, user: &str, object: &Value) -> Result<(), String> {
        let arguments = ["--namespace", &self.name, "--as", user, "create", "--dry-run=server", "-f", "-"];
        let (went_well, _, said) = self.cluster.try_kubectl(&arguments, &object.to_string()).await;
        if went_well { Ok(()) } else { Err(said) }
    }

    /// What the API server says of an object that it refuses.
    pub(crate) async fn refuses(&self, object: &Value) -> String {
        let arguments = ["--namespace", &self.name, "create", "-f", "-"];
        let (went_well, _, said) = self.cluster.try_kubectl(&arguments, &object.to_string()).await;
        assert!(!went_well, "it was taken: {object:#}");
        said
    }

    /// An object: `deployment/app`.
    pub(crate) async fn read(&self, object: &str) -> Value {
        let (kind, name) = object.split_once('/').expect("a kind and a name");
        if let Some(api) = self.api(kind).await {
            let read = api.get(name).await.unwrap_or_else(|error| panic!("get {object}: {error}"));
            return serde_json::to_value(read).expect("JSON");
        }
        let text = self.kubectl(&["get", object, "-o", "json"]).await;
        serde_json::from_str(&text).expect("JSON")
    }

    /// The objects of a kind that is looked at often. Half of what tests do is to look: a process for each look would
    /// take the machine away from what is looked at.
    async fn api(&self, kind: &str) -> Option<Api<DynamicObject>> {
        let (group, version, kind) = match kind {
            "secret" => ("", "v1", "Secret"),
            "pod" => ("", "v1", "Pod"),
            "deployment" => ("apps", "v1", "Deployment"),
            "statefulset" => ("apps", "v1", "StatefulSet"),
            "daemonset" => ("apps", "v1", "DaemonSet"),
            "cronjob" => ("batch", "v1", "CronJob"),
            "lease" => ("coordination.k8s.io", "v1", "Lease"),
            "rotationpolicies.rekeyd.dev" => ("rekeyd.dev", "v1alpha1", "RotationPolicy"),
            _ => return None,
        };
        let connect = async || {
            let kubeconfig = Kubeconfig::read_from(&self.cluster.kubeconfig).expect("a kubeconfig");
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a kubeconfig");
            Client::try_from(config).expect("a client")
        };
        let client = self.client.get_or_init(connect).await.clone();
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Some(Api::namespaced_with(client, &self.name, &kind))
    }

    /// The pods that are neither done nor on their way out.
    pub(crate) async fn pods(&self, label: &str) -> Vec<Value> {
        let pods = self.api("pod").await.expect("a kind that is looked at");
        let list = pods.list(&ListParams::default().labels(label)).await;
        let list = serde_json::to_value(list.expect("pods")).expect("JSON");
        let pods = list["items"].as_array().expect("a list").iter();
        pods.filter(|pod| pod["metadata"].get("deletionTimestamp").is_none()).cloned().collect()
    }

    /// The credential in a Secret.
    pub(crate) async fn credential(&self, secret: &str) -> Credential {
        let secret = self.read(&format!("secret/{secret}")).await;
        let field = |key: &str| {
            let encoded = secret["data"][key].as_str().expect("a key");
            String::from_utf8(STANDARD.decode(encoded).expect("base64")).expect("text")
        };
        credential_of(&field("username").parse().expect("a principal"), &field("password"))
    }

    pub(crate) async fn rolled_out(&self, workload: &str) {
        self.kubectl(&["rollout", "status", workload, PATIENCE]).await;
    }
}

/// A workload whose pods get a Secret in their environment, and do nothing.
pub(crate) fn idle(kind: &str, name: &str, replicas: u32, secret: &str) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "app", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                        "command": ["sleep", "2147483647"],
                        "envFrom": [{"secretRef": {"name": secret}}],
                    }],
                },
            },
        },
    });
    if kind == "DaemonSet" {
        object["spec"].as_object_mut().expect("an object").remove("replicas");
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}
