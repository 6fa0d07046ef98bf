//! Looks at everything a rotation will need, and changes nothing.

use super::{AwsIamTarget, keys, probe};
use crate::failure::Finding;
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, Probe};

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
    findings.push(match probe::probe(target, &wrong).await {
        Probe::Refused => Finding::pass("negative control", "a wrong value is refused"),
        Probe::Accepted | Probe::Unfit(_) => Finding::fail(
            "negative control",
            "the service accepts a wrong value: no value can be proven dead there",
            "look at `stsEndpoint` of the store: that is not STS",
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
                format!("the service refuses the value of {} that the store holds", current.principal),
                "make one there and bring it in with `rekeyd adopt`",
            ),
            Probe::Unfit(failure) | Probe::Unknown(failure) => {
                Finding::from_failure("current credential", &failure)
            }
        });
    }
    findings
}
