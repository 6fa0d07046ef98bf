//! What a preflight finds, and how to mend it.

use rekeyd::failure::{Finding, Verdict};
use rekeyd::secret::Credential;
use rekeyd::target::postgres::PostgresTarget;
use rekeyd::target::{PreflightRequest, Target as _};

use super::install;
use crate::postgres_support::{Server, Try, World, credential};

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_in_order_passes() {
    let world = World::shared().await;
    let mut spec = world.alternating();
    spec.check = Some("SELECT 1".to_owned());
    let target = world.target(spec);
    let (a, b) = (credential(world.name("a").as_str()), credential(world.name("b").as_str()));
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    let findings = look(&target, Some(&a)).await;
    assert_eq!(bad(&findings), [""; 0], "{findings:?}");
    assert_detail(&findings, "pair", "will be given the role itself");
    assert_detail(&findings, "check statement", "succeeds");
    assert_detail(&findings, "negative control", "is refused");
    assert_detail(&findings, "server", "PostgreSQL 1");
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    let findings = look(&target, Some(&b)).await;
    assert_eq!(bad(&findings), [""; 0], "{findings:?}");
    assert_detail(&findings, "pair", "needs no change besides its password");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lack_is_found_with_the_statement_that_mends_it() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let (a, b) = (credential(world.name("a").as_str()), credential(world.name("b").as_str()));
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    let cases = [
        (
            "ALTER ROLE {p}_admin NOCREATEROLE",
            "ALTER ROLE {p}_admin CREATEROLE",
            "admin rights",
            "CREATEROLE",
        ),
        (
            "REVOKE pg_signal_backend FROM {p}_admin",
            "GRANT pg_signal_backend TO {p}_admin",
            "admin rights",
            "GRANT pg_signal_backend TO",
        ),
        (
            "REVOKE pg_read_all_stats FROM {p}_admin",
            "GRANT pg_read_all_stats TO {p}_admin",
            "admin rights",
            "GRANT pg_read_all_stats TO",
        ),
        ("CREATE TABLE t (); GRANT SELECT ON t TO {p}_b", "DROP TABLE t", "pair", "GRANT the privilege to"),
        (
            "COMMENT ON ROLE {p}_a IS '[rekeyd broken]'",
            "COMMENT ON ROLE {p}_a IS NULL",
            "role {p}_a",
            "COMMENT ON ROLE",
        ),
        ("ALTER ROLE {p}_a SUPERUSER", "ALTER ROLE {p}_a NOSUPERUSER", "role {p}_a", "NOSUPERUSER"),
        (
            "ALTER ROLE {p}_b PASSWORD 'changed behind its back'",
            "ALTER ROLE {p}_b PASSWORD NULL",
            "current credential",
            "put the working value",
        ),
    ];
    for (damage, mend, subject, remedy) in cases {
        world.sql(damage).await;
        let findings = look(&target, Some(&b)).await;
        let subject = subject.replace("{p}", &world.database);
        let found = findings.iter().any(|finding| {
            finding.verdict == Verdict::Fail
                && finding.subject.starts_with(&subject)
                && finding.remedy.as_deref().is_some_and(|text| text.contains(remedy))
        });
        assert!(found, "{damage}: {findings:#?}");
        world.sql(mend).await;
    }

    let session = world.connect(&credential(a.principal.as_str())).await;
    assert!(session.is_err(), "the control: another value does not log in");
    let _session = world.connect(&a).await.expect("a session");
    let findings = look(&target, Some(&b)).await;
    assert_detail(&findings, &format!("role {}", a.principal), "1 open session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_any_value_is_found_out() {
    let world = World::on(Server::private(&[])).await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    let findings = look(&target, Some(&a)).await;
    assert_eq!(bad(&findings), [""; 0], "{findings:?}");

    world.set_hba(&format!("host all {} all trust", a.principal)).await;
    let findings = look(&target, Some(&a)).await;
    for subject in ["current credential", "negative control"] {
        let found = findings.iter().any(|finding| {
            finding.verdict == Verdict::Fail
                && finding.subject.starts_with(subject)
                && finding.remedy.as_deref().is_some_and(|remedy| remedy.contains("scram-sha-256"))
        });
        assert!(found, "{subject}: {findings:#?}");
    }
}

async fn look(target: &PostgresTarget, current: Option<&Credential>) -> Vec<Finding> {
    target.preflight(PreflightRequest { policy: &Try::new(1).policy, current }).await
}

fn bad(findings: &[Finding]) -> Vec<&str> {
    let bad = findings.iter().filter(|finding| finding.verdict != Verdict::Pass);
    bad.map(|finding| finding.subject.as_str()).collect()
}

fn assert_detail(findings: &[Finding], subject: &str, detail: &str) {
    let found = findings.iter().any(|finding| finding.subject == subject && finding.detail.contains(detail));
    assert!(found, "{subject}: {detail}: {findings:#?}");
}
