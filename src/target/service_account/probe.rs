//! Whether a token lets in: it asks the API server who it is.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};

use super::ServiceAccountTarget;
use super::keys::of_reading;
use crate::failure::{Failure, FailureClass};
use crate::secret::Credential;
use crate::target::Probe;

pub(super) async fn probe(target: &ServiceAccountTarget, credential: &Credential) -> Probe {
    let doing = || target.doing("use token", &credential.principal);
    let token = credential.value.expose_str().ok();
    // What a header cannot carry is no token.
    let Some(token) = token.filter(|token| token.bytes().all(|b| b.is_ascii_graphic())) else {
        return Probe::Refused;
    };
    let client = match target.clusters.client_with_token(&target.spec.cluster, token).await {
        Ok(client) => client,
        Err(failure) => return Probe::Unknown(failure),
    };
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(review) => {
            let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
            judge(target, user.as_deref(), doing())
        }
        // Of the token alone: who was let in and lacks a right gets 403.
        // A gateway's page has no reason of the API server's.
        Err(kube::Error::Api(status)) if status.code == 401 && status.reason == "Unauthorized" => {
            Probe::Refused
        }
        Err(error) => Probe::Unknown(of_reading(&error, &doing())),
    }
}

fn judge(target: &ServiceAccountTarget, user: Option<&str>, doing: String) -> Probe {
    let expected =
        format!("system:serviceaccount:{}:{}", target.spec.namespace(), target.spec.service_account);
    match user {
        Some(user) if user == expected => Probe::Accepted,
        Some(_) => Probe::Unfit(
            Failure::new(FailureClass::Invalid, doing, "it is a token of another account")
                .with_remedy("correct the policy, or bring the right one in with `rekeyd adopt`"),
        ),
        None => Probe::Unknown(Failure::new(FailureClass::Unavailable, doing, "the answer names nobody")),
    }
}
