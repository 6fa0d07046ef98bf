//! MariaDB and MySQL: a password that changes in place. The bare client is MariaDB's own, `mariadb`, told what to say.

use std::path::Path;
use std::process::Stdio;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Client, Launched, Server, value};
use crate::fleet::Target;
use crate::postgres::{write_password, write_private};
use crate::site::ADMIN;
use crate::{Outcome, users};

/// Has the client send what it has read.
const END: &str = "\n$$\n";

/// A new connection, with the limits that rekeyd sets.
const ENTER: &str = "\\r\nSET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES', time_zone = '+00:00', \
    lock_wait_timeout = 9, innodb_lock_wait_timeout = 9, wait_timeout = 16\n$$\n";

/// What is said otherwise to one of them than to the other.
pub(super) struct Product {
    name: &'static str,
    launcher: &'static str,
    options: &'static [&'static str],
    authentication: &'static str,
    /// How an account comes to a value.
    by: &'static str,
    /// What the admin is given, as the documentation says, and what markers are kept in.
    rights: &'static str,
    /// What the server keeps of a value.
    kept: &'static str,
    /// What is looked at, of the server and of an account.
    look: &'static str,
    /// What is looked at after that.
    notes: &'static str,
    /// How an account's marker changes.
    mark: &'static str,
    /// How an account comes to what the server keeps of a value.
    change: &'static str,
    counts: &'static str,
}

pub(super) static MARIADB: Product = Product {
    name: "MariaDB",
    launcher: "mariadb",
    options: &[],
    authentication: "ed25519",
    by: "IDENTIFIED VIA ed25519 USING PASSWORD('{value}')",
    rights: "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO 'rekeyd'@'%';
        GRANT SELECT, UPDATE ON mysql.* TO 'rekeyd'@'%'; GRANT ALL ON rekeyd.* TO 'rekeyd'@'%';
        CREATE DATABASE IF NOT EXISTS rekeyd;
        CREATE TABLE IF NOT EXISTS rekeyd.bare (user VARCHAR(128) PRIMARY KEY, marker TEXT NOT NULL) ENGINE=InnoDB;",
    kept: "SELECT JSON_VALUE(Priv, '$.authentication_string') FROM mysql.global_priv WHERE User = 'kept'",
    look: "SELECT VERSION(), @@read_only, CURRENT_USER(), VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
           WHERE VARIABLE_NAME = 'UPTIME'; \
           SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_TYPE = 'AUTHENTICATION'; \
           SELECT User, Host, Priv FROM mysql.global_priv WHERE User IN ('', '{user}'); SELECT NULL LIMIT 0; \
           SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'rekeyd' AND TABLE_NAME = 'accounts'; \
           SELECT COUNT(*) FROM information_schema.INNODB_CMP; \
           SELECT ID, HOST, TIME_MS FROM information_schema.PROCESSLIST \
           WHERE CAST(USER AS BINARY) = CAST('{user}' AS BINARY) AND ID <> CONNECTION_ID() ORDER BY ID",
    notes: "SELECT marker FROM rekeyd.bare WHERE user = '{user}'",
    mark: "REPLACE INTO rekeyd.bare VALUES ('{user}', 'version={round}')",
    change: "REPLACE INTO rekeyd.bare VALUES ('{user}', 'version={round}'); \
             ALTER USER '{user}'@'%' IDENTIFIED VIA ed25519 USING '{kept}' ACCOUNT UNLOCK",
    counts: "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
             WHERE VARIABLE_NAME IN ('CONNECTIONS', 'QUESTIONS') ORDER BY VARIABLE_NAME",
};

