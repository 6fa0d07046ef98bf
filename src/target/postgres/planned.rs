//! Statements that an admin session plans once.
//!
//! What rekeyd asks for is small and described by large catalogue views: planning it takes the server ten
//! times as long as running it. So each session prepares a statement when it first needs it, and executes
//! it from then on.
//!
//! A pooler that gives each transaction another session loses what was prepared, or finds there what
//! another client prepared. When the server says so, the sessions of its lane ask in full from then on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A statement with `$1` and so on for its arguments.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: &'static str,
    pub(super) parameters: &'static str,
    pub(super) text: fn() -> String,
}

/// Whether the sessions of a lane can keep statements. Shared by all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Keeping(Arc<AtomicBool>);

/// What one session has prepared.
#[derive(Debug, Default)]
pub(super) struct Plans {
    prepared: Mutex<HashSet<&'static str>>,
    /// Set once a session of the lane lost a statement.
    lossy: Keeping,
}

impl Plans {
    pub(super) fn new(lossy: Keeping) -> Self {
        Self { prepared: Mutex::default(), lossy }
    }

    /// What runs a statement with these arguments, each an expression of its parameter's type. The last
    /// of them gives the answer. They must run, in this order, or the session be given up.
    pub(super) fn call(&self, statement: &Planned, arguments: &[String]) -> Vec<String> {
        let Planned { name, parameters, text } = statement;
        if self.lossy.0.load(Ordering::Relaxed) {
            return vec![in_full(&text(), arguments)];
        }
        let execute = format!("EXECUTE {name}({})", arguments.join(", "));
        let is_new = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        if is_new {
            vec![format!("PREPARE {name}({parameters}) AS {}", text()), execute]
        } else {
            vec![execute]
        }
    }

    /// Takes note of an error of the server's.
    pub(super) fn learn(&self, sqlstate: &str) {
        // invalid_sql_statement_name, duplicate_prepared_statement
        if matches!(sqlstate, "26000" | "42P05") {
            self.lossy.0.store(true, Ordering::Relaxed);
        }
    }
}

/// The statement with its arguments in their places. An argument may hold a `$` itself.
fn in_full(text: &str, arguments: &[String]) -> String {
    let mut pieces = text.split('$');
    let mut full = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = piece.split_at(digits);
        let argument = number.parse::<usize>().ok().and_then(|number| arguments.get(number.checked_sub(1)?));
        full.push_str(argument.expect("each `$` of a statement names an argument"));
        full.push_str(rest);
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATEMENT: Planned = Planned {
        name: "rekeyd_test",
        parameters: "text, text[]",
        text: || "SELECT $1 WHERE $1 = ANY($2) AND true".to_owned(),
    };

    fn arguments() -> [String; 2] {
        ["'a$2'".to_owned(), "ARRAY['b']".to_owned()]
    }

    #[test]
    fn a_session_prepares_once() {
        let plans = Plans::default();
        let execute = "EXECUTE rekeyd_test('a$2', ARRAY['b'])";
        let first = plans.call(&STATEMENT, &arguments());
        assert_eq!(
            first,
            ["PREPARE rekeyd_test(text, text[]) AS SELECT $1 WHERE $1 = ANY($2) AND true", execute]
        );
        assert_eq!(plans.call(&STATEMENT, &arguments()), [execute]);
    }

    #[test]
    fn sessions_behind_a_pooler_ask_in_full() {
        let lane = Keeping::default();
        let (one, another) = (Plans::new(lane.clone()), Plans::new(lane));
        one.learn("57014");
        assert_eq!(another.call(&STATEMENT, &arguments()).len(), 2, "an error of another kind says nothing");
        for sqlstate in ["26000", "42P05"] {
            one.learn(sqlstate);
            let full = "SELECT 'a$2' WHERE 'a$2' = ANY(ARRAY['b']) AND true";
            assert_eq!(another.call(&STATEMENT, &arguments()), [full]);
        }
    }
}
