//! AWS IAM and STS in this process, on loopback: strict where the services are strict, and as unreliable as a test asks
//! them to be. Written from the services' API references:
//! https://docs.aws.amazon.com/IAM/latest/APIReference/ (2010-05-08) and
//! https://docs.aws.amazon.com/STS/latest/APIReference/ (2011-06-15).
//!
//! They check the signature of every request. Their errors quote what they must not be quoted for, so that a test
//! sees whether somebody passes them on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::policy::spec::{AwsIamSpec, Interval};
use rekeyd::secret::{Credential, SecretValue, ValueSpec};
use rekeyd::settings::AwsSettings;
use rekeyd::target::aws_iam::AwsIamTarget;
use sha2::{Digest as _, Sha256};

/// Stands in every error's text: it must not be told.
pub(crate) const INMOST: &str = "K9xW2vInmostValue";

/// The user that has an access key for each policy.
pub(crate) const USER: &str = "orders-app";

const ADMIN: [&str; 2] = ["AKIDREKEYDTEST", "secret-key-of-the-test"];
const REGION: &str = "eu-central-1";
const QUOTA: usize = 2;

/// The services, of a test's own.
pub(crate) struct Iam {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    folder: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It never arrives: the connection is cut.
    LoseRequest,
    /// It is done, and the connection is cut before the answer.
    LoseReply,
    /// It is done, and the answer is an error of the server.
    DoneAndFailed,
    /// It is done, and the answer is cut short.
    DoneAndCut,
    /// A code, a status and a text, and nothing is done.
    Code(&'static str, u16, &'static str),
    /// A page of something in between, and nothing is done.
    Html(u16),
}

#[derive(Default)]
struct State {
    users: BTreeMap<String, Vec<AccessKey>>,
    /// What STS and lists go on saying, and for how many requests.
    stale: Option<(BTreeMap<String, Vec<AccessKey>>, usize)>,
    fates: BTreeMap<String, VecDeque<Fate>>,
    denied: BTreeSet<String>,
    actions: Vec<String>,
    made: u64,
}

#[derive(Clone)]
struct AccessKey {
    id: String,
    secret: String,
    made_at: jiff::Timestamp,
    used_at: Option<jiff::Timestamp>,
    active: bool,
}

