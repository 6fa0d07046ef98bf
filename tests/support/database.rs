//! A database server that behaves: users with values, sessions that outlive a change of value, markers
//! that refuse late attempts. It is held to the same contract as the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::provider::Keyring;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rekeyd::clock::Clock;
use rekeyd::failure::{Failure, FailureClass, Finding};
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId};
use rekeyd::proving::Mutant;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::{
    Attempt, Extent, InstallRequest, Installed, Occupancy, PreflightRequest, Probe, ProbeDepth,
    RetireRequest, Retired, Session, Target, Usage,
};

/// A server, and what happened on it.
pub(crate) struct Database {
    pub(super) clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    roles: BTreeMap<Principal, Role>,
    pub(super) keys: Keyring,
    last: Option<Timestamp>,
    next_session: u64,
    pub(super) knobs: Knobs,
}

/// What a test can do to the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Knobs {
    /// The admin's rights were taken away.
    pub(crate) powerless: bool,
    /// The password policy takes no value.
    pub(crate) picky: bool,
    /// The check statement fails.
    pub(crate) unfit: bool,
    /// So many installs come out wrong: the server takes another value than it was given.
    pub(crate) garbles: usize,
    /// So many retires say that they are done and do nothing.
    pub(crate) idle_retires: usize,
    /// Users have to exist: changed in place.
    pub(crate) creates_nobody: bool,
    /// Keys cannot be named.
    pub(crate) untagged: bool,
    /// Keys end by themselves after so long.
    pub(crate) life: Option<std::time::Duration>,
    /// Retiring a key would end more than it: but for a containment it is left to its end.
    pub(crate) lapses: bool,
}

#[derive(Default)]
struct Role {
    /// `None`: a value that nobody knows.
    value: Option<SecretValue>,
    /// Where a user takes two: the one that was set before.
    older: Option<SecretValue>,
    may_log_in: bool,
    marker: Option<Marker>,
    sessions: Vec<(u64, Session)>,
}

#[derive(Debug, Clone)]
struct Marker {
    policy: PolicyName,
    fence: Fence,
    rotation: RotationId,
    state: MarkerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MarkerState {
    Installed,
    Withdrawn,
    Retired,
}

enum Standing {
    Open,
    Own(MarkerState),
    Later(Fence),
    Foreign(PolicyName),
}

impl Database {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    pub(crate) fn turn(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.state().knobs);
    }

    /// Somebody with rights makes a user, which no value lets in.
    pub(crate) fn make(&self, principal: &Principal) {
        self.state().roles.entry(principal.clone()).or_default();
    }

    /// Somebody with rights sets a value by hand.
    pub(crate) fn set(&self, credential: &Credential) {
        let mut state = self.state();
        let role = state.roles.entry(credential.principal.clone()).or_default();
        role.value = Some(credential.value.duplicate());
        role.may_log_in = true;
    }

    /// Whether a login with it works, whatever the knobs say.
    pub(crate) fn accepts(&self, credential: &Credential) -> bool {
        self.state().accepts(credential)
    }

    /// Whether it has such a user.
    pub(crate) fn knows(&self, principal: &Principal) -> bool {
        self.state().roles.contains_key(principal)
    }

    /// Logs in and stays: the session's number. `None` when refused.
    pub(crate) fn log_in(&self, credential: &Credential, application: &str) -> Option<u64> {
        let mut state = self.state();
        if !state.accepts(credential) {
            return None;
        }
        let since = state.tick(&*self.clock);
        state.next_session += 1;
        let number = state.next_session;
        let session = Session { application: application.into(), client: "10.0.0.7".into(), since };
        // With a key there are no sessions.
        if let Some(role) = state.roles.get_mut(&credential.principal) {
            role.sessions.push((number, session));
        }
        Some(number)
    }

    pub(crate) fn log_out(&self, session: u64) {
        for role in self.state().roles.values_mut() {
            role.sessions.retain(|(number, _)| *number != session);
        }
    }

    pub(crate) fn lives(&self, session: u64) -> bool {
        self.state().roles.values().any(|role| role.sessions.iter().any(|(number, _)| *number == session))
    }

    /// Raises the fence of a user's marker, as an attempt does that the store knows nothing of.
    pub(crate) fn raise_fence(&self, principal: &Principal, policy: &PolicyName, fence: Fence) {
        let mut state = self.state();
        let role = state.roles.entry(principal.clone()).or_default();
        let rotation = RotationId::generate();
        role.marker = Some(Marker { policy: policy.clone(), fence, rotation, state: MarkerState::Installed });
    }

