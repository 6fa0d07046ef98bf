//! Rotations in a world of their own: the engine and the service with the real embedded store, file
//! consumer and ledger, on a database that behaves.

mod adopt;
mod contain;
mod crash;
mod database;
mod decision;
mod keys;
mod laws;
mod outcomes;
mod owed;
mod parts;
mod races;
mod service;
mod time;
mod verification;
