//! The shipped binary, built with its fault points, on real servers: killed and disturbed at each of them,
//! and killed at random moments. A witness with eyes of its own looks at the servers afterwards.

mod scene;
mod soak;
mod stage;
mod sweep;
mod witness;

use std::any::Any;
use std::fmt;

/// So many sites are worked on at once.
const AT_ONCE: usize = 10;

/// A store and a strategy at PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    in_openbao: bool,
    in_place: bool,
}

const PAIRS: [Pair; 4] = [
    Pair { in_openbao: false, in_place: false },
    Pair { in_openbao: false, in_place: true },
    Pair { in_openbao: true, in_place: false },
    Pair { in_openbao: true, in_place: true },
];

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = if self.in_openbao { "openbao" } else { "embedded" };
        let strategy = if self.in_place { "inPlace" } else { "alternating" };
        write!(f, "{store} {strategy}")
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What whoever panicked said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
