//! Writes, each of them a compare-and-set: a version is put aside, and the label moves to it.

use std::fmt;

use super::AwsStore;
use super::answer::{Code, Fault};
use super::content;
use super::lag::PAUSES;
use super::secret::{CURRENT, PENDING};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::store::{Place, Promotion};

pub(super) const CREATE: &str = "secretsmanager:CreateSecret";
pub(super) const PUT: &str = "secretsmanager:PutSecretValue";
pub(super) const MOVE: &str = "secretsmanager:UpdateSecretVersionStage";

/// What rekeyd's labels begin with.
const OWN: &str = "rekeyd-";

/// A label of rekeyd's own: one for each version, so that none is taken away from another attempt's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label(String);

impl Label {
    pub(super) fn of(token: &str) -> Self {
        Self(format!("{OWN}{token}"))
    }

    pub(super) fn is_own(label: &str) -> bool {
        label.starts_with(OWN)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A secret that is not there yet.
#[derive(Clone, Copy)]
pub(super) struct Creation<'a> {
    pub(super) name: &'a str,
    pub(super) object: &'a str,
    pub(super) description: &'a str,
    pub(super) label: &'a Label,
}

/// A version that is put aside.
#[derive(Clone, Copy)]
pub(super) struct Put<'a> {
    pub(super) name: &'a str,
    pub(super) object: &'a str,
    pub(super) token: &'a str,
    pub(super) text: &'a str,
    pub(super) label: &'a Label,
    /// Whether the secret may have no version yet: then it has `AWSCURRENT` from the start, and this call alone brings it
    /// into force.
    pub(super) is_first: bool,
}

impl AwsStore {
    /// Makes a secret whose first version has this id, or fills one that somebody made without a value.
    ///
    /// Dying after the call: it is done, and whoever repeats it finds its own version in force.
    pub(super) async fn create(&self, new: Creation<'_>, token: &str, text: &str) -> Result<(), Failure> {
        let Creation { name, object, description, label } = new;
        let call = self.client.create_secret();
        let call = call.name(name).description(description).client_request_token(token).secret_string(text);
        let fault = match call.set_kms_key_id(self.kms_key.clone()).send().await {
            Ok(answer) if answer.version_id() == Some(token) => {
                self.memory.replaced(name, None, token);
                return Ok(());
            }
            Ok(_) => Fault::strange(),
            Err(error) => Fault::of(&error),
        };
        if !fault.is(Code::Exists) && !fault.is(Code::Request) {
            return Err(fault.of_writing(self.doing("write", object), CREATE));
        }
        let unavailable = |reason: &str| {
            Err(Failure::new(FailureClass::Unavailable, self.doing("write", object), reason)
                .with_remedy("look again: it may be on its way"))
        };
        let mut view = self.describe(name, object).await?;
        for pause in PAUSES.into_iter().take_while(|_| fault.is(Code::Exists)) {
            if view.is_some() {
                break;
            }
            SystemClock.sleep(pause).await;
            view = self.describe(name, object).await?;
        }
        match view {
            Some(view) if view.deleted => Err(self.is_deleted("write", name, object)),
            Some(view) if view.current() == Some(token) => {
                self.memory.replaced(name, None, token);
                Ok(())
            }
            Some(view) if view.current().is_some() => {
                let reason = "there is something already";
                Err(Failure::new(FailureClass::Conflict, self.doing("write", object), reason))
            }
            Some(_) if fault.is(Code::Exists) => {
                self.put(Put { name, object, token, text, label, is_first: true }).await?;
                between!("aws.fill.put");
                let shifted = self.shift(name, object, token, None).await;
                self.clear(name, token, label, shifted.as_ref().err()).await;
                shifted
            }
            // Just made by somebody, or just deleted.
            Some(_) | None => unavailable("the service says that it is there and does not show it"),
        }
    }

