//! The token that calls are made with: how it is had, kept alive and replaced.
//!
//! The first call logs in. A task of the session renews the token when two thirds of its time are used,
//! so that it lives as long as the store is open, idle or not. When a renewal grants less than the token had
//! when it was new, because it has come near the longest life the server allows it, the session logs in
//! anew. The server
//! answers 403 to a dead token and to a missing right alike: it is asked which, and after a dead token
//! the session logs in once and repeats the call, which had no effect.

use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustify::endpoint::Endpoint;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use vaultrs::api::AuthInfo;
use vaultrs::api::auth::{approle, kubernetes};
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};
use vaultrs::api::token::responses::LookupTokenResponse;
use vaultrs::error::ClientError;
use zeroize::{Zeroize as _, Zeroizing};

use super::answer::{Call, Effect, Trouble, is_forbidden, is_refused};
use super::transport::{TokenClient, Transport};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::StorePath;
use crate::settings::{VaultAuth, VaultSettings};

/// A file that is longer holds no token.
const LONGEST_FILE: usize = 64 << 10;

/// How long the reading of such a file may take: it may be a pipe that nobody writes to.
const FILE_DEADLINE: Duration = Duration::from_secs(5);

/// A token is not renewed more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Makes calls with a token that is alive.
pub(crate) struct Session {
    transport: Transport,
    auth: VaultAuth,
    /// Names the server in failures and in the log.
    label: String,
    state: Mutex<Option<Login>>,
    failed: LastFailure,
    /// Tells the keeper that there is another lease to keep.
    changed: Arc<Notify>,
    keeper: OnceLock<AbortOnDropHandle<()>>,
}

/// The last failure of something that calls wait for in turn. Those that arrived before it take it for their
/// own: a dead server is asked once for all.
#[derive(Default)]
pub(crate) struct LastFailure(std::sync::Mutex<Option<(Instant, Failure)>>);

impl LastFailure {
    /// Fails as another call did since this one arrived.
    pub(crate) fn since(&self, arrived: Instant) -> Result<(), Failure> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, failure)) if *at >= arrived => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    pub(crate) fn keep(&self, failure: Failure) -> Failure {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), failure.clone()));
        failure
    }
}

/// A token and how long it lives.
#[derive(Clone)]
struct Login {
    client: Arc<TokenClient>,
    /// `None` when it lives for ever, or nobody may say how long.
    lease: Option<Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    /// What the server granted when the token was new.
    full: Duration,
    renewable: bool,
    expires: Instant,
    /// When to renew it.
    due: Instant,
}

