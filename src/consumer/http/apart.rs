//! A mark in a place of its own, beside a value whose own place has no room for a text and is never shown.
//!
//! | at | the mark says | the value's place is | who comes next |
//! |---|---|---|---|
//! | before | `<when> [.. version=16]` | written at `<when>` | may write |
//! | marked | `writing <who> [.. version=17]` | as before, or a write is under way | writes again; version 16 is refused |
//! | written | the same | written just now | writes again, the same value |
//! | settled | `<when> [.. version=17]` | written at `<when>` | has nothing to do |
//!
//! The mark is written before the value, so that whoever has an earlier version is refused before it writes, and after it,
//! with the time that the system gives for the value's last change. As long as that time stays, nobody has written the value
//! since: a change by somebody else is seen, and what died in between is done again.
//!
//! What that does not prove: the value cannot be read, so that it is what was sent is the system's word. A write by
//! somebody else between one's own and the look at its time, or within what the system counts time in, is not told
//! from one's own. Two processes that write two versions at once find each other by the mark: whoever finds another's there
//! after it wrote, at whichever look, the last one included, says so in the mark (`disturbed`), which no time agrees with,
//! until that stays, so that the value is written again. And whoever found one that says `writing` writes twice, with a mark
//! in between that no time agrees with (`unsure`): a write of that process that is on its way has arrived by then, unless it
//! takes longer than all of that. What is left: a process that wrote the value over another's, of whose mark it could not
//! know, and dies or is cut off before it has said so; and one that settles the mark later than the other one's patience,
//! and dies or is cut off before it has said that.

use super::super::PublishRequest;
use super::super::mark::{Description, Mark};
use super::place::{Place, Wrote};
use super::{Attempt, HttpConsumer, PLACE, unread};
use crate::failure::{Failure, FailureClass};
use crate::ident::RotationId;
use crate::recipe::Slot;
use crate::secret::SecretValue;

/// How a note begins while the value is written.
const WRITING: &str = "writing ";

/// How often another process may write over what was found.
const TRIES: usize = 4;

impl HttpConsumer {
    pub(super) async fn write_apart(
        &self,
        place: &Place<'_>,
        slot: &Slot,
        request: PublishRequest<'_>,
        content: &SecretValue,
        before: &super::Held,
    ) -> Result<Attempt, Failure> {
        let mark = Mark { policy: request.policy.clone(), version: request.version };
        let text = |note: String| Description { text: note, mark: None }.under(&mark);
        let unsure = || text(format!("unsure {}", random()));
        let writing = text(format!("{WRITING}{}", random()));
        if self.note(place, slot, before.has_mark_slot, request, &writing).await? == Wrote::Overtaken {
            return Ok(Attempt::Overtaken);
        }
        between!("http.place.marked");
        let prepared = place.prepare(&self.recipe.value).await?;
        // Whatever takes time comes before the last look.
        let value = (request, Some(content), writing.as_str());
        let draft = place.draft(&self.recipe.value, before.value.is_some(), value, &prepared);
        if self.noted(place, slot).await?.as_deref() != Some(&*writing) {
            return Err(place.unavailable("somebody else writes it at the same time"));
        }
        let after = match place.put(draft).await {
            Ok(Wrote::Overtaken) => return Ok(Attempt::Overtaken),
            Ok(Wrote::Done) => {
                between!("http.place.written");
                place.see(&self.recipe.value).await.map_err(unread)
            }
            Err(failure) => Err(failure),
        };
        let after = match after {
            Ok(after) => after,
            // It may be written, over somebody else's value: whoever that is has to learn of it, if there is a way.
            Err(failure) if failure.class() == FailureClass::Ambiguous => {
                return Err(match self.noted(place, slot).await {
                    Ok(found) if found.as_deref() != Some(&*writing) => {
                        self.disturb(place, slot, request, found).await
                    }
                    _ => failure,
                });
            }
            Err(failure) => return Err(failure),
        };
        let looked = self.clock.monotonic();
        self.undisturbed(place, slot, request, &writing).await?;
        let Some(after) = after else {
            return Err(place.unavailable("it is gone again just after it was written"));
        };
        if before.description.text.starts_with(WRITING) {
            // Whoever wrote that may be dead, or its write on its way and arrive after this one: once more.
            self.note(place, slot, true, request, &unsure()).await?;
            return Ok(Attempt::Unsure);
        }
        let settled = text(after.changed_at.unwrap_or_default());
        if self.note(place, slot, true, request, &settled).await? == Wrote::Overtaken {
            return Ok(Attempt::Overtaken);
        }
        if self.clock.monotonic().saturating_sub(looked) > self.patience {
            // Somebody else may have said in the meantime that it wrote, have seen that stay, and be gone.
            self.note(place, slot, true, request, &unsure()).await?;
            return Ok(Attempt::Slow);
        }
        between!("http.place.settled");
        // Two may have looked at their marks, and then both have settled: the value of the one and the mark of the other stay.
        self.undisturbed(place, slot, request, &settled).await?;
        Ok(Attempt::Written)
    }

