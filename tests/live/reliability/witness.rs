//! Looks at the servers with eyes of its own: it logs in to PostgreSQL, reads OpenBao over its API, the
//! ledger with stock Git and documents as JSON, and knows no type of the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use rekeyd::secret::Credential;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Kind, Pair};
use crate::postgres_support::{credential_of, text};
use crate::processes::PATIENCE;
use crate::site::*;

/// So many of the values that were are tried, the latest first.
const TRIED: usize = 4;

/// Holds a site to the invariants.
pub(super) struct Witness {
    pair: Pair,
    has_a_remote: bool,
    /// Every rotation was seen or told of. Of two daemons and a command that dies nobody tells all.
    pub(super) knows_all: bool,
    /// Somebody else wrote to the store: what is in there need not work.
    pub(super) store_is_foreign: bool,
    /// Every value that was ever in the store or a document, in the order it was seen.
    values: Vec<Credential>,
    /// The rotations that were seen open or told of.
    pub(super) rotations: BTreeSet<String>,
    candidates: BTreeMap<String, Credential>,
    /// The fence in each user's marker, as it was seen last.
    fences: BTreeMap<String, u64>,
}

/// What there is.
struct Seen {
    current: Option<Credential>,
    delivered: Option<Credential>,
    open: Option<Open>,
    /// Of the marker, where no rotation is open.
    version: Option<u64>,
}

struct Open {
    rotation: String,
    candidate: Credential,
    outgoing: Option<Credential>,
    is_back: bool,
}

impl Witness {
    pub(super) fn new(pair: Pair, has_a_remote: bool) -> Self {
        Self {
            pair,
            has_a_remote,
            knows_all: true,
            store_is_foreign: false,
            values: Vec::new(),
            rotations: BTreeSet::new(),
            candidates: BTreeMap::new(),
            fences: BTreeMap::new(),
        }
    }

    /// Whether a rotation is open, or owed.
    pub(super) async fn is_open(&self, site: &Site) -> bool {
        let document = document(site).await;
        document.get("open").is_some() || document["closed"].get("owes").is_some()
    }