type Refusal = (&'static str, u16);

impl Iam {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Mutex<State>>::default();
        shared.lock().expect("no panic").users.insert(USER.into(), Vec::new());
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        let iam = Self { address, shared, folder: tempfile::tempdir().expect("a folder"), task };
        iam.write_keys(ADMIN);
        iam
    }

    /// What rekeyd logs in with.
    pub(crate) fn write_keys(&self, [id, secret]: [&str; 2]) {
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        std::fs::write(self.keys_file(), text).expect("a file of keys");
    }

    fn keys_file(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    pub(crate) fn settings(&self) -> AwsSettings {
        let endpoint = Some(format!("http://{}", self.address));
        AwsSettings {
            region: REGION.into(),
            account: Some("123456789012".into()),
            kms_key: None,
            profile: None,
            credentials_file: Some(self.keys_file()),
            endpoint: endpoint.clone(),
            iam_endpoint: endpoint.clone(),
            sts_endpoint: endpoint,
            ca_file: None,
            control_path: "rekeyd/control".parse().expect("a path"),
            timeout: Interval::from_duration(std::time::Duration::from_secs(5)),
        }
    }

    pub(crate) fn target(&self) -> AwsIamTarget {
        let spec = AwsIamSpec { store: "aws".parse().expect("a name"), user: USER.parse().expect("a user") };
        AwsIamTarget::open(spec, &self.settings()).expect("a target")
    }

    /// What becomes of the next request of an action.
    pub(crate) fn next(&self, action: &str, fate: Fate) {
        self.state().fates.entry(action.into()).or_default().push_back(fate);
    }

    pub(crate) fn deny(&self, action: &str) {
        self.state().denied.insert(action.into());
    }

    /// STS and lists go on saying what is so now, for so many requests.
    pub(crate) fn lag(&self, requests: usize) {
        let mut state = self.state();
        state.stale = Some((state.users.clone(), requests));
    }

    pub(crate) fn actions(&self) -> Vec<String> {
        std::mem::take(&mut self.state().actions)
    }

    /// Somebody makes a key by hand.
    pub(crate) fn by_hand(&self) -> Credential {
        let key = self.state().make(USER);
        Credential::new(key.id.parse().expect("an id"), SecretValue::new(key.secret.into_bytes()))
    }

    pub(crate) fn remove_user(&self) {
        self.state().users.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().expect("nothing panics while it holds the services")
    }
}

impl Drop for Iam {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn make(&mut self, user: &str) -> AccessKey {
        self.made += 1;
        let secret = ValueSpec::default().generate();
        let key = AccessKey {
            id: format!("AKIATEST{:012}", self.made),
            secret: secret.expose_str().expect("text").to_owned(),
            made_at: SystemClock.now(),
            used_at: None,
            active: true,
        };
        self.users.get_mut(user).expect("a user").push(key.clone());
        key
    }

    /// What a reading sees: an earlier state, for a while.
    fn seen(&mut self) -> BTreeMap<String, Vec<AccessKey>> {
        match &mut self.stale {
            Some((before, left)) if *left > 0 => {
                *left -= 1;
                before.clone()
            }
            _ => self.users.clone(),
        }
    }

    fn act(&mut self, form: &BTreeMap<String, String>, caller: &str) -> Result<String, Refusal> {
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let (user, id) = (field("UserName"), field("AccessKeyId"));
        const NO_ENTITY: Refusal = ("NoSuchEntity", 404);
        match field("Action") {
            "GetCallerIdentity" => Ok(format!(
                "<Arn>arn:aws:iam::123456789012:user/apps/{caller}</Arn><UserId>AIDA</UserId><Account>1</Account>"
            )),
            "CreateAccessKey" => {
                let keys = self.users.get(user).ok_or(NO_ENTITY)?;
                if keys.len() >= QUOTA {
                    return Err(("LimitExceeded", 409));
                }
                let AccessKey { id, secret, made_at, .. } = self.make(user);
                Ok(format!(
                    "<AccessKey><UserName>{user}</UserName><AccessKeyId>{id}</AccessKeyId><Status>Active</Status>\
                     <SecretAccessKey>{secret}</SecretAccessKey><CreateDate>{made_at:.0}</CreateDate></AccessKey>"
                ))
            }
            "ListAccessKeys" => {
                let keys = self.seen().remove(user).ok_or(NO_ENTITY)?;
                let from = field("Marker").parse().unwrap_or(0);
                // One for each page.
                let page = keys.iter().skip(from).take(1).map(|key| {
                    let AccessKey { id, made_at, active, .. } = key;
                    let status = if *active { "Active" } else { "Inactive" };
                    format!(
                        "<member><UserName>{user}</UserName><AccessKeyId>{id}</AccessKeyId><Status>{status}</Status>\
                         <CreateDate>{made_at:.0}</CreateDate></member>"
                    )
                });
                let page: String = page.collect();
                let more = from + 1 < keys.len();
                let marker = if more { format!("<Marker>{}</Marker>", from + 1) } else { String::new() };
                Ok(format!(
                    "<AccessKeyMetadata>{page}</AccessKeyMetadata><IsTruncated>{more}</IsTruncated>{marker}"
                ))
            }
            "GetAccessKeyLastUsed" => {
                let key =
                    self.users.values().flatten().find(|key| key.id == id).ok_or(("AccessDenied", 403))?;
                let date = key.used_at.map(|at| format!("<LastUsedDate>{at:.0}</LastUsedDate>"));
                let service = if date.is_some() { "sts" } else { "N/A" };
                Ok(format!(
                    "<UserName>{USER}</UserName><AccessKeyLastUsed><Region>{REGION}</Region>{}\
                     <ServiceName>{service}</ServiceName></AccessKeyLastUsed>",
                    date.unwrap_or_default()
                ))
            }
            "UpdateAccessKey" => {
                let keys = self.users.get_mut(user).ok_or(NO_ENTITY)?;
                let key = keys.iter_mut().find(|key| key.id == id).ok_or(NO_ENTITY)?;
                key.active = field("Status") == "Active";
                Ok(String::new())
            }
            "DeleteAccessKey" => {
                let keys = self.users.get_mut(user).ok_or(NO_ENTITY)?;
                let before = keys.len();
                keys.retain(|key| key.id != id);
                if keys.len() < before { Ok(String::new()) } else { Err(NO_ENTITY) }
            }
            _ => Err(("InvalidAction", 400)),
        }
    }

    /// Whom a signature is of, by the keys that there are.
    fn caller(&mut self, request: &Signed<'_>) -> Result<String, Refusal> {
        let (service, region) = match request.action {
            "GetCallerIdentity" => ("sts", REGION),
            _ => ("iam", "us-east-1"),
        };
        if request.id() == ADMIN[0] {
            return request.check(ADMIN[1], service, region).map(|()| "rekeyd".to_owned());
        }
        let seen = self.seen();
        let found = seen.iter().find_map(|(user, keys)| {
            keys.iter()
                .find(|key| key.id == request.id() && key.active)
                .map(|key| (user.clone(), key.clone()))
        });
        let (user, key) = found.ok_or(("InvalidClientTokenId", 403))?;
        request.check(&key.secret, service, region)?;
        if let Some(key) =
            self.users.get_mut(&user).and_then(|keys| keys.iter_mut().find(|one| one.id == key.id))
        {
            key.used_at = Some(SystemClock.now());
        }
        Ok(user)
    }
}

/// A request and its signature, of version 4.
struct Signed<'a> {
    action: &'a str,
    headers: &'a [(String, String)],
    body: &'a [u8],
}