impl Session {
    /// Reads the file of authorities, and nothing else yet: the first call connects and logs in.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub(crate) fn open(settings: &VaultSettings) -> Result<Arc<Self>, Failure> {
        let auth_mount = match &settings.auth {
            VaultAuth::Token(_) => None,
            VaultAuth::AppRole(auth) => Some(&auth.mount),
            VaultAuth::Kubernetes(auth) => Some(&auth.mount),
        };
        // A mount becomes a part of the URL: it has the form of a path of names.
        if let Some(Err(error)) = auth_mount.map(|mount| mount.parse::<StorePath>()) {
            return Err(Failure::new(FailureClass::Invalid, format!("use {}", settings.address), error));
        }
        Ok(Arc::new(Self {
            transport: Transport::new(settings)?,
            auth: settings.auth.clone(),
            label: settings.address.clone(),
            state: Mutex::new(None),
            failed: LastFailure::default(),
            changed: Arc::default(),
            keeper: OnceLock::new(),
        }))
    }

    /// Names the server in failures.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Makes a call and takes its result. `request` is asked a second time after a new login.
    pub(crate) async fn fetch<E: Endpoint>(
        self: &Arc<Self>,
        request: impl Fn() -> E + Send + Sync,
    ) -> Result<E::Response, Trouble> {
        let client = self.client().await.map_err(Trouble::Login)?;
        match client.fetch(request()).await {
            Err(error) if is_forbidden(&error) => {
                let client = self.replaced(&client, error).await?;
                client.fetch(request()).await.map_err(Trouble::Call)
            }
            other => other.map_err(Trouble::Call),
        }
    }

    /// Makes a call whose result is a token.
    pub(crate) async fn token<E: Endpoint<Response = ()>>(
        self: &Arc<Self>,
        request: impl Fn() -> E + Send + Sync,
    ) -> Result<AuthInfo, Trouble> {
        let client = self.client().await.map_err(Trouble::Login)?;
        match client.token(request()).await {
            Err(error) if is_forbidden(&error) => {
                let client = self.replaced(&client, error).await?;
                client.token(request()).await.map_err(Trouble::Call)
            }
            other => other.map_err(Trouble::Call),
        }
    }

    /// Makes a call that has no result.
    pub(crate) async fn send<E: Endpoint>(
        self: &Arc<Self>,
        request: impl Fn() -> E + Send + Sync,
    ) -> Result<(), Trouble> {
        let client = self.client().await.map_err(Trouble::Login)?;
        match client.send(request()).await {
            Err(error) if is_forbidden(&error) => {
                let client = self.replaced(&client, error).await?;
                client.send(request()).await.map_err(Trouble::Call)
            }
            other => other.map_err(Trouble::Call),
        }
    }

    /// A client whose token is alive as far as is known; logs in when there is none.
    pub(crate) async fn client(self: &Arc<Self>) -> Result<Arc<TokenClient>, Failure> {
        let arrived = Instant::now();
        let mut state = self.state.lock().await;
        self.failed.since(arrived)?;
        if let Some(login) = &*state
            && login.lease.is_none_or(|lease| Instant::now() < lease.expires)
        {
            return Ok(Arc::clone(&login.client));
        }
        match self.log_in().await {
            Ok(login) => Ok(self.adopt(&mut state, login)),
            Err(failure) => Err(self.failed.keep(failure)),
        }
    }

    /// A client that sends another token.
    pub(crate) fn with_token(&self, token: &str) -> TokenClient {
        self.transport.client(token)
    }

    /// A client that sends no token, for what anybody may ask.
    pub(crate) fn anonymous(&self) -> TokenClient {
        self.transport.client("")
    }

    /// Whether the session can have another token by itself.
    pub(crate) fn can_log_in(&self) -> bool {
        !matches!(self.auth, VaultAuth::Token(_))
    }

    /// After a 403 to a call with `failed`: a client with another token, or the refusal itself when the
    /// token is not the reason.
    async fn replaced(
        self: &Arc<Self>,
        failed: &Arc<TokenClient>,
        refusal: ClientError,
    ) -> Result<Arc<TokenClient>, Trouble> {
        match lookup_self(failed).await {
            Ok(mut token) => {
                token.id.zeroize();
                return Err(Trouble::Call(refusal));
            }
            Err(error) if is_forbidden(&error) => {}
            Err(error) => {
                return Err(Trouble::Login(self.failed(
                    "look at the token",
                    "auth/token/lookup-self",
                    error,
                )));
            }
        }
        let mut state = self.state.lock().await;
        match &*state {
            // Somebody was faster.
            Some(login) if !Arc::ptr_eq(&login.client, failed) => return Ok(Arc::clone(&login.client)),
            _ => {}
        }
        let login = self.log_in().await.map_err(Trouble::Login)?;
        if let VaultAuth::Token(token) = &self.auth
            && login.client.same_token(failed)
        {
            let reason = format!("the server refuses the token in {}", token.file.display());
            let failure = Failure::new(FailureClass::Denied, self.doing("log in"), reason)
                .with_remedy("write a fresh token to the file; it is read again by itself");
            return Err(Trouble::Login(failure));
        }
        Ok(self.adopt(&mut state, login))
    }

    fn adopt(self: &Arc<Self>, state: &mut Option<Login>, login: Login) -> Arc<TokenClient> {
        let client = Arc::clone(&login.client);
        *state = Some(login);
        self.changed.notify_one();
        self.keeper.get_or_init(|| {
            let keeper = keep(Arc::downgrade(self), Arc::clone(&self.changed));
            AbortOnDropHandle::new(tokio::spawn(keeper))
        });
        client
    }

    async fn log_in(&self) -> Result<Login, Failure> {
        match &self.auth {
            VaultAuth::Token(auth) => {
                let client = Arc::new(self.transport.client(&self.read(&auth.file).await?));
                let lease = match lookup_self(&client).await {
                    Ok(mut token) => {
                        token.id.zeroize();
                        Lease::of(token.ttl, token.renewable.unwrap_or(false))
                    }
                    // Dead, or not allowed to ask: the call that needs the token will show which.
                    Err(error) if is_forbidden(&error) => None,
                    Err(error) => {
                        return Err(self.failed("look at the token", "auth/token/lookup-self", error));
                    }
                };
                Ok(Login { client, lease })
            }
            VaultAuth::AppRole(auth) => {
                let role = self.read(&auth.role_id_file).await?;
                let secret = self.read(&auth.secret_id_file).await?;
                let request = approle::requests::LoginWithApproleRequest::builder()
                    .mount(auth.mount.as_str())
                    .role_id(role.as_str())
                    .secret_id(secret.as_str())
                    .build()
                    .expect("everything is set");
                let answer = self.anonymous().token(request).await;
                let remedy = "check the role id, and give a fresh secret id: it may be used up or too old";
                self.logged_in(answer, &auth.mount, remedy)
            }
            VaultAuth::Kubernetes(auth) => {
                let token = self.read(&auth.token_file).await?;
                let request = kubernetes::requests::LoginWithKubernetesRequest::builder()
                    .mount(auth.mount.as_str())
                    .role(auth.role.as_str())
                    .jwt(token.as_str())
                    .build()
                    .expect("everything is set");
                let answer = self.anonymous().token(request).await;
                let remedy = "check the role, and the service account and namespace that it is bound to";
                self.logged_in(answer, &auth.mount, remedy)
            }
        }
    }

    fn logged_in(
        &self,
        answer: Result<AuthInfo, ClientError>,
        mount: &str,
        remedy: &'static str,
    ) -> Result<Login, Failure> {
        match answer {
            Ok(mut auth) => {
                let client = Arc::new(self.transport.client(&auth.client_token));
                auth.client_token.zeroize();
                Ok(Login { client, lease: Lease::of(auth.lease_duration, auth.renewable) })
            }
            Err(error) if is_refused(&error) => {
                let reason = format!("`auth/{mount}` refuses the login");
                Err(Failure::new(FailureClass::Denied, self.doing("log in"), reason).with_remedy(remedy))
            }
            Err(error) => Err(self.failed("log in", &format!("auth/{mount}/login"), error)),
        }
    }

    /// How long until the token is to be renewed.
    async fn pause(&self) -> Option<Duration> {
        let lease = self.state.lock().await.as_ref()?.lease?;
        let now = Instant::now();
        (now < lease.expires).then(|| lease.due.saturating_duration_since(now))
    }

    /// Renews the token, or replaces it by a new one.
    async fn renew(self: &Arc<Self>) {
        let mut state = self.state.lock().await;
        let Some(login) = &mut *state else { return };
        let Some(mut lease) = login.lease else { return };
        match self.renewed(&login.client, lease).await {
            Ok(Renewed::Lease(renewed)) => login.lease = renewed,
            Ok(Renewed::Login(login)) => {
                self.adopt(&mut state, login);
            }
            Err(failure) => {
                lease.put_off();
                login.lease = Some(lease);
                tracing::warn!(store = %self.label, %failure, "the token of the store was not renewed");
            }
        }
    }

    async fn renewed(&self, client: &TokenClient, lease: Lease) -> Result<Renewed, Failure> {
        if let VaultAuth::Token(auth) = &self.auth
            && !client.has_token(&self.read(&auth.file).await?)
        {
            return self.log_in().await.map(Renewed::Login);
        }
        if !lease.renewable {
            if self.can_log_in() {
                return self.log_in().await.map(Renewed::Login);
            }
            return Err(Failure::new(
                FailureClass::Denied,
                self.doing("renew the token"),
                "it is not renewable and will soon end",
            ));
        }
        let request = RenewTokenSelfRequest::builder().build().expect("it has no parts");
        match client.token(request).await {
            Ok(mut auth) => {
                auth.client_token.zeroize();
                // Near the longest life the server allows it, a token is granted less and less.
                if self.can_log_in() && Duration::from_secs(auth.lease_duration) < lease.full {
                    match self.log_in().await {
                        Ok(login) => return Ok(Renewed::Login(login)),
                        // What was granted is good for a while yet.
                        Err(failure) => {
                            tracing::warn!(store = %self.label, %failure, "the token of the store will soon end");
                        }
                    }
                }
                let renewed = Lease::of(auth.lease_duration, auth.renewable);
                Ok(Renewed::Lease(renewed.map(|renewed| Lease { full: lease.full, ..renewed })))
            }
            Err(error) if self.can_log_in() && is_refused(&error) => self.log_in().await.map(Renewed::Login),
            Err(error) => Err(self.failed("renew the token", "auth/token/renew-self", error)),
        }
    }

    /// A token, an id or a JWT: printable ASCII on one line.
    async fn read(&self, path: &Path) -> Result<Zeroizing<String>, Failure> {
        let failure = |class, reason: String| {
            Failure::new(class, self.doing("log in"), format!("cannot use {}: {reason}", path.display()))
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_FILE + 1));
        let reading = async {
            let file = tokio::fs::File::open(path).await?;
            file.take(LONGEST_FILE as u64 + 1).read_to_end(&mut bytes).await
        };
        let read = match tokio::time::timeout(FILE_DEADLINE, reading).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err("it cannot be read in time".into()),
        };
        // An agent may not have written it yet.
        read.map_err(|reason| {
            failure(FailureClass::Unavailable, reason)
                .with_remedy("check the path, and that rekeyd's own user may read it")
        })?;
        let text = bytes.trim_ascii();
        if text.is_empty() || text.len() > LONGEST_FILE || !text.iter().all(u8::is_ascii_graphic) {
            return Err(failure(FailureClass::Invalid, "it does not hold one line of printable text".into()));
        }
        let text = std::str::from_utf8(text).expect("graphic ASCII is UTF-8");
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn failed(&self, doing: &str, path: &str, error: ClientError) -> Failure {
        let doing = self.doing(doing);
        // Its answer being lost changes nothing for the call that needs the token.
        let call = Call { doing, path: path.to_owned(), needs: "`update` or `read`", effect: Effect::Reads };
        Trouble::Call(error).into_failure(call)
    }

    fn doing(&self, doing: &str) -> String {
        format!("{doing} at {}", self.label)
    }
}

