//! Keeps this process's memory to itself: no other process of the same user may look into it, and no crash
//! writes it to a file.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Called before anything is read. Where the system refuses, there is nothing better to do than to go on: it
/// has worse ways to look.
pub(super) fn keep_to_itself() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}
