//! rekeyd as it is deployed: the image and manifests of this repository, two pods, no right but those that
//! `rekeyd rbac` writes, a login at OpenBao by the pod's own token.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::cluster::{application, counted, refusals, told};
use crate::cluster_search::Search;
use crate::installation::read;
use crate::kubernetes::{Cluster, Namespace};
use crate::openbao::{self, unique};
use crate::postgres_support::text;
use crate::processes::{LOOK, in_time, until};
use crate::resources::{KIND, SECRET};
use crate::rollback::latest_record;
use crate::site::*;
use crate::sshd;

/// rekeyd in a namespace of its own, for the policies of another.
pub(crate) struct Deployed {
    pub(crate) cluster: Cluster,
    /// Where pods reach the servers of this machine.
    host: String,
    pub(crate) home: Namespace,
    pub(crate) space: Namespace,
    pub(crate) site: Site,
    /// Where its ledger is pushed.
    remote: PathBuf,
    _sshd: sshd::Server,
    _mount: openbao::Mount,
    _policy: openbao::Policy,
}

/// Where the manifests are.
fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes")
}

impl Deployed {
    /// With changes of its pod template.
    pub(crate) async fn new(cluster: Cluster, changes: &[Value]) -> Self {
        Self::of(Site::alternating().await, cluster, changes).await
    }

    /// For the database of a site.
    pub(crate) async fn of(site: Site, cluster: Cluster, changes: &[Value]) -> Self {
        let host = Cluster::shared().host;
        let (home, space) = (cluster.namespace().await, cluster.namespace().await);
        let server = openbao::Server::of_cluster();
        let mount = server.mount(2);
        let rights = include_str!("../../deploy/openbao/rekeyd.hcl");
        let policy = server.policy(&rights.replace("path \"secret/", &format!("path \"{}/", mount.name)));

        // Pods log in at OpenBao with tokens that it has the API server review.
        home.kubectl(&["create", "serviceaccount", "reviewer"]).await;
        let account = format!("--serviceaccount={}:reviewer", home.name);
        let delegator =
            ["create", "clusterrolebinding", &home.name, "--clusterrole=system:auth-delegator", &account];
        home.kubectl(&delegator).await;
        let reviewer = home.kubectl(&["create", "token", "reviewer", "--duration=2h"]).await;
        let login = unique("pods");
        server.make("POST", &format!("sys/auth/{login}"), json!({"type": "kubernetes"}));
        let config = json!({
            "kubernetes_host": cluster.server, "kubernetes_ca_cert": read(&cluster.ca_file),
            "token_reviewer_jwt": reviewer.trim(),
        });
        server.make("POST", &format!("auth/{login}/config"), config);
        let role = json!({
            "bound_service_account_names": "rekeyd", "bound_service_account_namespaces": home.name,
            "token_policies": policy.name, "token_no_default_policy": true, "audience": "openbao", "token_ttl": "5m",
        });
        server.make("POST", &format!("auth/{login}/role/rekeyd"), role);
        let admin = site.world.admin();
        let admin = json!({"data": {"username": admin.principal.as_str(), "password": text(admin)}});
        server.make("POST", &format!("{}/data/apps/orders-admin", mount.name), admin);

        let folder = site.at.path("git");
        std::fs::create_dir(&folder).expect("a folder");
        let (remote, sshd) = (folder.join("audit.git"), sshd::Server::start(&folder, &host));
        sshd::run(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&remote));