    /// Waits for daemons to finish what there is to do.
    pub(super) async fn comes_to_rest(&self, site: &Site) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let quiet = timeout(PATIENCE, async {
            while self.is_open(site).await {
                looks.tick().await;
            }
        });
        assert!(quiet.await.is_ok(), "I7: no daemon finishes the rotation");
    }

    /// Takes the last rotation for one that was asked for.
    pub(super) async fn knows_last(&mut self, site: &Site) {
        let document = document(site).await;
        let last = document["closed"]["record"]["rotation"].as_str().expect("a closed rotation");
        self.rotations.insert(last.to_owned());
    }

    /// Holds the site to what is true at any time.
    pub(super) async fn between(&mut self, site: &Site, when: &str) {
        let seen = self.look(site, when).await;
        let open = seen.open.as_ref();
        let durable: Vec<&Credential> = [
            seen.current.as_ref(),
            open.map(|open| &open.candidate),
            open.and_then(|open| open.outgoing.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect();
        // What somebody else overwrote is kept by the open rotation, and by its readers after that.
        let roles = if self.store_is_foreign && open.is_none() { Vec::new() } else { alive(site).await };
        for role in roles {
            let mut known = false;
            for credential in durable.iter().filter(|durable| durable.principal.as_str() == role) {
                known |= site.accepts(credential).await;
            }
            assert!(known, "I1: the value of {role} is nowhere durable, {when}");
        }

        let window = self.pair.kind == Kind::InPlace && open.is_some();
        if !window && !self.store_is_foreign {
            for (whose, credential) in [("the store", &seen.current), ("the reader", &seen.delivered)] {
                if let Some(credential) = credential {
                    assert!(
                        self.works(site, credential).await,
                        "I2: {whose} has a value that is refused, {when}"
                    );
                }
            }
        }

        if let Some(Open { candidate, outgoing: Some(outgoing), is_back: false, .. }) = open
            && self.pair.kind == Kind::Alternating
            && !self.store_is_foreign
            && !site.accepts(outgoing).await
        {
            assert_eq!(
                seen.delivered.as_ref(),
                Some(candidate),
                "I4: retired before its readers moved, {when}"
            );
        }
    }

    /// Holds the site to what is true when nothing is under way.
    pub(super) async fn at_rest(&mut self, site: &Site, when: &str) {
        let seen = self.look(site, when).await;
        assert!(seen.open.is_none(), "I7: a rotation is open, {when}");
        let delivered = seen.delivered.expect("I7: the reader has nothing");
        if self.store_is_foreign {
            assert!(self.works(site, &delivered).await, "I2: the reader's value is refused, {when}");
        } else {
            let current = seen.current.expect("I2: the store has nothing");
            assert!(current == delivered, "I7: the store and the reader differ, {when}");
            assert!(self.works(site, &current).await, "I2: the value in force is refused, {when}");
            let old = self.values.iter().rev().filter(|value| **value != current);
            for old in old.take(if self.pair.kind == Kind::Generated { 0 } else { TRIED }) {
                assert!(!site.accepts(old).await, "I5: an old value of {} works, {when}", old.principal);
            }
            if self.pair.kind == Kind::Alternating {
                let others = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('{}', '{}') AND usename <> '{}'",
                    site.world.name("a"),
                    site.world.name("b"),
                    current.principal
                );
                assert_eq!(
                    site.world.row(&others).await,
                    "0",
                    "I5: sessions of an old value are left, {when}"
                );
            }
        }
        self.records(site, seen.version.expect("I7: there is no marker"), when);
    }

    /// Whether the target accepts a value, where there is one.
    async fn works(&self, site: &Site, credential: &Credential) -> bool {
        self.pair.kind == Kind::Generated || site.accepts(credential).await
    }

    /// No byte of a value is anywhere in the ledger, reachable or not.
    pub(super) fn ledger_holds_no_value(&self, site: &Site) {
        let objects = ["cat-file", "--batch-all-objects", "--batch", "--buffer"];
        let content = git_bytes(&site.at.path("ledger.git"), &objects);
        assert!(memmem::find(&content, b"RotationRecord").is_some(), "no object of the ledger was read");
        for value in &self.values {
            assert!(memmem::find(&content, text(value).as_bytes()).is_none(), "I6: a value is in the ledger");
        }
    }

    /// Whatever processes left when they died, the next one has pushed.
    pub(super) fn all_is_pushed(&self, site: &Site) {
        if self.has_a_remote {
            let [here, there] =
                ["ledger.git", "remote.git"].map(|folder| git(&site.at.path(folder), &["rev-parse", "main"]));
            assert_eq!(here, there, "I6: the remote does not have every record");
        }
    }

    /// Each rotation has one record, and the chain has no gap.
    fn records(&self, site: &Site, version: u64, when: &str) {
        let ledger = site.at.path("ledger.git");
        let folder = format!("records/{POLICY}/");
        let names = git(&ledger, &["ls-tree", "--name-only", "main", &folder]);
        let mut recorded = BTreeSet::new();
        let mut reached = 0;
        for name in names.lines() {
            let name = name.rsplit('/').next().and_then(|name| name.strip_suffix(".json")).expect("a record");
            let (number, rotation) = name.split_once('-').expect("a version and a rotation");
            let number: u64 = number.parse().expect("a version");
            assert!(number <= reached + 1, "I6: no record leads to v{number}, {when}");
            reached = number;
            assert!(recorded.insert(rotation.to_owned()), "I6: {rotation} is recorded twice, {when}");
        }
        assert_eq!(reached, version, "I6: the marker and the ledger differ, {when}");
        let requests = git(&ledger, &["grep", "-h", "\"request\": ", "main", "--", &folder]);
        let mut answered = BTreeSet::new();
        for request in requests.lines() {
            assert!(answered.insert(request.trim()), "I9: a request rotated twice, {when}: {request}");
        }
        assert_eq!(answered.len(), recorded.len(), "records without a request, {when}");
        let unrecorded: Vec<_> = self.rotations.difference(&recorded).collect();
        assert!(unrecorded.is_empty(), "I6: rotations are not recorded, {when}: {unrecorded:?}");
        let unseen: Vec<_> = recorded.difference(&self.rotations).collect();
        assert!(unseen.is_empty() || !self.knows_all, "I6: records of no rotation, {when}: {unseen:?}");
    }

    /// What a process that lost its claim changes does not last: no user's marker goes back.
    async fn fences(&mut self, site: &Site, when: &str) {
        for (role, fence) in fences(site).await {
            let before = self.fences.insert(role.clone(), fence).unwrap_or(0);
            assert!(fence >= before, "I8: the marker of {role} goes back from {before} to {fence}, {when}");
        }
    }

    /// The ledger by stock Git alone: sound objects, one line of commits, and each says which rotation it is of.
    pub(super) fn chain(&self, site: &Site) {
        let ledger = site.at.path("ledger.git");
        git(&ledger, &["fsck", "--strict", "--no-dangling"]);
        let parents = git(&ledger, &["rev-list", "--parents", "main"]);
        let roots = parents.lines().filter(|line| !line.contains(' ')).count();
        let merges = parents.lines().filter(|line| line.split(' ').count() > 2).count();
        assert_eq!((roots, merges), (1, 0), "I6: the ledger is no chain");
        let said =
            git(&ledger, &["log", "--format=%(trailers:key=Rotation,valueonly,separator=%x2C)", "main"]);
        let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        let distinct: BTreeSet<&str> = said.iter().copied().collect();
        assert_eq!(said.len(), distinct.len(), "I6: two commits of one rotation");
        let silent: Vec<_> =
            self.rotations.iter().filter(|rotation| !distinct.contains(rotation.as_str())).collect();
        assert!(silent.is_empty(), "I6: no commit says that it is of {silent:?}");
    }

    async fn look(&mut self, site: &Site, when: &str) -> Seen {
        self.fences(site, when).await;
        let document = document(site).await;
        let current = current(site).await;
        let open = document.get("open").map(Open::read);
        let version = document["closed"]["version"].as_u64();
        let delivered = std::fs::read_to_string(site.file()).ok().map(|text| credential_in(&text));
        if let Some(open) = &open {
            self.rotations.insert(open.rotation.clone());
            let first =
                self.candidates.entry(open.rotation.clone()).or_insert_with(|| open.candidate.duplicate());
            assert!(*first == open.candidate, "I3: a second candidate, {when}");
        }
        let known = [
            current.as_ref().filter(|_| !self.store_is_foreign),
            open.as_ref().map(|open| &open.candidate),
            open.as_ref().and_then(|open| open.outgoing.as_ref()).filter(|_| !self.store_is_foreign),
        ];
        for value in known.into_iter().flatten() {
            // The one seen last is the last one.
            self.values.retain(|other| other != value);
            self.values.push(value.duplicate());
        }
        Seen { current, delivered, open, version }
    }
}

