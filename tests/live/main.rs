//! Everything that needs real servers, which `make test` starts.

mod postgres;
#[path = "../support/postgres.rs"]
mod postgres_support;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../contract/target.rs"]
mod target_contract;
