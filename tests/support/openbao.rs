//! A real OpenBao server for a test: the shared one with a mount of the test's own, or a private one.
//!
//! All calls block: they make what a test needs, and clean up in `drop`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

/// Where the servers of a test run are; `make test` sets it.
const SERVERS: &str = "REKEYD_TEST_SERVERS";

/// A running server and the rights to do everything there.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) ca_file: Option<PathBuf>,
    audit_log: PathBuf,
    root_token: String,
    unseal_key: String,
    /// Never dropped: that must not happen on a thread of an asynchronous runtime either.
    client: &'static reqwest::blocking::Client,
}

impl Server {
    /// The server that all tests of a run share. Never seal or stop it.
    pub(crate) fn shared() -> Self {
        Self::read(&servers())
    }

    /// The one that pods of the cluster reach, over TLS.
    pub(crate) fn of_cluster() -> Self {
        Self::read(&servers().join("cluster"))
    }

    fn read(run: &Path) -> Self {
        let path = run.join("openbao.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("there is no OpenBao server in {}: {error}. Run `make test`", run.display())
        });
        let json: Value = serde_json::from_str(&text).expect("openbao.json is JSON");
        let file = |field: &str| {
            let path = json[field].as_str().expect("a path");
            std::fs::read_to_string(path).expect("a file").trim().to_owned()
        };
        let ca_file = json["caFile"].as_str().map(PathBuf::from);
        Self {
            client: Box::leak(Box::new(client(ca_file.as_deref()))),
            address: json["address"].as_str().expect("an address").into(),
            ca_file,
            audit_log: run.join("openbao/audit.log"),
            root_token: file("rootTokenFile"),
            unseal_key: file("unsealKeyFile"),
        }
    }

    /// Every request and answer, with its values hashed.
    pub(crate) fn audit_log(&self) -> &Path {
        &self.audit_log
    }

    /// Calls the API with the root token. The answer is the status and the body.
    pub(crate) fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self
            .client
            .request(method.parse().expect("a method"), format!("{}/v1/{path}", self.address))
            .header("X-Vault-Token", &self.root_token)
            .body(body.to_string());
        // The blocking client must not run on a thread of an asynchronous runtime.
        let call = move || {
            let answer = request.send().expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.bytes().expect("a body");
            (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
        };
        std::thread::spawn(call).join().expect("a call")
    }

    /// As [`Server::call`], and the answer must be a success.
    #[track_caller]
    pub(crate) fn make(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A mount of the test's own.
    pub(crate) fn mount(&self, version: u8) -> Mount {
        let name = unique("mount");
        self.enable_kv("", &name, version);
        Mount { server: self.clone(), name }
    }

    /// Mounts KV and waits until it is ready: the server prepares version 2 behind its answer. `prefix` is
    /// empty or a namespace and a slash.
    pub(crate) fn enable_kv(&self, prefix: &str, name: &str, version: u8) {
        let body = json!({"type": "kv", "options": {"version": version.to_string()}});
        self.make("POST", &format!("{prefix}sys/mounts/{name}"), body);
        let path = format!("{prefix}{name}/data/none");
        until("the mount is ready", || self.call("GET", &path, json!({})).0 == 404);
    }

    /// A policy of the test's own.
    pub(crate) fn policy(&self, text: &str) -> Policy {
        let name = unique("policy");
        self.make("PUT", &format!("sys/policies/acl/{name}"), json!({"policy": text}));
        Policy { server: self.clone(), name }
    }

    /// A token with one policy and not even the default one.
    pub(crate) fn token(&self, policy: &Policy, options: Value) -> String {
        let mut body =
            json!({"policies": [policy.name], "no_default_policy": true, "no_parent": true, "ttl": "10m"});
        let options = options.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(options);
        let answer = self.make("POST", "auth/token/create", body);
        answer["auth"]["client_token"].as_str().expect("a token").into()
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.make("POST", "auth/token/revoke", json!({"token": token}));
    }
}

/// A mount that goes with the test.
pub(crate) struct Mount {
    server: Server,
    pub(crate) name: String,
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.server.call("DELETE", &format!("sys/mounts/{}", self.name), json!({}));
    }
}

/// A policy that goes with the test.
pub(crate) struct Policy {
    server: Server,
    pub(crate) name: String,
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.server.call("DELETE", &format!("sys/policies/acl/{}", self.name), json!({}));
    }
}

/// A server of the test's own, to seal and to stop.
pub(crate) struct PrivateServer {
    pub(crate) server: Server,
    run: PathBuf,
}

impl PrivateServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with_tls() -> Self {
        Self::start_with(&["--tls"])
    }

    fn start_with(options: &[&str]) -> Self {
        // In the run's folder, so that whoever ends the run finds what a killed test left.
        let run = servers().join(unique("openbao"));
        let output = script().arg("start").arg(&run).args(options).output().expect("deploy/dev/openbao");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { server: Server::read(&run), run }
    }

    pub(crate) fn seal(&self) {
        self.server.make("PUT", "sys/seal", json!({}));
    }

    /// Unseals and waits until the server is active.
    pub(crate) fn unseal(&self) {
        self.server.make("PUT", "sys/unseal", json!({"key": self.server.unseal_key}));
        until("the server is active", || self.server.call("GET", "sys/health", json!({})).0 == 200);
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let stopped = script().arg("stop").arg(&self.run).status();
        let _ = std::fs::remove_dir(&self.run);
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "the server was not stopped");
        }
    }
}

pub(crate) fn client(ca_file: Option<&Path>) -> reqwest::blocking::Client {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        roots.add(CertificateDer::from_pem_file(path).expect("a certificate")).expect("an authority");
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::blocking::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    std::thread::spawn(move || builder.build()).join().expect("no panic").expect("a client")
}

/// Looks until something is so that the server does behind its answer.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come to pass that {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/openbao"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "`make test` says through the environment where the servers are"
)]
pub(crate) fn servers() -> PathBuf {
    match std::env::var_os(SERVERS) {
        Some(path) => path.into(),
        None => panic!("{SERVERS} does not say where the test servers are. Run `make test`"),
    }
}

/// A name that no other test has, in this run or beside it.
pub(crate) fn unique(kind: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{kind}-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}
