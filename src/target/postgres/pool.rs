//! Admin sessions, shared by all policies of one server and admin.
//!
//! A session goes back to the pool only when its last call succeeded: after an error, a deadline or a
//! cancelled call it is cut, and the server rolls back what was open. The admin credential is fetched
//! for each new session and forgotten after the login.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Deadlines;
use super::connect::{self, Session};
use super::error::LoginError;
use super::farewell::Farewells;
use super::planned::{Keeping, Plans};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::policy::spec::PostgresEndpoint;
use crate::secret::AdminCredential;

/// Admin sessions of all servers.
#[derive(Debug)]
pub struct Pool {
    lanes: Mutex<HashMap<(PostgresEndpoint, DnsLabel), Arc<Lane>>>,
    limit: usize,
    patience: Duration,
    farewells: Arc<Farewells>,
}

impl Pool {
    /// At most `limit` sessions for each server and admin, and at least one. A session that nobody
    /// used for `patience` is closed.
    #[must_use]
    pub fn new(limit: usize, patience: Duration) -> Self {
        Self { lanes: Mutex::default(), limit: limit.max(1), patience, farewells: Arc::default() }
    }

    /// Sessions of other roles that rekeyd opened and that are ending.
    pub(super) const fn farewells(&self) -> &Arc<Farewells> {
        &self.farewells
    }

    /// A session of the admin's, an idle one or a new one.
    pub(super) async fn lease(
        &self,
        endpoint: &PostgresEndpoint,
        admin: &DnsLabel,
        source: &dyn AdminCredential,
        deadlines: &Deadlines,
    ) -> Result<Lease, Failure> {
        let lane = self.lane(endpoint, admin);
        let doing = || format!("log in at {endpoint} with the admin credential {admin}");
        let permits = Arc::clone(&lane.permits);
        let Ok(Ok(permit)) = tokio::time::timeout(deadlines.login, permits.acquire_owned()).await else {
            let reason = format!("all {} admin sessions are busy", self.limit);
            return Err(Failure::new(FailureClass::Unavailable, doing(), reason)
                .with_remedy("raise limits.perTarget, or look for locks that hold rekeyd's sessions up"));
        };
        if let Some(session) = lane.take() {
            return Ok(Lease { session, lane, _permit: permit });
        }
        let credential = source.credential().await?;
        match connect::open(endpoint, &credential, deadlines).await {
            Ok(session) => {
                let session = session.with_plans(Plans::new(lane.lossy.clone()));
                Ok(Lease { session, lane, _permit: permit })
            }
            Err(LoginError::Failed(failure)) => Err(failure),
            Err(LoginError::Rejected) => {
                let reason = "the server refuses the credential";
                Err(Failure::new(FailureClass::Denied, doing(), reason)
                    .with_remedy(format!("put the admin's working password where credentials.{admin} says")))
            }
        }
    }

    fn lane(&self, endpoint: &PostgresEndpoint, admin: &DnsLabel) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        let lane = lanes.entry((endpoint.clone(), admin.clone()));
        Arc::clone(lane.or_insert_with(|| Arc::new(Lane::new(self.limit, self.patience))))
    }
}

/// A session in use.
pub(super) struct Lease {
    session: Session,
    lane: Arc<Lane>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// Puts the session back for others. Without this it is cut.
    pub(super) fn give_back(self) {
        self.lane.put(self.session);
    }
}

/// The sessions of one admin at one server.
#[derive(Debug)]
struct Lane {
    permits: Arc<Semaphore>,
    shelf: Mutex<Shelf>,
    patience: Duration,
    lossy: Keeping,
}

/// The sessions that nobody uses, the last used one last.
#[derive(Default)]
struct Shelf {
    idle: Vec<(Session, Instant)>,
    /// Whether a task watches how long they lie there.
    watched: bool,
}

impl Lane {
    fn new(limit: usize, patience: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            shelf: Mutex::default(),
            patience,
            lossy: Keeping::default(),
        }
    }

    fn take(&self) -> Option<Session> {
        let mut shelf = lock(&self.shelf);
        while let Some((session, _)) = shelf.idle.pop() {
            if !session.is_closed() {
                return Some(session);
            }
        }
        None
    }

    fn put(self: &Arc<Self>, session: Session) {
        let mut shelf = lock(&self.shelf);
        shelf.idle.push((session, Instant::now()));
        if !shelf.watched {
            shelf.watched = true;
            tokio::spawn(Self::watch(Arc::downgrade(self), self.patience));
        }
    }

    /// Closes what lies too long; ends when nothing is left.
    async fn watch(lane: Weak<Self>, patience: Duration) {
        loop {
            SystemClock.sleep(patience).await;
            let Some(lane) = lane.upgrade() else { return };
            let (expired, nothing_left) = lane.sweep();
            for session in expired {
                session.close().await;
            }
            if nothing_left {
                return;
            }
        }
    }

    /// Takes out what lies too long; says whether nothing is left, and nobody needs to watch.
    fn sweep(&self) -> (Vec<Session>, bool) {
        let mut shelf = lock(&self.shelf);
        let (patience, now) = (self.patience, Instant::now());
        let expired = |(_, since): &mut (Session, Instant)| now.duration_since(*since) >= patience;
        let expired = shelf.idle.extract_if(.., expired).map(|(session, _)| session).collect();
        shelf.watched = !shelf.idle.is_empty();
        (expired, !shelf.watched)
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("idle", &self.idle.len()).finish_non_exhaustive()
    }
}

/// Nothing that runs under these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
