//! Looks at everything a rotation will need, and changes nothing.

use k8s_openapi::api::authentication::v1::TokenRequestSpec;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use zeroize::Zeroizing;

use super::{ServiceAccountTarget, keys, probe};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{Fence, RotationId, Version};
use crate::policy::spec::{BoundSpec, ServiceAccountStrategy};
use crate::secret::{Credential, ValueSpec};
use crate::target::{Attempt, MintRequest, PreflightRequest, life, trial};

/// Whom the token of a preflight is for.
const NOBODY: &str = "rekeyd.dev/preflight";

pub(super) async fn preflight(target: &ServiceAccountTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let account = &target.spec.service_account;
    let rehearsed = rehearse(target, &request).await;
    let mut findings = vec![match &rehearsed {
        Ok(_) => Finding::pass("service account", "it is there, and a Secret for a token can be made"),
        Err(failure) => Finding::from_failure("service account", failure),
    }];
    if let (ServiceAccountStrategy::Bound(bound), Ok(draft)) = (&target.spec.strategy, &rehearsed) {
        findings.push(match look_at_life(target, bound, draft).await {
            Ok(()) => Finding::pass("life of a token", format!("a token lives {}", bound.expiration)),
            Err(failure) => Finding::from_failure("life of a token", &failure),
        });
    }
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

/// What lives as long as the API server lets it: a token for nobody, which no API server takes, is asked for and thrown
/// away. The API server keeps nothing of it.
async fn look_at_life(
    target: &ServiceAccountTarget,
    bound: &BoundSpec,
    draft: &Secret,
) -> Result<(), Failure> {
    let doing = || target.doing("make", "a token");
    let client = target.clusters.client(&target.spec.cluster).await?;
    let wanted = TokenRequestSpec {
        audiences: vec![NOBODY.into()],
        bound_object_ref: None,
        expiration_seconds: keys::seconds(bound.expiration),
    };
    let answer = keys::ask(target, client, wanted).await;
    let status = answer.map_err(|error| keys::of_reading(&error, &doing()))?.status;
    let status = status.ok_or_else(|| {
        Failure::new(FailureClass::Unavailable, doing(), "the API server's answer holds none")
    })?;
    let given = keys::life_of(&status, draft.metadata.creation_timestamp.as_ref());
    drop(Zeroizing::new(status.token));
    match life::shortage(given, Some(bound.expiration), None) {
        Some(short) => Err(keys::too_short(doing(), &short)),
        None => Ok(()),
    }
}

/// The account is there, and the API server would take a Secret: as it would make it.
async fn rehearse(target: &ServiceAccountTarget, request: &PreflightRequest<'_>) -> Result<Secret, Failure> {
    let client = target.clusters.client(&target.spec.cluster).await?;
    keys::check_account(target, &client).await?;
    let attempt = Attempt {
        policy: request.policy,
        rotation: RotationId::generate(),
        version: Version::NONE,
        fence: Fence::NONE,
    };
    let owner = &target.spec.service_account;
    let mint = MintRequest { attempt, owner, outgoing: None, repeated: false, contains: false, life: None };
    let secrets: Api<Secret> = Api::namespaced(client, target.spec.namespace());
    let only_looked_at = PostParams { dry_run: true, ..PostParams::default() };
    let made = secrets.create(&only_looked_at, &keys::draft(target, &mint)).await;
    made.map_err(|error| keys::of_reading(&error, &target.doing("make", "a Secret for a token")))
}
