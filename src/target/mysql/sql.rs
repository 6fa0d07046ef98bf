//! SQL text: quoting, and batches of statements that run in one round trip.
//!
//! Statements about accounts take no parameters, so names and texts are quoted here. Sessions run with
//! `NO_BACKSLASH_ESCAPES` (see [`settings`]), so that a doubled quote is all that there is to it.

use std::io;
use std::time::Duration;

use super::connect::Session;
use super::wire::{Answer, row};

/// A row's values; `None` is `NULL`.
pub(super) type Row = Vec<Option<String>>;

/// The rows that each statement of a batch returned.
pub(super) type Replies = Vec<Vec<Row>>;

/// A batch that did not run to its end.
#[derive(Debug)]
pub(super) struct BatchError {
    /// How many of its statements completed before.
    pub(super) completed: usize,
    pub(super) cause: Cause,
}

/// What ended a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server's error number.
    Server(u16),
    /// The connection was lost.
    Lost,
    /// What came made no sense, or had no end.
    Unreadable,
    Deadline,
}

/// Runs the statements in one round trip. After an error the session must not be used again.
pub(super) async fn run(
    session: &mut Session,
    statements: impl IntoIterator<Item = impl AsRef<str>>,
    deadline: Duration,
) -> Result<Replies, BatchError> {
    let mut text = zeroize::Zeroizing::new(String::new());
    for statement in statements {
        if !text.is_empty() {
            text.push_str(";\n");
        }
        text.push_str(statement.as_ref());
    }
    let mut replies = Replies::new();
    let outcome = tokio::time::timeout(deadline, collect(session, &text, &mut replies)).await;
    let completed = replies.len();
    match outcome {
        Ok(Ok(None)) => Ok(replies),
        Ok(Ok(Some(code))) => Err(BatchError { completed, cause: Cause::Server(code) }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Err(BatchError { completed, cause: Cause::Unreadable })
        }
        Ok(Err(_)) => Err(BatchError { completed, cause: Cause::Lost }),
        Err(_) => Err(BatchError { completed, cause: Cause::Deadline }),
    }
}

/// The number of the error that ended the batch, if one did.
async fn collect(session: &mut Session, text: &str, replies: &mut Replies) -> io::Result<Option<u16>> {
    const COM_QUERY: u8 = 3;
    let wire = session.wire();
    wire.command(COM_QUERY, text.as_bytes()).await?;
    let mut room = Room::default();
    loop {
        let packet = wire.read().await?;
        room.take(&packet, 0)?;
        let more = match Answer::first(&packet) {
            Answer::Done { more } => {
                replies.push(Vec::new());
                more
            }
            Answer::Error(code) => return Ok(Some(code)),
            Answer::Unknown => return Err(io::ErrorKind::InvalidData.into()),
            Answer::Rows { columns } => {
                // What the columns are called and hold is known; they end with a packet of their own.
                for _ in 0..=columns {
                    room.take(&wire.read().await?, 0)?;
                }
                let mut rows = Vec::new();
                let more = loop {
                    let packet = wire.read().await?;
                    room.take(&packet, columns)?;
                    match Answer::end_of_rows(&packet) {
                        Some(Answer::Done { more }) => break more,
                        Some(Answer::Error(code)) => return Ok(Some(code)),
                        Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                        None => rows.push(row(&packet, columns)?),
                    }
                };
                replies.push(rows);
                more
            }
        };
        if !more {
            return Ok(None);
        }
    }
}

/// No answer that is asked for takes nearly as much memory, in bytes.
const LONGEST_ANSWER: usize = 32 << 20;

/// How much of an answer came. All of it is kept, and what a row takes of memory may be many times what it is on the wire.
#[derive(Default)]
struct Room(usize);

impl Room {
    fn take(&mut self, packet: &[u8], columns: usize) -> io::Result<()> {
        self.0 += packet.len() + size_of::<Row>() + columns * size_of::<Option<String>>();
        if self.0 > LONGEST_ANSWER { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }
}

/// What a session of rekeyd's own runs under: texts quoted in one way, and limits that the server keeps by
/// itself, below the client's own deadline. One that is cut off or held up while it holds an account's lock
/// is ended by the server when it is silent for as long as a statement may take.
pub(super) fn settings(statement: Duration) -> String {
    let seconds = |share: f64| (statement.as_secs_f64() * share).ceil().max(1.0) as u64;
    let (lock, silence) = (seconds(0.6), seconds(1.0) + 1);
    format!(
        "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES', time_zone = '+00:00', \
         lock_wait_timeout = {lock}, innodb_lock_wait_timeout = {lock}, wait_timeout = {silence}"
    )
}

/// A text, in a session under [`settings`].
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as `SHOW GRANTS` writes it.
pub(super) fn ident(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// An account as statements name it.
pub(super) fn account(user: &str, host: &str) -> String {
    format!("{}@{}", literal(user), literal(host))
}

/// The name of the lock on an account: a prefix of rekeyd's own, and a hash of the account. MySQL takes names
/// of up to 64 characters.
pub(super) fn lock_name(user: &str, host: &str) -> String {
    use std::fmt::Write as _;

    use sha2::{Digest as _, Sha256};
    let digest = Sha256::new().chain_update(user).chain_update([0]).chain_update(host).finalize();
    digest[..16].iter().fold("rekeyd:".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(literal(r"a'; DROP USER b; --\"), r"'a''; DROP USER b; --\'");
        assert_eq!(ident("a`; DROP USER b; --"), "`a``; DROP USER b; --`");
    }

    #[test]
    fn an_account_always_has_the_same_lock_and_another_one_another() {
        let name = lock_name("orders_a", "%");
        assert_eq!(name, lock_name("orders_a", "%"));
        assert_ne!(name, lock_name("orders_a", "localhost"));
        assert_ne!(lock_name("a", "b%"), lock_name("ab", "%"));
        assert!(name.len() <= 64);
    }
}