pub(super) static MYSQL: Product = Product {
    name: "MySQL",
    launcher: "mysql",
    // Over a connection in the clear it would give a value away.
    options: &["--tls"],
    authentication: "cachingSha2",
    by: "IDENTIFIED WITH caching_sha2_password BY '{value}'",
    rights: "GRANT CREATE USER, PROCESS, CONNECTION_ADMIN ON *.* TO 'rekeyd'@'%';
        GRANT SELECT ON mysql.* TO 'rekeyd'@'%';",
    kept: "SELECT HEX(authentication_string) FROM mysql.user WHERE User = 'kept'",
    look: "SELECT VERSION(), VARIABLE_VALUE, NOW(6), @@read_only, CURRENT_USER() FROM performance_schema.global_status \
           WHERE VARIABLE_NAME = 'Uptime'; \
           SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_TYPE = 'AUTHENTICATION'; \
           SELECT * FROM mysql.user WHERE User IN ('', '{user}'); \
           SELECT * FROM mysql.default_roles WHERE USER IN ('{user}') ORDER BY 3; SELECT NULL LIMIT 0; \
           SELECT COUNT(*) FROM information_schema.INNODB_CMP; \
           SELECT ID, HOST, TIME FROM information_schema.PROCESSLIST \
           WHERE CAST(USER AS BINARY) = CAST('{user}' AS BINARY) AND ID <> CONNECTION_ID() ORDER BY ID",
    notes: "SELECT JSON_EXTRACT(ATTRIBUTE, '$.bare') FROM information_schema.USER_ATTRIBUTES \
            WHERE USER = '{user}' AND HOST = '%'",
    mark: "ALTER USER '{user}'@'%' ATTRIBUTE '{\"bare\": \"version={round}\"}'",
    change: "ALTER USER '{user}'@'%' IDENTIFIED WITH caching_sha2_password AS 0x{kept} ACCOUNT UNLOCK \
             ATTRIBUTE '{\"bare\": \"claimed\"}'; ALTER USER '{user}'@'%' DISCARD OLD PASSWORD",
    counts: "SELECT VARIABLE_VALUE FROM performance_schema.global_status \
             WHERE VARIABLE_NAME IN ('Connections', 'Questions') ORDER BY VARIABLE_NAME",
};

pub(super) struct Bench {
    product: &'static Product,
    server: Launched,
    port: u16,
    /// Where the client finds its login.
    login: std::path::PathBuf,
    version: String,
    /// What the server keeps of the two values.
    kept: [String; 2],
}

impl Bench {
    pub(super) async fn start(product: &'static Product, run: &Path, admin: &Path) -> Outcome<Self> {
        let server = Launched::start(product.launcher, run, product.options)?;
        let port = server.port(&server.described)?;
        let login = run.join("bare.cnf");
        let (superuser, root) = (server.described["superuser"].as_str(), server.password()?);
        let (superuser, socket) = superuser.zip(server.described["socket"].as_str()).ok_or("no superuser")?;
        let by_socket = format!("[client]\nsocket={socket}\nuser={superuser}\npassword={root}\n");
        write_private(&login, &by_socket)?;
        let with = |value: &str| product.by.replace("{value}", value);
        let ca = server.described["caFile"].as_str().map(ToOwned::to_owned);
        let mut bench =
            Self { product, server, port, login, version: String::new(), kept: Default::default() };
        let mut session = bench.session()?;
        let password = write_password(admin)?;
        // The superuser is let in by the socket alone, and rekeyd comes by TCP.
        let mut text = format!(
            "CREATE USER '{ADMIN}'@'%' {}; {} CREATE USER 'client'@'%' {}; \
             GRANT ALL ON *.* TO 'client'@'%'; SET GLOBAL general_log = OFF;",
            with(&password),
            product.rights,
            with(&root)
        );
        for number in 0..users() {
            for prefix in ["rotated", "bare"] {
                text += &format!("CREATE USER '{prefix}_{number}'@'%' ACCOUNT LOCK;");
            }
        }
        session.say(&text).await?;
        bench.version = session.say("SELECT VERSION()").await?.concat();
        for (round, kept) in bench.kept.iter_mut().enumerate() {
            let ask = format!(
                "DROP USER IF EXISTS 'kept'@'%'; CREATE USER 'kept'@'%' {}; {}",
                with(value(round)),
                product.kept
            );
            *kept = session.say(&ask).await?.concat();
        }
        let tls = match ca {
            None => "skip-ssl".to_owned(),
            Some(ca) => format!("ssl-ca={ca}\nssl-verify-server-cert"),
        };
        let by_tcp =
            format!("host=127.0.0.1\nprotocol=tcp\nport={port}\n{tls}\nuser=client\npassword={root}\n");
        write_private(&bench.login, &format!("[client]\n{by_tcp}"))?;
        Ok(bench)
    }

