//! Policies as a custom resource: its definition, and what its status says.
//!
//! The specification is that of policy files. What an API server holds is taken through the same loader, so
//! that a mistake is told in the same words; the schema and the rules here only refuse most of them earlier.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::{Principal, RotationId, Version};
use crate::ledger::{Outcome, TriggerKind};
use crate::policy::Spec;
use crate::status::{OpenRotation, State, Status};

/// What to rotate, when, where its value lives and who reads it.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "rekeyd.dev",
    version = "v1alpha1",
    kind = "RotationPolicy",
    namespaced,
    status = "PolicyStatus",
    category = "rekeyd",
    doc = "What to rotate, when, where its value lives and who reads it.",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.state",
        description = "Where the policy stands, in one word"
    ),
    printcolumn(
        name = "Version",
        type_ = "integer",
        json_path = ".status.version",
        description = "The version in force"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".status.since",
        description = "How old the value in force is"
    ),
    printcolumn(
        name = "Next",
        type_ = "string",
        json_path = ".status.nextDue",
        description = "When it rotates next by itself"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1,
        description = "What is wrong or under way"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63")
        .message("a policy's name is a DNS label: at most 63 lower-case letters, digits and inner `-`"),
    validation = Rule::new("!has(self.spec.target.postgres) || !has(self.spec.target.postgres.strategy.alternating) || self.spec.target.postgres.strategy.alternating.users[0] != self.spec.target.postgres.strategy.alternating.users[1]")
        .message("the two users of a pair are two: name different ones"),
    validation = Rule::new("!has(self.spec.target.generated) || !has(self.spec.verify) || !has(self.spec.verify.onRefusal) || self.spec.verify.onRefusal != 'rotate'")
        .message("a generated value is checked by no target, so `verify.onRefusal: rotate` never comes to anything"),
    validation = Rule::new("!has(self.spec.consumers) || self.spec.consumers.all(c, !has(c.kubernetes) || !has(c.kubernetes.type) || !(c.kubernetes.type in ['kubernetes.io/service-account-token', 'bootstrap.kubernetes.io/token']))")
        .message("Kubernetes fills Secrets of token types itself")
)]
#[serde(transparent)]
pub struct RotationPolicySpec(pub Spec);

/// Where a policy stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The generation of the policy that this was said of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `ready`, `rotating`, `in doubt`, `containment owed`, `drifted`, `overdue`, `empty`, `unknown` or `refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What is wrong or under way, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The version in force; 0 before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub version: Option<Version>,
    /// The principal in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// When the value in force was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// When it rotates next by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub next_due: Option<Timestamp>,
    /// How the latest rotation ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<LastRotation>,
    /// The requests in annotations that were answered: each is answered once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
    /// `Ready`, `Rotating`, `InDoubt` and `Overdue`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// How a rotation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRotation {
    /// Its id, as the ledger has it.
    #[schemars(with = "String")]
    pub rotation: RotationId,
    /// `rotated`, `rolledBack` or another way in which it ended.
    #[schemars(with = "String")]
    pub outcome: Outcome,
    /// What began it.
    #[schemars(with = "String")]
    pub trigger: TriggerKind,
    /// When it ended.
    #[schemars(with = "String")]
    pub closed_at: Timestamp,
    /// Why it did not end as it was meant to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The form of Kubernetes' own conditions, and one of each type.
fn conditions_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "description": "`Ready`, `Rotating`, `InDoubt` and `Overdue`.",
        "items": {
            "type": "object",
            "description": "Whether something holds of the policy.",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {"type": "string", "description": "What: `Ready`, `Rotating`, `InDoubt` or `Overdue`."},
                "status": {
                    "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "Whether it does.",
                },
                "reason": {"type": "string", "description": "Why, in one word."},
                "message": {"type": "string", "description": "Why, for people."},
                "lastTransitionTime": {
                    "type": "string", "format": "date-time",
                    "description": "When `status` became what it is.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64",
                    "description": "The generation of the policy that this was said of.",
                },
            },
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The definition, as it is installed in a cluster.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    RotationPolicy::crd()
}

/// The types of conditions.
const CONDITIONS: [&str; 4] = ["Ready", "Rotating", "InDoubt", "Overdue"];

