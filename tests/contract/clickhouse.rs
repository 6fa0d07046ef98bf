//! What the ClickHouse target promises, on whatever speaks ClickHouse: a real engine, and the scripted server, which has
//! to pass for one. [`clickhouse_contract!`] makes one test of each promise, and of each of the two contracts that a pair
//! and a user with two values keep on any target; `$world` is an expression that makes a [`World`] with nothing in it.
//!
//! Everything is arranged and looked at by statements, which mean the same to both.

#[path = "clickhouse/dual.rs"]
pub(crate) mod dual;
#[path = "clickhouse/pair.rs"]
pub(crate) mod pair;
#[path = "clickhouse/preflight.rs"]
pub(crate) mod preflight;

use async_trait::async_trait;
use rekeyd::failure::Failure;
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId, Version};
use rekeyd::policy::spec::{AlternatingSpec, ClickhouseSpec, ClickhouseStrategy, DualPasswordSpec};
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::clickhouse::ClickhouseTarget;
use rekeyd::target::{
    Attempt, Extent, InstallRequest, Installed, Occupancy, Probe, ProbeDepth, RetireRequest, Retired,
    Target as _,
};

use crate::dual_password_contract::DualBench;
use crate::target_contract::{Bench, Open};

/// A corner of a ClickHouse for one test. It has an admin with the rights that are documented, a role `{p}_group` that
/// the admin may grant, and a table `{p}.orders`.
#[async_trait]
pub(crate) trait World: Send + Sync {
    /// What the names of this corner begin with.
    fn prefix(&self) -> &str;

    /// How many nodes there are, all of them with the corner.
    fn nodes(&self) -> usize {
        1
    }

    fn admin(&self) -> Principal;

    fn spec(&self, strategy: ClickhouseStrategy) -> ClickhouseSpec;

    fn target(&self, spec: ClickhouseSpec) -> ClickhouseTarget;

    /// Somebody who may do anything says this at a node: the first column of what comes back.
    async fn say_at(&self, node: usize, statement: &str) -> Vec<String>;

    /// A query that an application runs and that does not end by itself. The application must be let in.
    async fn open_at(&self, node: usize, credential: &Credential) -> Box<dyn Open>;

    fn name(&self, suffix: &str) -> Principal {
        format!("{}_{suffix}", self.prefix()).parse().expect("a principal")
    }

    /// With `{p}` in the place of what names begin with, and `{admin}` in that of the admin's name.
    fn in_words(&self, text: &str) -> String {
        text.replace("{p}", self.prefix()).replace("{admin}", self.admin().as_str())
    }

    /// Says something at every node: what the first one answers.
    async fn say(&self, statement: &str) -> Vec<String> {
        let statement = self.in_words(statement);
        let first = self.say_at(0, &statement).await;
        for node in 1..self.nodes() {
            self.say_at(node, &statement).await;
        }
        first
    }

    async fn row(&self, statement: &str) -> String {
        self.say(statement).await.into_iter().next().unwrap_or_else(|| panic!("no row: {statement}"))
    }

    /// The users `a` and `b`, which have the role.
    fn pair(&self) -> ClickhouseSpec {
        let (users, member_of) = ([self.name("a"), self.name("b")], vec![self.name("group")]);
        self.spec(ClickhouseStrategy::Alternating(AlternatingSpec { users, member_of }))
    }

    /// The user `one`.
    fn dual(&self) -> ClickhouseSpec {
        self.spec(ClickhouseStrategy::DualPassword(DualPasswordSpec { user: self.name("one") }))
    }

    /// What a user is, with nothing of its own in it: all that a server tells but its name, its ways to log in and its
    /// marker.
    async fn shape(&self, suffix: &str) -> Vec<String> {
        let user = self.name(suffix);
        let shown = self.row(&format!("SHOW CREATE USER {user}")).await;
        let from = shown.find(" IDENTIFIED WITH ").map_or(shown.len(), |at| at + " IDENTIFIED WITH ".len());
        let rest = &shown[from..];
        let clauses = [" HOST", " DEFAULT", " SETTINGS", " GRANTEES"];
        let end = clauses.iter().filter_map(|clause| rest.find(clause)).min().unwrap_or(rest.len());
        let mut clauses = rest[end..].to_owned();
        // The marker is one setting among several, or the only one.
        for marker in
            [r", PROFILE `\[rekeyd[^`]*`|PROFILE `\[rekeyd[^`]*`, ", r" SETTINGS PROFILE `\[rekeyd[^`]*`"]
        {
            let marker = regex::Regex::new(marker).expect("a pattern");
            clauses = marker.replace(&clauses, "").into_owned();
        }
        let mut lines = vec![clauses.trim().to_owned()];
        let grants = self.say(&format!("SHOW GRANTS FOR {user}")).await;
        lines.extend(grants.iter().map(|line| line.replace(user.as_str(), "itself")));
        lines
    }

