//! `rekeyd adopt`: takes a live credential over without changing it.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::operate::Progress;
use super::output::Format;
use super::session::{self, Local};
use crate::failure::{Failure, FailureClass};
use crate::ident::{PartName, PolicyName, Principal};
use crate::rotation::engine::Adapters as _;
use crate::rotation::plan::Strategy;
use crate::secret::{Credential, Parts, SecretValue};
use crate::service::Ending;
use crate::store::Place;

/// A value is shorter.
const MOST_BYTES: u64 = 64 * 1024;

pub(super) struct Adoption {
    pub(super) policy: PolicyName,
    pub(super) principal: Option<Principal>,
    pub(super) from_store: bool,
    pub(super) replace: bool,
    /// Files that hold further parts of the value.
    pub(super) parts: Vec<(PartName, PathBuf)>,
}

pub(super) async fn run(config: Option<PathBuf>, adoption: Adoption, format: Format) -> ExitCode {
    let mut progress = Progress::new(format, std::io::stdout().is_terminal());
    let settings = match session::read_settings(config) {
        Ok(settings) => settings,
        Err((failure, diagnostics)) => return progress.end_invalid(&failure, &diagnostics),
    };
    // A running daemon is no hindrance: the run document is the lock between the two.
    let local = Local::start(&settings).await;
    local.heed_signals();
    let live = match live(&local, &adoption).await {
        Ok(live) => live,
        Err(failure) => return progress.end(Ending::failed(&failure)),
    };
    let (events, happening) = mpsc::unbounded_channel();
    let requester = session::requester();
    let work = local.service.adopt(&adoption.policy, live, adoption.replace, &requester, events);
    let ending = progress.watch(work, happening).await;
    local.finish().await;
    // So that it plans the policy's next rotation now; without it, it finds out by itself within the hour.
    if let Ok(Some(daemon)) = session::daemon(&settings).await {
        let _ = daemon.attend(&adoption.policy).await;
    }
    progress.end(ending)
}

/// The credential to take over.
async fn live(local: &Local, adoption: &Adoption) -> Result<Credential, Failure> {
    let doing = || format!("adopt {}", adoption.policy);
    let invalid = |reason: &str, remedy: &'static str| {
        Failure::new(FailureClass::Invalid, doing(), reason).with_remedy(remedy)
    };
    let catalog = local.service.catalog();
    let policy = catalog
        .policy(&adoption.policy)
        .ok_or_else(|| invalid("there is no such policy in force", "see `rekeyd check`"))?;
    if adoption.from_store {
        let store = local.wiring().store(&policy.spec().store.name)?;
        let current = store.current(Place::from(&policy.spec().store)).await?;
        return Ok(current
            .ok_or_else(|| invalid("the store holds no value there", "give the value on standard input"))?
            .credential);
    }
    let principal = match (&adoption.principal, policy.principals().as_slice()) {
        (Some(principal), _) => principal.clone(),
        (None, _) if Strategy::of(&policy.spec().target).mints() => {
            return Err(invalid("the key's public id is not known", "say it with --principal"));
        }
        (None, [only]) => (*only).clone(),
        (None, _) => {
            return Err(invalid("the policy has two users", "say whose value it is with --principal"));
        }
    };
    if std::io::stdin().is_terminal() {
        return Err(invalid(
            "standard input is a terminal, which would show the value",
            "pipe it: `rekeyd adopt ... < file`",
        ));
    }
    let mut parts = Parts::new();
    for (name, path) in &adoption.parts {
        let part = read_file(path, &doing())?;
        if parts.insert(name.clone(), part).is_some() {
            return Err(invalid("a part is given twice", "name each part once"));
        }
    }
    Ok(Credential::new(principal, read_value(&doing())?).with_parts(parts))
}

/// A value from standard input, less a final newline where it is one line.
pub(super) fn read_value(doing: &str) -> Result<SecretValue, Failure> {
    read_from(std::io::stdin().lock(), STANDARD_INPUT, doing)
}

/// The same from a file.
pub(super) fn read_file(path: &Path, doing: &str) -> Result<SecretValue, Failure> {
    let place = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| {
        Failure::new(FailureClass::Invalid, doing, format_args!("{place}: {}", error.kind()))
    })?;
    read_from(file, &place, doing)
}

const STANDARD_INPUT: &str = "standard input";

fn read_from(from: impl std::io::Read, place: &str, doing: &str) -> Result<SecretValue, Failure> {
    let mut value = Zeroizing::new(Vec::with_capacity(4096));
    from.take(MOST_BYTES + 1).read_to_end(&mut value).map_err(|error| {
        Failure::new(FailureClass::Invalid, doing, format_args!("{place}: {}", error.kind()))
    })?;
    if value.len() as u64 > MOST_BYTES {
        let reason = format_args!("{place} holds more than {MOST_BYTES} bytes");
        return Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy("give the value alone"));
    }
    if value.iter().position(|byte| *byte == b'\n') == Some(value.len().saturating_sub(1)) {
        value.pop();
    }
    if value.is_empty() {
        return Err(Failure::new(FailureClass::Invalid, doing, format_args!("{place} is empty"))
            .with_remedy(if place == STANDARD_INPUT {
                "pipe the value into it"
            } else {
                "write the value there"
            }));
    }
    Ok(SecretValue::new(std::mem::take(&mut *value)))
}
