//! What the demo plays on: a private PostgreSQL, settings, a policy, the shipped binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::Outcome;
use super::application;
use super::server::Server;

pub(super) const POLICY: &str = "orders/orders-db";

/// What the demo plays on. Everything ends with [`Stage::clear`].
pub(super) struct Stage {
    root: PathBuf,
    pub(super) folder: PathBuf,
    /// The server's: not below the repository, which PostgreSQL's own user may not reach.
    run: PathBuf,
    pub(super) server: Server,
    rekeyd: PathBuf,
}

impl Stage {
    /// Starts the server and writes what rekeyd and the application need.
    pub(super) async fn set() -> Outcome<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/demo");
        if let Ok(run) = fs::read_to_string(folder.join("run")) {
            // A demo that was killed.
            script(&root, &["stop"], Path::new(&run)).await?;
            let _ = fs::remove_dir_all(run);
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("policies"))?;
        fs::create_dir_all(folder.join("app"))?;
        let run = std::env::temp_dir().join(format!("rekeyd-demo.{}", std::process::id()));
        fs::create_dir(&run)?;
        fs::write(folder.join("run"), run.display().to_string())?;
        script(&root, &["start"], &run).await?;
        let server = Server::read(&run)?;
        let rekeyd = std::env::current_exe()?.with_file_name("../rekeyd");
        let stage = Self { root, folder, run, server, rekeyd };
        write_secret(&stage.folder.join("admin.password"), &stage.server.fill().await?)?;
        stage.write_documents()?;
        Ok(stage)
    }

    /// Ends the server.
    pub(super) async fn clear(&self) -> Outcome<()> {
        script(&self.root, &["stop"], &self.run).await?;
        fs::remove_dir_all(&self.run)?;
        Ok(fs::remove_file(self.folder.join("run"))?)
    }

    /// The shipped binary with these arguments.
    pub(super) fn rekeyd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.rekeyd);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.folder.join("rekeyd.yaml"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs the shipped binary to its end and gives what it printed.
    pub(super) async fn rekeyd_says(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.rekeyd(arguments).stderr(Stdio::inherit()).output().await?;
        if !output.status.success() {
            return Err(format!("rekeyd {} failed ({})", arguments.join(" "), output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts the application.
    pub(super) fn application(&self) -> Outcome<Child> {
        let app = self.folder.join("app");
        let settings = application::Settings {
            host: self.server.host.clone(),
            port: self.server.port,
            database: "orders".into(),
            credential: self.credential().display().to_string(),
            folder: app.display().to_string(),
        };
        let file = app.join("settings.json");
        fs::write(&file, serde_json::to_vec(&settings)?)?;
        Ok(Command::new(std::env::current_exe()?)
            .arg("app")
            .arg(file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?)
    }

    /// The file that rekeyd writes and the application reads.
    pub(super) fn credential(&self) -> PathBuf {
        self.folder.join("app/db.env")
    }

    fn write_documents(&self) -> Outcome<()> {
        let folder = self.folder.display();
        fs::write(
            self.folder.join("rekeyd.yaml"),
            format!(
                "policies: {{directory: policies}}\n\
                 stores:\n  main: {{embedded: {{path: store.db, key: {{file: store.key}}}}}}\n\
                 credentials:\n  orders-db-admin: {{file: {{username: rekeyd, path: admin.password}}}}\n\
                 ledger: {{path: ledger.git}}\n\
                 socket: {folder}/rekeyd.sock\n"
            ),
        )?;
        let Server { host, port, ca_file, .. } = &self.server;
        let tls = match ca_file {
            Some(file) => format!("{{mode: verify-full, caFile: {}}}", file.display()),
            None => "{mode: disable}".into(),
        };
        let demo = std::env::current_exe()?;
        fs::write(
            self.folder.join("policies/orders.yaml"),
            format!(
                "apiVersion: rekeyd.dev/v1alpha1\n\
                 kind: RotationPolicy\n\
                 metadata: {{name: orders-db, namespace: orders}}\n\
                 spec:\n\
                 \x20 owner: team-orders@example.com\n\
                 \x20 schedule: {{cron: \"0 3 * * *\", timeZone: Europe/Berlin, maxAge: 3s}}\n\
                 \x20 target:\n\
                 \x20   postgres:\n\
                 \x20     endpoint: {{host: {host}, port: {port}, database: orders, tls: {tls}}}\n\
                 \x20     admin: orders-db-admin\n\
                 \x20     strategy: {{alternating: {{users: [orders_app_a, orders_app_b], memberOf: [orders_app]}}}}\n\
                 \x20     check: select 1 from orders limit 1\n\
                 \x20 store: {{name: main, path: apps/orders/db}}\n\
                 \x20 consumers:\n\
                 \x20   - file:\n\
                 \x20       path: {folder}/app/db.env\n\
                 \x20       content: \"PGUSER={{{{ principal }}}}\\nPGPASSWORD={{{{ value }}}}\\n\"\n\
                 \x20       reload: [{}, reload, {folder}/app]\n\
                 \x20 retire: {{grace: 2s}}\n",
                demo.display()
            ),
        )?;
        Ok(())
    }
}

async fn script(root: &Path, words: &[&str], run: &Path) -> Outcome<()> {
    let mut command = Command::new(root.join("deploy/dev/postgres"));
    command.args(words).arg(run).stdin(Stdio::null()).stdout(Stdio::null());
    if words == ["start"] {
        command.arg("--tls");
    }
    let status = command.status().await?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("deploy/dev/postgres {} failed ({status})", words.join(" ")).into())
    }
}

fn write_secret(path: &Path, value: &str) -> Outcome<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(value.as_bytes())?)
}
