//! What a preflight makes of two logins: one with the value in force, and one with a value that is none.

use crate::failure::Finding;
use crate::ident::Principal;
use crate::target::Probe;

/// Of the value in force. `server` is who looked at it; `remedy` is for a value that it refuses.
pub(super) fn of_current(
    probe: &Probe,
    principal: &Principal,
    server: &str,
    remedy: &'static str,
) -> Finding {
    let subject = "current credential";
    match probe {
        Probe::Accepted => Finding::pass(subject, format!("{principal} is let in")),
        Probe::Refused => {
            let detail = format!("{server} refuses the value of {principal} that the store holds");
            Finding::fail(subject, detail, remedy)
        }
        Probe::Unfit(failure) | Probe::Unknown(failure) => Finding::from_failure(subject, failure),
    }
}

/// Of a wrong value: where it is accepted, no refusal proves anything. `remedy` is for that.
pub(super) fn of_wrong(probe: &Probe, server: &str, remedy: &'static str) -> Finding {
    let subject = "negative control";
    match probe {
        Probe::Refused => Finding::pass(subject, "a wrong value is refused"),
        Probe::Accepted | Probe::Unfit(_) => {
            let detail = format!("{server} accepts a wrong value: no value can be proven dead there");
            Finding::fail(subject, detail, remedy)
        }
        Probe::Unknown(failure) => Finding::from_failure(subject, failure),
    }
}
