//! Tests against real servers.

mod ledger;
