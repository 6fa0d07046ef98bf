//! `make demo`: an application that queries a database all the time, its credential rotated by schedule,
//! then leaked and contained. Real PostgreSQL, the shipped binary, nothing simulated.
//!
//! `make demo-cluster`: the same in a Kubernetes of its own, with rekeyd as two pods, a node's pod that is killed in
//! the middle, a mistake that a canary catches, and an application that crashed before.
//!
//! The same program is the director, the application (`demo app`) and the application's reload command
//! (`demo reload`), so that there is one thing to build.

mod application;
mod cluster;
mod director;
mod log;
mod server;
mod stage;
mod teller;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        [] => director::run().await,
        ["cluster"] => cluster::run().await,
        ["app", settings] => application::run(settings.as_ref()).await,
        ["reload", folder] => application::reload(folder.as_ref()).await,
        _ => Err("usage: demo".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A demo stops at the first thing that goes wrong and says what it was.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
