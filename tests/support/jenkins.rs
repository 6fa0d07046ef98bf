//! Jenkins as far as its credentials go, in this process, on loopback: with folders, domains, rights and crumbs, and with
//! its habit of answering 200 to what it does not do. A stub: written from the credentials plugin's documentation
//! (https://github.com/jenkinsci/credentials-plugin, `docs/user.adoc`) and from what its `CredentialsStoreAction` does
//! with a request, since no Jenkins can be had here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::Reader;
use quick_xml::events::Event;
use rekeyd::failure::Failure;
use rekeyd::secret::{AdminCredential, Credential, SecretValue};
use serde_json::json;

/// As `world` has credentials: known by their name, which is their value, too.
pub(crate) const USER: &str = "jenkins";
pub(crate) const TOKEN: &str = "jenkins";
/// A password of the same user's: a write with it needs a crumb.
pub(crate) const PASSWORD: &str = "the admin's password";
const CRUMB: &str = "a-crumb-of-this-session";
const SESSION: &str = "JSESSIONID.1a2b=node0abc";
const LIST: &str = "?";

/// The fields that hold a secret, by the class of their credential.
const SECRETS: [(&str, &str); 3] = [
    ("com.cloudbees.plugins.credentials.impl.UsernamePasswordCredentialsImpl", "password"),
    ("org.jenkinsci.plugins.plaincredentials.impl.StringCredentialsImpl", "secret"),
    ("org.jenkinsci.plugins.plaincredentials.impl.FileCredentialsImpl", "secretBytes"),
];

/// A credential, as it was written last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) class: String,
    pub(crate) fields: Vec<(String, String)>,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// Answered as it should be, and not carried out.
    Ignored,
    /// Carried out, and no answer comes.
    Unanswered,
    /// Neither.
    Silence,
    /// Not carried out, and answered with a status and a text.
    Answer(u16, &'static str),
    /// Not carried out, and answered with so many bytes.
    Huge(usize),
    /// Carried out and answered; whoever reads next gets this status.
    Away(u16),
    /// Somebody else is faster: theirs is there first.
    Overtaken(Kept),
}

/// What requests find.
#[derive(Default)]
pub(crate) struct Contents {
    /// By the way to the domain, `job/team/credentials/store/folder/domain/_`, and the id.
    pub(crate) domains: BTreeMap<String, BTreeMap<String, Kept>>,
    /// Rights that the user lacks: `View`, `Create`, `Update`.
    pub(crate) lacks: BTreeSet<&'static str>,
    fates: BTreeMap<&'static str, VecDeque<Fate>>,
    requests: Vec<String>,
}

pub(crate) struct Jenkins {
    pub(crate) address: SocketAddr,
    contents: Arc<Mutex<Contents>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Jenkins {
    pub(crate) async fn start() -> Self {
        let jenkins = Self::at("127.0.0.1:0".parse().expect("an address"), Arc::default()).await;
        jenkins.make_domain("credentials/store/system/domain/_");
        jenkins.make_domain("job/team/job/orders/credentials/store/folder/domain/_");
        jenkins
    }

    async fn at(address: SocketAddr, contents: Arc<Mutex<Contents>>) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = Router::new().fallback(answer).with_state(Arc::clone(&contents));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { address, contents, task: Some(task) }
    }

    /// Nobody listens any more.
    pub(crate) async fn stop(&mut self) {
        let task = self.task.take().expect("it runs");
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }

    /// It runs again where it was, with what it had.
    pub(crate) async fn resume(&mut self) {
        *self = Self::at(self.address, Arc::clone(&self.contents)).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/ci", self.address)
    }

    pub(crate) fn make_domain(&self, path: &str) {
        self.contents().domains.insert(path.to_owned(), BTreeMap::new());
    }

    pub(crate) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("nothing panics while it holds the contents")
    }

    pub(crate) fn kept(&self, domain: &str, id: &str) -> Option<Kept> {
        self.contents().domains.get(domain)?.get(id).cloned()
    }

    /// What becomes of the next request of a verb, after those that were said before: `read`, `create`, `update`.
    pub(crate) fn next(&self, verb: &'static str, fate: Fate) {
        self.contents().fates.entry(verb).or_default().push_back(fate);
    }

    /// The requests since this was last asked: the verb of each.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.contents().requests)
    }
}

