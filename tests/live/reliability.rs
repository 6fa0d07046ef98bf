//! The shipped binary, built with its fault points, on real servers: killed and disturbed at each of them,
//! and killed at random moments. A witness with eyes of its own looks at the servers afterwards.

mod elsewhere;
mod scene;
mod soak;
mod stage;
mod sweep;
mod witness;

use std::any::Any;
use std::fmt;

/// So many sites are worked on at once.
const AT_ONCE: usize = 10;

/// A store and a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    in_openbao: bool,
    kind: Kind,
}

/// What accepts the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// PostgreSQL, as two users that take turns.
    Alternating,
    /// PostgreSQL, as one user.
    InPlace,
    /// Whoever reads it: there is no server to ask.
    Generated,
}

const PAIRS: [Pair; 6] = [
    Pair { in_openbao: false, kind: Kind::Alternating },
    Pair { in_openbao: false, kind: Kind::InPlace },
    Pair { in_openbao: false, kind: Kind::Generated },
    Pair { in_openbao: true, kind: Kind::Alternating },
    Pair { in_openbao: true, kind: Kind::InPlace },
    Pair { in_openbao: true, kind: Kind::Generated },
];

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = if self.in_openbao { "openbao" } else { "embedded" };
        let kind = match self.kind {
            Kind::Alternating => "alternating",
            Kind::InPlace => "inPlace",
            Kind::Generated => "generated",
        };
        write!(f, "{store} {kind}")
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
