//! Group commit: whatever writes are waiting become durable together, with one sync of the disk.
//!
//! A write joins a queue. If no commit is under way it starts one; otherwise the commit that is under way
//! takes it along next. So a lone write commits at once, and hundreds of them share a sync. One writer is
//! at work at a time, on a blocking thread.
//!
//! Dying before the commit loses every write of the batch; dying after it loses none. No caller was told
//! of either.

use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::database::Database;
use super::fault::Fault;
use super::seal::{Kind, Sealer};
use crate::failure::FailureClass;

/// Writes in one transaction. It bounds how long the first of them waits for the last.
const LARGEST_BATCH: usize = 512;

/// An entry to write if it is still at `expected`.
pub(super) struct Write {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) expected: Option<i64>,
    pub(super) plain: Zeroizing<Vec<u8>>,
}

/// The one writer of an open store.
pub(super) struct Writer {
    queue: Mutex<Queue>,
    connection: Mutex<Connection>,
    database: Arc<Database>,
    sealer: Arc<Sealer>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Write, oneshot::Sender<Result<i64, Fault>>)>,
    /// Whether somebody is committing, who looks at the queue again before ending.
    committing: bool,
}

impl Writer {
    pub(super) fn new(connection: Connection, database: Arc<Database>, sealer: Arc<Sealer>) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), connection: Mutex::new(connection), database, sealer })
    }

    /// Queues a write. The answer is its new revision; it is never sent when the process ends first.
    pub(super) fn submit(self: &Arc<Self>, write: Write) -> oneshot::Receiver<Result<i64, Fault>> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push((write, sender));
        if !std::mem::replace(&mut queue.committing, true) {
            drop(queue);
            let turn = Turn { writer: Arc::clone(self), ended: false };
            tokio::task::spawn_blocking(move || turn.drain());
        }
        receiver
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }
}

/// The one who commits.
struct Turn {
    writer: Arc<Writer>,
    ended: bool,
}

impl Turn {
    fn drain(mut self) {
        let writer = Arc::clone(&self.writer);
        let mut connection = writer.connection.lock().expect("no writer panics");
        loop {
            let (writes, senders): (Vec<_>, Vec<_>) = {
                let mut queue = writer.queue();
                if queue.waiting.is_empty() {
                    queue.committing = false;
                    self.ended = true;
                    return;
                }
                let size = queue.waiting.len().min(LARGEST_BATCH);
                queue.waiting.drain(..size).unzip()
            };
            let outcome = writer
                .database
                .check_in_place()
                .and_then(|()| commit(&mut connection, &writer.sealer, &writes));
            // A receiver may be gone: its caller gave up waiting and will read again.
            match outcome {
                Ok(answers) => senders.into_iter().zip(answers).for_each(|(sender, answer)| {
                    let _ = sender.send(answer);
                }),
                Err(fault) => senders.into_iter().for_each(|sender| {
                    let _ = sender.send(Err(fault.clone()));
                }),
            }
        }
    }
}

impl Drop for Turn {
    /// A turn that never came, because its runtime is stopping, must not leave its callers waiting nor
    /// keep the next one away.
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.writer.queue();
            queue.committing = false;
            queue.waiting.clear();
        }
    }
}

/// Writes all entries that are where they are expected and answers for each. An error means that none
/// was written, unless its class is ambiguous.
fn commit(
    connection: &mut Connection,
    sealer: &Sealer,
    writes: &[Write],
) -> Result<Vec<Result<i64, Fault>>, Fault> {
    let sqlite = |error| Fault::from_sqlite(&error);
    // Immediate: the check and the write see one state, also when another process writes.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
    let answers = {
        let mut insert = transaction
            .prepare_cached(
                "INSERT INTO entry (kind, name, revision, sealed) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT DO NOTHING",
            )
            .map_err(sqlite)?;
        let mut update = transaction
            .prepare_cached(
                "UPDATE entry SET revision = ?3, sealed = ?4 \
                 WHERE kind = ?1 AND name = ?2 AND revision = ?5",
            )
            .map_err(sqlite)?;
        let mut last: i64 =
            transaction.query_row("SELECT last_revision FROM store", (), |row| row.get(0)).map_err(sqlite)?;
        let mut answers = Vec::with_capacity(writes.len());
        for Write { kind, name, expected, plain } in writes {
            let revision = last + 1;
            let sealed = sealer.seal(*kind, name, revision, plain);
            let changed = match expected {
                None => insert.execute((kind.as_str(), name, revision, sealed)),
                Some(expected) => update.execute((kind.as_str(), name, revision, sealed, expected)),
            }
            .map_err(sqlite)?;
            answers.push(match changed {
                1 => {
                    last = revision;
                    Ok(revision)
                }
                _ => Err(conflict(&transaction, *kind, name).map_err(sqlite)?),
            });
        }
        transaction.execute("UPDATE store SET last_revision = ?1", (last,)).map_err(sqlite)?;
        answers
    };
    between!("embedded.commit.written");
    transaction.commit().map_err(|error| Fault::from_commit(&error))?;
    between!("embedded.commit.durable");
    Ok(answers)
}

