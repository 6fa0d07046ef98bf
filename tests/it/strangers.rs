//! Whatever may listen where a server is expected, and answers as it likes: no verdict comes of it, nothing is taken for
//! done, nothing of it is told, and no more of it is read than an answer has.

mod aws;
mod databases;
mod kubernetes;
mod rabbitmq;
mod vault;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{TlsMode, TlsSpec};
use rekeyd::secret::{Credential, SecretValue, ValueSpec};
use rekeyd::target::{
    AdminCredential, Extent, InstallRequest, Occupancy, Probe, ProbeDepth, RetireRequest, Target,
};

use crate::keys_contract::Step;
use crate::stranger::{INMOST, Manner, Stranger};

/// For whoever answers in some manner, and for whoever does not.
const PATIENT: Duration = Duration::from_secs(20);
const HASTY: Duration = Duration::from_millis(150);

fn name(text: &str) -> Principal {
    text.parse().expect("a principal")
}

fn new(user: &str) -> Credential {
    Credential::new(name(user), ValueSpec::default().generate())
}

struct Admin;

#[async_trait]
impl AdminCredential for Admin {
    async fn credential(&self) -> Result<Credential, Failure> {
        Ok(Credential::new(name("admin"), SecretValue::new(b"hunter2".to_vec())))
    }
}

fn admin() -> Arc<dyn AdminCredential> {
    Arc::new(Admin)
}

const fn plain() -> TlsSpec {
    TlsSpec { mode: TlsMode::Disable, ca_file: None, allow_plaintext: false }
}

/// Every manner, and how long it is waited for.
fn manners() -> impl Iterator<Item = (Manner, Duration)> {
    let slow = Manner::slow().map(|manner| (manner, HASTY));
    Manner::all().into_iter().map(|manner| (manner, PATIENT)).chain(slow)
}

/// Whether a change that is answered in this manner may have been done: whoever refuses it has not passed it on.
fn leaves_a_doubt(manner: &Manner) -> bool {
    !matches!(manner, Manner::Says(300..=499, ..))
}

#[track_caller]
fn untold(failure: Failure) -> Failure {
    let text = format!("{failure} {failure:?} {:?}", failure.remedy());
    assert!(!text.contains(INMOST) && !text.contains("hunter2"), "{text} tells what it must not");
    failure
}

async fn no_verdict(target: &dyn Target, credential: &Credential, said: &dyn std::fmt::Debug) -> Failure {
    match target.probe(credential, ProbeDepth::Login).await {
        Probe::Unknown(failure) => untold(failure),
        verdict => panic!("{said:?}: {verdict:?}"),
    }
}

async fn install(target: &dyn Target, candidate: &Credential) -> Option<Failure> {
    let step = Step::new(1);
    let (attempt, occupancy) = (step.attempt(), Occupancy::Refuse);
    let request = InstallRequest { attempt, candidate, peer: None, beside: None, occupancy };
    target.install(request).await.err().map(untold)
}

async fn retire(target: &dyn Target, principal: &Principal, extent: Extent) -> Option<Failure> {
    let step = Step::new(1);
    let attempt = step.attempt();
    let request = RetireRequest { attempt, principal, extent, outgoing: None, beside: None };
    target.retire(request).await.err().map(untold)
}

/// Nothing was understood from the first word on, so nothing can have been changed.
async fn nothing_comes_of_it(target: &dyn Target, credential: &Credential, said: &dyn std::fmt::Debug) {
    no_verdict(target, credential, said).await;
    let failures = [
        target.usage(&credential.principal).await.err().map(untold),
        install(target, credential).await,
        retire(target, &credential.principal, Extent::Principal).await,
    ];
    for failure in failures {
        let failure = failure.unwrap_or_else(|| panic!("{said:?} is taken for an answer"));
        assert_ne!(failure.class(), FailureClass::Ambiguous, "{said:?}: {failure}");
        assert_ne!(failure.class(), FailureClass::Refused, "{said:?}: {failure}");
    }
}

/// Who cannot show that it is `localhost`, and a file with the authority that is believed: one that another authority
/// vouches for, one with another name, one without TLS.
async fn impostors() -> [(Stranger, tempfile::NamedTempFile); 3] {
    let known = Stranger::with_tls("localhost").await.authority.clone();
    let (unknown, misnamed) =
        (Stranger::with_tls("localhost").await, Stranger::with_tls("server.example.com").await);
    let other = authority(&misnamed.authority);
    [(unknown, authority(&known)), (misnamed, other), (Stranger::plain().await, authority(&known))]
}

/// A file with who vouches for somebody.
fn authority(pem: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), pem).expect("written");
    file
}
