//! Tests that need no external service.

mod ledger;
mod policy;
mod schedule;
mod schema;
mod settings;
mod store;
mod tidy;
