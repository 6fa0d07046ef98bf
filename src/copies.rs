//! A place in a store that holds a copy of a value, for readers that have no right at the value's own place.
//!
//! The store's adapter reads and writes it; what may be written over what is for the consumer to say.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::failure::{Failure, Finding};
use crate::secret::SecretValue;

/// One such place.
#[async_trait]
pub trait CopyPlace: Send + Sync {
    /// Names it: `https://bao.example.com:8200/team/orders/db`.
    fn label(&self) -> String;

    /// What is there.
    async fn read(&self, doing: &str) -> Result<Held, Failure>;

    /// Replaces all of it, if it is still at the revision that was read: a `Conflict` otherwise. `seed` names the write,
    /// and is the same for whoever repeats it over the same revision.
    async fn write(&self, fields: &Fields, over: &Held, seed: &str, doing: &str) -> Result<(), Failure>;

    /// Whether rekeyd may do that, looked at without changing anything.
    async fn preflight(&self) -> Vec<Finding>;
}

/// Texts by their keys.
pub type Fields = BTreeMap<String, SecretValue>;

/// What a place holds.
#[derive(Debug, Default)]
pub struct Held {
    /// `None` where there is nothing, or nothing any more.
    pub fields: Option<Fields>,
    /// Of the store's own form; empty where there never was anything.
    pub revision: String,
    /// It holds what is no text: nothing that rekeyd wrote.
    pub is_odd: bool,
}
