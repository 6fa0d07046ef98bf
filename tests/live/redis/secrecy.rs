//! No value is left at a server, in nothing that it writes or shows.

use rekeyd::target::{Extent, PreflightRequest, ProbeDepth, Target as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{install, on_each_server, retire};
use crate::postgres_support::{Try, credential_of, soon};
use crate::redis_support::{Kind, Servers, World};

on_each_server! {
    what_a_server_shows_of_commands_holds_no_value
}

async fn what_a_server_shows_of_commands_holds_no_value(kind: Kind) {
    let world = World::on(Servers::private(
        kind,
        &["--", "--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000"],
    ))
    .await;
    let target = world.target();
    let mark = "Marked.value";
    let value = |name: &str| credential_of(&world.user(), &format!("{mark}.{name}"));
    let (old, new) = (value("old"), value("new"));
    let mut monitor =
        TcpStream::connect(("127.0.0.1", world.servers.at.nodes[0].port)).await.expect("a server");
    let login = format!("AUTH root {}\r\nMONITOR\r\n", world.servers.password());
    monitor.write_all(login.as_bytes()).await.expect("sent");
    soon("it watches", async || {
        let list: String = world.run(0, "CLIENT LIST").await;
        list.contains("cmd=monitor")
    })
    .await;

    // Every path that handles a value, with logins that are refused.
    install(&target, &Try::new(1), &old, None).await.expect("installed");
    let step = Try::new(2);
    install(&target, &step, &new, Some(&old)).await.expect("installed");
    target.probe(&new, ProbeDepth::Check).await;
    target.probe(&value("wrong"), ProbeDepth::Login).await;
    target.preflight(PreflightRequest { policy: &step.policy, current: Some(&new) }).await;
    retire(&target, &step, Extent::OtherValues, Some(&new), &world.user()).await.expect("retired");

    // The control: a value in an ordinary command is found in all that shows commands.
    world.run::<redis::Value>(0, &format!("SET careless {mark}.careless")).await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("careless") {
        let mut piece = [0; 4096];
        let length = monitor.read(&mut piece).await.expect("it goes on");
        assert_ne!(length, 0, "the server ended it");
        seen.extend_from_slice(&piece[..length]);
    }
    let slow: redis::Value = world.run(0, "SLOWLOG GET 10000").await;
    let (monitor, slow) = (String::from_utf8_lossy(&seen).into_owned(), format!("{slow:?}"));
    for (place, content) in [("MONITOR", &monitor), ("SLOWLOG", &slow)] {
        assert!(content.contains("careless"), "the control is not in {place}");
        assert_eq!(content.matches(mark).count(), 1, "a value is in {place}");
    }
    let refused: redis::Value = world.run(0, "ACL LOG").await;
    let refused = format!("{refused:?}");
    assert!(refused.contains(world.user().as_str()), "the refused login is not in ACL LOG");
    let folder = &world.servers.at.nodes[0].folder;
    let files = ["log", "users.acl", "redis.conf"]
        .map(|name| std::fs::read_to_string(folder.join(name)).expect("a file"));
    assert!(files[1].contains(world.user().as_str()), "the user is not in its file");
    for content in files.iter().chain([&refused]) {
        assert!(!content.contains(mark), "a value is left: {content}");
    }
}
