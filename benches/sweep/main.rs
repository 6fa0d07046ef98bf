//! `make bench NAME=sweep`: how long it takes until the passwords of 500 users of one PostgreSQL, all due
//! at once, are changed.
//!
//! rekeyd runs its whole protocol: run documents and values in the embedded store, a login with each new
//! value and one with each old value, a ledger record each. Its peer is OpenBao with the same number of
//! static roles on the same server, which sets one password after the other and tries none; rekeyd
//! without its logins is measured too, for that comparison only. All take turns, several times.
//!
//! After that the same for each kind of database: rekeyd's daemon beside a bare client that says to the server what
//! a rotation says, as many at a time ([`targets`]).
//!
//! `make bench NAME=sweep ARGS="users=50 rounds=1 targets=redis"` measures a part, or less of it; `targets=` alone
//! leaves the kinds out, and `peer=no` the comparison with OpenBao.

use std::fs;
use std::process::ExitCode;
use std::sync::OnceLock;

mod beside;
#[path = "../support/daemon.rs"]
mod daemon;
mod fleet;
mod limits;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/openbao.rs"]
mod openbao;
mod peer;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/report.rs"]
mod report;
#[path = "../support/site.rs"]
mod site;
#[path = "../support/static_roles.rs"]
mod static_roles;
mod targets;
mod unproven;

use self::machine::Machine;
use self::report::{Figure, Report};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is measured.
struct Scope {
    /// Users of each kind that are changed in a sweep.
    users: usize,
    /// How often everything is measured.
    rounds: usize,
    /// The kinds of databases.
    targets: Vec<String>,
    /// Whether OpenBao is measured beside rekeyd.
    peer: bool,
}

impl Scope {
    /// Everything, or what the arguments say. Cargo has one of its own.
    fn of_arguments() -> Outcome<Self> {
        let targets = targets::KINDS.map(ToOwned::to_owned).to_vec();
        let mut scope = Self { users: 500, rounds: 5, targets, peer: true };
        for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
            match argument.split_once('=') {
                Some(("users", number)) => scope.users = number.parse()?,
                Some(("rounds", number)) => scope.rounds = number.parse()?,
                Some(("targets", names)) => {
                    scope.targets =
                        names.split(',').filter(|name| !name.is_empty()).map(Into::into).collect();
                }
                Some(("peer", "no")) => scope.peer = false,
                _ => return Err(format!("{argument} says nothing").into()),
            }
        }
        Ok(scope)
    }
}

static SCOPE: OnceLock<Scope> = OnceLock::new();

fn scope() -> &'static Scope {
    SCOPE.get().expect("it is set before anything is measured")
}

/// How many users of each kind are changed in a sweep.
fn users() -> usize {
    scope().users
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sweep: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let parsed = Scope::of_arguments()?;
    let scope = SCOPE.get_or_init(|| parsed);
    let folder = report::folder().join("sweep");
    fs::create_dir_all(&folder)?;
    let mut parts = Vec::new();
    if scope.peer {
        parts.push(beside::measure(&folder).await?);
    }
    for kind in &scope.targets {
        parts.push(targets::measure(kind, &folder).await?);
    }
    let versions = parts.iter().flat_map(|part| part.versions.clone()).collect();
    let mut report = Report::new("sweep", Machine::look(&folder, versions)?);
    report.say(format!(
        "{} users due at once on each server; each figure is taken once a round, in turn",
        users()
    ));
    report.say("rekeyd: embedded store, ledger, no TLS unless a kind says so, 8 rotations at once on a target (the default)");
    for part in parts {
        for (title, figures) in part.sections {
            report.section(title, figures);
        }
    }
    report.publish()?;
    Ok(())
}

/// What one part of the benchmark found.
struct Part {
    /// Of the servers, as each says itself.
    versions: Vec<String>,
    sections: Vec<(&'static str, Vec<Figure>)>,
}
