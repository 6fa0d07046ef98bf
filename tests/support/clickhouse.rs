//! A server that speaks ClickHouse's HTTP interface and keeps users as ClickHouse does: several ways to log in,
//! salted hashes, profiles by id, rights, replaced users. It knows the statements that rekeyd sends and answers
//! anything else with a syntax error. Errors have the numbers of the real one, and a test can have it misbehave.
//!
//! <https://clickhouse.com/docs/sql-reference/statements/alter/user>,
//! <https://clickhouse.com/docs/interfaces/http>, and the source of ClickHouse 26.9 for what these leave open.

#[path = "clickhouse/http.rs"]
mod http;
#[path = "clickhouse/statements.rs"]
mod statements;
#[path = "clickhouse/words.rs"]
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

pub(crate) use self::http::Client;
use self::statements::{Reply, answer};

/// A running server.
pub(crate) struct Clickhouse {
    pub(crate) state: Arc<State>,
    pub(crate) port: u16,
    task: tokio::task::JoinHandle<()>,
}

/// What it keeps.
pub(crate) struct State {
    tables: Mutex<Tables>,
    changed: tokio::sync::Notify,
}

pub(crate) struct Tables {
    pub(crate) version: String,
    /// Kinds of storages that it keeps users in.
    pub(crate) directories: Vec<String>,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) profiles: BTreeMap<String, u64>,
    pub(crate) roles: BTreeSet<String>,
    /// `row policy p ON shop.t`, and the ids of the users that it names.
    pub(crate) policies: BTreeMap<String, BTreeSet<u64>>,
    pub(crate) queries: BTreeMap<u64, Query>,
    faults: VecDeque<(String, Fault)>,
    /// What becomes of the change after so many others.
    nth: Option<(usize, Fault)>,
    /// Every statement of the admin that was carried out, without those that only read.
    pub(crate) changes: Vec<String>,
    /// Every statement that came, and what came with it.
    pub(crate) seen: Vec<String>,
    last_id: u64,
    /// What it was asked and did not know.
    strange: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) id: u64,
    pub(crate) storage: String,
    pub(crate) ways: Vec<Way>,
    pub(crate) host: Option<String>,
    pub(crate) default_database: Option<String>,
    pub(crate) default_role: Option<String>,
    pub(crate) grantees: Option<String>,
    pub(crate) settings: Vec<String>,
    /// By their ids: one that is dropped is had by nobody.
    pub(crate) profiles: Vec<u64>,
    pub(crate) grants: Vec<String>,
    /// What it may do to others, for an admin.
    pub(crate) rights: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) kind: String,
    pub(crate) hash: String,
    pub(crate) salt: String,
    pub(crate) until: Option<String>,
}

pub(crate) struct Query {
    pub(crate) user: String,
    pub(crate) agent: String,
    since: Instant,
}

/// What becomes of the next statement that holds a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is cut before it is carried out.
    LoseRequest,
    /// It is carried out, and the connection is cut.
    LoseReply,
    /// It is carried out when the test says so.
    Hold,
    /// Nothing is answered, and nothing done.
    Silence,
    /// This error, and nothing done.
    Error(u32),
    /// A page of a proxy with this status, and nothing done.
    Page(u16),
    /// More than anybody wants to read.
    Huge,
}

/// Who may do anything, and speaks without logging in.
const ROOT: &str = "root";

/// What an admin has, `SELECT` on `system.*` and the others on `*.*`.
pub(crate) const RIGHTS: [&str; 8] = [
    "CREATE USER",
    "ALTER USER",
    "DROP USER",
    "CREATE SETTINGS PROFILE",
    "DROP SETTINGS PROFILE",
    "SHOW ACCESS",
    "KILL QUERY",
    "SELECT",
];

