//! Tests that need no external service.

mod ledger;
