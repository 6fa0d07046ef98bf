//! Looks at everything that a policy's rotation will need, and changes nothing.

use super::Wiring;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, Finding};
use crate::policy::Policy;
use crate::rotation::engine::Adapters as _;
use crate::rotation::opening::moved;
use crate::rotation::run::Document;
use crate::rotation::sitting::read_document;
use crate::schedule::needed_life;
use crate::secret::{CertificateSpec, Credential};
use crate::store::{self, Place};
use crate::target::PreflightRequest;

impl Wiring {
    /// Store, authority, target and consumers, in this order.
    pub async fn preflight(&self, policy: &Policy) -> Vec<Finding> {
        let spec = policy.spec();
        let (mut findings, current) = self.in_force(policy).await;
        findings.extend(spec.value.certificate.as_ref().and_then(|spec| self.preflight_authority(spec)));
        match self.target(&spec.target) {
            Err(failure) => findings.push(Finding::from_failure("target", &failure)),
            Ok(None) => {}
            Ok(Some(target)) => {
                let request = PreflightRequest { policy: policy.name(), current: current.as_ref() };
                findings.extend(target.preflight(request).await);
                let needed = needed_life(spec, policy.name(), SystemClock.now());
                findings.extend(target.preflight_life(needed).await);
            }
        }
        for spec in &spec.consumers {
            match self.consumer(spec) {
                Err(failure) => findings.push(Finding::from_failure("consumer", &failure)),
                Ok(consumer) => findings.extend(consumer.preflight(policy.name()).await),
            }
        }
        findings
    }

    /// Whether whoever is to sign certificates can sign one that lasts as long as the policy says.
    fn preflight_authority(&self, spec: &CertificateSpec) -> Option<Finding> {
        let name = spec.authority.as_ref()?;
        let subject = format!("authority {name}");
        let ends = match self.authority(name) {
            Ok(authority) => authority.ends(),
            Err(failure) => return Some(Finding::from_failure(subject, &failure)),
        };
        let (now, valid_for) = (SystemClock.now(), spec.valid_for);
        Some(match now.checked_add(valid_for.as_signed()) {
            Ok(needed) if needed <= ends => {
                Finding::pass(subject, format!("it signs, and its own certificate ends at {ends:.0}"))
            }
            _ => Finding::fail(
                subject,
                format!("it ends at {ends:.0}, and what it signs is to be valid for {valid_for} from now on"),
                "renew the authority's certificate, or shorten `validFor`",
            ),
        })
    }

    /// What is to be said of the store, and the credential in force that the policy's target may see.
    pub async fn in_force(&self, policy: &Policy) -> (Vec<Finding>, Option<Credential>) {
        let (mut findings, mut current) = self.preflight_store(policy).await;
        if let Some(moved) = self.moved(policy).await {
            findings.push(Finding::from_failure("target", &moved));
            // Another server than the one that made it does not get to see it.
            current = None;
        }
        (findings, current)
    }

    /// Why the value in force is not to be tried at the policy's target.
    async fn moved(&self, policy: &Policy) -> Option<Failure> {
        let spec = &policy.spec().store;
        if self.stores.settings.get(&spec.name).and_then(store::preflight_absent).is_some() {
            return None;
        }
        let control = self.store(&spec.name).ok()?.control(policy.name()).await.ok()??;
        let doing = format!("rotate {}", policy.name());
        match read_document(policy.name(), &control.document).ok()? {
            Document::Closed(marker) => moved(policy, &marker, &doing),
            Document::Open(run) => moved(policy, &run.before, &doing),
        }
    }

    /// The store, and the credential in force there.
    async fn preflight_store(&self, policy: &Policy) -> (Vec<Finding>, Option<Credential>) {
        let spec = &policy.spec().store;
        let absent = self.stores.settings.get(&spec.name).and_then(store::preflight_absent);
        if let Some(findings) = absent {
            return (findings, None);
        }
        match self.store(&spec.name) {
            Err(failure) => (vec![Finding::from_failure(format!("store {}", spec.name), &failure)], None),
            Ok(store) => {
                let findings = store.preflight(Place::from(spec), policy.name()).await;
                let current = store.current(Place::from(spec)).await.ok().flatten();
                (findings, current.map(|current| current.credential))
            }
        }
    }
}
