//! Walks of faults over policies of installations, on real servers.

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::policy::load::load_policies;

use crate::faults_walk::{DEATHS, FAULTS, Walk};
use crate::installation::Installation;

/// Over the calls to the store and the target.
pub(crate) async fn walk(at: &Installation, policy: &str) {
    of(at, policy).over(&FAULTS, &["store.", "target."]).await;
}

/// The same for a target whose calls take long: deaths after them.
pub(crate) async fn walk_in_short(at: &Installation, policy: &str) {
    of(at, policy).over(&DEATHS, &["target."]).await;
}

/// The same for a target that takes many seconds for each rotation, since it has to settle: deaths after what changes it.
pub(crate) async fn walk_past_changes(at: &Installation, policy: &str) {
    of(at, policy).over(&DEATHS, &["target.mint", "target.retire"]).await;
}

/// A policy of an installation.
pub(crate) fn of(at: &Installation, policy: &str) -> Walk {
    let settings = rekeyd::settings::load(&at.path("rekeyd.yaml")).expect("settings");
    let loaded = load_policies(settings.policies.directory.as_deref(), &[], &settings, SystemClock.now());
    let policy = loaded.policies.into_iter().find(|one| one.name().to_string() == policy).expect("a policy");
    Walk::new(settings, policy)
}
