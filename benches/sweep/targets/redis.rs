//! Redis and Valkey: a second password beside the first, which is taken away then. Each change is kept in the ACL file.

use std::path::Path;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionAddr, IntoConnectionInfo as _, Pipeline, RedisConnectionInfo, cmd, pipe};
use sha2::{Digest as _, Sha256};

use super::{Client, Launched, Server, value};
use crate::fleet::Target;
use crate::postgres::write_password;
use crate::site::ADMIN;
use crate::{Outcome, users};

/// What the admin is given, as the documentation says.
const RIGHTS: &str = "+acl +client +config|get +config|rewrite +info +time +multi +exec +discard";

pub(super) struct Bench {
    server: Launched,
    port: u16,
    version: String,
}

impl Bench {
    pub(super) async fn start(launcher: &'static str, run: &Path, admin: &Path) -> Outcome<Self> {
        let server = Launched::start(launcher, run, &["--single"])?;
        let port = server.port(&server.described["nodes"][0])?;
        let mut root = session(port, "root", &server.password()?).await?;
        let password = write_password(admin)?;
        acl(ADMIN)
            .arg("on")
            .arg(format!(">{password}"))
            .arg(RIGHTS.split(' ').collect::<Vec<_>>())
            .exec_async(&mut root)
            .await?;
        for number in 0..users() {
            for prefix in ["rotated", "bare"] {
                acl(&format!("{prefix}_{number}")).arg("~app:*").arg("+@read").exec_async(&mut root).await?;
            }
        }
        let told: String = cmd("INFO").arg("server").query_async(&mut root).await?;
        // Valkey gives that of the Redis that it is compatible with, too.
        let version = ["Valkey", "Redis"].into_iter().find_map(|name| {
            let key = format!("{}_version:", name.to_lowercase());
            let version = told.lines().find_map(|line| line.strip_prefix(&key))?;
            Some(format!("{name} {}", version.trim()))
        });
        Ok(Self { port, version: version.ok_or("the server does not say what it is")?, server })
    }
}

#[async_trait]
impl Server for Bench {
    fn version(&self) -> String {
        format!("{} with an ACL file", self.version)
    }

    fn target(&self) -> Target {
        let port = self.port;
        Box::new(move |number| {
            format!(
                "{{redis: {{nodes: [{{host: 127.0.0.1, port: {port}}}], tls: {{mode: disable}}, admin: admin, \
                 strategy: {{dualPassword: {{user: rotated_{number}}}}}}}}}"
            )
        })
    }

    fn firsts(&self) -> usize {
        1
    }

    async fn counted(&self) -> Outcome<Option<[f64; 2]>> {
        let mut root = session(self.port, "root", &self.server.password()?).await?;
        let told: String = cmd("INFO").arg("stats").query_async(&mut root).await?;
        let count = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(count("total_connections_received:").zip(count("total_commands_processed:")).map(Into::into))
    }

    async fn client(&self) -> Outcome<Box<dyn Client>> {
        Ok(Box::new(Bare { port: self.port, password: self.server.password()? }))
    }
}

/// It keeps no session, as rekeyd keeps none.
struct Bare {
    port: u16,
    password: String,
}

impl Bare {
    async fn root(&self) -> Outcome<MultiplexedConnection> {
        let mut root = session(self.port, "root", &self.password).await?;
        pipe()
            .cmd("CLIENT")
            .arg("SETNAME")
            .arg("bare")
            .cmd("ACL")
            .arg("WHOAMI")
            .exec_async(&mut root)
            .await?;
        Ok(root)
    }

    /// Looks at a user, rehearses a change and makes it.
    async fn change(&self, user: &str, modifiers: &[String]) -> Outcome<()> {
        let mut root = self.root().await?;
        pipe()
            .cmd("ACL")
            .arg("GETUSER")
            .arg(user)
            .cmd("CONFIG")
            .arg("GET")
            .arg("aclfile")
            .exec_async(&mut root)
            .await?;
        let (mut rehearsal, mut change) = (Pipeline::new(), Pipeline::new());
        let list = || cmd("CLIENT").arg("LIST").to_owned();
        rehearsal.cmd("MULTI").add_command(acl(user)).cmd("ACL").arg("SAVE").add_command(list());
        rehearsal.cmd("TIME").cmd("DISCARD");
        rehearsal.exec_async(&mut root).await?;
        change.cmd("MULTI").add_command(acl(user).arg(modifiers).to_owned()).cmd("ACL").arg("SAVE");
        change.add_command(list()).cmd("TIME").cmd("EXEC");
        Ok(change.exec_async(&mut root).await?)
    }
}

#[async_trait]
impl Client for Bare {
    async fn rotate(&mut self, user: usize, round: usize) -> Outcome<()> {
        let user = format!("bare_{user}");
        let (new, old) = (value(round), value(round + 1));
        self.change(&user, &["on".to_owned(), format!("#{}", hash(new))]).await?;
        session(self.port, &user, new).await?;
        pipe().cmd("CLIENT").arg("LIST").cmd("TIME").exec_async(&mut self.root().await?).await?;
        let others = if round == 0 { Vec::new() } else { vec![format!("!{}", hash(old))] };
        self.change(&user, &others).await?;
        match session(self.port, &user, old).await {
            Err(_) => Ok(()),
            Ok(_) => Err(format!("{user} is let in with its earlier value").into()),
        }
    }
}

fn acl(user: &str) -> Cmd {
    cmd("ACL").arg("SETUSER").arg(user).to_owned()
}

fn hash(value: &str) -> String {
    Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn session(port: u16, user: &str, password: &str) -> Outcome<MultiplexedConnection> {
    let login = RedisConnectionInfo::default().set_username(user).set_password(password);
    let info = ConnectionAddr::Tcp("127.0.0.1".to_owned(), port).into_connection_info()?;
    let client = redis::Client::open(info.set_redis_settings(login))?;
    Ok(client.get_multiplexed_async_connection().await?)
}