fn conflict(connection: &Connection, kind: Kind, name: &str) -> rusqlite::Result<Fault> {
    let found: Option<i64> = connection
        .query_row("SELECT revision FROM entry WHERE kind = ?1 AND name = ?2", (kind.as_str(), name), |row| {
            row.get(0)
        })
        .optional()?;
    let reason = match found {
        Some(revision) => format!("somebody else wrote it: it is at revision {revision}"),
        None => "it is not there any more".to_owned(),
    };
    Ok(Fault::new(FailureClass::Conflict, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KeySource;
    use crate::store::embedded::key::Key;

    fn open() -> (tempfile::TempDir, Connection, Sealer) {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        Key::generate_file(&key).expect("a key file");
        let sealer = Sealer::new(&Key::load(&KeySource::File(key)).expect("a key"));
        let (_, connection) = Database::open(&folder.path().join("store.db"), &sealer).expect("a store");
        (folder, connection, sealer)
    }

    fn write(name: &str, expected: Option<i64>, size: usize) -> Write {
        Write { kind: Kind::Control, name: name.into(), expected, plain: Zeroizing::new(vec![7; size]) }
    }

    #[test]
    fn one_conflict_in_a_batch_fails_nobody_else() {
        let (_folder, mut connection, sealer) = open();
        let batch = [write("a", None, 1), write("a", None, 1), write("b", Some(9), 1), write("c", None, 1)];
        let answers = commit(&mut connection, &sealer, &batch).expect("a commit");
        let classes: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|fault| fault.class)).collect();
        let conflict = Err(FailureClass::Conflict);
        assert_eq!(classes, [Ok(1), conflict, conflict, Ok(2)]);
    }

    #[test]
    fn a_later_write_of_a_batch_sees_the_earlier_one() {
        let (_folder, mut connection, sealer) = open();
        let batch = [write("a", None, 1), write("a", Some(1), 1)];
        let answers = commit(&mut connection, &sealer, &batch).expect("a commit");
        assert!(matches!(answers.as_slice(), [Ok(1), Ok(2)]));
    }

    #[tokio::test]
    async fn what_waits_is_committed_at_once() {
        let (folder, connection, sealer) = open();
        let path = folder.path().join("store.db");
        let (database, _) = Database::open(&path, &sealer).expect("a store");
        let writer = Writer::new(connection, Arc::new(database), Arc::new(sealer));
        let before = commits(&path);
        let answers: Vec<_> = {
            let _busy = writer.connection.lock().expect("a lock");
            (0..500).map(|index| writer.submit(write(&format!("p{index}"), None, 100))).collect()
        };
        for answer in answers {
            answer.await.expect("an answer").expect("a revision");
        }
        // The first may have been taken before the second came.
        let done = commits(&path) - before;
        assert!((1..=2).contains(&done), "{done} commits");
    }

    /// Counts the commits in the write-ahead log: a frame that ends one says how many pages there are
    /// then (https://sqlite.org/fileformat2.html#walformat).
    fn commits(database: &std::path::Path) -> usize {
        let log = std::fs::read(database.with_extension("db-wal")).unwrap_or_default();
        let frames = log.get(32..).unwrap_or_default().chunks_exact(24 + 4096);
        frames.filter(|frame| frame[4..8] != [0; 4]).count()
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting() {
        let (folder, connection, sealer) = open();
        let (database, _) = Database::open(&folder.path().join("store.db"), &sealer).expect("a store");
        let writer = Writer::new(connection, Arc::new(database), Arc::new(sealer));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        writer.queue().committing = true;
        let lost = {
            let _inside = runtime.enter();
            writer.submit(write("a", None, 1))
        };
        drop(Turn { writer: Arc::clone(&writer), ended: false });
        assert!(runtime.block_on(lost).is_err(), "an answer came from nowhere");
        let next = runtime.block_on(async { writer.submit(write("a", None, 1)).await });
        assert!(matches!(next, Ok(Ok(1))), "the next write was kept away");
    }

    #[test]
    fn a_database_that_cannot_be_written_says_so() {
        let (_folder, mut connection, sealer) = open();
        connection.pragma_update(None, "query_only", true).expect("no more writing");
        let fault = commit(&mut connection, &sealer, &[write("a", None, 1)]).expect_err("it is read-only");
        assert_eq!(fault.class, FailureClass::Denied);
    }

    #[test]
    fn a_full_disk_changes_nothing_and_passes() {
        let (_folder, mut connection, sealer) = open();
        commit(&mut connection, &sealer, &[write("a", None, 1)]).expect("a commit");
        let limit = |pages: i64| {
            connection
                .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
                .expect("a limit")
        };
        let pages = limit(1);
        let fault = commit(&mut connection, &sealer, &[write("a", Some(1), 1), write("b", None, 100_000)])
            .expect_err("there is no room");
        assert_eq!((fault.class, fault.reason.as_ref()), (FailureClass::Unavailable, "the disk is full"));
        connection
            .pragma_update_and_check(None, "max_page_count", pages + 100, |row| row.get::<_, i64>(0))
            .expect("a limit");
        let answers = commit(&mut connection, &sealer, &[write("a", Some(1), 1), write("b", None, 100_000)])
            .expect("there is room again");
        assert!(matches!(answers.as_slice(), [Ok(2), Ok(3)]), "the failed batch left something");
    }

    #[test]
    fn a_revision_is_not_used_again_after_its_entry_is_gone() {
        let (_folder, mut connection, sealer) = open();
        commit(&mut connection, &sealer, &[write("a", None, 1)]).expect("a commit");
        connection.execute("DELETE FROM entry", ()).expect("a deletion");
        let answers = commit(&mut connection, &sealer, &[write("a", Some(1), 1), write("a", None, 1)]);
        assert!(matches!(answers.expect("a commit").as_slice(), [Err(_), Ok(2)]));
    }
}
