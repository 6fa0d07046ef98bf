//! Looks at everything that a publication will need, and changes nothing.

use super::api::{Allowed, Api};
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
        let right = right(&api, label, &[], "newCredentials", "Create").await?;
        return Ok(vec![Finding::pass(label, "it is not there yet, and will be made"), right]);
    }
    let place = ["credential", consumer.spec.id.as_str()];
    let right = right(&api, label, &place, "update", "Update").await?;
    Ok(vec![Finding::pass(label, holds(description.mark.map(|mark| mark.version))), right])
}

async fn right(
    api: &Api<'_>,
    label: &str,
    place: &[&str],
    link: &str,
    right: &str,
) -> Result<Finding, Failure> {
    let subject = format!("rights at {label}");
    Ok(match api.allows(place, link).await? {
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
