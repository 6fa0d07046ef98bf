//! The rotation protocol: a straight line of idempotent steps over a durable run document.
//!
//! Resuming after any crash is walking the same line again; each step first finds whether its effect is
//! already there. There is no second recovery path that only runs in disasters.
//!
//! # Invariants
//!
//! | id | |
//! |---|---|
//! | I1 | every value that the target might accept is durable in the store before the target can accept it |
//! | I2 | the value that consumers are told to use is accepted by the target (in place: except the window W) |
//! | I3 | at most one candidate that is not promoted for each policy; whoever resumes sets that value and no other |
//! | I4 | the outgoing value is retired only when every consumer has the new version, or under a recorded containment |
//! | I5 | a closed rotation's outgoing value is refused by the target and its sessions are closed |
//! | I6 | exactly one ledger record for each closed rotation; no byte of a value in it |
//! | I7 | once faults stop, every policy reaches: no open run, versions equal everywhere, ledger complete |
//! | I8 | a daemon that lost its claim cannot make a change that survives |
//! | I9 | at most one rotation for each request |
//!
//! # Steps
//!
//! | step | effect | dying after it, the next sitting |
//! |---|---|---|
//! | open | the run document holds the candidate | finds the document |
//! | install | the target accepts the candidate, and its marker names this attempt | installs the same value again |
//! | verify | a login and the policy's check worked with it | verifies again |
//! | promote | it is current in the store, by compare-and-set | reads it there |
//! | publish | each consumer holds it | finds the version beside it |
//! | restart | each reader was told | finds the version it was told of |
//! | converge | no session of the outgoing value is left, or the grace is over | counts again; the grace's start is in the document |
//! | retire | the target refuses the outgoing value; its sessions are closed | retires again: nothing left to do |
//! | prove | a login with it was refused, and no session is left | proves again |
//! | record | the ledger has one commit for it | finds the record by its rotation id |
//! | close | the document is a closed marker | finds no open rotation |
//!
//! Where only a person can make or revoke a key, `mint` and `retire` say what to do, wait and look again: at once, then at
//! the interval of the policy's `byHand`, and six times as often once its deadline has passed, or the key leaked. Nothing else
//! follows from the deadline: a value in force that works is better than a rotation that was given up unasked.
//!
//! Readers may fail with the candidate. While the outgoing value works and nobody may have begun to retire it,
//! the two values *change places*: one write of the document, and the same line is walked again, for what was
//! in force before, under one version more. There is no line of its own for that. Dying after the write, the
//! next sitting finds the document as it is now. What says that nobody may have begun to retire is in the
//! document, too: `settled` is written when the readers are well, before the first retire.
//!
//! Three more belong to the way back: *hold* bars a promotion by another process that is on its way,
//! *withdraw* makes the target refuse the candidate, *restore* puts the outgoing value back where it was
//! replaced in place.
//!
//! # Reading order
//!
//! [`plan`] (policy to plan), [`run`] (the document), [`progress`] (every rule), [`opening`] and [`engine`]
//! (begin, and the loop), `steps` (where a step meets an adapter). [`verification`] is what happens between
//! rotations.

mod candidate;
pub mod decision;
pub mod engine;
pub mod event;
mod forgiving;
pub mod limits;
pub mod mending;
pub mod opening;
pub mod plan;
pub mod progress;
pub mod run;
pub mod sitting;
mod steps;
pub mod supply;
pub mod verification;
