//! Restarts by Git: the version that a pod template is to say is committed to a file that Argo CD or Flux applies.
//!
//! It takes the place of the change of the template and of nothing else. Who restarts and when, and whether the
//! pods have moved, is found as if somebody else had written the version: it is seen in the template once it is
//! applied. What was committed is only remembered here to ask the repository less often.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Readers;
use super::edition::Edition;
use super::reference::Names;
use super::versions::{Misfit, Place, Versions};
use super::workload::Workload;
use crate::failure::{Failure, FailureClass, Finding};
use crate::git::branch::{Branch, Change};
use crate::ident::{DnsLabel, PolicyName, RepositoryFile, Version};
use crate::kubernetes::Clusters;
use crate::policy::spec::{WorkloadName, WorkloadsSpec};
use crate::settings::GitopsSettings;

/// After so long it is looked again whether what was committed still stands there.
const RECHECK: Duration = Duration::from_secs(30);

/// A GitOps repository, and what this process committed to it lately.
pub(crate) struct Repository {
    name: DnsLabel,
    branch: Branch,
    /// What stands there, and when that was seen.
    seen: Mutex<BTreeMap<(RepositoryFile, Place, Wanted), Instant>>,
}

impl Repository {
    /// # Errors
    /// `Invalid` when the settings cannot be used.
    pub(crate) fn new(name: &DnsLabel, settings: &GitopsSettings) -> Result<Self, Failure> {
        Ok(Self { name: name.clone(), branch: Branch::new(name, settings)?, seen: Mutex::default() })
    }
}

/// What the template of a workload is to say under an annotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    workload: WorkloadName,
    annotation: String,
    version: Version,
    /// What may be replaced: from the first, and earlier than the second. The same or a later one is of somebody
    /// who knows more.
    over: (Version, Version),
}

/// The file that the versions of a Secret's readers are committed to.
pub(crate) struct Declared {
    repository: Arc<Repository>,
    file: RepositoryFile,
    place: Place,
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "committed to {} {}", self.repository.name, self.file)
    }
}

impl Declared {
    /// `None` where templates are changed by rekeyd.
    pub(super) fn of(
        clusters: &Clusters,
        cluster: &DnsLabel,
        namespace: &str,
        spec: &WorkloadsSpec,
    ) -> Result<Option<Self>, Failure> {
        let Some(spec) = spec.gitops() else { return Ok(None) };
        Ok(Some(Self {
            repository: clusters.repository(&spec.repository)?,
            file: spec.file.clone(),
            place: Place { cluster: cluster.clone(), namespace: namespace.to_owned() },
        }))
    }

    fn read(&self, content: Option<&[u8]>) -> Result<Versions, Failure> {
        Versions::parse(content, &self.place).map_err(|misfit: Misfit| {
            let doing = format!("use {} of the GitOps repository {}", self.file, self.repository.name);
            Failure::new(FailureClass::Invalid, doing, &misfit).with_remedy(misfit.remedy())
        })
    }

    /// Has the file say what is wanted, and gives those of whom it said something else. Nobody's later version is
    /// written over.
    async fn commit(
        &self,
        wanted: &[Wanted],
        message: impl Fn(&BTreeSet<WorkloadName>) -> String,
    ) -> Result<BTreeSet<WorkloadName>, Failure> {
        let key = |one: &Wanted| (self.file.clone(), self.place.clone(), one.clone());
        let seen = || self.repository.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut seen = seen();
            seen.retain(|_, at| at.elapsed() < RECHECK);
            wanted.iter().all(|one| seen.contains_key(&key(one)))
        };
        if known {
            return Ok(BTreeSet::new());
        }
        let mut changed = BTreeSet::new();
        let decide = |content: Option<&[u8]>| {
            let mut versions = self.read(content)?;
            changed.clear();
            for one in wanted {
                let there = versions.of(&one.workload, &one.annotation);
                if there != one.version && (one.over.0..one.over.1).contains(&there) {
                    versions.set(&one.workload, &one.annotation, one.version);
                    changed.insert(one.workload.clone());
                }
            }
            let change = || Change { content: versions.render(), message: message(&changed) };
            Ok((!changed.is_empty()).then(change))
        };
        self.repository.branch.change(self.file.as_str(), decide).await?;
        seen().extend(wanted.iter().map(|one| (key(one), Instant::now())));
        Ok(changed)
    }
}

