//! The rights that rekeyd needs at AWS for the policies that there are, as a policy of IAM: on each secret by its name,
//! and nothing that deletes one; on each user whose keys it rotates. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::ident::{DnsLabel, StorePath};
use crate::policy::Policy;
use crate::policy::spec::{AwsCopySpec, ConsumerSpec, TargetSpec};
use crate::policy::validate::ends_as_arn;
use crate::settings::{AwsSettings, CredentialSource, Partition, Settings, StoreSettings};

/// IAM takes no longer policy of a role, spaces not counted.
pub const LONGEST: usize = 10_240;

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRights {
    #[error("the settings have no store at AWS Secrets Manager of that name")]
    NotThere,
    #[error("the settings do not say which account it is of")]
    NoAccount,
}

impl NoRights {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotThere => "name one of `stores` that is `awsSecretsManager`",
            Self::NoAccount => "add `account` to the store, its twelve digits in quotes",
        }
    }
}

/// The policy of IAM for the policies that keep their values in a store.
///
/// # Errors
/// When the settings do not say enough.
pub fn policy<'a>(
    settings: &Settings,
    policies: impl IntoIterator<Item = &'a Policy>,
    store: &DnsLabel,
) -> Result<Value, NoRights> {
    let Some(StoreSettings::AwsSecretsManager(aws)) = settings.stores.get(store) else {
        return Err(NoRights::NotThere);
    };
    let at = Place::new(aws)?;
    let policies: Vec<&Policy> = policies.into_iter().collect();
    let users: BTreeSet<String> = policies
        .iter()
        .filter_map(|policy| match &policy.spec().target {
            TargetSpec::AwsIam(iam) if iam.store == *store => Some(iam.user.as_str()),
            _ => None,
        })
        .flat_map(|user| at.user(user))
        .collect();
    let (mut values, mut control) = (BTreeSet::new(), BTreeSet::new());
    let copies: Vec<&AwsCopySpec> = policies
        .iter()
        .flat_map(|policy| &policy.spec().consumers)
        .filter_map(|consumer| match consumer {
            ConsumerSpec::AwsSecretsManager(copy) => Some(copy),
            _ => None,
        })
        .collect();
    let mut absent = BTreeSet::new();
    for policy in policies.iter().filter(|policy| policy.spec().store.name == *store) {
        let (path, document) =
            (policy.spec().store.path.as_str(), format!("{}/{}", aws.control_path, policy.name()));
        absent.extend([path, &document].into_iter().filter_map(|name| at.absent(name)));
        values.insert(at.secret(path));
        control.insert(at.secret(&document));
    }
    for copy in copies.iter().filter(|copy| copy.store == *store) {
        absent.extend(at.absent(copy.name.as_str()));
        values.insert(at.secret(copy.name.as_str()));
    }
    let read: BTreeSet<String> = settings
        .credentials
        .values()
        .filter_map(|source| match source {
            CredentialSource::Store(stored) if stored.name == *store => Some(&stored.path),
            _ => None,
        })
        .map(|path: &StorePath| at.secret(path.as_str()))
        .collect();
    let kept = [
        "secretsmanager:CreateSecret",
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:ListSecretVersionIds",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    ];
    let mut statements = Vec::new();
    let mut allow = |sid: &str, actions: &[&str], resources: BTreeSet<String>| {
        if !resources.is_empty() {
            statements.push(json!({"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}));
        }
    };
    allow("Values", &kept, values);
    allow("ControlDocuments", &kept, control);
    let reads = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"];
    allow("NotThereYet", &reads, absent);
    allow("OwnLogins", &reads, read);
    let keys = [
        "iam:CreateAccessKey",
        "iam:DeleteAccessKey",
        "iam:GetAccessKeyLastUsed",
        "iam:ListAccessKeys",
        "iam:UpdateAccessKey",
    ];
    allow("AccessKeys", &keys, users);
    // It knows no secrets, and shows no values.
    allow("OpenRotations", &["secretsmanager:ListSecrets"], BTreeSet::from(["*".to_owned()]));
    statements.extend(aws.kms_key.as_deref().map(|key| at.key(key)));
    Ok(json!({"Version": "2012-10-17", "Statement": statements}))
}

/// How many characters of a policy IAM counts.
#[must_use]
pub fn length(policy: &Value) -> usize {
    policy.to_string().len()
}

/// A region of an account.
struct Place<'a> {
    partition: &'static str,
    suffix: &'static str,
    region: &'a str,
    account: &'a str,
}

impl<'a> Place<'a> {
    fn new(aws: &'a AwsSettings) -> Result<Self, NoRights> {
        let account = aws.account.as_deref().ok_or(NoRights::NoAccount)?;
        let Partition { id, suffix, .. } = aws.partition();
        Ok(Self { partition: id, suffix, region: &aws.region, account })
    }

    /// The service adds a hyphen and six characters to a name.
    fn secret(&self, name: &str) -> String {
        let Self { partition, region, account, .. } = self;
        format!("arn:{partition}:secretsmanager:{region}:{account}:secret:{name}-??????")
    }

    /// A secret that is not there has no such characters: whoever asks for one is told that it is missing only if he may
    /// read it without them. Of a name that ends so itself that would be another secret.
    fn absent(&self, name: &str) -> Option<String> {
        let Self { partition, region, account, .. } = self;
        let is_plain = !ends_as_arn(name);
        is_plain.then(|| format!("arn:{partition}:secretsmanager:{region}:{account}:secret:{name}"))
    }

    /// Its name is one in the account, whatever path it is in.
    fn user(&self, name: &str) -> [String; 2] {
        let Self { partition, account, .. } = self;
        ["", "*/"].map(|path| format!("arn:{partition}:iam::{account}:user/{path}{name}"))
    }

    fn key(&self, key: &str) -> Value {
        let Self { partition, suffix, region, account } = self;
        let mut condition =
            json!({"StringEquals": {"kms:ViaService": format!("secretsmanager.{region}.{suffix}")}});
        let alias = key.strip_prefix("alias/").or_else(|| key.split_once(":alias/").map(|(_, alias)| alias));
        let resource = match (alias, key.starts_with("arn:")) {
            // A policy names keys alone, and a condition their aliases.
            (Some(alias), _) => {
                condition["ForAnyValue:StringEquals"] =
                    json!({"kms:ResourceAliases": format!("alias/{alias}")});
                format!("arn:{partition}:kms:{region}:{account}:key/*")
            }
            (None, true) => key.to_owned(),
            (None, false) => format!("arn:{partition}:kms:{region}:{account}:key/{key}"),
        };
        json!({
            "Sid": "Key", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": [resource], "Condition": condition,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its ending for six characters of AWS's, the name alone would be the ARN of `orders/prod`.
    #[test]
    fn what_is_not_there_is_named_unless_that_may_be_another_secret() {
        let at =
            Place { partition: "aws-eusc", suffix: "amazonaws.eu", region: "eusc-de-east-1", account: "1" };
        let arn = "arn:aws-eusc:secretsmanager:eusc-de-east-1:1:secret:orders/db";
        assert_eq!(at.absent("orders/db").as_deref(), Some(arn));
        assert_eq!(at.secret("orders/db"), format!("{arn}-??????"));
        assert_eq!(at.absent("orders/prod-abcdef"), None);
    }

    #[test]
    fn keys_are_named_in_each_form() {
        let at = Place {
            partition: "aws",
            suffix: "amazonaws.com",
            region: "eu-central-1",
            account: "123456789012",
        };
        let arn = "arn:aws:kms:eu-central-1:123456789012:key/abc";
        assert_eq!(at.key("abc")["Resource"], json!([arn]));
        assert_eq!(at.key(arn)["Resource"], json!([arn]));
        for alias in ["alias/rekeyd", "arn:aws:kms:eu-central-1:123456789012:alias/rekeyd"] {
            let statement = at.key(alias);
            assert_eq!(statement["Resource"], json!(["arn:aws:kms:eu-central-1:123456789012:key/*"]));
            let aliases = &statement["Condition"]["ForAnyValue:StringEquals"]["kms:ResourceAliases"];
            assert_eq!(*aliases, json!("alias/rekeyd"));
        }
    }
}
