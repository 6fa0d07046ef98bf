//! RabbitMQ: two users that take turns, over the management API.

use std::path::Path;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;

use super::{Client, Launched, Server, value};
use crate::fleet::Target;
use crate::postgres::write_password;
use crate::site::ADMIN;
use crate::{Outcome, users};

pub(super) struct Bench {
    server: Launched,
    port: u16,
    version: String,
}

impl Bench {
    pub(super) async fn start(run: &Path, admin: &Path) -> Outcome<Self> {
        let server = Launched::start("rabbitmq", run, &[])?;
        let port = server.port(&server.described)?;
        let mut bench = Self { server, port, version: String::new() };
        let mut root = bench.bare().await?;
        let user = json!({"password": write_password(admin)?, "tags": "administrator"});
        root.ask("PUT", &format!("users/{ADMIN}"), &user).await?;
        for number in 0..users() {
            for which in ["a", "b"] {
                let user = json!({"password_hash": "", "tags": ""});
                root.ask("PUT", &format!("users/bare_{number}_{which}"), &user).await?;
            }
        }
        let told = root.ask("GET", "overview", &Value::Null).await?;
        bench.version = told["rabbitmq_version"].as_str().unwrap_or("of an unknown version").to_owned();
        Ok(bench)
    }

    async fn bare(&self) -> Outcome<Bare> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Bare { sender, login: login("root", &self.server.password()?) })
    }
}

#[async_trait]
impl Server for Bench {
    fn version(&self) -> String {
        format!("RabbitMQ {}", self.version)
    }

    fn target(&self) -> Target {
        let port = self.port;
        Box::new(move |number| {
            format!(
                "{{rabbitmq: {{endpoint: {{host: 127.0.0.1, port: {port}, tls: {{mode: disable}}}}, admin: admin, \
                 strategy: {{alternating: {{users: [rotated_{number}_a, rotated_{number}_b]}}}}}}}}"
            )
        })
    }

    fn firsts(&self) -> usize {
        2
    }

    async fn client(&self) -> Outcome<Box<dyn Client>> {
        Ok(Box::new(self.bare().await?))
    }
}

/// One connection to the API.
struct Bare {
    sender: SendRequest<Full<Bytes>>,
    login: String,
}

impl Bare {
    async fn ask(&mut self, method: &str, path: &str, body: &Value) -> Outcome<Value> {
        let login = self.login.clone();
        let (status, answer) = self.ask_as(&login, method, path, body).await?;
        match status {
            200..300 => Ok(answer),
            _ => Err(format!("RabbitMQ: {method} {path}: {status}").into()),
        }
    }

    async fn ask_as(&mut self, login: &str, method: &str, path: &str, body: &Value) -> Outcome<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("/api/{path}"))
            .header("host", "rabbitmq")
            .header("authorization", login)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let answer = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&answer).unwrap_or(Value::Null)))
    }

    async fn rights(&mut self, user: &str) -> Outcome<()> {
        for what in ["", "/permissions", "/topic-permissions"] {
            self.ask("GET", &format!("users/{user}{what}"), &Value::Null).await?;
        }
        Ok(())
    }

    /// Sets what the server keeps of a value, and looks who was last.
    async fn set(&mut self, user: &str, kept: &str, round: usize) -> Outcome<()> {
        let tags = format!("version={round}");
        let body = json!({
            "password_hash": kept, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": tags,
        });
        self.ask("PUT", &format!("users/{user}"), &body).await?;
        self.ask("GET", &format!("users/{user}"), &Value::Null).await.map(drop)
    }

    /// What the server says of a login: 200, or 401 with `Login failed` or `Not management user`.
    async fn is_let_in(&mut self, user: &str, value: &str) -> Outcome<bool> {
        let (_, answer) = self.ask_as(&login(user, value), "GET", "whoami", &Value::Null).await?;
        match answer["reason"].as_str() {
            None | Some("Not management user") => Ok(true),
            Some("Login failed") => Ok(false),
            Some(_) => Err("RabbitMQ says nothing that is known of a login".into()),
        }
    }

    async fn connections(&mut self, user: &str) -> Outcome<()> {
        self.ask("GET", &format!("connections/username/{user}"), &Value::Null).await.map(drop)
    }
}

#[async_trait]
impl Client for Bare {
    async fn rotate(&mut self, user: usize, round: usize) -> Outcome<()> {
        let names = [format!("bare_{user}_a"), format!("bare_{user}_b")];
        let (spare, current) = (&names[round % 2], &names[(round + 1) % 2]);
        let (new, old) = (value(round), value(round + 1));
        self.rights(spare).await?;
        self.rights(current).await?;
        self.connections(spare).await?;
        self.set(spare, &kept(new), round).await?;
        let tried = self.is_let_in(spare, new).await?;
        self.connections(current).await?;
        self.ask("GET", &format!("users/{current}"), &Value::Null).await?;
        self.set(current, "", round).await?;
        self.connections(current).await?;
        if tried && !self.is_let_in(current, old).await? {
            return Ok(());
        }
        Err(format!("{spare} and {current} are not let in as they should").into())
    }
}

fn login(user: &str, value: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{value}")))
}

/// What the server keeps: a salt, and the SHA-256 of salt and value.
fn kept(value: &str) -> String {
    let salt = *b"salt";
    let mut kept = salt.to_vec();
    kept.extend(Sha256::new_with_prefix(salt).chain_update(value).finalize());
    BASE64_STANDARD.encode(kept)
}
