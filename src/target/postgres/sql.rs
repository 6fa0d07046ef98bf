//! SQL text: quoting, and batches of statements that run in one round trip.
//!
//! `ALTER ROLE` and its like take no parameters, so names and texts are quoted here, by libpq's rules.
//! A batch goes out as one simple query; what came back tells which of its statements failed.

use std::time::Duration;

use futures_util::TryStreamExt as _;
pub(super) use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Session;

/// What each statement of a batch returned: the first column of its rows, `NULL` as an empty text.
pub(super) type Replies = Vec<Vec<String>>;

/// A batch that did not run to its end.
pub(super) struct BatchError {
    /// How many of its statements completed before.
    pub(super) completed: usize,
    /// What the driver said; `None` when the deadline passed.
    pub(super) cause: Option<tokio_postgres::Error>,
}

/// Runs the statements in one round trip.
///
/// After an error the session is in an unknown state and must not be used again.
pub(super) async fn run(
    session: &Session,
    statements: impl IntoIterator<Item = impl AsRef<str>>,
    deadline: Duration,
) -> Result<Replies, BatchError> {
    let mut text = zeroize::Zeroizing::new(String::new());
    for statement in statements {
        text.push_str(statement.as_ref());
        text.push_str(";\n");
    }
    let mut replies = Replies::new();
    let outcome = tokio::time::timeout(deadline, collect(session.client(), &text, &mut replies)).await;
    // The last element belongs to the statement that was running.
    let completed = replies.len().saturating_sub(1);
    match outcome {
        Ok(Ok(())) => {
            replies.pop();
            Ok(replies)
        }
        Ok(Err(error)) => {
            if let Some(code) = error.code() {
                session.plans().learn(code.code());
            }
            Err(BatchError { completed, cause: Some(error) })
        }
        Err(_) => Err(BatchError { completed, cause: None }),
    }
}

async fn collect(client: &Client, text: &str, replies: &mut Replies) -> Result<(), tokio_postgres::Error> {
    replies.push(Vec::new());
    let mut messages = std::pin::pin!(client.simple_query_raw(text).await?);
    while let Some(message) = messages.try_next().await? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let first = row.try_get(0)?.unwrap_or_default().to_owned();
                replies.last_mut().expect("never empty").push(first);
            }
            SimpleQueryMessage::CommandComplete(_) => replies.push(Vec::new()),
            _ => {}
        }
    }
    Ok(())
}

/// Opens a transaction that changes `role`, and waits for its turn.
///
/// The lock is PostgreSQL's own and ends with the transaction: a daemon that dies here holds nobody up
/// for longer than its connection lives, and one that is cut off no longer than `statement`.
pub(super) fn begin(role: &str, statement: Duration) -> Vec<String> {
    let mut statements = vec!["BEGIN ISOLATION LEVEL READ COMMITTED".to_owned()];
    statements.push(local_settings(statement));
    // A commit that a power cut could take back would leave consumers with a value the server forgot.
    statements.push(
        "SELECT set_config('synchronous_commit', 'on', true) \
         WHERE current_setting('synchronous_commit') = 'off'"
            .to_owned(),
    );
    let (class, key) = lock_key(role);
    statements.push(format!("SELECT pg_advisory_xact_lock({class}, {key})"));
    statements
}

/// Opens a transaction that only looks.
pub(super) fn begin_reading(statement: Duration) -> Vec<String> {
    let mut statements = vec!["BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY".to_owned()];
    statements.push(local_settings(statement));
    statements
}

/// Limits that the server keeps by itself, below the client's own deadline; a search path in which
/// nobody can put a function or table of their own before PostgreSQL's; and one plan for a prepared
/// statement, whatever its arguments. One statement: as five they would cost the server five times as much.
pub(super) fn local_settings(statement: Duration) -> String {
    let milliseconds = |share: f64| ((statement.as_secs_f64() * share * 1_000.0).max(1.0) as u64).to_string();
    let settings = [
        ("statement_timeout", milliseconds(0.8)),
        ("lock_timeout", milliseconds(0.6)),
        ("idle_in_transaction_session_timeout", milliseconds(1.0)),
        ("search_path", "pg_catalog, pg_temp".to_owned()),
        ("plan_cache_mode", "force_generic_plan".to_owned()),
    ];
    // Named in full: the search path is not set yet.
    let set = settings.map(|(name, value)| format!("pg_catalog.set_config('{name}', '{value}', true)"));
    format!("SELECT {}", set.join(", "))
}

/// Key of the advisory lock on a role: a constant of rekeyd's own, and a hash of the role's name.
fn lock_key(role: &str) -> (i32, i32) {
    use sha2::{Digest as _, Sha256};
    const CLASS: i32 = i32::from_be_bytes(*b"rkyd");
    let digest = Sha256::digest(role.as_bytes());
    (CLASS, i32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
}

/// The names as an array.
pub(super) fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let literals: Vec<String> = names.into_iter().map(literal).collect();
    format!("ARRAY[{}]::name[]", literals.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(ident(r#"a"; DROP ROLE b; --"#), r#""a""; DROP ROLE b; --""#);
        assert_eq!(literal("a'; DROP ROLE b; --"), "'a''; DROP ROLE b; --'");
        // A backslash is taken literally whatever standard_conforming_strings says.
        assert_eq!(literal(r"\' OR 1"), r" E'\\'' OR 1'");
        assert_eq!(names(["a", "b'c"]), "ARRAY['a', 'b''c']::name[]");
        assert_eq!(names([]), "ARRAY[]::name[]");
    }

    #[test]
    fn a_role_always_has_the_same_lock_and_another_role_another() {
        assert_eq!(lock_key("orders_a"), lock_key("orders_a"));
        assert_ne!(lock_key("orders_a").1, lock_key("orders_b").1);
    }
}
