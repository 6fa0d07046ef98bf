//! What rekeyd does for those who ask: the command line in the foreground, the daemon's socket, its
//! scheduler. One rotation of a policy runs at a time in a process; a containment takes a running one
//! over.

mod attend;
mod catalog;
mod ending;
mod flight;
mod hub;
mod survey;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::attend::{Attention, Hindrance, Mended};
pub use self::catalog::Catalog;
pub use self::ending::{Ending, EndingKind};
use self::flight::Flights;
pub use self::hub::{Hub, Known};
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, PolicyName, RequestId};
use crate::ledger::{Record, TriggerKind};
use crate::policy::Policy;
use crate::rotation::decision::Decision;
use crate::rotation::engine::{Adapters, Ended, Engine};
use crate::rotation::event::Event;
use crate::rotation::limits::Patience;
use crate::rotation::run::{Document, Trigger};
use crate::rotation::sitting::Sitting;
use crate::rotation::verification::Pace;
use crate::schedule::Schedule;
use crate::secret::Credential;
use crate::settings::{GlobalFreeze, Settings};
use crate::status::{Problem, problem_of_gone};

/// How long a step that fails may be tried again before an unattended rotation is left for later.
pub const PATIENCE: Duration = Patience::DAEMON.failing;

/// What rekeyd does for those who ask.
pub struct Service {
    engine: Engine,
    adapters: Arc<dyn Adapters>,
    clock: Arc<dyn Clock>,
    hub: Arc<Hub>,
    catalog: RwLock<Arc<Catalog>>,
    freezes: Vec<GlobalFreeze>,
    /// Stores that keep few versions of a control document in a day.
    counting: BTreeSet<DnsLabel>,
    flights: Flights,
    /// From when on turns to verify count: none is caught up with.
    started: Timestamp,
    pace: Pace,
    /// Cancelled when the process stops.
    stop: CancellationToken,
    /// Cancelled when what runs here is to stop, and made anew then.
    term: RwLock<CancellationToken>,
}

/// Something asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub policy: PolicyName,
    pub action: Action,
    /// The same request id never rotates twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long failing steps are tried again.
    pub patience_seconds: u64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Rotate,
    Contain,
    Resume { decision: Decision },
}

impl Service {
    #[must_use]
    pub fn new(
        settings: &Settings,
        catalog: Catalog,
        adapters: Arc<dyn Adapters>,
        clock: Arc<dyn Clock>,
        hub: Arc<Hub>,
        stop: CancellationToken,
    ) -> Self {
        let (observer, started) = (Arc::clone(&hub), clock.now());
        let counting = settings.stores.iter().filter(|(_, store)| store.version_budget().is_some());
        Self {
            engine: Engine::new(Arc::clone(&adapters), Arc::clone(&clock), observer, settings.limits),
            adapters,
            clock,
            hub,
            catalog: RwLock::new(Arc::new(catalog)),
            freezes: settings.freezes.clone(),
            counting: counting.map(|(name, _)| name.clone()).collect(),
            flights: Flights::default(),
            started,
            pace: Pace::per_minute(settings.limits.verifications_per_minute),
            term: RwLock::new(stop.child_token()),
            stop,
        }
    }

    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts newly read policies in force.
    pub fn set_catalog(&self, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }

    /// Does what is asked and says how it ended. Events of the policy are sent while it runs; a receiver
    /// that is gone changes nothing.
    pub async fn perform(
        &self,
        request: &Request,
        requested_by: &str,
        events: mpsc::UnboundedSender<Event>,
    ) -> Ending {
        let _subscription = self.hub.subscribe(request.policy.clone(), events);
        self.attempt(request, requested_by).await.unwrap_or_else(|failure| Ending::failed(&failure))
    }

