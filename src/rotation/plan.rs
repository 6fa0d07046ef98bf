//! From a policy to what one rotation does: the strategy, the principals, the pinned specification.
//!
//! Pure. The plan is pinned in the run document, so an edited or deleted policy does not change a
//! rotation that is under way.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ident::{PolicyName, Principal};
use crate::policy::spec::{
    ClickhouseStrategy, ConsumerSpec, ExecStrategy, MysqlStrategy, PostgresSpec, PostgresStrategy,
    RabbitmqSpec, RabbitmqStrategy, RedisSpec, RedisStrategy, TargetSpec,
};
use crate::policy::{Policy, Spec};
use crate::recipe::RecipeStrategy;
use crate::schedule;

/// What one rotation does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub policy: PolicyName,
    /// The specification as it was at opening.
    pub spec: Spec,
    /// See [`Policy::spec_hash`].
    pub spec_hash: String,
    pub strategy: Strategy,
    /// Who the candidate is for: the user that gets it, or the owner of the key that a provider makes.
    pub candidate: Principal,
}

/// How the value changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// Two users take turns.
    Alternating,
    /// One user, who takes two values at a time.
    DualPassword,
    /// A provider makes a key beside the one that there is.
    DualKey,
    /// A provider makes a value in the place of the one that there is, which is dead from then on.
    Reissued,
    /// One user; no overlap.
    InPlace,
    /// No target.
    Generated,
}

impl Strategy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alternating => "alternating",
            Self::DualPassword => "dualPassword",
            Self::DualKey => "dualKey",
            Self::Reissued => "reissued",
            Self::InPlace => "inPlace",
            Self::Generated => "generated",
        }
    }

    #[must_use]
    pub const fn of(target: &TargetSpec) -> Self {
        match target {
            TargetSpec::Postgres(PostgresSpec { strategy: PostgresStrategy::Alternating(_), .. }) => {
                Self::Alternating
            }
            TargetSpec::Postgres(PostgresSpec { strategy: PostgresStrategy::InPlace(_), .. }) => {
                Self::InPlace
            }
            TargetSpec::Rabbitmq(RabbitmqSpec { strategy: RabbitmqStrategy::Alternating(_), .. }) => {
                Self::Alternating
            }
            TargetSpec::Redis(RedisSpec { strategy: RedisStrategy::DualPassword(_), .. }) => {
                Self::DualPassword
            }
            TargetSpec::Clickhouse(clickhouse) => match clickhouse.strategy {
                ClickhouseStrategy::Alternating(_) => Self::Alternating,
                ClickhouseStrategy::DualPassword(_) => Self::DualPassword,
            },
            TargetSpec::Mysql(mysql) => match mysql.strategy {
                MysqlStrategy::Alternating(_) => Self::Alternating,
                MysqlStrategy::DualPassword(_) => Self::DualPassword,
                MysqlStrategy::InPlace(_) => Self::InPlace,
            },
            TargetSpec::Http(http) => match http.strategy() {
                RecipeStrategy::DualKey | RecipeStrategy::HandOff => Self::DualKey,
                RecipeStrategy::Reissued => Self::Reissued,
            },
            TargetSpec::Vault(_) | TargetSpec::AwsIam(_) | TargetSpec::KubernetesServiceAccount(_) => {
                Self::DualKey
            }
            TargetSpec::Exec(exec) => match exec.strategy {
                ExecStrategy::Alternating(_) => Self::Alternating,
                ExecStrategy::InPlace(_) => Self::InPlace,
                ExecStrategy::DualPassword(_) => Self::DualPassword,
                ExecStrategy::DualKey(_) => Self::DualKey,
                ExecStrategy::Reissued(_) => Self::Reissued,
            },
            TargetSpec::Generated(_) => Self::Generated,
            #[cfg(feature = "proving")]
            TargetSpec::Simulated(_) => Self::DualPassword,
            #[cfg(feature = "proving")]
            TargetSpec::SimulatedKeys(_) => Self::DualKey,
        }
    }

    /// Whether both values work between install and retire.
    #[must_use]
    pub const fn overlaps(self) -> bool {
        matches!(self, Self::Alternating | Self::DualPassword | Self::DualKey)
    }

    /// Whether the target makes the value, and names its principal.
    #[must_use]
    pub const fn mints(self) -> bool {
        matches!(self, Self::DualKey | Self::Reissued)
    }

    /// Whether two principals take turns.
    #[must_use]
    pub const fn takes_turns(self) -> bool {
        matches!(self, Self::Alternating)
    }

    /// Whether both values are one principal's.
    #[must_use]
    pub const fn shares_principal(self) -> bool {
        matches!(self, Self::DualPassword | Self::InPlace)
    }
}