impl Readers {
    /// Commits the versions that workloads restart for, all at once. Says of each who brings it into the template.
    ///
    /// Dying in between: whoever looks next finds the version in the file or commits it, and the template is the
    /// same either way, so that nobody restarts twice.
    pub(super) async fn commit(
        &self,
        declared: &Declared,
        restarts: Vec<(&Workload, Vec<(Names, Version)>)>,
        edition: Edition,
    ) -> Result<BTreeMap<WorkloadName, String>, Failure> {
        let is_told = |workload: &Workload| restarts.iter().any(|(told, _)| told.name == workload.name);
        let wanted = restarts.iter().flat_map(|(workload, versions)| {
            versions.iter().map(|(names, version)| Wanted {
                workload: workload.name.clone(),
                annotation: names.annotation.clone(),
                version: *version,
                // What others go back to, they commit themselves.
                over: (
                    Version::NONE,
                    if names.annotation == self.names.annotation { edition.version } else { *version },
                ),
            })
        });
        // Committed to whom it never came, and taken back since: nobody is to bring it there now.
        let recalled = self.workloads.iter().filter(|workload| !is_told(workload)).filter_map(|workload| {
            let edition = workload.edition(edition);
            let earlier = edition.restores.filter(|_| !workload.reloads_itself)?;
            Some(Wanted {
                workload: workload.name.clone(),
                annotation: self.names.annotation.clone(),
                version: workload.told,
                over: (earlier.version.next(), edition.version),
            })
        });
        let wanted: Vec<Wanted> = wanted.chain(recalled).collect();
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let message = |changed: &BTreeSet<WorkloadName>| {
            message(self.policy.as_ref(), edition.version, &self.namespace, changed)
        };
        let changed = declared.commit(&wanted, message).await?;
        for (workload, versions) in restarts.iter().filter(|(workload, _)| changed.contains(&workload.name)) {
            self.turns.begins(&workload.name);
            self.tell(workload, versions, Some(declared));
        }
        let waits = restarts.iter().map(|(workload, _)| {
            let keeper = workload.keeper.as_ref();
            let keeper = keeper.map_or_else(|| "Argo CD or Flux".to_owned(), ToString::to_string);
            (workload.name.clone(), format!("{declared}, waits for {keeper}"))
        });
        Ok(waits.collect())
    }

    /// Whether restarts can be committed. Changes nothing.
    pub(crate) async fn rehearse_commit(&self) -> Result<(), Failure> {
        let Some(declared) = &self.declared else { return Ok(()) };
        let content = declared.repository.branch.look(declared.file.as_str()).await?;
        declared.read(content.as_deref()).map(drop)
    }

    /// What a preflight says of that.
    pub(crate) async fn commit_finding(&self, secret: &str) -> Option<Finding> {
        let declared = self.declared.as_ref()?;
        let subject = format!("restarts for {secret}");
        let content = declared.repository.branch.glance(declared.file.as_str()).await;
        Some(match content.and_then(|content| declared.read(content.as_deref())) {
            Ok(_) => Finding::pass(subject, format!("are {declared}")),
            Err(failure) => Finding::from_failure(subject, &failure),
        })
    }
}

/// What a commit says: policy, version and workloads.
fn message(
    policy: Option<&PolicyName>,
    version: Version,
    namespace: &str,
    changed: &BTreeSet<WorkloadName>,
) -> String {
    let mut names = changed.iter().map(|workload| format!("{} {namespace}/{}", workload.kind, workload.name));
    let what = match changed.len() {
        1 => names.next().unwrap_or_default(),
        count => format!("{count} workloads"),
    };
    let policy = policy.map(|policy| format!(" of {policy}")).unwrap_or_default();
    let mut message = format!("Restart {what} for {version}{policy}\n");
    for (index, name) in names.enumerate() {
        message.push_str(if index == 0 { "\n" } else { "" });
        message.push_str(&format!("{name}\n"));
    }
    message
}

#[cfg(test)]
mod tests;
