//! What comes from outside and may be anything, and what has to hold whatever it is. A fuzzer feeds these
//! without end (`make fuzz`), the tests for a moment.
//!
//! Each takes bytes and panics when something does not hold.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Component, Path};
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::json;

use crate::failure::Failure;
use crate::ident::{DnsLabel, PolicyName, Principal, RequestId, RotationId, StorePath, Version};
use crate::ledger::{self, Record, committed};
use crate::policy::Spec;
use crate::policy::diagnostic::{Diagnostic, graphical};
use crate::policy::load::parse_policies;
use crate::policy::spec::{FileMode, Interval, StoreSpec, Zone};
use crate::recipe::address::{self, destination, is_base, is_path};
use crate::rotation::run::Document;
use crate::schedule::CronExpression;
use crate::secret::{Credential, SecretValue};
use crate::settings::{self, Settings};
use crate::store::{Place, Promotion, Store};
use crate::target::postgres::quoted;
use crate::template::{Template, Values};

/// Takes one text in.
pub type Feed = fn(&[u8]);

/// By name.
pub const FEEDS: [(&str, Feed); 8] = [
    ("policy", policy),
    ("settings", settings_file),
    ("run_document", run_document),
    ("record", record),
    ("commit", commit),
    ("answer", answer),
    ("names", names),
    ("address", address),
];

fn now() -> Timestamp {
    "2026-11-24T00:00:00Z".parse().expect("a timestamp")
}

/// A policy file: what is wrong is told without what a terminal would obey, and what is right is the same
/// when it comes back from a run document.
pub fn policy(bytes: &[u8]) {
    static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
        serde_json::from_value(json!({
            "policies": {"directory": "/etc/rekeyd/policies"},
            "stores": {"main": {"embedded": {"path": "/var/lib/rekeyd/store.db", "key": {"file": "/etc/rekeyd/key"}}}},
            "credentials": {"orders-db-admin": {"file": {"username": "rekeyd", "path": "/etc/rekeyd/admin"}}},
            "ledger": {"path": "/var/lib/rekeyd/ledger.git"},
        }))
        .expect("settings")
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let loaded = parse_policies("fed.yaml", text, &SETTINGS, now());
    told(&loaded.diagnostics);
    for policy in &loaded.policies {
        let spec = policy.spec();
        let written = serde_json::to_string(spec).expect("it is written");
        let read: Spec = serde_json::from_str(&written).expect("what was in force is read");
        assert_eq!(*spec, read);
        assert!(spec.store.path.as_str().split('/').all(|part| !part.is_empty() && part != ".."));
        for principal in policy.principals() {
            assert!(!principal.as_str().chars().any(char::is_control));
        }
    }
}

/// A settings file.
pub fn settings_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match settings::parse("fed.yaml", text, Path::new("/etc/rekeyd")) {
        Ok(settings) => {
            let written = serde_json::to_string(&settings).expect("it is written");
            let read: Settings = serde_json::from_str(&written).expect("it is read");
            assert_eq!(settings, read);
        }
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(Diagnostic::is_error));
            told(&diagnostics);
        }
    }
}

fn told(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        let line = diagnostic.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!diagnostic.message.is_empty() && !diagnostic.remedy.is_empty(), "{line}");
    }
    let drawn = graphical(diagnostics, 80, false);
    assert!(!drawn.chars().any(|c| c.is_control() && c != '\n'), "{drawn:?}");
}

/// A control document in a store.
pub fn run_document(bytes: &[u8]) {
    let wire = |document: &Document| match document {
        Document::Open(run) => run.to_wire(),
        Document::Closed(marker) => marker.to_wire(),
    };
    match Document::from_wire(&SecretValue::new(planted(bytes))) {
        Ok(document) => {
            let once = wire(&document);
            let again = Document::from_wire(&once).expect("what was written is read");
            assert!(wire(&again) == once, "a document changes when it is read and written");
        }
        Err(unreadable) => {
            // Where, and nothing of what.
            let told = unreadable.to_string();
            assert!(told.len() < 200 && !told.chars().any(char::is_control), "{told}");
            assert!(!told.contains(INMOST), "{told}");
        }
    }
}