    async fn attempt(&self, request: &Request, requested_by: &str) -> Result<Ending, Failure> {
        let owing = |ended| Ending::of(&request.policy, ended).owing();
        let patience = Patience::of_request(Duration::from_secs(request.patience_seconds));
        let kind = if request.action == Action::Contain { TriggerKind::Contain } else { TriggerKind::Manual };
        let trigger = Trigger {
            kind,
            request: request.request.clone().unwrap_or_else(RequestId::generate),
            requested_by: requested_by.to_owned(),
            reason: request.reason.clone(),
            at: self.clock.now(),
            nominal: None,
        };
        match request.action {
            Action::Rotate => {
                let policy = self.policy(&request.policy)?;
                let _expected = self.adapters.expect(&policy);
                let flight = self.flights.take_off(&request.policy, &self.stop).await?;
                self.engine.rotate(&policy, &trigger, patience, flight.stop()).await.map(owing)
            }
            Action::Contain => {
                let policy = self.policy(&request.policy)?;
                let _expected = self.adapters.expect(&policy);
                let flight = self.flights.take_over(&request.policy, &self.stop).await;
                self.engine.contain(&policy, &trigger, patience, flight.stop()).await.map(owing)
            }
            Action::Resume { decision } => {
                let flight = self.flights.take_over(&request.policy, &self.stop).await;
                let Some(mut sitting) = self.reopen(&request.policy).await? else {
                    if decision == Decision::Abandon
                        && let Some(record) = self.forgive(&request.policy, requested_by).await?
                    {
                        let ending = Ending::of(&request.policy, Ended::Closed(record));
                        return Ok(ending.forgiving(&request.policy));
                    }
                    return match self.contain_owed(&request.policy, patience, flight.stop()).await? {
                        Some(ended) => Ok(owing(ended)),
                        None => Err(self.nothing_to_resume(&request.policy).await),
                    };
                };
                self.engine.decide(&mut sitting, decision, requested_by).await?;
                let forgives = sitting.run().course.given_up && sitting.run().containment().is_some();
                let ended = self.engine.drive(sitting, patience, flight.stop()).await;
                if !matches!(ended, Ended::Closed(_)) {
                    return Ok(owing(ended));
                }
                match self.contain_owed(&request.policy, patience, flight.stop()).await? {
                    Some(ended) => Ok(owing(ended)),
                    None if forgives => Ok(Ending::of(&request.policy, ended).forgiving(&request.policy)),
                    None => Ok(owing(ended)),
                }
            }
        }
    }

    /// Does a containment that was asked for while another rotation was open, and that nobody did since.
    async fn contain_owed(
        &self,
        name: &PolicyName,
        patience: Patience,
        stop: &CancellationToken,
    ) -> Result<Option<Ended>, Failure> {
        let Some(policy) = self.catalog().policy(name) else { return Ok(None) };
        let slots = self.engine.look(name, &policy.spec().store).await?;
        let Some(Document::Closed(marker)) = slots.document else { return Ok(None) };
        let Some(owed) = marker.owes else { return Ok(None) };
        self.engine.contain(&policy, &owed, patience, stop).await.map(Some)
    }

    /// Gives up a containment that is owed, also by a policy that is gone.
    async fn forgive(&self, name: &PolicyName, who: &str) -> Result<Option<Box<Record>>, Failure> {
        let policy = self.catalog().policy(name);
        let store = match &policy {
            Some(policy) => policy.spec().store.name.clone(),
            None => match self.owing(name).await? {
                Some((store, _)) => store,
                None => return Ok(None),
            },
        };
        self.engine.forgive(name, policy.as_deref(), &store, who).await
    }

    async fn nothing_to_resume(&self, name: &PolicyName) -> Failure {
        let doing = format!("resume {name}");
        if self.catalog().policy(name).is_none()
            && let Ok(Some((_, marker))) = self.owing(name).await
            && let Some(Problem { what, remedy }) = problem_of_gone(&marker)
        {
            let failure = Failure::new(FailureClass::Invalid, doing, what);
            return failure.with_remedy(remedy.unwrap_or_default());
        }
        Failure::new(FailureClass::Invalid, doing, "no rotation of it is open")
            .with_remedy("see `rekeyd status`")
    }

