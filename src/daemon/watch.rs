//! Notices when policy files change.

use std::path::Path;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Sends once for each burst of changes below a directory. Watching ends when the watcher is dropped.
/// A directory that cannot be watched is logged: SIGHUP still reads it again.
pub(super) fn watch(directory: &Path, changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let (seen, mut bursts) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let touches = event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)));
        if touches {
            // A full channel has the news already.
            let _ = seen.try_send(());
        }
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    match watched {
        Ok(watcher) => {
            tokio::spawn(async move {
                while bursts.recv().await.is_some() {
                    // An editor writes in several strokes: wait until it has been quiet for a moment.
                    while let Ok(Some(())) =
                        tokio::time::timeout(Duration::from_millis(200), bursts.recv()).await
                    {
                    }
                    if changed.send(()).await.is_err() {
                        break;
                    }
                }
            });
            Some(watcher)
        }
        Err(error) => {
            tracing::warn!(directory = %directory.display(), reason = %error, "cannot watch the policies; SIGHUP reads them again");
            None
        }
    }
}
