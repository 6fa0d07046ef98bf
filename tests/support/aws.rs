//! AWS Secrets Manager in this process, on loopback: strict where the service is strict, and as unreliable as a test
//! asks it to be. Written from the service's API reference, version 2017-10-17
//! (https://docs.aws.amazon.com/secretsmanager/latest/apireference/); see `state` for what it holds to.
//!
//! It checks the signature of every request. Its errors quote what they must not be quoted for, so that a test
//! sees whether somebody passes them on.

#[path = "aws/signature.rs"]
mod signature;
#[path = "aws/state.rs"]
mod state;
#[path = "aws/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::SignedDuration;
use rekeyd::policy::spec::Interval;
use rekeyd::settings::AwsSettings;
use rekeyd::store::aws::AwsStore;
use serde_json::Value;

pub(crate) use self::state::Account;
pub(crate) use self::wire::Fate;

/// Stands in every error's text: it must not be told.
pub(crate) const INMOST: &str = "K9xW2vInmostValue";

pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const KEY_ID: &str = "AKIDREKEYDTEST";
const SECRET_KEY: &str = "secret-key-of-the-test";

/// A service of the test's own.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    folder: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

/// What requests find.
#[derive(Default)]
struct Shared {
    account: Account,
    /// What becomes of the next requests of an action.
    fates: BTreeMap<String, VecDeque<Fate>>,
    denied: BTreeSet<String>,
    /// How far the service's clock is ahead of this machine's.
    ahead: SignedDuration,
    calls: Vec<Call>,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) action: String,
    pub(crate) body: Value,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Mutex<Shared>>::default();
        let task = tokio::spawn(wire::serve(listener, Arc::clone(&shared)));
        let service = Self { address, shared, folder: tempfile::tempdir().expect("a folder"), task };
        service.write_keys(KEY_ID, SECRET_KEY);
        service
    }

    pub(crate) fn write_keys(&self, id: &str, key: &str) {
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
        std::fs::write(self.keys(), text).expect("a file of keys");
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    pub(crate) fn settings(&self) -> AwsSettings {
        AwsSettings {
            region: REGION.into(),
            account: None,
            kms_key: None,
            profile: None,
            credentials_file: Some(self.keys()),
            endpoint: Some(format!("http://{}", self.address)),
            iam_endpoint: None,
            sts_endpoint: None,
            ca_file: None,
            control_path: "rekeyd/control".parse().expect("a path"),
            timeout: Interval::from_duration(std::time::Duration::from_secs(10)),
        }
    }

    pub(crate) fn store(&self) -> AwsStore {
        AwsStore::open(&self.settings()).expect("a store")
    }

    /// What the service holds, to look at and to change as somebody else would.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Account) -> T) -> T {
        work(&mut self.shared().account)
    }

    /// What becomes of the next request of an action, after those that were said before.
    pub(crate) fn next(&self, action: &str, fate: Fate) {
        self.shared().fates.entry(action.into()).or_default().push_back(fate);
    }

    /// How far the service's clock is ahead of this machine's from now on.
    pub(crate) fn set_ahead(&self, ahead: SignedDuration) {
        self.shared().ahead = ahead;
    }

    pub(crate) fn deny(&self, action: &str) {
        self.shared().denied.insert(action.into());
    }

    pub(crate) fn allow(&self, action: &str) {
        self.shared().denied.remove(action);
    }

    /// The requests that arrived since this was last asked.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.shared().calls)
    }

    pub(crate) fn actions(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.action).collect()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nothing panics while it holds the service")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}
