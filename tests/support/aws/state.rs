//! What the service holds, and its rules.
//!
//! - A version's id is the client's token. The same token with the same value is done already; with another value it is
//!   an error.
//! - A label is on one version. `PutSecretValue` takes it from whoever has it; `UpdateSecretVersionStage` moves it only
//!   from the version that is named, and to a version where it is already it does not move.
//! - The first version has `AWSCURRENT`. When that moves, `AWSPREVIOUS` is where it was. It is on one version, ever.
//! - A version without a label is deprecated. When a secret has 100 versions the oldest deprecated one makes room, but
//!   none that is younger than a day: then there is no room.
//! - A secret has at most 20 labels, a value 1 to 65,536 bytes.
//! - A secret that is to be deleted can be looked at and restored, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

const MOST_VERSIONS: usize = 100;
const MOST_LABELS: usize = 20;
const LONGEST_VALUE: usize = 65_536;
const DAY: i64 = 24 * 3_600;
/// Small, so that whoever does not turn pages is seen.
const PAGE: usize = 3;

/// The secrets of an account in a region.
#[derive(Default)]
pub(crate) struct Account {
    secrets: BTreeMap<String, Secret>,
    /// Each secret as it was before its last change, and how many readings still show that.
    before: BTreeMap<String, (Option<Secret>, u32)>,
    /// How many readings after a change show what was before.
    pub(crate) lag: u32,
    /// How often something was created, for ids.
    made: u64,
}

/// A secret.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Secret {
    pub(crate) arn: String,
    pub(crate) kms_key: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) deleted: bool,
    pub(crate) rotates: bool,
    pub(crate) owner: Option<String>,
    /// From the oldest to the youngest.
    pub(crate) versions: Vec<Version>,
}

/// A version of a secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Version {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) labels: BTreeSet<String>,
    /// In seconds since 1970.
    pub(crate) created: i64,
}

/// The code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) &'static str);

const NOT_FOUND: Refusal = Refusal("ResourceNotFoundException");
const EXISTS: Refusal = Refusal("ResourceExistsException");
const PARAMETER: Refusal = Refusal("InvalidParameterException");
const REQUEST: Refusal = Refusal("InvalidRequestException");
const LIMIT: Refusal = Refusal("LimitExceededException");
const VALIDATION: Refusal = Refusal("ValidationException");

impl Account {
    pub(crate) fn secret(&self, name: &str) -> &Secret {
        self.secrets.get(name).unwrap_or_else(|| panic!("there is no secret {name}"))
    }

    pub(crate) fn known(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }

    pub(crate) fn change(&mut self, name: &str, change: impl FnOnce(&mut Secret)) {
        change(self.secrets.entry(name.into()).or_default());
    }

    /// At once, as with `ForceDeleteWithoutRecovery`.
    pub(crate) fn delete(&mut self, name: &str) {
        assert!(self.secrets.remove(name).is_some(), "there is no secret {name}");
    }

    /// Somebody else writes a value into force.
    pub(crate) fn overwrite(&mut self, name: &str, text: &str) {
        self.made += 1;
        let token = format!("foreign-0000-0000-0000-{:012}", self.made);
        let body = json!({"SecretId": name, "ClientRequestToken": token, "SecretString": text});
        let body = if self.secrets.contains_key(name) {
            ("PutSecretValue", body)
        } else {
            ("CreateSecret", json!({"Name": name, "ClientRequestToken": token, "SecretString": text}))
        };
        self.act(body.0, &body.1).expect("written");
    }

    /// Time passes: all that is there grows older.
    pub(crate) fn pass(&mut self, seconds: i64) {
        for version in self.secrets.values_mut().flat_map(|secret| &mut secret.versions) {
            version.created -= seconds;
        }
    }

    pub(super) fn act(&mut self, action: &str, body: &Value) -> Result<Value, Refusal> {
        let name = body["SecretId"].as_str().or(body["Name"].as_str()).unwrap_or_default().to_owned();
        match action {
            "GetSecretValue" => self.seen(&name, |secret| secret.value(&name, body)),
            "DescribeSecret" => self.seen(&name, |secret| Ok(secret.description(&name))),
            "ListSecretVersionIds" => self.seen(&name, |secret| secret.list(&name, body)),
            "ListSecrets" => self.list(body),
            "CreateSecret" | "PutSecretValue" | "UpdateSecretVersionStage" => {
                let before = self.secrets.get(&name).cloned();
                let done = match action {
                    "CreateSecret" => self.create(&name, body),
                    "PutSecretValue" => self.secrets.get_mut(&name).ok_or(NOT_FOUND)?.put(&name, body),
                    _ => self.secrets.get_mut(&name).ok_or(NOT_FOUND)?.relabel(&name, body),
                }?;
                self.secrets[&name].check();
                if self.secrets.get(&name) != before.as_ref() {
                    // Whoever lags shows what was before all that he has not seen.
                    let seen = self.before.entry(name).or_insert((None, 0));
                    *seen = if seen.1 > 0 { (seen.0.take(), self.lag) } else { (before, self.lag) };
                }
                Ok(done)
            }
            _ => Err(Refusal("UnknownOperationException")),
        }
    }

