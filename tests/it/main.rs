//! Tests that need no external service.

mod aws;
#[path = "../support/aws.rs"]
mod aws_service;
mod clickhouse;
#[path = "../contract/clickhouse.rs"]
mod clickhouse_contract;
#[path = "../support/clickhouse.rs"]
mod clickhouse_server;
mod consumer;
#[path = "../contract/dual_password.rs"]
mod dual_password_contract;
mod exec;
#[expect(dead_code, reason = "tests on real servers walk over more")]
#[path = "../support/walk.rs"]
mod faults_walk;
#[path = "../support/figures.rs"]
mod figures;
mod hostile;
mod iam;
#[path = "../support/iam.rs"]
mod iam_service;
mod init;
#[path = "../support/jenkins.rs"]
mod jenkins;
#[path = "../contract/keys.rs"]
mod keys_contract;
mod ledger;
mod model;
mod mysql;
#[path = "../support/mysql8.rs"]
mod mysql8;
#[path = "../contract/mysql8.rs"]
mod mysql8_contract;
mod policy;
mod providers;
#[path = "../support/providers.rs"]
mod providers_support;
mod rotation;
mod schedule;
mod scheduler;
mod schema;
mod settings;
mod simulation;
mod store;
#[path = "../support/stranger.rs"]
mod stranger;
mod strangers;
#[path = "../contract/target.rs"]
mod target_contract;
mod tidy;
mod walks;
#[path = "../support/world.rs"]
mod world;

// Where `tests/live` has it, too.
use world::faults;
