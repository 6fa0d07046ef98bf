//! Looks at everything that a publication will need, and changes nothing.

use super::super::Consumer as _;
use super::HttpConsumer;
use crate::failure::{Failure, Finding};
use crate::ident::{PolicyName, Version};

pub(super) async fn preflight(consumer: &HttpConsumer, policy: &PolicyName) -> Vec<Finding> {
    let label = consumer.label();
    match look(consumer, policy, &label).await {
        Ok(findings) => findings,
        Err(failure) => vec![Finding::from_failure(label, &failure)],
    }
}

async fn look(consumer: &HttpConsumer, policy: &PolicyName, label: &str) -> Result<Vec<Finding>, Failure> {
    let place = consumer.open("write").await?;
    let held = consumer.held(&place).await?;
    consumer.check_owner(&held, policy, place.doing())?;
    let holds = match (&held.value, consumer.version(&held, None)) {
        (None, _) => "it is not there yet, and will be made".to_owned(),
        (Some(_), Version::NONE) => {
            "it is not as rekeyd last saw it written, and will be written over".to_owned()
        }
        (Some(_), version) => format!("it holds {version}"),
    };
    let mut findings = vec![Finding::pass(label, holds)];
    if consumer.recipe.value.prepare.is_some() {
        place.prepare(&consumer.recipe.value).await?;
        findings.push(Finding::pass(label, "what its writes need can be had"));
    }
    Ok(findings)
}
