//! What may become of a call in the model.

/// What becomes of a call and of who makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// It is answered.
    Heard,
    /// Its effect comes later, and the answer never.
    Late,
    /// It takes effect, and the process dies before it hears so.
    Dies,
    /// Its effect comes later, and the process is dead by then.
    DiesSending,
    /// One reader has it, and the process dies before the next one does.
    DiesBetween,
    /// The target refuses the candidate, or the reader is away.
    Refused,
    /// The reader is away, and another that has it fails with it.
    RefusedAndFails,
    /// The reader's answer does not come, and another that has it fails with it.
    LateAndFails,
}

impl Fate {
    /// Whether readers fail.
    pub(super) const fn fails(self) -> bool {
        matches!(self, Self::RefusedAndFails | Self::LateAndFails)
    }
}
