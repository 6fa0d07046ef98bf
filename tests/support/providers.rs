//! Providers of API keys in this process, on loopback: each written from its documentation, and as unreliable as a test
//! asks it to be.
//!
//! What all of them share is here: the keys that there are, and what becomes of requests on their way. How a
//! request asks for something and how the answer looks is each provider's own, in a file of its name. Every text of an
//! error that is not part of a provider's protocol is [`INMOST`], so that a test sees whether somebody passes it on.

#[path = "providers/anthropic.rs"]
pub(crate) mod anthropic;
#[path = "providers/azure.rs"]
pub(crate) mod azure;
#[path = "providers/cloudflare.rs"]
pub(crate) mod cloudflare;
#[path = "providers/cohere.rs"]
pub(crate) mod cohere;
#[path = "providers/datadog.rs"]
pub(crate) mod datadog;
#[path = "providers/docker_hub.rs"]
pub(crate) mod docker_hub;
#[path = "providers/gitea.rs"]
pub(crate) mod gitea;
#[path = "providers/github.rs"]
pub(crate) mod github;
#[path = "providers/github_actions.rs"]
pub(crate) mod github_actions;
#[path = "providers/gitlab.rs"]
pub(crate) mod gitlab;
#[path = "providers/gitlab_variables.rs"]
pub(crate) mod gitlab_variables;
#[path = "providers/google.rs"]
pub(crate) mod google;
#[path = "providers/grafana.rs"]
pub(crate) mod grafana;
#[path = "providers/handshake.rs"]
pub(crate) mod handshake;
#[path = "providers/jwt.rs"]
pub(crate) mod jwt;
#[path = "providers/openai.rs"]
pub(crate) mod openai;
#[path = "providers/sendgrid.rs"]
pub(crate) mod sendgrid;
#[path = "providers/slack.rs"]
pub(crate) mod slack;
#[path = "providers/turns.rs"]
pub(crate) mod turns;
#[path = "providers/twilio.rs"]
pub(crate) mod twilio;
#[path = "providers/wire.rs"]
pub(crate) mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::Value;

pub(crate) use self::wire::{Reply, Request};

/// Stands in every text that must not be told.
pub(crate) const INMOST: &str = "K9xW2vInmostValue";

/// The time of a server that says when to come back.
pub(crate) const NOON: &str = "Mon, 30 Nov 2026 12:00:00 GMT";

/// How a provider answers.
pub(crate) trait Provider: Send + 'static {
    /// Answers one request. It arrived whole.
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply;
}

/// The keys that a provider has made.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) made: Vec<Made>,
    count: u32,
    /// How many there may be, where the provider has a limit.
    pub(crate) most: Option<usize>,
    /// How many more times a new key is not known yet to those who look at keys.
    pub(crate) lag: u32,
    /// How many lists one that is made is not on yet.
    pub(crate) late: u32,
    /// How many more times a key counts that is gone, or disabled.
    pub(crate) linger: u32,
    gone: Vec<Made>,
    /// What a provider needs to know its keys is away.
    pub(crate) down: bool,
}

/// A key.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) at: Timestamp,
    pub(crate) used: Option<Timestamp>,
    pub(crate) disabled: bool,
    /// How many more lists it is not on yet.
    pub(crate) unlisted: u32,
    /// What the request said of it besides.
    pub(crate) said: Value,
}

impl Keys {
    /// Makes a key, whose id and value begin as the provider's do.
    pub(crate) fn make(&mut self, id: &str, value: &str, name: &str, said: Value) -> Made {
        self.count += 1;
        let random = rekeyd::secret::ValueSpec::default().generate();
        let random = random.expose_str().expect("text");
        let made = Made {
            id: format!("{id}{}", self.count),
            name: name.to_owned(),
            value: format!("{value}{random}"),
            at: SystemClock.now(),
            used: None,
            disabled: false,
            unlisted: self.late,
            said,
        };
        self.made.push(made.clone());
        made
    }

    /// Somebody calls with a value: whether it is one that works.
    pub(crate) fn is_used(&mut self, value: &str) -> Option<Made> {
        if self.lag > 0 {
            self.lag -= 1;
            return None;
        }
        let known = self.made.iter().any(|key| key.value == value && !key.disabled);
        if !known && self.linger > 0 {
            let late = self.made.iter().chain(&self.gone).find(|key| key.value == value)?;
            self.linger -= 1;
            return Some(late.clone());
        }
        let key = self.made.iter_mut().find(|key| key.value == value && !key.disabled)?;
        key.used = Some(SystemClock.now());
        Some(key.clone())
    }

