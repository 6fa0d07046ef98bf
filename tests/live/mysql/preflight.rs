//! What a preflight finds, and how to mend it.

use rekeyd::failure::{Finding, Verdict};
use rekeyd::secret::Credential;
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::{PreflightRequest, Target as _};

use super::install;
use crate::mysql_support::World;
use crate::postgres_support::{Try, credential};

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
    assert_detail(&findings, "pair", "will be given the account itself");
    assert_detail(&findings, "check statement", "succeeds");
    assert_detail(&findings, "negative control", "is refused");
    assert_detail(&findings, "server", "MariaDB 1");
    assert_detail(&findings, "authentication", "ed25519");
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
    let admin = "'{p}_admin'@'%'";
    let cases = [
        (
            format!("REVOKE CREATE USER ON *.* FROM {admin}"),
            format!("GRANT CREATE USER ON *.* TO {admin}"),
            "admin rights",
            "GRANT CREATE USER",
        ),
        (
            format!("REVOKE CONNECTION ADMIN ON *.* FROM {admin}"),
            format!("GRANT CONNECTION ADMIN ON *.* TO {admin}"),
            "admin rights",
            "CONNECTION ADMIN",
        ),
        (
            format!("REVOKE ALL ON rekeyd.* FROM {admin}"),
            format!("GRANT ALL ON rekeyd.* TO {admin}"),
            "admin rights",
            "GRANT ALL ON rekeyd.*",
        ),
        (
            "CREATE USER '{p}_a'@'10.%'".to_owned(),
            "DROP USER '{p}_a'@'10.%'".to_owned(),
            "account {p}_a",
            "DROP USER",
        ),
        (
            "UPDATE rekeyd.accounts SET marker = 'x' WHERE user = '{p}_a'".to_owned(),
            "DELETE FROM rekeyd.accounts WHERE user = '{p}_a'".to_owned(),
            "account {p}_a",
            "DELETE FROM rekeyd.accounts",
        ),
        (
            "ALTER USER '{p}_a'@'%' IDENTIFIED VIA unix_socket".to_owned(),
            "ALTER USER '{p}_a'@'%' IDENTIFIED VIA mysql_native_password USING 'invalid'".to_owned(),
            "account {p}_a",
            "IDENTIFIED VIA ed25519",
        ),
        (
            "ALTER USER '{p}_b'@'%' IDENTIFIED VIA ed25519 USING PASSWORD('behind its back')".to_owned(),
            "SELECT 1".to_owned(),
            "current credential",
            "put the working value",
        ),
    ];
    for (damage, mend, subject, remedy) in cases {
        world.sql(&damage).await;
        let findings = look(&target, Some(&b)).await;
        let subject = subject.replace("{p}", &world.prefix);
        let found = findings.iter().any(|finding| {
            finding.verdict == Verdict::Fail
                && finding.subject.starts_with(&subject)
                && finding.remedy.as_deref().is_some_and(|text| text.contains(remedy))
        });
        assert!(found, "{damage}: {findings:#?}");
        world.sql(&mend).await;
    }
}

async fn look(target: &MysqlTarget, current: Option<&Credential>) -> Vec<Finding> {
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