impl Clickhouse {
    /// One with an admin, whose password this is.
    pub(crate) async fn start(admin: &str, password: &str) -> Self {
        let mut tables = Tables {
            version: "26.9.2.1".to_owned(),
            directories: vec!["users_xml".to_owned(), "local_directory".to_owned()],
            users: BTreeMap::new(),
            profiles: BTreeMap::new(),
            roles: BTreeSet::new(),
            policies: BTreeMap::new(),
            queries: BTreeMap::new(),
            faults: VecDeque::new(),
            nth: None,
            changes: Vec::new(),
            seen: Vec::new(),
            last_id: 0,
            strange: Vec::new(),
        };
        let mut user = User::new(tables.id(), vec![Way::of(password)]);
        user.rights = RIGHTS.iter().map(ToString::to_string).collect();
        tables.users.insert(admin.to_owned(), user);
        let state = Arc::new(State { tables: Mutex::new(tables), changed: tokio::sync::Notify::new() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let _ = http::serve(&state, stream).await;
                });
            }
        });
        Self { state, port, task }
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.state.tables()
    }

    /// What comes of a statement of somebody who may do anything: the first column.
    pub(crate) fn say(&self, statement: &str) -> Vec<String> {
        let reply = answer(&mut self.tables(), ROOT, statement);
        self.state.changed.notify_waiters();
        match reply {
            Reply::Rows(rows) => {
                rows.iter().map(|row| row[0].as_str().map_or(row[0].to_string(), str::to_owned)).collect()
            }
            Reply::Done => Vec::new(),
            Reply::Error(code) => panic!("{statement}: error {code}"),
        }
    }

    /// Somebody makes a user by hand that no value lets in.
    pub(crate) fn make(&self, name: &str) {
        let mut tables = self.tables();
        let way = Way { until: Some("2000-01-01 00:00:00".into()), ..Way::of("nobody knows") };
        let user = User::new(tables.id(), vec![way]);
        tables.users.insert(name.to_owned(), user);
    }

    pub(crate) fn user(&self, name: &str) -> User {
        self.tables().users[name].clone()
    }

    /// Names of the profiles that a user has.
    pub(crate) fn profiles_of(&self, name: &str) -> Vec<String> {
        let tables = self.tables();
        tables.profiles_of(&tables.users[name])
    }

    /// The next statement that holds a text goes wrong.
    pub(crate) fn fault(&self, text: &str, fault: Fault) {
        self.tables().faults.push_back((text.to_owned(), fault));
    }

    /// The change after so many others goes wrong.
    pub(crate) fn fault_at(&self, changes: usize, fault: Fault) {
        self.tables().nth = Some((changes, fault));
    }

    /// Whether a fault has not come yet; it does not come any more.
    pub(crate) fn is_spared(&self) -> bool {
        let mut tables = self.tables();
        let left = !tables.faults.is_empty() || tables.nth.is_some();
        (tables.faults, tables.nth) = (VecDeque::new(), None);
        left
    }

    /// Waits until a statement is held.
    pub(crate) async fn held(&self) {
        self.state.until(|tables| tables.faults.iter().any(|(text, _)| text == HELD)).await;
    }

    /// Carries out what is held.
    pub(crate) fn release(&self) {
        self.tables().faults.retain(|(text, _)| text != HELD);
        self.state.changed.notify_waiters();
    }
}

/// The text of a fault that stands for a statement which waits.
const HELD: &str = "\0held";

impl Drop for Clickhouse {
    fn drop(&mut self) {
        self.task.abort();
        let strange = std::mem::take(&mut self.tables().strange);
        assert!(strange.is_empty() || std::thread::panicking(), "unknown statements: {strange:#?}");
    }
}

impl State {
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no panic")
    }

    async fn until(&self, met: impl Fn(&Tables) -> bool) {
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if met(&self.tables()) {
                return;
            }
            notified.await;
        }
    }
}

impl Tables {
    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn profiles_of(&self, user: &User) -> Vec<String> {
        let name =
            |id: &u64| self.profiles.iter().find(|(_, other)| *other == id).map(|(name, _)| name.clone());
        user.profiles.iter().filter_map(name).collect()
    }

    /// Whether name and value are a user's.
    fn lets_in(&self, user: &str, password: &[u8]) -> bool {
        self.users.get(user).is_some_and(|user| user.ways.iter().any(|way| way.takes(password)))
    }
}

impl User {
    fn new(id: u64, ways: Vec<Way>) -> Self {
        Self {
            id,
            storage: "local_directory".to_owned(),
            ways,
            host: None,
            default_database: None,
            default_role: None,
            grantees: None,
            settings: Vec::new(),
            profiles: Vec::new(),
            grants: Vec::new(),
            rights: BTreeSet::new(),
        }
    }
}

impl Way {
    pub(crate) fn of(password: &str) -> Self {
        let salt = "5A17".to_owned();
        let hash = hash(password.as_bytes(), &salt);
        Self { kind: "sha256_password".to_owned(), hash, salt, until: None }
    }

    fn takes(&self, password: &[u8]) -> bool {
        let is_over = self.until.as_deref().is_some_and(|until| until < NOW);
        match &*self.kind {
            "no_password" => true,
            "sha256_password" => !is_over && self.hash == hash(password, &self.salt),
            _ => false,
        }
    }
}

/// The server's time, for what is over.
const NOW: &str = "2026-11-30 12:00:00";

fn hash(password: &[u8], salt: &str) -> String {
    let digest = Sha256::new().chain_update(password).chain_update(salt).finalize();
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Another address of a server.
pub(crate) struct Relay {
    pub(crate) port: u16,
    relayed: Arc<std::sync::atomic::AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let relayed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&relayed);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut server =
                        tokio::net::TcpStream::connect(("127.0.0.1", server)).await.expect("the server");
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { port, relayed, task }
    }

    /// How many connections came this way.
    pub(crate) fn relayed(&self) -> usize {
        self.relayed.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
