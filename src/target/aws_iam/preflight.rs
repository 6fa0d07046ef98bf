//! Looks at everything a rotation will need, and changes nothing.

use super::{AwsIamTarget, keys, probe};
use crate::failure::Finding;
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, trial};

/// An id that no key has.
const NOBODY: &str = "AKIA0000000000000000";

/// How many keys a user may have.
const QUOTA: usize = 2;

pub(super) async fn preflight(target: &AwsIamTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let user = &target.spec.user;
    let mut findings = vec![match keys::list(target).await {
        Ok(keys) if keys.len() < QUOTA => {
            Finding::pass("keys", format!("{user} has {}, and there is room for another", keys.len()))
        }
        Ok(keys) => {
            let ids: Vec<_> = keys.iter().map(|key| key.id.as_str()).collect();
            Finding::warn(
                "keys",
                format!("{user} has no room for another: {}", ids.join(", ")),
                "delete the one that nobody uses, unless a rotation is under way",
            )
        }
        Err(failure) => Finding::from_failure("keys", &failure),
    }];
    let wrong = request
        .current
        .map_or_else(|| NOBODY.parse().expect("a literal id"), |current| current.principal.clone());
    let wrong = Credential::new(wrong, ValueSpec::default().generate());
    let probe = probe::probe(target, &wrong).await;
    findings.push(trial::of_wrong(
        &probe,
        "the service",
        "look at `stsEndpoint` of the store: that is not STS",
    ));
    if let Some(current) = request.current {
        let probe = probe::probe(target, current).await;
        let remedy = "make one there and bring it in with `rekeyd adopt`";
        findings.push(trial::of_current(&probe, &current.principal, "the service", remedy));
    }
    findings
}
