//! The application: a few workers that query all the time with the credential from its file, and take a
//! new one when told to, without dropping a query.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_postgres::{Client, Config, NoTls};

use super::Outcome;

const WORKERS: usize = 4;

/// What the application is told when it starts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    /// The file that rekeyd writes.
    pub(super) credential: String,
    /// Where `pid`, `generation` and `count` are kept.
    pub(super) folder: String,
}

/// What the application did.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Count {
    pub(super) queries: u64,
    pub(super) failed_queries: u64,
    pub(super) reloads: u64,
}

/// A credential as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    pub(super) fn read(file: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(file)?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(ToOwned::to_owned)
        };
        match (field("PGUSER"), field("PGPASSWORD")) {
            (Some(user), Some(password)) => Ok(Self { user, password }),
            _ => Err(format!("{} is not as expected", file.display()).into()),
        }
    }

    /// Logs in; the session ends when the client is dropped.
    pub(super) async fn open(
        &self,
        host: &str,
        port: u16,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.host(host).port(port).dbname(database).user(&self.user).password(&self.password);
        config.application_name("orders").connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Runs until SIGTERM, then leaves its count behind.
pub(super) async fn run(settings: &Path) -> Outcome<()> {
    let settings: Settings = serde_json::from_slice(&fs::read(settings)?)?;
    let settings = Arc::new(settings);
    let folder = Path::new(&settings.folder);
    let (mut hup, mut term) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let shared = Arc::new(Shared::default());
    let (generation, generations) = watch::channel(1_u64);
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(tokio::spawn(work(Arc::clone(&settings), Arc::clone(&shared), generations.clone())));
    }
    fs::write(folder.join("pid"), std::process::id().to_string())?;
    acknowledge(folder, 1, &shared).await?;
    loop {
        tokio::select! {
            _ = hup.recv() => {
                let next = *generation.borrow() + 1;
                generation.send_replace(next);
                acknowledge(folder, next, &shared).await?;
            }
            _ = term.recv() => break,
        }
    }
    shared.stop.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await??;
    }
    let count = Count {
        queries: shared.queries.load(Ordering::SeqCst),
        failed_queries: shared.failed.load(Ordering::SeqCst),
        reloads: *generation.borrow() - 1,
    };
    fs::write(folder.join("count"), serde_json::to_vec(&count)?)?;
    Ok(())
}

/// The reload command: tells the application and returns when every worker has moved. An application that
/// does not run yet will read the file when it starts.
pub(super) async fn reload(folder: &Path) -> Outcome<()> {
    if !folder.join("pid").exists() {
        return Ok(());
    }
    let before = fs::read(folder.join("generation"))?;
    let pid: i32 = fs::read_to_string(folder.join("pid"))?.parse()?;
    let pid = rustix::process::Pid::from_raw(pid).ok_or("no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
    let mut look = tokio::time::interval(Duration::from_millis(2));
    loop {
        look.tick().await;
        if fs::read(folder.join("generation"))? != before {
            return Ok(());
        }
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    queries: AtomicU64,
    failed: AtomicU64,
    /// Workers that have moved to each generation, summed up.
    moved: watch::Sender<u64>,
}

/// Waits until every worker has moved, then says so in a file.
async fn acknowledge(folder: &Path, generation: u64, shared: &Shared) -> Outcome<()> {
    let all = generation * WORKERS as u64;
    shared.moved.subscribe().wait_for(|moved| *moved >= all).await?;
    let draft = folder.join("generation.draft");
    fs::write(&draft, generation.to_string())?;
    fs::rename(draft, folder.join("generation"))?;
    Ok(())
}

async fn work(
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    mut generations: watch::Receiver<u64>,
) -> Outcome<()> {
    let open = async || -> Outcome<Client> {
        let login = Login::read(Path::new(&settings.credential))?;
        Ok(login.open(&settings.host, settings.port, &settings.database).await?)
    };
    let mut client = open().await?;
    shared.moved.send_modify(|moved| *moved += 1);
    generations.mark_unchanged();
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !shared.stop.load(Ordering::SeqCst) {
        if generations.has_changed()? {
            generations.mark_unchanged();
            client = open().await?;
            shared.moved.send_modify(|moved| *moved += 1);
        }
        pace.tick().await;
        shared.queries.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = client.query_one("select count(*) from orders", &[]).await {
            shared.failed.fetch_add(1, Ordering::SeqCst);
            eprintln!("orders: a query failed: {:?}", error.code());
            client = open().await?;
        }
    }
    Ok(())
}
