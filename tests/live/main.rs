//! Everything that needs real servers, which `make test` starts.

mod account;
mod aws;
#[path = "../support/canary.rs"]
mod canaries;
mod canary;
mod canary_pod;
mod clickhouse;
#[path = "../contract/clickhouse.rs"]
mod clickhouse_contract;
#[path = "../support/clickhouse_nodes.rs"]
mod clickhouse_nodes;
mod cluster;
#[path = "../support/cluster_search.rs"]
mod cluster_search;
mod cluster_sweep;
mod consumer;
mod deployed;
#[path = "../contract/dual_password.rs"]
mod dual_password_contract;
mod each;
mod end_to_end;
mod endurance;
#[path = "../support/faults.rs"]
#[expect(dead_code, reason = "tests without real servers do more with it")]
mod faults;
#[path = "../support/walk.rs"]
#[expect(dead_code, reason = "tests without real servers do more with it")]
mod faults_walk;
#[path = "../support/figures.rs"]
mod figures;
mod fleet;
mod frozen;
#[path = "../support/gate.rs"]
mod gate;
mod generated;
#[path = "../support/gitea.rs"]
mod gitea_support;
mod gitops;
mod gitops_restart;
mod given_away;
mod iam;
#[path = "../support/installation.rs"]
mod installation;
#[path = "../support/jenkins.rs"]
#[expect(dead_code, reason = "tests without real servers disturb it")]
mod jenkins;
#[path = "../contract/keys.rs"]
mod keys_contract;
mod kinds;
#[path = "../support/kubernetes.rs"]
mod kubernetes;
mod ledger;
mod mended;
#[path = "../support/moto.rs"]
mod moto;
mod mysql;
#[path = "../contract/mysql8.rs"]
mod mysql8_contract;
#[path = "../support/mysql.rs"]
mod mysql_support;
mod nodes;
#[path = "../support/openbao.rs"]
mod openbao;
mod order;
mod outage;
mod postgres;
#[path = "../support/postgres.rs"]
mod postgres_support;
mod private;
#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/providers.rs"]
#[expect(dead_code, reason = "most of them are for tests without real servers")]
mod providers_support;
#[path = "../support/proxy.rs"]
mod proxy;
mod rabbitmq;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq_support;
mod reasons;
mod recipes;
mod redis;
#[path = "../support/redis.rs"]
mod redis_support;
mod reliability;
mod reloaders;
mod resources;
mod rollback;
mod rollouts;
mod samples;
mod service_account;
mod site;
#[path = "../support/small_disk.rs"]
mod small_disk;
#[path = "../support/sshd.rs"]
mod sshd;
mod store;
#[path = "../support/story.rs"]
mod story;
#[path = "../contract/target.rs"]
mod target_contract;
mod vault;
#[path = "../support/vault.rs"]
mod vault_support;
mod walk;
