//! rekeyd with its logins taken out, for one comparison only: OpenBao does not try the values that it
//! sets. The product has no such switch.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rekeyd::adapters::Wiring;
use rekeyd::consumer::Consumer;
use rekeyd::failure::{Failure, Finding};
use rekeyd::ident::{DnsLabel, Principal};
use rekeyd::ledger::Ledger;
use rekeyd::policy::spec::{ConsumerSpec, TargetSpec};
use rekeyd::rotation::engine::Adapters;
use rekeyd::secret::Credential;
use rekeyd::store::Store;
use rekeyd::target::{
    InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired, Target, Usage,
};

/// The shipped adapters, whose targets do not log in.
pub(super) struct Unproven(pub(super) Arc<Wiring>);

impl Adapters for Unproven {
    fn store_names(&self) -> Vec<DnsLabel> {
        self.0.store_names()
    }

    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        self.0.store(name)
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        let target = self.0.target(spec)?;
        Ok(target.map(|target| Arc::new(Credulous { target, installed: Mutex::default() }) as _))
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        self.0.consumer(spec)
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        self.0.ledger()
    }
}

/// Takes it that what was installed is accepted, and that everything else is refused.
struct Credulous {
    target: Arc<dyn Target>,
    installed: Mutex<Option<Credential>>,
}

#[async_trait]
impl Target for Credulous {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let installed = self.target.install(request).await?;
        *self.installed.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.candidate.duplicate());
        Ok(installed)
    }

    async fn probe(&self, credential: &Credential, _: ProbeDepth) -> Probe {
        let installed = self.installed.lock().unwrap_or_else(PoisonError::into_inner);
        if installed.as_ref() == Some(credential) { Probe::Accepted } else { Probe::Refused }
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        self.target.usage(principal).await
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        self.target.retire(request).await
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        self.target.preflight(request).await
    }
}
