//! What the session's token may do. The driver has no request for that.

use std::collections::HashMap;
use std::sync::Arc;

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;

use super::{Call, Effect, Session};
use crate::failure::Failure;

/// `POST sys/capabilities-self`.
struct CapabilitiesRequest<'a> {
    paths: &'a [String],
}

impl Endpoint for CapabilitiesRequest<'_> {
    type Response = HashMap<String, Vec<String>>;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "sys/capabilities-self".into()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(Some(serde_json::json!({ "paths": self.paths }).to_string().into_bytes()))
    }
}

impl Session {
    /// What the token may do on each path. `label` names the place in a failure.
    pub(crate) async fn capabilities(
        self: &Arc<Self>,
        label: &str,
        paths: &[String],
    ) -> Result<HashMap<String, Vec<String>>, Failure> {
        let result = self.fetch(|| CapabilitiesRequest { paths }).await;
        result.map_err(|trouble| {
            trouble.into_failure(Call {
                doing: format!("look at the token's rights at {label}"),
                path: "sys/capabilities-self".into(),
                needs: "`update`",
                effect: Effect::Reads,
            })
        })
    }
}
