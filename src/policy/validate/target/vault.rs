//! The rules of an OpenBao or Vault target.

use super::{Breaches, Rule, field};
use crate::ident::Principal;
use crate::policy::shape::FieldPath;
use crate::policy::spec::{TokenSpec, VaultSpec, VaultStrategy};
use crate::settings::{Settings, StoreSettings};

pub(super) fn rules(vault: &VaultSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "vault"]);
    match settings.stores.get(&vault.store) {
        Some(StoreSettings::Vault(_)) => {}
        Some(_) => found.add(at.join("store"), Rule::StoreIsNoVault(vault.store.clone())),
        None => {
            let known = settings.stores.keys().cloned().collect();
            found.add(at.join("store"), Rule::UnknownStore { name: vault.store.clone(), known });
        }
    }
    let at = at.join("strategy");
    match &vault.strategy {
        VaultStrategy::SecretId(secret) => name_rule(&at.join("secretId").join("role"), &secret.role, found),
        VaultStrategy::Token(token) => token_rules(&at.join("token"), token, found),
    }
}

fn token_rules(at: &FieldPath, token: &TokenSpec, found: &mut Breaches) {
    name_rule(&at.join("name"), &token.name, found);
    match &token.role {
        Some(role) => name_rule(&at.join("role"), role, found),
        None if token.policies.is_empty() => found.add(at.join("policies"), Rule::TokenWithoutRights),
        None => {}
    }
    for (index, policy) in token.policies.iter().enumerate() {
        let at = at.join("policies").join(index);
        found.text(&at, policy);
        // It could do whatever rekeyd can, and more: no policy of rekeyd's asks for that.
        if policy.trim().eq_ignore_ascii_case("root") {
            found.add(at, Rule::RootToken);
        }
    }
    for (name, interval) in [("ttl", token.ttl), ("period", token.period)] {
        if interval.is_some_and(|interval| interval.as_duration().as_secs() == 0) {
            found.add(at.join(name), Rule::ZeroInterval);
        }
    }
}

/// A role and a display name become parts of a path.
fn name_rule(at: &FieldPath, name: &Principal, found: &mut Breaches) {
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let text = name.as_str();
    let ends = |end: Option<u8>| end.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !text.bytes().all(byte) || !ends(text.bytes().next()) || !ends(text.bytes().last()) {
        found.add(at.clone(), Rule::NotAVaultName(name.clone()));
    }
}
