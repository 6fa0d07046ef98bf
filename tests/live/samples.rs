//! Every sample of `policies/`, run: read as it is, and only what is of a place replaced by servers of the test's own.
//!
//! Each is checked, rotates twice and is contained, by the shipped binary and the sample settings; each reader has the
//! version in force, and the target refuses every value before it.

mod brokers;
mod databases;
mod generated;
mod keys;
mod pipelines;
mod plugins;
mod readers;
mod recipes;
mod sample;
mod stores;
mod variants;

use std::collections::BTreeSet;
use std::sync::Mutex;

use self::sample::Sample;

/// A file of `policies/`, and how it is run.
type Row = (&'static str, fn(&'static str));

/// Each line is a file of `policies/` and its run, an `async fn(Sample)`.
macro_rules! samples {
    ($($file:literal: $run:path;)+) => {
        const RUN: &[Row] = &[$(($file, |file| in_turn(async { $run(Sample::load(file).await).await }))),+];
    };
}

// Those that wait the longest begin, and the others are in the order of their names.
samples! {
    "postgres-gitops.yaml": databases::postgres_by_git;
    "kubernetes-service-account.yaml": keys::service_account;
    "kubernetes-service-account-long-lived.yaml": keys::service_account;
    "postgres-kubernetes.yaml": databases::postgres_in_two_clusters;
    "vault-token.yaml": keys::token;
    "aws-iam.yaml": keys::access_key;
    "http-hand-off.yaml": recipes::hand_off;
    "aws-secretsmanager.yaml": databases::postgres;
    "clickhouse-alternating.yaml": databases::clickhouse;
    "clickhouse-dual-password.yaml": databases::clickhouse;
    "exec.yaml": plugins::users;
    "exec-dual-key.yaml": plugins::keys;
    "exec-dual-password.yaml": plugins::users;
    "exec-in-place.yaml": plugins::users;
    "exec-reissued.yaml": plugins::keys;
    "generated.yaml": generated::alone;
    "generated-certificate.yaml": generated::certificate;
    "generated-ring.yaml": generated::ring;
    "generated-ssh-key.yaml": generated::alone;
    "github-actions.yaml": databases::postgres;
    "gitlab-ci.yaml": generated::alone;
    "http-deploy-key.yaml": recipes::deploy_key;
    "http-key.yaml": recipes::key;
    "http-refresh-chain.yaml": recipes::refresh_chain;
    "jenkins.yaml": databases::postgres;
    "mariadb-alternating.yaml": databases::mysql;
    "mariadb-dual-password.yaml": databases::mysql;
    "mysql-alternating.yaml": databases::mysql;
    "mysql-dual-password.yaml": databases::mysql;
    "mysql-in-place.yaml": databases::mysql;
    "mysql8-alternating.yaml": databases::mysql8;
    "mysql8-dual-password.yaml": databases::mysql8;
    "mysql8-in-place.yaml": databases::mysql8;
    "postgres-alternating.yaml": databases::postgres;
    "postgres-in-place.yaml": databases::postgres;
    "rabbitmq.yaml": brokers::rabbitmq;
    "redis.yaml": brokers::redis;
    "vault-copy.yaml": databases::postgres;
    "vault-secret-id.yaml": keys::secret_id;
}

/// So many run at once: most of the time of each is spent on waiting.
const AT_ONCE: usize = 8;

/// What a row does, in a runtime of its thread's own.
fn in_turn(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

/// In one test, since a test harness has no more threads than the machine has cores. What is said of a sample that fails
/// stands under its thread, which is named as the file is.
#[test]
fn every_sample_rotates_twice_and_is_contained() {
    let (rows, failed) = (Mutex::new(RUN.iter()), Mutex::new(Vec::new()));
    let next = || rows.lock().expect("nobody panics with it").next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((file, run)) = next() {
                    let thread = std::thread::Builder::new().name((*file).to_owned());
                    let thread = thread.spawn_scoped(scope, || run(file)).expect("a thread");
                    if thread.join().is_err() {
                        failed.lock().expect("nobody panics with it").push(*file);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    assert_eq!(failed, Vec::<&str>::new(), "these do not work; why is said above");
}

#[test]
fn every_sample_has_a_run() {
    let runs: BTreeSet<String> = RUN.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(runs.len(), RUN.len(), "one has two runs");
    assert_eq!(sample::files(), runs);
}

#[test]
fn every_variant_has_a_sample() {
    let shown: BTreeSet<String> = sample::files().iter().flat_map(|file| variants::of_sample(file)).collect();
    let missing: Vec<String> = variants::all().into_iter().filter(|one| !shown.contains(one)).collect();
    assert_eq!(missing, Vec::<String>::new(), "without a sample; there are {shown:#?}");
}
