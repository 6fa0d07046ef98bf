//! Admin sessions of all policies, so many at a time.
//!
//! None is kept: a login is cheap beside what follows it, what a session held ends with it for sure, and a
//! rotated admin credential is used at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connect::{self, Purpose, Session, Use};
use super::error::{LoginError, Stage, batch_failure};
use super::sql;
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, Principal};
use crate::policy::spec::MysqlEndpoint;
use crate::secret::AdminCredential;
use crate::target::dial::Deadlines;

/// Sessions of rekeyd's own, of all servers.
#[derive(Debug)]
pub struct Pool {
    lanes: Mutex<HashMap<(MysqlEndpoint, DnsLabel), Arc<Semaphore>>>,
    limit: usize,
    farewells: Arc<Farewells>,
}

impl Pool {
    /// At most `limit` sessions for each server and admin, and at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { lanes: Mutex::default(), limit: limit.max(1), farewells: Arc::default() }
    }

    /// Sessions of other accounts that rekeyd opened and that are ending.
    pub(super) const fn farewells(&self) -> &Arc<Farewells> {
        &self.farewells
    }

    /// A new session of the admin's.
    pub(super) async fn lease(
        &self,
        endpoint: &MysqlEndpoint,
        admin: &DnsLabel,
        source: &dyn AdminCredential,
        vouched: bool,
        deadlines: &Deadlines,
    ) -> Result<Lease, Failure> {
        let lane = lock(&self.lanes)
            .entry((endpoint.clone(), admin.clone()))
            .or_insert_with(|| Arc::new(Semaphore::new(self.limit)))
            .clone();
        let Ok(Ok(permit)) = tokio::time::timeout(deadlines.login, lane.acquire_owned()).await else {
            let doing = format!("log in at {endpoint} with the admin credential {admin}");
            let reason = format!("all {} admin sessions are busy", self.limit);
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("raise limits.perTarget, or look for locks that hold rekeyd's sessions up"));
        };
        let session = enter(endpoint, admin, source, vouched, deadlines).await?;
        Ok(Lease { session, permit })
    }
}

/// A session in use. Dropping it cuts it.
pub(super) struct Lease {
    session: Session,
    permit: OwnedSemaphorePermit,
}

impl Lease {
    pub(super) const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Takes leave of the server. Nobody waits for that.
    pub(super) fn end(self) {
        let Self { session, permit } = self;
        tokio::spawn(async move {
            session.close().await;
            drop(permit);
        });
    }
}

/// A session beside a leased one.
pub(super) async fn enter(
    endpoint: &MysqlEndpoint,
    admin: &DnsLabel,
    source: &dyn AdminCredential,
    vouched: bool,
    deadlines: &Deadlines,
) -> Result<Session, Failure> {
    let doing = format!("log in at {endpoint} with the admin credential {admin}");
    let credential = source.credential().await?;
    match connect::open(endpoint, &credential, Purpose { usage: Use::Administer, vouched }, deadlines).await {
        Ok(mut session) => {
            let settings = [sql::settings(deadlines.statement)];
            match sql::run(&mut session, settings, deadlines.statement).await {
                Ok(_) => Ok(session),
                Err(error) => Err(batch_failure(&error, Stage::Reading, &doing)),
            }
        }
        Err(LoginError::Failed(failure)) => Err(failure),
        Err(LoginError::Rejected) => {
            let reason = "the server refuses the credential";
            Err(Failure::new(FailureClass::Denied, doing, reason)
                .with_remedy(format!("put the admin's working password where credentials.{admin} says")))
        }
    }
}

/// Probes' sessions that are ending.
///
/// A server takes milliseconds to end a session, and a probe that waited for it would keep a leaked value
/// alive for as long. So a probe's session ends by itself, and whoever looks at a user's sessions waits
/// until those are gone: they must not be taken for somebody's use of the account. MySQL lists a session for a
/// moment longer than it keeps its connection, so those that ended just now are known by their numbers.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    under_way: Mutex<HashMap<(MysqlEndpoint, Principal), usize>>,
    ended: Mutex<Vec<(MysqlEndpoint, u64, Instant)>>,
    /// Told when a user's last one is over.
    over: Notify,
}

/// One session's; over when dropped.
struct Farewell {
    farewells: Arc<Farewells>,
    user: (MysqlEndpoint, Principal),
    id: u64,
}

/// How long a session that has ended may be listed. A restarted server may give its number to somebody else.
const AFTERGLOW: Duration = Duration::from_secs(1);

impl Farewells {
    /// Ends a session without waiting for it.
    pub(super) fn bid(self: &Arc<Self>, endpoint: &MysqlEndpoint, principal: &Principal, session: Session) {
        let user = (endpoint.clone(), principal.clone());
        *lock(&self.under_way).entry(user.clone()).or_default() += 1;
        let farewell = Farewell { farewells: Arc::clone(self), user, id: session.id() };
        tokio::spawn(async move {
            session.close().await;
            drop(farewell);
        });
    }

    /// Whether a session that a server lists is one that has ended just now.
    pub(super) fn has_ended(&self, endpoint: &MysqlEndpoint, id: u64) -> bool {
        lock(&self.ended)
            .iter()
            .any(|(at, ended, when)| at == endpoint && *ended == id && when.elapsed() < AFTERGLOW)
    }

    /// Waits until none of a user's is under way. Each takes a second at most.
    pub(super) async fn settled(&self, endpoint: &MysqlEndpoint, principal: &Principal) {
        let user = (endpoint.clone(), principal.clone());
        loop {
            let over = self.over.notified();
            if !lock(&self.under_way).contains_key(&user) {
                return;
            }
            over.await;
        }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let mut ended = lock(&self.farewells.ended);
        ended.retain(|(_, _, when)| when.elapsed() < AFTERGLOW);
        ended.push((self.user.0.clone(), self.id, Instant::now()));
        drop(ended);
        let mut under_way = lock(&self.farewells.under_way);
        if let Some(count) = under_way.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.user);
            }
        }
        drop(under_way);
        self.farewells.over.notify_waiters();
    }
}

/// Nothing that runs under these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
