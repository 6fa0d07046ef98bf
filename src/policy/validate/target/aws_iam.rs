//! The rules of a target at AWS IAM.

use super::{Breaches, Rule, field, length_rule};
use crate::policy::spec::AwsIamSpec;
use crate::settings::{Settings, StoreSettings};

pub(super) fn rules(iam: &AwsIamSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "awsIam"]);
    match settings.stores.get(&iam.store) {
        Some(StoreSettings::AwsSecretsManager(_)) => {}
        Some(_) => found.add(at.join("store"), Rule::StoreIsNotAtAws(iam.store.clone())),
        None => {
            let known = settings.stores.keys().cloned().collect();
            found.add(at.join("store"), Rule::UnknownStore { name: iam.store.clone(), known });
        }
    }
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@-_".contains(&b);
    if !iam.user.as_str().bytes().all(byte) {
        found.add(at.join("user"), Rule::NotAnIamUser(iam.user.clone()));
    }
    length_rule(&at.join("user"), &iam.user, iam.user.as_str().len() <= 64, "64 characters", found);
}
