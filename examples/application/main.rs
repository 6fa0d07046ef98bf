//! An application as a cluster runs it: it logs in to PostgreSQL with what its environment says, for every
//! query anew, and counts. Tests and the demonstration look at its pods, not at it.
//!
//! `GET /ready` answers 200 while its last query went well. What it counted is in the table `calls` of its
//! database, where it outlives the pod: a row for each, written by the query itself.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::{Config, NoTls};

/// Between two queries.
const PACE: Duration = Duration::from_millis(50);

/// How long a query may take, its login included.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Count {
    queries: AtomicU64,
    failed: AtomicU64,
    is_well: AtomicBool,
}

impl Count {
    /// The query that keeps it. A pod's name is no place for a quote.
    fn statement(&self, pod: &str) -> String {
        let (queries, failed) = (self.queries.load(Ordering::SeqCst), self.failed.load(Ordering::SeqCst));
        format!(
            "INSERT INTO calls VALUES ('{pod}', {queries}, {failed}) ON CONFLICT (pod) \
             DO UPDATE SET queries = excluded.queries, failed = excluded.failed"
        )
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(config) = config() else {
        eprintln!("application: HOST, PORT, DATABASE, username and password say where to log in and as whom");
        return ExitCode::FAILURE;
    };
    // What it cannot do without: a permission that was forgotten shows at once, and it ends.
    if let Some(statement) = variable("STARTUP")
        && let Err(error) = query(&config, &statement).await
    {
        eprintln!("application: the statement at its start failed: {:?}", error.code());
        return ExitCode::from(3);
    }
    let pod = variable("POD").unwrap_or_else(|| "alone".into());
    let count = Arc::new(Count::default());
    let mut end = signal(SignalKind::terminate()).expect("a signal");
    let serving = tokio::spawn(serve(Arc::clone(&count)));
    tokio::select! {
        () = ask(&config, &pod, &count) => {}
        _ = end.recv() => {}
        _ = serving => {}
    }
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "an application is told by its environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn config() -> Option<Config> {
    let mut config = Config::new();
    config.host(variable("HOST")?).port(variable("PORT")?.parse().ok()?).dbname(variable("DATABASE")?);
    config.user(variable("username")?).password(variable("password")?).application_name("orders");
    Some(config)
}

/// Asks for ever. One that crashes when it is refused says so, for those who want to see that.
async fn ask(config: &Config, pod: &str, count: &Count) {
    let is_brittle = variable("EXIT_WHEN_REFUSED").is_some();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        count.queries.fetch_add(1, Ordering::SeqCst);
        let asked = timeout(PATIENCE, query(config, &count.statement(pod))).await;
        let went_well = matches!(asked, Ok(Ok(())));
        count.is_well.store(went_well, Ordering::SeqCst);
        if !went_well {
            count.failed.fetch_add(1, Ordering::SeqCst);
            println!(
                "a query failed: {:?}",
                asked.map(|answer| answer.map_err(|error| error.code().cloned()))
            );
            if is_brittle {
                std::process::exit(1);
            }
        }
    }
}

async fn query(config: &Config, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let answered = client.batch_execute(statement).await;
    drop(client);
    // Until the server has ended the session: a query leaves nothing behind.
    let _ = connection.await;
    answered
}

async fn serve(count: Arc<Count>) {
    let ready = |State(count): State<Arc<Count>>| async move {
        if count.is_well.load(Ordering::SeqCst) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let routes = Router::new().route("/ready", get(ready)).with_state(count);
    // A pod says `0.0.0.0:8080`, which is its own network.
    let address = variable("LISTEN").unwrap_or_else(|| "127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
    axum::serve(listener, routes).await.expect("it serves for ever");
}
