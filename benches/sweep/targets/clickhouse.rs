//! ClickHouse, its engine as a library: two users that take turns, over its HTTP interface.

use std::path::Path;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;

use super::{Client, Launched, Server, value};
use crate::fleet::Target;
use crate::postgres::write_password;
use crate::site::ADMIN;
use crate::{Outcome, users};

const RIGHTS: &str = "GRANT CREATE USER, ALTER USER, DROP USER, CREATE SETTINGS PROFILE, DROP SETTINGS PROFILE, \
                      SHOW ACCESS, KILL QUERY ON *.*";

/// A way to log in that nobody has.
const NOBODYS: &str = "sha256_hash BY '0000000000000000000000000000000000000000000000000000000000000000' SALT 'salt' \
                       VALID UNTIL '2000-01-01 00:00:00'";

pub(super) struct Bench {
    server: Launched,
    port: u16,
    version: String,
}

impl Bench {
    pub(super) async fn start(run: &Path, admin: &Path) -> Outcome<Self> {
        let server = Launched::start("clickhouse", run, &[])?;
        let port = server.port(&server.described["nodes"][0])?;
        let mut bench = Self { server, port, version: String::new() };
        let mut root = bench.bare().await?;
        let password = write_password(admin)?;
        root.say(&format!("CREATE USER {ADMIN} IDENTIFIED WITH sha256_password BY '{password}'")).await?;
        root.say(&format!("{RIGHTS} TO {ADMIN}")).await?;
        root.say(&format!("GRANT SELECT ON system.* TO {ADMIN}")).await?;
        for number in 0..users() {
            for user in ["a", "b"].map(|which| format!("bare_{number}_{which}")) {
                root.say(&format!("CREATE SETTINGS PROFILE `{}`", marker(&user, 0, "installed"))).await?;
                let profile = marker(&user, 0, "installed");
                root.say(&format!(
                    "CREATE USER {user} IDENTIFIED WITH {NOBODYS} SETTINGS PROFILE `{profile}`"
                ))
                .await?;
            }
        }
        bench.version = root.say("SELECT version()").await?;
        Ok(bench)
    }

    async fn bare(&self) -> Outcome<Bare> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Bare { sender, root: self.server.password()? })
    }
}

#[async_trait]
impl Server for Bench {
    fn version(&self) -> String {
        format!("ClickHouse {} (chdb)", self.version)
    }

    fn target(&self) -> Target {
        let port = self.port;
        Box::new(move |number| {
            format!(
                "{{clickhouse: {{nodes: [{{host: 127.0.0.1, port: {port}}}], tls: {{mode: disable}}, admin: admin, \
                 strategy: {{alternating: {{users: [rotated_{number}_a, rotated_{number}_b]}}}}}}}}"
            )
        })
    }

    fn firsts(&self) -> usize {
        2
    }

    async fn counted(&self) -> Outcome<Option<[f64; 2]>> {
        let mut root = self.bare().await?;
        let mut counts = [0.0; 2];
        for (count, event) in counts.iter_mut().zip(["HTTPServerConnectionsCreated", "Query"]) {
            let statement = format!("SELECT toString(value) FROM system.events WHERE event = '{event}'");
            *count = root.say(&statement).await?.parse().unwrap_or_default();
        }
        Ok(Some(counts))
    }

    async fn client(&self) -> Outcome<Box<dyn Client>> {
        Ok(Box::new(self.bare().await?))
    }
}

/// One connection.
struct Bare {
    sender: SendRequest<Full<Bytes>>,
    root: String,
}

impl Bare {
    /// The superuser says something: the first value of what comes back.
    async fn say(&mut self, statement: &str) -> Outcome<String> {
        let root = self.root.clone();
        match self.say_as("root", &root, statement).await? {
            (None, told) => {
                let told: Value = serde_json::from_str(&told).unwrap_or_default();
                Ok(told["data"][0][0].as_str().unwrap_or_default().to_owned())
            }
            (Some(error), _) => Err(format!("ClickHouse: {statement}: error {error}").into()),
        }
    }

    /// The number of the error, and the answer.
    async fn say_as(
        &mut self,
        user: &str,
        value: &str,
        statement: &str,
    ) -> Outcome<(Option<String>, String)> {
        let request = hyper::Request::builder()
            .method("POST")
            .uri("/")
            .header("host", "clickhouse")
            .header("x-clickhouse-user", user)
            .header("x-clickhouse-key", value)
            .header("x-clickhouse-format", "JSONCompact")
            .body(Full::new(Bytes::from(statement.to_owned())))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let error = response.headers().get("x-clickhouse-exception-code").cloned();
        let error = error.map(|code| String::from_utf8_lossy(code.as_bytes()).into_owned());
        let answer = response.into_body().collect().await?.to_bytes();
        Ok((error, String::from_utf8_lossy(&answer).into_owned()))
    }