    /// Brings a credential into force in place of the version that was expected.
    ///
    /// Dying after the first call: nobody sees that version. Dying after the second: it is in force, with a label of
    /// rekeyd's too many, which the next write takes away.
    pub(super) async fn exchange(
        &self,
        place: Place<'_>,
        promotion: &Promotion<'_>,
        token: &str,
        expected: &str,
    ) -> Result<(), Failure> {
        let path = place.path.as_str();
        let Some(base) = self.read_version(path, expected, path).await? else {
            return match self.describe(path, path).await? {
                Some(view) if view.current() == Some(expected) => Err(Failure::new(
                    FailureClass::Unavailable,
                    self.doing("write", path),
                    "the service does not show the version in force",
                )),
                _ => Err(self.conflict(path)),
            };
        };
        let text = self.compose(place, promotion, Some(&base.text))?;
        let label = Label::of(token);
        let put = Put { name: path, object: path, token, text: &text, label: &label, is_first: false };
        match self.put(put).await {
            Ok(()) => {}
            // The same promotion as it was written by another release of rekeyd: the credential counts.
            Err(failure) if failure.class() == FailureClass::Conflict => {
                let there = self.read_version(path, token, path).await?;
                let there = there.and_then(|there| content::credential(&there.text, place.fields).ok());
                if there.as_ref() != Some(promotion.credential) {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
        }
        between!("aws.promote.put");
        let shifted = self.shift(path, path, token, Some(expected)).await;
        between!("aws.promote.moved");
        self.clear(path, token, &label, shifted.as_ref().err()).await;
        shifted
    }

    /// Puts a version aside.
    pub(super) async fn put(&self, new: Put<'_>) -> Result<(), Failure> {
        let Put { name, object, token, text, label, is_first } = new;
        let put = || {
            let call = self.client.put_secret_value().secret_id(name).client_request_token(token);
            call.secret_string(text).version_stages(label.to_string()).send()
        };
        let mut put_it = put().await;
        if put_it.as_ref().is_err_and(|error| Fault::of(error).is(Code::Limit)) {
            // Labels that were left by processes that died may be in the way; versions go by themselves.
            self.tidy(name).await;
            put_it = put().await;
        }
        let fault = match put_it {
            Ok(answer) if answer.version_id() == Some(token) => return Ok(()),
            Ok(_) => Fault::strange(),
            Err(error) => Fault::of(&error),
        };
        match fault {
            fault if fault.is(Code::NotFound) => Err(self.conflict(object)),
            fault if fault.is(Code::Request) => Err(self.refused(name, object, fault, PUT).await),
            fault if is_first => Err(fault.of_writing(self.doing("write", object), PUT)),
            // Nobody looks there: that it may have happened makes no difference.
            fault => Err(fault.of_reading(self.doing("write", object), PUT)),
        }
    }

    /// Moves the label to a version, from the one that is expected to have it and from no other.
    pub(super) async fn shift(
        &self,
        name: &str,
        object: &str,
        token: &str,
        expected: Option<&str>,
    ) -> Result<(), Failure> {
        let call = self.client.update_secret_version_stage().secret_id(name).version_stage(CURRENT);
        let call = call.move_to_version_id(token).set_remove_from_version_id(expected.map(Into::into));
        let fault = match call.send().await {
            Ok(answer) if answer.arn().is_some() => {
                self.memory.replaced(name, expected, token);
                return Ok(());
            }
            Ok(_) => Fault::strange(),
            Err(error) => Fault::of(&error),
        };
        if ![Code::Parameter, Code::Request, Code::NotFound].into_iter().any(|code| fault.is(code)) {
            return Err(fault.of_writing(self.doing("write", object), MOVE));
        }
        // The label is elsewhere, or something else is wrong: the code does not say, so it is looked at until it shows.
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.describe(name, object).await? {
                None => return Err(self.conflict(object)),
                Some(view) if view.deleted => return Err(self.is_deleted("write", name, object)),
                Some(view) if view.current() == Some(token) => {
                    self.memory.replaced(name, expected, token);
                    return Ok(());
                }
                Some(view) if view.current() != expected => {
                    if let Some(expected) = expected {
                        self.memory.outdated(name, expected);
                    }
                    return Err(self.conflict(object));
                }
                Some(_) => {}
            }
            let Some(pause) = pauses.next() else {
                let reason = "the service does not move the label, and does not show why";
                return Err(Failure::new(FailureClass::Unavailable, self.doing("write", object), reason));
            };
            SystemClock.sleep(pause).await;
        }
    }

    /// Takes the labels away that are not needed any more: all, once a version is in force, and the own one of a version
    /// that will never be. Where that is not known the label stays.
    pub(super) async fn clear(&self, name: &str, version: &str, label: &Label, failure: Option<&Failure>) {
        match failure.map(Failure::class) {
            None => self.tidy(name).await,
            Some(FailureClass::Conflict) => self.unlabel(name, version, label).await,
            Some(_) => {}
        }
    }

    /// Takes a label of rekeyd's away from a version. Nothing depends on it.
    async fn unlabel(&self, name: &str, version: &str, label: &Label) {
        let call = self.client.update_secret_version_stage().secret_id(name).version_stage(label.to_string());
        if let Err(error) = call.remove_from_version_id(version).send().await {
            let failure = Fault::of(&error).of_reading(self.doing("take a label from", name), MOVE);
            tracing::debug!(store = %self.label, %failure, "a label of rekeyd's stays on a version");
        }
    }

    /// Takes all of rekeyd's labels away. Another attempt's version loses its own, too, and can be promoted all the
    /// same.
    async fn tidy(&self, name: &str) {
        let Ok(Some(view)) = self.describe(name, name).await else { return };
        for (version, labels) in &view.labels {
            for label in labels.iter().filter(|label| Label::is_own(label)) {
                self.unlabel(name, version, &Label(label.clone())).await;
            }
        }
    }

    /// Whether a rotation of this secret may begin: nobody else rotates it.
    pub(super) async fn check_secret(&self, path: &str) -> Result<(), Failure> {
        let Some(view) = self.describe(path, path).await? else { return Ok(()) };
        if view.deleted {
            return Err(self.is_deleted("write", path, path));
        }
        match Rival::of(&view) {
            Some(rival) => Err(Failure::new(FailureClass::Invalid, self.doing("write", path), &rival)
                .with_remedy(rival.remedy(path))),
            None => Ok(()),
        }
    }

    fn conflict(&self, object: &str) -> Failure {
        Failure::new(FailureClass::Conflict, self.doing("write", object), "somebody else wrote it")
    }

    /// A call that the service says it cannot do in the state that the secret is in.
    async fn refused(&self, name: &str, object: &str, fault: Fault, action: &'static str) -> Failure {
        match self.describe(name, object).await {
            Ok(Some(view)) if view.deleted => self.is_deleted("write", name, object),
            Ok(Some(view)) if view.owner.is_some() => {
                let reason = "another service of AWS keeps it";
                Failure::new(FailureClass::Invalid, self.doing("write", object), reason)
                    .with_remedy("give the policy a secret of its own")
            }
            Ok(_) => fault.of_reading(self.doing("write", object), action),
            Err(failure) => failure,
        }
    }
}

/// Who else rotates a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rival {
    /// The service, by a function of somebody's.
    Native,
    /// Another service of AWS.
    Service,
    /// Somebody who has begun and not ended.
    Pending(String),
}

impl Rival {
    pub(super) fn of(view: &super::secret::View) -> Option<Self> {
        if view.owner.is_some() {
            return Some(Self::Service);
        }
        if view.rotates {
            return Some(Self::Native);
        }
        let pending = view.with(PENDING).filter(|version| view.current() != Some(version));
        pending.map(|version| Self::Pending(version.escape_default().to_string()))
    }

    pub(super) fn remedy(&self, path: &str) -> String {
        match self {
            Self::Native => {
                format!("end that with `aws secretsmanager cancel-rotate-secret --secret-id {path}`")
            }
            Self::Service => "give the policy a secret of its own".into(),
            Self::Pending(version) => format!(
                "let it end, or take its label away with `aws secretsmanager update-secret-version-stage \
                 --secret-id {path} --version-stage {PENDING} --remove-from-version-id {version}`"
            ),
        }
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("the service rotates it itself"),
            Self::Service => f.write_str("another service of AWS keeps it"),
            Self::Pending(version) => {
                write!(f, "somebody else has begun to rotate it: version {version} has the label {PENDING}")
            }
        }
    }
}
