//! `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::adapters::Wiring;
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass};
use crate::ident::PolicyName;
use crate::ledger::GitLedger;
use crate::rotation::engine::Adapters as _;
use crate::schedule::Facts;
use crate::service::{Hub, Known, Service};
use crate::telemetry::{Metrics, PolicyGauge};

/// What the endpoints answer from.
#[derive(Clone)]
pub(super) struct Served {
    service: Arc<Service>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    wiring: Arc<Wiring>,
    ledger: Arc<GitLedger>,
    clock: Arc<dyn Clock>,
}

impl Served {
    pub(super) fn new(
        service: Arc<Service>,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        wiring: Arc<Wiring>,
        ledger: Arc<GitLedger>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { service, hub, metrics, wiring, ledger, clock }
    }
}

/// Takes the address that the settings name.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(FailureClass::Invalid, format!("listen on {address}"), error.kind())
            .with_remedy("choose a free address for `listen` in the settings")
    })
}

/// Serves until stopped.
pub(super) fn serve(listener: TcpListener, served: Served, stop: CancellationToken) -> JoinHandle<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(served);
    tokio::spawn(async move {
        let server =
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = server.await {
            tracing::error!(reason = %error.kind(), "serving health and metrics failed");
        }
    })
}

/// Ready when every store that the settings name can be opened. One on the network is not asked: a daemon
/// whose store is away for a while must not be taken out of service for it.
async fn readyz(State(served): State<Served>) -> impl IntoResponse {
    let broken: Vec<String> = served
        .wiring
        .store_names()
        .iter()
        .filter_map(|name| {
            served.wiring.store(name).err().map(|failure| format!("store {name}: {}\n", failure.reason()))
        })
        .collect();
    if broken.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, broken.concat())
    }
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    let now = served.clock.now();
    let catalog = served.service.catalog();
    let mut known = served.hub.known();
    // Every policy in force, also one of which nothing is known yet: its absence would silence an alert.
    let mut gauges: Vec<PolicyGauge> = catalog
        .policies()
        .map(|policy| {
            let known = known.remove(policy.name()).unwrap_or_default();
            let facts = Facts {
                promoted_at: known.since,
                handled: None,
                watched_since: known.since.unwrap_or(now),
                rolled_back_at: None,
            };
            let schedule = served.service.schedule(policy);
            PolicyGauge {
                overdue: schedule.is_some_and(|schedule| schedule.overdue(&facts, now)),
                ..gauge(policy.name().clone(), known)
            }
        })
        .collect();
    let gone = known.into_iter().filter(|(_, known)| known.is_unfinished());
    gauges.extend(gone.map(|(policy, known)| gauge(policy, known)));
    if let Ok(state) = served.ledger.push_state().await {
        served.metrics.set_unpushed(state.ahead);
    }
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        served.metrics.render(&gauges, now),
    )
}

/// What is known of a policy. Whether its value is overdue is for its schedule to say.
fn gauge(policy: PolicyName, known: Known) -> PolicyGauge {
    let Known { since, open, doubt, owed, unknown, verified, .. } = known;
    PolicyGauge { policy, since, overdue: false, doubt, owed, open, unknown, verified }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containment_that_is_owed_is_told_until_it_is_done() {
        for (owed, told) in [(true, 1), (false, 0)] {
            let mut known = Known::default();
            known.owed = owed;
            assert_eq!(known.is_unfinished(), owed, "its policy may be gone");
            let gauge = gauge("orders/db".parse().expect("a name"), known);
            let text = Metrics::default().render(&[gauge], jiff::Timestamp::UNIX_EPOCH);
            let line = format!("rekeyd_containment_owed{{namespace=\"orders\",policy=\"db\"}} {told}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
