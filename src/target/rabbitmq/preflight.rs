//! Looks at everything a rotation will need, and changes nothing.

use super::RabbitmqTarget;
use super::api::Api;
use super::install::{Facts, check_idle, check_not_admin, check_unused, foreign};
use super::probe::probe;
use super::sessions;
use crate::failure::{Failure, Finding};
use crate::ident::Principal;
use crate::policy::spec::TlsMode;
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, trial};

pub(super) async fn preflight(target: &RabbitmqTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let [a, b] = target.spec.users();
    let (candidate, peer) = match request.current.map(|current| &current.principal) {
        Some(current) if current == a => (b, Some(a)),
        Some(current) if current == b => (a, Some(b)),
        _ => (a, None),
    };
    let mut findings = vec![Finding::pass("transport", transport(target))];
    match look(target, candidate, peer, &request).await {
        Ok(mut found) => findings.append(&mut found),
        Err(failure) => findings.push(Finding::fail(
            "server",
            failure.to_string(),
            failure.remedy().unwrap_or(failure.class().remedy()).to_owned(),
        )),
    }
    if let Some(current) = request.current {
        let remedy = "set it at the server, or bring the right one in with `rekeyd adopt`";
        findings.push(trial::of_current(
            &probe(target, current).await,
            &current.principal,
            "the server",
            remedy,
        ));
    }
    let wrong = Credential::new(peer.unwrap_or(candidate).clone(), ValueSpec::default().generate());
    let probe = probe(target, &wrong).await;
    findings.push(trial::of_wrong(&probe, "the server", "look at auth_backends in rabbitmq.conf"));
    findings
}

async fn look(
    target: &RabbitmqTarget,
    candidate: &Principal,
    peer: Option<&Principal>,
    request: &PreflightRequest<'_>,
) -> Result<Vec<Finding>, Failure> {
    let doing = target.doing("look at", candidate);
    let admin = target.admin.credential().await?;
    check_not_admin(&admin, candidate, &doing)?;
    let api = Api::new(target, &admin, &doing).await?;
    let overview = api.get(&["overview"], "columns=rabbitmq_version", &doing).await?;
    let version = overview
        .as_ref()
        .and_then(|answer| answer.body["rabbitmq_version"].as_str())
        .unwrap_or("of an unknown version");
    let facts = Facts::read(&api, candidate, peer, &doing).await?;
    let subject = format!("user {candidate}");
    let mut findings = vec![Finding::pass("server", format!("RabbitMQ {version}"))];
    let marker = facts.user.as_ref().and_then(|user| user.marker.as_ref());
    findings.push(match (marker, &facts.user) {
        (Some(marker), _) if marker.policy() != request.policy => {
            Finding::from_failure(&subject, &foreign(candidate, marker.policy(), ""))
        }
        (_, Some(_)) => Finding::pass(&subject, "exists and can be changed"),
        (_, None) => Finding::pass(&subject, "does not exist and will be made"),
    });
    if let Some(peer) = peer {
        let repairs = facts.repairs(candidate);
        let whats: Vec<&str> = repairs.iter().map(|repair| repair.what.as_str()).collect();
        findings.push(if whats.is_empty() {
            Finding::pass("pair", format!("{candidate} has the permissions and limits of {peer}"))
        } else {
            Finding::pass("pair", format!("{candidate} will be given {}", whats.join(", ")))
        });
    }
    if facts.are_without_rights() {
        findings.push(without_rights(peer.unwrap_or(candidate)));
    }
    let open = sessions::open(&api, candidate, &doing).await?;
    findings.push(match check_idle(&open, peer, "") {
        Ok(()) => Finding::pass(&subject, "no connection is open"),
        Err(failure) => Finding::from_failure(&subject, &failure),
    });
    if facts.user.is_some() {
        findings.push(match check_unused(facts.user.as_ref(), candidate, peer, "") {
            Ok(()) => Finding::pass(&subject, "no value that rekeyd does not know lets it in"),
            Err(failure) => Finding::from_failure(&subject, &failure),
        });
    }
    Ok(findings)
}

/// The first of a pair has nobody to be made equal to: what it may do is somebody's to say.
fn without_rights(user: &Principal) -> Finding {
    Finding::warn(
        "permissions",
        format!(
            "{user} has no permission in any virtual host: its readers will be let in and may do nothing"
        ),
        format!(
            "give it some before readers have the value, or right after its first rotation: \
             rabbitmqctl set_permissions -p <vhost> {user} <configure> <write> <read>; a user that is not there yet can \
             be made without a password: rabbitmqctl add_user {user} <any>, rabbitmqctl clear_password {user}"
        ),
    )
}

fn transport(target: &RabbitmqTarget) -> &'static str {
    match target.spec.endpoint.tls.mode {
        TlsMode::Disable => "no TLS",
        TlsMode::Require => "TLS; the server's certificate is not checked",
        TlsMode::VerifyCa => "TLS; the server's certificate must be from a trusted authority",
        TlsMode::VerifyFull => {
            "TLS; the server's certificate must be from a trusted authority and name the host"
        }
    }
}
