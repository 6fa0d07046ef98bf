//! Looks at a ledger and its remote and changes nothing.

use git2::Oid;
use rustix::fs::{Access, access};

use super::git::{GitLedger, remote_of};
use super::repository::Location;
use crate::failure::{Failure, Finding};
use crate::git::check_author;
use crate::settings::LedgerSettings;

/// Less free space than this is worth a word: a batch takes some kilobytes, merging packs as much again
/// as the packs.
const LITTLE_SPACE: u64 = 64 * 1024 * 1024;

impl GitLedger {
    /// Whether the ledger can be written and its remote be reached, and how the two stand to each other.
    /// Needs no ledger to be open, nor to exist.
    pub async fn preflight(settings: &LedgerSettings) -> Vec<Finding> {
        let subject = format!("ledger {}", settings.path.display());
        let named = check_author(&settings.author, "ledger.author").and_then(|()| Location::named(settings));
        let location = match named {
            Ok(location) => location,
            Err(failure) => return vec![Finding::from_failure(subject, &failure)],
        };
        let (here, named) = (location.clone(), subject.clone());
        let mut findings = blocking(move || {
            let found = match folder(&here) {
                Ok(detail) => Finding::pass(&named, detail),
                Err(failure) => Finding::from_failure(&named, &failure),
            };
            std::iter::once(found).chain(space(&here, &named)).collect()
        })
        .await;
        let Some(remote) = &settings.remote else { return findings };
        // The URL itself is shown only once it was found fit.
        let transport = match remote_of(settings, remote, &location) {
            Ok(transport) => transport,
            Err(failure) => {
                findings.push(Finding::from_failure("ledger remote", &failure));
                return findings;
            }
        };
        let subject = format!("ledger remote {}", transport.url());
        let head = match transport.version().await {
            Ok(_) => transport.head().await,
            Err(failure) => Err(failure),
        };
        findings.extend(
            blocking(move || {
                let finding = head.and_then(|head| relation(&location, &subject, head));
                vec![finding.unwrap_or_else(|failure| Finding::from_failure(&subject, &failure))]
            })
            .await,
        );
        findings
    }
}

/// Off the async threads; nothing was found if the program is stopping.
async fn blocking(look: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Vec<Finding> {
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// What was found at the ledger's path.
fn folder(location: &Location) -> Result<String, Failure> {
    let writable = |path: &std::path::Path| {
        access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| location.io_failure(&error.into()))
    };
    if location.is_vacant()? {
        writable(location.parent()?)?;
        return Ok("there is none yet; it will be created".to_owned());
    }
    location.check()?;
    for part in ["", "objects/pack", "refs/heads"] {
        writable(&location.path().join(part))?;
    }
    let repo = location.open()?;
    Ok(match location.head(&repo)? {
        Some(head) => format!("it is writable, at {head}"),
        None => "it is writable and empty".to_owned(),
    })
}

fn space(location: &Location, subject: &str) -> Option<Finding> {
    let path = if location.path().exists() { location.path() } else { location.parent().ok()? };
    let free = rustix::fs::statvfs(path).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)).ok()?;
    (free < LITTLE_SPACE).then(|| {
        let detail = format!("its file system has {} KiB left", free / 1024);
        Finding::warn(subject, detail, "free some space before records cannot be written")
    })
}

/// How the remote's commit stands to ours.
fn relation(location: &Location, subject: &str, remote: Option<Oid>) -> Result<Finding, Failure> {
    let vacant = location.is_vacant()?;
    let (head, pinned) = if vacant {
        (None, None)
    } else {
        let repo = location.open()?;
        (location.head(&repo)?, location.pinned(&repo)?)
    };
    let Some(remote) = remote else {
        return Ok(match pinned {
            None => Finding::pass(subject, "it answers and is empty"),
            Some(pinned) => Finding::fail(
                subject,
                format!("it has lost the branch that had {pinned}"),
                "find out who removed it and put it back; nothing is pushed until then",
            ),
        });
    };
    if Some(remote) == head {
        return Ok(Finding::pass(subject, "it answers and has every record"));
    }
    let later = "they are fetched and checked before the next push";
    if vacant || location.open()?.find_commit(remote).is_err() {
        return Ok(Finding::warn(
            subject,
            format!("it has records that are not here, up to {remote}"),
            later,
        ));
    }
    let repo = location.open()?;
    let extends = |commit: Option<Oid>, base: Oid| {
        commit.is_some_and(|c| c == base || repo.graph_descendant_of(c, base).unwrap_or(false))
    };
    Ok(if pinned.is_some_and(|pinned| !extends(Some(remote), pinned)) {
        Finding::fail(
            subject,
            format!("it is at {remote} and lost commits that it had"),
            "find out who changed it; nothing is pushed until it has them again",
        )
    } else if extends(head, remote) {
        Finding::pass(subject, "it answers; some records here are still to be pushed")
    } else {
        Finding::warn(subject, format!("it has records that the branch here lacks, up to {remote}"), later)
    })
}
