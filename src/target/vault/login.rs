//! A login as an AppRole. The driver's own does not read what the server says of a token without policies.

use rustify::endpoint::Wrapper;
use serde::Deserialize;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use zeroize::Zeroizing;

use crate::vault::{Session, Trouble};

/// What a login got.
pub(super) struct Token {
    /// Empty when the login asks for more.
    pub(super) value: Zeroizing<String>,
    pub(super) accessor: String,
}

#[derive(Deserialize)]
struct Answer {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Zeroizing<String>,
    #[serde(default)]
    accessor: String,
}

impl Wrapper for Answer {
    type Value = ();
}

pub(super) async fn log_in(
    session: &Session,
    mount: &str,
    role_id: &str,
    secret_id: &str,
) -> Result<Token, Trouble> {
    let client = session.anonymous();
    let request = LoginWithApproleRequest::builder()
        .mount(mount)
        .role_id(role_id)
        .secret_id(secret_id)
        .build()
        .expect("everything is set");
    let answer = client.call(request).await.map_err(Trouble::Call)?;
    let Answer { auth } = answer.wrap().map_err(|source| Trouble::Call(source.into()))?;
    Ok(Token { value: auth.client_token, accessor: auth.accessor })
}