    /// Takes a live credential over without changing it.
    pub async fn adopt(
        &self,
        policy: &PolicyName,
        live: Credential,
        replace: bool,
        requested_by: &str,
        events: mpsc::UnboundedSender<Event>,
    ) -> Ending {
        let _subscription = self.hub.subscribe(policy.clone(), events);
        let attempt = async {
            let policy = self.policy(policy)?;
            let trigger = Trigger {
                kind: TriggerKind::Adopt,
                request: RequestId::generate(),
                requested_by: requested_by.to_owned(),
                reason: None,
                at: self.clock.now(),
                nominal: None,
            };
            let flight = self.flights.take_off(policy.name(), &self.stop).await?;
            let opening = self.engine.open_adoption(&policy, &trigger, live, replace);
            let sitting = during!("open", opening).await?;
            Ok(self.engine.drive(sitting, Patience::of_request(PATIENCE), flight.stop()).await)
        };
        match attempt.await {
            Ok(ended) => Ending::of(policy, ended),
            Err(failure) => Ending::failed(&failure),
        }
    }

    /// Gives the open rotation of a policy the key that it waits for.
    ///
    /// # Errors
    /// When no rotation is open, or it does not take the key.
    pub async fn supply(&self, policy: &PolicyName, made: Credential) -> Result<(), Failure> {
        let Some(mut sitting) = self.reopen(policy).await? else {
            let doing = format!("take key {} for {policy}", made.principal);
            return Err(Failure::new(FailureClass::Invalid, doing, "no rotation waits for one")
                .with_remedy(format!("begin one: rekeyd rotate {policy}")));
        };
        self.engine.supply(&mut sitting, made).await
    }

    /// The open rotation of a policy, whatever store it is in. The policy may be gone.
    async fn reopen(&self, name: &PolicyName) -> Result<Option<Sitting>, Failure> {
        #[cfg(feature = "proving")]
        if mutated!(ResumeWithEditedPolicy)
            && let Some(policy) = self.catalog().policy(name)
            && let Some(mut sitting) = self.find_open(name).await?
        {
            self.engine.follow(&mut sitting, &policy)?;
            return Ok(Some(sitting));
        }
        self.find_open(name).await
    }

    async fn find_open(&self, name: &PolicyName) -> Result<Option<Sitting>, Failure> {
        let policy = self.catalog().policy(name);
        let policy = policy.as_deref();
        let own = policy.map(|policy| policy.spec().store.name.clone());
        if let Some(store) = &own
            && let Some(sitting) = during!("reopen", self.engine.reopen(name, policy, store)).await?
        {
            return Ok(Some(sitting));
        }
        // The policy is gone, or names another store since. All at once: one of them may not answer.
        let stores = self.adapters.store_names().into_iter().filter(|store| own.as_ref() != Some(store));
        let mut answers: FuturesUnordered<_> = stores
            .map(async |store| during!("reopen", self.engine.reopen(name, policy, &store)).await)
            .collect();
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(None) => {}
                Ok(sitting) => return Ok(sitting),
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        match failed {
            Some(failure) if own.is_none() => Err(failure),
            _ => Ok(None),
        }
    }

    /// A policy's schedule, if it has one.
    #[must_use]
    pub fn schedule(&self, policy: &Policy) -> Option<Schedule> {
        let spec = policy.spec().schedule.as_ref()?;
        Some(Schedule::new(spec, policy.name(), &self.freezes))
    }

    /// Stops what runs here by itself after its running step: another process is to take it up. What people asked
    /// this process for goes on: nobody might be there to take it up, and two at one rotation are safe.
    pub fn interrupt(&self) {
        let mut term = self.term.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *term, self.stop.child_token()).cancel();
    }

    /// Ends what runs here.
    fn end(&self) -> CancellationToken {
        self.term.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until no rotation runs here.
    pub async fn landed(&self) {
        self.flights.landed().await;
    }

    /// A policy in force.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn policy(&self, name: &PolicyName) -> Result<Arc<Policy>, Failure> {
        self.catalog().policy(name).ok_or_else(|| {
            Failure::new(
                FailureClass::Invalid,
                format!("find policy {name}"),
                "there is none of that name in force",
            )
            .with_remedy("see `rekeyd status` for the policies in force and `rekeyd check` for refused ones")
        })
    }
}
