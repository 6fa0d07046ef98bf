//! Opening a connection: socket, TLS and login, each within its deadline.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value, cmd};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::answer::{accepted, is_rejection, odd, refusal, text, unread};
use super::wire::Wire;
use super::{Deadlines, RedisTarget};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::{RedisNode, RedisSpec};
use crate::secret::Credential;
use crate::target::{APPLICATION, dial, tls};

/// Why a login did not succeed.
#[derive(Debug)]
pub(super) enum LoginError {
    /// A verdict on the credential: the value is wrong, or the user does not exist or is off.
    Rejected,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for LoginError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Logs in as a user.
///
/// The answer to a login that names its user is the server's own verdict. A client that leaves the name out, or
/// that goes on after a refusal, finds itself as `default` and is answered all the same.
pub(super) async fn open(
    spec: &RedisSpec,
    node: &RedisNode,
    credential: &Credential,
    deadlines: &Deadlines,
) -> Result<Wire, LoginError> {
    let doing = format!("log in as {} at {node}", credential.principal);
    let login = async {
        let mut wire = connect(spec, node, deadlines, &doing).await?;
        let mut login = cmd("AUTH");
        login.arg(credential.principal.as_str()).arg(credential.value.expose());
        let replies = wire.ask(&[login]).await.map_err(|lost| unread(lost, &doing))?;
        match replies.into_iter().next() {
            Some(Value::Okay) => Ok(wire),
            Some(Value::ServerError(error)) if is_rejection(&error) => Err(LoginError::Rejected),
            Some(Value::ServerError(error)) => Err(refusal(&error, &doing).into()),
            Some(_) | None => Err(odd("AUTH", &doing).into()),
        }
    };
    within(deadlines.login, &doing, login).await.unwrap_or_else(|failure| Err(failure.into()))
}

impl RedisTarget {
    /// The admin's connection to a node. Fetches the credential anew, and forgets it after the login.
    pub(super) async fn admin_at(&self, node: &RedisNode, user: &Principal) -> Result<Wire, Failure> {
        let name = &self.spec.admin;
        let credential = self.admin.credential().await?;
        let doing = format!("log in at {node} with the admin credential {name}");
        if credential.principal == *user {
            let reason = "it is the user that is to be changed";
            return Err(Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy("give rekeyd an admin of its own and rotate that under another admin"));
        }
        let mut wire = match open(&self.spec, node, &credential, &self.deadlines).await {
            Ok(wire) => wire,
            Err(LoginError::Failed(failure)) => return Err(failure),
            Err(LoginError::Rejected) => {
                let reason = "the server refuses the credential";
                return Err(Failure::new(FailureClass::Denied, doing, reason)
                    .with_remedy(format!("put the admin's working password where credentials.{name} says")));
            }
        };
        let (mut set_name, mut who) = (cmd("CLIENT"), cmd("ACL"));
        set_name.arg("SETNAME").arg(APPLICATION);
        who.arg("WHOAMI");
        let mut replies = ask(&mut wire, &[set_name, who], self.deadlines.command, &doing).await?.into_iter();
        accepted(replies.next(), "CLIENT SETNAME", &doing)?;
        let is = accepted(replies.next(), "ACL WHOAMI", &doing)?;
        // A proxy may say that a login worked, and go on as somebody else.
        if text(&is) != Some(credential.principal.as_str()) {
            return Err(odd("ACL WHOAMI", &doing));
        }
        Ok(wire)
    }
}

/// Asks something that changes nothing.
pub(super) async fn ask(
    wire: &mut Wire,
    commands: &[Cmd],
    deadline: Duration,
    doing: &str,
) -> Result<Vec<Value>, Failure> {
    within(deadline, doing, wire.ask(commands)).await?.map_err(|lost| unread(lost, doing))
}

async fn connect(
    spec: &RedisSpec,
    node: &RedisNode,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<Wire, Failure> {
    let invalid = |reason, remedy| Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy);
    let config = tls::client_config(&spec.tls).await.map_err(|reason| {
        invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
    })?;
    let socket = dial::reach(&node.host, node.port, deadlines.connect, deadlines.command, doing).await?;
    let Some(config) = config else { return Ok(Wire::new(socket)) };
    let name = ServerName::try_from(node.host.clone()).map_err(|_| {
        invalid("its host is not a name that a certificate can have".to_owned(), "use its DNS name")
    })?;
    match TlsConnector::from(Arc::new(config)).connect(name, socket).await {
        Ok(stream) => Ok(Wire::new(stream)),
        Err(error) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            Err(match inner {
                Some(error) => {
                    let (reason, remedy) = tls::explain(error);
                    invalid(reason, remedy)
                }
                None => {
                    let reason = format!("the connection failed in the TLS handshake: {}", error.kind());
                    Failure::new(FailureClass::Unavailable, doing, reason)
                }
            })
        }
    }
}

/// A failure where something that changes nothing takes too long.
async fn within<T>(deadline: Duration, doing: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(deadline, work).await.map_err(|_| {
        let reason = format!("no answer within {} ms", deadline.as_millis());
        Failure::new(FailureClass::Unavailable, doing, reason)
            .with_remedy("check that a Redis server listens there, with TLS or without as the policy says, and is not overloaded")
    })
}
