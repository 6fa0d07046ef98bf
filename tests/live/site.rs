//! One rekeyd on real servers: an installation, its database, its store, and what a user would look at.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekeyd::ident::PolicyName;
use rekeyd::rotation::run::Document;
use rekeyd::secret::Credential;
use rekeyd::store::{self, Place, Store};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::installation::{Installation, read};
use crate::openbao;
use crate::postgres_support::{World, credential_of, soon, text};
use crate::processes::Answer;

pub(crate) const POLICY: &str = "orders/orders-db";
pub(crate) const NAME: &str = "orders-db";
pub(crate) const PATH: &str = "apps/orders/db";

/// An installation, and a database whose credential it rotates.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) at: Installation,
    /// Where the store is, unless it is the embedded one.
    pub(crate) bao: Option<Bao>,
}

/// A mount of its own at OpenBao, and the policy of rekeyd's token there.
pub(crate) struct Bao {
    pub(crate) server: openbao::Server,
    pub(crate) mount: openbao::Mount,
    pub(crate) policy: openbao::Policy,
}

impl Site {
    /// Two users that take turns. No role of them exists yet.
    pub(crate) async fn alternating() -> Self {
        Self::alternating_on(World::shared().await).await
    }

    pub(crate) async fn alternating_on(world: World) -> Self {
        let strategy = pair(&world);
        Self::on(world, strategy).await
    }

    /// One user, who exists.
    pub(crate) async fn in_place() -> Self {
        Self::in_place_on(World::shared().await).await
    }

    pub(crate) async fn in_place_on(world: World) -> Self {
        world.sql("CREATE ROLE {p}_a NOLOGIN").await;
        let user = world.name("a");
        Self::on(world, json!({"inPlace": {"user": user.as_str()}})).await
    }

    pub(crate) async fn on(world: World, strategy: Value) -> Self {
        let at = Installation::new().await;
        let admin = world.admin();
        write_secret(&at.path("admin.password"), text(admin));
        at.change_settings(|settings| {
            settings["credentials"]["orders-admin"] =
                json!({"file": {"username": admin.principal.as_str(), "path": "admin.password"}});
        });
        let site = Self { world, at, bao: None };
        site.at.write_policy(&site.document(NAME, strategy));
        site
    }