impl Contents {
    /// Whatever was said of further requests is forgotten.
    pub(crate) fn forgive(&mut self) {
        self.fates.clear();
    }
}

impl Drop for Jenkins {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Kept {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, text: &str) {
        self.fields.retain(|(field, _)| field != name);
        self.fields.push((name.to_owned(), text.to_owned()));
    }

    /// As XStream reads one: elements and their texts. An element within one means that there is no secret.
    fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::from_str(std::str::from_utf8(body).ok()?);
        let (mut class, mut fields, mut depth) = (None, Vec::<(String, String)>::new(), 0);
        loop {
            match reader.read_event().ok()? {
                Event::Start(tag) if depth == 0 => {
                    class = Some(tag.name().as_ref().to_owned());
                    depth = 1;
                }
                Event::Start(tag) => {
                    if depth == 1 {
                        fields.push((tag.name().as_ref().to_owned(), String::new()));
                    }
                    depth += 1;
                }
                Event::End(_) => depth -= 1,
                Event::Text(text) if depth == 2 => fields.last_mut()?.1.push_str(&text.xml10_content()),
                Event::GeneralRef(entity) if depth == 2 => {
                    let char = match entity.resolve_char_ref().ok()? {
                        Some(char) => char,
                        None => quick_xml::escape::resolve_predefined_entity(&entity.into_inner())?
                            .chars()
                            .next()?,
                    };
                    fields.last_mut()?.1.push(char);
                }
                Event::Eof => return Some(Self { class: class.filter(|_| depth == 0)?, fields }),
                _ => {}
            }
        }
    }

    /// As it is shown: without its secret.
    fn show(&self) -> String {
        let escape = |text: &str| quick_xml::escape::escape(text).into_owned();
        let secret = SECRETS.iter().find(|(class, _)| *class == self.class).map(|(_, field)| *field);
        let fields = self.fields.iter().map(|(name, text)| match secret {
            Some(secret) if name == secret => format!("  <{name}>\n    <secret-redacted/>\n  </{name}>\n"),
            _ => format!("  <{name}>{}</{name}>\n", escape(text)),
        });
        let (class, fields) = (&self.class, fields.collect::<String>());
        format!("<{class} plugin=\"credentials@1419\">\n{fields}</{class}>")
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Contents>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().trim_start_matches('/').to_owned();
    let Some(path) = path.strip_prefix("ci/") else { return plain(404, "nothing here") };
    let is_post = method == Method::POST;
    let verb = match path.rsplit('/').next() {
        Some("createCredentials") if !headers.contains_key("content-type") => "formless create",
        Some("updateSubmit") if is_post => "formless update",
        Some("createCredentials") => "create",
        Some("config.xml") if is_post => "update",
        Some("config.xml") => "read",
        _ if path.starts_with("crumbIssuer/") => "crumb",
        _ => "list",
    };
    let fate = {
        let mut contents = shared.lock().expect("no panic");
        contents.requests.push(verb.to_owned());
        contents.fates.get_mut(verb).and_then(VecDeque::pop_front)
    };
    if matches!(fate, Some(Fate::Silence)) {
        std::future::pending::<()>().await;
    }
    if let Some(refusal) = refuse_login(&headers, is_post) {
        return refusal;
    }
    match fate {
        Some(Fate::Answer(status, text)) => return plain(status, text),
        Some(Fate::Huge(bytes)) => return plain(200, &"<".repeat(bytes)),
        _ => {}
    }
    let answer = {
        let mut contents = shared.lock().expect("no panic");
        if let Some(Fate::Away(status)) = fate {
            contents.fates.entry("read").or_default().push_back(Fate::Answer(status, ""));
        }
        respond(&mut contents, verb, path, &headers, &body, fate.as_ref())
    };
    if matches!(fate, Some(Fate::Unanswered)) {
        std::future::pending::<()>().await;
    }
    answer
}

