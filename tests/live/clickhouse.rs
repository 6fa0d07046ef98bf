//! The ClickHouse target on a real engine: what it promises, and what only a real one shows.

mod death;
mod nodes;
mod outage;
mod readonly;
mod rotation;
mod sessions;

use crate::clickhouse_contract::clickhouse_contract;
use crate::clickhouse_nodes::Corner;

clickhouse_contract!(Corner::on_one().await);