    /// A policy for this site's database, with one file as its reader and no grace.
    pub(crate) fn document(&self, name: &str, strategy: Value) -> Value {
        let endpoint = self.world.endpoint();
        json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": name, "namespace": "orders"},
            "spec": {
                "target": {"postgres": {
                    "endpoint": {
                        "host": endpoint.host, "port": endpoint.port, "database": endpoint.database,
                        "tls": {"mode": "disable"},
                    },
                    "admin": "orders-admin",
                    "strategy": strategy,
                    "check": "select 1",
                }},
                "store": {"name": "main", "path": format!("apps/orders/{}", name.trim_start_matches("orders-"))},
                "consumers": [{"file": {
                    "path": self.at.path(&format!("{name}.env")),
                    "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        })
    }

    /// The policy as it is now.
    pub(crate) fn policy(&self) -> Value {
        serde_json::from_str(&read(&self.at.path(&format!("policies/{NAME}.yaml")))).expect("JSON")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.at.path(&format!("{NAME}.env"))
    }

    /// The credential that the reader finds in its file.
    pub(crate) fn delivered(&self) -> Credential {
        credential_in(&read(&self.file()))
    }

    /// Keeps values in OpenBao from now on, with the documented rights alone.
    pub(crate) fn move_to_openbao(&mut self) {
        self.move_to(openbao::Server::shared(), 2);
    }

    pub(crate) fn move_to(&mut self, server: openbao::Server, version: u8) {
        let mount = server.mount(version);
        let rights = include_str!("../../deploy/openbao/rekeyd.hcl");
        let policy = server.policy(&rights.replace("path \"secret/", &format!("path \"{}/", mount.name)));
        self.at.change_settings(|settings| {
            settings["stores"]["main"] = json!({"vault": {
                "address": server.address, "mount": mount.name, "auth": {"token": {"file": "bao.token"}},
            }});
        });
        let bao = Bao { server, mount, policy };
        write_secret(&self.at.path("bao.token"), &bao.server.token(&bao.policy, json!({})));
        self.bao = Some(bao);
    }

    /// The store, opened as rekeyd does.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        let settings = rekeyd::settings::load(&self.at.path("rekeyd.yaml")).expect("settings");
        let name = "main".parse().expect("a label");
        store::build(&name, &settings.stores[&name]).expect("the store")
    }

    /// The credential that is current in the store.
    pub(crate) async fn stored(&self) -> Option<Credential> {
        let (path, fields) = (PATH.parse().expect("a path"), Default::default());
        let current = self.store().current(Place { path: &path, fields: &fields }).await.expect("a reading");
        current.map(|current| current.credential)
    }

    /// The candidate of the open rotation, if there is one.
    pub(crate) async fn candidate(&self) -> Option<Credential> {
        self.candidate_of(POLICY).await
    }

    pub(crate) async fn candidate_of(&self, policy: &str) -> Option<Credential> {
        let policy: PolicyName = policy.parse().expect("a name");
        let control = self.store().control(&policy).await.expect("a reading")?;
        match Document::from_wire(&control.document).expect("a document") {
            Document::Open(run) => run.candidate,
            Document::Closed(_) => None,
        }
    }

    /// Whether the database lets a credential in. Anything but a verdict on it is a failed test.
    pub(crate) async fn accepts(&self, credential: &Credential) -> bool {
        self.world.accepts(credential).await
    }

    /// Rotates, which must go well, and gives the value in force.
    pub(crate) async fn rotate(&self) -> Credential {
        self.at.run(&["rotate", POLICY]).await.ended(0);
        self.delivered()
    }

    /// Rotates, however that ends, and gives the candidate that there was meanwhile.
    pub(crate) async fn rotate_seen(&self) -> (Credential, Answer) {
        let mut command = self.at.command(&["rotate", POLICY]);
        // What goes back soon has no candidate any more.
        command.env("REKEYD_DISTURB", "publish/consumer.publish#1=stop");
        let rotating = self.at.spawn(command);
        assert!(rotating.stands_still().await, "it ended");
        let candidate = self.candidate().await.expect("a candidate");
        rotating.signal(Signal::CONT);
        (candidate, rotating.end().await)
    }

    /// Rotates in vain, for as short a time as one can ask for.
    pub(crate) async fn rotate_in_vain(&self) -> Answer {
        self.at.run(&["rotate", POLICY, "--patience", "0s", "-o", "text"]).await.ended(1)
    }

    pub(crate) async fn resume_in_vain(&self) -> Answer {
        self.at.run(&["resume", POLICY, "--patience", "0s", "-o", "text"]).await.ended(1)
    }

    /// Asserts that the world is in order: the current value is the same everywhere and works, the dead
    /// ones are refused, no rotation is open, the ledger is whole and has so many records. Gives the latest.
    pub(crate) async fn assert_in_order(&self, dead: &[Credential], records: usize) -> Value {
        let current = self.delivered();
        assert_eq!(self.stored().await.as_ref(), Some(&current), "the store and the file differ");
        assert!(self.accepts(&current).await, "the current value is refused");
        for old in dead {
            assert!(!self.accepts(old).await, "an old value of {} is accepted", old.principal);
        }
        assert!(self.candidate().await.is_none(), "a rotation is open");
        self.at.run(&["audit", "verify"]).await.ended(0);
        let mut log = self.records().await;
        assert_eq!(log.len(), records, "{log:#?}");
        log.swap_remove(0)
    }

    /// The ledger's records, the newest first. No rotation has two.
    pub(crate) async fn records(&self) -> Vec<Value> {
        let log = self.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
        let records: Vec<Value> =
            log.as_array().expect("a list").iter().map(|entry| entry["record"].clone()).collect();
        let mut rotations: Vec<_> = records.iter().map(|record| record["rotation"].to_string()).collect();
        rotations.sort_unstable();
        rotations.dedup();
        assert_eq!(rotations.len(), records.len(), "a rotation has two records: {records:#?}");
        records
    }

    /// Where the policy stands.
    pub(crate) async fn status(&self) -> Value {
        let answer: Answer = self.at.run(&["status", POLICY, "-o", "json"]).await;
        answer.json()[0].clone()
    }
}

impl Site {
    pub(crate) fn bao(&self) -> &Bao {
        self.bao.as_ref().expect("it keeps values in OpenBao")
    }

    /// Writes the value at the policy's path as somebody else would.
    pub(crate) async fn overwrite(&self, credential: &Credential) {
        if let Some(bao) = &self.bao {
            let data = json!({"username": credential.principal.as_str(), "password": text(credential)});
            bao.server.make("POST", &format!("{}/data/{PATH}", bao.mount.name), json!({"data": data}));
            return;
        }
        let store = self.store();
        let (path, fields) = (PATH.parse().expect("a path"), Default::default());
        let place = Place { path: &path, fields: &fields };
        let current = store.current(place).await.expect("a reading").map(|current| current.revision);
        let promotion = rekeyd::store::Promotion {
            credential,
            expected: current.as_ref(),
            rotation: rekeyd::ident::RotationId::generate(),
            version: rekeyd::ident::Version::new(1),
            extra: &Default::default(),
        };
        store.promote(place, promotion).await.expect("written");
    }

    /// Makes the check statement of coming rotations wait for a lock, which is taken here.
    pub(crate) async fn hold_verify(&self) {
        self.at.change_policy(NAME, |policy| {
            policy["spec"]["target"]["postgres"]["check"] = json!("select pg_advisory_lock_shared(42)");
        });
        self.world.sql("SELECT pg_advisory_lock(42)").await;
    }

    pub(crate) async fn verify_is_held(&self) {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{p}' AND wait_event = 'advisory'";
        soon("the check waits", async || self.world.row(waiting).await == "1").await;
    }

    pub(crate) async fn release_verify(&self) {
        self.world.sql("SELECT pg_advisory_unlock(42)").await;
    }
}

impl Bao {
    /// What an application finds at a path.
    pub(crate) fn read(&self, path: &str) -> Value {
        let mut answer = self.server.make("GET", &format!("{}/data/{path}", self.mount.name), json!({}));
        answer["data"]["data"].take()
    }

    pub(crate) fn token(&self) -> String {
        self.server.token(&self.policy, json!({}))
    }
}

/// The strategy of two users that take turns.
pub(crate) fn pair(world: &World) -> Value {
    let users = json!([world.name("a").as_str(), world.name("b").as_str()]);
    json!({"alternating": {"users": users, "memberOf": [world.name("group").as_str()]}})
}

/// The two lines of a reader's file.
pub(crate) fn credential_in(file: &str) -> Credential {
    let mut lines = file.lines();
    let principal = lines.next().expect("a principal").parse().expect("a principal");
    credential_of(&principal, lines.next().expect("a value"))
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a changed mode");
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, value: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).expect("a file");
    file.write_all(value.as_bytes()).expect("written");
}

/// A value that only its readers share.
pub(crate) fn generated(at: &Installation) -> Value {
    json!({
        "apiVersion": "rekeyd.dev/v1alpha1",
        "kind": "RotationPolicy",
        "metadata": {"name": "session-key", "namespace": "shop"},
        "spec": {
            "target": {"generated": {}},
            "store": {"name": "main", "path": "shop/session-key"},
            "consumers": [{"file": {"path": at.path("session.key"), "content": "{{ value }}"}}],
        },
    })
}

/// A bare repository to push to.
pub(crate) fn bare(site: &Site, name: &str) -> String {
    git(&site.at.path(""), &["init", "-q", "--bare", "-b", "main", name]);
    site.at.path(name).display().to_string()
}

pub(crate) fn commits(repository: &Path) -> usize {
    git(repository, &["rev-list", "--count", "main"]).parse().expect("a number")
}

/// Stock Git, in a folder.
#[track_caller]
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    String::from_utf8(git_bytes(folder, arguments)).expect("text").trim().to_owned()
}

#[track_caller]
pub(crate) fn git_bytes(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output =
        std::process::Command::new("git").arg("-C").arg(folder).args(arguments).output().expect("git");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