/// Has a token look at itself.
pub(crate) async fn lookup_self(client: &TokenClient) -> Result<LookupTokenResponse, ClientError> {
    client.fetch(LookupTokenSelfRequest::builder().build().expect("it has no parts")).await
}

enum Renewed {
    /// The same token lives on.
    Lease(Option<Lease>),
    /// There is another token.
    Login(Login),
}

impl Lease {
    fn of(seconds: u64, renewable: bool) -> Option<Self> {
        // The server says 0 of a token that lives for ever.
        let full = Duration::from_secs(seconds);
        (seconds > 0).then(|| {
            let now = Instant::now();
            Self { full, renewable, expires: now + full, due: now + pause(full) }
        })
    }

    /// Tries again when two thirds of what is left are used.
    fn put_off(&mut self) {
        let now = Instant::now();
        self.due = now + pause(self.expires.saturating_duration_since(now));
    }
}

fn pause(left: Duration) -> Duration {
    (left * 2 / 3).max(SHORTEST_PAUSE)
}

/// Renews the token of a session for as long as the session is there: it holds the session only while it
/// works, and is aborted when the session goes.
async fn keep(session: Weak<Session>, changed: Arc<Notify>) {
    loop {
        let Some(pause) = session.upgrade().map(|session| async move { session.pause().await }) else {
            return;
        };
        match pause.await {
            // What lives for ever or has ended is not renewed; the next login begins another lease.
            None => changed.notified().await,
            Some(pause) => tokio::select! {
                () = SystemClock.sleep(pause) => {
                    let Some(session) = session.upgrade() else { return };
                    session.renew().await;
                }
                () = changed.notified() => {}
            },
        }
    }
}