impl PolicyStatus {
    /// Of a policy in force. Conditions keep the moment at which they changed last, and facts that the store does
    /// not show now stay as they were told.
    #[must_use]
    pub fn of(status: &Status, generation: Option<i64>, before: &Self, now: Timestamp) -> Self {
        let message = message(status);
        if status.state == State::Unknown {
            let told = message.clone().unwrap_or_default();
            let unread =
                |kind| before.condition(kind, "Unknown", "StoreUnread", told.clone(), generation, now);
            return Self {
                observed_generation: generation,
                state: Some(status.state.as_str().to_owned()),
                conditions: CONDITIONS.map(unread).into(),
                message,
                ..before.clone()
            };
        }
        let is_open = status.open.is_some();
        let ready = match status.state {
            State::Ready | State::Rotating | State::Overdue if status.version != Version::NONE => {
                (true, "InForce", format!("{} is in force", status.version))
            }
            State::Ready | State::Rotating | State::Overdue => {
                (false, "NothingYet", "no value is in force yet".to_owned())
            }
            State::InDoubt => (false, "InDoubt", message.clone().unwrap_or_default()),
            State::Owing => (false, "ContainmentOwed", message.clone().unwrap_or_default()),
            State::Drifted => (false, "Drifted", message.clone().unwrap_or_default()),
            State::Empty => (false, "NothingYet", "no value is in force yet: adopt one or rotate".to_owned()),
            State::Unknown => (false, "StoreUnread", String::new()),
        };
        let rotating = match &status.open {
            Some(open) => (true, "Open", format!("at step {}{}", open.step, detail(open))),
            None => (false, "Closed", "no rotation is open".to_owned()),
        };
        let in_doubt = match status.state {
            State::InDoubt => (true, "PersonNeeded", message.clone().unwrap_or_default()),
            _ => (false, "Certain", "nothing is in doubt".to_owned()),
        };
        let overdue = if status.overdue {
            (true, "TooOld", "the value in force is older than the policy allows".to_owned())
        } else {
            (false, "Fresh", "the value in force is not too old".to_owned())
        };
        Self {
            observed_generation: generation,
            state: Some(status.state.as_str().to_owned()),
            message,
            version: Some(status.version),
            principal: status.principal.clone(),
            since: status.since.map(|at| at.round(jiff::Unit::Second).unwrap_or(at)),
            next_due: status
                .next_due
                .filter(|_| !is_open)
                .map(|at| at.round(jiff::Unit::Second).unwrap_or(at)),
            last_rotation: status.last.as_ref().map(|last| LastRotation {
                rotation: last.rotation,
                outcome: last.outcome,
                trigger: last.trigger,
                closed_at: last.closed_at,
                failure: last.failure.clone(),
            }),
            answered: before.answered.clone(),
            conditions: CONDITIONS
                .into_iter()
                .zip([ready, rotating, in_doubt, overdue])
                .map(|(kind, (holds, reason, message))| {
                    let status = if holds { "True" } else { "False" };
                    before.condition(kind, status, reason, message, generation, now)
                })
                .collect(),
        }
    }

    /// Of a policy that is refused: how an earlier text of it stands that is in force still, if there is one. What
    /// is known of it otherwise stays.
    #[must_use]
    pub fn refused(
        problems: &str,
        in_force: Option<&Status>,
        generation: Option<i64>,
        before: &Self,
        now: Timestamp,
    ) -> Self {
        let mut said = match in_force {
            Some(status) => Self::of(status, generation, before, now),
            None => Self {
                observed_generation: generation,
                conditions: CONDITIONS
                    .map(|kind| {
                        let why = "no text of it is in force".to_owned();
                        before.condition(kind, "Unknown", "Refused", why, generation, now)
                    })
                    .into(),
                ..before.clone()
            },
        };
        let ready = before.condition("Ready", "False", "Refused", problems.to_owned(), generation, now);
        said.conditions[0] = ready;
        Self { state: Some("refused".into()), message: Some(problems.to_owned()), ..said }
    }

    /// The same, with something else to be told.
    #[must_use]
    pub fn with_note(mut self, note: &str) -> Self {
        self.message = Some(match self.message {
            Some(message) => format!("{message}; {note}"),
            None => note.to_owned(),
        });
        self
    }

