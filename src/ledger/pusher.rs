//! Pushes in the background: after each batch, again and again while the remote is down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::sync::Sync;
use crate::failure::Failure;

/// A second at first, five minutes at most, up to twice that by chance.
const PACE: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(300))
    .without_max_times()
    .with_jitter();

/// The way to the thread, and its last word.
#[derive(Debug)]
pub(super) struct Pusher {
    mailbox: mpsc::Sender<Flush>,
    wake: Arc<Notify>,
    last_error: Arc<Mutex<Option<Failure>>>,
    _stop: DropGuard,
}

/// Asks for a try now; answered when it is over, however it came out.
type Flush = oneshot::Sender<()>;

impl Pusher {
    /// Starts the thread; it ends, and a transfer under way with it, when the `Pusher` is dropped.
    pub(super) fn start(sync: Sync) -> std::io::Result<Self> {
        let (sender, mailbox) = mpsc::channel(16);
        let (wake, last_error, stop) = (Arc::new(Notify::new()), Arc::default(), CancellationToken::new());
        let thread = Thread {
            sync,
            mailbox,
            wake: Arc::clone(&wake),
            last_error: Arc::clone(&last_error),
            stop: stop.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("ledger-pusher".into())
            .spawn(move || runtime.block_on(thread.run()))?;
        // For what an earlier process left.
        wake.notify_one();
        Ok(Self { mailbox: sender, wake, last_error, _stop: stop.drop_guard() })
    }

    /// Notified when there may be something to push.
    pub(super) fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Waits until a try that begins now is over, at most for the deadline.
    pub(super) async fn flush(&self, deadline: Duration) {
        // Late or stopped, the state tells what is left.
        let _ = tokio::time::timeout(deadline, async {
            let (done, over) = oneshot::channel();
            if self.mailbox.send(done).await.is_ok() {
                let _ = over.await;
            }
        })
        .await;
    }

    /// Why the last try failed; `None` when it did not.
    pub(super) fn last_error(&self) -> Option<Failure> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Thread {
    sync: Sync,
    mailbox: mpsc::Receiver<Flush>,
    wake: Arc<Notify>,
    last_error: Arc<Mutex<Option<Failure>>>,
    stop: CancellationToken,
}

impl Thread {
    async fn run(mut self) {
        let mut backoff: Option<ExponentialBackoff> = None;
        loop {
            let delay = backoff.as_mut().and_then(Iterator::next);
            let Some(first) = self.called(delay).await else { return };
            let mut waiting: Vec<Flush> = first.into_iter().collect();
            while let Ok(flush) = self.mailbox.try_recv() {
                waiting.push(flush);
            }
            // This try takes along what was announced so far.
            let _ = self.wake.notified().now_or_never();
            let outcome = tokio::select! {
                outcome = self.sync.push() => outcome,
                () = self.stop.cancelled() => return,
            };
            match &outcome {
                Ok(()) => backoff = None,
                Err(failure) => {
                    let remedy = failure.remedy().unwrap_or_default();
                    tracing::warn!(%failure, remedy, "records wait to be pushed");
                    backoff.get_or_insert_with(|| PACE.build());
                }
            }
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
            for flush in waiting {
                let _ = flush.send(());
            }
        }
    }

    /// Waits for a reason to try. While the remote is down that is the end of the delay, or a flush:
    /// new records wait with the others. `None` when there is nobody left to push for.
    async fn called(&mut self, delay: Option<Duration>) -> Option<Option<Flush>> {
        match delay {
            Some(delay) => match tokio::time::timeout(delay, self.mailbox.recv()).await {
                Ok(flush) => flush.map(Some),
                Err(_) => Some(None),
            },
            None => tokio::select! {
                flush = self.mailbox.recv() => flush.map(Some),
                () = self.wake.notified() => Some(None),
            },
        }
    }
}
