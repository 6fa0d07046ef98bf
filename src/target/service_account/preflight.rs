//! Looks at everything a rotation will need, and changes nothing.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};

use super::{ServiceAccountTarget, keys, probe};
use crate::failure::{Failure, Finding};
use crate::ident::{Fence, RotationId, Version};
use crate::secret::{Credential, ValueSpec};
use crate::target::{Attempt, MintRequest, PreflightRequest, Probe};

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
    findings.push(match probe::probe(target, &wrong).await {
        Probe::Refused => Finding::pass("negative control", "a wrong value is refused"),
        Probe::Accepted | Probe::Unfit(_) => Finding::fail(
            "negative control",
            "the API server accepts a wrong value: no value can be proven dead there",
            "look at its authentication",
        ),
        Probe::Unknown(failure) => Finding::from_failure("negative control", &failure),
    });
    if let Some(current) = request.current {
        findings.push(match probe::probe(target, current).await {
            Probe::Accepted => {
                Finding::pass("current credential", format!("{} is let in", current.principal))
            }
            Probe::Refused => Finding::fail(
                "current credential",
                format!("the API server refuses the value of {} that the store holds", current.principal),
                "make a token there and bring it in with `rekeyd adopt`",
            ),
            Probe::Unfit(failure) | Probe::Unknown(failure) => {
                Finding::from_failure("current credential", &failure)
            }
        });
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
