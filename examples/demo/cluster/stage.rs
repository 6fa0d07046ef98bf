//! What the demo plays on: the servers of a run, rekeyd's image and manifests, an application.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio_postgres::{Client, Config, NoTls};

use crate::Outcome;
use crate::server::Server;

pub(super) const NAME: &str = "orders-db";
pub(super) const SECRET: &str = "orders-db";
pub(super) const APP: &str = "app";
pub(super) const CANARY: &str = "canary";
pub(super) const REPORTS: &str = "reports";

/// The namespace is the manifest's to say.
const MANIFEST: &str = "";

pub(super) const KIND: &str = "rotationpolicy";

/// What the application cannot start without: its user is in a list.
const ADMITTED: &str = "select 1 / count(*) from allowed where name in (session_user, 'anybody')";

/// What OpenBao says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    address: String,
    root_token_file: PathBuf,
    ca_file: PathBuf,
    port: u16,
}

/// What the cluster says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    server: String,
    ca_file: PathBuf,
    /// Where pods reach this machine.
    host: String,
}

pub(super) struct Stage {
    root: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) server: Server,
    cluster: Cluster,
    store: Store,
}

/// A user and its password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    password: String,
}

impl Stage {
    /// Deploys rekeyd to the servers that `deploy/dev/with-servers --cluster` has started.
    #[expect(clippy::disallowed_methods, reason = "with-servers says through the environment where they are")]
    pub(super) async fn set() -> Outcome<Self> {
        let run = std::env::var_os("REKEYD_TEST_SERVERS").ok_or("run `make demo-cluster`")?;
        let run = Path::new(&run);
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/demo-cluster");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let stage = Self {
            root,
            folder,
            server: Server::read(run)?,
            cluster: serde_json::from_slice(&fs::read(run.join("kubernetes.json"))?)?,
            store: serde_json::from_slice(&fs::read(run.join("cluster/openbao.json"))?)?,
        };
        let admin = stage.server.fill().await?;
        let orders = stage.server.superuser("orders").await?;
        orders
            .batch_execute(
                "create table allowed (name text); insert into allowed values ('anybody'); create table calls (pod text primary key, queries bigint, failed bigint); \
                 grant select on allowed to orders_app; grant select, insert, update on calls to orders_app",
            )
            .await?;
        for namespace in ["rekeyd", "orders"] {
            stage.says("default", &["create", "namespace", namespace]).await?;
        }
        stage.prepare_store(&admin).await?;
        stage.deploy().await?;
        Ok(stage)
    }

    pub(super) fn kubectl(&self, namespace: &str) -> Command {
        let mut command = Command::new(&self.cluster.kubectl);
        command.arg("--kubeconfig").arg(&self.cluster.kubeconfig).stdin(Stdio::null()).kill_on_drop(true);
        if namespace != MANIFEST {
            command.args(["--namespace", namespace]);
        }
        command
    }

    /// What `kubectl` prints.
    pub(super) async fn says(&self, namespace: &str, arguments: &[&str]) -> Outcome<String> {
        said(self.kubectl(namespace).args(arguments), "").await
    }

    async fn apply(&self, namespace: &str, objects: &[Value]) -> Outcome<()> {
        for object in objects {
            said(self.kubectl(namespace).args(["apply", "--server-side", "-f", "-"]), &object.to_string())
                .await?;
        }
        Ok(())
    }

    /// Pods log in at OpenBao with their service account's token, which it has the API server review.
    async fn prepare_store(&self, admin: &str) -> Outcome<()> {
        self.says("rekeyd", &["create", "serviceaccount", "reviewer"]).await?;
        let binding = ["create", "clusterrolebinding", "reviewer", "--clusterrole=system:auth-delegator"];
        self.says("rekeyd", &[&binding[..], &["--serviceaccount=rekeyd:reviewer"]].concat()).await?;
        let reviewer = self.says("rekeyd", &["create", "token", "reviewer", "--duration=1h"]).await?;
        let policy = self.root.join("deploy/openbao/rekeyd.hcl").display().to_string();
        self.bao(&["secrets", "enable", "-path=secret", "-version=2", "kv"], "").await?;
        self.bao(&["policy", "write", "rekeyd", &policy], "").await?;
        self.bao(&["auth", "enable", "kubernetes"], "").await?;
        let config = json!({
            "kubernetes_host": self.cluster.server,
            "kubernetes_ca_cert": fs::read_to_string(&self.cluster.ca_file)?,
            "token_reviewer_jwt": reviewer.trim(),
        });
        self.bao(&["write", "auth/kubernetes/config", "-"], &config.to_string()).await?;
        let role = json!({
            "bound_service_account_names": "rekeyd", "bound_service_account_namespaces": "rekeyd",
            "token_policies": "rekeyd", "token_no_default_policy": true, "audience": "openbao", "token_ttl": "5m",
        });
        self.bao(&["write", "auth/kubernetes/role/rekeyd", "-"], &role.to_string()).await?;
        let admin = json!({"username": "rekeyd", "password": admin});
        self.bao(&["kv", "put", "secret/apps/orders-admin", "-"], &admin.to_string()).await
    }

    async fn bao(&self, arguments: &[&str], input: &str) -> Outcome<()> {
        let installed = Command::new(self.root.join("deploy/dev/openbao")).arg("install").output().await?;
        let program = String::from_utf8(installed.stdout)?;
        let mut command = Command::new(program.trim());
        command.args(arguments).env("BAO_ADDR", &self.store.address).env("BAO_CACERT", &self.store.ca_file);
        // A server of this demo's own, which ends with it.
        command.env("BAO_TOKEN", fs::read_to_string(&self.store.root_token_file)?.trim());
        said(command.kill_on_drop(true), input).await.map(drop)
    }

    /// `deploy/kubernetes/base`, with settings of the demo's, and the rights that its policy needs.
    async fn deploy(&self) -> Outcome<()> {
        let overlay = self.folder.join("overlay");
        copy(&self.root.join("deploy/kubernetes/base"), &overlay.join("base"))?;
        fs::create_dir(self.folder.join("policies"))?;
        fs::write(self.folder.join("policies/orders.json.yaml"), self.policy().to_string())?;
        let host = &self.cluster.host;
        let settings = json!({
            "policies": {"resources": {"namespaces": ["orders"]}},
            "clusters": {"main": {"inCluster": {}}},
            "leaderElection": {"namespace": "rekeyd", "duration": "4s"},
            "stores": {"main": {"vault": {
                "address": format!("https://{host}:{}", self.store.port), "caFile": "bao.pem",
                "auth": {"kubernetes": {"role": "rekeyd", "tokenFile": "/var/run/secrets/rekeyd/token"}},
            }}},
            "credentials": {"orders-admin": {"store": {
                "name": "main", "path": "apps/orders-admin", "hosts": [host],
            }}},
            "ledger": {"path": "/var/lib/rekeyd/ledger.git"},
            "listen": "0.0.0.0:8080",
            "socket": "/run/rekeyd/rekeyd.sock",
        });
        fs::write(overlay.join("rekeyd.yaml"), settings.to_string())?;
        fs::copy(&self.store.ca_file, overlay.join("bao.pem"))?;
        fs::copy(self.server.ca_file.as_ref().ok_or("no authority")?, overlay.join("postgres.pem"))?;
        let command = json!([
            {"op": "add", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Never"},
            {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--log=rekeyd=debug"},
            {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--log-format=json"},
        ]);
        let kustomization = json!({
            "resources": ["base"],
            "images": [{"name": "rekeyd", "newName": "localhost/rekeyd", "newTag": "1"}],
            "configMapGenerator": [
                {"name": "rekeyd", "namespace": "rekeyd", "files": ["rekeyd.yaml", "bao.pem", "postgres.pem"]},
            ],
            "patches": [{"target": {"kind": "Deployment", "name": "rekeyd"}, "patch": command.to_string()}],
        });
        fs::write(overlay.join("kustomization.yaml"), kustomization.to_string())?;
        // For `rekeyd rbac`, which reads the policies here and not in the cluster.
        fs::write(self.folder.join("rekeyd.yaml"), settings.to_string())?;
        let rekeyd = std::env::current_exe()?.with_file_name("../rekeyd");
        let mut command = Command::new(rekeyd);
        command.arg("rbac").arg("--config").arg(self.folder.join("rekeyd.yaml"));
        command
            .arg("--policies")
            .arg(self.folder.join("policies"))
            .args(["--service-account", "rekeyd/rekeyd"]);
        let rights = said(&mut command, "").await?;
        said(self.kubectl(MANIFEST).args(["apply", "-f", "-"]), &rights).await?;
        let overlay = overlay.display().to_string();
        self.says(MANIFEST, &["apply", "--server-side", "--force-conflicts", "-k", &overlay]).await?;
        self.says("rekeyd", &["rollout", "status", "deployment/rekeyd", "--timeout=60s"]).await?;
        Ok(())
    }

    fn policy(&self) -> Value {
        json!({
            "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": NAME, "namespace": "orders"},
            "spec": {
                "owner": "team-orders@example.com",
                "schedule": {"cron": "0 3 * * *", "timeZone": "Europe/Berlin"},
                "target": {"postgres": {
                    "endpoint": {
                        "host": self.cluster.host, "port": self.server.port, "database": "orders",
                        "tls": {"mode": "verify-full", "caFile": "/etc/rekeyd/postgres.pem"},
                    },
                    "admin": "orders-admin",
                    "strategy": {"alternating": {"users": ["orders_app_a", "orders_app_b"], "memberOf": ["orders_app"]}},
                    "check": "select 1 from orders limit 1",
                }},
                "store": {"name": "main", "path": "apps/orders/db"},
                "consumers": [{"kubernetes": {
                    "secret": SECRET,
                    "workloads": {"settle": "1s", "canary": {"kind": "Deployment", "name": CANARY}},
                }}],
                "retire": {"grace": "2s"},
            },
        })
    }

    pub(super) async fn create_policy(&self) -> Outcome<()> {
        let mut policy = self.policy();
        // The canary is there from the first restart on, as the policy says.
        policy["spec"]["consumers"][0]["kubernetes"]["workloads"] = json!({"settle": "1s"});
        self.apply("orders", &[policy]).await
    }

    pub(super) async fn create_application(&self) -> Outcome<()> {
        let (app, canary) = (self.application(APP, 3, ADMITTED), self.application(CANARY, 1, ADMITTED));
        self.apply("orders", &[app, canary]).await?;
        for name in [APP, CANARY] {
            let deployment = format!("deployment/{name}");
            self.says("orders", &["rollout", "status", &deployment, "--timeout=60s"]).await?;
        }
        self.apply("orders", &[self.policy()]).await
    }

    /// Another application, which ends at its start: its table is missing.
    pub(super) async fn create_reports(&self) -> Outcome<()> {
        let mut reports = self.application(REPORTS, 1, "select count(*) from reports");
        // Its earlier pod goes first: crashing beside the new one, it would show by itself that no value is the cause.
        reports["spec"]["strategy"] = json!({"type": "Recreate"});
        self.apply("orders", &[reports]).await
    }

    /// Makes its table, and has it start again now: a container that crashed waits longer each time.
    pub(super) async fn mend_reports(&self) -> Outcome<()> {
        let orders = self.server.superuser("orders").await?;
        orders.batch_execute("create table reports (id int); grant select on reports to orders_app").await?;
        self.says("orders", &["delete", "pods", "--selector=app=reports", "--wait=false"]).await.map(drop)
    }

    fn application(&self, name: &str, replicas: u32, startup: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{
                            "name": "app", "image": "localhost/application:1", "imagePullPolicy": "Never",
                            "envFrom": [{"secretRef": {"name": SECRET}}],
                            "env": [
                                {"name": "HOST", "value": self.cluster.host},
                                {"name": "PORT", "value": self.server.port.to_string()},
                                {"name": "DATABASE", "value": "orders"},
                                {"name": "STARTUP", "value": startup},
                                {"name": "LISTEN", "value": "0.0.0.0:8080"},
                                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            ],
                            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
                        }],
                    },
                },
            },
        })
    }

    /// How old a value may become.
    pub(super) async fn allow_age(&self, age: Option<&str>) -> Outcome<()> {
        let patch = json!({"spec": {"schedule": {"maxAge": age}}}).to_string();
        self.says("orders", &["patch", KIND, NAME, "--type=merge", "--patch", &patch]).await.map(drop)
    }

    /// Waits until nothing is under way.
    pub(super) async fn settled(&self) -> Outcome<()> {
        let policy = format!("{KIND}/{NAME}");
        self.says("orders", &["wait", &policy, "--for=condition=Rotating=False", "--timeout=120s"])
            .await
            .map(drop)
    }

    /// The pod that leads.
    pub(super) async fn leader(&self) -> Outcome<String> {
        let holder =
            self.says("rekeyd", &["get", "lease/rekeyd", "-o", "jsonpath={.spec.holderIdentity}"]).await?;
        Ok(holder.split('_').next().unwrap_or_default().to_owned())
    }

    /// What the Secret holds.
    pub(super) async fn login(&self) -> Outcome<Login> {
        let template = "go-template={{.data.username | base64decode}} {{.data.password | base64decode}}";
        let said = self.says("orders", &["get", "secret", SECRET, "-o", template]).await?;
        let (user, password) = said.split_once(' ').ok_or("the Secret is incomplete")?;
        Ok(Login { user: user.into(), password: password.into() })
    }

    pub(super) async fn open(&self, login: &Login) -> Outcome<Client> {
        let mut config = Config::new();
        config.host(&self.server.host).port(self.server.port).dbname("orders");
        config.user(&login.user).password(&login.password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Which pods an application has.
    pub(super) async fn pods(&self, app: &str) -> Outcome<Vec<String>> {
        let selector = format!("--selector=app={app}");
        let names = self
            .says("orders", &["get", "pods", &selector, "-o", "jsonpath={.items[*].metadata.uid}"])
            .await?;
        let mut names: Vec<String> = names.split(' ').map(ToOwned::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// How often a workload's template was changed.
    pub(super) async fn restarts(&self, app: &str) -> Outcome<usize> {
        let deployment = format!("deployment/{app}");
        let generation =
            self.says("orders", &["get", &deployment, "-o", "jsonpath={.metadata.generation}"]).await?;
        Ok(generation.parse::<usize>()? - 1)
    }

    /// What the pods counted, those that are gone too: queries, and those that failed.
    pub(super) async fn counted(&self) -> Outcome<(i64, i64)> {
        let orders = self.server.superuser("orders").await?;
        let row =
            orders.query_one("select sum(queries)::bigint, sum(failed)::bigint from calls", &[]).await?;
        Ok((row.get(0), row.get(1)))
    }
}

/// What a program prints that gets something on its standard input.
async fn said(command: &mut Command, input: &str) -> Outcome<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().ok_or("no input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let program =
            Path::new(command.as_std().get_program()).file_name().unwrap_or_default().display().to_string();
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
