//! Tries a login.
//!
//! At the management API: a login over AMQP has the same verdict, and would need a virtual host that the user may
//! enter. A user without a tag for this API is told so once its value was found right, which is evidence enough.

use crate::http::{Method, StatusCode};

use super::RabbitmqTarget;
use super::api::{Api, Login, Stage, lost, odd, refusal};
use crate::failure::{Failure, FailureClass};
use crate::secret::Credential;
use crate::target::Probe;

pub(super) async fn probe(target: &RabbitmqTarget, credential: &Credential) -> Probe {
    let doing = format!("log in as {} at {}", credential.principal, target.spec.endpoint);
    let api = match Api::new(target, credential, &doing).await {
        Ok(api) => api,
        Err(failure) => return Probe::Unknown(failure),
    };
    let answer = match api.send(Method::GET, &["whoami"], "", None).await {
        Ok(answer) => answer,
        Err(error) => return Probe::Unknown(lost(error, Stage::Reading, &doing)),
    };
    match (answer.status, answer.login()) {
        (StatusCode::OK, _) if answer.body["name"].as_str() == Some(credential.principal.as_str()) => {
            Probe::Accepted
        }
        (StatusCode::OK, _) => Probe::Unknown(odd("who logged in", &doing)),
        (StatusCode::UNAUTHORIZED, Login::Failed) => Probe::Refused,
        (StatusCode::UNAUTHORIZED, Login::NotForManagement) => Probe::Accepted,
        (StatusCode::UNAUTHORIZED, Login::Unclear) => Probe::Unknown(
            Failure::new(
                FailureClass::Denied,
                doing,
                "the server does not say whether it is the value that it refuses",
            )
            .with_remedy("give both users the tag `management`, and look at the server's log"),
        ),
        _ => Probe::Unknown(refusal(&answer, &doing)),
    }
}
