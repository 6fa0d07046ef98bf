//! What goes wrong at the store: each fault is named, and nothing is lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::openbao::PrivateServer;
use crate::small_disk::SmallDisk;

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_serve_both_strategies() {
    for (mut site, in_openbao) in [
        (Site::alternating().await, false),
        (Site::alternating().await, true),
        (Site::in_place().await, false),
        (Site::in_place().await, true),
    ] {
        if in_openbao {
            site.move_to_openbao();
        }
        site.at.run(&["preflight", POLICY]).await.ended(0);
        let mut old = Vec::new();
        for version in 1..=3 {
            let current = site.rotate().await;
            site.assert_in_order(&old, version).await;
            old.push(current);
        }
        site.at.run(&["preflight", POLICY]).await.ended(0);
        site.at.run(&["contain", POLICY]).await.ended(0);
        site.assert_in_order(&old, 4).await;
    }
}

/// An application that talks to OpenBao finds the current value at the path, under the usual names.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_reads_the_value_from_openbao() {
    let mut site = Site::in_place().await;
    site.move_to_openbao();
    let current = site.rotate().await;
    let data = site.bao().read(PATH);
    let expected = json!({"username": current.principal.as_str(), "password": text(&current)});
    assert_eq!(data, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_store() {
    let private = PrivateServer::start();
    let mut site = Site::alternating().await;
    site.move_to(private.server.clone(), 2);
    let old = site.rotate().await;

    // Before a rotation: nothing is opened. In the middle: it stays open.
    private.seal();
    let sealed = "the server is sealed";
    let unseal = "remedy: unseal it with `bao operator unseal`";
    site.rotate_in_vain().await.says(&["error: cannot ", sealed, unseal]);
    site.at.run(&["status", POLICY]).await.ended(1).says(&["unknown", sealed, unseal]);
    site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", sealed]);
    site.at.run(&["audit", "verify"]).await.ended(1).says(&["NOT VERIFIED", sealed]);
    assert!(site.accepts(&old).await);
    private.unseal();

    let mut gate = Gate::new(&site.at.path(""));
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
        policy["spec"]["retire"]["grace"] = json!("1h");
    });
    let session = site.world.connect(&old).await.expect("a session");
    let running = site.at.start(&["rotate", POLICY, "--patience", "0s"]);
    gate.reached().await;
    private.seal();
    gate.open().await;
    let ending = running.end().await.ended(1).ending();
    assert_eq!(ending["ending"], "open", "{ending:#}");
    assert!(ending["message"].as_str().is_some_and(|text| text.contains(sealed)), "{ending:#}");
    assert!(site.accepts(&old).await && site.accepts(&site.delivered()).await, "one of the two was lost");
    private.unseal();
    drop(session);
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[old], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_and_missing_rights() {
    let mut site = Site::in_place().await;
    site.move_to_openbao();
    let old = site.rotate().await;
    let token = read(&site.at.path("bao.token"));
    site.bao().server.revoke(token.trim());
    let refused = site.rotate_in_vain().await;
    refused.says(&[
        "the server refuses the token in ",
        "bao.token",
        "remedy: write a fresh token to the file",
    ]);
    site.at.run(&["status", POLICY]).await.ended(1).says(&["unknown", "refuses the token"]);

    // One that runs out by itself.
    let (server, policy) = (&site.bao().server, &site.bao().policy);
    let short = server.token(policy, json!({"ttl": "1s", "explicit_max_ttl": "1s"}));
    write_secret(&site.at.path("bao.token"), &short);
    let lookup = async || server.call("POST", "auth/token/lookup", json!({"token": short})).0 != 200;
    soon("the token runs out", lookup).await;
    site.rotate_in_vain().await.says(&["the server refuses the token in ", "remedy: write a fresh token"]);
    assert!(site.accepts(&old).await);

    // Rights to read, and to write control documents, but none to write the value.
    let mount = &site.bao().mount.name;
    let policy = site.bao().server.policy(&format!(
        "path \"{mount}/data/apps/*\" {{ capabilities = [\"read\"] }}\n\
         path \"{mount}/data/rekeyd/*\" {{ capabilities = [\"create\", \"read\", \"update\"] }}\n\
         path \"{mount}/metadata/rekeyd/*\" {{ capabilities = [\"create\", \"update\", \"list\"] }}\n\
         path \"auth/token/lookup-self\" {{ capabilities = [\"read\"] }}\n"
    ));
    write_secret(&site.at.path("bao.token"), &site.bao().server.token(&policy, json!({})));
    let denied = site.rotate_in_vain().await;
    denied.says(&[
        "rolled back, v1 stays in force",
        &format!("permission denied on `{mount}/data/{PATH}`"),
        &format!(
            "remedy: grant `create` and `update` on `{mount}/data/{PATH}` in the policy of rekeyd's token"
        ),
    ]);
    assert!(site.accepts(&old).await, "the value that readers have was not put back");

    write_secret(&site.at.path("bao.token"), &site.bao().token());
    assert_eq!(site.stored().await.as_ref(), Some(&old));
    site.rotate().await;
    site.assert_in_order(&[old], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_version_1() {
    let mut site = Site::in_place().await;
    site.move_to(openbao::Server::shared(), 1);
    let answer = site.rotate_in_vain().await;
    answer.says(&[
        "error: cannot ",
        &site.bao().mount.name,
        "the mount is KV version 1",
        "remedy: ",
        "version=2",
    ]);
    site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", "KV version 1"]);
    let user = site.world.name("a");
    assert_eq!(
        site.world.row(&format!("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = '{user}'")).await,
        "t"
    );
}

/// Somebody writes the value while a rotation is under way. Nothing goes on until a person has decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_writer_puts_a_rotation_in_doubt() {
    for (in_openbao, replaces) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut site = Site::alternating().await;
        if in_openbao {
            site.move_to_openbao();
        }
        let old = site.rotate().await;
        site.hold_verify().await;
        let running = site.at.start(&["rotate", POLICY, "-o", "json"]);
        site.verify_is_held().await;
        let foreign = credential_of(&old.principal, "foreign");
        site.overwrite(&foreign).await;
        site.release_verify().await;
        let answer = running.end().await.ended(3);
        let ending = answer.ending();
        assert_eq!(ending["ending"], "inDoubt", "{ending:#}");
        let remedy = ending["remedy"].as_str().expect("a remedy");
        assert!(remedy.contains("find out who writes the store's path"), "{ending:#}");

        // It stays so: for those who look and who ask again.
        let status = site.at.run(&["status", POLICY]).await.ended(3);
        status.says(&[
            "in doubt",
            "the store's value was changed by somebody else during the rotation",
            remedy,
        ]);
        site.at.run(&["status"]).await.ended(3);
        site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(3).says(&["in doubt", remedy]);
        assert_eq!(site.stored().await.as_ref(), Some(&foreign), "a foreign value was overwritten");
        assert!(site.accepts(&old).await, "the value that readers have was lost");
        let candidate = site.candidate().await.expect("a candidate");

        // The way on: what is there is replaced, unless it is changed once more.
        if replaces {
            site.world.sql("SELECT pg_advisory_lock(42)").await;
            let running = site.at.start(&["resume", POLICY]);
            site.verify_is_held().await;
            site.overwrite(&credential_of(&old.principal, "foreign-too")).await;
            site.release_verify().await;
            running.end().await.ended(3);
            site.at.run(&["resume", POLICY]).await.ended(0);
            assert_eq!(site.delivered(), candidate);
            site.assert_in_order(&[old], 2).await;
            continue;
        }

        // The way back: the candidate is given up.
        let ending = site.at.run(&["resume", POLICY, "--abandon"]).await.ended(1).ending();
        assert_eq!(ending["ending"], "rolledBack", "{ending:#}");
        assert!(!site.accepts(&candidate).await && site.accepts(&old).await);
        // What the store holds is still not ours: it is not rotated away unasked, and can be taken over.
        let refused = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(1);
        refused.says(&["was changed by somebody else since v1", "remedy: ", "rekeyd adopt --replace"]);
        site.world.sql(&format!("ALTER ROLE {} PASSWORD 'foreign'", old.principal)).await;
        site.at.run(&["adopt", POLICY, "--from-store", "--replace"]).await.ended(0);
        assert_eq!(site.rotate().await.principal, candidate.principal);
        site.assert_in_order(&[old, foreign], 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_is_missing_too_open_or_wrong() {
    let site = Site::in_place().await;
    let old = site.rotate().await;
    let key = site.at.path("store.key");
    let right = read(&key);
    let path = key.display().to_string();
    let other = "0".repeat(64);
    let faults: [(&dyn Fn(), &[&str]); 4] = [
        (&|| std::fs::remove_file(&key).expect("removed"), &["No such file", "restore it from your backup"]),
        (
            &|| write_secret(&key, "half a key"),
            &["it does not hold 64 hexadecimal digits", "restore it from your backup"],
        ),
        (
            &|| write_secret(&key, &other),
            &["the key does not open this store", "give the key that the store was made with"],
        ),
        (
            &|| {
                write_secret(&key, &right);
                set_mode(&key, 0o640);
            },
            &["its mode is 0640 and must be 0600 or 0400", "chmod 600"],
        ),
    ];
    for (fault, texts) in faults {
        fault();
        for command in [
            &["rotate", POLICY, "-o", "text"][..],
            &["resume", POLICY, "-o", "text"],
            &["status"],
            &["preflight"],
        ] {
            let answer = site.at.run(command).await.ended(1);
            let name = if texts[0].starts_with("the key") { "store.db" } else { &path };
            answer.says(texts).says(&[name]);
        }
        assert_eq!(site.delivered(), old);
    }
    set_mode(&key, 0o600);
    site.rotate().await;
    site.assert_in_order(&[old], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let mut site = Site::in_place().await;
    let disk = SmallDisk::mount(&mut site.at, "disk").await;
    site.at
        .change_settings(|settings| settings["stores"]["main"]["embedded"]["path"] = json!("disk/store.db"));
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let old = site.delivered();
    disk.fill();
    let answer = site.rotate_in_vain().await;
    answer.says(&["store.db", "the disk is full", "remedy: free some space; nothing was lost"]);
    assert!(site.accepts(&old).await);
    assert_eq!(site.delivered(), old);
    disk.free();
    // Opened or not, it is finished: an open one by the next to come, whoever that is.
    site.at.daemon().await.stop().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert!(site.accepts(&site.delivered()).await && !site.accepts(&old).await);
    site.at.run(&["audit", "verify"]).await.ended(0);
}

/// A store that takes connections and never says a word holds up its own policies and no others, however many
/// they are; and nobody who asks waits for each of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_accepts_and_never_answers() {
    const MUTE: usize = 100;
    let site = Site::alternating().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["schedule"] = json!({"cron": "0 3 1 1 *", "maxAge": "1s"});
    });
    // One has to exist before its age can count.
    let old = site.rotate().await;
    let silent = Silent::start().await;
    write_secret(&site.at.path("silent.token"), "irrelevant");
    site.at.change_settings(|settings| {
        settings["stores"]["silent"] = json!({"vault": {
            "address": format!("http://127.0.0.1:{}", silent.port),
            "mount": "secret",
            "auth": {"token": {"file": "silent.token"}},
        }});
    });
    for number in 0..MUTE {
        // Before the other one in every order.
        let mut policy = generated(&site.at);
        policy["metadata"] = json!({"name": format!("mute-{number}"), "namespace": "all"});
        policy["spec"]["store"] = json!({"name": "silent", "path": format!("all/mute-{number}")});
        policy["spec"]["consumers"][0]["file"]["path"] = json!(site.at.path(&format!("mute-{number}.key")));
        site.at.write_policy(&policy);
    }

    let mut daemon = site.at.daemon().await;
    if !daemon.seen.iter().any(|entry| entry["message"] == "rotation closed") {
        daemon.says_of(POLICY, "rotation closed").await;
    }
    let waited_for = daemon.seen.iter().find(|entry| entry["message"] == "cannot attend to policy");
    assert_eq!(waited_for, None, "the silent store was waited for first");
    let began = std::time::Instant::now();
    daemon.stop().await;
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "stopping took {took:?}");

    let before = silent.connections();
    let status = site.at.run(&["status", "-o", "json"]).await.ended(1).json();
    let asked = silent.connections() - before;
    assert!((1..MUTE).contains(&asked), "{asked} connections for {MUTE} policies");
    let states: Vec<_> = status.as_array().expect("a list").iter().map(|each| &each["state"]).collect();
    assert_eq!(states.len(), MUTE + 1);
    assert_eq!(states.iter().filter(|state| **state == "unknown").count(), MUTE, "{status:#}");
    assert!(!site.accepts(&old).await);
}

/// Takes connections, holds them open and says nothing.
struct Silent {
    port: u16,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Silent {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                held.push(connection);
            }
        });
        Self { port, connections, task }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
