//! What a preflight finds, and how to mend it.

use rekeyd::failure::{FailureClass, Finding, Verdict};
use rekeyd::policy::spec::MysqlStrategy;
use rekeyd::secret::Credential;
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::{PreflightRequest, Target as _};

use super::{install, on_each_server};
use crate::mysql_support::{Kind, World};
use crate::postgres_support::{Try, credential};

on_each_server! {
    a_pair_in_order_passes
    a_pair_that_is_not_there_yet_passes
    each_lack_is_found_with_the_statement_that_mends_it
    what_the_admin_may_not_grant_is_found_with_the_statement_that_lets_it
    a_value_that_nobody_knows_is_found
}

async fn a_pair_in_order_passes(kind: Kind) {
    let world = World::shared(kind).await;
    if kind != Kind::MariaDb {
        // It lists those of the admin in one line with what it needs.
        world.sql("GRANT APPLICATION_PASSWORD_ADMIN, ROLE_ADMIN ON *.* TO '{p}_admin'@'%'").await;
    }
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
    assert_detail(&findings, "server", kind.says("MariaDB 1", "MySQL 8"));
    assert_detail(&findings, "authentication", kind.says("ed25519", "caching_sha2_password"));
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    let findings = look(&target, Some(&b)).await;
    assert_eq!(bad(&findings), [""; 0], "{findings:?}");
    assert_detail(&findings, "pair", "needs no change besides its password");
}

/// Of an account that is not there, MySQL may ask for what cannot be had over a connection in the clear.
async fn a_pair_that_is_not_there_yet_passes(kind: Kind) {
    let world = World::shared(kind).await.plainly().await;
    for number in 0..10 {
        let mut spec = world.alternating();
        let MysqlStrategy::Alternating(pair) = &mut spec.strategy else { unreachable!("it is a pair") };
        pair.users = [world.name(&format!("a{number}")), world.name(&format!("b{number}"))];
        let findings = look(&world.target(spec), None).await;
        let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
        assert_eq!(failed, None);
    }
}

