//! A daemon dies while it gives readers back what they lost.

use futures_util::future::join_all;

use crate::cluster::{SECRET, delivered, told};
use crate::kubernetes::idle;
use crate::processes::until;
use crate::site::POLICY;

/// The Secret is not there yet; it is, and nobody was told; they were, and nobody knows that.
const POINTS: [&str; 3] = ["mend/consumer.publish", "mend/consumer.reload", "mend/consumer.observe"];

/// Whoever looks next does what is left: the value is there again, and its readers restart once.
#[tokio::test(flavor = "multi_thread")]
async fn no_death_in_the_middle_of_it_leaves_readers_without_their_value() {
    join_all(POINTS.map(async |point| {
        let (_, space, site) = delivered().await;
        let value = space.credential(SECRET).await;
        space.create(&idle("Deployment", "app", 1, SECRET)).await;
        space.rolled_out("deployment/app").await;
        space.kubectl(&["delete", "secret", SECRET]).await;

        let mut command = site.at.command(&["run"]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let killed = site.at.spawn(command).end().await;
        assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
        let secrets = space.kubectl(&["get", "secrets", "-o", "name"]).await;
        assert_eq!(secrets.contains(SECRET), point != POINTS[0], "{point}: {secrets}");
        let version = told(&space, "deployment/app").await.0;
        assert_eq!(version.is_some(), point == POINTS[2], "{point}: {version:?}");

        let daemon = site.at.daemon().await;
        until(point, async || told(&space, "deployment/app").await.0.as_deref() == Some("1")).await;
        assert_eq!(space.credential(SECRET).await, value, "{point}");
        space.rolled_out("deployment/app").await;
        daemon.stop().await;
        assert_eq!(told(&space, "deployment/app").await.1, 2, "{point}: it restarts again");
        let log = site.at.run(&["audit", "log", POLICY, "-o", "json"]).await.ended(0).json();
        assert_eq!(log.as_array().map(Vec::len), Some(1), "{point}: that is no rotation");
        assert!(site.accepts(&value).await, "{point}");
    }))
    .await;
}
