//! Tests against real servers.

#[path = "../support/openbao.rs"]
mod openbao;
mod store;
