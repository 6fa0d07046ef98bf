//! What goes wrong at the database: each fault is named, and nothing is lost.

use std::net::TcpListener;

use super::*;
use crate::postgres_support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_admin_password() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let admin = site.at.path("admin.password");
    let right = read(&admin);
    write_secret(&admin, "wrong");
    let answer = site.rotate_in_vain().await;
    answer.says(&[
        &format!("{POLICY}: abandoned, v1 stays in force: cannot log in at "),
        "with the admin credential orders-admin: the server refuses the credential",
        "remedy: put the admin's working password where credentials.orders-admin says",
    ]);
    site.assert_in_order(&[], 2).await;
    assert_eq!(site.delivered(), old);
    let record = site.records().await.remove(0);
    assert_eq!((&record["outcome"], &record["to"]), (&json!("abandoned"), &json!(1)), "{record:#}");

    for (change, text) in [
        (Box::new(|| write_secret(&admin, "")) as Box<dyn Fn()>, "admin.password: it is empty"),
        (Box::new(|| set_mode(&admin, 0o644)), "its mode is 0644: others can get at it"),
        (
            Box::new(|| std::fs::remove_file(&admin).expect("removed")),
            "admin.password: no such file or folder",
        ),
    ] {
        change();
        site.rotate_in_vain().await.says(&["cannot read credential orders-admin from ", text, "remedy: "]);
    }
    write_secret(&admin, &right);
    site.rotate().await;
    site.assert_in_order(&[old], 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_user() {
    let site = Site::in_place().await;
    site.world.sql("DROP ROLE {p}_a").await;
    let user = site.world.name("a");
    let answer = site.rotate_in_vain().await;
    answer.says(&[
        "abandoned, v0 stays in force",
        &format!("cannot install role {user} on "),
        "the role does not exist",
        &format!("remedy: CREATE ROLE \"{user}\" NOLOGIN"),
    ]);
    assert!(site.stored().await.is_none() && site.candidate().await.is_none());
    site.world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    site.rotate().await;
    site.assert_in_order(&[], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_user_in_use() {
    let site = Site::alternating().await;
    let first = site.rotate().await;
    let old = site.rotate().await;
    // Somebody gave the spare user a password by hand, and uses it.
    let spare = credential_of(&first.principal, "by-hand");
    site.world.sql("ALTER ROLE {p}_a LOGIN PASSWORD 'by-hand'").await;
    let stranger = site.world.connect(&spare).await.expect("a session");
    let answer = site.rotate_in_vain().await;
    answer.says(&[
        "abandoned, v2 stays in force",
        &format!("role {} on ", first.principal),
        "it should be idle and has 1 open session: the test",
        "remedy: move these clients to the current credential; a containment ends their sessions",
    ]);
    assert!(stranger.simple_query("select 1").await.is_ok(), "a stranger's session was closed");
    site.assert_in_order(&[], 3).await;
    assert_eq!(site.delivered(), old);
    drop(stranger);
    site.world.idle(&first.principal).await;
    site.rotate().await;
    site.assert_in_order(&[old, spare], 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_rotation_of_a_user_in_use() {
    for (site, strategy) in [(Site::alternating().await, "alternating"), (Site::in_place().await, "inPlace")]
    {
        if strategy == "alternating" {
            site.world.sql("CREATE ROLE {p}_a NOLOGIN").await;
        }
        site.world.sql("ALTER ROLE {p}_a LOGIN PASSWORD 'live'").await;
        let live = credential_of(&site.world.name("a"), "live");
        let application = site.world.connect(&live).await.expect("a session");
        let reason = "it should be idle and has 1 open session: the test";
        site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", reason, "`rekeyd adopt`"]);
        site.rotate_in_vain().await.says(&[reason, "remedy: take their value over with `rekeyd adopt`"]);
        assert!(application.simple_query("select 1").await.is_ok(), "{strategy}");
        // Between two connections, or until it is started the next time.
        drop(application);
        site.world.idle(&live.principal).await;
        let reason = "it may log in, with a password that rekeyd does not know";
        site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", reason, "`rekeyd adopt`"]);
        site.rotate_in_vain().await.says(&[reason, "have over with `rekeyd adopt`"]);
        assert!(site.accepts(&live).await, "{strategy}: the application was locked out");
        assert!(site.stored().await.is_none() && site.candidate().await.is_none(), "{strategy}");
    }
}

/// One rotation meets a server that is down, that is starting, that is a standby and that is full, and is
/// finished when all of it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_down_starting_read_only_and_full() {
    let small = ["--", "-c", "max_connections=12", "-c", "superuser_reserved_connections=3"];
    let world = World::on(Server::private(&small)).await;
    world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    let user = world.name("a");
    let mut site = Site::on(world, json!({"inPlace": {"user": user.as_str()}})).await;
    let old = site.rotate().await;
    let signal = |data: &std::path::Path| data.join("standby.signal");

    site.world.server.stop();
    let down = site.rotate_in_vain().await;
    down.says(&[
        &format!("{POLICY}: open at step install: cannot log in as"),
        "connection refused",
        "remedy: check that the server runs",
    ]);
    let candidate = site.candidate().await.expect("an open rotation");
    let status = site.at.run(&["status", POLICY]).await.ended(0);
    status.says(&[
        "rotating",
        "step install (no process here drives it)",
        "remedy: finish it with `rekeyd resume",
    ]);

    // A standby that lets nobody in answers as one that starts.
    site.world.server.restart(&["--no-wait", "--", "-c", "hot_standby=off"], |data| {
        std::fs::write(signal(data), "").expect("written");
    });
    site.resume_in_vain().await.says(&["open at step install", "the server is starting", "remedy: "]);

    site.world.server.restart(&[], |_| ());
    site.resume_in_vain().await.says(&[
        "open at step install",
        "the server is a standby and read-only",
        "remedy: point the endpoint at the primary",
    ]);

    site.world.server.restart(&small, |data| std::fs::remove_file(signal(data)).expect("removed"));
    let mut held = Vec::new();
    while let Ok(session) = site.world.connect(&old).await {
        held.push(session);
    }
    site.resume_in_vain().await.says(&["open at step install", "too many connections", "remedy: "]);

    drop(held);
    site.world.idle(&user).await;
    assert!(site.accepts(&old).await, "the old value was lost in the meantime");
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(site.delivered(), candidate, "another value than the one that was opened with");
    site.assert_in_order(&[old], 2).await;
}

/// A server that takes connections and never says a word holds up its own policies and no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_accepts_and_never_answers() {
    let site = Site::alternating().await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut policy = site.document("orders-silent", json!({"inPlace": {"user": "nobody"}}));
    policy["spec"]["target"]["postgres"]["endpoint"]["port"] =
        json!(silent.local_addr().expect("an address").port());
    for document in [&mut policy, &mut site.policy()] {
        document["spec"]["schedule"] = json!({"cron": "0 3 1 1 *", "maxAge": "1s"});
        site.at.write_policy(document);
    }
    site.at.change_settings(|settings| settings["shutdownDeadline"] = json!("1s"));
    // One has to exist before its age can count.
    site.rotate().await;
    let mut daemon = site.at.daemon().await;
    let stuck = site.at.start(&["rotate", "orders/orders-silent"]);
    daemon.says_of("orders/orders-silent", "step started").await;
    for _ in 0..3 {
        daemon.says_of(POLICY, "rotation closed").await;
    }
    let status = site.at.run(&["status", "-o", "json"]).await.json();
    let open =
        status.as_array().expect("a list").iter().find(|each| each["policy"] == "orders/orders-silent");
    assert_eq!(open.expect("its status")["open"]["driven"], true, "{status:#}");

    // Stopping does not wait for it either, beyond the deadline.
    let began = std::time::Instant::now();
    let log = daemon.stop().await;
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "stopping took {took:?}");
    assert!(
        log.iter()
            .any(|entry| entry["message"].as_str().is_some_and(|text| text.contains("before the deadline")))
    );
    stuck.end().await.ended(1);
    site.at.run(&["audit", "verify"]).await.ended(0);
}
