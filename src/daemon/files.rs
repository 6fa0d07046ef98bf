//! Notices when policy files change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// An editor writes in several strokes: a burst of changes is over when it has been quiet for this time.
const QUIET: Duration = Duration::from_millis(200);

/// Changes that do not end are told of all the same.
const LONGEST_BURST: Duration = Duration::from_secs(2);

/// Sends once for each burst of changes below a directory, until nobody listens. A directory that cannot be
/// watched is logged: SIGHUP still reads it again.
pub(super) fn watch(directory: &Path, changed: mpsc::Sender<()>) {
    let (seen, mut bursts) = mpsc::channel(1);
    let place = directory.to_owned();
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| concerns(&event, &place)) {
            // A full channel has the news already.
            let _ = seen.try_send(());
        }
    });
    let mut watching = match watcher {
        Ok(watcher) => Watching { watcher, directory: directory.to_owned() },
        Err(error) => return cannot(directory, &error),
    };
    // That the directory itself is replaced is news of the folder that it is in.
    if let Some(parent) = directory.parent()
        && let Err(error) = watching.watcher.watch(parent, RecursiveMode::NonRecursive)
    {
        cannot(parent, &error);
    }
    if let Err(error) = watching.begin() {
        cannot(directory, &error);
    }
    tokio::spawn(async move {
        while bursts.recv().await.is_some() {
            let end = Instant::now() + LONGEST_BURST;
            while let Ok(Some(())) = timeout_at(end.min(Instant::now() + QUIET), bursts.recv()).await {}
            // It may be another directory of the same name by now; one that is away is news when it is back.
            let _ = watching.begin();
            if changed.send(()).await.is_err() {
                break;
            }
        }
    });
}

struct Watching {
    watcher: RecommendedWatcher,
    directory: PathBuf,
}

impl Watching {
    fn begin(&mut self) -> notify::Result<()> {
        let _ = self.watcher.unwatch(&self.directory);
        self.watcher.watch(&self.directory, RecursiveMode::Recursive)
    }
}

/// Whether policies may read otherwise after it: a policy file, a folder, a name that Kubernetes hides and
/// moves, or the directory itself.
fn concerns(event: &Event, directory: &Path) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    event.paths.iter().any(|path| {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let suffix = path.extension().map(|suffix| suffix.to_ascii_lowercase());
        let is_read = suffix.is_none_or(|suffix| suffix == "yaml" || suffix == "yml");
        path == directory || (path.starts_with(directory) && (is_read || is_hidden))
    })
}

fn cannot(place: &Path, error: &notify::Error) {
    tracing::warn!(directory = %place.display(), reason = %error, "cannot watch the policies; SIGHUP reads them again");
}
