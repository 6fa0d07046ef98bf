//! Which version a Secret holds, and from when on its readers find that.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::reference::Reference;
use crate::ident::Version;

/// Clocks of a cluster and of rekeyd may differ so much. What was created within this time of a write may
/// have read what was there before, or after.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// What a Secret holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) version: Version,
    /// From when on whoever reads the Secret finds it.
    pub(crate) since: Timestamp,
    /// The same values were there earlier, under this version: what came in between was taken back.
    pub(crate) restores: Option<Span>,
}

impl Edition {
    /// One that was written at a moment.
    pub(crate) fn written(version: Version, at: Timestamp) -> Self {
        Self { version, since: at.saturating_add(SKEW).unwrap_or(Timestamp::MAX), restores: None }
    }

    /// As a reader finds it that comes to it like this: a volume may have shown to a process what was taken back.
    pub(super) fn seen_by(self, reference: Reference) -> Self {
        Self { restores: self.restores.filter(|_| reference == Reference::Environment), ..self }
    }

    /// Whether a version is one that was taken back.
    pub(super) fn took_back(&self, version: Version) -> bool {
        self.restores.is_some_and(|earlier| earlier.version < version && version < self.version)
    }
}

/// A version, and while whoever read the Secret found it for sure. Its wire form is an annotation's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) version: Version,
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
}

impl Span {
    /// Of a version that another replaces.
    pub(crate) fn replaced(edition: &Edition, at: Timestamp) -> Self {
        let until = at.saturating_sub(SKEW).unwrap_or(Timestamp::MIN);
        Self { version: edition.version, since: edition.since, until }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, since, until } = self;
        write!(f, "{} {since:.0} {until:.0}", version.number())
    }
}

impl FromStr for Span {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(' ');
        let mut part = || parts.next().ok_or(());
        let version = Version::new(part()?.parse().map_err(drop)?);
        let since = part()?.parse().map_err(drop)?;
        let until = part()?.parse().map_err(drop)?;
        Ok(Self { version, since, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_survives_the_wire() {
        let at: Timestamp = "2026-01-04T02:00:00Z".parse().expect("a moment");
        let span = Span::replaced(&Edition::written(Version::new(3), at), at + SignedDuration::from_hours(1));
        assert_eq!(span.to_string(), "3 2026-01-04T02:00:05Z 2026-01-04T02:59:55Z");
        assert_eq!(span.to_string().parse(), Ok(span));
        for text in ["", "3", "3 2026-01-04T02:00:05Z", "x 2026-01-04T02:00:05Z 2026-01-04T02:59:55Z"] {
            assert_eq!(text.parse::<Span>(), Err(()), "{text}");
        }
    }
}
