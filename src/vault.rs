//! A session with an OpenBao or a Vault, for the store and for the target there: how the server is reached, the
//! token that calls are made with, and what an answer says about the world.
//!
//! The bodies of requests and answers pass through buffers of the driver and of the HTTP client, which
//! do not wipe them. The driver's log targets `vaultrs` and `rustify` must stay off, and nothing of its
//! types is ever printed.

pub(crate) mod answer;
mod rights;
pub(crate) mod session;
mod transport;

pub(crate) use self::answer::{Call, Effect, NOT_KV2, Trouble};
pub(crate) use self::session::{LastFailure, Session, lookup_self};