/// Tokens are exempt from crumbs, passwords are not.
fn refuse_login(headers: &HeaderMap, is_post: bool) -> Option<Response> {
    let said = headers.get("authorization").and_then(|login| login.to_str().ok()).unwrap_or_default();
    let is = |value: &str| said == format!("Basic {}", STANDARD.encode(format!("{USER}:{value}")));
    if is(TOKEN) {
        return None;
    }
    if !is(PASSWORD) {
        return Some(plain(401, "<html><body>Invalid password/token</body></html>"));
    }
    let header = |name| headers.get(name).and_then(|text| text.to_str().ok());
    let has_crumb = header("Jenkins-Crumb") == Some(CRUMB) && header("cookie") == Some(SESSION);
    (is_post && !has_crumb).then(|| {
        plain(403, "<html><body>HTTP ERROR 403 No valid crumb was included in the request</body></html>")
    })
}

fn respond(
    contents: &mut Contents,
    verb: &str,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
    fate: Option<&Fate>,
) -> Response {
    let forbidden = |right: &str| {
        plain(403, &format!("<html><body>{USER} is missing the Credentials/{right} permission</body></html>"))
    };
    if verb == "crumb" {
        let crumb = json!({"crumb": CRUMB, "crumbRequestField": "Jenkins-Crumb"}).to_string();
        return ([("set-cookie", format!("{SESSION}; Path=/; HttpOnly"))], crumb).into_response();
    }
    let Some((domain, id)) = place(path) else { return plain(404, "not found") };
    let Contents { domains, lacks, .. } = contents;
    // Who may not see a store is told that there is none.
    let Some(domain) = domains.get_mut(domain).filter(|_| !lacks.contains("View")) else {
        return plain(404, "<html><body>Not Found</body></html>");
    };
    let is_ignored = matches!(fate, Some(Fate::Ignored));
    if let Some(Fate::Overtaken(theirs)) = fate {
        domain.insert(theirs.field("id").expect("an id").to_owned(), theirs.clone());
    }
    match verb {
        "list" => {
            let each =
                domain.iter().map(|(id, kept)| json!({"id": id, "description": kept.field("description")}));
            let credentials: Vec<_> = each.collect();
            axum::Json(json!({"_class": "DomainWrapper", "credentials": credentials})).into_response()
        }
        // Its container's encoding for XML, with a question mark for what that has not.
        "read" => match domain.get(id) {
            Some(kept) => {
                let shown = kept.show();
                let encoded = shown.chars().map(|char| u8::try_from(u32::from(char)).unwrap_or(b'?'));
                ([("content-type", "application/xml")], encoded.collect::<Vec<u8>>()).into_response()
            }
            None => plain(404, "<html><body>Not Found</body></html>"),
        },
        "create" | "formless create" if lacks.contains("Create") => forbidden("Create"),
        "update" | "formless update" if lacks.contains("Update") => forbidden("Update"),
        "formless create" => plain(400, "<html><body>No Content-Type header set</body></html>"),
        "formless update" => plain(400, "<html><body>This page expects a form submission</body></html>"),
        _ => {
            let is_xml = headers
                .get("content-type")
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/xml"));
            let parsed = Kept::parse(body).filter(|_| is_xml);
            let Some(kept) = parsed.filter(|kept| SECRETS.iter().any(|(class, _)| *class == kept.class))
            else {
                return plain(
                    500,
                    "<html><body>Oops! java.io.IOException: Failed to parse credential</body></html>",
                );
            };
            let own = kept.field("id").unwrap_or_default().to_owned();
            if verb == "create" && domain.contains_key(&own) {
                return plain(409, "");
            }
            if verb == "update" && !domain.contains_key(id) {
                return plain(404, "");
            }
            if !is_ignored {
                domain.insert(own, kept);
            }
            plain(200, "")
        }
    }
}

/// The domain and the id that a path names.
fn place(path: &str) -> Option<(&str, &str)> {
    let after = path.find("/domain/")? + "/domain/".len();
    let domain = path[after..].find('/').map_or(path.len(), |end| after + end);
    let rest = path[domain..].trim_start_matches('/');
    let id = rest.strip_prefix("credential/").and_then(|rest| rest.split('/').next()).unwrap_or(LIST);
    Some((&path[..domain], id))
}

fn plain(status: u16, text: &str) -> Response {
    (axum::http::StatusCode::from_u16(status).expect("a status"), text.to_owned()).into_response()
}

/// The login of a test.
pub(crate) struct Login(pub(crate) &'static str);

#[async_trait]
impl AdminCredential for Login {
    async fn credential(&self) -> Result<Credential, Failure> {
        Ok(Credential::new(USER.parse().expect("a principal"), SecretValue::new(self.0.into())))
    }
}
