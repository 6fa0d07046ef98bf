//! What a rotation will need of Secrets Manager, looked at without changing it.
//!
//! Whether rekeyd may write cannot be seen without a write; `rekeyd iam-policy` prints what it needs for that.

use std::time::Duration;

use aws_sdk_secretsmanager::primitives::DateTime;
use jiff::Timestamp;

use super::AwsStore;
use super::answer::{Code, Fault};
use super::secret::{CURRENT, PENDING, PREVIOUS, View};
use super::write::{Label, Rival};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass, Finding, Verdict};
use crate::ident::PolicyName;
use crate::settings::VersionBudget;
use crate::store::{Place, Store as _};

const LIST_VERSIONS: &str = "secretsmanager:ListSecretVersionIds";
const CONTROL: VersionBudget = VersionBudget::SECRETS_MANAGER;

impl AwsStore {
    /// Stops at the first failure that the rest would only repeat.
    pub(super) async fn look(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        let path = place.path.as_str();
        if let Err(failure) = self.check_place("use", place.path) {
            return vec![Finding::from_failure(path, &failure)];
        }
        let view = match self.describe(path, path).await {
            Ok(view) => view,
            Err(failure) => return vec![Finding::from_failure(format!("secret {path}"), &failure)],
        };
        let mut findings = vec![self.look_at_listing().await];
        findings.extend(self.look_at_secret(path, view.as_ref()));
        if view.is_some() && findings.iter().all(|finding| finding.verdict != Verdict::Fail) {
            findings.push(self.look_at_value(place).await);
            findings.extend(self.look_at_budget(path, path, CONTROL).await);
        }
        findings.extend(self.look_at_control(policy).await);
        findings
    }

    /// At start and once an hour rekeyd looks for rotations that are open.
    async fn look_at_listing(&self) -> Finding {
        let subject = format!("{}/*", self.control_path);
        match self.policies().await {
            Ok(_) => Finding::pass(subject, "the control documents can be listed"),
            Err(failure) => Finding::from_failure(subject, &failure),
        }
    }

    fn look_at_secret(&self, path: &str, view: Option<&View>) -> Vec<Finding> {
        let subject = format!("secret {path}");
        let Some(view) = view else {
            return vec![Finding::pass(subject, "not there: the first rotation makes it")];
        };
        if view.deleted {
            return vec![Finding::from_failure(subject, &self.is_deleted("use", path, path))];
        }
        if let Some(rival) = Rival::of(view) {
            return vec![Finding::fail(subject, rival.to_string(), rival.remedy(path))];
        }
        let mut findings = vec![match self.other_key(view) {
            Some(detail) => Finding::warn(
                &subject,
                detail,
                format!(
                    "run `aws secretsmanager update-secret --secret-id {path} --kms-key-id ...`, or name that key in `kmsKey`"
                ),
            ),
            None => Finding::pass(&subject, "there, and nobody else rotates it"),
        }];
        let foreign = view.labels.iter().filter(|(version, _)| view.current() != Some(version)).flat_map(
            |(version, labels)| {
                let known =
                    |label: &str| [CURRENT, PREVIOUS, PENDING].contains(&label) || Label::is_own(label);
                labels.iter().filter(move |label| !known(label)).map(move |label| (version, label))
            },
        );
        if let Some((version, label)) = foreign.into_iter().next() {
            findings.push(Finding::warn(
                subject,
                format!(
                    "version {} has the label `{}`: somebody else may be at it",
                    version.escape_default(),
                    label.escape_default()
                ),
                "make sure that no other tool rotates it",
            ));
        }
        findings
    }

    /// A key other than the one that the settings name. An alias is not looked up.
    fn other_key(&self, view: &View) -> Option<String> {
        let wanted =
            self.kms_key.as_deref().filter(|key| !key.starts_with("alias/") && !key.contains(":alias/"))?;
        let id = |key: &str| key.rsplit('/').next().unwrap_or(key).to_owned();
        match &view.kms_key {
            Some(key) if id(key) == id(wanted) || key.contains("alias/") => None,
            Some(_) => Some("it is encrypted with another key than the settings name".into()),
            None => Some("it is encrypted with the account's own key, and the settings name one".into()),
        }
    }

