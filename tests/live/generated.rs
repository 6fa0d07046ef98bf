//! Keys that rekeyd makes itself, for the systems that take them: a real `sshd`, and TLS.

use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::installation::Installation;
use crate::sshd;

const POLICY: &str = "platform/key";

/// A policy of a generated value, whose readers are files of these contents.
async fn installed(value: &Value, files: &[(&str, &str)]) -> Installation {
    let at = Installation::new().await;
    let file = |(name, content): &(&str, &str)| json!({"file": {"path": at.path(name), "content": content, "mode": "0600"}});
    at.write_policy(&json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
        "metadata": {"name": "key", "namespace": "platform"},
        "spec": {
            "target": {"generated": {}},
            "value": value,
            "store": {"name": "main", "path": "platform/key"},
            "consumers": files.iter().map(file).collect::<Vec<_>>(),
            "retire": {"grace": "0s"},
        },
    }));
    at
}

async fn rotate(at: &Installation) {
    at.run(&["rotate", POLICY]).await.ended(0);
}

/// Logs in at a real server: the private key by the one file, the public one by the other.
#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_key_that_a_server_takes() {
    let value = json!({"sshKey": {"comment": "backup"}});
    let at = installed(&value, &[("key", "{{ value }}"), ("key.pub", "{{ parts.publicKey }}\n")]).await;
    rotate(&at).await;
    let earlier = std::fs::read(at.path("key")).expect("a key");
    let folder = tempfile::tempdir().expect("a folder");
    let server = sshd::Server::start(folder.path(), "127.0.0.1");
    let log_in = |key: &std::path::Path| {
        std::fs::copy(at.path("key.pub"), folder.path().join("key.pub")).expect("a copy");
        server.log_in(key)
    };
    assert!(log_in(&at.path("key")), "the server refuses the key");
    rotate(&at).await;
    let before = at.path("before");
    std::fs::write(&before, earlier).expect("a file");
    std::fs::set_permissions(&before, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    assert!(log_in(&at.path("key")), "the server refuses the new key");
    assert!(!log_in(&before), "the server takes the key before");
    let derived = sshd::run(Command::new("ssh-keygen").arg("-y").arg("-f").arg(at.path("key")));
    let public = std::fs::read_to_string(at.path("key.pub")).expect("a key");
    assert_eq!(public.trim_end(), derived);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_key_is_taken_over_by_itself() {
    let at = installed(&json!({"sshKey": {}}), &[("key.pub", "{{ parts.publicKey }}\n")]).await;
    let own = at.path("own");
    sshd::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&own));
    at.run_with(&["adopt", POLICY], b"hunter2\n").await.ended(1).says(&["not an SSH key"]);
    let key = std::fs::read(&own).expect("a key");
    at.run_with(&["adopt", POLICY], &key).await.ended(0);
    rotate(&at).await;
    assert!(std::fs::read_to_string(at.path("key.pub")).expect("a file").starts_with("ssh-ed25519 "));
}

/// A client that trusts the authority talks to a server with the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_a_client_trusts() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of a test");
    let authority = params.self_signed(&key).expect("a certificate");
    let value =
        json!({"certificate": {"authority": "internal", "dnsNames": ["orders.test"], "validFor": "1h"}});
    let files = [
        ("tls.key", "{{ value }}"),
        ("tls.crt", "{{ parts.certificate }}"),
        ("ca.crt", "{{ parts.authority }}"),
    ];
    let at = installed(&value, &files).await;
    let check = || async { at.run(&["check"]).await };
    check().await.ended(1).says(&["there is no authority `internal`"]);
    std::fs::write(at.path("ca.pem"), authority.pem()).expect("a file");
    std::fs::write(at.path("ca.key"), "none").expect("a file");
    at.change_settings(|settings| {
        let names = json!(["*.test"]);
        settings["authorities"] =
            json!({"internal": {"certificateFile": "ca.pem", "keyFile": "ca.key", "names": names}});
    });
    let may = |usages: &[&str]| {
        at.change_settings(|settings| settings["authorities"]["internal"]["usages"] = json!(usages));
    };
    may(&["client"]);
    check().await.ended(1).says(&["do not let the authority `internal` sign what is for a `server`"]);
    may(&[]);
    check().await.ended(1).says(&["an authority that signs nothing"]);
    may(&["server", "client"]);
    check().await.ended(0);
    let preflight = async || at.run(&["preflight", POLICY]).await;
    preflight().await.ended(1).says(&["authority internal", "its key is none"]);
    at.run(&["rotate", POLICY]).await.ended(1).says(&["cannot use authority internal", "its key is none"]);
    std::fs::write(at.path("ca.key"), key.serialize_pem()).expect("a file");
    // It outlives what it signs.
    let now = rekeyd::clock::Clock::now(&rekeyd::clock::SystemClock).as_second();
    let mut ending = params;
    ending.not_after = time::OffsetDateTime::from_unix_timestamp(now + 1_800).expect("a moment");
    std::fs::write(at.path("ca.pem"), ending.self_signed(&key).expect("a certificate").pem())
        .expect("a file");
    preflight().await.ended(1).says(&["authority internal", "is to be valid for 1h from now on"]);
    std::fs::write(at.path("ca.pem"), authority.pem()).expect("a file");
    preflight().await.ended(0).says(&["authority internal", "it signs, and its own certificate ends at"]);

    let mut chains = Vec::new();
    for usage in ["server", "server", "client"] {
        at.change_policy("key", |policy| policy["spec"]["value"]["certificate"]["usages"] = json!([usage]));
        rotate(&at).await;
        let read = |name: &str| std::fs::read(at.path(name)).expect("a file");
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&read("tls.crt")).collect::<Result<_, _>>().expect("PEM");
        let private = PrivateKeyDer::from_pem_slice(&read("tls.key")).expect("a key");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.crt")).expect("PEM")).expect("an authority");
        // One for clients is no server's.
        assert_eq!(handshake(chain.clone(), private, roots).await, usage == "server");
        chains.push(chain);
    }
    assert_ne!(chains[0], chains[1]);
}

async fn handshake(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: rustls::RootCertStore,
) -> bool {
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("key and certificate belong together");
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async {
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    };
    let name = ServerName::try_from("orders.test").expect("a name");
    let ask = async {
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.map(|_| said)
    };
    let (served, said) = tokio::join!(serve, ask);
    served.is_ok() && said.is_ok_and(|said| said == "hello")
}