    /// A reading, of what is or of what was.
    fn seen(
        &mut self,
        name: &str,
        look: impl FnOnce(&Secret) -> Result<Value, Refusal>,
    ) -> Result<Value, Refusal> {
        if let Some((before, left)) = self.before.get_mut(name).filter(|(_, left)| *left > 0) {
            *left -= 1;
            return look(before.as_ref().ok_or(NOT_FOUND)?);
        }
        look(self.secrets.get(name).ok_or(NOT_FOUND)?)
    }

    fn create(&mut self, name: &str, body: &Value) -> Result<Value, Refusal> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
        if !(1..=512).contains(&name.len()) || !name.bytes().all(valid) {
            return Err(VALIDATION);
        }
        if let Some(secret) = self.secrets.get(name) {
            if secret.deleted {
                return Err(REQUEST);
            }
            let token = body["ClientRequestToken"].as_str().unwrap_or_default();
            let same = secret.version(token).is_some_and(|version| body["SecretString"] == *version.text);
            return if same { Ok(secret.written(name, token)) } else { Err(EXISTS) };
        }
        self.made += 1;
        let mut secret = Secret {
            arn: format!(
                "arn:aws:secretsmanager:{}:123456789012:secret:{name}-{:06}",
                super::REGION,
                self.made
            ),
            kms_key: body["KmsKeyId"].as_str().map(Into::into),
            description: body["Description"].as_str().map(Into::into),
            ..Secret::default()
        };
        let written = match body["SecretString"] {
            Value::Null => secret.written(name, ""),
            _ => secret.put(name, body)?,
        };
        self.secrets.insert(name.into(), secret);
        Ok(written)
    }

    fn list(&self, body: &Value) -> Result<Value, Refusal> {
        let filters = body["Filters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let prefixes: Vec<&str> = filters
            .iter()
            .filter(|filter| filter["Key"] == "name")
            .flat_map(|filter| filter["Values"].as_array().into_iter().flatten().filter_map(Value::as_str))
            .collect();
        let planned = body["IncludePlannedDeletion"] == true;
        let all: Vec<Value> = self
            .secrets
            .iter()
            .filter(|(name, secret)| {
                (planned || !secret.deleted)
                    && (prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix)))
            })
            .map(|(name, secret)| json!({"Name": name, "ARN": secret.arn}))
            .collect();
        let (page, next) = page(&all, body)?;
        Ok(json!({"SecretList": page, "NextToken": next}))
    }
}