        let port = server.address.rsplit(':').next().expect("a port").to_owned();
        let settings = json!({
            "policies": {"resources": {"namespaces": [space.name]}},
            "clusters": {"main": {"inCluster": {}}},
            "leaderElection": {"namespace": home.name, "duration": "4s"},
            "stores": {"main": {"vault": {
                "address": format!("https://{host}:{port}"), "caFile": "bao.pem", "mount": mount.name,
                "auth": {"kubernetes": {
                    "mount": login, "role": "rekeyd", "tokenFile": "/var/run/secrets/rekeyd/token",
                }},
            }}},
            "credentials": {"orders-admin": {"store": {
                "name": "main", "path": "apps/orders-admin", "hosts": [host],
            }}},
            "ledger": {"path": "/var/lib/rekeyd/ledger.git", "remote": {
                "url": sshd.url(&remote),
                "identityFile": "/etc/rekeyd/ledger-key", "knownHostsFile": "/etc/rekeyd/known_hosts",
            }},
            "listen": "0.0.0.0:8080",
            "socket": "/run/rekeyd/rekeyd.sock",
        });
        let overlay = site.at.path("overlay");
        copy(&manifests().join("base"), &overlay.join("base"));
        write(&overlay.join("rekeyd.yaml"), &settings.to_string());
        write(&overlay.join("bao.pem"), &read(server.ca_file.as_deref().expect("an authority")));
        write(
            &overlay.join("postgres.pem"),
            &read(site.world.server.at().ca_file.as_deref().expect("an authority")),
        );
        write(&overlay.join("ledger-key"), &read(&folder.join("key")));
        write(&overlay.join("known_hosts"), &sshd.known_host());
        let never = json!({
            "op": "add", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Never",
        });
        let patch: Vec<&Value> = std::iter::once(&never).chain(changes).collect();
        let kustomization = json!({
            "namespace": home.name, "resources": ["base"],
            "images": [{"name": "rekeyd", "newName": "localhost/rekeyd", "newTag": "1"}],
            "configMapGenerator": [{"name": "rekeyd", "files": ["rekeyd.yaml", "bao.pem", "postgres.pem"]}],
            "secretGenerator": [{"name": "rekeyd", "files": ["ledger-key", "known_hosts"]}],
            "patches": [{
                "target": {"kind": "Deployment", "name": "rekeyd"},
                "patch": serde_json::to_string(&patch).expect("JSON"),
            }],
        });
        write(&overlay.join("kustomization.yaml"), &kustomization.to_string());