    /// What logins of these users work with.
    pub(crate) fn accepted(&self, principals: &[&Principal]) -> Vec<Credential> {
        let state = self.state();
        let open = principals.iter().filter_map(|principal| {
            let role = state.roles.get(*principal).filter(|role| role.may_log_in)?;
            let values = [&role.value, &role.older].into_iter().flatten();
            Some(
                values
                    .map(|value| Credential::new((*principal).clone(), value.duplicate()))
                    .collect::<Vec<_>>(),
            )
        });
        let keys = principals.iter().flat_map(|owner| state.keys.live(owner));
        open.flatten().chain(keys).collect()
    }

    /// Somebody with rights sets a second value by hand, where a user takes two and has room.
    pub(crate) fn add(&self, credential: &Credential) -> bool {
        let mut state = self.state();
        let Some(role) = state.roles.get_mut(&credential.principal) else { return false };
        if role.older.is_some() || role.value.is_none() {
            return false;
        }
        role.older = role.value.replace(credential.value.duplicate());
        true
    }
}

/// The same server with users that take two values at a time, as MySQL's do.
pub(crate) struct DualDatabase(pub(crate) Arc<Database>);

impl State {
    fn accepts(&self, credential: &Credential) -> bool {
        let role = self.roles.get(&credential.principal);
        role.is_some_and(|role| role.may_log_in && role.holds(&credential.value))
            || self.keys.accepts(credential)
    }

    /// The server's own time; no two things happen at the same one.
    pub(super) fn tick(&mut self, clock: &dyn Clock) -> Timestamp {
        let now = clock.now();
        let next = self.last.map_or(now, |last| last + SignedDuration::from_micros(1));
        *self.last.insert(now.max(next))
    }
}

impl Role {
    fn holds(&self, value: &SecretValue) -> bool {
        [&self.value, &self.older].into_iter().flatten().any(|known| known == value)
    }

    fn forget(&mut self, which: impl Fn(&SecretValue) -> bool) {
        if self.older.as_ref().is_some_and(&which) {
            self.older = None;
        }
        if self.value.as_ref().is_some_and(&which) {
            self.value = self.older.take();
        }
    }

    /// Whether it has a value, and is none that rekeyd gives values.
    fn is_anothers(&self) -> bool {
        let vouches = |marker: &Marker| marker.state != MarkerState::Withdrawn;
        self.may_log_in && self.value.is_some() && !self.marker.as_ref().is_some_and(vouches)
    }

    fn standing(&self, attempt: &Attempt<'_>) -> Standing {
        match &self.marker {
            None => Standing::Open,
            Some(marker) if marker.policy != *attempt.policy => Standing::Foreign(marker.policy.clone()),
            Some(marker) if marker.fence < attempt.fence => Standing::Open,
            Some(marker) if marker.fence == attempt.fence && marker.rotation == attempt.rotation => {
                Standing::Own(marker.state)
            }
            Some(marker) => Standing::Later(marker.fence),
        }
    }

    fn mark(&mut self, attempt: &Attempt<'_>, state: MarkerState) {
        let Attempt { policy, rotation, fence, .. } = *attempt;
        self.marker = Some(Marker { policy: policy.clone(), fence, rotation, state });
    }

    /// No login, no known value, no sessions. The number of sessions there were.
    fn close(&mut self) -> u64 {
        (self.value, self.older, self.may_log_in) = (None, None, false);
        self.end_sessions(|_| true)
    }

    fn end_sessions(&mut self, which: impl Fn(&Session) -> bool) -> u64 {
        let before = self.sessions.len();
        self.sessions.retain(|(_, session)| !which(session));
        (before - self.sessions.len()) as u64
    }
}

fn failure(
    class: FailureClass,
    doing: &str,
    principal: &Principal,
    reason: impl std::fmt::Display,
) -> Failure {
    Failure::new(class, format!("{doing} role {principal}"), reason)
}

fn strange(principal: &Principal, has_outgoing: bool) -> Failure {
    let remedy = if has_outgoing { "find out who uses it" } else { "take it over with `rekeyd adopt`" };
    let reason = "it has a value that nobody knows";
    failure(FailureClass::Conflict, "install", principal, reason).with_remedy(remedy)
}

