//! Samples of a cache and a broker, on the shared Redis pair and RabbitMQ.

use serde_json::json;

use super::sample::Sample;
use crate::{rabbitmq_support, redis_support};

pub(super) async fn redis(mut sample: Sample) {
    // The one on which no suite of its own has the shipped binary read a sample.
    let world = redis_support::World::shared(redis_support::Kind::Valkey).await;
    sample.target("redis", |target| {
        let nodes = world.spec().nodes;
        assert_eq!(target["nodes"].as_array().map(Vec::len), Some(nodes.len()), "one of each node");
        target["nodes"] = nodes.iter().map(|node| json!({"host": node.host, "port": node.port})).collect();
        target["tls"] = json!({"mode": "disable"});
        target["strategy"]["dualPassword"]["user"] = json!(world.user().as_str());
        // The user may read keys of a prefix of its own.
        let key = target["check"][1].as_str().expect("a key").rsplit(':').next().expect("a name").to_owned();
        let prefix = world.user().as_str().trim_end_matches("_app").to_owned();
        target["check"][1] = json!(format!("{prefix}:{key}"));
    });
    sample.admin("cache-admin", world.admin(), "127.0.0.1");
    let lets_in = async |credential: &rekeyd::secret::Credential| {
        let mut verdicts = Vec::new();
        for node in 0..2 {
            verdicts.push(match world.connect(node, credential).await {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.to_string().contains("uthentication"), "no verdict: {error}");
                    false
                }
            });
        }
        assert_eq!(verdicts[0], verdicts[1], "the nodes differ");
        verdicts[0]
    };
    sample.lives(lets_in).await;
}

pub(super) async fn rabbitmq(mut sample: Sample) {
    let world = rabbitmq_support::World::shared().await;
    let host = world.server.host.clone();
    sample.target("rabbitmq", |target| {
        target["endpoint"] = json!({"host": host, "port": world.server.port, "tls": {"mode": "disable"}});
        target["strategy"]["alternating"]["users"] =
            world.pair().iter().map(|user| json!(user.as_str())).collect();
    });
    sample.admin("cache-admin", world.admin(), &host);
    // The first of a pair has the rights that somebody gives it: here what it takes to open a connection.
    let lets_in = async |credential: &rekeyd::secret::Credential| {
        world.permit(&credential.principal, ".*").await;
        world.connect(credential).await.is_some()
    };
    sample.lives(lets_in).await;
}