    /// How many ways to log in a user has, and all its profiles.
    async fn kept(&self, suffix: &str) -> (usize, Vec<String>) {
        let user = self.name(suffix);
        let ways = format!("SELECT toString(length(auth_type)) FROM system.users WHERE name = '{user}'");
        let profiles = format!(
            "SELECT inherit_profile FROM system.settings_profile_elements WHERE user_name = '{user}' AND \
             inherit_profile IS NOT NULL"
        );
        (self.row(&ways).await.parse().expect("a number"), self.say(&profiles).await)
    }

    /// A connection belongs to it.
    async fn id(&self, suffix: &str) -> String {
        let user = self.name(suffix);
        self.row(&format!("SELECT toString(id) FROM system.users WHERE name = '{user}'")).await
    }
}

/// The promises of a module, each of which is given a new world.
macro_rules! clickhouse_promises {
    ($world:expr, $module:ident: $($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::clickhouse_contract::$module::$promise(&$world).await;
        }
    )+};
}
pub(crate) use clickhouse_promises;

macro_rules! clickhouse_contract {
    ($world:expr) => {
        mod pair {
            use super::*;
            // Without `only_sessions_before_the_moment_are_ended`: nothing changes in place here.
            crate::target_contract::target_contract! { crate::clickhouse_contract::Pair::new($world).await;
                a_value_is_refused_before_its_install_and_accepted_after
                installing_the_same_candidate_again_is_right
                only_the_very_value_of_the_very_principal_is_accepted
                an_older_attempt_changes_nothing
                a_fence_belongs_to_one_rotation
                one_policy_does_not_take_anothers_principal
                usage_lists_the_open_sessions
                a_first_value_does_not_replace_one_that_nobody_took_over
                a_spare_with_a_value_that_nobody_took_over_is_not_taken
                a_spare_in_use_is_not_taken
                a_seized_spare_loses_its_sessions
                a_retired_principal_is_refused_and_has_no_session
                retiring_again_or_what_is_not_there_is_right
                an_older_attempt_retires_nothing
                undoing_takes_back_what_was_installed
                undoing_what_never_arrived_bars_its_arrival
                undoing_bars_the_arrival_at_a_principal_that_is_not_there
                undoing_leaves_a_later_attempt_alone
                a_later_attempt_follows_an_undone_one
                a_retired_principal_serves_again
                a_preflight_changes_nothing
            }
            crate::clickhouse_contract::clickhouse_promises! { $world, pair:
                the_candidate_gets_what_its_peer_has
                a_retired_user_is_another_one_with_the_same_rights
                a_seized_spare_is_another_one
                a_user_that_a_policy_names_is_not_made_anew
                a_right_that_the_admin_may_not_grant_is_named
                a_role_that_does_not_exist_is_named
                the_check_is_run_as_the_candidate
            }
        }
        mod dual {
            use super::*;
            crate::dual_password_contract::dual_password_contract! {
                crate::clickhouse_contract::Dual::new($world).await
            }
            crate::clickhouse_contract::clickhouse_promises! { $world, dual:
                a_user_keeps_what_is_its_own
                other_ways_to_log_in_are_not_taken_away
                a_user_that_is_not_there_is_not_made
            }
        }
        mod preflight {
            use super::*;
            crate::clickhouse_contract::clickhouse_promises! { $world, preflight:
                each_right_that_is_missing_is_named
                a_user_that_cannot_be_rotated_is_told
                a_server_that_lets_everybody_in_proves_nothing
                what_a_pair_is_going_to_be_given_is_told
                what_the_admin_may_not_grant_is_named
            }
        }
    };
}
pub(crate) use clickhouse_contract;

/// Two users that take turns.
pub(crate) struct Pair<W> {
    pub(crate) world: W,
    pub(crate) target: ClickhouseTarget,
}

impl<W: World> Pair<W> {
    pub(crate) async fn new(world: W) -> Self {
        let target = world.target(world.pair());
        Self { world, target }
    }
}

