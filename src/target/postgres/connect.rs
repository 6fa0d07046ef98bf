//! Opening a session: socket, TLS and login, each within its deadline.
//!
//! TLS is negotiated here rather than in the driver, so that a server without it is told apart from one
//! whose handshake fails, and so that nothing is ever sent in the clear where TLS is asked for.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Deadlines;
use super::error::{LoginError, login_error};
use super::planned::Plans;
use super::witness::{Demand, Observation, WatchedTls, Witness};
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::PostgresEndpoint;
use crate::secret::Credential;
use crate::target::dial::{self, unavailable, within};
use crate::target::{APPLICATION, tls};

/// An open session. Dropping it cuts the connection; [`Session::close`] takes leave of the server.
pub(super) struct Session {
    client: Client,
    driver: Driver,
    observation: Observation,
    plans: Plans,
}

impl Session {
    /// With what the session's lane knows of keeping statements.
    pub(super) fn with_plans(mut self, plans: Plans) -> Self {
        self.plans = plans;
        self
    }

    pub(super) const fn plans(&self) -> &Plans {
        &self.plans
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// What the server asked for at login; `None` if that is not known.
    pub(super) fn demand(&self) -> Option<Demand> {
        self.observation.demand()
    }

    /// Whether the connection is known to be gone.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Takes leave of the server and waits until it has ended the session, so that the session is not
    /// taken for somebody's use of the role afterwards.
    pub(super) async fn close(self) {
        let Self { client, mut driver, .. } = self;
        drop(client);
        // A server that does not end it in time has it cut off.
        let _ = tokio::time::timeout(FAREWELL, &mut driver.0).await;
    }
}

/// How long a session that is of no more use is waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// The task that moves bytes for a session; ends with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Logs in.
pub(super) async fn open(
    endpoint: &PostgresEndpoint,
    credential: &Credential,
    deadlines: &Deadlines,
) -> Result<Session, LoginError> {
    let doing = format!("log in as {} at {endpoint}", credential.principal);
    match tokio::time::timeout(deadlines.login, login(endpoint, credential, deadlines, &doing)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let reason = format!("no answer within {} ms", deadlines.login.as_millis());
            let remedy = "check that a PostgreSQL server listens there and is not overloaded";
            Err(unavailable(&doing, reason).with_remedy(remedy).into())
        }
    }
}

async fn login(
    endpoint: &PostgresEndpoint,
    credential: &Credential,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<Session, LoginError> {
    let mut config = Config::new();
    config
        .user(credential.principal.as_str())
        .password(credential.value.expose())
        .dbname(&endpoint.database)
        .application_name(APPLICATION);

    // As in libpq, a Unix socket has no TLS whatever the mode: nobody can listen in.
    if endpoint.host.starts_with('/') {
        let path = Path::new(&endpoint.host).join(format!(".s.PGSQL.{}", endpoint.port));
        let connect = UnixStream::connect(&path);
        let socket = within(deadlines.connect, connect)
            .await
            .map_err(|reason| unavailable(doing, format!("cannot reach {}: {reason}", path.display())))?;
        return login_plain(socket, &mut config, Observation::default(), doing).await;
    }

    let tls = tls::client_config(&endpoint.tls).await.map_err(|reason| {
        Failure::new(FailureClass::Invalid, doing, reason)
            .with_remedy("name a PEM file that rekeyd may read and that holds the server's authority")
    })?;
    let mut socket =
        dial::reach(&endpoint.host, endpoint.port, deadlines.connect, deadlines.statement, doing).await?;
    let observation = Observation::default();
    let Some(tls) = tls else {
        return login_plain(socket, &mut config, observation, doing).await;
    };

    ask_for_tls(&mut socket, doing).await?;
    // `Direct` tells the driver that TLS starts right away: the asking is done.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    let Ok(connector) =
        MakeTlsConnect::<TcpStream>::make_tls_connect(&mut MakeRustlsConnect::new(tls), &endpoint.host);
    let connector = WatchedTls { connector, observation: observation.clone() };
    let (client, connection) =
        config.connect_raw(socket, connector).await.map_err(|error| login_error(&error, doing))?;
    Ok(Session { client, driver: drive(connection), observation, plans: Plans::default() })
}

async fn login_plain<S>(
    socket: S,
    config: &mut Config,
    observation: Observation,
    doing: &str,
) -> Result<Session, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    config.ssl_mode(SslMode::Disable);
    let watched = Witness::new(socket, observation.clone());
    let (client, connection) =
        config.connect_raw(watched, NoTls).await.map_err(|error| login_error(&error, doing))?;
    Ok(Session { client, driver: drive(connection), observation, plans: Plans::default() })
}

/// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL: one byte answers, and
/// exactly one is read, so that nothing sent in the clear can pass for what comes out of the encryption.
async fn ask_for_tls(socket: &mut TcpStream, doing: &str) -> Result<(), Failure> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let mut answer = [0];
    let exchange = async {
        socket.write_all(&SSL_REQUEST).await?;
        socket.read_exact(&mut answer).await
    };
    exchange
        .await
        .map_err(|error| unavailable(doing, format!("the server ended the connection: {}", error.kind())))?;
    match answer {
        [b'S'] => Ok(()),
        [b'N'] => Err(Failure::new(FailureClass::Invalid, doing, "the server does not offer TLS")
            .with_remedy("set `ssl = on` at the server, or tls.mode disable if plaintext is meant")),
        _ => Err(unavailable(doing, "the server cannot take a connection now")),
    }
}

/// Runs the connection in the background. Its end shows at the client; notices could quote statements
/// and go nowhere.
fn drive<S, T>(mut connection: Connection<S, T>) -> Driver
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Driver(tokio::spawn(async move {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {}
    }))
}
