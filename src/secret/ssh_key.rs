//! SSH keys: Ed25519, in OpenSSH's own form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::{SecretValue, Unmade};

/// An SSH key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SshKeySpec {
    /// What stands behind the public key, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A new private key and its public one.
pub(super) fn make(spec: &SshKeySpec) -> Result<(SecretValue, SecretValue), Unmade> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *seed).expect("the operating system has a random source");
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, spec.comment.as_str()).map_err(|_| Unmade::Key)?;
    let mut text = key.to_openssh(LineEnding::LF).map_err(|_| Unmade::Key)?;
    Ok((SecretValue::new(std::mem::take(&mut *text).into_bytes()), public(&key)?))
}

/// The public key of a private one.
pub(super) fn public_of(value: &SecretValue) -> Result<SecretValue, Unmade> {
    let text = value.expose_str().map_err(|_| Unmade::NotAnSshKey)?;
    let key = PrivateKey::from_openssh(text).map_err(|_| Unmade::NotAnSshKey)?;
    public(&key)
}

fn public(key: &PrivateKey) -> Result<SecretValue, Unmade> {
    let text = key.public_key().to_openssh().map_err(|_| Unmade::Key)?;
    Ok(SecretValue::new(text.into_bytes()))
}
