//! Samples of keys that a system makes: OpenBao, AWS IAM, Kubernetes.

use rekeyd::secret::Credential;
use serde_json::json;

use super::sample::{Sample, accepts};
use crate::iam::Moto;
use crate::kubernetes::Cluster;
use crate::postgres_support::text;
use crate::site::write_secret;
use crate::vault_support::World;

/// The role of a test's own behind the store that a sample names, with the documented rights.
fn place_login(sample: &Sample, world: &World) {
    sample.at.change_settings(|settings| {
        let vault = &mut settings["stores"]["bao"]["vault"];
        vault["address"] = json!(world.server.address);
        vault["auth"] = json!({"token": {"file": world.token_file()}});
        vault.as_object_mut().expect("an object").remove("caFile");
    });
}

pub(super) async fn secret_id(mut sample: Sample) {
    let world = World::of_secret_ids();
    place_login(&sample, &world);
    sample.target("vault", |vault| {
        vault["strategy"]["secretId"]["mount"] = json!(world.name);
        vault["strategy"]["secretId"]["role"] = json!("app");
    });
    let role = world.make("GET", "/role-id", json!({}))["data"]["role_id"].clone();
    let lets_in = async |credential: &Credential| {
        let body = json!({"role_id": role, "secret_id": text(credential)});
        let (status, answer) = world.server.call("POST", &format!("auth/{}/login", world.name), body);
        assert!(status == 200 || answer.to_string().contains("invalid"), "no verdict: {status} {answer}");
        status == 200
    };
    sample.lives(lets_in).await;
}

pub(super) async fn token(mut sample: Sample) {
    let world = World::of_tokens();
    place_login(&sample, &world);
    sample.target("vault", |vault| {
        vault["strategy"]["token"]["name"] = json!(format!("of-{}", world.name));
        vault["strategy"]["token"]["role"] = json!(world.name);
    });
    // As the sample says that the role is made.
    let role = json!({
        "orphan": true, "allowed_policies": ["default"], "renewable": true, "token_period": "720h",
    });
    world.server.make("POST", &format!("auth/token/roles/{}", world.name), role);
    let lets_in = async |credential: &Credential| {
        let (status, answer) =
            world.server.call("POST", "auth/token/lookup", json!({"token": text(credential)}));
        assert!(status == 200 || answer.to_string().contains("bad token"), "no verdict: {status} {answer}");
        let lives = status == 200;
        assert!(!lives || answer["data"]["creation_ttl"] == 720 * 3_600, "{answer}");
        lives
    };
    sample.lives(lets_in).await;
}

/// A moto of its own checks who comes, with the rights that rekeyd prints for the sample.
pub(super) async fn access_key(mut sample: Sample) {
    let moto = Moto::start();
    let user = sample.document()["spec"]["target"]["awsIam"]["user"].clone();
    moto.iam("CreateUser", &[("UserName", user.as_str().expect("a name"))]);
    sample.at.change_settings(|settings| {
        let aws = &mut settings["stores"]["aws"]["awsSecretsManager"];
        for endpoint in ["endpoint", "iamEndpoint", "stsEndpoint"] {
            aws[endpoint] = json!(moto.address);
        }
        aws["credentialsFile"] = json!("aws.keys");
    });
    let rights = sample.at.run(&["iam-policy", "--store", "aws"]).await.ended(0);
    write_secret(&sample.at.path("aws.keys"), &moto.user_with(&rights.stdout));
    moto.check();
    let target = sample.adapter();
    sample.lives(async |credential| accepts(&*target, credential).await).await;
}

pub(super) async fn service_account(mut sample: Sample) {
    let account = sample.document()["spec"]["target"]["kubernetesServiceAccount"].clone();
    let name = account["serviceAccount"].as_str().expect("a name").to_owned();
    let space = sample.space(account["cluster"].as_str().expect("a name")).await;
    space.kubectl(&["create", "serviceaccount", &name]).await;
    let namespace = space.name.clone();
    sample.target("kubernetesServiceAccount", |target| target["namespace"] = json!(namespace));
    let cluster = Cluster::shared();
    let target = sample.adapter();
    // Whoever logs in with a token has the API server remember it for ten seconds, so the one in force is looked at only:
    // it is there, and the rotation has logged in with it.
    let lets_in = async |credential: &Credential| {
        let name = credential.principal.as_str();
        let get = ["--namespace", &namespace, "get", "secret", name, "--ignore-not-found", "-o", "name"];
        let is_there = !cluster.kubectl(&get, "").await.is_empty();
        assert!(is_there || !accepts(&*target, credential).await, "a token outlives its Secret");
        is_there
    };
    sample.lives(lets_in).await;
}
