//! One policy whose value leaks again and again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rekeyd::daemon::socket::Client;
use rekeyd::ident::{DnsLabel, StorePath};
use rekeyd::policy::spec::FieldNames;
use rekeyd::rotation::event::What;
use rekeyd::rotation::progress::Step;
use rekeyd::service::{Action, EndingKind, Request};
use rekeyd::store::{self, Place};
use tokio_postgres::Client as Session;

use super::Outcome;
use super::postgres::Postgres;
use super::site::Site;

/// The parts of a containment, in order. `open` is everything before the first step.
pub(super) const STEPS: &[&str] = &[
    "open", "install", "verify", "promote", "publish", "restart", "converge", "retire", "prove", "record",
    "close",
];

pub(super) struct Leak {
    /// The policy's name, and what its figures' ids begin with.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    endpoint: String,
    strategy: &'static str,
    file: Option<PathBuf>,
}

/// How one containment went.
pub(super) struct Containment {
    pub(super) proven: Duration,
    pub(super) ended: Duration,
    /// `containedMs` in its record.
    pub(super) recorded_ms: f64,
    /// Milliseconds by step.
    pub(super) steps: HashMap<&'static str, f64>,
}

impl Leak {
    pub(super) fn new(
        id: &'static str,
        title: &'static str,
        server: &Postgres,
        tls: bool,
        strategy: &'static str,
        file: Option<PathBuf>,
    ) -> Self {
        Self { id, title, endpoint: server.endpoint(tls), strategy, file }
    }

    pub(super) fn policy(&self) -> String {
        let Self { id, endpoint, strategy, .. } = self;
        let consumers = self.file.as_ref().map_or_else(String::new, |file| {
            let content = "PGUSER={{ principal }}\\nPGPASSWORD={{ value }}\\n";
            format!("  consumers: [{{file: {{path: {}, content: \"{content}\"}}}}]\n", file.display())
        });
        format!(
            "apiVersion: rekeyd.dev/v1alpha1\n\
             kind: RotationPolicy\n\
             metadata: {{name: {id}, namespace: leaks}}\n\
             spec:\n\
             \x20 owner: security@example.com\n\
             \x20 target: {{postgres: {{endpoint: {endpoint}, admin: admin, strategy: {{{strategy}}}}}}}\n\
             \x20 store: {{name: main, path: leaks/{id}}}\n\
             {consumers}---\n"
        )
    }

    /// Gives it a first value.
    pub(super) async fn prime(&self, site: &Site) -> Outcome<()> {
        let ending = connect(site).await?.perform(&self.request(Action::Rotate)?, |_| {}).await?;
        if ending.ending == EndingKind::Rotated { Ok(()) } else { Err(ending.message.into()) }
    }

    /// Contains a leak whose attacker has a session open, and checks that it is gone.
    pub(super) async fn contain(&self, site: &Site, server: &Postgres) -> Outcome<Containment> {
        let attacker = self.log_in(site, server).await?;
        let request = self.request(Action::Contain)?;
        let began = Instant::now();
        let (mut opened, mut proven) = (None, None);
        let mut steps = HashMap::new();
        let answer = connect(site).await?.perform(&request, |event| match &event.what {
            What::Opened => opened = Some(began.elapsed()),
            What::Done { step, elapsed, .. } => {
                steps.insert(step.as_str(), elapsed.as_secs_f64() * 1_000.0);
                if *step == Step::Prove {
                    proven = Some(began.elapsed());
                }
            }
            _ => {}
        });
        let ending = answer.await?;
        let ended = began.elapsed();
        let record = ending.record.ok_or(ending.message)?;
        steps.insert("open", opened.ok_or("it was not opened")?.as_secs_f64() * 1_000.0);
        let is_true = record.proof.old_refused == Some(true) && record.proof.sessions_closed == 1;
        if !is_true || attacker.simple_query("select 1").await.is_ok() {
            return Err("the attacker's session was not closed".into());
        }
        Ok(Containment {
            proven: proven.ok_or("it was not proven")?,
            ended,
            recorded_ms: record.contained_ms.ok_or("it was no containment")? as f64,
            steps,
        })
    }

    async fn log_in(&self, site: &Site, server: &Postgres) -> Outcome<Session> {
        let name: DnsLabel = "main".parse()?;
        let store = store::build(&name, &site.settings.stores[&name])?;
        let (path, fields): (StorePath, _) = (format!("leaks/{}", self.id).parse()?, FieldNames::default());
        let current = store.current(Place { path: &path, fields: &fields }).await?.ok_or("no value")?;
        let password = current.credential.value.expose_str()?;
        server.session(current.credential.principal.as_str(), password).await
    }

    fn request(&self, action: Action) -> Outcome<Request> {
        let policy = format!("leaks/{}", self.id).parse()?;
        Ok(Request { policy, action, request: None, reason: None, patience_seconds: 30 })
    }
}

async fn connect(site: &Site) -> Outcome<Client> {
    Ok(Client::connect(&site.settings.socket).await?.ok_or("no daemon")?)
}
