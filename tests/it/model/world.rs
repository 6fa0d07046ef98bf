//! The systems of the model, and what must be true of them.

use rekeyd::proving::Mutant;
use rekeyd::rotation::plan::Strategy;

use super::keys::{Keys, NONE};
use super::ledgers::{Ledgers, Record};
use super::process::Process;
use super::role::{Mark, Role};
use super::{Budget, Town};

pub(super) const READERS: usize = 2;

/// A value that somebody else set beside the one in force.
pub(super) const BY_HAND: u8 = u8::MAX;

/// All readers of the policy.
const EVERYBODY: u8 = (1 << READERS) - 1;

/// A value of a role. The value that a rotation makes has the rotation's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Credential {
    pub(super) role: usize,
    pub(super) value: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) strategy: Strategy,
    pub(super) contains: bool,
    pub(super) current: Credential,
    pub(super) current_revision: u8,
    pub(super) document: Document,
    pub(super) revision: u8,
    pub(super) roles: [Role; 2],
    pub(super) keys: Keys,
    pub(super) readers: [Reader; READERS],
    pub(super) ledgers: Ledgers,
    pub(super) on_the_way: Vec<Effect>,
    pub(super) processes: [Option<Process>; 2],
    pub(super) budget: Budget,
    /// The policy names one reader less from now on.
    pub(super) edited: bool,
    /// The readers that each rotation was opened for, by its number.
    registered: Vec<u8>,
    /// The latest attempt that was ever durable.
    fence: u8,
    pub(super) violations: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Document {
    Closed(Marker),
    Open(Run),
}

/// What is known between rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Marker {
    pub(super) version: u8,
    pub(super) fence: u8,
    /// The rotation that brought the value in force.
    pub(super) in_force: u8,
    /// The rotation that was closed last.
    pub(super) last: u8,
    /// Its values changed places.
    pub(super) reverts: bool,
}

/// An open rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) rotation: u8,
    pub(super) candidate: Credential,
    pub(super) outgoing: Credential,
    pub(super) base: u8,
    pub(super) fence: u8,
    pub(super) is_back: bool,
    pub(super) is_installed: bool,
    pub(super) doubt: Option<rekeyd::rotation::progress::Doubt>,
    pub(super) before: Marker,
    pub(super) readers: u8,
    /// The values have changed places.
    pub(super) reverts: bool,
    /// Nobody lets them change places any more.
    pub(super) is_settled: bool,
    /// How often the target was to be asked for a key, and how often nothing came of it.
    pub(super) asked: u8,
    pub(super) in_vain: u8,
}

impl Run {
    pub(super) const fn version(&self) -> u8 {
        self.before.version + 1 + self.reverts as u8
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    pub(super) version: u8,
    pub(super) held: Credential,
    /// The last version that it was told of.
    pub(super) told: u8,
}

/// What a call does when it arrives. It says nothing to whoever sent it and gave up waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    Save {
        run: Run,
        expected: u8,
    },
    Close {
        marker: Marker,
        expected: u8,
    },
    Promote {
        credential: Credential,
        expected: u8,
    },
    Install {
        credential: Credential,
        /// Where a role takes two values: the one that goes on working.
        beside: Option<u8>,
        rotation: u8,
        fence: u8,
    },
    /// The role of an outgoing value refuses from then on.
    Retire {
        role: usize,
        /// Where a role takes two values: the one that goes on working.
        beside: Option<u8>,
        rotation: u8,
        fence: u8,
    },
    /// What this attempt installed is refused from then on, and it installs nothing any more.
    Withdraw {
        role: usize,
        /// Where a role takes two values: the one that goes on working.
        beside: Option<u8>,
        rotation: u8,
        fence: u8,
    },
    Publish {
        reader: usize,
        version: u8,
        credential: Credential,
    },
    Reload {
        reader: usize,
        version: u8,
    },
    Append {
        process: usize,
        record: Record,
    },
    Mint {
        rotation: u8,
    },
    Delete {
        key: u8,
    },
}

