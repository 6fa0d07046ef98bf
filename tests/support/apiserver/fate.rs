//! What may happen to a request.

use std::time::Duration;

/// What happens to one request, and how long it takes there and back.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(crate) struct Fate {
    pub(crate) there: Duration,
    pub(crate) back: Duration,
    pub(crate) happens: Happens,
}

#[derive(Debug, Clone, Copy, Default, Hash)]
pub(crate) enum Happens {
    #[default]
    Served,
    /// Somebody else changes the object right before.
    Overtaken,
    /// It is shown a state that is so old.
    Stale(Duration),
    /// It is answered with this code, and nothing was done.
    TurnedAway(u16),
    /// It is done, and answered with 500.
    FailsAfter,
    /// It does not arrive, and nobody says so.
    Lost,
    /// The connection breaks before it arrives.
    Breaks,
    /// It is done, and the connection breaks.
    BreaksAfter,
    /// It arrives, perhaps long after who asked has given up.
    Late,
    /// Of the events of a watch one in so many is dropped; by this seed.
    Leaks(u8, u64),
    /// A watch is cut off after a time.
    Cut(Duration),
}

impl Happens {
    /// What is counted; `None` where nothing goes wrong.
    pub(crate) const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Served => return None,
            Self::Overtaken => "requests overtaken",
            Self::Stale(_) => "stale reads",
            Self::TurnedAway(410) => "watches too old",
            Self::TurnedAway(429) => "requests throttled",
            Self::TurnedAway(_) => "requests turned away",
            Self::FailsAfter => "requests failed after the effect",
            Self::Lost | Self::Breaks => "requests lost",
            Self::BreaksAfter => "answers lost",
            Self::Late => "requests late",
            Self::Leaks(..) => "watches that drop events",
            Self::Cut(_) => "watches cut off",
        })
    }
}

impl Fate {
    /// By chance: `dice` is a number below its limit.
    pub(crate) fn draw(verb: &str, dice: impl Fn(u64) -> u64) -> Self {
        let micros = |least: u64, most: u64| Duration::from_micros(least + dice(most - least));
        let (there, back) = (micros(200, 20_000), micros(200, 20_000));
        let reads = matches!(verb, "api.get" | "api.list");
        let writes = matches!(verb, "api.merge" | "api.apply" | "api.delete");
        let happens = match dice(1_000) {
            0..10 => Happens::TurnedAway(429),
            10..18 => Happens::TurnedAway(500),
            18..26 => Happens::FailsAfter,
            26..34 => Happens::Lost,
            34..42 => Happens::Breaks,
            42..50 => Happens::BreaksAfter,
            50..58 => Happens::Late,
            58..70 if verb == "api.watch" => Happens::TurnedAway(410),
            70..140 if verb == "api.watch" => Happens::Leaks(2 + dice(6) as u8, dice(u64::MAX)),
            140..200 if verb == "api.watch" => Happens::Cut(micros(1_000, 5_000_000)),
            58..100 if reads => Happens::Stale(micros(1_000, 4_000_000)),
            58..75 if writes => Happens::Overtaken,
            75..100 if writes => Happens::Late,
            _ => Happens::Served,
        };
        let there = match happens {
            Happens::Late => micros(1_000_000, 90_000_000),
            // A network or a server that is slow for once.
            _ if dice(50) == 0 => micros(20_000, 9_000_000),
            _ => there,
        };
        Self { there, back, happens }
    }

    /// When nothing goes wrong.
    pub(crate) fn fair(dice: impl Fn(u64) -> u64) -> Self {
        let micros = || Duration::from_micros(200 + dice(20_000));
        Self { there: micros(), back: micros(), happens: Happens::Served }
    }
}
