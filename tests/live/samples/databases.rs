//! Samples of databases, on the shared PostgreSQL, MariaDB, MySQL and ClickHouse.

use std::path::Path;

use serde_json::{Value, json};

use super::sample::Sample;
use super::variants::only;
use crate::clickhouse_contract::{World as _, making};
use crate::clickhouse_nodes::Corner;
use crate::gitops::git;
use crate::kubernetes::{Namespace, PATIENCE, idle};
use crate::mysql_support::Kind;
use crate::proxy::{Fault, Proxy};
use crate::{mysql_support, postgres_support};

/// A pooler or proxy in front of a database: it only passes on.
async fn in_front_of(host: &str, port: u16) -> Proxy {
    Proxy::start((host, port), "what nobody ever sends", Fault::LoseRequest).await
}

/// Puts a server behind what a target says of an endpoint.
fn place(endpoint: &mut Value, host: &str, port: u16, database: &str) {
    endpoint["host"] = json!(host);
    endpoint["port"] = json!(port);
    endpoint["tls"] = json!({"mode": "disable"});
    if !endpoint["database"].is_null() {
        endpoint["database"] = json!(database);
    }
}

/// Names the test's own users in a strategy.
fn place_users(strategy: &mut Value, name: impl Fn(&str) -> String) {
    let kind = only(strategy).0;
    let users = &mut strategy[&kind];
    if users["user"].is_string() {
        users["user"] = json!(name("a"));
    } else {
        users["users"] = json!([name("a"), name("b")]);
    }
    if users["memberOf"].is_array() {
        users["memberOf"] = json!([name("group")]);
    }
}

/// What holds a database of the test's own behind the sample.
struct Database {
    world: postgres_support::World,
    _poolers: Vec<Proxy>,
}

async fn database(sample: &Sample) -> Database {
    let world = postgres_support::World::shared().await;
    world.sql("CREATE TABLE orders (id int); GRANT SELECT ON orders TO {p}_group").await;
    let document = sample.document();
    let target = &document["spec"]["target"]["postgres"];
    if target["strategy"]["inPlace"].is_object() {
        world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    }
    let at = world.server.at();
    let is_socket = target["endpoint"]["host"].as_str().expect("a host").starts_with('/');
    let host = if is_socket { &at.socket } else { &at.host };
    let mut poolers = Vec::new();
    for _ in target["alsoVerify"].as_array().into_iter().flatten() {
        poolers.push(in_front_of(&at.host, at.port).await);
    }
    sample.target("postgres", |target| {
        place(&mut target["endpoint"], host, at.port, &world.database);
        for (index, pooler) in poolers.iter().enumerate() {
            place(&mut target["alsoVerify"][index], "127.0.0.1", pooler.port, &world.database);
        }
        place_users(&mut target["strategy"], |suffix| world.name(suffix).to_string());
    });
    sample.admin(target["admin"].as_str().expect("a name"), world.admin(), host);
    Database { world, _poolers: poolers }
}

pub(super) async fn postgres(mut sample: Sample) {
    let Database { world, _poolers } = database(&sample).await;
    sample.lives(async |credential| world.accepts(credential).await).await;
}

