//! The peer: OpenBao with as many static roles. Its own sweep takes what is due every five seconds, one role
//! after the other.

use std::time::{Duration, Instant};

use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::openbao::OpenBao;
use super::postgres::Postgres;
use super::{Outcome, static_roles};

/// How old its values may become. Longer than it is unsealed for at a time, so that nothing is due twice.
const PERIOD: Duration = Duration::from_secs(90);

pub(super) struct Peer {
    openbao: OpenBao,
    users: Vec<String>,
    rotated: Instant,
}

impl Peer {
    /// Takes the users over, which changes their passwords for the first time, and seals.
    pub(super) async fn make(openbao: OpenBao, server: &Postgres, users: Vec<String>) -> Outcome<Self> {
        static_roles::make(&openbao, server, &users, PERIOD).await?;
        let peer = Self { openbao, users, rotated: Instant::now() };
        peer.seal().await?;
        Ok(peer)
    }

    /// Lets everything become due and then its own sweep run, once. The time is that from the first to
    /// the last change at the database: what it takes for all but one.
    pub(super) async fn sweep(&mut self, server: &Postgres) -> Outcome<f64> {
        SystemClock.sleep((PERIOD + Duration::from_secs(1)).saturating_sub(self.rotated.elapsed())).await;
        let database = server.superuser().await?;
        let before = database.query_one("select now()::text", &[]).await?.get::<_, String>(0);
        let key = self.openbao.content("unsealKeyFile")?;
        let mut caller = self.openbao.caller().await?;
        caller.call("PUT", "sys/unseal", &json!({"key": key})).await?;
        while caller.call("GET", "sys/health", &Value::Null).await.is_err() {
            SystemClock.sleep(Duration::from_millis(50)).await;
        }
        // Committed changes by their times: `track_commit_timestamp` is on.
        let look = format!(
            "select count(*), extract(epoch from max(at) - min(at))::float8 from (\
             select pg_xact_commit_timestamp(xmin) as at from pg_authid where rolname = any($1)) as change \
             where at > '{before}'"
        );
        let wanted = i64::try_from(self.users.len())?;
        loop {
            SystemClock.sleep(Duration::from_millis(250)).await;
            let row = database.query_one(&look, &[&self.users]).await?;
            if row.get::<_, i64>(0) == wanted {
                self.rotated = Instant::now();
                return Ok(row.get(1));
            }
        }
    }

    /// Has every role rotated on request, so many at a time, and says how long that took.
    pub(super) async fn rotate_all(&mut self, at_a_time: usize) -> Outcome<f64> {
        let mut callers = Vec::new();
        for share in self.users.chunks(self.users.len().div_ceil(at_a_time)) {
            callers.push((self.openbao.caller().await?, share.to_vec()));
        }
        let began = Instant::now();
        let mut work = JoinSet::new();
        for (mut caller, share) in callers {
            work.spawn(async move {
                for user in share {
                    let path = format!("database/rotate-role/{user}");
                    caller.call("POST", &path, &Value::Null).await.map_err(|error| error.to_string())?;
                }
                Ok::<(), String>(())
            });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        self.rotated = Instant::now();
        Ok(began.elapsed().as_secs_f64())
    }

    /// Puts it to rest, so that it does nothing while others are measured.
    pub(super) async fn seal(&self) -> Outcome<()> {
        self.openbao.caller().await?.call("PUT", "sys/seal", &Value::Null).await?;
        Ok(())
    }
}
