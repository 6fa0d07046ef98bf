//! Reaching a server over the network, and how long that and what follows may take.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::failure::{Failure, FailureClass};

/// How long the parts of a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Finding the host, and reaching one of its addresses.
    pub connect: Duration,
    /// A whole login, from the first packet on the wire to a usable session.
    pub login: Duration,
    /// A round trip with statements, and the closing of sessions. The server itself gives up a little
    /// earlier.
    pub statement: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(10),
            statement: Duration::from_secs(15),
        }
    }
}

/// Connects to the first of the host's addresses that answers.
///
/// A peer that is silent for `patience` while something was sent is taken for gone.
pub(in crate::target) async fn reach(
    host: &str,
    port: u16,
    deadline: Duration,
    patience: Duration,
    doing: &str,
) -> Result<TcpStream, Failure> {
    let lookup = tokio::net::lookup_host((host, port));
    let addresses = within(deadline, lookup).await.map_err(|reason| {
        unavailable(doing, format!("cannot find the host: {reason}"))
            .with_remedy("check the host name and this machine's name resolution")
    })?;
    let mut problem = "the host has no address".to_owned();
    for address in addresses {
        match within(deadline, TcpStream::connect(address)).await {
            Ok(socket) => {
                keep_watch(&socket, patience).map_err(|error| {
                    unavailable(doing, format!("cannot set up the socket: {}", error.kind()))
                })?;
                return Ok(socket);
            }
            Err(reason) => problem = format!("cannot reach {address}: {reason}"),
        }
    }
    Err(unavailable(doing, problem).with_remedy("check that the server runs and that no firewall is between"))
}

/// Makes the system notice a peer that is gone, also while nothing is sent.
fn keep_watch(socket: &TcpStream, patience: Duration) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(socket);
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(patience))?;
    let (idle, interval) = (Duration::from_secs(30), Duration::from_secs(10));
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval))
}

/// Waits for an I/O result; a reason in words otherwise.
pub(in crate::target) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.kind().to_string()),
        Err(_) => Err(format!("no answer within {} ms", deadline.as_millis())),
    }
}

pub(in crate::target) fn unavailable(doing: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Unavailable, doing, reason)
}
