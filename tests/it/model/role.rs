//! A role of the target in the model: the values that it takes, and its marker.

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Role {
    pub(super) accepts: Option<u8>,
    /// Where a role takes two values: the one that was set before.
    pub(super) older: Option<u8>,
    pub(super) marker: Option<Mark>,
}

impl Role {
    pub(super) fn values(&self) -> impl Iterator<Item = u8> {
        [self.accepts, self.older].into_iter().flatten()
    }

    pub(super) fn holds(&self, value: u8) -> bool {
        self.values().any(|known| known == value)
    }

    /// Every value but this one is gone.
    pub(super) fn keep(&mut self, value: Option<u8>) {
        let kept = value.filter(|value| self.holds(*value));
        (self.accepts, self.older) = (kept, None);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark {
    pub(super) fence: u8,
    pub(super) rotation: u8,
    pub(super) is_installed: bool,
}
