//! Gives a containment up that is owed while no rotation is open. What leaked stays alive, so it leaves a record like any
//! rotation that came to nothing: who asked for it, and who gave it up.

use super::engine::Engine;
use super::event::{Event, What};
use super::run::{Document, Marker, Trigger};
use super::sitting::{Sitting, read_document};
use crate::failure::Failure;
use crate::ident::{DnsLabel, PolicyName, RotationId};
use crate::ledger::{Outcome, Proof, Record, TriggerKind};
use crate::policy::Policy;
use crate::store::Place;

impl Engine {
    /// Forgets a containment that is owed while no rotation is open: a person takes the leak for none, or has dealt with
    /// it otherwise. Its record, if there was one. The policy may be gone.
    ///
    /// Dying after the document is written: its last record is the one that the ledger lacks, and whoever looks next
    /// makes that up.
    ///
    /// # Errors
    /// When the store fails, there is no ledger, or somebody opens a rotation at the same time.
    pub async fn forgive(
        &self,
        name: &PolicyName,
        policy: Option<&Policy>,
        store: &DnsLabel,
        who: &str,
    ) -> Result<Option<Box<Record>>, Failure> {
        let store = self.adapters.store(store)?;
        let Some(control) = during!("forgive", store.control(name)).await? else { return Ok(None) };
        let Document::Closed(mut marker) = read_document(name, &control.document)? else { return Ok(None) };
        let (Some(owed), Some(last)) = (marker.owes.take(), marker.record.take()) else { return Ok(None) };
        let ledger = self.adapters.ledger()?;
        let current = match policy {
            Some(policy) => during!("forgive", store.current(Place::from(&policy.spec().store))).await?,
            None => None,
        };
        let record = self.forgiven(&marker, &owed, &last, who);
        marker.record = Some(record.clone());
        let saved = during!("forgive", store.save(name, &marker.to_wire(), Some(&control.revision))).await;
        if let Err(failure) = saved {
            // Its answer may be all that was lost.
            let found = store.control(name).await.ok().flatten();
            let found = found.and_then(|control| read_document(name, &control.document).ok());
            let is_ours =
                matches!(found, Some(Document::Closed(found)) if found.record.as_ref() == Some(&record));
            if !is_ours {
                return Err(failure);
            }
        }
        let told = What::GivenUp {
            request: owed.request.clone(),
            requested_by: owed.requested_by.clone(),
            by: who.to_owned(),
        };
        self.tell_of(&record, told);
        let forbidden: Vec<_> = current.iter().flat_map(|current| current.credential.secrets()).collect();
        let recorded = during!("forgive", ledger.append(&record, Some(&last), &forbidden)).await;
        if let Err(failure) = recorded {
            tracing::warn!(policy = %name, %failure, "that a containment is given up is not recorded yet");
        }
        let record = Box::new(record);
        self.tell_of(&record, What::Closed { record: record.clone(), owed: false });
        Ok(Some(record))
    }

    /// What it leaves is as it was: a marker that owes has the record of the rotation before, and the places are that one's.
    fn forgiven(&self, marker: &Marker, owed: &Trigger, last: &Record, who: &str) -> Record {
        let now = self.clock.now();
        let Trigger { requested_by, .. } = owed;
        let in_force = marker.current.as_ref().map_or(&last.principal, |current| &current.principal);
        Record {
            rotation: RotationId::generate(),
            trigger: TriggerKind::Contain,
            request: owed.request.clone(),
            requested_by: requested_by.clone(),
            // It is told once, where it was looked through for what it must not hold.
            reason: last.reason.clone().filter(|_| last.request == owed.request),
            outcome: Outcome::Abandoned,
            from: marker.version,
            to: marker.version,
            principal: in_force.clone(),
            outgoing: None,
            opened_at: now,
            closed_at: now,
            previous_promoted_at: marker.current.as_ref().map(|current| current.since),
            proof: Proof { new_accepted: false, old_refused: None, sessions_closed: 0, sessions_left: None },
            window_ms: None,
            contained_ms: None,
            failure: Some(format!(
                "the containment that {requested_by} asked for is given up by {who}: what leaked is alive"
            )),
            writer: concat!("rekeyd ", env!("CARGO_PKG_VERSION")).into(),
            ..last.clone()
        }
    }

    /// That a person gave up what a rotation contains.
    pub(super) fn tell_given_up(&self, sitting: &Sitting, who: &str) {
        let Some(Trigger { request, requested_by, .. }) = sitting.run.containment() else { return };
        if sitting.run.course.given_up {
            let (request, requested_by) = (request.clone(), requested_by.clone());
            self.tell(sitting, What::GivenUp { request, requested_by, by: who.to_owned() });
        }
    }

    fn tell_of(&self, record: &Record, what: What) {
        self.observer.observe(&Event {
            at: record.closed_at,
            policy: record.policy.clone(),
            rotation: record.rotation,
            version: record.to,
            trigger: record.trigger,
            what,
        });
    }
}
