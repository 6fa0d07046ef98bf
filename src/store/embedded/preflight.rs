//! What a rotation will need of the embedded store, looked at without changing it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::EmbeddedStore;
use super::key::Key;
use crate::failure::Finding;
use crate::settings::EmbeddedSettings;
use crate::store::{Place, Store as _};

/// Below this much free space nothing may be begun that could not be written down to its end.
const SPACE_NEEDED: u64 = 16 << 20;

/// Below this much somebody should look.
const SPACE_WANTED: u64 = 128 << 20;

/// What a first opening will need; `None` when the store is there already.
pub(super) fn absent(settings: &EmbeddedSettings) -> Option<Vec<Finding>> {
    if settings.path.symlink_metadata().is_ok() {
        return None;
    }
    let subject = format!("store {}", settings.path.display());
    let folder =
        settings.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let access = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    Some(vec![
        match access {
            Ok(()) => Finding::pass(&*subject, "does not exist yet: the first rotation makes it"),
            Err(error) => Finding::fail(
                &*subject,
                format!("folder {} cannot be written: {error}", folder.display()),
                "create the folder and let rekeyd's own user write there",
            ),
        },
        match Key::load(&settings.key) {
            Ok(_) => Finding::pass(&*subject, "the sealing key can be read"),
            Err(failure) => Finding::from_failure(&*subject, &failure),
        },
    ])
}

pub(super) async fn look(store: &EmbeddedStore, place: Place<'_>) -> Vec<Finding> {
    let subject = format!("store {}", store.database.path().display());
    vec![
        // The store is open: so the file was there and the key fits.
        file(store, &subject),
        space(store, &subject),
        content(store, &subject).await,
        match store.current(place).await {
            Ok(Some(_)) => Finding::pass(place.path.to_string(), "there is a current credential"),
            Ok(None) => Finding::pass(place.path.to_string(), "empty: the first rotation fills it"),
            Err(failure) => Finding::from_failure(place.path.to_string(), &failure),
        },
    ]
}

fn file(store: &EmbeddedStore, subject: &str) -> Finding {
    if let Err(error) = rustix::fs::access(store.database.path(), rustix::fs::Access::WRITE_OK) {
        return Finding::fail(
            subject,
            format!("it cannot be written: {error}"),
            "let rekeyd's own user write the file and its folder, and mount it writable",
        );
    }
    match store.database.metadata() {
        Ok(metadata) if metadata.mode() & 0o070 != 0 => Finding::warn(
            subject,
            format!("its mode is {:04o}: its group may open it", metadata.mode() & 0o7777),
            format!("run `chmod 600 {}`", store.database.path().display()),
        ),
        Ok(_) => Finding::pass(subject, "open, the key fits"),
        Err(fault) => Finding::from_failure(subject, &fault.into_failure(format!("look at {subject}"))),
    }
}

fn space(store: &EmbeddedStore, subject: &str) -> Finding {
    let free = match rustix::fs::statvfs(store.database.path()) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(error) => {
            return Finding::warn(subject, format!("the free space is not known: {error}"), "look yourself");
        }
    };
    let detail = format!("{} MiB free", free >> 20);
    match free {
        ..SPACE_NEEDED => Finding::fail(subject, detail, "free some space"),
        SPACE_NEEDED..SPACE_WANTED => Finding::warn(subject, detail, "free some space"),
        _ => Finding::pass(subject, detail),
    }
}

async fn content(store: &EmbeddedStore, subject: &str) -> Finding {
    let remedy = "stop rekeyd, keep the file, and restore the last backup";
    match tokio::time::timeout(super::DEADLINE, store.reader.damage()).await {
        Ok(Ok(None)) => Finding::pass(subject, "the database is whole"),
        Ok(Ok(Some(damage))) => Finding::fail(subject, format!("the database is damaged: {damage}"), remedy),
        Ok(Err(fault)) => Finding::from_failure(subject, &fault.into_failure(format!("check {subject}"))),
        Err(_) => Finding::fail(subject, "the disk does not answer", "look at the system's log for the disk"),
    }
}