#[async_trait]
impl<W: World> Bench for Pair<W> {
    type Target = ClickhouseTarget;

    async fn by_hand(&self, credential: &Credential) {
        let (user, value) = (&credential.principal, credential.value.expose_str().expect("text"));
        self.world.say(&format!("CREATE USER {user} IDENTIFIED WITH sha256_password BY '{value}'")).await;
    }

    fn target(&self) -> &ClickhouseTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        [self.world.name("a"), self.world.name("b")]
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        self.world.open_at(0, credential).await
    }
}

/// A user with several ways to log in.
pub(crate) struct Dual<W> {
    pub(crate) world: W,
    pub(crate) target: ClickhouseTarget,
}

impl<W: World> Dual<W> {
    pub(crate) async fn new(world: W) -> Self {
        world.say(&making("{p}_one")).await;
        let target = world.target(world.dual());
        Self { world, target }
    }
}

/// A user that nobody can log in as.
pub(crate) fn making(user: &str) -> String {
    format!(
        "CREATE USER {user} IDENTIFIED WITH sha256_password BY 'nobody knows' VALID UNTIL '2000-01-01 00:00:00'"
    )
}

/// Somebody adds a way to log in by hand.
pub(crate) async fn slip(world: &impl World, value: &str) {
    world.say(&format!("ALTER USER {{p}}_one ADD IDENTIFIED WITH sha256_password BY '{value}'")).await;
}

#[async_trait]
impl<W: World> DualBench for Dual<W> {
    type Target = ClickhouseTarget;

    fn target(&self) -> &ClickhouseTarget {
        &self.target
    }

    fn user(&self) -> Principal {
        self.world.name("one")
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        self.world.open_at(0, credential).await
    }

    async fn by_hand(&self, credential: &Credential) {
        self.slip(credential).await;
    }

    async fn slip(&self, credential: &Credential) {
        slip(&self.world, credential.value.expose_str().expect("text")).await;
    }
}

pub(crate) fn new(user: &Principal) -> Credential {
    Credential::new(user.clone(), ValueSpec::default().generate())
}

/// One attempt of one rotation.
pub(crate) struct Step {
    policy: PolicyName,
    rotation: RotationId,
    fence: u64,
}

impl Step {
    pub(crate) fn new(fence: u64) -> Self {
        let policy = "orders/olap".parse().expect("a policy name");
        Self { policy, rotation: RotationId::generate(), fence }
    }

    pub(crate) fn attempt(&self) -> Attempt<'_> {
        let (version, fence) = (Version::new(self.fence), Fence::new(self.fence));
        Attempt { policy: &self.policy, rotation: self.rotation, version, fence }
    }
}

pub(crate) async fn install_with(
    target: &ClickhouseTarget,
    step: &Step,
    candidate: &Credential,
    peer: Option<&Principal>,
    beside: Option<&Credential>,
    occupancy: Occupancy,
) -> Result<Installed, Failure> {
    let attempt = step.attempt();
    target.install(InstallRequest { attempt, candidate, peer, beside, occupancy }).await
}

/// Beside another value of the same user, where there is one.
pub(crate) async fn install(
    target: &ClickhouseTarget,
    step: &Step,
    candidate: &Credential,
    beside: Option<&Credential>,
) -> Result<Installed, Failure> {
    install_with(target, step, candidate, None, beside, Occupancy::Refuse).await
}

/// The turn of another user.
pub(crate) async fn turn(
    target: &ClickhouseTarget,
    step: &Step,
    candidate: &Credential,
    peer: &Principal,
) -> Result<Installed, Failure> {
    install_with(target, step, candidate, Some(peer), None, Occupancy::Refuse).await
}

pub(crate) async fn retire(
    target: &ClickhouseTarget,
    step: &Step,
    user: &Principal,
    extent: Extent,
    beside: Option<&Credential>,
) -> Result<Retired, Failure> {
    let attempt = step.attempt();
    target.retire(RetireRequest { attempt, principal: user, extent, outgoing: None, beside }).await
}

pub(crate) async fn probe(target: &ClickhouseTarget, credential: &Credential) -> Probe {
    target.probe(credential, ProbeDepth::Login).await
}

#[track_caller]
pub(crate) fn done(installed: Result<Installed, Failure>) {
    assert!(matches!(installed, Ok(Installed::Done { .. })), "{installed:?}");
}
