//! What a real OpenBao makes as a target, with exactly the documented rights.

mod life;
mod rotation;
mod secret_id;
mod token;

use rekeyd::failure::Failure;
use rekeyd::policy::spec::VaultSpec;
use rekeyd::settings::VaultSettings;
use rekeyd::target::vault::VaultTarget;
use rekeyd::target::{MintRequest, Target as _};

use crate::proxy::{Fault, Proxy};
use crate::vault_support::World;

/// The settings, with a proxy between that breaks what carries the trigger.
async fn broken(world: &World, trigger: &'static str, fault: Fault) -> (VaultSettings, Proxy) {
    let mut settings = world.settings();
    let port = settings.address.rsplit(':').next().expect("a port").parse().expect("a port");
    let proxy = Proxy::start(("127.0.0.1", port), trigger, fault).await;
    settings.address = format!("http://127.0.0.1:{}", proxy.port);
    settings.timeout = rekeyd::policy::spec::Interval::from_duration(std::time::Duration::from_millis(1_500));
    (settings, proxy)
}

/// A key is made, and the answer does not arrive.
async fn mint_in_vain(world: &World, spec: VaultSpec, request: MintRequest<'_>, fault: Fault) -> Failure {
    let (settings, proxy) = broken(world, "rekeyd_rotation", fault).await;
    let target = VaultTarget::open(spec, &settings).expect("a target");
    let failure = target.mint(request).await.expect_err("no answer came");
    assert!(proxy.faults() > 0);
    failure
}
