//! The rules of a store at AWS Secrets Manager.

use super::{Breaches, Rule, address_rule};
use crate::policy::shape::FieldPath;
use crate::settings::{AwsSettings, Partition};

pub(super) fn rules(at: &FieldPath, aws: &AwsSettings, found: &mut Breaches) {
    if !is_region(&aws.region) {
        found.add(at.join("region"), Rule::NotARegion);
    } else if Partition::of(&aws.region).is_none() && !aws.says_where() {
        found.add(at.join("region"), Rule::UnknownPartition);
    }
    if aws.account.as_deref().is_some_and(|account| !is_account(account)) {
        found.add(at.join("account"), Rule::NotAnAccount);
    }
    if aws.kms_key.as_deref().is_some_and(|key| !is_key(key)) {
        found.add(at.join("kmsKey"), Rule::NotAKmsKey);
    }
    if let Some(profile) = &aws.profile {
        found.text(&at.join("profile"), profile);
    }
    for (name, endpoint) in
        [("endpoint", &aws.endpoint), ("iamEndpoint", &aws.iam_endpoint), ("stsEndpoint", &aws.sts_endpoint)]
    {
        if let Some(rule) = endpoint.as_deref().and_then(address_rule) {
            found.add(at.join(name), rule);
        }
    }
    found.timeout(at.join("timeout"), aws.timeout);
}

/// It becomes a part of a host's name.
fn is_region(region: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    region.len() <= 32 && region.split('-').count() >= 3 && region.split('-').all(part)
}

fn is_account(account: &str) -> bool {
    account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())
}

/// The form alone: of an ARN, an alias or an id.
fn is_key(key: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/' | b':');
    let known = key.starts_with("arn:") || key.starts_with("alias/") || !key.contains([':', '/']);
    (1..=2048).contains(&key.len()) && known && key.bytes().all(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_parts_of_host_names() {
        for region in ["eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1"] {
            assert!(is_region(region), "{region}");
        }
        for region in
            ["", "eu", "eu-central", "EU-central-1", "eu-central-1.evil.com", "eu_central_1", "a--1"]
        {
            assert!(!is_region(region), "{region:?}");
        }
    }

    #[test]
    fn keys_have_one_of_three_forms() {
        for key in [
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "alias/rekeyd",
            "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        ] {
            assert!(is_key(key), "{key}");
        }
        for key in ["", "rekeyd key", "alias:rekeyd", "key/1234", "*"] {
            assert!(!is_key(key), "{key:?}");
        }
    }
}