/// A record in a ledger, as it comes from a repository that others can write to.
pub fn record(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let Some((path, file, message)) = committed(&record) else { return };
    assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))), "{path}");
    assert!(!path.chars().any(char::is_control), "{path:?}");
    let again: Record = serde_json::from_slice(&file).expect("what was written is read");
    assert_eq!(committed(&again), Some((path, file, message.clone())));
    // Nothing that a record holds becomes a line of its own: no trailer is forged.
    let (subject, rest) = message.split_once("\n\n").expect("a subject and trailers");
    assert!(!subject.chars().any(char::is_control), "{subject:?}");
    for line in rest.lines() {
        let (name, _) = line.split_once(": ").expect("a trailer");
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{line}");
    }
    let mut names: Vec<&str> =
        rest.lines().filter_map(|line| line.split_once(": ")).map(|two| two.0).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "a trailer stands twice: {message}");
}

/// A commit of a ledger's remote, with a tree as no tool would write it.
pub fn commit(bytes: &[u8]) {
    for told in ledger::hostile::read_commit(bytes) {
        assert!(!told.chars().any(char::is_control), "{told:?}");
        assert!(told.len() < 2_000, "{told}");
    }
}

/// What stands in a text where a fed byte is 1: nothing of it may be told.
const INMOST: &str = "K9xW2vInmostValue";

fn planted(bytes: &[u8]) -> Vec<u8> {
    let mut planted = Vec::new();
    for byte in bytes {
        match byte {
            1 => planted.extend_from_slice(INMOST.as_bytes()),
            byte => planted.push(*byte),
        }
    }
    planted
}

/// An address of a recipe or a policy: whoever checks it and whoever sends read the same server, and what is filled in
/// leads nowhere else.
pub fn address(bytes: &[u8]) {
    const BASE: &str = "https://api.example.com/v1";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let server = |of: &str| address::Server::of(of).map(|server| server.to_string());
    let below = |url: &url::Url| {
        url.origin().ascii_serialization() == "https://api.example.com" && url.path().starts_with("/v1/")
    };
    if is_base(text) {
        let url = destination(Some(text), "/keys/{{ id }}", "/keys/1").expect("requests can go there");
        assert!(url.path().ends_with("/keys/1") && url.username().is_empty(), "{url}");
        assert_eq!(server(url.as_str()), server(text));
        let read = url::Url::parse(text).expect("an address");
        assert_eq!(read.origin(), url.origin(), "who reads it otherwise goes elsewhere");
    }
    if is_path(text) && !text.contains('{') {
        let url = destination(Some(BASE), text, text).expect("a request can have it");
        if text.starts_with('/') {
            assert!(below(&url), "{url}");
        } else {
            assert_eq!(server(url.as_str()), server(text));
        }
    }
    if let Ok(url) = destination(Some(BASE), "/{{ id }}", text) {
        assert!(below(&url), "{url}");
    }
}

/// An answer of a secrets store: its status, its body. Nothing that it says goes into a message.
pub fn answer(bytes: &[u8]) {
    static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
    let [status, body @ ..] = bytes else { return };
    const STATUSES: [u16; 12] = [200, 204, 301, 400, 403, 404, 405, 412, 429, 472, 500, 503];
    SERVER.answer(STATUSES[usize::from(*status) % STATUSES.len()], planted(body));
    let policy: PolicyName = "orders/orders-db".parse().expect("a name");
    let spec: StoreSpec =
        serde_json::from_value(json!({"name": "bao", "path": "apps/orders"})).expect("a place");
    let place = Place::from(&spec);
    let credential =
        Credential::new("orders_a".parse().expect("a user"), SecretValue::new(b"a value".to_vec()));
    let promotion = Promotion {
        credential: &credential,
        expected: None,
        rotation: RotationId::generate(),
        version: Version::new(1),
        extra: &spec.extra,
    };
    SERVER.runtime.block_on(async {
        let store = &*SERVER.store;
        let mut failures: Vec<Failure> = Vec::new();
        failures.extend(store.control(&policy).await.err());
        failures.extend(store.current(place).await.err());
        failures.extend(store.policies().await.err());
        failures.extend(store.save(&policy, &credential.value, None).await.err());
        failures.extend(store.promote(place, promotion).await.err());
        for failure in failures {
            let text = format!("{failure} {failure:?} {:?}", failure.remedy());
            assert!(!text.contains(INMOST), "{text}");
            assert!(!failure.to_string().chars().any(char::is_control), "{failure}");
        }
    });
}

