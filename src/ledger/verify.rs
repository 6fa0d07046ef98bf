//! The whole chain, held against itself.
//!
//! Every object read on the way is hashed by libgit2, so a changed byte in the repository is an error
//! here rather than a record that reads differently.

use std::collections::{BTreeMap, HashMap};

use git2::{Commit, Oid, Repository, Signature};
use serde::Serialize;

use super::chain::{CommitId, Link, Problem};
use super::placeholder::Placeholder;
use super::reader::{LedgerReader, placeholders};
use super::record::Record;
use super::repository::PIN;
use crate::failure::Failure;
use crate::git::one_line;
use crate::ident::{PolicyName, RotationId, Version};
use crate::settings::AuthorSettings;

/// What a verification saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// The newest commit; `None` while nothing is recorded.
    pub head: Option<CommitId>,
    /// Commits on the chain.
    pub commits: usize,
    /// Policies that have a record.
    pub policies: usize,
    /// Commits that the remote is not known to have; `None` in a copy that was never pushed from.
    pub unpushed: Option<usize>,
    /// Everything that is wrong, the oldest commit first.
    pub findings: Vec<ChainFinding>,
}

impl VerifyReport {
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One thing that is wrong, and in which commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainFinding {
    pub commit: CommitId,
    pub problem: Problem,
}

impl LedgerReader {
    /// Walks the chain from the newest commit to the first. `author` is who must have made every
    /// commit; anybody when `None`.
    ///
    /// # Errors
    /// When the repository cannot be read, also because an object is missing or damaged.
    pub fn verify(&self, author: Option<&AuthorSettings>) -> Result<VerifyReport, Failure> {
        let repo = self.open()?;
        let tip = self.tip(&repo)?;
        verify(&repo, tip, author).map_err(|e| self.failure(&e))
    }
}

fn verify(
    repo: &Repository,
    tip: Option<Oid>,
    author: Option<&AuthorSettings>,
) -> Result<VerifyReport, git2::Error> {
    let chain = first_parents(repo, tip)?;
    let mut seen = Seen::default();
    for id in &chain {
        let commit = repo.find_commit(*id)?;
        let link = Link::read(repo, &commit)?;
        seen.commit = Some(CommitId::from(*id));
        link.problems.into_iter().for_each(|problem| seen.note(problem));
        if let Some(author) = author {
            seen.identity(&commit, author);
        }
        if let Some((record, _)) = link.record {
            seen.record(record);
        }
    }
    let head = seen.commit;
    seen.versions();
    if let Some(tip) = tip {
        seen.placeholders(placeholders(repo, &repo.find_commit(tip)?)?);
    }
    let pinned = repo.refname_to_id(PIN).ok();
    let unpushed = pinned.map(|pin| chain.iter().rev().take_while(|id| **id != pin).count());
    if let (Some(pin), Some(head)) = (pinned, head)
        && unpushed == Some(chain.len())
    {
        seen.findings.push(ChainFinding { commit: head, problem: Problem::NotPushedChain(pin.into()) });
    }
    Ok(VerifyReport {
        head,
        commits: chain.len(),
        policies: seen.policies.len(),
        unpushed,
        findings: seen.findings,
    })
}

/// The chain, the oldest commit first.
fn first_parents(repo: &Repository, tip: Option<Oid>) -> Result<Vec<Oid>, git2::Error> {
    let mut chain = Vec::new();
    let mut next = tip;
    while let Some(id) = next {
        chain.push(id);
        next = repo.find_commit(id)?.parent_id(0).ok();
    }
    chain.reverse();
    Ok(chain)
}

/// What was met so far.
#[derive(Default)]
struct Seen {
    /// The commit under the glass.
    commit: Option<CommitId>,
    rotations: HashMap<RotationId, CommitId>,
    /// The records that promoted something, by policy; empty where none did.
    policies: BTreeMap<PolicyName, Vec<Promotion>>,
    findings: Vec<ChainFinding>,
}

struct Promotion {
    commit: CommitId,
    from: Version,
    shown: Placeholder,
}

impl Seen {
    fn note(&mut self, problem: Problem) {
        let commit = self.commit.expect("problems are found in commits");
        self.findings.push(ChainFinding { commit, problem });
    }

    fn identity(&mut self, commit: &Commit<'_>, expected: &AuthorSettings) {
        let ours = |who: &Signature<'_>| {
            who.name_bytes() == expected.name.as_bytes() && who.email_bytes() == expected.email.as_bytes()
        };
        for who in [commit.author(), commit.committer()] {
            if !ours(&who) {
                self.note(Problem::Identity(one_line(&who.to_string())));
                return;
            }
        }
    }

    fn record(&mut self, record: Record) {
        let commit = self.commit.expect("records are found in commits");
        if let Some(first) = self.rotations.get(&record.rotation) {
            self.note(Problem::Again { rotation: record.rotation, first: *first });
            return;
        }
        self.rotations.insert(record.rotation, commit);
        let promotions = self.policies.entry(record.policy.clone()).or_default();
        if let Some(shown) = Placeholder::of(&record) {
            promotions.push(Promotion { commit, from: record.from, shown });
        }
    }

    /// In the order of versions, not of commits: a record that a node could push only later stands
    /// behind newer ones.
    fn versions(&mut self) {
        for (policy, promotions) in &mut self.policies {
            promotions.sort_by_key(|promotion| promotion.shown.version);
            let mut in_force = Version::NONE;
            for Promotion { commit, from, shown } in promotions.iter() {
                let problem = if shown.version == in_force {
                    Problem::Twice { policy: policy.clone(), version: in_force }
                } else {
                    Problem::Gap { policy: policy.clone(), expected: in_force, found: *from }
                };
                if *from != in_force {
                    self.findings.push(ChainFinding { commit: *commit, problem });
                }
                in_force = shown.version;
            }
        }
    }

    fn placeholders(&mut self, mut files: BTreeMap<String, Option<Placeholder>>) {
        let newest: Vec<_> = self.policies.values().filter_map(|promotions| promotions.last()).collect();
        let mut problems = Vec::new();
        for Promotion { shown, .. } in newest {
            if files.remove(&Placeholder::path(&shown.policy)).flatten().as_ref() != Some(shown) {
                problems.push(Problem::Placeholder { policy: shown.policy.clone() });
            }
        }
        problems.extend(files.into_keys().map(|path| Problem::Foreign(one_line(&path))));
        problems.into_iter().for_each(|problem| self.note(problem));
    }
}
