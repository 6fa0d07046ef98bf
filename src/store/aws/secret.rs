//! Single calls, and what is read with them.

use std::collections::BTreeMap;

use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};
use zeroize::Zeroizing;

use super::AwsStore;
use super::answer::{Code, Fault};
use super::lag::PAUSES;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};

pub(super) const CURRENT: &str = "AWSCURRENT";
pub(super) const PREVIOUS: &str = "AWSPREVIOUS";
pub(super) const PENDING: &str = "AWSPENDING";

pub(super) const DESCRIBE: &str = "secretsmanager:DescribeSecret";
pub(super) const GET: &str = "secretsmanager:GetSecretValue";
pub(super) const LIST: &str = "secretsmanager:ListSecrets";

/// More pages are not those of one account.
const MOST_PAGES: usize = 10_000;

/// A version and its value.
pub(super) struct Found {
    pub(super) version: String,
    pub(super) text: Zeroizing<String>,
    labels: Vec<String>,
}

/// Which version to read.
#[derive(Clone, Copy)]
enum Which<'a> {
    InForce,
    Version(&'a str),
}

/// What the service says of a secret without its value.
#[derive(Debug, Default)]
pub(super) struct View {
    /// It is on its way to deletion, and can be brought back.
    pub(super) deleted: bool,
    /// The service rotates it itself.
    pub(super) rotates: bool,
    /// Another service of AWS keeps it.
    pub(super) owner: Option<String>,
    pub(super) kms_key: Option<String>,
    /// Versions that have a label, and their labels.
    pub(super) labels: BTreeMap<String, Vec<String>>,
}

impl View {
    /// The version that has a label.
    pub(super) fn with(&self, label: &str) -> Option<&str> {
        let has = |(_, labels): &(&String, &Vec<String>)| labels.iter().any(|each| each == label);
        self.labels.iter().find(has).map(|(version, _)| version.as_str())
    }

    pub(super) fn current(&self) -> Option<&str> {
        self.with(CURRENT)
    }
}

impl AwsStore {
    /// The value in force; `None` where there is none.
    pub(super) async fn read(&self, name: &str, object: &str) -> Result<Option<Found>, Failure> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let found = self.get(name, Which::InForce, object).await?;
            let version = found.as_ref().map(|found| found.version.as_str());
            if !self.memory.contradicts(name, version) {
                return Ok(found);
            }
            // What this process put there can be asked for by its id.
            if let Some(known) = self.memory.current(name)
                && let Some(found) = self.get(name, Which::Version(&known), object).await?
                && found.labels.iter().any(|label| label == CURRENT)
            {
                return Ok(Some(found));
            }
            let Some(pause) = pauses.next() else {
                self.memory.forget(name);
                return Ok(found);
            };
            SystemClock.sleep(pause).await;
        }
    }

    /// A version by its id; `None` when it is still not there after a moment.
    pub(super) async fn read_version(
        &self,
        name: &str,
        version: &str,
        object: &str,
    ) -> Result<Option<Found>, Failure> {
        for pause in PAUSES {
            if let Some(found) = self.get(name, Which::Version(version), object).await? {
                return Ok(Some(found));
            }
            SystemClock.sleep(pause).await;
        }
        self.get(name, Which::Version(version), object).await
    }

    async fn get(&self, name: &str, which: Which<'_>, object: &str) -> Result<Option<Found>, Failure> {
        let call = self.client.get_secret_value().secret_id(name);
        let call = match which {
            Which::InForce => call.version_stage(CURRENT),
            Which::Version(id) => call.version_id(id),
        };
        let mut answer = match call.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return match Fault::of(&error) {
                    fault if fault.is(Code::NotFound) => Ok(None),
                    // It is being deleted, or a version has no value.
                    fault if fault.is(Code::Request) => match self.describe(name, object).await? {
                        None => Ok(None),
                        Some(view) if view.deleted => Err(self.is_deleted("read", name, object)),
                        Some(_) => Err(fault.of_reading(self.doing("read", object), GET)),
                    },
                    fault => Err(fault.of_reading(self.doing("read", object), GET)),
                };
            }
        };
        let text = answer.secret_string.take().map(Zeroizing::new);
        let (Some(text), Some(version)) = (text, answer.version_id.take()) else {
            let reason = "its value is not text";
            return Err(Failure::new(FailureClass::Invalid, self.doing("read", object), reason)
                .with_remedy("write it as `SecretString`, a JSON object"));
        };
        Ok(Some(Found { version, text, labels: answer.version_stages.take().unwrap_or_default() }))
    }

    /// What there is of a secret; `None` when there is none.
    pub(super) async fn describe(&self, name: &str, object: &str) -> Result<Option<View>, Failure> {
        match self.client.describe_secret().secret_id(name).send().await {
            Ok(answer) if answer.arn.is_none() => {
                Err(Fault::strange().of_reading(self.doing("look at", object), DESCRIBE))
            }
            Ok(answer) => Ok(Some(View {
                deleted: answer.deleted_date.is_some(),
                rotates: answer.rotation_enabled == Some(true),
                owner: answer.owning_service,
                kms_key: answer.kms_key_id,
                labels: answer.version_ids_to_stages.unwrap_or_default().into_iter().collect(),
            })),
            Err(error) => match Fault::of(&error) {
                fault if fault.is(Code::NotFound) => Ok(None),
                fault => Err(fault.of_reading(self.doing("look at", object), DESCRIBE)),
            },
        }
    }

    /// The names that begin so, those that are being deleted, too.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let doing = || self.doing("list", "the control documents");
        let filter = Filter::builder().key(FilterNameStringType::Name).values(prefix).build();
        let (mut names, mut next) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let page = self
                .client
                .list_secrets()
                .filters(filter.clone())
                .include_planned_deletion(true)
                .max_results(100)
                .set_next_token(next)
                .send()
                .await
                .map_err(|error| Fault::of(&error).of_reading(doing(), LIST))?;
            let Some(listed) = page.secret_list else {
                return Err(Fault::strange().of_reading(doing(), LIST));
            };
            names.extend(listed.into_iter().filter_map(|secret| secret.name));
            // Empty from some that only play the service.
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(names);
            }
        }
        Err(Failure::new(FailureClass::Unavailable, doing(), "the service's list has no end"))
    }

    pub(super) fn is_deleted(&self, verb: &str, name: &str, object: &str) -> Failure {
        Failure::new(FailureClass::Invalid, self.doing(verb, object), "somebody deleted it")
            .with_remedy(format!("bring it back with `aws secretsmanager restore-secret --secret-id {name}`"))
    }
}