/// A server on loopback that answers everything with the same.
struct Server {
    runtime: tokio::runtime::Runtime,
    store: Arc<dyn Store>,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
        std::thread::spawn({
            let answer = Arc::clone(&answer);
            move || {
                for stream in listener.incoming().flatten() {
                    let _ = serve(stream, &answer);
                }
            }
        });
        let token = std::env::temp_dir().join(format!("rekeyd-fed-{}", std::process::id()));
        std::fs::write(&token, "a token").expect("written");
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("its own");
        let settings = serde_json::from_value(json!({"vault": {
            "address": format!("http://{address}"), "auth": {"token": {"file": token}}, "timeout": "2s",
        }}))
        .expect("settings");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store =
            runtime.block_on(async { crate::store::build(&"bao".parse().expect("a name"), &settings) });
        Self { runtime, store: store.expect("a store"), answer }
    }

    fn answer(&self, status: u16, body: Vec<u8>) {
        let mut text = format!(
            "HTTP/1.1 {status} Fed\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        text.extend(body);
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

fn serve(stream: std::net::TcpStream, answer: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
    let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    reader.get_mut().write_all(&answer)
}

/// Names, and other texts of one line: what is taken is harmless wherever it goes, and prints as it was read.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(name) = read::<PolicyName>(text) {
        let path = format!("secrets/{name}.yaml");
        assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))), "{path}");
        assert_eq!(path.split('/').count(), 3, "{path}");
    }
    if let Some(label) = read::<DnsLabel>(text) {
        assert!(label.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
    if let Some(path) = read::<StorePath>(text) {
        assert!(
            Path::new(path.as_str()).components().all(|part| matches!(part, Component::Normal(_))),
            "{path}"
        );
    }
    if let Some(principal) = read::<Principal>(text) {
        quoted_whole(&quoted(&principal));
        rendered(&principal);
    }
    read::<RequestId>(text);
    read::<RotationId>(text);
    read::<Version>(text);
    read::<Interval>(text);
    read::<FileMode>(text);
    read::<Zone>(text);
    if let Ok(cron) = text.parse::<CronExpression>() {
        assert!(cron.to_string().parse::<CronExpression>().is_ok(), "{cron}");
    }
    let _ = Template::parse(text);
}

/// What reads the same again when it is printed.
fn read<T: FromStr + std::fmt::Display>(text: &str) -> Option<T> {
    let read = text.parse::<T>().ok()?;
    let printed = read.to_string();
    assert!(!printed.chars().any(char::is_control), "{printed:?}");
    let again = printed.parse::<T>().ok().unwrap_or_else(|| panic!("{printed:?} is not read"));
    assert_eq!(again.to_string(), printed);
    Some(read)
}

/// An identifier in SQL that ends where it ends, and not before.
fn quoted_whole(quoted: &str) {
    let inner = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("it is quoted");
    assert!(!inner.replace("\"\"", "").contains('"'), "{quoted}");
}

/// A user's name ends up in a file as it is.
fn rendered(principal: &Principal) {
    static TEMPLATE: LazyLock<Template> =
        LazyLock::new(|| Template::parse("<{{ principal }}|{{ value }}>").expect("a template"));
    let policy: PolicyName = "orders/orders-db".parse().expect("a name");
    let value = SecretValue::new(b"{{ principal }}".to_vec());
    let credential = Credential::new(principal.clone(), value);
    let values = Values { policy: &policy, version: Version::new(1), credential: &credential };
    let content = TEMPLATE.render(&values).expect("it is rendered");
    let expected = SecretValue::new(format!("<{principal}|{{{{ principal }}}}>").into_bytes());
    assert!(content == expected, "{principal} is changed on its way into a file");
}
