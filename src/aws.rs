//! AWS, for the store and for the target there: how its services are reached, what rekeyd logs in with, and calls of
//! the query protocol that are signed here.
//!
//! The bodies of requests and answers pass through buffers of the HTTP client, which does not wipe them.

mod connection;
mod login;
mod query;
mod xml;

pub(crate) use self::connection::{Connection, Silence};
pub(crate) use self::login::Login;
pub(crate) use self::query::{Account, Key, Reply, Trouble, is_of_login, is_skew};
pub(crate) use self::xml::Elements;