/// The users that may log in.
async fn alive(site: &Site) -> Vec<String> {
    let query = format!(
        "SELECT coalesce(string_agg(rolname, ' '), '') FROM pg_authid \
         WHERE rolname IN ('{}', '{}') AND rolcanlogin AND rolpassword IS NOT NULL",
        site.world.name("a"),
        site.world.name("b")
    );
    site.world.row(&query).await.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The fences in the markers of the users' comments.
async fn fences(site: &Site) -> Vec<(String, u64)> {
    let query = format!(
        "SELECT coalesce(string_agg(rolname || ' ' || substring(shobj_description(oid, 'pg_authid') \
         FROM ' fence=([0-9]+)'), ' '), '') FROM pg_authid WHERE rolname IN ('{}', '{}')",
        site.world.name("a"),
        site.world.name("b")
    );
    let row = site.world.row(&query).await;
    let words: Vec<&str> = row.split_whitespace().collect();
    words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].parse().expect("a fence"))).collect()
}

/// The control document, as it lies in the store.
async fn document(site: &Site) -> Value {
    if let Some(bao) = &site.bao {
        let path = format!("{}/data/rekeyd/{POLICY}", bao.mount.name);
        let (_, answer) = bao.server.call("GET", &path, json!({}));
        let text = answer["data"]["data"]["document"].as_str().unwrap_or("{}");
        return serde_json::from_str(text).expect("the document is JSON");
    }
    // Sealed, so that it takes rekeyd's own key to open it.
    let control = site.store().control(&POLICY.parse().expect("a name")).await.expect("a reading");
    control.map_or(json!({}), |control| {
        serde_json::from_slice(control.document.expose()).expect("the document is JSON")
    })
}

/// The value in force, as an application finds it.
async fn current(site: &Site) -> Option<Credential> {
    let Some(bao) = &site.bao else { return site.stored().await };
    let (_, answer) = bao.server.call("GET", &format!("{}/data/{PATH}", bao.mount.name), json!({}));
    let data = &answer["data"]["data"];
    let principal = data["username"].as_str()?.parse().expect("a principal");
    Some(credential_of(&principal, data["password"].as_str()?))
}

impl Open {
    fn read(open: &Value) -> Self {
        Self {
            rotation: open["rotation"].as_str().expect("a rotation").to_owned(),
            candidate: credential(&open["candidate"]).expect("a candidate"),
            outgoing: credential(&open["outgoing"]),
            is_back: open["course"]["direction"] == "back",
        }
    }
}

fn credential(form: &Value) -> Option<Credential> {
    let principal = form["principal"].as_str()?.parse().expect("a principal");
    let value = STANDARD.decode(form["value"].as_str()?).expect("base64");
    Some(credential_of(&principal, std::str::from_utf8(&value).expect("values in tests are text")))
}