/// How an effect went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Conflict,
    Superseded(u8),
    /// The reader does not hold the version that it is to be told of.
    Behind,
    /// The target made this key.
    Made(u8),
}

impl World {
    pub(super) fn new(town: &Town) -> Self {
        let first = Credential { role: 0, value: 0 };
        let record = Record { rotation: 0, reverts: false };
        let reader = Reader { version: 1, held: first, told: 1 };
        let marker = Marker { version: 1, fence: 1, in_force: 0, last: 0, reverts: false };
        let installed = Mark { fence: 1, rotation: 0, is_installed: true };
        // Only a containment may push out what somebody else set; any other would stop at it.
        let values = match (town.strategy, town.contains) {
            (Strategy::DualPassword, true) => Role { accepts: Some(BY_HAND), older: Some(0), marker: None },
            (strategy, _) if strategy.mints() => Role::default(),
            _ => Role { accepts: Some(0), older: None, marker: None },
        };
        Self {
            strategy: town.strategy,
            contains: town.contains,
            current: first,
            current_revision: 1,
            document: Document::Closed(marker),
            revision: 1,
            roles: [Role { marker: Some(installed), ..values }, Role::default()],
            keys: Keys::of(town.strategy),
            readers: [reader; READERS],
            ledgers: Ledgers { folders: [vec![record], vec![record]], remote: vec![record] },
            on_the_way: Vec::new(),
            processes: [None, None],
            budget: town.budget,
            edited: false,
            registered: vec![EVERYBODY],
            fence: 1,
            violations: Vec::new(),
        }
    }

    /// The readers that the policy names now.
    pub(super) const fn named(&self) -> u8 {
        if self.edited { EVERYBODY >> 1 } else { EVERYBODY }
    }

    /// The number of the next rotation.
    pub(super) fn next_rotation(&self) -> u8 {
        u8::try_from(self.registered.len()).expect("few rotations")
    }

    fn register(&mut self, run: &Run) {
        if usize::from(run.rotation) == self.registered.len() {
            self.registered.push(run.readers);
        }
        if self.strategy.mints() && !self.keys.keep(run) {
            self.violations.push("I3: another candidate".into());
        }
    }

