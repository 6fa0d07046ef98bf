//! What is told before anything is changed.

use std::process::{Child, Command, Stdio};

use rekeyd::failure::FailureClass;
use rekeyd::target::redis::RedisTarget;
use rekeyd::target::{PreflightRequest, Target as _};

use super::{failed, install, on_each_server, remedy};
use crate::postgres_support::{Try, credential_of, known, soon};
use crate::redis_support::{Kind, World};

on_each_server! {
    every_node_of_a_set_has_to_be_named
    what_nodes_have_differently_is_told
    a_user_that_replication_logs_in_as_is_told
    an_admin_that_is_not_let_in_is_told
    users_that_a_restart_would_forget_are_not_changed
    a_check_that_does_more_than_read_is_told
}

async fn told(target: &RedisTarget, current: Option<&rekeyd::secret::Credential>) -> Vec<String> {
    let step = Try::new(9);
    failed(&target.preflight(PreflightRequest { policy: &step.policy, current }).await)
}

#[track_caller]
fn assert_told(told: &[String], words: &str) {
    assert!(told.iter().any(|line| line.contains(words)), "{words:?} is not in {told:?}");
}

async fn every_node_of_a_set_has_to_be_named(kind: Kind) {
    let world = World::shared(kind).await;
    soon("the replica is connected", async || {
        let info: String = world.run(1, "INFO replication").await;
        info.contains("master_link_status:up")
    })
    .await;
    let (mut spec, [master, replica]) = (world.spec(), [0, 1].map(|node| world.spec().nodes[node].clone()));
    let step = Try::new(9);
    let all = world.target().preflight(PreflightRequest { policy: &step.policy, current: None }).await;
    assert_eq!(failed(&all), Vec::<String>::new());
    let product = match kind {
        Kind::Redis => "Redis 7.",
        Kind::Valkey => "Valkey 9.",
    };
    assert!(all.iter().any(|finding| finding.detail.starts_with(product)), "{all:?}");
    spec.nodes = vec![master.clone()];
    let said = told(&world.target_of(spec.clone()), None).await;
    assert_told(&said, &format!("names 0 of 1 replicas; the nodes know of 127.0.0.1:{}", replica.port));
    spec.nodes = vec![replica];
    let said = told(&world.target_of(spec), None).await;
    assert_told(&said, &format!("does not name the master, 127.0.0.1:{}", master.port));
}

async fn what_nodes_have_differently_is_told(kind: Kind) {
    let world = World::shared(kind).await;
    let target = world.target();
    let (one, other) = (world.credential(), world.credential());
    install(&target, &Try::new(1), &one, None).await.expect("installed");
    assert_eq!(told(&target, Some(&one)).await, Vec::<String>::new());
    world.run::<()>(1, &format!("ACL SETUSER {{p}}_app #{}", "ab".repeat(32))).await;
    let said = told(&target, Some(&one)).await;
    assert_told(&said, "has other values than on");
    assert_told(&said, "a value that rekeyd does not know");
    let said = told(&target, Some(&other)).await;
    assert_told(&said, "the node refuses the value");
    world.run::<()>(1, "ACL SETUSER {p}_app nopass").await;
    let said = told(&target, Some(&one)).await;
    assert_told(&said, "let in with any value");
    assert_told(&said, "no value can be proven dead there");
    world.run::<()>(1, "ACL DELUSER {p}_app").await;
    assert_told(&told(&target, Some(&one)).await, "the user does not exist");
}

async fn a_user_that_replication_logs_in_as_is_told(kind: Kind) {
    let world = World::private(kind).await;
    world.run::<()>(1, "CONFIG SET masteruser {p}_app").await;
    let said = told(&world.target(), None).await;
    assert_told(&said, "logs in at its master as this user");
    world.run::<()>(1, "CONFIG SET masteruser root").await;
    assert_eq!(told(&world.target(), None).await, Vec::<String>::new());
}

async fn an_admin_that_is_not_let_in_is_told(kind: Kind) {
    let world = World::shared(kind).await;
    let wrong = credential_of(&world.admin().principal, "not its password");
    let target = RedisTarget::new(world.spec(), known(&wrong));
    assert_told(&told(&target, None).await, "the server refuses the credential");
    let failure = install(&target, &Try::new(1), &world.credential(), None).await.expect_err("it is wrong");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(remedy(&failure).contains("credentials.cache-admin"), "{failure:?}");

    let itself = RedisTarget::new(world.spec(), known(&world.credential()));
    assert_told(&told(&itself, None).await, "it is the user that is to be changed");
    world.everywhere("ACL SETUSER {p}_admin -acl|getuser").await;
    assert_told(&told(&world.target(), None).await, "the admin may not do that");
}

/// Before it is run, and before there is a value to run it with.
async fn a_check_that_does_more_than_read_is_told(kind: Kind) {
    let world = World::shared(kind).await;
    let (one, key) = (world.credential(), world.user().as_str().replace("_app", ":health"));
    install(&world.target(), &Try::new(1), &one, None).await.expect("installed");
    let mut spec = world.spec();
    spec.check = ["SET", &key, "1"].map(str::to_owned).to_vec();
    let writing = world.target_of(spec.clone());
    let told = told(&writing, Some(&one)).await;
    let [line] = told.as_slice() else { panic!("not one: {told:?}") };
    assert!(line.contains("set may do more than read"), "{line}");
    assert!(!world.run::<bool>(0, &format!("EXISTS {key}")).await, "it was run");
    world.everywhere("ACL SETUSER {p}_app resetpass").await;
    assert_told(&self::told(&writing, None).await, "may do more than read");
    spec.check = ["EXISTS", &key].map(str::to_owned).to_vec();
    assert_eq!(self::told(&world.target_of(spec), None).await, Vec::<String>::new());
}

/// A server without any file.
struct Memory {
    process: Child,
    port: u16,
}

impl Memory {
    async fn start(program: &std::path::Path) -> Self {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .expect("its program");
        soon("it listens", async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        Self { process, port }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn users_that_a_restart_would_forget_are_not_changed(kind: Kind) {
    let world = World::shared(kind).await;
    let server = Memory::start(&world.servers.at.program).await;
    let client = redis::Client::open(("127.0.0.1", server.port)).expect("a client");
    let mut root = client.get_multiplexed_async_connection().await.expect("a session");
    let admin = crate::redis_support::hash(crate::postgres_support::text(world.admin()));
    let (user, name) = (world.user(), &world.admin().principal);
    for command in [format!("ACL SETUSER {name} on #{admin} +@all"), format!("ACL SETUSER {user} on +@read")]
    {
        crate::redis_support::command(&command).exec_async(&mut root).await.expect("a user");
    }
    let mut spec = world.spec();
    spec.nodes.truncate(1);
    spec.nodes[0].port = server.port;
    let target = world.target_of(spec);
    assert_told(&told(&target, None).await, "a restart would bring back what was retired");
    let failure = install(&target, &Try::new(1), &world.credential(), None).await.expect_err("forgotten");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(remedy(&failure).contains("aclfile"), "{failure:?}");
}
