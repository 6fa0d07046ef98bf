//! The TLS modes: each accepts what libpq's accepts, and none falls back.

use std::path::PathBuf;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::{TlsMode, TlsSpec};
use rekeyd::secret::Credential;
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use super::install;
use crate::postgres_support::{Server, Try, World, credential};
use crate::proxy::{Fault, Proxy};

/// A check that succeeds only over TLS.
const OVER_TLS: &str = "SELECT 1 / ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_checks_what_it_says() {
    let (world, a) = world(World::shared().await).await;
    let own = world.server.at().ca_file.clone();
    assert!(own.is_some(), "the shared server has TLS");
    let folder = tempfile::tempdir().expect("a folder");
    let foreign = folder.path().join("foreign.pem");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&foreign, other.cert.pem()).expect("written");
    let foreign = Some(foreign);
    // The certificate names localhost and 127.0.0.1: through this the server has a name that it does not.
    let at = world.server.at();
    let alias = Proxy::start_at([127, 0, 0, 2], (&at.host, at.port), "never", Fault::Silence).await;

    const UNTRUSTED: &str = "not signed by a trusted authority";
    const MISNAMED: &str = "does not name this host";
    for (mode, ca, host, expected) in [
        (TlsMode::Require, None, "127.0.0.1", Ok(())),
        (TlsMode::Require, None, "127.0.0.2", Ok(())),
        (TlsMode::VerifyCa, own.clone(), "127.0.0.1", Ok(())),
        (TlsMode::VerifyCa, own.clone(), "127.0.0.2", Ok(())),
        (TlsMode::VerifyCa, foreign.clone(), "127.0.0.1", Err(UNTRUSTED)),
        (TlsMode::VerifyCa, None, "127.0.0.1", Err(UNTRUSTED)),
        (TlsMode::VerifyFull, own.clone(), "127.0.0.1", Ok(())),
        (TlsMode::VerifyFull, own.clone(), "localhost", Ok(())),
        (TlsMode::VerifyFull, own.clone(), "127.0.0.2", Err(MISNAMED)),
        (TlsMode::VerifyFull, foreign.clone(), "127.0.0.1", Err(UNTRUSTED)),
        (TlsMode::VerifyFull, None, "127.0.0.1", Err(UNTRUSTED)),
        (
            TlsMode::VerifyFull,
            Some(PathBuf::from("/absent.pem")),
            "127.0.0.1",
            Err("cannot read the authorities"),
        ),
    ] {
        let case = format!("{mode:?} {ca:?} {host}");
        let mut spec = world.in_place();
        spec.check = Some(OVER_TLS.to_owned());
        spec.endpoint.tls = TlsSpec { mode, ca_file: ca, allow_plaintext: false };
        host.clone_into(&mut spec.endpoint.host);
        if host == "127.0.0.2" {
            spec.endpoint.port = alias.port;
        }
        let target = world.target(spec);
        let probe = target.probe(&a, ProbeDepth::Check).await;
        let usage = target.usage(&a.principal).await;
        match (expected, probe, usage) {
            (Ok(()), Probe::Accepted, Ok(_)) => {}
            (Err(reason), Probe::Unknown(one), Err(two)) => {
                for failure in [one, two] {
                    assert!(failure.reason().contains(reason), "{case}: {failure}");
                    assert_eq!(failure.class(), FailureClass::Invalid, "{case}");
                    assert!(failure.remedy().is_some() || reason.starts_with("cannot read"), "{case}");
                }
            }
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disable_means_plaintext_and_nothing_else_does() {
    let (world, a) = world(World::shared().await).await;
    let mut spec = world.in_place();
    spec.check = Some(OVER_TLS.to_owned());
    let probe = world.target(spec).probe(&a, ProbeDepth::Check).await;
    assert!(matches!(probe, Probe::Unfit(_)), "{probe:?}");

    let (world, a) = self::world(World::on(Server::private(&[])).await).await;
    for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let mut spec = world.in_place();
        let ca = Server::shared().at().ca_file.clone();
        spec.endpoint.tls = TlsSpec { mode, ca_file: ca, allow_plaintext: false };
        match world.target(spec).probe(&a, ProbeDepth::Login).await {
            Probe::Unknown(failure) => {
                assert_eq!(failure.class(), FailureClass::Invalid);
                assert_eq!(failure.reason(), "the server does not offer TLS", "{mode:?}");
            }
            other => panic!("{mode:?}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_needs_no_tls() {
    let (world, a) = world(World::shared().await).await;
    let mut spec = world.in_place();
    spec.endpoint.tls = TlsSpec::default();
    spec.endpoint.host = world.server.at().socket.clone();
    let target = world.target(spec);
    assert_eq!(target.probe(&a, ProbeDepth::Login).await, Probe::Accepted);
    target.usage(&a.principal).await.expect("usage");
}

/// The world with one installed role.
async fn world(world: World) -> (World, Credential) {
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let a = credential(world.name("a").as_str());
    install(&world.target(world.in_place()), &Try::new(1), &a, None).await.expect("installed");
    (world, a)
}
