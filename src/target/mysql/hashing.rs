//! Hashing where nothing else waits for it: a server may ask for four million rounds, which take seconds.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::facts::Facts;
use super::verifier::{self, Rounds};
use crate::ident::Principal;
use crate::policy::spec::MysqlAuthentication;
use crate::secret::SecretValue;

impl Facts {
    /// Compares these values with what the account has, and makes hashes of them, where the server asks for so many
    /// rounds that it takes a while: on a thread where nothing else waits for that.
    pub(super) async fn work_out(&mut self, name: &Principal, host: &str, values: &[Option<&SecretValue>]) {
        let rounds = self.rounds;
        let mut methods = self.account(name, host).map(|held| held.methods.clone()).unwrap_or_default();
        if rounds == Rounds::LEAST
            && !methods.iter().any(|method| verifier::is_slow(&method.plugin, &method.kept))
        {
            return;
        }
        let values = values.iter().flatten().map(|value| Arc::new(value.duplicate())).collect::<Vec<_>>();
        let work = tokio::task::spawn_blocking(move || {
            for method in &mut methods {
                method.compared =
                    values.iter().map(|value| (Arc::clone(value), method.holds(value))).collect();
            }
            let values = values.into_iter().filter(|_| rounds != Rounds::LEAST);
            let make = |value: &_| verifier::verifier(MysqlAuthentication::CachingSha2, value, rounds);
            let made = values.map(|value| (Arc::clone(&value), make(&value))).collect();
            (methods, made)
        });
        // Without it, whoever asks works it out.
        let Ok((methods, made)) = work.await else { return };
        self.made = made;
        if let Some(account) = self.account_mut(name, host) {
            account.methods = methods;
        }
    }

    /// What the server is to keep of a value. One that was not worked out is nobody's, or asks for no more rounds.
    pub(super) fn kept(&self, method: MysqlAuthentication, value: &SecretValue) -> Zeroizing<Vec<u8>> {
        let made =
            self.made.iter().find(|(made, _)| method == MysqlAuthentication::CachingSha2 && **made == *value);
        made.map_or_else(|| verifier::verifier(method, value, Rounds::LEAST), |(_, kept)| kept.clone())
    }
}
