//! Tries a login on every node, and the policy's statement on the first.

use futures_util::future::join_all;

use super::ClickhouseTarget;
use super::api::{AUTHENTICATION_FAILED, Api, Said, exception, lost, odd};
use crate::failure::{Failure, FailureClass};
use crate::http::Stage;
use crate::policy::spec::ClickhouseNode;
use crate::secret::Credential;
use crate::target::{Probe, ProbeDepth};

pub(super) async fn probe(target: &ClickhouseTarget, credential: &Credential, depth: ProbeDepth) -> Probe {
    let answers = join_all(target.spec.nodes.iter().enumerate().map(|(index, node)| async move {
        let check = (depth == ProbeDepth::Check && index == 0).then_some(target.spec.check.as_deref());
        enter(target, node, credential, check.flatten()).await
    }))
    .await;
    let remedy = "see whether its users come from another backup, or replication is behind";
    Probe::of_nodes(&credential.principal, answers.into_iter().zip(&target.spec.nodes), remedy)
}

/// One node's answer.
async fn enter(
    target: &ClickhouseTarget,
    node: &ClickhouseNode,
    credential: &Credential,
    check: Option<&str>,
) -> Probe {
    let doing = format!("log in as {} at {node}", credential.principal);
    let api = match Api::new(&target.spec, node, credential.duplicate(), target.deadlines, &doing).await {
        Ok(api) => api,
        Err(failure) => return Probe::Unknown(failure),
    };
    match log_in(&api, &doing).await {
        Ok(true) => {}
        Ok(false) => return Probe::Refused,
        Err(failure) => return Probe::Unknown(failure),
    }
    let Some(check) = check else { return Probe::Accepted };
    let doing = format!("run the check statement on {node}");
    match api.send(check).await {
        Err(error) => Probe::Unknown(lost(error, Stage::Reading, &doing)),
        // It may say in which form it prints its answer.
        Ok(Said::Rows(_) | Said::Unreadable) => Probe::Accepted,
        Ok(Said::Strange(status)) => {
            let reason = format!("the answer is not one of a ClickHouse server (status {})", status.as_u16());
            Probe::Unknown(Failure::new(FailureClass::Unavailable, doing, reason))
        }
        Ok(Said::Exception(497)) => Probe::Unfit(
            Failure::new(FailureClass::Denied, doing, "the user may not do that (error 497)")
                .with_remedy("give it the right on every node"),
        ),
        Ok(Said::Exception(code)) => {
            let failure = exception(code, Stage::Reading, &doing);
            match code {
                // The server is busy, or has not got what it needs.
                159 | 201 | 202 | 209 | 210 | 241 | 394 | 700 | 999 => Probe::Unknown(failure),
                _ => {
                    let failure = failure.reclassified(FailureClass::Invalid);
                    Probe::Unfit(failure.with_remedy("run target.clickhouse.check by hand as the user"))
                }
            }
        }
    }
}

/// Whether a login works: a question that needs no right, and the server's own verdict on it.
pub(super) async fn log_in(api: &Api, doing: &str) -> Result<bool, Failure> {
    let said = api.send("SELECT currentUser()").await.map_err(|error| lost(error, Stage::Reading, doing))?;
    match said {
        Said::Rows(rows) => {
            let is = rows.first().and_then(|row| row.first()?.as_str());
            if is == Some(api.credential().principal.as_str()) {
                Ok(true)
            } else {
                Err(odd("who logged in", doing))
            }
        }
        Said::Unreadable => Err(odd("who logged in", doing)),
        Said::Exception(AUTHENTICATION_FAILED) => Ok(false),
        // Not about the value: a quota that is used up, a database that is gone, a server that is starting.
        Said::Exception(code) => {
            let reason = format!("the server answers the login with error {code}");
            Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("see in the server's log what it says"))
        }
        Said::Strange(status) => {
            let reason = format!("the answer is not one of a ClickHouse server (status {})", status.as_u16());
            Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("check that the HTTP interface of a ClickHouse listens there"))
        }
    }
}

impl ClickhouseTarget {
    /// Whether one node lets a value in.
    pub(super) async fn lets_in(
        &self,
        node: &ClickhouseNode,
        credential: &Credential,
        doing: &str,
    ) -> Result<bool, Failure> {
        let api = Api::new(&self.spec, node, credential.duplicate(), self.deadlines, doing).await?;
        log_in(&api, doing).await
    }
}