#[async_trait]
impl Target for Database {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let mut state = self.state();
        let Knobs { powerless, picky, garbles, creates_nobody, .. } = state.knobs;
        let Credential { principal, value, .. } = request.candidate;
        let fail = |class, reason: &str| Err(failure(class, "install", principal, reason));
        if creates_nobody && !state.roles.contains_key(principal) {
            return fail(FailureClass::Invalid, "the role does not exist");
        }
        let role = state.roles.entry(principal.clone()).or_default();
        let repeated = match role.standing(&request.attempt) {
            Standing::Open => false,
            Standing::Own(MarkerState::Installed) => true,
            Standing::Own(_) => return Ok(Installed::Superseded { by: request.attempt.fence }),
            Standing::Later(by) => return Ok(Installed::Superseded { by }),
            Standing::Foreign(policy) => {
                return fail(FailureClass::Conflict, &format!("policy {policy} holds the role"));
            }
        };
        if powerless {
            return fail(FailureClass::Denied, "the admin may not change it");
        }
        if request.occupancy == Occupancy::Refuse && !repeated && !role.sessions.is_empty() {
            return fail(FailureClass::Conflict, "it should be idle and has open sessions");
        }
        if request.occupancy == Occupancy::Refuse && !repeated && role.is_anothers() {
            return Err(strange(principal, request.peer.is_some()));
        }
        if picky {
            return fail(FailureClass::Refused, "the password policy refuses the value");
        }
        role.value = (garbles == 0).then(|| value.duplicate());
        role.may_log_in = true;
        role.mark(&request.attempt, MarkerState::Installed);
        state.knobs.garbles = garbles.saturating_sub(1);
        let at = state.tick(&*self.clock);
        if request.occupancy == Occupancy::Close {
            let role = state.roles.get_mut(principal).expect("it is there now");
            role.end_sessions(|session| session.since < at);
        }
        Ok(Installed::Done { at })
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        let state = self.state();
        if !state.accepts(credential) {
            return Probe::Refused;
        }
        if depth == ProbeDepth::Check && state.knobs.unfit {
            let reason = "the check statement fails";
            return Probe::Unfit(failure(FailureClass::Invalid, "check", &credential.principal, reason));
        }
        Probe::Accepted
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let state = self.state();
        let sessions = state.roles.get(principal).map(|role| role.sessions.iter());
        let sessions = sessions.into_iter().flatten().map(|(_, session)| session.clone()).collect();
        Ok(Usage { sessions, ..Usage::default() })
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        let mut state = self.state();
        let powerless = state.knobs.powerless;
        let done = |sessions_closed| Ok(Retired::Done { sessions_closed });
        if state.knobs.idle_retires > 0 {
            state.knobs.idle_retires -= 1;
            return done(0);
        }
        if request.extent == Extent::Attempt && !powerless && !state.knobs.creates_nobody {
            // A late install would make the user.
            state.roles.entry(request.principal.clone()).or_default();
        }
        let Some(role) = state.roles.get_mut(request.principal) else { return done(0) };
        let fail = |class, reason: String| Err(failure(class, "retire", request.principal, reason));
        let standing = role.standing(&request.attempt);
        let changes = !matches!(
            (request.extent, &standing),
            (Extent::Attempt, Standing::Own(MarkerState::Withdrawn | MarkerState::Retired))
                | (Extent::Attempt, Standing::Later(_) | Standing::Foreign(_))
        );
        if powerless && changes {
            return fail(FailureClass::Denied, "the admin may not change it".into());
        }
        match (request.extent, standing) {
            (Extent::SessionsBefore(moment), _) => done(role.end_sessions(|session| session.since < moment)),
            (Extent::Principal, Standing::Open | Standing::Own(_)) => {
                role.mark(&request.attempt, MarkerState::Retired);
                done(role.close())
            }
            (Extent::Principal, Standing::Later(by)) => Ok(Retired::Superseded { by }),
            (Extent::Principal, Standing::Foreign(policy)) => {
                fail(FailureClass::Conflict, format!("policy {policy} holds the role"))
            }
            (Extent::Attempt, Standing::Open) => {
                role.mark(&request.attempt, MarkerState::Withdrawn);
                done(0)
            }
            (Extent::Attempt, Standing::Own(MarkerState::Installed)) => {
                role.mark(&request.attempt, MarkerState::Withdrawn);
                done(role.close())
            }
            (Extent::Attempt, Standing::Own(MarkerState::Withdrawn)) if !role.may_log_in => {
                done(role.end_sessions(|_| true))
            }
            (Extent::Attempt, _) => done(0),
            (Extent::Disabled, _) => done(0),
            (Extent::OtherValues, _) => fail(FailureClass::Invalid, "a role has one value at a time".into()),
        }
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        let state = self.state();
        let foreign = state.roles.values().filter_map(|role| role.marker.as_ref());
        if let Some(marker) = foreign.into_iter().find(|marker| marker.policy != *request.policy) {
            let detail = format!("policy {} holds a role", marker.policy);
            return vec![Finding::fail("database", detail, "give each policy users of its own")];
        }
        let current = request.current.map(|current| &current.principal);
        let mut others = state.roles.iter().filter(|(principal, _)| Some(*principal) != current);
        match others.find(|(_, role)| role.is_anothers()) {
            None => vec![Finding::pass("database", "the admin may change its users")],
            Some((principal, _)) => {
                vec![Finding::from_failure("database", &strange(principal, current.is_some()))]
            }
        }
    }
}

