//! Tests that need no external service.

mod schedule;
mod ledger;
mod tidy;
mod policy;
mod schema;
mod settings;
mod store;