/// One reader is restarted although its template does not say that it is one, and another is not.
pub(super) async fn postgres_in_two_clusters(mut sample: Sample) {
    let Database { world, _poolers } = database(&sample).await;
    let space = &sample.spaces[0];
    let mut reports = idle("Deployment", "reports", 1, "shop-db");
    let container = &mut reports["spec"]["template"]["spec"]["containers"][0];
    container.as_object_mut().expect("an object").remove("envFrom");
    space.create(&reports).await;
    // Without a pod, whose volume a kubelet would renew only within two minutes.
    let mut cache = idle("StatefulSet", "cache", 0, "shop-db");
    let pod = &mut cache["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "db", "secret": {"secretName": "shop-db"}}]);
    let container = &mut pod["containers"][0];
    container.as_object_mut().expect("an object").remove("envFrom");
    container["volumeMounts"] = json!([{"name": "db", "mountPath": "/db"}]);
    space.create(&cache).await;
    sample.lives(async |credential| world.accepts(credential).await).await;
    let restarted = async |workload: &str| {
        let object = sample.spaces[0].read(workload).await;
        let annotations = &object["spec"]["template"]["metadata"]["annotations"];
        annotations["rekeyd.dev/version.shop-db"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!(restarted("deployment/reports").await.as_deref(), Some("3"));
    assert_eq!(restarted("statefulset/cache").await, None);
}

/// Restarts by commits to a bare repository. The test does what Argo CD would: it applies what was committed.
pub(super) async fn postgres_by_git(mut sample: Sample) {
    let Database { world, _poolers } = database(&sample).await;
    let gitops =
        sample.document()["spec"]["consumers"][0]["kubernetes"]["workloads"]["restart"]["gitops"].clone();
    let file = gitops["file"].as_str().expect("a file").to_owned();
    let bare = repository(&sample, gitops["repository"].as_str().expect("a name"), &file);
    sample.check().await;
    let first = sample.turn("rotate").await;
    assert!(world.accepts(&first).await);
    let (secret, app) = ("billing-db", "deployment/app");
    sample.spaces[0].create(&idle("Deployment", "app", 1, secret)).await;
    sample.spaces[0].rolled_out(app).await;
    let mut outgoing = first;
    for command in ["rotate", "contain"] {
        let mut rotation = sample.at.start(&[command, &sample.policy, "-o", "json"]);
        rotation.until_told(&format!("committed to platform {file}")).await;
        apply(&sample, &bare, &file).await;
        rotation.end().await.ended(0).says(&["old value refused"]);
        let current = sample.arrived().await;
        assert!(world.accepts(&current).await && !world.accepts(&outgoing).await, "{command}");
        let object = sample.spaces[0].read(app).await;
        let annotations = &object["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["rekeyd.dev/version.billing-db"], sample.version.to_string());
        outgoing = current;
    }
    sample.at.run(&["audit", "verify"]).await.ended(0);
}

/// A bare repository in the place of the one that the settings name, with the file that rekeyd may write.
fn repository(sample: &Sample, name: &str, file: &str) -> std::path::PathBuf {
    let (bare, work) = (sample.at.path("platform-remote.git"), sample.at.path("platform-work"));
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    git(&sample.at.path(""), &["init", "--quiet", "--bare", "--initial-branch=main", &text(&bare)]);
    git(&sample.at.path(""), &["clone", "--quiet", &text(&bare), &text(&work)]);
    let path = work.join(file);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let mark = format!("# rekeyd.dev/versions-of main:{}\n", sample.spaces[0].name);
    std::fs::write(path, mark).expect("written");
    git(&work, &["add", "--all"]);
    git(&work, &["commit", "--quiet", "--message", "Let rekeyd say versions"]);
    git(&work, &["push", "--quiet", "origin", "HEAD:main"]);
    sample.at.change_settings(|settings| {
        let repository = &mut settings["gitops"][name];
        repository["path"] = json!("platform.git");
        repository["remote"] = json!({"url": bare});
    });
    bare
}

async fn apply(sample: &Sample, bare: &Path, file: &str) {
    let space: &Namespace = &sample.spaces[0];
    let (manifest, committed) =
        (sample.at.path("applied.yaml"), git(bare, &["show", &format!("main:{file}")]));
    std::fs::write(&manifest, committed).expect("written");
    let manifest = manifest.to_str().expect("a path").to_owned();
    let as_argo_cd = ["--server-side", "--field-manager=argocd-controller", "--force-conflicts"];
    space.kubectl(&[&["apply", "-f", &manifest, PATIENCE][..], &as_argo_cd].concat()).await;
}

pub(super) async fn mysql(sample: Sample) {
    on_mysql(sample, Kind::MariaDb).await;
}

pub(super) async fn mysql8(sample: Sample) {
    on_mysql(sample, Kind::MySql).await;
}

async fn on_mysql(mut sample: Sample, kind: Kind) {
    let world = mysql_support::World::shared(kind).await;
    world
        .sql("CREATE DATABASE {p}; CREATE TABLE {p}.products (id int); GRANT SELECT ON {p}.* TO '{p}_group'")
        .await;
    let document = sample.document();
    let target = &document["spec"]["target"]["mysql"];
    let at = world.server.at();
    let is_socket = target["endpoint"]["host"].as_str().expect("a host").starts_with('/');
    let host = if is_socket { &at.socket } else { &at.host };
    let mut proxies = Vec::new();
    for _ in target["alsoVerify"].as_array().into_iter().flatten() {
        proxies.push(in_front_of(&at.host, at.port).await);
    }
    let of_one_host = target["accountHost"] == "localhost";
    if target["strategy"]["alternating"].is_null() {
        let account = if of_one_host { "localhost" } else { "%" };
        world
            .sql(&format!(
                "CREATE USER '{{p}}_a'@'{account}' ACCOUNT LOCK; GRANT SELECT ON {{p}}.* TO '{{p}}_a'@'{account}'"
            ))
            .await;
    }
    let tls = serde_json::to_value(world.endpoint().tls).expect("JSON");
    sample.target("mysql", |target| {
        place(&mut target["endpoint"], host, at.port, &world.prefix);
        target["endpoint"]["tls"].clone_from(&tls);
        for (index, proxy) in proxies.iter().enumerate() {
            place(&mut target["alsoVerify"][index], "127.0.0.1", proxy.port, &world.prefix);
        }
        if target["accountHost"].is_string() && !of_one_host {
            target["accountHost"] = json!("%");
        }
        place_users(&mut target["strategy"], |suffix| world.name(suffix).to_string());
    });
    sample.admin(target["admin"].as_str().expect("a name"), world.admin(), host);
    let lets_in = async |credential: &rekeyd::secret::Credential| match world.connect(credential).await {
        Ok(session) => {
            session.close().await;
            true
        }
        Err(error) => {
            assert!(error.contains("Access denied"), "no verdict: {error}");
            false
        }
    };
    sample.lives(lets_in).await;
}

pub(super) async fn clickhouse(mut sample: Sample) {
    let corner = Corner::on_two().await;
    corner.say("GRANT SELECT ON {p}.* TO {p}_group").await;
    sample.target("clickhouse", |target| {
        assert_eq!(target["nodes"].as_array().map(Vec::len), Some(2), "one of each node");
        target["nodes"] = json!(corner.servers.nodes(2));
        target["tls"] = json!({"mode": "disable"});
        place_users(&mut target["strategy"], |suffix| corner.name(suffix).to_string());
        if let Some(check) = target["check"].as_str() {
            assert!(check.contains(" shop.orders "), "another table: {check}");
            target["check"] = json!(check.replace(" shop.", &format!(" {}.", corner.prefix)));
        }
    });
    if sample.document()["spec"]["target"]["clickhouse"]["strategy"]["dualPassword"].is_object() {
        corner.say(&making("{p}_a")).await;
    }
    sample.admin("cache-admin", corner.admin_credential(), "127.0.0.1");
    sample.lives(async |credential| corner.lets_in(credential).await).await;
}
