//! Tests that need no external service.

mod aws;
#[path = "../support/aws.rs"]
mod aws_service;
mod clickhouse;
#[path = "../support/clickhouse.rs"]
mod clickhouse_server;
mod consumer;
#[path = "../contract/dual_password.rs"]
mod dual_password_contract;
mod exec;
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
mod sample_site;
mod schedule;
mod scheduler;
mod schema;
mod settings;
mod simulation;
mod store;
#[path = "../contract/target.rs"]
mod target_contract;
mod tidy;
#[path = "../support/world.rs"]
mod world;
