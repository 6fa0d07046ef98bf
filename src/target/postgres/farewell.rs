//! Sessions of rekeyd's own that are ending.
//!
//! A server takes milliseconds to end a session, and a probe that waited for it would keep a leaked value
//! alive for as long. So a probe's session ends by itself, and whoever looks at a role's sessions waits
//! until those are gone: they must not be taken for somebody's use of the role.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::connect::Session;
use crate::ident::Principal;
use crate::policy::spec::PostgresEndpoint;

/// Sessions that are ending, of all roles.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    under_way: Mutex<HashMap<Role, usize>>,
    /// Told when a role's last one is over.
    over: Notify,
}

type Role = (PostgresEndpoint, Principal);

/// One session's; over when dropped.
struct Farewell {
    farewells: Arc<Farewells>,
    role: Role,
}

impl Farewells {
    /// Ends a session without waiting for it.
    pub(super) fn bid(
        self: &Arc<Self>,
        endpoint: &PostgresEndpoint,
        principal: &Principal,
        session: Session,
    ) {
        let role = (endpoint.clone(), principal.clone());
        *self.lock().entry(role.clone()).or_default() += 1;
        let farewell = Farewell { farewells: Arc::clone(self), role };
        tokio::spawn(async move {
            session.close().await;
            drop(farewell);
        });
    }

    /// Waits until none of a role's is under way. Each takes a second at most.
    pub(super) async fn settled(&self, endpoint: &PostgresEndpoint, principal: &Principal) {
        let role = (endpoint.clone(), principal.clone());
        loop {
            let over = self.over.notified();
            if !self.lock().contains_key(&role) {
                return;
            }
            over.await;
        }
    }

    /// Nothing that runs under this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, HashMap<Role, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let mut under_way = self.farewells.lock();
        if let Some(count) = under_way.get_mut(&self.role) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.role);
                self.farewells.over.notify_waiters();
            }
        }
    }
}