    /// # Errors
    /// When the mark is another than this process wrote last. It wrote the value, so that whoever wrote the mark learns of it.
    async fn undisturbed(
        &self,
        place: &Place<'_>,
        slot: &Slot,
        request: PublishRequest<'_>,
        own: &str,
    ) -> Result<(), Failure> {
        let found = self.noted(place, slot).await.map_err(unread)?;
        if found.as_deref() == Some(own) {
            return Ok(());
        }
        Err(self.disturb(place, slot, request, found).await)
    }

    async fn note(
        &self,
        place: &Place<'_>,
        slot: &Slot,
        is_there: bool,
        request: PublishRequest<'_>,
        text: &str,
    ) -> Result<Wrote, Failure> {
        let prepared = place.prepare(slot).await?;
        place.put(place.draft(slot, is_there, (request, None, text), &prepared)).await
    }

    async fn noted(&self, place: &Place<'_>, slot: &Slot) -> Result<Option<String>, Failure> {
        Ok(place.see(slot).await?.map(|sight| sight.text))
    }

    /// Another process is at it, and this one may have written over its value: that is said where it looks.
    async fn disturb(
        &self,
        place: &Place<'_>,
        slot: &Slot,
        request: PublishRequest<'_>,
        mut found: Option<String>,
    ) -> Failure {
        let other = || place.unavailable("somebody else wrote it at the same time");
        for _ in 0..TRIES {
            let description = Description::parse(found.as_deref().unwrap_or_default());
            let Ok(Description { mark: Some(mark), .. }) = description else { return other() };
            if let Err(failure) = mark.is_of(request.policy, place.doing(), PLACE) {
                return failure;
            }
            let is_later = mark.version > request.version;
            let disturbed = Description { text: format!("disturbed {}", random()), mark: None }.under(&mark);
            if let Err(failure) = self.note(place, slot, true, request, &disturbed).await {
                return failure;
            }
            // The other process may have looked just before that, and be about to write over it: within its patience.
            self.clock.sleep(self.patience).await;
            match self.noted(place, slot).await {
                Ok(Some(text)) if text == disturbed && is_later => {
                    let reason = format!("it is being given {} by somebody else", mark.version);
                    return Failure::new(FailureClass::Conflict, place.doing(), reason)
                        .with_remedy("nothing has to be done: the later version is written again");
                }
                Ok(Some(text)) if text == disturbed => return other(),
                Ok(text) => found = text,
                Err(failure) => return unread(failure),
            }
        }
        other()
    }
}

/// Tells one write from another.
fn random() -> String {
    // The last digits of such an id are random.
    let id = RotationId::generate().to_string();
    id[id.len() - 8..].to_owned()
}
