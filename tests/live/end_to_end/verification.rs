//! Between rotations a daemon tries the value in force: somebody changes it at the server.

use super::*;
use crate::postgres_support::verifier;

impl Site {
    fn verified(&self, on_refusal: &str) {
        self.at.change_settings(|settings| settings["listen"] = json!("127.0.0.1:0"));
        self.at.change_policy(NAME, |policy| {
            policy["spec"]["verify"] = json!({"every": "1s", "onRefusal": on_refusal});
        });
    }

    async fn change_by_hand(&self) {
        let role = self.delivered().principal;
        let verifier = verifier("set by somebody in a hurry");
        self.world.sql(&format!("ALTER ROLE \"{role}\" PASSWORD '{verifier}'")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_reported_until_somebody_mends_it() {
    for site in [Site::alternating().await, Site::in_place().await] {
        site.rotate().await;
        site.verified("report");
        let mut daemon = site.at.daemon().await;
        soon("the value is tried", async || site.status().await["verified"]["finding"] == "accepted").await;
        let status = site.status().await;
        assert_eq!((&status["state"], &status["verified"]["version"]), (&json!("ready"), &json!(1)));

        site.change_by_hand().await;
        let told = daemon.says_of(POLICY, "value in force has drifted").await;
        assert_eq!((&told["level"], &told["finding"]), (&json!("ERROR"), &json!("refused")), "{told}");
        assert!(told["remedy"].as_str().is_some_and(|remedy| remedy.contains("rekeyd rotate")), "{told}");
        site.at.run(&["status", POLICY]).await.ended(0).says(&[
            "drifted",
            "the target refuses the value in force",
            "`rekeyd rotate` brings a new one in",
        ]);
        let metrics = daemon.http("/metrics").await.body;
        let of_policy = "{namespace=\"orders\",policy=\"orders-db\"}";
        for sample in [
            format!("rekeyd_credential_drift{of_policy} 1\n"),
            format!("rekeyd_credential_verified_age_seconds{of_policy} "),
            "rekeyd_verifications_total{finding=\"refused\"} ".to_owned(),
            "rekeyd_verifications_total{finding=\"accepted\"} ".to_owned(),
        ] {
            assert!(metrics.contains(&sample), "{sample} in {metrics}");
        }
        assert_eq!(site.records().await.len(), 1, "it was to be reported alone");

        site.rotate().await;
        soon("the new value is tried", async || {
            let status = site.status().await;
            status["verified"]["version"] == 2 && status["verified"]["finding"] == "accepted"
        })
        .await;
        assert_eq!(site.status().await["state"], "ready");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_mended_where_the_policy_says_so() {
    for site in [Site::alternating().await, Site::in_place().await] {
        let first = site.rotate().await;
        site.verified("rotate");
        let mut daemon = site.at.daemon().await;
        site.change_by_hand().await;
        let closed = daemon.says_of(POLICY, "rotation closed").await;
        assert_eq!(
            (&closed["trigger"], &closed["outcome"]),
            (&json!("drift"), &json!("rotated")),
            "{closed}"
        );
        daemon.stop().await;
        assert_eq!(site.stored().await, Some(site.delivered()));
        let records = site.records().await;
        assert_eq!((records.len(), &records[0]["requestedBy"]), (2, &json!("verification")));
        site.assert_in_order(&[first], 2).await;
    }
}

/// A server that is away says nothing of a value.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_no_drift() {
    let site = Site::alternating().await;
    site.rotate().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["target"]["postgres"]["endpoint"]["port"] = json!(1);
    });
    site.verified("rotate");
    let mut daemon = site.at.daemon().await;
    let told = daemon.says_of(POLICY, "the value in force could not be verified").await;
    assert_eq!(told["level"], "WARN", "{told}");
    let status = site.status().await;
    assert_eq!((&status["state"], &status["verified"]), (&json!("ready"), &Value::Null), "{status:#}");
    daemon.stop().await;
    assert_eq!(site.records().await.len(), 1);
}
