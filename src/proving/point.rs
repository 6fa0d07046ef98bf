//! The one list of fault points.
//!
//! A call is a point of its own in each phase that makes it, named `phase/call`: the process may die before
//! it is sent, after it took effect, and when its answer is there; it may fail, come late, or twice. Where
//! one call writes several things, the places between them are points too, named `system.call.place`.
//! Tests hold the list against what is reached, both ways.

/// A row of the crash table: where the world stands when a process dies or loses its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Nothing is durable yet.
    BeforeOpen,
    /// The run document may be in the store.
    OpenUnknown,
    /// The target may have made a key whose value nobody has.
    MintUnknown,
    /// The candidate is durable, and the target may or may not accept it.
    InstallUnknown,
    /// The target accepts the candidate, and nobody has tried it.
    InstalledUnverified,
    /// The candidate is being given up.
    TurningBack,
    /// The candidate may be in force in the store.
    PromoteUnknown,
    /// Some readers have the new version.
    PartlyPublished,
    /// Readers may have been told.
    RestartUnknown,
    /// Readers of the outgoing value are waited for.
    Converging,
    /// Every reader has moved, and the outgoing value is alive.
    ConvergedUnretired,
    /// The outgoing value may be dead.
    RetireUnknown,
    /// The ledger may have the record.
    RecordUnknown,
    /// The ledger has the record, and the remote may not.
    RecordedUnpushed,
    /// All is done and recorded, and the run document is still open.
    RecordedUnclosed,
    /// Somebody else may have the rotation.
    ClaimUnknown,
}

impl Row {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::BeforeOpen,
        Self::OpenUnknown,
        Self::MintUnknown,
        Self::InstallUnknown,
        Self::InstalledUnverified,
        Self::TurningBack,
        Self::PromoteUnknown,
        Self::PartlyPublished,
        Self::RestartUnknown,
        Self::Converging,
        Self::ConvergedUnretired,
        Self::RetireUnknown,
        Self::RecordUnknown,
        Self::RecordedUnpushed,
        Self::RecordedUnclosed,
        Self::ClaimUnknown,
    ];

    /// What is so when a process dies at one of its points.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::BeforeOpen => "nothing is durable yet",
            Self::OpenUnknown => "the run document may be in the store",
            Self::MintUnknown => "the target may have made a key whose value nobody has",
            Self::InstallUnknown => "the target may accept the candidate",
            Self::InstalledUnverified => "the target accepts the candidate, and nobody has tried it",
            Self::TurningBack => "the candidate is being given up",
            Self::PromoteUnknown => "the candidate may be in force in the store",
            Self::PartlyPublished => "some readers have the new version",
            Self::RestartUnknown => "readers may have been told",
            Self::Converging => "readers of the outgoing value are waited for",
            Self::ConvergedUnretired => "every reader has moved, and the outgoing value is alive",
            Self::RetireUnknown => "the outgoing value may be dead",
            Self::RecordUnknown => "the ledger may have the record",
            Self::RecordedUnpushed => "the ledger has the record, and the remote may not",
            Self::RecordedUnclosed => "all is recorded, and the run document is open",
            Self::ClaimUnknown => "somebody else may have the rotation, or a person is deciding",
        }
    }
}

/// A place where a process may die or be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub name: &'static str,
    pub row: Row,
}

impl Point {
    /// Whether it is a call, so that it can also fail, come late or come twice.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.name.contains('/')
    }

    /// The phase of a call.
    #[must_use]
    pub fn phase(&self) -> Option<&'static str> {
        self.name.split_once('/').map(|(phase, _)| phase)
    }
}