    /// The keys as a list has them.
    pub(crate) fn listed(&mut self) -> Vec<Made> {
        let keys = self.made.iter().filter(|key| key.unlisted == 0).cloned().collect();
        self.made.iter_mut().for_each(|key| key.unlisted = key.unlisted.saturating_sub(1));
        keys
    }

    /// The key of an id, also when it is gone.
    pub(crate) fn ever(&self, id: &str) -> Option<Made> {
        self.made.iter().chain(&self.gone).find(|key| key.id == id).cloned()
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.made.len() >= most)
    }

    /// Takes a key out; false when there is none.
    pub(crate) fn delete(&mut self, id: &str) -> bool {
        self.remove(|key| key.id == id)
    }

    /// Takes out those that this is true of; false when there are none.
    pub(crate) fn remove(&mut self, goes: impl Fn(&Made) -> bool) -> bool {
        let before = self.made.len();
        self.gone.extend(self.made.extract_if(.., |key| goes(key)));
        self.made.len() < before
    }

    /// Disables a key, or enables it; false when there is none.
    pub(crate) fn disable(&mut self, id: &str, disabled: bool) -> bool {
        let key = self.made.iter_mut().find(|key| key.id == id);
        key.map(|key| key.disabled = disabled).is_some()
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done, and the connection is cut instead of an answer.
    LoseReply,
    /// It is not even read.
    LoseRequest,
    /// A page of something in between, and nothing is done.
    Html(u16),
    /// It is done, and a page is the answer.
    DoneAndHtml,
    /// It is done, and the answer is longer than any.
    Huge,
    /// It is done, and no answer ever comes.
    Silence,
    /// Nothing is done, and the server is to be asked later.
    TooMany,
    /// Nothing is done, with this status, and with what the server says of when to come back. Its clock says [`NOON`].
    Later(u16, &'static str),
    /// Nothing is done, with this status: all requests are used up until a second since 1970. Its clock says [`NOON`].
    UsedUp(u16, &'static str),
    /// Nothing is done, and the request is sent elsewhere.
    Elsewhere,
    /// Nothing is done, and the server fails.
    Fails(u16),
    /// Nothing is done, with this answer.
    Says(u16, &'static str),
    /// Nothing is done: GitHub refuses who asks too often like somebody without a right.
    Throttled,
    /// Nothing is done: GitHub refuses so with this status, and does not say when to come back.
    Limited(u16),
    /// It is not done, and answered as if it were.
    Ignored,
}

/// A provider of the test's own.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) struct Shared {
    provider: Box<dyn Provider>,
    keys: Keys,
    /// What becomes of the next requests that this is true of.
    fates: VecDeque<(String, String, Option<Fate>)>,
    /// Each request that arrived: its method and its path.
    requests: Vec<String>,
    /// Nobody is there.
    away: bool,
    /// Who decides which request is answered next.
    turns: Option<Arc<turns::Turns>>,
}

impl Stub {
    pub(crate) async fn start(provider: impl Provider) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(Shared {
            provider: Box::new(provider),
            keys: Keys::default(),
            fates: VecDeque::new(),
            requests: Vec::new(),
            away: false,
            turns: None,
        }));
        let task = tokio::spawn(wire::serve(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nothing panics while it holds the provider")
    }

    /// The keys, to look at and to change as somebody else would.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Keys) -> T) -> T {
        work(&mut self.shared().keys)
    }

    /// What becomes of the next request of a method whose path has this in it; of any for an empty one.
    pub(crate) fn next(&self, (method, part): (&str, &str), fate: Fate) {
        self.shared().fates.push_back((method.to_owned(), part.to_owned(), Some(fate)));
    }

    /// What becomes of a later one: so many are answered as ever before it.
    pub(crate) fn answer_nth(&self, (method, part): (&str, &str), before: usize, fate: Fate) {
        let mut shared = self.shared();
        let fates = std::iter::repeat_n(None, before).chain([Some(fate)]);
        shared.fates.extend(fates.map(|fate| (method.to_owned(), part.to_owned(), fate)));
    }

    /// Whether nobody is there.
    pub(crate) fn go_away(&self, away: bool) {
        self.shared().away = away;
    }

    /// From now on requests are answered in that order.
    pub(crate) fn take_turns(&self, turns: &Arc<turns::Turns>) {
        self.shared().turns = Some(Arc::clone(turns));
    }

    /// Everything answers again.
    pub(crate) fn forgive(&self) {
        self.shared().fates.clear();
    }

    /// The requests that arrived since this was last asked.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared().requests)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}
