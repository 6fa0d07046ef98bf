//! The TLS modes at a management API that has a certificate.

use std::path::PathBuf;

use rekeyd::failure::FailureClass;
use rekeyd::policy::spec::{TlsMode, TlsSpec};
use rekeyd::target::rabbitmq::RabbitmqTarget;
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use super::install;
use crate::postgres_support::{Try, credential, known};
use crate::proxy::{Fault, Proxy};
use crate::rabbitmq_support::World;

const UNTRUSTED: &str = "not signed by a trusted authority";
const MISNAMED: &str = "does not name this host";

#[tokio::test(flavor = "multi_thread")]
async fn each_tls_mode_checks_what_it_says() {
    let world = World::shared().await;
    let [a, _] = world.pair();
    let mut one = credential(a.as_str());
    let own = Some(world.server.ca_file.clone());
    let folder = tempfile::tempdir().expect("a folder");
    let foreign = folder.path().join("foreign.pem");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&foreign, other.cert.pem()).expect("written");
    let foreign = Some(foreign);
    // The certificate names localhost and 127.0.0.1: through this the server has a name that it does not.
    let at = (world.server.host.as_str(), world.server.tls_port);
    let alias = Proxy::start_at([127, 0, 0, 2], at, "never", Fault::Silence).await;
    for (number, (mode, ca, host, expected)) in (1..).zip([
        (TlsMode::VerifyFull, own.clone(), "localhost", Ok(())),
        (TlsMode::VerifyFull, own.clone(), "127.0.0.1", Ok(())),
        (TlsMode::VerifyFull, own.clone(), "127.0.0.2", Err(MISNAMED)),
        (TlsMode::VerifyFull, foreign.clone(), "localhost", Err(UNTRUSTED)),
        (TlsMode::VerifyFull, None, "localhost", Err(UNTRUSTED)),
        (TlsMode::VerifyFull, Some(PathBuf::from("/absent.pem")), "localhost", Err("cannot read")),
        (TlsMode::VerifyCa, own.clone(), "127.0.0.1", Ok(())),
        (TlsMode::VerifyCa, own, "127.0.0.2", Ok(())),
        (TlsMode::VerifyCa, foreign, "127.0.0.1", Err(UNTRUSTED)),
        (TlsMode::Require, None, "127.0.0.2", Ok(())),
    ]) {
        let case = format!("{mode:?} {ca:?} {host}");
        let mut spec = world.spec();
        host.clone_into(&mut spec.endpoint.host);
        spec.endpoint.port = if host == "127.0.0.2" { alias.port } else { world.server.tls_port };
        spec.endpoint.tls = TlsSpec { mode, ca_file: ca, allow_plaintext: false };
        let target = RabbitmqTarget::new(spec, known(world.admin()));
        let next = credential(a.as_str());
        let installed = install(&target, &Try::new(number), &next, None).await;
        if installed.is_ok() {
            one = next;
        }
        let probe = target.probe(&one, ProbeDepth::Check).await;
        match (expected, installed, probe) {
            (Ok(()), Ok(_), Probe::Accepted) => {}
            (Err(reason), Err(one), Probe::Unknown(two)) => {
                for failure in [one, two] {
                    assert!(failure.reason().contains(reason), "{case}: {failure}");
                    assert_eq!(failure.class(), FailureClass::Invalid, "{case}");
                    assert!(failure.remedy().is_some(), "{case}");
                }
            }
            other => panic!("{case}: {other:?}"),
        }
    }
    // Who is not spoken to in TLS there is no server.
    let mut spec = world.spec();
    spec.endpoint.port = world.server.tls_port;
    let plain = RabbitmqTarget::new(spec, known(world.admin()));
    let probe = plain.probe(&one, ProbeDepth::Login).await;
    assert!(matches!(probe, Probe::Unknown(_)), "{probe:?}");
    assert_eq!(world.target().probe(&one, ProbeDepth::Login).await, Probe::Accepted);
}