#[async_trait]
impl Target for DualDatabase {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let mut state = self.0.state();
        let Knobs { powerless, picky, .. } = state.knobs;
        let Credential { principal, value, .. } = request.candidate;
        let fail = |class, reason: &str| Err(failure(class, "install", principal, reason));
        let role = state.roles.entry(principal.clone()).or_default();
        match role.standing(&request.attempt) {
            Standing::Open | Standing::Own(MarkerState::Installed) => {}
            Standing::Own(_) => return Ok(Installed::Superseded { by: request.attempt.fence }),
            Standing::Later(by) => return Ok(Installed::Superseded { by }),
            Standing::Foreign(policy) => {
                return fail(FailureClass::Conflict, &format!("policy {policy} holds the role"));
            }
        }
        if powerless {
            return fail(FailureClass::Denied, "the admin may not change it");
        }
        if picky {
            return fail(FailureClass::Refused, "the password policy refuses the value");
        }
        if !role.holds(value) || Mutant::BlindRetain.is_on() {
            let keeps = |known: &SecretValue| request.beside.is_some_and(|beside| beside.value == *known);
            let is_strange = [&role.value, &role.older].into_iter().flatten().any(|known| !keeps(known));
            if is_strange
                && (request.beside.is_some() || role.is_anothers())
                && request.occupancy == Occupancy::Refuse
            {
                return Err(strange(principal, request.beside.is_some()));
            }
            if !Mutant::BlindRetain.is_on() && !Mutant::DeleteOldest.is_on() {
                role.forget(|known| !keeps(known));
            }
            role.older = role.value.replace(value.duplicate());
        }
        role.may_log_in = true;
        role.mark(&request.attempt, MarkerState::Installed);
        Ok(Installed::Done { at: state.tick(&*self.0.clock) })
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        self.0.probe(credential, depth).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        self.0.usage(principal).await
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        let mut state = self.0.state();
        let now = state.tick(&*self.0.clock);
        let powerless = state.knobs.powerless;
        let done = |sessions_closed| Ok(Retired::Done { sessions_closed });
        let role = state.roles.entry(request.principal.clone()).or_default();
        let keeps = |known: &SecretValue| request.beside.is_some_and(|beside| beside.value == *known);
        if powerless {
            let reason = "the admin may not change it";
            return Err(failure(FailureClass::Denied, "retire", request.principal, reason));
        }
        match (request.extent, role.standing(&request.attempt)) {
            (Extent::OtherValues, Standing::Open | Standing::Own(_)) => {
                role.forget(|known| !keeps(known));
                done(role.end_sessions(|session| session.since < now))
            }
            (Extent::OtherValues, Standing::Later(by)) => Ok(Retired::Superseded { by }),
            (Extent::Attempt, Standing::Own(MarkerState::Installed)) => {
                role.forget(|known| !keeps(known));
                role.mark(&request.attempt, MarkerState::Withdrawn);
                done(0)
            }
            (Extent::Attempt, Standing::Open) => {
                role.mark(&request.attempt, MarkerState::Withdrawn);
                done(0)
            }
            (Extent::Attempt, _) => done(0),
            (Extent::Disabled, _) => done(0),
            (Extent::Principal | Extent::SessionsBefore(_) | Extent::OtherValues, _) => {
                let reason = "it takes two values at a time";
                Err(failure(FailureClass::Conflict, "retire", request.principal, reason))
            }
        }
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        self.0.preflight(request).await
    }
}
