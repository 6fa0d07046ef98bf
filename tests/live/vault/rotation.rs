//! The shipped binary rotates and contains what a real OpenBao makes, and is killed where that leaves something.

use rekeyd::policy::spec::{DerivedTokens, VaultSpec};
use rekeyd::secret::Credential;
use rekeyd::target::vault::VaultTarget;
use rekeyd::target::{Probe, ProbeDepth, Target as _};
use serde_json::json;

use crate::installation::{Installation, read};
use crate::site::credential_in;
use crate::vault_support::World;

const POLICY: &str = "orders/login";

/// An installation, and the owner whose keys it rotates.
struct Site {
    world: World,
    at: Installation,
    spec: VaultSpec,
    target: VaultTarget,
}

impl Site {
    async fn new(world: World, spec: VaultSpec) -> Self {
        let at = Installation::new().await;
        at.change_settings(|settings| {
            settings["stores"]["bao"] = json!({"vault": {
                "address": world.server.address, "auth": {"token": {"file": world.token_file()}},
            }});
        });
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": "login", "namespace": "orders"},
            "spec": {
                "target": {"vault": spec},
                "store": {"name": "main", "path": "orders/login"},
                "consumers": [{"file": {
                    "path": at.path("login.env"), "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        }));
        let target = world.target(spec.clone());
        Self { world, at, spec, target }
    }

    /// The credential that the reader finds in its file.
    fn delivered(&self) -> Credential {
        credential_in(&read(&self.at.path("login.env")))
    }

    /// There is one key, the reader has it, and it lets in. The outgoing one does not.
    async fn in_order(&self, outgoing: Option<&Credential>) -> Credential {
        let delivered = self.delivered();
        let keys = self.target.keys(self.spec.owner()).await.expect("the keys");
        let ids: Vec<_> = keys.iter().map(|key| &key.id).collect();
        assert_eq!(ids, [&delivered.principal], "there are other keys");
        assert_eq!(self.target.probe(&delivered, ProbeDepth::Login).await, Probe::Accepted);
        if let Some(outgoing) = outgoing {
            assert_eq!(self.target.probe(outgoing, ProbeDepth::Login).await, Probe::Refused);
        }
        delivered
    }
}

async fn rotates_and_is_contained(site: &Site) {
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let mut outgoing = site.in_order(None).await;
    for command in ["rotate", "contain"] {
        site.at.run(&["preflight", POLICY]).await.ended(0).says(&["negative control"]);
        site.at.run(&[command, POLICY]).await.ended(0).says(&["old value refused"]);
        outgoing = site.in_order(Some(&outgoing)).await;
    }
}

/// What a killed process had made is nobody's, and gone when the next one is done.
async fn survives(site: &Site, point: &str) {
    let outgoing = site.in_order(None).await;
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
    let killed = site.at.spawn(command).end().await;
    assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.in_order(Some(&outgoing)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_id_rotates_and_is_contained() {
    let world = World::of_secret_ids();
    let spec = world.secret_ids(DerivedTokens::Revoke);
    let site = Site::new(world, spec).await;
    rotates_and_is_contained(&site).await;
    // Who logged in with a value that leaked is put out with it.
    let leaked = site.delivered();
    let token = site.world.log_in(&leaked);
    site.at.run(&["contain", POLICY]).await.ended(0).says(&["1 session"]);
    assert!(!site.world.lives(&token), "whoever logged in with it goes on");
    site.in_order(Some(&leaked)).await;
    assert_eq!(site.world.logins(), 0, "probes left tokens behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_rotates_and_is_contained() {
    let world = World::of_tokens();
    let spec = world.tokens();
    rotates_and_is_contained(&Site::new(world, spec).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_death_leaves_a_secret_id_or_its_tokens() {
    let world = World::of_secret_ids();
    let spec = world.secret_ids(DerivedTokens::Revoke);
    let site = Site::new(world, spec).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    for point in ["mint.made", "vault.probe.login"] {
        survives(&site, point).await;
    }
    let token = site.world.log_in(&site.delivered());
    survives(&site, "vault.retire.destroyed").await;
    assert!(!site.world.lives(&token), "a token of a dead secret id lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_death_leaves_a_token() {
    let world = World::of_tokens();
    let spec = world.tokens();
    let site = Site::new(world, spec).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    survives(&site, "mint.made").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let (ids, tokens) = (World::of_secret_ids(), World::of_tokens());
    let (of_ids, of_tokens) = (ids.secret_ids(DerivedTokens::Expire), tokens.tokens());
    let (ids, tokens) = (Site::new(ids, of_ids).await, Site::new(tokens, of_tokens).await);
    for site in [&ids, &tokens] {
        site.at.run(&["rotate", POLICY]).await.ended(0);
    }
    // Tokens are looked at when they are of age.
    tokio::join!(
        crate::walk::walk_in_short(&ids.at, POLICY),
        crate::walk::walk_past_changes(&tokens.at, POLICY)
    );
    for site in [&ids, &tokens] {
        site.in_order(None).await;
    }
}