impl Secret {
    pub(crate) fn version(&self, id: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.id == id)
    }

    /// The version that has a label.
    pub(crate) fn with(&self, label: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.labels.contains(label))
    }

    /// Labels that are none of the service's.
    pub(crate) fn own_labels(&self) -> Vec<&str> {
        let labels = self.versions.iter().flat_map(|version| &version.labels);
        labels.map(String::as_str).filter(|label| !label.starts_with("AWS")).collect()
    }

    fn alive(&self) -> Result<(), Refusal> {
        if self.deleted { Err(REQUEST) } else { Ok(()) }
    }

    fn put(&mut self, name: &str, body: &Value) -> Result<Value, Refusal> {
        self.alive()?;
        if self.owner.is_some() {
            return Err(REQUEST);
        }
        let token = body["ClientRequestToken"].as_str().unwrap_or_default();
        let text = body["SecretString"].as_str().ok_or(PARAMETER)?;
        if !(32..=64).contains(&token.len()) || !(1..=LONGEST_VALUE).contains(&text.len()) {
            return Err(VALIDATION);
        }
        if let Some(version) = self.version(token) {
            return if version.text == text { Ok(self.written(name, token)) } else { Err(EXISTS) };
        }
        let mut labels: BTreeSet<String> = match body["VersionStages"].as_array() {
            Some(stages) => stages.iter().filter_map(|stage| stage.as_str().map(Into::into)).collect(),
            None => BTreeSet::from(["AWSCURRENT".into()]),
        };
        if labels.is_empty() || labels.len() > MOST_LABELS {
            return Err(VALIDATION);
        }
        if self.versions.is_empty() {
            labels.insert("AWSCURRENT".into());
        }
        let others: BTreeSet<&String> = self.versions.iter().flat_map(|version| &version.labels).collect();
        if others.union(&labels.iter().collect()).count() > MOST_LABELS {
            return Err(LIMIT);
        }
        if self.versions.len() >= MOST_VERSIONS {
            let now = now();
            let old = |version: &Version| version.labels.is_empty() && now - version.created >= DAY;
            let oldest = self.versions.iter().position(old).ok_or(LIMIT)?;
            self.versions.remove(oldest);
        }
        if labels.contains("AWSCURRENT") {
            self.follow(token);
        }
        for version in &mut self.versions {
            version.labels.retain(|label| !labels.contains(label));
        }
        let (id, text) = (token.to_owned(), text.to_owned());
        self.versions.push(Version { id, text, labels, created: now() });
        Ok(self.written(name, token))
    }

    /// `AWSPREVIOUS` goes where `AWSCURRENT` is before that moves.
    fn follow(&mut self, next: &str) {
        let Some(current) = self.with("AWSCURRENT").map(|version| version.id.clone()) else { return };
        if current == next {
            return;
        }
        for version in &mut self.versions {
            version.labels.remove("AWSPREVIOUS");
            if version.id == current {
                version.labels.remove("AWSCURRENT");
                version.labels.insert("AWSPREVIOUS".into());
            }
        }
    }

    fn relabel(&mut self, name: &str, body: &Value) -> Result<Value, Refusal> {
        self.alive()?;
        if self.owner.is_some() {
            return Err(REQUEST);
        }
        let label = body["VersionStage"].as_str().ok_or(PARAMETER)?;
        let (to, from) = (body["MoveToVersionId"].as_str(), body["RemoveFromVersionId"].as_str());
        let holder = self.with(label).map(|version| version.id.clone());
        if let Some(from) = from {
            self.version(from).ok_or(PARAMETER)?;
        }
        match (to, from) {
            (None, None) => return Err(PARAMETER),
            (None, Some(from)) => {
                if holder.as_deref() != Some(from) || label == "AWSCURRENT" {
                    return Err(PARAMETER);
                }
            }
            (Some(to), from) => {
                self.version(to).ok_or(NOT_FOUND)?;
                if from != holder.as_deref() || holder.as_deref() == Some(to) {
                    return Err(PARAMETER);
                }
            }
        }
        if let Some(to) = to.filter(|_| label == "AWSCURRENT") {
            self.follow(to);
        }
        for version in &mut self.versions {
            version.labels.remove(label);
            if to == Some(version.id.as_str()) {
                version.labels.insert(label.into());
            }
        }
        Ok(json!({"ARN": self.arn, "Name": name}))
    }

    fn value(&self, name: &str, body: &Value) -> Result<Value, Refusal> {
        self.alive()?;
        let (id, stage) = (body["VersionId"].as_str(), body["VersionStage"].as_str());
        let found = match (id, stage) {
            (Some(id), None) => self.version(id),
            (Some(id), Some(stage)) => self.version(id).filter(|version| version.labels.contains(stage)),
            (None, stage) => self.with(stage.unwrap_or("AWSCURRENT")),
        };
        let Version { id, text, labels, created } = found.ok_or(NOT_FOUND)?;
        Ok(json!({
            "ARN": self.arn, "Name": name, "VersionId": id, "SecretString": text, "VersionStages": labels,
            "CreatedDate": created,
        }))
    }

    fn description(&self, name: &str) -> Value {
        let labels: BTreeMap<&str, &BTreeSet<String>> = self
            .versions
            .iter()
            .filter(|version| !version.labels.is_empty())
            .map(|version| (version.id.as_str(), &version.labels))
            .collect();
        json!({
            "ARN": self.arn, "Name": name, "Description": self.description, "KmsKeyId": self.kms_key,
            "RotationEnabled": self.rotates, "OwningService": self.owner, "VersionIdsToStages": labels,
            "DeletedDate": self.deleted.then(now),
        })
    }

    fn list(&self, name: &str, body: &Value) -> Result<Value, Refusal> {
        let deprecated = body["IncludeDeprecated"] == true;
        let all: Vec<Value> = self
            .versions
            .iter()
            .filter(|version| deprecated || !version.labels.is_empty())
            .map(|version| {
                json!({"VersionId": version.id, "VersionStages": version.labels, "CreatedDate": version.created})
            })
            .collect();
        let (page, next) = page(&all, body)?;
        Ok(json!({"Name": name, "Versions": page, "NextToken": next}))
    }

    fn written(&self, name: &str, id: &str) -> Value {
        let labels = self.version(id).map(|version| &version.labels);
        json!({"ARN": self.arn, "Name": name, "VersionId": id, "VersionStages": labels})
    }

    fn check(&self) {
        for label in self.versions.iter().flat_map(|version| &version.labels) {
            let holders = self.versions.iter().filter(|version| version.labels.contains(label)).count();
            assert_eq!(holders, 1, "{label} is on {holders} versions");
        }
        assert!(self.versions.is_empty() || self.with("AWSCURRENT").is_some(), "nothing is in force");
    }
}

fn page(all: &[Value], body: &Value) -> Result<(Vec<Value>, Option<String>), Refusal> {
    let start = match body["NextToken"].as_str() {
        None => 0,
        Some(token) => token.parse::<usize>().map_err(|_| Refusal("InvalidNextTokenException"))?,
    };
    let size = body["MaxResults"].as_u64().map_or(PAGE, |most| PAGE.min(most as usize));
    let page: Vec<Value> = all.iter().skip(start).take(size).cloned().collect();
    let next = start + page.len();
    Ok((page, (next < all.len()).then(|| next.to_string())))
}

fn now() -> i64 {
    use rekeyd::clock::Clock as _;
    rekeyd::clock::SystemClock.now().as_second()
}
