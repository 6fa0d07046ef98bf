//! The shipped binary rotates accounts of a real server, and is killed between any two of its writes there.

use rekeyd::policy::spec::MysqlStrategy;
use rekeyd::secret::Credential;
use serde_json::{Value, json};

use super::on_each_server;
use crate::installation::{Installation, read};
use crate::mysql_support::{Kind, World};
use crate::postgres_support::text;
use crate::site::{credential_in, write_secret};

on_each_server! {
    no_death_in_the_middle_of_taking_turns_breaks_anything
    no_death_beside_a_second_password_breaks_anything
    no_death_of_a_change_in_place_breaks_anything
    a_fault_at_every_call_breaks_nothing
}

const POLICY: &str = "orders/orders-db";

/// Every place between two writes of a call.
const POINTS: [&str; 4] =
    ["mysql.install.locked", "mysql.install.committed", "mysql.retire.locked", "mysql.retire.committed"];

async fn no_death_in_the_middle_of_taking_turns_breaks_anything(kind: Kind) {
    let world = World::shared(kind).await;
    let strategy = world.alternating().strategy;
    survive(world, &strategy).await;
}

async fn no_death_beside_a_second_password_breaks_anything(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let strategy = world.dual(None).strategy;
    survive(world, &strategy).await;
}

async fn no_death_of_a_change_in_place_breaks_anything(kind: Kind) {
    let world = World::shared(kind).await;
    world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    let strategy = world.in_place().strategy;
    survive(world, &strategy).await;
}

async fn survive(world: World, strategy: &MysqlStrategy) {
    let site = Site::new(world, strategy).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let mut old = site.in_order(&[], 1).await;
    // A value that was replaced in place is dead already, and an account is not written again.
    let points = if matches!(strategy, MysqlStrategy::InPlace(_)) { &POINTS[..2] } else { &POINTS[..] };
    for (number, point) in (2..).zip(points) {
        let mut straggler = site.world.connect(&old).await.expect("a session");
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let killed = site.at.spawn(command).end().await;
        assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
        // Nobody is locked out meanwhile: a reader's value works wherever the account takes two or there are two.
        let delivered = site.delivered();
        if !matches!(strategy, MysqlStrategy::InPlace(_)) {
            assert!(site.world.connect(&delivered).await.is_ok(), "{point}: its reader is locked out");
        }
        site.at.run(&["resume", POLICY]).await.ended(0);
        let new = site.in_order(&[&old], number).await;
        assert!(straggler.query("SELECT 1").await.is_err(), "{point}: a session of the old value is open");
        old = new;
    }
}

async fn a_fault_at_every_call_breaks_nothing(kind: Kind) {
    let (pair, one, other) =
        (World::shared(kind).await, World::shared(kind).await, World::shared(kind).await);
    let strategies = (pair.alternating().strategy, one.dual(None).strategy, other.in_place().strategy);
    for world in [&one, &other] {
        world.sql("CREATE USER '{p}_a'@'%' ACCOUNT LOCK").await;
    }
    tokio::join!(walk(pair, &strategies.0), walk(one, &strategies.1), walk(other, &strategies.2));
}

async fn walk(world: World, strategy: &MysqlStrategy) {
    let site = Site::new(world, strategy).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    crate::walk::walk(&site.at, POLICY).await;
}

struct Site {
    world: World,
    at: Installation,
}

impl Site {
    async fn new(world: World, strategy: &MysqlStrategy) -> Self {
        let at = Installation::new().await;
        let admin = world.admin();
        write_secret(&at.path("admin.password"), text(admin));
        at.change_settings(|settings| {
            settings["credentials"]["orders-admin"] =
                json!({"file": {
                    "username": admin.principal.as_str(), "path": "admin.password", "hosts": [world.endpoint().host],
                }});
        });
        let endpoint = serde_json::to_value(world.endpoint()).expect("JSON");
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": "orders-db", "namespace": "orders"},
            "spec": {
                "target": {"mysql": {
                    "endpoint": endpoint,
                    "admin": "orders-admin",
                    "strategy": serde_json::to_value(strategy).expect("JSON"),
                    "check": "select 1",
                }},
                "store": {"name": "main", "path": "apps/orders/db"},
                "consumers": [{"file": {
                    "path": at.path("orders-db.env"), "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        }));
        Self { world, at }
    }

    fn delivered(&self) -> Credential {
        credential_in(&read(&self.at.path("orders-db.env")))
    }

    /// What a reader has works, the old values are refused, no rotation is open, and each has one record.
    async fn in_order(&self, dead: &[&Credential], records: usize) -> Credential {
        let delivered = self.delivered();
        assert!(self.world.connect(&delivered).await.is_ok(), "the value in force is refused");
        for old in dead {
            let refused = self.world.connect(old).await.err().expect("an old value is accepted");
            let is_verdict =
                ["ERROR 1045", "ERROR 4151", "ERROR 3118"].iter().any(|verdict| refused.starts_with(verdict));
            assert!(is_verdict, "{refused}");
        }
        let log = self.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
        let records_now = log.as_array().expect("a list");
        assert_eq!(records_now.len(), records, "{records_now:#?}");
        let proof: &Value = &records_now[0]["record"];
        assert_eq!(proof["outcome"], "rotated", "{proof:#}");
        self.at.run(&["audit", "verify"]).await.ended(0);
        delivered
    }
}
