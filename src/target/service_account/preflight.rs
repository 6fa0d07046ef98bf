//! Looks at everything a rotation will need, and changes nothing.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};

use super::{ServiceAccountTarget, keys, probe};
use crate::failure::{Failure, Finding};
use crate::ident::{Fence, RotationId, Version};
use crate::secret::{Credential, ValueSpec};
use crate::target::{Attempt, MintRequest, PreflightRequest, trial};

pub(super) async fn preflight(target: &ServiceAccountTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let account = &target.spec.service_account;
    let mut findings = vec![match rehearse(target, &request).await {
        Ok(()) => Finding::pass("service account", "it is there, and a Secret for a token can be made"),
        Err(failure) => Finding::from_failure("service account", &failure),
    }];
    findings.push(match keys::list(target).await {
        Ok(keys) => Finding::pass("keys", format!("{account} has {}", keys.len())),
        Err(failure) => Finding::from_failure("keys", &failure),
    });
    let wrong = Credential::new(account.clone(), ValueSpec::default().generate());
    let probe = probe::probe(target, &wrong).await;
    findings.push(trial::of_wrong(&probe, "the API server", "look at its authentication"));
    if let Some(current) = request.current {
        let probe = probe::probe(target, current).await;
        let remedy = "make a token there and bring it in with `rekeyd adopt`";
        findings.push(trial::of_current(&probe, &current.principal, "the API server", remedy));
    }
    findings
}

/// The account is there, and the API server would take a Secret.
async fn rehearse(target: &ServiceAccountTarget, request: &PreflightRequest<'_>) -> Result<(), Failure> {
    let client = target.clusters.client(&target.spec.cluster).await?;
    keys::check_account(target, &client).await?;
    let attempt = Attempt {
        policy: request.policy,
        rotation: RotationId::generate(),
        version: Version::NONE,
        fence: Fence::NONE,
    };
    let owner = &target.spec.service_account;
    let mint = MintRequest { attempt, owner, outgoing: None, repeated: false, contains: false };
    let secrets: Api<Secret> = Api::namespaced(client, target.spec.namespace());
    let only_looked_at = PostParams { dry_run: true, ..PostParams::default() };
    let made = secrets.create(&only_looked_at, &keys::draft(target, &mint)).await;
    made.map(drop).map_err(|error| keys::of_reading(&error, &target.doing("make", "a Secret for a token")))
}
