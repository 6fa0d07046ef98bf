//! What the code says to a build for proving, and what a release leaves out.

/// Says which part of a rotation's life the calls of a future belong to.
#[cfg(feature = "proving")]
macro_rules! during {
    ($phase:expr, $future:expr) => {
        $crate::proving::during($phase, $future)
    };
}

#[cfg(not(feature = "proving"))]
macro_rules! during {
    ($phase:expr, $future:expr) => {
        $future
    };
}

/// Names a place between two writes of one call, where the process may die.
#[cfg(feature = "proving")]
macro_rules! between {
    ($point:literal) => {
        $crate::proving::pass($point)
    };
}

#[cfg(not(feature = "proving"))]
macro_rules! between {
    ($point:literal) => {};
}

/// Whether a seeded bug, or one of several, is switched on; never in a release.
#[cfg(feature = "proving")]
macro_rules! mutated {
    ($($mutant:ident)|+) => {
        ($($crate::proving::Mutant::$mutant.is_on())||+)
    };
}

#[cfg(not(feature = "proving"))]
macro_rules! mutated {
    ($($mutant:ident)|+) => {
        false
    };
}