    /// The effect of a call on the systems.
    pub(super) fn take_effect(&mut self, effect: Effect) -> Outcome {
        match effect {
            Effect::Save { run, expected } => {
                if expected != self.revision && !Mutant::BlindDocument.is_on() {
                    return Outcome::Conflict;
                }
                self.register(&run);
                self.document = Document::Open(run);
                self.revision += 1;
                Outcome::Done
            }
            Effect::Close { marker, expected } => {
                if expected != self.revision && !Mutant::BlindDocument.is_on() {
                    return Outcome::Conflict;
                }
                self.document = Document::Closed(marker);
                self.revision += 1;
                Outcome::Done
            }
            Effect::Promote { credential, expected } => {
                if expected != self.current_revision && !Mutant::PromoteWithoutCompare.is_on() {
                    return Outcome::Conflict;
                }
                self.current = credential;
                self.current_revision += 1;
                Outcome::Done
            }
            Effect::Install { credential, beside, rotation, fence } => {
                let takes_two = self.strategy == Strategy::DualPassword;
                let role = &mut self.roles[credential.role];
                match role.marker {
                    Some(mark) if mark.fence > fence => return Outcome::Superseded(mark.fence),
                    Some(mark)
                        if mark.fence == fence && (mark.rotation != rotation || !mark.is_installed) =>
                    {
                        return Outcome::Superseded(mark.fence);
                    }
                    _ => {}
                }
                if !takes_two {
                    role.accepts = Some(credential.value);
                } else if !role.holds(credential.value) || Mutant::BlindRetain.is_on() {
                    if !Mutant::BlindRetain.is_on() && !Mutant::DeleteOldest.is_on() {
                        role.keep(beside);
                    }
                    role.older = role.accepts.replace(credential.value);
                }
                role.marker = Some(Mark { fence, rotation, is_installed: true });
                Outcome::Done
            }
            Effect::Retire { role, beside, rotation, fence } => {
                let takes_two = self.strategy == Strategy::DualPassword;
                let role = &mut self.roles[role];
                match role.marker {
                    Some(mark)
                        if mark.fence > fence || (mark.fence == fence && mark.rotation != rotation) =>
                    {
                        return Outcome::Superseded(mark.fence);
                    }
                    _ => {}
                }
                role.keep(beside);
                if !takes_two {
                    role.marker = Some(Mark { fence, rotation, is_installed: false });
                }
                Outcome::Done
            }
            Effect::Withdraw { role, beside, rotation, fence } => {
                let role = &mut self.roles[role];
                let withdrawn = Some(Mark { fence, rotation, is_installed: false });
                match role.marker {
                    Some(mark) if mark.fence == fence && mark.rotation == rotation => {
                        // One that was withdrawn before has nothing of this attempt.
                        if mark.is_installed {
                            role.keep(beside);
                        }
                        role.marker = withdrawn;
                    }
                    Some(mark) if mark.fence >= fence => {}
                    _ => role.marker = withdrawn,
                }
                Outcome::Done
            }
            Effect::Publish { reader, version, credential } => {
                let reader = &mut self.readers[reader];
                if reader.version > version {
                    return Outcome::Conflict;
                }
                (reader.version, reader.held) = (version, credential);
                Outcome::Done
            }
            Effect::Reload { reader, version } => {
                let reader = &mut self.readers[reader];
                if reader.version < version {
                    return Outcome::Behind;
                }
                if reader.told < version {
                    reader.told = version;
                } else if Mutant::TimestampRestart.is_on() {
                    self.violations.push("I9: a reader is told twice of one version".into());
                }
                Outcome::Done
            }
            Effect::Append { process, record } => {
                let lost = self.ledgers.append(process, record);
                self.violations.extend(lost.then(|| "I6: the remote loses records".into()));
                Outcome::Done
            }
            Effect::Mint { rotation } => {
                let is_late = self.comes_late(rotation);
                self.keys.make(rotation, is_late)
            }
            Effect::Delete { key } => {
                self.keys.delete(key);
                Outcome::Done
            }
        }
    }

    fn accepts(&self, credential: Credential) -> bool {
        if self.strategy.mints() {
            return self.keys.holds(credential.value);
        }
        self.roles[credential.role].holds(credential.value)
    }

    /// The rotation that brought a value.
    fn made_by(&self, credential: Credential) -> u8 {
        self.keys.made_for(credential.value).unwrap_or(credential.value)
    }

    pub(super) fn probe(&self, credential: Credential) -> bool {
        self.accepts(credential)
    }

    /// Whether a reader is served with the value in force and with the next one.
    fn is_served(&self, reader: usize) -> bool {
        let (marker, open) = match &self.document {
            Document::Closed(marker) => (marker, None),
            Document::Open(run) => (&run.before, Some(run.rotation)),
        };
        // Whoever was not named when a value was brought back has it under the version before.
        let brought_back = Some(marker.last).filter(|_| marker.reverts);
        let named = |rotation: u8| self.registered[usize::from(rotation)] >> reader & 1 == 1;
        named(marker.in_force) && brought_back.is_none_or(named) && open.is_none_or(named)
    }

