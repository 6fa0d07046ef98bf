//! What the server's own tool says that the server can do.

use std::fs;
use std::process::{Command, Stdio};

use super::Outcome;
use super::postgres::{Postgres, write_private};

/// Transactions a second of `pgbench` with a script; with `login`, each on a fresh connection.
pub(super) fn pgbench(
    server: &Postgres,
    script: &str,
    clients: u32,
    login: bool,
    seconds: u32,
) -> Outcome<f64> {
    let Postgres { run, host, port, superuser, password, .. } = server;
    let (file, passwords) = (run.join("pgbench.sql"), run.join("pgpass"));
    fs::write(&file, script)?;
    write_private(&passwords, &format!("{host}:{port}:*:{superuser}:{password}\n"))?;
    let mut command = Command::new("pgbench");
    command.env("PGPASSFILE", &passwords).args(["--no-vacuum", "--max-tries", "100"]);
    command.args(["--host", host, "--port", &port.to_string(), "--username", superuser]);
    command.args(["--client", &clients.to_string(), "--jobs", &clients.to_string()]);
    command.args(["--time", &seconds.to_string()]).args(login.then_some("--connect"));
    let output = command.arg("--file").arg(&file).arg("postgres").stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.ok_or_else(|| "pgbench did not say how fast it was".into())
}