    fn condition(
        &self,
        kind: &str,
        status: &str,
        reason: &str,
        message: String,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Condition {
        let before = self.conditions.iter().find(|condition| condition.type_ == kind);
        let unchanged = before.filter(|before| before.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: unchanged
                .map_or_else(|| time(now), |before| before.last_transition_time.clone()),
        }
    }
}

/// What is wrong or under way.
fn message(status: &Status) -> Option<String> {
    if let Some(problem) = &status.problem {
        let remedy = problem.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        return Some(format!("{}{remedy}", problem.what));
    }
    let open = status.open.as_ref()?;
    Some(format!("{} rotation to {}, at step {}{}", open.trigger, open.to, open.step, detail(open)))
}

/// What a rotation waits for: as much of it as people read in a condition.
fn detail(open: &OpenRotation) -> String {
    const LONGEST: usize = 2000;
    let Some(text) = &open.detail else { return String::new() };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!(": {}...", &text[..end]),
        None => format!(": {text}"),
    }
}

fn time(at: Timestamp) -> Time {
    let at = k8s_openapi::jiff::Timestamp::from_second(at.as_second());
    Time(at.unwrap_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a moment")
    }

    fn status(state: State) -> Status {
        Status { state, version: Version::new(3), ..Status::nothing(&"orders/db".parse().expect("a name")) }
    }

    /// Type, status, reason, and the second since when.
    fn conditions(status: &PolicyStatus) -> Vec<(&str, &str, &str, i64)> {
        let of = |condition: &'_ Condition| condition.last_transition_time.0.as_second();
        let all = status.conditions.iter();
        all.map(|one| (&*one.type_, &*one.status, &*one.reason, of(one))).collect()
    }

    #[test]
    fn a_condition_keeps_the_moment_at_which_its_status_changed() {
        let first = PolicyStatus::of(&status(State::Ready), Some(1), &PolicyStatus::default(), at(10));
        let calm = [
            ("Ready", "True", "InForce", 10),
            ("Rotating", "False", "Closed", 10),
            ("InDoubt", "False", "Certain", 10),
            ("Overdue", "False", "Fresh", 10),
        ];
        assert_eq!(conditions(&first), calm);
        let again = PolicyStatus::of(&status(State::Ready), Some(2), &first, at(20));
        assert_eq!(conditions(&again), calm, "nothing changed but when it was looked at");
        assert_eq!(again.conditions[0].observed_generation, Some(2));
        let doubt = PolicyStatus::of(&status(State::InDoubt), Some(2), &again, at(30));
        let mut doubtful = calm;
        doubtful[0] = ("Ready", "False", "InDoubt", 30);
        doubtful[2] = ("InDoubt", "True", "PersonNeeded", 30);
        assert_eq!(conditions(&doubt), doubtful);
        let old = Status { overdue: true, ..status(State::Overdue) };
        let old = PolicyStatus::of(&old, Some(2), &again, at(40));
        let mut overdue = calm;
        overdue[3] = ("Overdue", "True", "TooOld", 40);
        assert_eq!(conditions(&old), overdue);
    }

    #[test]
    fn of_a_store_that_is_away_nothing_is_said_and_nothing_is_forgotten() {
        let before = PolicyStatus::of(&status(State::Ready), Some(1), &PolicyStatus::default(), at(10));
        let away = Status { version: Version::NONE, ..status(State::Unknown) };
        let said = PolicyStatus::of(&away, Some(1), &before, at(20));
        assert_eq!(said.version, Some(Version::new(3)));
        let unknown = |kind| (kind, "Unknown", "StoreUnread", 20);
        assert_eq!(conditions(&said), CONDITIONS.map(unknown));
        let back = PolicyStatus::of(&status(State::Ready), Some(1), &said, at(30));
        assert_eq!(conditions(&back)[0], ("Ready", "True", "InForce", 30));
    }

    #[test]
    fn a_refused_text_leaves_the_one_in_force_as_it_stands() {
        let before = PolicyStatus::of(&status(State::Ready), Some(1), &PolicyStatus::default(), at(10));
        let old = Status { overdue: true, ..status(State::Overdue) };
        let kept = PolicyStatus::refused("a mistake", Some(&old), Some(2), &before, at(20));
        assert_eq!(conditions(&kept)[0], ("Ready", "False", "Refused", 20));
        assert_eq!(conditions(&kept)[3], ("Overdue", "True", "TooOld", 20));
        assert_eq!(kept.message.as_deref(), Some("a mistake"));
        let never = PolicyStatus::refused("a mistake", None, Some(1), &PolicyStatus::default(), at(20));
        assert_eq!(conditions(&never)[1], ("Rotating", "Unknown", "Refused", 20));
    }
}