    /// What is looked at of a user that takes turns.
    async fn read(&mut self, user: &str) -> Outcome<()> {
        for statement in [
            format!(
                "SELECT storage, arrayMap(kind -> toString(kind), auth_type) FROM system.users WHERE name = '{user}'"
            ),
            format!("SHOW CREATE USER {user}"),
            entries(user),
            format!("SHOW GRANTS FOR {user}"),
            naming(user),
        ] {
            self.say(&statement).await?;
        }
        Ok(())
    }

    async fn queries(&mut self, user: &str) -> Outcome<()> {
        self.time().await?;
        let listed = format!(
            "SELECT query_id, toString(address), client_name, http_user_agent, toString(toInt64(elapsed * 1000000)) \
             FROM system.processes WHERE user = '{user}' OR initial_user = '{user}'"
        );
        self.say(&listed).await.map(drop)
    }

    async fn time(&mut self) -> Outcome<()> {
        self.say("SELECT toString(toUnixTimestamp64Micro(now64(6)))").await.map(drop)
    }

    /// Claims a user, changes it, and marks it. What held it before is dropped.
    async fn change(&mut self, user: &str, round: usize, ways: &str, anew: bool) -> Outcome<()> {
        let state = if anew { "retired" } else { "installed" };
        let (claim, marker) = (marker(user, round, "claim"), marker(user, round, state));
        let before = self.say(&entries(user)).await?;
        self.say(&format!("CREATE SETTINGS PROFILE IF NOT EXISTS `{claim}`")).await?;
        self.say(&format!("ALTER USER {user} ADD PROFILES `{claim}`")).await?;
        self.say(&format!("DROP SETTINGS PROFILE IF EXISTS `{before}`")).await?;
        if anew {
            let making =
                format!("CREATE USER OR REPLACE {user} IDENTIFIED WITH {NOBODYS} SETTINGS PROFILE `{claim}`");
            self.say(&making).await?;
        }
        self.say(&format!("CREATE SETTINGS PROFILE IF NOT EXISTS `{marker}`")).await?;
        self.say(&format!(
            "ALTER USER {user} IDENTIFIED WITH {ways} DROP PROFILES `{claim}` ADD PROFILES `{marker}`"
        ))
        .await?;
        self.say(&entries(user)).await?;
        self.say(&format!("DROP SETTINGS PROFILE IF EXISTS `{claim}`")).await.map(drop)
    }

    async fn is_let_in(&mut self, user: &str, value: &str) -> Outcome<bool> {
        match self.say_as(user, value, "SELECT currentUser()").await?.0.as_deref() {
            None => Ok(true),
            Some("516") => Ok(false),
            Some(error) => Err(format!("ClickHouse: a login: error {error}").into()),
        }
    }
}

#[async_trait]
impl Client for Bare {
    async fn rotate(&mut self, user: usize, round: usize) -> Outcome<()> {
        let names = [format!("bare_{user}_a"), format!("bare_{user}_b")];
        let (spare, current) = (&names[round % 2], &names[(round + 1) % 2]);
        let (new, old) = (value(round), value(round + 1));
        self.say("SELECT version(), currentUser(), toString(now())").await?;
        self.read(spare).await?;
        self.read(current).await?;
        self.queries(spare).await?;
        let digest = Sha256::new_with_prefix(new).chain_update("salt").finalize();
        let digest: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        self.change(spare, round + 1, &format!("sha256_hash BY '{digest}' SALT 'salt'"), false).await?;
        self.time().await?;
        let tried = self.is_let_in(spare, new).await?;
        self.queries(current).await?;
        self.say("SELECT version(), currentUser(), toString(now())").await?;
        self.read(current).await?;
        self.change(current, round + 1, NOBODYS, true).await?;
        self.queries(current).await?;
        self.time().await?;
        self.queries(current).await?;
        if tried && !self.is_let_in(current, old).await? {
            return Ok(());
        }
        Err(format!("{spare} and {current} are not let in as they should").into())
    }
}

/// The name of a profile that is as long as rekeyd's.
fn marker(user: &str, round: usize, state: &str) -> String {
    format!(
        "[bare policy=team-0/{user} version={round} fence={round} rotation=01900000-0000-7000-8000-000000000000 \
         state={state}] {user}"
    )
}

fn entries(user: &str) -> String {
    format!(
        "SELECT inherit_profile FROM system.settings_profile_elements WHERE user_name = '{user}' AND inherit_profile \
         IS NOT NULL"
    )
}

fn naming(user: &str) -> String {
    let of = |what: &str, table: &str| {
        format!(
            "SELECT concat('{what} ', name) FROM system.{table} WHERE has(apply_to_list, '{user}') OR \
             has(apply_to_except, '{user}')"
        )
    };
    let tables =
        [("row policy", "row_policies"), ("quota", "quotas"), ("settings profile", "settings_profiles")];
    tables.map(|(what, table)| of(what, table)).join(" UNION ALL ")
}
