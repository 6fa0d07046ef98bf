//! `adopt`: a live credential is taken over without a change to it.

use super::*;

/// A site whose user has a password that rekeyd does not know yet, and uses it.
async fn live(site: &Site) -> Credential {
    let exists = site.world.row("SELECT count(*) FROM pg_roles WHERE rolname = '{p}_a'").await == "1";
    if !exists {
        site.world.sql("CREATE ROLE {p}_a NOLOGIN IN ROLE {p}_group").await;
    }
    site.world.sql("ALTER ROLE {p}_a LOGIN PASSWORD 'live'").await;
    credential_of(&site.world.name("a"), "live")
}

#[tokio::test(flavor = "multi_thread")]
async fn from_standard_input() {
    for (site, arguments) in
        [(Site::in_place().await, &[][..]), (Site::alternating().await, &["--principal"])]
    {
        let live = live(&site).await;
        let application = site.world.connect(&live).await.expect("a session");
        let name = live.principal.as_str().to_owned();
        let mut words = vec!["adopt", POLICY];
        words.extend(arguments);
        if !arguments.is_empty() {
            words.push(&name);
        }
        site.at.run_with(&words, b"live\n").await.ended(0).says(&[&format!("{POLICY}: v0 -> v1")]);
        assert_eq!(site.stored().await.as_ref(), Some(&live));
        assert!(application.simple_query("select 1").await.is_ok());
        let record = site.records().await.remove(0);
        assert_eq!((&record["trigger"], &record["to"]), (&json!("adopt"), &json!(1)), "{record:#}");

        // From here on it is as any other, and the application may be in it.
        site.rotate().await;
        site.assert_in_order(&[live], 2).await;
        site.at
            .run_with(&words, b"live\n")
            .await
            .ended(1)
            .says(&["it is managed already, at v2", "remedy: pass --replace"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_store() {
    let mut site = Site::in_place().await;
    site.move_to_openbao();
    let live = live(&site).await;
    site.at
        .run(&["adopt", POLICY, "--from-store"])
        .await
        .ended(1)
        .says(&["the store holds no value there", "remedy: give the value on standard input"]);
    site.overwrite(&live).await;
    let refused = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(1);
    refused.says(&["holds a value that rekeyd did not write", "remedy: take it over with `rekeyd adopt`"]);
    site.at.run(&["adopt", POLICY, "--from-store"]).await.ended(0);
    assert_eq!(site.stored().await.as_ref(), Some(&live));
    site.rotate().await;
    site.assert_in_order(&[live], 2).await;
}

/// A wrong value, user or input is refused, and nothing has changed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_live_credential() {
    let site = Site::alternating().await;
    let live = live(&site).await;
    let name = live.principal.as_str();
    for (arguments, input, texts) in [
        (&["--principal", name][..], &b"wrong\n"[..], &["the target refuses a login with the candidate"][..]),
        (&[], b"live\n", &["the policy has two users", "remedy: say whose value it is with --principal"]),
        (&["--principal", "somebody"], b"live\n", &["the policy does not rotate `somebody`"]),
        (&["--principal", name], b"\n", &["standard input is empty", "remedy: pipe the value into it"]),
        (&["--principal", name], b"", &["standard input is empty"]),
    ] {
        let answer = site.at.run_with(&[&["adopt", POLICY][..], arguments].concat(), input).await.ended(1);
        answer.says(&[&["error: "][..], texts].concat());
        assert!(site.accepts(&live).await, "{arguments:?}");
        assert!(site.stored().await.is_none() && site.candidate().await.is_none(), "{arguments:?}");
    }
    site.at.run_with(&["adopt", POLICY, "--principal", name], b"live").await.ended(0);
}

/// The live value was changed by hand, and is taken over in place of the one that rekeyd knows.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_of_a_managed_one() {
    let site = Site::in_place().await;
    let managed = site.rotate().await;
    let live = live(&site).await;
    site.at.run_with(&["adopt", POLICY, "--replace"], b"live").await.ended(0).says(&["v1 -> v2"]);
    assert_eq!(site.stored().await.as_ref(), Some(&live));
    site.rotate().await;
    site.assert_in_order(&[managed, live], 3).await;
}

/// A daemon that runs is no hindrance.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_daemon() {
    let site = Site::in_place().await;
    let daemon = site.at.daemon().await;
    let live = live(&site).await;
    site.at.run_with(&["adopt", POLICY], b"live").await.ended(0);
    assert_eq!(site.status().await["version"], 1);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    daemon.stop().await;
    site.assert_in_order(&[live], 2).await;
}
