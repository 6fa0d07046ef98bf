//! Databases that speak by a script: ClickHouse and MySQL 8.

use serde_json::{Value, json};

use super::Ground;
use crate::clickhouse_server::Clickhouse;
use crate::faults_walk::FAULTS;
use crate::mysql8::{Account, Mysql8, native};

const ADMIN: (&str, &str) = ("rekeyd", "the password of the admin");

/// Walks over the target's calls, from the first value on.
async fn walk(target: &Value, host: &str) {
    let ground = Ground::new().with_admin("admin", ADMIN, host);
    let walk = ground.walk(target, &[], &[]);
    walk.begin().await;
    walk.over(&FAULTS, &["target."]).await;
}

fn of_clickhouse(servers: &[&Clickhouse], strategy: Value) -> Value {
    let nodes: Vec<_> =
        servers.iter().map(|server| json!({"host": "127.0.0.1", "port": server.port})).collect();
    json!({"clickhouse": {
        "nodes": nodes, "tls": {"mode": "disable"}, "admin": "admin", "strategy": strategy,
    }})
}

/// Two nodes: what a dead process has done at one may not be done at the other.
async fn clickhouse() -> [Clickhouse; 2] {
    [Clickhouse::start(ADMIN.0, ADMIN.1).await, Clickhouse::start(ADMIN.0, ADMIN.1).await]
}

#[tokio::test]
async fn two_users_of_clickhouse() {
    let [one, other] = clickhouse().await;
    for server in [&one, &other] {
        server.tables().roles.insert("reader".into());
    }
    let strategy = json!({"alternating": {"users": ["app_a", "app_b"], "memberOf": ["reader"]}});
    walk(&of_clickhouse(&[&one, &other], strategy), "127.0.0.1").await;
}

#[tokio::test]
async fn one_user_of_clickhouse() {
    let [one, other] = clickhouse().await;
    for server in [&one, &other] {
        server.make("app");
    }
    walk(&of_clickhouse(&[&one, &other], json!({"dualPassword": {"user": "app"}})), "127.0.0.1").await;
    for server in [&one, &other] {
        assert_eq!(server.user("app").ways.len(), 1, "a value is left beside the one in force");
    }
}

/// A MySQL 8 whose account `app` nobody can log in with yet.
fn mysql() -> Mysql8 {
    let server = Mysql8::start(ADMIN.0, ADMIN.1);
    let closed = Account {
        plugin: "mysql_native_password".into(),
        primary: native("nobody knows"),
        locked: true,
        ..Account::default()
    };
    let mut tables = server.state.tables();
    tables.accounts.insert(("app".into(), "%".into()), closed);
    tables.accounts.insert(("readers".into(), "%".into()), Account::default());
    drop(tables);
    server
}

async fn walk_at_mysql(server: &Mysql8, strategy: Value) {
    let host = server.socket.display().to_string();
    let target = json!({"mysql": {
        "endpoint": {"host": host, "port": 3306, "tls": {"mode": "disable"}},
        "admin": "admin", "authentication": "cachingSha2", "strategy": strategy, "check": "SELECT 1",
    }});
    walk(&target, &host).await;
    assert_eq!(server.state.tables().strange, Vec::<String>::new());
}

#[tokio::test]
async fn two_accounts_of_mysql() {
    let users = json!({"users": ["app_a", "app_b"], "memberOf": ["readers"]});
    walk_at_mysql(&mysql(), json!({"alternating": users})).await;
}

#[tokio::test]
async fn one_account_of_mysql() {
    let server = mysql();
    walk_at_mysql(&server, json!({"dualPassword": {"user": "app"}})).await;
    let account = server.state.tables().accounts[&("app".to_owned(), "%".to_owned())].clone();
    assert!(account.secondary.is_none(), "a second value is left");
}

#[tokio::test]
async fn an_account_of_mysql_in_place() {
    walk_at_mysql(&mysql(), json!({"inPlace": {"user": "app"}})).await;
}