    /// What must be true at any moment.
    pub(super) fn check(&mut self) {
        let (open, fence) = match &self.document {
            Document::Closed(marker) => (None, marker.fence),
            Document::Open(run) => (Some(*run), run.fence),
        };
        let mut broken = Vec::new();
        let mut hold = |holds: bool, what: &str| {
            if !holds {
                broken.push(what.to_owned());
            }
        };
        hold(fence >= self.fence, "I8: the fence went back");
        if let Some(run) = open {
            let candidate = if run.reverts { run.before.in_force } else { run.rotation };
            let is_none = run.candidate.value == NONE;
            hold(is_none || self.made_by(run.candidate) == candidate, "I3: another candidate");
            if self.strategy.mints() {
                hold(is_none || run.is_back || self.accepts(run.candidate), "I1: a candidate is deleted");
            }
        }
        let in_place = self.strategy == Strategy::InPlace;
        if self.strategy.mints() {
            hold(self.keys.holds(BY_HAND), "somebody else's key is deleted");
        }
        if self.strategy != Strategy::Generated {
            let durable = [Some(self.current), open.map(|run| run.candidate), open.map(|run| run.outgoing)];
            for (role, state) in self.roles.iter().enumerate() {
                for value in state.values().filter(|value| *value != BY_HAND) {
                    let known = durable.contains(&Some(Credential { role, value }));
                    hold(known, "I1: a value is lost");
                }
            }
            let window = in_place && open.is_some();
            hold(window || self.accepts(self.current), "I2: the store's value is refused");
            for reader in 0..READERS {
                let cut = open.is_some() && self.contains;
                let works = self.accepts(self.readers[reader].held);
                hold(window || cut || !self.is_served(reader) || works, "I2: a reader's value is refused");
            }
        }
        if let Some(run) = open.filter(|run| !run.is_back)
            && matches!(self.strategy, Strategy::Alternating | Strategy::DualPassword | Strategy::DualKey)
            && !self.contains
            && !self.accepts(run.outgoing)
        {
            for reader in 0..READERS {
                let concerned = self.registered[usize::from(run.rotation)] >> reader & 1 == 1;
                let moved = self.readers[reader].held == run.candidate;
                hold(!concerned || moved, "I4: retired before its readers have moved");
            }
        }
        self.fence = self.fence.max(fence);
        self.violations.extend(broken);
    }

    /// The systems alone: every process is gone, and nothing more happens.
    pub(super) fn systems(&self) -> Self {
        let budget = Budget { deaths: 0, late: 0, refusals: 0, beside: 0, rotations: 0 };
        Self { processes: [None, None], budget, ..self.clone() }
    }

    /// Whether a process that nothing happens to brings the systems to rest, and what is true then.
    pub(super) fn comes_to_rest(&self) -> Result<(), String> {
        let mut world = self.clone();
        while !world.on_the_way.is_empty() {
            world.arrive(0);
        }
        // Another rotation finds what came late for the one before.
        let mut more = self.strategy.mints();
        for _ in 0..200 {
            if let Some(violation) = world.violations.first() {
                return Err(violation.clone());
            }
            match (&world.processes[0], &world.document) {
                (None, Document::Closed(marker)) => {
                    world.at_rest(*marker)?;
                    if !std::mem::take(&mut more) {
                        return world.keys_at_rest();
                    }
                    world.budget.rotations = 1;
                    world.begin(0, super::Fate::Heard);
                }
                (None, Document::Open(_)) => world.begin(0, super::Fate::Heard),
                (Some(_), _) => world.call(0, super::Fate::Heard),
            }
        }
        Err(format!("I7: it does not come to rest: {:?}", world.document))
    }

