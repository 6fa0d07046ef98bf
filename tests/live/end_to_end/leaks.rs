//! `contain`: the attacker is out, the readers go on.

use super::*;

/// The steps that were done, in order.
fn steps(answer: &Answer) -> Vec<String> {
    let lines = answer.lines();
    let done = lines.iter().filter(|line| line["event"]["event"] == "done");
    done.map(|line| line["event"]["step"].as_str().expect("a step").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_who_has_logged_in_is_out() {
    for (site, mode, order) in [
        (Site::alternating().await, "keepServing", ["publish", "retire"]),
        (Site::in_place().await, "keepServing", ["publish", "retire"]),
        (Site::alternating().await, "cutNow", ["retire", "publish"]),
        (Site::in_place().await, "cutNow", ["retire", "publish"]),
    ] {
        let mut gate = Gate::new(&site.at.path(""));
        let leaked = site.rotate().await;
        site.at.change_policy(NAME, |policy| {
            policy["spec"]["containment"] = json!(mode);
            policy["spec"]["retire"]["grace"] = json!("1h");
            policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
        });
        let attacker = site.world.connect(&leaked).await.expect("a session");
        let reader = site.world.connect(&leaked).await.expect("a session");

        // The reader takes the new value when it is told to, and only then lets go of its old session.
        let containment = site.at.start(&["contain", POLICY, "--reason", "found in a public repository"]);
        gate.reached().await;
        let moved = site.world.connect(&site.delivered()).await.expect("the reader moves");
        let served = reader.simple_query("select 1").await.is_ok();
        assert_eq!(served, mode == "keepServing", "{mode}");
        drop(reader);
        gate.open().await;
        let answer = containment.end().await.ended(0);

        let steps = steps(&answer);
        let at = |step: &str| steps.iter().position(|each| each == step);
        assert!(at(order[0]) < at(order[1]), "{mode}: {steps:?}");
        assert!(attacker.simple_query("select 1").await.is_err(), "{mode}: the attacker is still in");
        assert!(moved.simple_query("select 1").await.is_ok(), "{mode}: the reader was thrown out");
        site.assert_in_order(&[leaked], 2).await;
        let record = site.records().await.remove(0);
        assert_eq!(record["trigger"], "contain", "{record:#}");
        assert_eq!(record["reason"], "found in a public repository");
        assert!(record["containedMs"].is_u64(), "the time to containment is not on record: {record:#}");
        assert_eq!(
            (&record["proof"]["oldRefused"], &record["proof"]["sessionsLeft"]),
            (&json!(true), &json!(0))
        );
        assert!(record["proof"]["sessionsClosed"].as_u64() >= Some(1), "{record:#}");
    }
}

/// A reader that is down does not keep the leaked value alive beyond the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_cuts_off_whoever_has_not_moved() {
    let site = Site::alternating().await;
    let leaked = site.rotate().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["retire"]["containmentDeadline"] = json!("1s");
        policy["spec"]["consumers"][0]["file"]["reload"] = json!(["/bin/false"]);
    });
    let ending = site.at.run(&["contain", POLICY, "--patience", "0s"]).await.ended(1).ending();
    assert_eq!(ending["ending"], "open", "{ending:#}");
    assert!(!site.accepts(&leaked).await, "the leaked value outlived the deadline");
    assert!(site.accepts(&site.delivered()).await);
}

/// A value that somebody wrote into the store by hand is no obstacle to a containment.
#[tokio::test(flavor = "multi_thread")]
async fn a_leak_cannot_wait_for_drift_and_strangers() {
    let site = Site::alternating().await;
    site.rotate().await;
    let leaked = site.rotate().await;
    // Strangers sit in the spare user.
    site.world.sql("ALTER ROLE {p}_a LOGIN PASSWORD 'by-hand'").await;
    let spare = credential_of(&site.world.name("a"), "by-hand");
    let stranger = site.world.connect(&spare).await.expect("a session");
    site.at.run(&["contain", POLICY]).await.ended(0);
    assert!(stranger.simple_query("select 1").await.is_err(), "a stranger keeps its session");
    site.assert_in_order(&[leaked, spare], 3).await;
}

/// A rotation that was left open takes part: its candidate was seen by nobody, or it is finished first.
#[tokio::test(flavor = "multi_thread")]
async fn a_containment_takes_over_what_is_open() {
    for (step, records) in [("verify", 2), ("restart", 3)] {
        let site = Site::alternating().await;
        let mut gate = Gate::new(&site.at.path(""));
        let leaked = site.rotate().await;
        if step == "verify" {
            site.hold_verify().await;
        } else {
            site.at.change_policy(NAME, |policy| {
                policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
            });
        }
        let running = site.at.start(&["rotate", POLICY]);
        if step == "verify" {
            site.verify_is_held().await;
        } else {
            gate.reached().await;
        }
        running.kill().await;
        let open = site.candidate().await.expect("an open rotation");
        if step == "verify" {
            site.release_verify().await;
        }
        for _ in 0..4 {
            gate.open().await;
        }
        site.at.run(&["contain", POLICY]).await.ended(0);
        if records == 2 {
            assert_eq!(site.delivered(), open, "a candidate that nobody has seen was thrown away");
            site.assert_in_order(&[leaked], records).await;
        } else {
            site.assert_in_order(&[leaked, open], records).await;
        }
        assert_eq!(site.records().await[0]["trigger"], "contain");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_value_is_replaced() {
    let at = Installation::new().await;
    at.write_policy(&generated(&at));
    at.run(&["rotate", "shop/session-key"]).await.ended(0);
    let leaked = read(&at.path("session.key"));
    at.run(&["contain", "shop/session-key"]).await.ended(0);
    assert_ne!(read(&at.path("session.key")), leaked);
    at.run(&["audit", "verify"]).await.ended(0);
}

/// In place, readers fail between the change and its publication: for how long stands in the record.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_a_change_in_place_is_on_record() {
    let (in_place, pair) = (Site::in_place().await, Site::alternating().await);
    in_place.rotate().await;
    in_place.hold_verify().await;
    let running = in_place.at.start(&["rotate", POLICY]);
    in_place.verify_is_held().await;
    // Readers fail now; a second look at the clock that the record's can be compared with.
    let began = std::time::Instant::now();
    in_place.at.run(&["status"]).await.ended(0);
    let least = began.elapsed().as_millis() as u64;
    in_place.release_verify().await;
    running.end().await.ended(0);
    let window = in_place.records().await[0]["windowMs"].as_u64().expect("a window");
    assert!(window >= least, "{window} ms on record, at least {least} ms in truth");

    pair.rotate().await;
    pair.rotate().await;
    assert!(pair.records().await[0]["windowMs"].is_null(), "two users have no window");
}