impl Signed<'_> {
    fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(each, _)| each == name)
            .map(|(_, value)| value.as_str())
            .unwrap_or_default()
    }

    fn part(&self, name: &str) -> &str {
        let rest = self.header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").unwrap_or_default();
        let part = rest.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        part.unwrap_or_default()
    }

    fn id(&self) -> &str {
        self.part("Credential").split('/').next().unwrap_or_default()
    }

    fn check(&self, secret: &str, service: &str, region: &str) -> Result<(), Refusal> {
        const WRONG: Refusal = ("SignatureDoesNotMatch", 403);
        let (signed, date) = (self.part("SignedHeaders"), self.header("x-amz-date"));
        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{region}/{service}/aws4_request");
        if self.part("Credential").split_once('/').map(|(_, scope)| scope) != Some(&scope)
            || ["host", "x-amz-date"].iter().any(|needed| !signed.split(';').any(|name| name == *needed))
        {
            return Err(WRONG);
        }
        let canonical: String =
            signed.split(';').map(|name| format!("{name}:{}\n", self.header(name).trim())).collect();
        let request = format!("POST\n/\n\n{canonical}\n{signed}\n{}", hex(&Sha256::digest(self.body)));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request)));
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [day, region, service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        if hex(&hmac(&key, text.as_bytes())) == self.part("Signature") { Ok(()) } else { Err(WRONG) }
    }
}

/// HMAC with SHA-256, RFC 2104.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    let padded = |pad: u8| -> Vec<u8> {
        (0..64).map(|index| key.get(index).copied().unwrap_or_default() ^ pad).collect()
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Answer = Response<Full<Bytes>>;

async fn serve(listener: tokio::net::TcpListener, shared: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            // It ends with an error where the connection is to be cut.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Mutex<State>>) -> Result<Answer, io::Error> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| cut())?.to_bytes();
    let headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let action = form.get("Action").cloned().unwrap_or_default();

    let mut state = shared.lock().expect("nothing panics while it holds the services");
    let fate = state.fates.get_mut(&action).and_then(VecDeque::pop_front);
    match fate {
        Some(Fate::LoseRequest) => return Err(cut()),
        Some(Fate::Code(code, status, text)) => return Ok(refusal(code, status, text)),
        Some(Fate::Html(status)) => return Ok(plain(status, format!("<html><body>{INMOST}</body></html>"))),
        _ => {}
    }
    state.actions.push(action.clone());
    let caller = state.caller(&Signed { action: &action, headers: &headers, body: &body });
    let result = caller.and_then(|caller| {
        if state.denied.contains(&action) { Err(("AccessDenied", 403)) } else { state.act(&form, &caller) }
    });
    match (fate, result) {
        (Some(Fate::LoseReply), _) => Err(cut()),
        (Some(Fate::DoneAndFailed), _) => Ok(refusal("InternalFailure", 500, INMOST)),
        (Some(Fate::DoneAndCut), Ok(_)) => Ok(plain(200, format!("<{action}Response><{action}Result>"))),
        (_, Ok(result)) => Ok(plain(
            200,
            format!(
                "<?xml version=\"1.0\"?><{action}Response xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">\
                 <{action}Result>{result}</{action}Result><ResponseMetadata><RequestId>1</RequestId>\
                 </ResponseMetadata></{action}Response>"
            ),
        )),
        (_, Err((code, status))) => Ok(refusal(code, status, INMOST)),
    }
}

fn refusal(code: &str, status: u16, text: &str) -> Answer {
    plain(
        status,
        format!(
            "<ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{text}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        ),
    )
}

fn plain(status: u16, text: String) -> Answer {
    let answer = Response::builder().status(status).header("content-type", "text/xml");
    answer.body(Full::new(text.into())).expect("an answer")
}