    fn session(&self) -> Outcome<Bare> {
        let mut defaults = std::ffi::OsString::from("--defaults-file=");
        defaults.push(&self.login);
        let mut child = Command::new("mariadb")
            .arg(defaults)
            .args(["--batch", "--skip-column-names", "--unbuffered", "--delimiter=$$"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Bare { product: self.product, kept: self.kept.clone(), input, output, _child: child })
    }
}

#[async_trait]
impl Server for Bench {
    fn version(&self) -> String {
        format!("{} {}, every commit on the disk", self.product.name, self.version)
    }

    fn target(&self) -> Target {
        let (port, authentication) = (self.port, self.product.authentication);
        let tls = match self.server.described["caFile"].as_str() {
            None => "{mode: disable}".to_owned(),
            Some(ca) => format!("{{mode: verify-full, caFile: {ca}}}"),
        };
        Box::new(move |number| {
            format!(
                "{{mysql: {{endpoint: {{host: 127.0.0.1, port: {port}, tls: {tls}}}, admin: admin, \
                 authentication: {authentication}, strategy: {{inPlace: {{user: rotated_{number}}}}}}}}}"
            )
        })
    }

    fn firsts(&self) -> usize {
        1
    }

    async fn counted(&self) -> Outcome<Option<[f64; 2]>> {
        let rows = self.session()?.say(self.product.counts).await?;
        let counts: Vec<f64> = rows.iter().filter_map(|row| row.parse().ok()).collect();
        Ok(counts.try_into().ok())
    }

    async fn client(&self) -> Outcome<Box<dyn Client>> {
        Ok(Box::new(self.session()?))
    }
}

struct Bare {
    product: &'static Product,
    kept: [String; 2],
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// It ends with this.
    _child: Child,
}

impl Bare {
    /// Runs statements one after the other, and gives the rows that they return. Those before an [`END`] go out
    /// together.
    async fn say(&mut self, statements: &str) -> Outcome<Vec<String>> {
        const LAST: &str = "that was all";
        self.input.write_all(format!("{statements}{END}SELECT '{LAST}'{END}").as_bytes()).await?;
        let mut rows = Vec::new();
        loop {
            // It ends with the first statement that fails, and says on its standard error why.
            match self.output.next_line().await?.ok_or("the client mariadb ended")? {
                line if line == LAST => return Ok(rows),
                line => rows.push(line),
            }
        }
    }
}

#[async_trait]
impl Client for Bare {
    /// It cannot log in as another user: where rekeyd tries a value, this logs in as itself once more.
    async fn rotate(&mut self, user: usize, round: usize) -> Outcome<()> {
        let name = format!("'bare_{user}'@'%'");
        let told = |text: &str| {
            let text = text.replace("{user}", &format!("bare_{user}")).replace("{round}", &round.to_string());
            text.replace("{kept}", &self.kept[round % 2])
        };
        let product = self.product;
        let look = format!("{}{END}{}; SHOW GRANTS FOR {name}{END}", told(product.look), told(product.notes));
        let sessions = format!(
            "SELECT COUNT(*) FROM information_schema.INNODB_CMP; \
             SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'bare_{user}'{END}"
        );
        let (mark, change) = (told(product.mark), told(product.change));
        let text = format!(
            "{ENTER} SELECT GET_LOCK('bare_{user}', 3); {look} \
             {change}{END}\
             {ENTER} SELECT UNIX_TIMESTAMP(NOW(6)){END}\
             {mark}{END}\
             \\r\nSELECT CURRENT_USER(){END}\
             {ENTER} {look} {sessions}\
             \\r\nSELECT 1{END}\
             {ENTER} {look}"
        );
        self.say(&text).await.map(drop)
    }
}
