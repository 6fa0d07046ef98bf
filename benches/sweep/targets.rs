//! Each kind of database by itself: how fast rekeyd's daemon rotates all users of a server, and how fast a bare
//! client is that says to it what a rotation says, as many at a time, and does nothing else: the server's own limit.

mod clickhouse;
mod mysql;
mod postgres;
mod rabbitmq;
mod redis;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;
use tokio::task::JoinSet;

use super::fleet::{Fleet, Target};
use super::report::Figure;
use super::{Outcome, Part, machine, scope, users};

/// What can be measured.
pub(super) const KINDS: [&str; 7] =
    ["postgres", "mariadb", "mysql", "redis", "valkey", "rabbitmq", "clickhouse"];

/// How many rotations rekeyd has under way at a target, unless its settings say otherwise.
const AT_ONCE: usize = 8;

/// A private server with users for rekeyd's policies and as many for the bare client.
#[async_trait]
trait Server: Send + Sync {
    fn version(&self) -> String;

    /// What rekeyd's policies rotate.
    fn target(&self) -> Target;

    /// How many rotations give all users of a policy a value.
    fn firsts(&self) -> usize;

    /// What the server has counted since its start, where it counts: connections, and requests.
    async fn counted(&self) -> Outcome<Option<[f64; 2]>> {
        Ok(None)
    }

    /// Somebody who says to the server what a rotation says.
    async fn client(&self) -> Outcome<Box<dyn Client>>;
}

/// A bare client. It keeps what rekeyd keeps between rotations, and no more.
#[async_trait]
trait Client: Send {
    /// Gives a user of the client's another value: what is looked at and changed for that, a login with the new value,
    /// and one that is refused with the old one. Each round turns all users once.
    async fn rotate(&mut self, user: usize, round: usize) -> Outcome<()>;
}

pub(super) async fn measure(kind: &str, folder: &Path) -> Outcome<Part> {
    let folder = folder.join(kind);
    std::fs::create_dir_all(&folder)?;
    let admin = folder.join("admin.password");
    let run = folder.join("run");
    println!("{kind}: giving {} users or pairs a first value", users());
    let (title, server): (&'static str, Box<dyn Server>) = match kind {
        "postgres" => ("PostgreSQL, in place", Box::new(postgres::Bench::start(&run, &admin).await?)),
        "mariadb" => {
            ("MariaDB, in place", Box::new(mysql::Bench::start(&mysql::MARIADB, &run, &admin).await?))
        }
        "mysql" => {
            ("MySQL, in place, over TLS", Box::new(mysql::Bench::start(&mysql::MYSQL, &run, &admin).await?))
        }
        "redis" => ("Redis, two passwords", Box::new(redis::Bench::start("redis", &run, &admin).await?)),
        "valkey" => ("Valkey, two passwords", Box::new(redis::Bench::start("valkey", &run, &admin).await?)),
        "rabbitmq" => ("RabbitMQ, alternating", Box::new(rabbitmq::Bench::start(&run, &admin).await?)),
        "clickhouse" => ("ClickHouse, alternating", Box::new(clickhouse::Bench::start(&run, &admin).await?)),
        _ => return Err(format!("{kind} is none of {KINDS:?}").into()),
    };
    let mut fleet = Fleet::make(&folder.join("site"), &admin, server.target(), server.firsts()).await?;
    // The client's users have values from its first round, which does not count.
    bare(server.as_ref(), 0).await?;
    let (mut others, mut rekeyd, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    let mut counts = Counts::default();
    let all = users() as f64;
    for round in 1..=scope().rounds {
        others.push(machine::others().await?);
        let before = server.counted().await?;
        rekeyd.push(all / fleet.rotate_by_daemon().await?);
        let between = server.counted().await?;
        limit.push(all / bare(server.as_ref(), round).await?);
        counts.add(before, between, server.counted().await?);
        let (by_rekeyd, by_client) = (rekeyd[round - 1], limit[round - 1]);
        println!(
            "{kind}: round {round} of {}: rekeyd {by_rekeyd:.1}, bare {by_client:.1} a second",
            scope().rounds
        );
    }
    let mut figures = vec![
        Figure::new(format!("rekeyd.{kind}"), "rekeyd's daemon, by its schedule: rotations", "/s", &rekeyd),
        Figure::new(format!("bare.{kind}"), "a bare client that says the same: users", "/s", &limit),
        Figure::ratio(format!("ratio.{kind}"), "rekeyd to the bare client", &rekeyd, &limit),
        Figure::new(format!("others.{kind}"), "cores that others used before a round", "%", &others),
    ];
    figures.extend(counts.figures(kind));
    Ok(Part { versions: vec![server.version()], sections: vec![(title, figures)] })
}

/// What a server was asked for one user, by rekeyd and by the bare client: whether they say the same.
#[derive(Default)]
struct Counts {
    rekeyd: [Vec<f64>; 2],
    bare: [Vec<f64>; 2],
}

impl Counts {
    fn add(&mut self, before: Option<[f64; 2]>, between: Option<[f64; 2]>, after: Option<[f64; 2]>) {
        let (Some(before), Some(between), Some(after)) = (before, between, after) else { return };
        for what in [0, 1] {
            self.rekeyd[what].push((between[what] - before[what]) / users() as f64);
            self.bare[what].push((after[what] - between[what]) / users() as f64);
        }
    }

    fn figures(&self, kind: &str) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (who, [connections, requests]) in [("rekeyd", &self.rekeyd), ("bare", &self.bare)] {
            if !connections.is_empty() {
                let what = format!("connections that {who} makes for a user");
                figures.push(Figure::new(format!("{who}.{kind}.connections"), what, "", connections));
                let what = format!("requests that {who} makes for a user");
                figures.push(Figure::new(format!("{who}.{kind}.requests"), what, "", requests));
            }
        }
        figures
    }
}

