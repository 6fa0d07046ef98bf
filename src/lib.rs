//! placeholder
pub mod clock;
pub mod consumer;
pub mod failure;
pub mod ident;
pub mod ledger;
pub mod policy;
pub mod schedule;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod store;
pub mod target;
pub mod template;
