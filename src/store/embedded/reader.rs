//! Reading: a few connections beside the writer's, on blocking threads. Whoever is at work on one takes the
//! next read that waits, so that thousands of reads wake few threads.
//!
//! Each read is a transaction of its own and begins after its call, so it sees every write that was
//! acknowledged before, by whichever process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::database::Database;
use super::fault::Fault;
use super::seal::{Kind, Sealer};
use crate::failure::FailureClass;

/// Reads at the same time. More would not be faster: they share a disk.
const CONNECTIONS: usize = 4;

/// Reads an open store.
pub(super) struct Reader {
    queue: Mutex<Queue>,
    database: Arc<Database>,
    sealer: Arc<Sealer>,
}

/// A read that waits for a connection; says whether the connection is sound after it.
type Read = Box<dyn FnOnce(Result<&Connection, Fault>) -> bool + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Read>,
    /// Who reads now, and looks at the queue again before ending.
    at_work: usize,
    idle: Vec<Connection>,
}

impl Reader {
    pub(super) fn new(database: Arc<Database>, sealer: Arc<Sealer>) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), database, sealer })
    }

    /// An entry's value and revision.
    pub(super) async fn entry(
        self: &Arc<Self>,
        kind: Kind,
        name: String,
    ) -> Result<Option<(Zeroizing<Vec<u8>>, i64)>, Fault> {
        let reader = Arc::clone(self);
        self.query(move |connection| {
            let find = || -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
                connection
                    .prepare_cached("SELECT revision, sealed FROM entry WHERE kind = ?1 AND name = ?2")?
                    .query_row((kind.as_str(), &name), |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            };
            let found = find().map_err(|error| Fault::from_sqlite(&error))?;
            let Some((revision, sealed)) = found else { return Ok(None) };
            let plain = reader.sealer.unseal(kind, &name, revision, &sealed).ok_or_else(|| {
                Fault::new(FailureClass::Invalid, "the entry was altered or put there from elsewhere")
                    .with_remedy("find out who wrote to the database, and restore the last backup")
            })?;
            Ok(Some((plain, revision)))
        })
        .await
    }

    /// The names of all entries of a kind.
    pub(super) async fn names(self: &Arc<Self>, kind: Kind) -> Result<Vec<String>, Fault> {
        self.query(move |connection| {
            let list = || -> rusqlite::Result<_> {
                let mut statement = connection.prepare("SELECT name FROM entry WHERE kind = ?1")?;
                statement.query_map((kind.as_str(),), |row| row.get(0))?.collect()
            };
            list().map_err(|error| Fault::from_sqlite(&error))
        })
        .await
    }

    /// Looks whether the database is whole: what is wrong first, if anything.
    pub(super) async fn damage(self: &Arc<Self>) -> Result<Option<String>, Fault> {
        self.query(|connection| {
            let verdict: String = connection
                .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
                .map_err(|error| Fault::from_sqlite(&error))?;
            Ok((verdict != "ok").then_some(verdict))
        })
        .await
    }

    async fn query<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (sender, answer) = oneshot::channel();
        let read = Box::new(move |connection: Result<&Connection, Fault>| {
            let result = connection.and_then(work);
            let sound = result.is_ok();
            // A caller that is gone stopped waiting.
            let _ = sender.send(result);
            sound
        });
        self.submit(read);
        answer.await.unwrap_or_else(|_| Err(Fault::new(FailureClass::Unavailable, "rekeyd is stopping")))
    }

    /// Hands a read to those who are at work, or has one more begin if they are few.
    fn submit(self: &Arc<Self>, read: Read) {
        let mut queue = self.queue();
        queue.waiting.push_back(read);
        if queue.at_work < CONNECTIONS {
            queue.at_work += 1;
            drop(queue);
            let turn = Turn { reader: Arc::clone(self), ended: false };
            tokio::task::spawn_blocking(move || turn.drain());
        }
    }

    fn connection(&self, idle: Option<Connection>) -> Result<Connection, Fault> {
        self.database.check_in_place()?;
        idle.map_or_else(|| self.database.reader(), Ok)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }
}

/// One who reads until nothing waits.
struct Turn {
    reader: Arc<Reader>,
    ended: bool,
}

impl Turn {
    fn drain(mut self) {
        let reader = Arc::clone(&self.reader);
        let mut idle = reader.queue().idle.pop();
        loop {
            let read = {
                let mut queue = reader.queue();
                let Some(read) = queue.waiting.pop_front() else {
                    queue.idle.extend(idle);
                    queue.at_work -= 1;
                    self.ended = true;
                    return;
                };
                read
            };
            // After an error the connection is not trusted again.
            idle = match reader.connection(idle) {
                Ok(connection) => read(Ok(&connection)).then_some(connection),
                Err(fault) => {
                    read(Err(fault));
                    None
                }
            };
        }
    }
}

impl Drop for Turn {
    /// A turn that never came, because its runtime is stopping, must not leave callers waiting for it.
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.reader.queue();
            queue.at_work -= 1;
            if queue.at_work == 0 {
                queue.waiting.clear();
            }
        }
    }
}