async fn each_lack_is_found_with_the_statement_that_mends_it(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target(world.alternating());
    let (a, b) = (credential(world.name("a").as_str()), credential(world.name("b").as_str()));
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    install(&target, &Try::new(2), &b, Some(&a.principal)).await.expect("installed");
    let admin = "'{p}_admin'@'%'";
    let ends = kind.says("CONNECTION ADMIN", "CONNECTION_ADMIN");
    let socket = kind.says("IDENTIFIED VIA unix_socket", "IDENTIFIED WITH sha256_password BY 'x'");
    let password = kind.identified_plainly("x");
    let behind = kind.identified("behind its back");
    let mut cases = vec![
        (
            format!("REVOKE CREATE USER ON *.* FROM {admin}"),
            format!("GRANT CREATE USER ON *.* TO {admin}"),
            "admin rights",
            "GRANT CREATE USER",
        ),
        (
            format!("REVOKE {ends} ON *.* FROM {admin}"),
            format!("GRANT {ends} ON *.* TO {admin}"),
            "admin rights",
            ends,
        ),
        // What there is cannot be read without these.
        (
            format!("REVOKE PROCESS ON *.* FROM {admin}"),
            format!("GRANT PROCESS ON *.* TO {admin}"),
            "server",
            "GRANT PROCESS",
        ),
        (
            format!("REVOKE SELECT ON mysql.* FROM {admin}"),
            format!("GRANT SELECT ON mysql.* TO {admin}"),
            "server",
            "GRANT SELECT ON mysql.*",
        ),
        (
            "CREATE USER '{p}_a'@'10.%'".to_owned(),
            "DROP USER '{p}_a'@'10.%'".to_owned(),
            "account {p}_a",
            "DROP USER",
        ),
        (
            kind.says(
                "UPDATE rekeyd.accounts SET marker = 'x' WHERE user = '{p}_a'",
                r#"ALTER USER '{p}_a'@'%' ATTRIBUTE '{"rekeyd": "x"}'"#,
            )
            .to_owned(),
            kind.says(
                "DELETE FROM rekeyd.accounts WHERE user = '{p}_a'",
                r#"ALTER USER '{p}_a'@'%' ATTRIBUTE '{"rekeyd": null}'"#,
            )
            .to_owned(),
            "account {p}_a",
            kind.says("DELETE FROM rekeyd.accounts", r#"ATTRIBUTE '{"rekeyd": null}'"#),
        ),
        (
            format!("ALTER USER '{{p}}_a'@'%' {socket}"),
            format!("ALTER USER '{{p}}_a'@'%' {password}"),
            "account {p}_a",
            "IDENTIFIED VIA ed25519",
        ),
        (
            format!("ALTER USER '{{p}}_b'@'%' {behind}"),
            "SELECT 1".to_owned(),
            "current credential",
            "put the working value",
        ),
    ];
    if kind == Kind::MariaDb {
        cases.push((
            format!("REVOKE ALL ON rekeyd.* FROM {admin}"),
            format!("GRANT ALL ON rekeyd.* TO {admin}"),
            "admin rights",
            "GRANT ALL ON rekeyd.*",
        ));
    }
    if kind == Kind::MySql {
        for user in ["a", "b"] {
            cases.push((
                format!("GRANT SYSTEM_USER ON *.* TO '{{p}}_{user}'@'%'"),
                format!("REVOKE SYSTEM_USER ON *.* FROM '{{p}}_{user}'@'%'"),
                "admin rights",
                "GRANT SYSTEM_USER ON *.*",
            ));
        }
    }
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

async fn what_the_admin_may_not_grant_is_found_with_the_statement_that_lets_it(kind: Kind) {
    let world = World::shared(kind).await;
    let a = credential(world.name("a").as_str());
    install(&world.target(world.alternating()), &Try::new(1), &a, None).await.expect("installed");
    let mut spec = world.alternating();
    let MysqlStrategy::Alternating(pair) = &mut spec.strategy else { unreachable!("it is a pair") };
    pair.member_of.push(world.name("more"));
    let target = world.target(spec);
    world
        .sql(
            "CREATE DATABASE {p}; CREATE TABLE {p}.t (a int, b int); CREATE ROLE '{p}_more';
             GRANT INSERT ON {p}.* TO '{p}_a'@'%'; GRANT UPDATE (b) ON {p}.t TO '{p}_a'@'%'",
        )
        .await;
    for (fence, what) in (2..).zip(["the role", "the privilege INSERT", "the privilege UPDATE (`b`)", ""]) {
        let (step, b) = (Try::new(fence), credential(world.name("b").as_str()));
        let findings = look(&target, Some(&a)).await;
        let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
        let installed = install(&target, &step, &b, Some(&a.principal)).await;
        if what.is_empty() {
            assert_eq!(failed, None);
            installed.expect("installed");
            break;
        }
        // What it says is what comes of it.
        let failed = failed.unwrap_or_else(|| panic!("{what}: {findings:#?}"));
        assert!(failed.subject == "pair" && failed.detail.contains(what), "{what}: {failed:?}");
        assert_eq!(installed.expect_err(what).class(), FailureClass::Denied, "{what}");
        let remedy = failed.remedy.as_deref().expect("a remedy");
        let key = what.trim_start_matches("the privilege ").replace("the role", "ADMIN OPTION");
        let own = remedy.split("; ").find(|part| part.contains(&key));
        world.sql(own.unwrap_or_else(|| panic!("{what}: {remedy}"))).await;
    }
}

/// Every rotation would be abandoned for it.
async fn a_value_that_nobody_knows_is_found(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let target = world.target(world.dual(None));
    let a = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    let findings = look(&target, Some(&a)).await;
    assert!(!bad(&findings).contains(&&*format!("account {}", a.principal)), "{findings:#?}");
    let held = world.rows("SHOW CREATE USER '{p}_a'@'%'").await.remove(0);
    world
        .sql(&match kind {
            Kind::MariaDb => {
                let method = held.split(" IDENTIFIED VIA ").nth(1).expect("a method");
                format!("ALTER USER '{{p}}_a'@'%' IDENTIFIED VIA {method} OR ed25519 USING PASSWORD('stray')")
            }
            Kind::MySql => "ALTER USER '{p}_a'@'%' IDENTIFIED BY 'stray' RETAIN CURRENT PASSWORD".to_owned(),
        })
        .await;
    let findings = look(&target, Some(&a)).await;
    let found = findings.iter().any(|finding| {
        finding.verdict == Verdict::Fail
            && finding.detail == "it has a value that nobody knows"
            && finding.remedy.as_deref().is_some_and(|remedy| remedy.contains("DISCARD OLD PASSWORD"))
    });
    assert!(found, "{findings:#?}");
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