    fn at_rest(&self, marker: Marker) -> Result<(), String> {
        let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        if self.strategy != Strategy::Generated {
            must(self.accepts(self.current), "I2: the value in force is refused")?;
            for (role, state) in self.roles.iter().enumerate() {
                // What was given up may never have come to the target.
                let untouched = marker.in_force == 0;
                let mut others =
                    state.values().filter(|value| self.current != Credential { role, value: *value });
                must(others.all(|value| untouched && value == BY_HAND), "I5: an old value works")?;
            }
        }
        if self.strategy.mints() {
            must(
                !self.keys.left_beside(self.current.value, false),
                "I5: a key that was made in vain is left",
            )?;
        }
        must(
            self.made_by(self.current) == marker.in_force,
            "I6: another value is in force than is recorded",
        )?;
        for reader in (0..READERS).filter(|reader| self.is_served(*reader)) {
            let reader = &self.readers[reader];
            must(reader.held == self.current, "I7: a reader has something else")?;
            must(reader.version == marker.version, "I7: a reader has another version")?;
        }
        for rotation in 0..self.next_rotation() {
            let records = self.ledgers.remote.iter().filter(|record| record.rotation == rotation);
            let records: Vec<_> = records.collect();
            must(records.len() == 1, "I6: a rotation is not recorded once")?;
            let is_last = rotation == marker.last;
            must(!is_last || records[0].reverts == marker.reverts, "I6: the record says something else")?;
        }
        Ok(())
    }

    /// Makes worlds equal that go on in the same way. Of a revision only counts whether it is the present one,
    /// as none comes back; what can have no effect any more is not on its way; and it does not matter which
    /// process is which.
    pub(super) fn normalise(&mut self) {
        let (revision, base) = (self.revision, self.current_revision);
        let present = |known: &mut u8, now: u8| *known = u8::from(*known == now);
        if let Document::Open(run) = &mut self.document {
            present(&mut run.base, base);
            run.forget_numbers();
        }
        for process in self.processes.iter_mut().flatten() {
            process.run.forget_numbers();
            process.forget_asking();
            let (own_revision, own_base) = process.revisions();
            present(own_revision, revision);
            present(own_base, base);
        }
        for effect in &mut self.on_the_way {
            match effect {
                Effect::Save { run, expected } => {
                    present(&mut run.base, base);
                    present(expected, revision);
                    run.forget_numbers();
                }
                Effect::Close { expected, .. } => present(expected, revision),
                Effect::Promote { expected, .. } => present(expected, base),
                _ => {}
            }
        }
        (self.revision, self.current_revision) = (1, 1);
        let mut on_the_way = std::mem::take(&mut self.on_the_way);
        on_the_way.retain(|effect| self.may_matter(effect));
        self.on_the_way = on_the_way;
        let order = |world: &Self| {
            let hash = |index: usize| {
                use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
                let hasher = BuildHasherDefault::<DefaultHasher>::default();
                hasher.hash_one((&world.processes[index], &world.ledgers.folders[index]))
            };
            hash(0) > hash(1)
        };
        let appends = self.on_the_way.iter().any(|effect| matches!(effect, Effect::Append { .. }));
        if !appends && order(self) {
            self.processes.swap(0, 1);
            self.ledgers.folders.swap(0, 1);
        }
    }

    /// Whether an effect that is on its way could still change something.
    fn may_matter(&self, effect: &Effect) -> bool {
        let blind = |mutant: Mutant| mutant.is_on();
        match *effect {
            Effect::Save { expected, .. } | Effect::Close { expected, .. } => {
                expected == self.revision || blind(Mutant::BlindDocument)
            }
            Effect::Promote { expected, .. } => {
                expected == self.current_revision || blind(Mutant::PromoteWithoutCompare)
            }
            Effect::Install { credential: Credential { role, .. }, fence, .. }
            | Effect::Retire { role, fence, .. }
            | Effect::Withdraw { role, fence, .. } => {
                self.roles[role].marker.is_none_or(|mark| mark.fence <= fence)
            }
            Effect::Publish { reader, version, .. } => self.readers[reader].version <= version,
            Effect::Reload { reader, version } => {
                self.readers[reader].told < version || blind(Mutant::TimestampRestart)
            }
            Effect::Append { .. } | Effect::Mint { .. } => true,
            Effect::Delete { key } => self.keys.holds(key),
        }
    }

    pub(super) fn arrive(&mut self, message: usize) {
        let effect = self.on_the_way.remove(message);
        self.take_effect(effect);
        self.check();
    }
}
