//! Workloads that a policy names beside those that are found, in the order that it says, and one that comes meanwhile.

use serde_json::json;

use crate::cluster::{SECRET, delivered, told, version_of};
use crate::kubernetes::idle;
use crate::site::*;
use crate::story::{Change, Story};

/// The revision of the first change of an object of which something holds.
fn first(story: &[Change], kind: &str, name: &str, holds: impl Fn(&serde_json::Value) -> bool) -> u64 {
    let of = story.iter().filter(|change| change.kind == kind && change.name.starts_with(name));
    let so = of.filter(|change| change.object.as_ref().is_some_and(&holds));
    so.map(|change| change.revision).min().unwrap_or_else(|| panic!("nothing of {kind} {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn named_found_and_late_workloads_restart_once_in_the_order_that_the_policy_says() {
    let (_, space, site) = delivered().await;
    let outgoing = space.credential(SECRET).await;
    let other = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "another"}, "stringData": {"key": "x"},
    });
    space.create(&other).await;
    // The last of them has the value on a way that nobody sees.
    for (name, secret) in [("one", SECRET), ("two", SECRET), ("three", "another")] {
        space.create(&idle("Deployment", name, 1, secret)).await;
    }
    for name in ["one", "two", "three"] {
        space.rolled_out(&format!("deployment/{name}")).await;
    }
    let deployment = |name: &str| json!({"kind": "Deployment", "name": name});
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        workloads["also"] = json!([deployment("three")]);
        workloads["after"] = json!([
            {"workload": deployment("one"), "waitsFor": [deployment("two")]},
            {"workload": deployment("three"), "waitsFor": [deployment("one")]},
        ]);
    });
    let mut watching = Story::watch(&space, &["deployments", "pods"]);
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "publish/consumer.publish#1=stop");
    let rotating = site.at.spawn(command);
    assert!(rotating.stands_still().await);
    // Begun with the outgoing value, after everybody was looked for.
    space.create(&idle("Deployment", "late", 1, SECRET)).await;
    space.rolled_out("deployment/late").await;
    rotating.signal(rustix::process::Signal::CONT);
    rotating.end().await.ended(0);
    assert!(!site.accepts(&outgoing).await);
    for name in ["one", "two", "three", "late"] {
        assert_eq!(told(&space, &format!("deployment/{name}")).await, (Some("2".into()), 2), "{name}");
    }

    space.kubectl(&["label", "deployment/late", "is=last"]).await;
    let mut story = Vec::new();
    loop {
        let change = watching.next().await;
        let is_last =
            change.object.as_ref().is_some_and(|object| object["metadata"]["labels"]["is"] == "last");
        story.push(change);
        if is_last {
            break;
        }
    }
    let restarted = |name: &str| {
        first(&story, "Deployment", name, |object| object["metadata"]["generation"].as_i64() == Some(2))
    };
    let moved = |name: &str| {
        first(&story, "Pod", &format!("{name}-"), |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            let mut ready = conditions.into_iter().flatten().filter(|one| one["type"] == "Ready");
            version_of(pod) == Some("2") && ready.any(|one| one["status"] == "True")
        })
    };
    assert!(restarted("two") < moved("two"));
    assert!(moved("two") < restarted("one"), "one did not wait");
    assert!(moved("one") < restarted("three"), "three did not wait");
}
