//! Tests against real servers.

mod ledger;
#[path = "../support/openbao.rs"]
mod openbao;
mod store;
