//! Tests that need no external service.

mod policy;
mod schema;
mod settings;
