//! What a preflight finds.

use rekeyd::failure::{Finding, Verdict};
use rekeyd::secret::Credential;
use rekeyd::target::{PreflightRequest, Target as _};

use super::dual::Dual;
use super::pair::Pair;
use super::{ADMIN, Step, done, install, new, turn};
use crate::clickhouse_server::Way;

async fn failed(target: &impl rekeyd::target::Target, current: Option<&Credential>) -> Vec<Finding> {
    let policy = "orders/olap".parse().expect("a policy name");
    let findings = target.preflight(PreflightRequest { policy: &policy, current }).await;
    findings.into_iter().filter(|finding| finding.verdict == Verdict::Fail).collect()
}

#[track_caller]
fn only(found: &[Finding], subject: &str, detail: &str, remedy: &str) {
    let [finding] = found else { panic!("not one: {found:?}") };
    assert_eq!(finding.subject, subject);
    assert!(finding.detail.contains(detail), "{finding:?}");
    assert!(finding.remedy.as_deref().is_some_and(|told| told.contains(remedy)), "{finding:?}");
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let Dual { server, target } = Dual::new().await;
    {
        let mut tables = server.tables();
        let admin = tables.users.get_mut(ADMIN).expect("the admin");
        admin.rights.retain(|right| !right.contains("PROFILE"));
    }
    let found = failed(&target, None).await;
    let lacking = "CREATE SETTINGS PROFILE, DROP SETTINGS PROFILE";
    only(
        &found,
        "rights",
        &format!("rekeyd lacks {lacking}"),
        &format!("GRANT {lacking} ON *.* TO `rekeyd`"),
    );
    assert!(server.tables().changes.is_empty());
}

#[tokio::test]
async fn a_user_that_cannot_be_rotated_is_told() {
    let Dual { server, target } = Dual::new().await;
    let first = new("app");
    done(install(&target, &Step::new(1), &first, None).await);
    assert_eq!(failed(&target, Some(&first)).await, []);
    only(
        &failed(&target, Some(&new("app"))).await[1..],
        "current credential",
        "refuses the value",
        "rekeyd adopt",
    );

    server.slip("app", "somebody's");
    server.slip("app", "somebody else's");
    only(
        &failed(&target, Some(&first)).await,
        "user app",
        "2 ways to log in that rekeyd does not know",
        "containment",
    );

    let user = |change: &dyn Fn(&mut crate::clickhouse_server::User)| {
        change(server.tables().users.get_mut("app").expect("the user"));
    };
    user(&|user| user.ways.truncate(1));
    user(&|user| user.ways.push(Way { kind: "ldap".into(), ..Way::of("") }));
    only(&failed(&target, Some(&first)).await, "user app", "does not keep: ldap", "a user of their own");
    user(&|user| user.ways.truncate(1));
    user(&|user| user.storage = "users_xml".into());
    only(&failed(&target, Some(&first)).await, "user app", "cannot be changed by a statement", "users.xml");

    server.tables().users.remove("app");
    let found = failed(&target, None).await;
    only(&found, "user app", "does not exist", "CREATE USER `app`");
}

#[tokio::test]
async fn a_server_that_lets_everybody_in_proves_nothing() {
    let Dual { server, target } = Dual::new().await;
    let way = Way { kind: "no_password".into(), ..Way::of("") };
    server.tables().users.get_mut("app").expect("the user").ways.push(way);
    let found = failed(&target, None).await;
    let subjects: Vec<&str> = found.iter().map(|finding| &*finding.subject).collect();
    assert_eq!(subjects, ["user app", "negative control"]);
}

#[tokio::test]
async fn what_a_pair_is_going_to_be_given_is_told() {
    let Pair { server, target } = Pair::new().await;
    let (first, second) = (new("app_a"), new("app_b"));
    done(install(&target, &Step::new(1), &first, None).await);
    done(turn(&target, &Step::new(2), &second, "app_a").await);
    {
        let mut tables = server.tables();
        tables.users.get_mut("app_b").expect("the user").grants.push("GRANT SELECT ON shop.* TO {}".into());
        tables.users.get_mut("app_a").expect("the user").host = Some("LOCAL".into());
    }
    let policy = "orders/olap".parse().expect("a policy name");
    let findings = target.preflight(PreflightRequest { policy: &policy, current: Some(&second) }).await;
    let pair = findings.iter().find(|finding| finding.subject == "pair").expect("a finding");
    assert_eq!(pair.detail, "app_a will be given GRANT SELECT ON shop.*; the hosts that it may log in from");
    server.tables().roles.clear();
    only(
        &failed(&target, Some(&second)).await,
        "pair",
        "the role reader does not exist",
        "CREATE ROLE `reader`",
    );
}
