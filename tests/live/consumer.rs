//! Consumers on real servers: the contract, and what is theirs alone.

mod aws;
#[path = "../contract/consumer.rs"]
pub(crate) mod contract;
mod killed;
mod vault;
