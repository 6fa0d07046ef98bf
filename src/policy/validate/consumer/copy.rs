//! The rules of a copy in a store.

use super::{Breaches, Rule, ends_as_arn};
use crate::ident::{DnsLabel, StorePath};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{AwsCopySpec, CopyContent, VaultCopySpec};
use crate::settings::{CredentialSource, Settings, StoreSettings};
use crate::template::Template;

pub(super) fn vault_rules(at: &FieldPath, copy: &VaultCopySpec, settings: &Settings, found: &mut Breaches) {
    let is_it = |store: &StoreSettings| matches!(store, StoreSettings::Vault(_));
    store_rules(at, &copy.store, (is_it, "at OpenBao or Vault"), settings, found);
    let place = settings.copy_identity(&copy.store, copy.mount.as_ref());
    place_rules(&at.join("path"), &place, &copy.path, settings, found);
    content_rules(at, copy.content(), found);
}

pub(super) fn aws_rules(at: &FieldPath, copy: &AwsCopySpec, settings: &Settings, found: &mut Breaches) {
    let is_it = |store: &StoreSettings| matches!(store, StoreSettings::AwsSecretsManager(_));
    store_rules(at, &copy.store, (is_it, "at AWS Secrets Manager"), settings, found);
    if ends_as_arn(copy.name.as_str()) {
        found.add(at.join("name"), Rule::NameLikeArn(copy.name.clone()));
    }
    place_rules(&at.join("name"), &settings.store_identity(&copy.store), &copy.name, settings, found);
    content_rules(at, copy.content(), found);
}

fn store_rules(
    at: &FieldPath,
    name: &DnsLabel,
    (is_it, what): (impl Fn(&StoreSettings) -> bool, &'static str),
    settings: &Settings,
    found: &mut Breaches,
) {
    match settings.stores.get(name) {
        None => {
            let known = settings.stores.keys().cloned().collect();
            found.add(at.join("store"), Rule::UnknownStore { name: name.clone(), known });
        }
        Some(store) if is_it(store) => {}
        Some(_) => found.add(at.join("store"), Rule::CopyElsewhere(name.clone(), what)),
    }
}

/// By whatever name: what rekeyd keeps for itself is nobody's to write.
fn place_rules(at: &FieldPath, place: &str, path: &StorePath, settings: &Settings, found: &mut Breaches) {
    let is_own = |store: &StoreSettings| store.control_path().is_some_and(|folder| path.is_within(folder));
    if settings.stores.iter().any(|(name, store)| settings.store_identity(name) == place && is_own(store)) {
        found.add(at.clone(), Rule::StorePathInControl(path.clone()));
    }
    for (credential, source) in &settings.credentials {
        if let CredentialSource::Store(stored) = source
            && stored.path == *path
            && settings.store_identity(&stored.name) == place
        {
            let (path, credential) = (path.clone(), credential.clone());
            found.add(at.clone(), Rule::StorePathOfCredential { path, credential });
        }
    }
}

fn content_rules(at: &FieldPath, copy: CopyContent<'_>, found: &mut Breaches) {
    found.text(&at.join("mark"), copy.mark);
    let data = at.join("data");
    if copy.data.is_empty() {
        found.add(data.clone(), Rule::CopyWithoutFields);
    }
    let mut uses_value = copy.data.is_empty();
    for (field, template) in copy.data {
        let at = data.join(field.clone());
        found.text(&at, field);
        if field == copy.mark {
            found.add(at.clone(), Rule::CopyFieldIsMark(field.chars().take(64).collect()));
        }
        match Template::parse(template) {
            Err(error) => {
                uses_value = true;
                found.add(at, Rule::Template(error));
            }
            Ok(template) => uses_value |= template.uses_value(),
        }
    }
    if !uses_value {
        found.add(data, Rule::CopyWithoutValue);
    }
}