/// How long it takes until every user of the bare client has another value, in seconds.
async fn bare(server: &dyn Server, round: usize) -> Outcome<f64> {
    let mut clients = Vec::new();
    for number in 0..AT_ONCE {
        let share: Vec<usize> = (0..users()).filter(|user| user % AT_ONCE == number).collect();
        clients.push((server.client().await?, share));
    }
    let began = Instant::now();
    let mut work = JoinSet::new();
    for (mut client, share) in clients {
        work.spawn(async move {
            for user in share {
                client.rotate(user, round).await.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The value that a user of the bare client has after a round.
fn value(round: usize) -> &'static str {
    ["a-value-of-a-bare-client-that-is-as-long", "another-value-of-a-bare-client-as-long-a"][round % 2]
}

/// A server that a launcher started; it ends when this is dropped.
struct Launched {
    name: &'static str,
    run: std::path::PathBuf,
    /// What the launcher says of it.
    described: Value,
}

impl Launched {
    fn start(name: &'static str, run: &Path, options: &[&str]) -> Outcome<Self> {
        if run.join(name).exists() {
            // Of a benchmark that was killed.
            script(name, "stop", run, &[])?;
        }
        script(name, "start", run, options)?;
        let described = serde_json::from_slice(&std::fs::read(run.join(format!("{name}.json")))?)?;
        Ok(Self { name, run: run.to_owned(), described })
    }

    fn port(&self, of: &Value) -> Outcome<u16> {
        let port = of["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| format!("{} has no port", self.name).into())
    }

    /// The superuser's.
    fn password(&self) -> Outcome<String> {
        let file = self.described["passwordFile"].as_str().ok_or("no password")?;
        Ok(std::fs::read_to_string(file)?.trim().to_owned())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Err(error) = script(self.name, "stop", &self.run, &[]) {
            eprintln!("{error}");
        }
    }
}

fn script(name: &str, verb: &str, run: &Path, options: &[&str]) -> Outcome<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev").join(name);
    let status = Command::new(program).arg(verb).arg(run).args(options).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("deploy/dev/{name} {verb}: {status}").into()) }
}
