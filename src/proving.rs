//! What a build for proving has and a release has not: fault points, calls that can be disturbed, and
//! seeded bugs. Feature `proving` switches it on.
//!
//! ```text
//! point        every place where a process may die or be disturbed, and its row of the crash table
//! calls        every call to a system around, sent a way that may lose, repeat or delay it
//! disturbance  the way of a real process: what its environment asks for happens at one point
//! mutant       bugs that the proofs have to find
//! hostile      texts from outside, and what has to hold whatever they are
//! ```

pub mod calls;
pub mod disturbance;
pub mod hostile;
mod mutant;
pub mod point;

pub use self::disturbance::{disturbed, pass};
pub use self::mutant::Mutant;

tokio::task_local! {
    static PHASE: &'static str;
}

/// The phase of calls that belong to no rotation.
pub const LOOKING: &str = "look";

/// Runs a future whose calls belong to a phase: a step's name, `open`, `reopen`, `turn`.
pub async fn during<F: Future>(phase: &'static str, future: F) -> F::Output {
    PHASE.scope(phase, future).await
}

/// The phase that this task is in.
#[must_use]
pub fn phase() -> &'static str {
    PHASE.try_with(|phase| *phase).unwrap_or(LOOKING)
}
