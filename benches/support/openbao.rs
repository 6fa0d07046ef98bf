//! A private OpenBao, the peer that figures are compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Outcome;

/// A private server; it ends when this is dropped.
pub(crate) struct OpenBao {
    run: PathBuf,
    /// What `deploy/dev/openbao` says of it.
    pub(crate) described: Value,
    pub(crate) version: String,
}

impl OpenBao {
    pub(crate) async fn start(run: &Path) -> Outcome<Self> {
        if run.join("openbao").exists() {
            // Of a benchmark that was killed.
            script(&["stop"], Some(run))?;
        }
        let program = script(&["install"], None)?;
        script(&["start"], Some(run))?;
        let described = serde_json::from_slice(&fs::read(run.join("openbao.json"))?)?;
        let output = Command::new(program.trim()).arg("version").output()?;
        // `OpenBao v2.7.2 (commit), committed time`
        let version = String::from_utf8(output.stdout)?.split(" (").next().unwrap_or_default().to_owned();
        Ok(Self { run: run.to_owned(), described, version })
    }

    /// A connection to it, with the rights to everything.
    pub(crate) async fn caller(&self) -> Outcome<Caller> {
        let address = self.described["address"].as_str().ok_or("no address")?;
        let stream = TcpStream::connect(address.trim_start_matches("http://")).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Caller { sender, token: self.content("rootTokenFile")? })
    }

    /// The content of a file that the description names.
    pub(crate) fn content(&self, field: &str) -> Outcome<String> {
        let file = self.described[field].as_str().ok_or("no such file")?;
        Ok(fs::read_to_string(file)?.trim().to_owned())
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        if let Err(error) = script(&["stop"], Some(&self.run)) {
            eprintln!("{error}");
        }
    }
}

/// One connection to it.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Caller {
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &Value) -> Outcome<()> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", "openbao")
            .header("x-vault-token", &self.token)
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(());
        }
        Err(format!("OpenBao: {method} {path}: {status} {}", String::from_utf8_lossy(&answer)).into())
    }
}

fn script(words: &[&str], run: Option<&Path>) -> Outcome<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/openbao");
    let output = Command::new(program).args(words).args(run).stderr(Stdio::inherit()).output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("deploy/dev/openbao {}: {}", words[0], output.status).into())
    }
}
