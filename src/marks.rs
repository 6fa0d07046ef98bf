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
    // Of code that does two things, one of which it is.
    (if $is_it:expr; $point:literal, else $other:literal) => {
        $crate::proving::pass(if $is_it { $point } else { $other })
    };
}

#[cfg(not(feature = "proving"))]
macro_rules! between {
    ($point:literal) => {};
    (if $is_it:expr; $point:literal, else $other:literal) => {
        let _ = $is_it;
    };
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