    async fn look_at_value(&self, place: Place<'_>) -> Finding {
        let subject = format!("value of {}", place.path);
        match self.current(place).await {
            Ok(Some(_)) => Finding::pass(subject, "there is a current credential"),
            Ok(None) => Finding::pass(subject, "empty: the first rotation fills it"),
            Err(failure) => Finding::from_failure(subject, &failure),
        }
    }

    async fn look_at_control(&self, policy: &PolicyName) -> Vec<Finding> {
        let (name, subject) = (self.control_name(policy), format!("control document of {policy}"));
        match self.describe(&name, &subject).await {
            Ok(None) => vec![Finding::pass(subject, "not there: the first rotation makes it")],
            Ok(Some(view)) if view.deleted => {
                vec![Finding::from_failure(&subject, &self.is_deleted("use", &name, &subject))]
            }
            Ok(Some(view)) => match Rival::of(&view) {
                Some(rival) => vec![Finding::fail(subject, rival.to_string(), rival.remedy(&name))],
                None => self.look_at_budget(&name, &subject, CONTROL).await.into_iter().collect(),
            },
            Err(failure) => vec![Finding::from_failure(subject, &failure)],
        }
    }

    /// How many versions there is room for: none that is younger than a day makes room.
    pub(super) async fn look_at_budget(
        &self,
        name: &str,
        object: &str,
        budget: VersionBudget,
    ) -> Option<Finding> {
        let subject = format!("versions of {object}");
        let young = match self.young_versions(name, budget.within).await {
            Ok(young) => young?,
            Err(failure) if failure.class() == FailureClass::Denied => {
                return Some(Finding::warn(
                    subject,
                    "how many are younger than a day cannot be looked at",
                    format!("allow `{LIST_VERSIONS}`, as `rekeyd iam-policy` prints it"),
                ));
            }
            Err(failure) => return Some(Finding::from_failure(subject, &failure)),
        };
        let detail = format!("{young} of {} in the last day", budget.versions);
        Some(match budget.versions.saturating_sub(young) {
            left if left < budget.per_rotation => Finding::fail(
                subject,
                format!("{detail}: a rotation may need {}", budget.per_rotation),
                "wait until versions are a day old, and let the policy rotate less often",
            ),
            left if left < budget.versions / 2 => {
                Finding::warn(subject, detail, "let the policy rotate less often")
            }
            _ => Finding::pass(subject, detail),
        })
    }

    /// `None` when there is no such secret.
    async fn young_versions(&self, name: &str, within: Duration) -> Result<Option<u32>, Failure> {
        let since = SystemClock.now() - jiff::SignedDuration::try_from(within).unwrap_or_default();
        let (mut young, mut next) = (0, None);
        // About a hundred versions, in pages of any size.
        for _ in 0..200 {
            let call = self.client.list_secret_version_ids().secret_id(name).include_deprecated(true);
            let page = match call.max_results(100).set_next_token(next).send().await {
                Ok(page) => page,
                Err(error) => {
                    return match Fault::of(&error) {
                        fault if fault.is(Code::NotFound) => Ok(None),
                        fault => {
                            Err(fault.of_reading(self.doing("list the versions of", name), LIST_VERSIONS))
                        }
                    };
                }
            };
            let is_young =
                |date: &DateTime| Timestamp::from_second(date.secs()).is_ok_and(|date| date >= since);
            let versions = page.versions.unwrap_or_default();
            let count =
                versions.iter().filter(|version| version.created_date.as_ref().is_none_or(is_young)).count();
            young += u32::try_from(count).unwrap_or(u32::MAX);
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        Ok(Some(young))
    }
}
