//! Looks at everything that a publication will need, and changes nothing.

use super::api::{Allowed, Api, Right};
use super::{JenkinsConsumer, holds};
use crate::failure::{Failure, Finding};
use crate::ident::PolicyName;

pub(super) async fn preflight(consumer: &JenkinsConsumer, policy: &PolicyName) -> Vec<Finding> {
    let label = super::Consumer::label(consumer);
    match look(consumer, policy, &label).await {
        Ok(findings) => findings,
        Err(failure) => vec![Finding::from_failure(label, &failure)],
    }
}

async fn look(consumer: &JenkinsConsumer, policy: &PolicyName, label: &str) -> Result<Vec<Finding>, Failure> {
    let api = consumer.api("write").await?;
    let shown = api.shown().await?;
    let description = consumer.foreign(shown.as_ref(), policy, api.doing())?;
    if shown.is_none() {
        let right = held(&api, label, Right::Create).await?;
        return Ok(vec![Finding::pass(label, "it is not there yet, and will be made"), right]);
    }
    let right = held(&api, label, Right::Update).await?;
    Ok(vec![Finding::pass(label, holds(description.mark.map(|mark| mark.version))), right])
}

async fn held(api: &Api<'_>, label: &str, right: Right) -> Result<Finding, Failure> {
    let subject = format!("rights at {label}");
    let allowed = api.allows(right).await?;
    let right = right.as_str();
    Ok(match allowed {
        Allowed::Yes => Finding::pass(subject, format!("the admin has Credentials/{right}")),
        Allowed::No => Finding::fail(
            subject,
            format!("the admin may not do that: Credentials/{right} is missing"),
            format!("give the admin Credentials/{right} there"),
        ),
        Allowed::Untold => Finding::warn(
            subject,
            format!("Jenkins does not say whether the admin has Credentials/{right}"),
            format!("see in Jenkins that the admin has Credentials/{right} there"),
        ),
    })
}
