//! Where policies stand, over all stores at once: one that does not answer delays no other's policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::Service;
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, PolicyName};
use crate::policy::Policy;
use crate::rotation::run::{Document, Marker};
use crate::rotation::sitting::read_document;
use crate::status::Status;
use crate::store::Place;

/// Policies of one store that are looked at together: a store on the network answers in milliseconds, and
/// there may be thousands.
const TOGETHER: usize = 32;

impl Service {
    /// Where policies stand: one, or all by name. Policies that are gone come last, while a rotation of theirs
    /// is open or a containment is owed.
    ///
    /// # Errors
    /// When the one asked for does not exist.
    pub async fn status(&self, only: Option<&PolicyName>) -> Result<Vec<Status>, Failure> {
        if let Some(name) = only {
            return match self.policy(name) {
                Ok(policy) => Ok(self.statuses(&[policy]).await),
                Err(failure) => self.status_of_gone(name).await.map(|status| vec![status]).ok_or(failure),
            };
        }
        let catalog = self.catalog();
        let mut by_store: BTreeMap<DnsLabel, Vec<Arc<Policy>>> = BTreeMap::new();
        for policy in catalog.policies() {
            by_store.entry(policy.spec().store.name.clone()).or_default().push(Arc::clone(policy));
        }
        let present = join_all(by_store.values().map(|policies| self.statuses(policies)));
        let gone = async {
            let gone = self.gone().await;
            join_all(gone.iter().map(|(store, name)| self.status_in(store, name))).await
        };
        let (present, gone) = tokio::join!(present, gone);
        let mut statuses: Vec<Status> = present.into_iter().flatten().collect();
        statuses.sort_by(|one, other| one.policy.cmp(&other.policy));
        statuses.extend(gone.into_iter().flatten());
        Ok(statuses)
    }

    /// Policies that no document names any more and that a store still has a control document of.
    pub async fn orphans(&self) -> Vec<PolicyName> {
        self.gone().await.into_iter().map(|(_, name)| name).collect()
    }

    /// The same, each with the store.
    async fn gone(&self) -> Vec<(DnsLabel, PolicyName)> {
        let catalog = self.catalog();
        let listings = self.adapters.store_names().into_iter().map(async |store| {
            let listed = match self.adapters.store(&store) {
                Ok(store) => store.policies().await,
                Err(failure) => Err(failure),
            };
            let names = listed.unwrap_or_else(|failure| {
                tracing::warn!(%store, %failure, "cannot list a store's policies");
                Vec::new()
            });
            let gone = names.into_iter().filter(|name| catalog.policy(name).is_none());
            gone.map(|name| (store.clone(), name)).collect::<Vec<_>>()
        });
        join_all(listings).await.into_iter().flatten().collect()
    }

    /// Where policies of one store stand, in their order. A store out of reach is not asked again for each.
    async fn statuses(&self, policies: &[Arc<Policy>]) -> Vec<Status> {
        let mut statuses = Vec::with_capacity(policies.len());
        let mut away: Option<Failure> = None;
        for some in policies.chunks(TOGETHER) {
            let looks = join_all(some.iter().map(async |policy| {
                let (name, place) = (policy.name(), &policy.spec().store);
                match &away {
                    Some(failure) => Err(unreached(name, &place.name, failure)),
                    None => self.engine.look(name, place).await,
                }
            }));
            let looks = looks.await;
            for (policy, slots) in some.iter().zip(&looks) {
                let (schedule, live) = (self.schedule(policy), self.hub.live(policy.name()));
                let (verified, now) = (self.hub.verified(policy.name()), self.clock.now());
                statuses.push(Status::of(policy, schedule.as_ref(), slots, live, verified, now));
            }
            away = looks.into_iter().filter_map(Result::err).find(is_away).or(away);
        }
        statuses
    }

    /// Where a policy that is gone stands with what is open or owed, whatever store it is in; `None` without one.
    async fn status_of_gone(&self, name: &PolicyName) -> Option<Status> {
        let stores = self.adapters.store_names();
        let mut answers: FuturesUnordered<_> =
            stores.iter().map(|store| self.status_in(store, name)).collect();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// The same, in one store.
    async fn status_in(&self, store: &DnsLabel, name: &PolicyName) -> Option<Status> {
        let store = self.adapters.store(store).ok()?;
        let control = store.control(name).await.ok()??;
        match read_document(name, &control.document).ok()? {
            Document::Open(run) => {
                let current = store.current(Place::from(&run.plan.spec.store)).await.ok().flatten();
                Some(Status::of_gone(&run, current.as_ref(), self.hub.live(name), self.clock.now()))
            }
            Document::Closed(marker) => Status::of_gone_owing(name, &marker, self.clock.now()),
        }
    }

    /// What a policy that is gone keeps while it owes a containment, and the store.
    ///
    /// # Errors
    /// When a store cannot be read, and none that can has it.
    pub(super) async fn owing(&self, name: &PolicyName) -> Result<Option<(DnsLabel, Box<Marker>)>, Failure> {
        let looks = self.adapters.store_names().into_iter().map(async |label| {
            let control = self.adapters.store(&label)?.control(name).await?;
            let document = control.map(|control| read_document(name, &control.document)).transpose()?;
            Ok(match document {
                Some(Document::Closed(marker)) if marker.owes.is_some() => Some((label, marker)),
                _ => None,
            })
        });
        let mut failed = Ok(None);
        for look in join_all(looks).await {
            match look {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(failure) => failed = Err(failure),
            }
        }
        failed
    }
}

fn is_away(failure: &Failure) -> bool {
    failure.class() == FailureClass::Unavailable
}

fn unreached(policy: &PolicyName, store: &DnsLabel, failure: &Failure) -> Failure {
    let failed = Failure::new(failure.class(), format!("read {policy} in store {store}"), failure.reason());
    match failure.remedy() {
        Some(remedy) => failed.with_remedy(remedy.to_owned()),
        None => failed,
    }
}
