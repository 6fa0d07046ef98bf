//! Reading: a few connections beside the writer's, on blocking threads.
//!
//! Each read is a transaction of its own and begins after its call, so it sees every write that was
//! acknowledged before, by whichever process.

use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::database::Database;
use super::fault::Fault;
use super::seal::{Kind, Sealer};
use crate::failure::FailureClass;

/// Reads at the same time. More would not be faster: they share a disk.
const CONNECTIONS: usize = 4;

/// Reads an open store.
pub(super) struct Reader {
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
    database: Arc<Database>,
    sealer: Arc<Sealer>,
}

impl Reader {
    pub(super) fn new(database: Arc<Database>, sealer: Arc<Sealer>) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), turns: Semaphore::new(CONNECTIONS), database, sealer })
    }

    /// An entry's value and revision.
    pub(super) async fn entry(
        self: &Arc<Self>,
        kind: Kind,
        name: String,
    ) -> Result<Option<(Zeroizing<Vec<u8>>, i64)>, Fault> {
        let reader = Arc::clone(self);
        self.query(move |connection| {
            let found: Option<(i64, Vec<u8>)> = connection
                .query_row(
                    "SELECT revision, sealed FROM entry WHERE kind = ?1 AND name = ?2",
                    (kind.as_str(), &name),
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
                .map_err(|error| Fault::from_sqlite(&error))?;
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
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let reader = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            reader.database.check_in_place()?;
            let idle = reader.idle.lock().expect("nothing panics while it holds the list").pop();
            let connection = match idle {
                Some(connection) => connection,
                None => reader.database.reader()?,
            };
            let result = work(&connection);
            // After an error the connection is not trusted again.
            if result.is_ok() {
                reader.idle.lock().expect("nothing panics while it holds the list").push(connection);
            }
            result
        });
        match task.await {
            Ok(result) => result,
            Err(_) => Err(Fault::new(FailureClass::Unavailable, "rekeyd is stopping")),
        }
    }
}