        let deployed =
            Self { cluster, host, home, space, site, remote, _sshd: sshd, _mount: mount, _policy: policy };
        deployed.allow().await;
        let overlay = overlay.to_str().expect("a path");
        deployed.home.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", overlay]).await;
        deployed
    }

    /// Gives the pods the rights that the policy needs, and no others.
    async fn allow(&self) {
        let policies = self.site.at.path("checkout");
        std::fs::create_dir(&policies).expect("a folder");
        let mut policy = self.policy();
        policy["metadata"]["namespace"] = json!(self.space.name);
        write(&policies.join("orders.yaml"), &policy.to_string());
        self.site.at.copy_settings("cluster.yaml", |settings| {
            settings["policies"] = json!({"resources": {"namespaces": [self.space.name]}});
            settings["clusters"] = json!({"main": {"kubeconfig": {"path": self.cluster.kubeconfig}}});
            settings["leaderElection"] = json!({"namespace": self.home.name});
        });
        let account = format!("{}/rekeyd", self.home.name);
        let arguments =
            ["rbac", "--policies", policies.to_str().expect("a path"), "--service-account", &account];
        let answer =
            crate::processes::answer(self.site.at.command_by("cluster.yaml", &arguments)).await.ended(0);
        write(&self.site.at.path("rbac.yaml"), &answer.stdout);
        let file = self.site.at.path("rbac.yaml");
        self.cluster.kubectl(&["apply", "-f", file.to_str().expect("a path")], "").await;
    }

    pub(crate) fn policy(&self) -> Value {
        let mut policy = self.site.policy();
        policy["metadata"] = json!({"name": NAME});
        policy["spec"]["consumers"] =
            json!([{"kubernetes": {"secret": SECRET, "workloads": {"settle": "0s"}}}]);
        let endpoint = &mut policy["spec"]["target"]["postgres"]["endpoint"];
        endpoint["host"] = json!(self.host);
        endpoint["tls"] = json!({"mode": "verify-full", "caFile": "/etc/rekeyd/postgres.pem"});
        policy
    }

    /// Waits until a record that begins so is pushed: one, whoever wrote it.
    pub(crate) async fn pushed_once(&self, subject: &str) {
        let log = ["log", "--format=%s", "--all"];
        let pushed = async {
            loop {
                let subjects = sshd::run(Command::new("git").arg("-C").arg(&self.remote).args(log));
                let count = subjects.lines().filter(|line| line.starts_with(subject)).count();
                if count > 0 {
                    return (count, subjects);
                }
                SystemClock.sleep(LOOK).await;
            }
        };
        let (count, subjects) = in_time(subject, pushed).await;
        assert_eq!(count, 1, "{subject}: {subjects}");
    }

    /// The latest record at the remote.
    pub(crate) async fn latest_record(&self) -> Value {
        let copy = self.site.at.path("ledger.git");
        let _ = std::fs::remove_dir_all(&copy);
        sshd::run(Command::new("git").args(["clone", "-q", "--bare"]).args([&self.remote, &copy]));
        latest_record(&self.site).await
    }

    /// No rotation is recorded twice at the remote, now that all have closed.
    pub(crate) fn all_pushed_once(&self) {
        let log = ["log", "--format=%s", "--all"];
        let subjects = sshd::run(Command::new("git").arg("-C").arg(&self.remote).args(log));
        let of_rotations = subjects.lines().filter(|line| line.contains(" -> v"));
        // `rotate(orders/db): v1 -> v2 ...`
        let rotations: Vec<Vec<&str>> = of_rotations.map(|line| line.split(' ').take(4).collect()).collect();
        let different: BTreeSet<&Vec<&str>> = rotations.iter().collect();
        assert!(!rotations.is_empty() && different.len() == rotations.len(), "{subjects}");
    }

    pub(crate) async fn ask(&self, verb: &str, request: &str) {
        let annotation = format!("rekeyd.dev/{verb}={request}");
        self.space.kubectl(&["annotate", KIND, NAME, &annotation, "--overwrite"]).await;
    }

    /// Asks, and waits until the rotation that came of it is closed: a version is in force before. Whoever comes
    /// meanwhile restarts for it, too.
    pub(crate) async fn asked(&self, verb: &str, request: &str) {
        self.ask(verb, request).await;
        let key = json!(format!("{verb}:{request}"));
        let is_answered = async || {
            let policy = self.space.read(&format!("{KIND}/{NAME}")).await;
            policy["status"]["answered"].as_array().is_some_and(|all| all.contains(&key))
        };
        until(request, is_answered).await;
    }

    /// The pod that leads.
    pub(crate) async fn leader(&self) -> String {
        let lease = self.home.read("lease/rekeyd").await;
        let holder = lease["spec"]["holderIdentity"].as_str().expect("a holder").to_owned();
        holder.split('_').next().expect("a name").to_owned()
    }

    /// Every request of the pods, by the API server's log: verb, kind, name, status.
    fn requests(&self) -> Vec<(String, String, Option<String>, u64)> {
        let user = format!("system:serviceaccount:{}:rekeyd", self.home.name);
        let entries = read(&self.cluster.audit_log);
        let entries = entries.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = entries.filter(|entry| entry["user"]["username"] == user.as_str());
        let done = ours.filter(|entry| entry["stage"] == "ResponseComplete");
        done.map(|entry| {
            let object = &entry["objectRef"];
            let part = |field: &str| object[field].as_str().map(ToOwned::to_owned);
            let kind =
                [part("resource"), part("subresource")].into_iter().flatten().collect::<Vec<_>>().join("/");
            let verb = entry["verb"].as_str().expect("a verb").to_owned();
            (verb, kind, part("name"), entry["responseStatus"]["code"].as_u64().unwrap_or(0))
        })
        .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_rotate_and_contain_with_no_right_too_many_and_no_query_fails() {
    let deployed = Deployed::new(Cluster::shared(), &[]).await;
    let Deployed { home, space, site, .. } = &deployed;
    let search = Search::begin(&deployed.cluster, &[space, home]);
    home.rolled_out("deployment/rekeyd").await;
    space.create(&deployed.policy()).await;
    deployed.asked("rotate", "first").await;
    space.create(&application(site, 3).await).await;
    space.rolled_out("deployment/app").await;

    let mut old = vec![space.credential(SECRET).await];
    let before = refusals(&site.world);
    for (round, verb) in ["rotate", "contain", "rotate", "contain"].iter().enumerate() {
        let version = round as i64 + 2;
        deployed.ask(verb, &format!("{verb}-{version}")).await;
        if round == 2 {
            // In the middle of it the pod that works is gone, without a word.
            let leader = deployed.leader().await;
            home.kubectl(&["delete", "pod", &leader, "--grace-period=0", "--force"]).await;
        }
        space.becomes(NAME, &format!("jsonpath={{.status.version}}={version}")).await;
        space.becomes(NAME, "condition=Rotating=False").await;
        let current = space.credential(SECRET).await;
        assert!(site.accepts(&current).await);
        for value in &old {
            assert!(!site.accepts(value).await, "an old value works");
        }
        old.push(current);
        assert_eq!(
            told(space, "deployment/app").await,
            (Some(version.to_string()), version),
            "restarted twice"
        );
    }
    let (pods, queries, failed) = counted(&site.world).await;
    assert_eq!(failed, 0, "{queries} queries by {pods} pods");
    assert!(refusals(&site.world) > before, "no old value was tried");

    // Also what the pod that is gone recorded last.
    for (version, verb) in ["rotate", "rotate", "contain", "rotate", "contain"].iter().enumerate() {
        deployed
            .pushed_once(&format!("{verb}({}/{NAME}): v{version} -> v{} ", space.name, version + 1))
            .await;
    }

    deployed.all_pushed_once();

    let requests = deployed.requests();
    assert!(requests.len() > 50, "{} requests were logged", requests.len());
    for (verb, kind, name, status) in &requests {
        assert!(*status != 403, "{verb} {kind} {name:?} is forbidden");
        let is_secret = kind.starts_with("secrets");
        assert!(!is_secret || name.as_deref() == Some(SECRET), "{verb} {kind} {name:?}");
    }
    // What the roles allow and nobody did is a right too many, but for what there is none of here.
    let done: BTreeSet<(String, String)> =
        requests.into_iter().map(|(verb, resource, ..)| (resource, verb)).collect();
    let mut allowed = BTreeSet::new();
    for namespace in [home, space] {
        let roles = namespace.kubectl(&["get", "roles", "-o", "json"]).await;
        let roles: Value = serde_json::from_str(&roles).expect("JSON");
        for rule in roles["items"].as_array().expect("roles").iter().flat_map(|role| elements(&role["rules"]))
        {
            let verbs = || elements(&rule["verbs"]).map(plain);
            allowed.extend(
                elements(&rule["resources"])
                    .flat_map(|resource| verbs().map(move |verb| (plain(resource), verb))),
            );
        }
    }
    let without_use: BTreeSet<(&str, &str)> =
        allowed.difference(&done).map(|(resource, verb)| (resource.as_str(), verb.as_str())).collect();
    let absent = [
        // The only workload is a Deployment, and the cluster need not have Rollouts and classes of the CSI driver.
        ("statefulsets", "get"),
        ("statefulsets", "patch"),
        ("pods/eviction", "create"),
        ("daemonsets", "get"),
        ("daemonsets", "patch"),
        ("cronjobs", "get"),
        ("cronjobs", "patch"),
        ("rollouts", "get"),
        ("rollouts", "patch"),
        ("secretproviderclasses", "get"),
        // An apply that makes one is a patch that needs this as well.
        ("secrets", "create"),
    ];
    assert_eq!(without_use, BTreeSet::from(absent));
    let beyond: Vec<_> = done.difference(&allowed).collect();
    assert!(beyond.is_empty(), "done without a role that says so: {beyond:?}");

    // Also the one that is gone printed something.
    assert!(search.heard("rekeyd-") > 2, "not all of rekeyd's pods are searched");
    search.nothing_gives_away(&old.iter().collect::<Vec<_>>()).await;

    // The pods can do nothing that the manifests do not let them.
    let pod: Value = home.read(&format!("pod/{}", deployed.leader().await)).await;
    let container = &pod["spec"]["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().expect("a list").iter()
}

fn plain(text: &Value) -> String {
    text.as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_overlay_is_whole() {
    let cluster = Cluster::shared();
    let overlay = manifests().join("overlays/example");
    let text = cluster.kubectl(&["kustomize", overlay.to_str().expect("a path")], "").await;
    for kind in ["Deployment", "PodDisruptionBudget", "NetworkPolicy", "Role", "RotationPolicy", "ConfigMap"]
    {
        assert!(text.contains(&format!("\nkind: {kind}\n")), "there is no {kind}: {text}");
    }
    assert!(text.contains("image: registry.example.com/rekeyd:0.1.0"), "{text}");
    // Roles stay in the namespaces that they are for.
    assert!(text.contains("namespace: orders"), "{text}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a file");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}
