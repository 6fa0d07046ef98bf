//! What a preflight says.

use rekeyd::failure::{Finding, Verdict};

use super::*;
use crate::store::contract::{policy, promote, save};

const PATH: &str = "apps/a";

async fn findings(store: &dyn Store) -> Vec<Finding> {
    let (path, fields) = (PATH.parse().expect("a path"), FieldNames::default());
    store.preflight(Place { path: &path, fields: &fields }, &policy("orders/db")).await
}

#[track_caller]
fn assert_only(findings: &[Finding], verdict: Verdict, detail: &str) {
    let worse: Vec<_> = findings.iter().filter(|finding| finding.verdict != Verdict::Pass).collect();
    assert_eq!(worse.len(), 1, "{findings:?}");
    assert_eq!(worse[0].verdict, verdict, "{findings:?}");
    assert!(worse[0].detail.contains(detail) && worse[0].remedy.is_some(), "{worse:?}");
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_with_its_remedy() {
    let bench = Bench::new().await;
    let store = bench.store();
    promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    save(&store, "orders/db", "one", None).await.expect("a saving");
    assert!(findings(&store).await.iter().all(|finding| finding.verdict == Verdict::Pass));
    bench.0.calls();

    bench.0.with(|account| account.change(PATH, |secret| secret.rotates = true));
    assert_only(&findings(&store).await, Verdict::Fail, "the service rotates it itself");
    bench.0.with(|account| account.change(PATH, |secret| secret.rotates = false));

    bench.0.with(|account| account.change(PATH, |secret| secret.owner = Some("rds".into())));
    assert_only(&findings(&store).await, Verdict::Fail, "another service of AWS keeps it");
    bench.0.with(|account| account.change(PATH, |secret| secret.owner = None));

    bench.0.with(|account| account.change(PATH, |secret| secret.deleted = true));
    assert_only(&findings(&store).await, Verdict::Fail, "somebody deleted it");
    bench.0.with(|account| account.change(PATH, |secret| secret.deleted = false));

    let control = "rekeyd/control/orders/db";
    bench.0.with(|account| account.change(control, |secret| secret.deleted = true));
    assert_only(&findings(&store).await, Verdict::Fail, "somebody deleted it");
    bench.0.with(|account| account.change(control, |secret| secret.deleted = false));

    for (label, verdict, detail) in [
        ("AWSPENDING", Verdict::Fail, "has the label AWSPENDING"),
        ("mine", Verdict::Warn, "has the label `mine`"),
    ] {
        bench.0.with(|account| {
            account.change(PATH, |secret| {
                let mut version = secret.versions[0].clone();
                version.id = "foreign-0000-0000-0000-000000000000".into();
                version.labels = [label.to_owned()].into();
                secret.versions.push(version);
            });
        });
        assert_only(&findings(&store).await, verdict, detail);
        bench.0.with(|account| account.change(PATH, |secret| drop(secret.versions.pop())));
    }

    bench.0.deny("ListSecrets");
    assert_only(&findings(&store).await, Verdict::Fail, "`secretsmanager:ListSecrets` is not allowed");
    bench.0.allow("ListSecrets");
    bench.0.deny("DescribeSecret");
    assert_only(&findings(&store).await, Verdict::Fail, "`secretsmanager:DescribeSecret` is not allowed");

    let changes = ["CreateSecret", "PutSecretValue", "UpdateSecretVersionStage"];
    assert!(bench.0.actions().iter().all(|action| !changes.contains(&action.as_str())), "it has written");
}

#[tokio::test]
async fn versions_are_counted_before_there_are_too_many() {
    let bench = Bench::new().await;
    let store = bench.store();
    let mut last = None;
    for number in 0..95 {
        last = Some(save(&store, "orders/db", &number.to_string(), last.as_ref()).await.expect("a saving"));
        if number == 59 {
            assert_only(&findings(&store).await, Verdict::Warn, "60 of 100 in the last day");
        }
    }
    assert_only(&findings(&store).await, Verdict::Fail, "95 of 100 in the last day: a rotation may need 6");
    bench.0.with(|account| account.pass(25 * 3_600));
    assert!(findings(&store).await.iter().all(|finding| finding.verdict == Verdict::Pass));
    bench.0.deny("ListSecretVersionIds");
    assert_only(&findings(&store).await, Verdict::Warn, "cannot be looked at");
}

#[tokio::test]
async fn a_secret_of_another_key_is_told_of() {
    use rekeyd::settings::AwsSettings;
    let bench = Bench::new().await;
    let kms_key = Some("1234abcd-12ab-34cd-56ef-1234567890ab".to_owned());
    let store =
        AwsStore::open(&AwsSettings { kms_key: kms_key.clone(), ..bench.0.settings() }).expect("a store");
    promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    bench.0.with(|account| assert_eq!(account.secret(PATH).kms_key, kms_key));
    assert!(findings(&store).await.iter().all(|finding| finding.verdict == Verdict::Pass));
    bench.0.with(|account| account.change(PATH, |secret| secret.kms_key = None));
    assert_only(&findings(&store).await, Verdict::Warn, "the account's own key");
}