/// Every point there is.
pub const POINTS: &[Point] = &[
    at("look/store.control", Row::BeforeOpen),
    at("look/store.current", Row::BeforeOpen),
    at("look/store.policies", Row::BeforeOpen),
    at("look/ledger.holds", Row::BeforeOpen),
    at("look/ledger.append", Row::BeforeOpen),
    at("look/target.probe", Row::BeforeOpen),
    at("open/store.control", Row::BeforeOpen),
    at("open/store.current", Row::BeforeOpen),
    at("open/consumer.rehearse", Row::BeforeOpen),
    at("open/store.save", Row::OpenUnknown),
    at("reopen/store.control", Row::ClaimUnknown),
    at("reopen/store.current", Row::ClaimUnknown),
    at("reopen/store.save", Row::ClaimUnknown),
    at("mint/target.keys", Row::OpenUnknown),
    at("mint/store.save", Row::MintUnknown),
    at("mint/store.control", Row::ClaimUnknown),
    at("mint/store.current", Row::ClaimUnknown),
    at("mint/target.mint", Row::MintUnknown),
    at("mint/target.retire", Row::MintUnknown),
    at("mint.made", Row::MintUnknown),
    at("install/target.install", Row::InstallUnknown),
    at("install/store.save", Row::InstalledUnverified),
    at("install/store.control", Row::ClaimUnknown),
    at("install/store.current", Row::ClaimUnknown),
    at("verify/target.probe", Row::InstalledUnverified),
    at("promote/store.save", Row::InstalledUnverified),
    at("promote/store.control", Row::ClaimUnknown),
    at("promote/store.promote", Row::PromoteUnknown),
    at("promote/store.current", Row::PromoteUnknown),
    at("publish/consumer.publish", Row::PartlyPublished),
    at("publish/consumer.reload", Row::PartlyPublished),
    at("publish/consumer.reach", Row::PartlyPublished),
    at("publish/store.control", Row::ClaimUnknown),
    at("publish/store.current", Row::ClaimUnknown),
    at("restart/consumer.reload", Row::RestartUnknown),
    at("converge/consumer.publish", Row::Converging),
    at("converge/consumer.reload", Row::Converging),
    at("converge/consumer.reach", Row::Converging),
    at("converge/target.usage", Row::Converging),
    at("converge/store.save", Row::Converging),
    at("converge/store.control", Row::Converging),
    at("converge/store.current", Row::Converging),
    at("retire/consumer.publish", Row::ConvergedUnretired),
    at("retire/consumer.reload", Row::ConvergedUnretired),
    at("retire/consumer.reach", Row::ConvergedUnretired),
    at("retire/target.keys", Row::ConvergedUnretired),
    at("retire/target.usage", Row::ConvergedUnretired),
    at("retire/store.save", Row::RetireUnknown),
    at("retire/store.control", Row::ClaimUnknown),
    at("retire/store.current", Row::ClaimUnknown),
    at("retire/target.retire", Row::RetireUnknown),
    at("prove/target.probe", Row::RetireUnknown),
    at("prove/target.usage", Row::RetireUnknown),
    at("turn/store.save", Row::TurningBack),
    at("turn/target.probe", Row::ClaimUnknown),
    at("turn/consumer.observe", Row::ClaimUnknown),
    at("turn/store.control", Row::ClaimUnknown),
    at("turn/store.current", Row::ClaimUnknown),
    at("forgive/store.control", Row::BeforeOpen),
    at("forgive/store.current", Row::BeforeOpen),
    at("forgive/store.save", Row::BeforeOpen),
    at("forgive/ledger.append", Row::BeforeOpen),
    at("hold/store.current", Row::TurningBack),
    at("hold/store.promote", Row::TurningBack),
    at("hold/consumer.observe", Row::TurningBack),
    at("withdraw/target.keys", Row::TurningBack),
    at("withdraw/store.control", Row::ClaimUnknown),
    at("withdraw/store.current", Row::ClaimUnknown),
    at("withdraw/target.retire", Row::TurningBack),
    at("withdraw/target.probe", Row::TurningBack),
    at("restore/target.install", Row::TurningBack),
    at("restore/target.probe", Row::TurningBack),
    at("record/ledger.append", Row::RecordUnknown),
    at("close/store.save", Row::RecordedUnclosed),
    at("close/store.control", Row::ClaimUnknown),
    at("close/store.current", Row::ClaimUnknown),
    at("embedded.commit.written", Row::OpenUnknown),
    at("embedded.commit.durable", Row::OpenUnknown),
    at("vault.save.limited", Row::OpenUnknown),
    at("vault.probe.login", Row::InstalledUnverified),
    at("vault.retire.destroyed", Row::RetireUnknown),
    at("kubernetes.token.secret", Row::MintUnknown),
    at("aws.save.put", Row::OpenUnknown),
    at("aws.fill.put", Row::PromoteUnknown),
    at("aws.promote.put", Row::PromoteUnknown),
    at("aws.promote.moved", Row::PromoteUnknown),
    at("postgres.install.locked", Row::InstallUnknown),
    at("postgres.install.committed", Row::InstalledUnverified),
    at("postgres.retire.locked", Row::ConvergedUnretired),
    at("postgres.retire.committed", Row::RetireUnknown),
    at("rabbitmq.install.read", Row::InstallUnknown),
    at("rabbitmq.install.repaired", Row::InstallUnknown),
    at("rabbitmq.install.changed", Row::InstalledUnverified),
    at("rabbitmq.retire.read", Row::ConvergedUnretired),
    at("rabbitmq.retire.changed", Row::RetireUnknown),
    at("redis.change.read", Row::InstallUnknown),
    at("redis.change.done", Row::RetireUnknown),
    at("mysql.install.locked", Row::InstallUnknown),
    at("mysql.install.committed", Row::InstalledUnverified),
    at("mysql.retire.locked", Row::ConvergedUnretired),
    at("mysql.retire.committed", Row::RetireUnknown),
    at("clickhouse.install.made", Row::InstallUnknown),
    at("clickhouse.install.claimed", Row::InstallUnknown),
    at("clickhouse.install.barred", Row::InstallUnknown),
    at("clickhouse.install.replaced", Row::InstallUnknown),
    at("clickhouse.install.marked", Row::InstallUnknown),
    at("clickhouse.install.changed", Row::InstalledUnverified),
    at("clickhouse.install.settled", Row::InstalledUnverified),
    at("clickhouse.retire.made", Row::ConvergedUnretired),
    at("clickhouse.retire.claimed", Row::ConvergedUnretired),
    at("clickhouse.retire.barred", Row::ConvergedUnretired),
    at("clickhouse.retire.replaced", Row::RetireUnknown),
    at("clickhouse.retire.marked", Row::RetireUnknown),
    at("clickhouse.retire.changed", Row::RetireUnknown),
    at("clickhouse.retire.settled", Row::RetireUnknown),
    at("file.publish.noted", Row::PartlyPublished),
    at("file.replace.written", Row::PartlyPublished),
    at("file.publish.placed", Row::PartlyPublished),
    at("file.reload.ran", Row::RestartUnknown),
    at("mend/consumer.publish", Row::PartlyPublished),
    at("mend/consumer.reload", Row::RestartUnknown),
    at("mend/consumer.observe", Row::RestartUnknown),
    at("aws.copy.put", Row::PartlyPublished),
    at("aws.copy.moved", Row::PartlyPublished),
    at("copy.write.written", Row::PartlyPublished),
    at("http.disabled", Row::ConvergedUnretired),
    at("http.revoked", Row::RetireUnknown),
    at("http.place.marked", Row::PartlyPublished),
    at("http.place.written", Row::PartlyPublished),
    at("http.place.settled", Row::PartlyPublished),
    at("jenkins.credential.created", Row::PartlyPublished),
    at("jenkins.credential.updated", Row::PartlyPublished),
    at("kubernetes.secret.made", Row::PartlyPublished),
    at("kubernetes.secret.written", Row::PartlyPublished),
    at("kubernetes.secret.frozen", Row::PartlyPublished),
    at("kubernetes.restart.patched", Row::RestartUnknown),
    at("kubernetes.restart.committed", Row::RestartUnknown),
    at("kubernetes.restart.pushed", Row::RestartUnknown),
    at("kubernetes.canary.made", Row::RestartUnknown),
    at("kubernetes.pod.evicted", Row::TurningBack),
    at("kubernetes.canary.removed", Row::Converging),
    at("kubernetes.secret.deleted", Row::Converging),
    // At any time.
    at("kubernetes.lease.taken", Row::ClaimUnknown),
    at("kubernetes.status.written", Row::ClaimUnknown),
    at("kubernetes.status.answered", Row::ClaimUnknown),
    at("git.append.packed", Row::RecordUnknown),
    at("git.append.moved", Row::RecordUnknown),
    at("git.merge.placed", Row::RecordUnknown),
    at("git.push.fetched", Row::RecordedUnpushed),
    at("git.push.rebased", Row::RecordedUnpushed),
    at("git.push.pushed", Row::RecordedUnpushed),
];

/// Calls that no simulated history makes. A person has to decide so where the store has another value than the candidate:
/// too seldom for chance. And nobody changes there what a reader was given, or mends that.
pub const IN_NO_HISTORY: [&str; 3] = ["turn/consumer.observe", "converge/consumer.reload", "mend/"];

const fn at(name: &'static str, row: Row) -> Point {
    Point { name, row }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rotation::progress::Step;

    #[test]
    fn every_step_has_points_and_every_row_too() {
        for step in Step::ALL {
            let own = POINTS.iter().filter(|point| point.phase() == Some(step.as_str()));
            assert!(own.count() > 0, "{step} makes no call that is listed");
        }
        for row in Row::ALL {
            assert!(POINTS.iter().any(|point| point.row == row), "{row:?} has no point");
        }
    }

    #[test]
    fn no_point_is_listed_twice() {
        let names: BTreeSet<_> = POINTS.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
