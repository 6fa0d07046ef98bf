//! How long a key lives that ends by itself: a server may give out a shorter life than it was asked for.

use std::time::Duration;

use super::{MintRequest, Minted};
use crate::policy::spec::Interval;
use crate::secret::Credential;

/// What a server takes off for the time that it needs, and more: an answer may be a moment old.
const TOLERANCE: Duration = Duration::from_secs(60);

/// What becomes of a key that was made and may end too early: `Err` says why it is not kept. One that takes the place of a
/// leaked one is, and it is told: a leak cannot wait for a server's settings.
pub(super) fn kept(
    request: &MintRequest<'_>,
    made: Credential,
    shortage: Option<String>,
) -> Result<Minted, String> {
    match shortage {
        None => Ok(Minted::Made(made)),
        Some(reason) if request.contains => Ok(Minted::Short(made, reason)),
        Some(reason) => Err(reason),
    }
}

/// Why a key ends too early: before what its policy says, or before the next one is in its place.
pub(super) fn shortage(given: Duration, asked: Option<Interval>, needed: Option<Duration>) -> Option<String> {
    let is_short = |wanted: &Duration| given.saturating_add(TOLERANCE) < *wanted;
    let told = told(given);
    if let Some(asked) = asked.filter(|asked| is_short(&asked.as_duration())) {
        return Some(format!("the policy says that it lives {asked}, and the server gives it {told}"));
    }
    let needed = Interval::from_duration(needed.filter(is_short)?);
    Some(format!(
        "it ends by itself after {told}, and has to live {needed} until readers have moved to the next one"
    ))
}

/// To the minute: seconds went by since it was asked for.
pub(super) fn told(given: Duration) -> Interval {
    let seconds = given.as_secs();
    let rounded = if seconds < 60 { seconds } else { seconds.saturating_add(30) / 60 * 60 };
    Interval::from_duration(Duration::from_secs(rounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * DAY)
    }

    #[test]
    fn both_times_are_told() {
        let asked = Some(Interval::from_duration(days(30)));
        let given = days(1) - Duration::from_secs(2);
        let reason = shortage(given, asked, Some(days(7))).expect("it is too short");
        assert_eq!(reason, "the policy says that it lives 30d, and the server gives it 1d");
        let reason = shortage(given, None, Some(days(7))).expect("it is too short");
        assert!(reason.contains("after 1d, and has to live 7d"), "{reason}");
    }

    #[test]
    fn a_moment_is_nothing() {
        let asked = Interval::from_duration(days(1));
        for (given, is_short) in [(DAY + 5, false), (DAY - 59, false), (DAY - 61, true), (0, true)] {
            let given = Duration::from_secs(given);
            assert_eq!(shortage(given, Some(asked), None).is_some(), is_short, "{given:?}");
            assert_eq!(shortage(given, None, Some(days(1))).is_some(), is_short, "{given:?}");
        }
        assert_eq!(shortage(Duration::ZERO, None, None), None);
    }
}
