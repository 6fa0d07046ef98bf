//! Watches: what happens after a revision, as it comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tower::BoxError;

use super::fate::Happens;
use super::{Answer, ApiServer, respond};

/// One who watches.
struct Watch {
    server: Arc<ApiServer>,
    woken: tokio::sync::watch::Receiver<u64>,
    resource: String,
    namespace: String,
    /// Of the last change that was told.
    revision: u64,
    end: Duration,
    /// One event in so many is dropped.
    leak: Option<(u8, fastrand::Rng)>,
    told: VecDeque<Value>,
    is_over: bool,
}

impl ApiServer {
    pub(super) async fn watch(
        self: &Arc<Self>,
        ask: impl FnOnce(Option<Duration>, bool) -> BoxFuture<'static, Answer>,
        happens: Option<Happens>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
        let (code, asked) = ask(None, false).await;
        if code != 200 {
            return respond((code, asked));
        }
        let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| asked["query"][name].as_str().and_then(|text| text.parse().ok());
        let revision: u64 = number("resourceVersion").unwrap_or(0);
        if let Err(refusal) = self.state().objects.after(revision).map(drop) {
            return respond((refusal.code, Arc::new(refusal.status())));
        }
        let most = Duration::from_secs(number("timeoutSeconds").unwrap_or(290));
        let (most, leak) = match happens {
            Some(Happens::Cut(after)) => (most.min(after), None),
            Some(Happens::Leaks(one_in, seed)) => (most, Some((one_in, fastrand::Rng::with_seed(seed)))),
            _ => (most, None),
        };
        let watch = Watch {
            server: Arc::clone(self),
            woken: self.revision.subscribe(),
            resource: text("resource"),
            namespace: text("namespace"),
            revision,
            end: self.clock.monotonic() + most,
            leak,
            told: VecDeque::new(),
            is_over: false,
        };
        let events = futures_util::stream::unfold(watch, |mut watch| async move {
            let line = format!("{}\n", watch.next().await?);
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from(line))), watch))
        });
        let body = StreamBody::new(events.boxed()).boxed_unsync();
        Ok(Response::builder().status(200).header("content-type", "application/json").body(body)?)
    }
}

impl Watch {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Some(event);
            }
            let left = self.end.checked_sub(self.server.clock.monotonic()).filter(|left| !left.is_zero());
            let left = left.filter(|_| !self.is_over)?;
            self.woken.mark_unchanged();
            self.look();
            if self.told.is_empty() {
                let clock = Arc::clone(&self.server.clock);
                tokio::select! {
                    biased;
                    _ = self.woken.changed() => {}
                    () = clock.sleep(left) => return None,
                }
            }
        }
    }

    /// Takes in what happened since.
    fn look(&mut self) {
        let state = self.server.state();
        let changes = match state.objects.after(self.revision) {
            Ok(changes) => changes,
            Err(refusal) => {
                self.is_over = true;
                self.told.push_back(json!({"type": "ERROR", "object": refusal.status()}));
                return;
            }
        };
        for change in changes {
            self.revision = change.revision;
            if change.key.resource != self.resource || change.key.namespace != self.namespace {
                continue;
            }
            if let Some((one_in, rng)) = &mut self.leak
                && rng.u8(0..*one_in) == 0
            {
                continue;
            }
            let event = match (&change.before, &change.after) {
                (None, Some(after)) => json!({"type": "ADDED", "object": **after}),
                (_, Some(after)) => json!({"type": "MODIFIED", "object": **after}),
                (Some(before), None) => json!({"type": "DELETED", "object": **before}),
                (None, None) => continue,
            };
            self.told.push_back(event);
        }
    }
}