impl Plan {
    /// Derives the plan from a policy and the principal in force.
    ///
    /// # Errors
    /// When the principal in force is not one that the policy rotates.
    pub fn derive(policy: &Policy, current: Option<&Principal>) -> Result<Self, PlanProblem> {
        let principals = policy.principals();
        let candidate = match (principals.as_slice(), current) {
            ([first, ..], None) => *first,
            // The value in force has the name that the provider gave it.
            ([owner], Some(_)) if Strategy::of(&policy.spec().target).mints() => owner,
            ([one], Some(current)) if *one == current => one,
            ([first, second], Some(current)) if *first == current => second,
            ([first, second], Some(current)) if *second == current => first,
            (_, Some(current)) => {
                return Err(PlanProblem {
                    current: current.clone(),
                    expected: principals.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
                });
            }
            ([], None) => unreachable!("every target has a principal"),
        };
        Ok(Self::for_principal(policy, candidate.clone()))
    }

    /// The plan for a given principal: an adoption names it.
    #[must_use]
    pub fn for_principal(policy: &Policy, candidate: Principal) -> Self {
        Self {
            policy: policy.name().clone(),
            spec: policy.spec().clone(),
            spec_hash: policy.spec_hash(),
            strategy: Strategy::of(&policy.spec().target),
            candidate,
        }
    }

    /// Whether readers that fail with a new value get back what they had.
    #[must_use]
    pub fn rolls_back(&self) -> bool {
        let keeps_earlier = self.strategy.overlaps() || self.strategy == Strategy::Generated;
        keeps_earlier && self.spec.consumers.iter().any(ConsumerSpec::rolls_back)
    }

    /// See [`schedule::needed_life`].
    #[must_use]
    pub fn needed_life(&self, now: Timestamp) -> Option<Duration> {
        schedule::needed_life(&self.spec, &self.policy, now)
    }

    /// The target as records and messages name it.
    #[must_use]
    pub fn target_label(&self) -> String {
        target_label(&self.spec.target)
    }

    /// The store and path as records and messages name them.
    #[must_use]
    pub fn store_label(&self) -> String {
        format!("{}:{}", self.spec.store.name, self.spec.store.path)
    }
}

/// A target as records, limits and messages name it.
#[must_use]
pub fn target_label(target: &TargetSpec) -> String {
    match target {
        TargetSpec::Postgres(postgres) => format!("postgres {}", postgres.endpoint),
        TargetSpec::Redis(redis) => format!("redis {redis}"),
        TargetSpec::Mysql(mysql) => format!("mysql {}", mysql.endpoint),
        TargetSpec::Rabbitmq(rabbitmq) => format!("rabbitmq {}", rabbitmq.endpoint),
        TargetSpec::Clickhouse(clickhouse) => format!("clickhouse {clickhouse}"),
        TargetSpec::Http(http) => format!("http {http}"),
        TargetSpec::Vault(vault) => format!("vault {vault}"),
        TargetSpec::AwsIam(iam) => format!("aws iam {iam}"),
        TargetSpec::KubernetesServiceAccount(account) => format!("service account {account}"),
        TargetSpec::Exec(exec) => format!("plug-in {exec}"),
        TargetSpec::Generated(_) => "generated".into(),
        #[cfg(feature = "proving")]
        TargetSpec::Simulated(simulated) => format!("simulated {}", simulated.user),
        #[cfg(feature = "proving")]
        TargetSpec::SimulatedKeys(simulated) => format!("simulated keys of {}", simulated.user),
    }
}

/// Which server a key was made by, and for whom, where the target makes them; `None` of any other target.
///
/// A key is nowhere known but there. Another server says of it that it is none, which is no proof that it is dead, and
/// would learn it by being asked.
#[must_use]
pub fn maker(target: &TargetSpec) -> Option<String> {
    match target {
        // Whatever the recipe is called.
        TargetSpec::Http(http) => http.servers().map(|servers| format!("http {servers}")),
        target => Strategy::of(target).mints().then(|| target_label(target)),
    }
}

/// The store's value is for a principal that the policy does not rotate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store's current value is for `{current}`, and the policy rotates {expected}")]
pub struct PlanProblem {
    current: Principal,
    expected: String,
}
