//! [`GitLedger`]: the ledger as the daemon uses it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::Ledger;
use super::draft::{self, Draft};
use super::gate;
use super::lookup::Lookup;
use super::pusher::Pusher;
use super::reader::{Entry, LedgerReader, LogFilter};
use super::record::Record;
use super::repository::Location;
use super::sync::Sync;
use super::verify::VerifyReport;
use super::writer::{self, Append, Appended};
use crate::failure::{Failure, FailureClass};
use crate::git::check_author;
use crate::git::transport::{Purpose, Transport};
use crate::ident::{PolicyName, RotationId, Version};
use crate::secret::SecretValue;
use crate::settings::{AuthorSettings, LedgerSettings, RemoteSettings};

/// How long a caller waits for its record to be on disk.
const APPEND_DEADLINE: Duration = Duration::from_secs(30);

/// A ledger in a bare Git repository, pushed to a remote if there is one.
///
/// Two threads of its own do the work that blocks: one appends, one pushes. They end when this is
/// dropped; what was handed over for appending is still written.
#[derive(Debug)]
pub struct GitLedger {
    location: Location,
    reader: LedgerReader,
    author: AuthorSettings,
    writer: mpsc::Sender<Append>,
    lookup: Lookup,
    pusher: Option<Pusher>,
    remote: Option<String>,
}

/// How far the remote is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushState {
    /// The remote's URL; `None` when records stay here.
    pub remote: Option<String>,
    /// Records that the remote is not known to have.
    pub ahead: usize,
    /// Why the last try to push failed; `None` when it did not.
    pub last_error: Option<Failure>,
}

impl PushState {
    /// Whether nothing is left to push.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.remote.is_none() || (self.ahead == 0 && self.last_error.is_none())
    }
}

impl GitLedger {
    /// Opens the ledger, creates it when there is none, and begins to push what an earlier process
    /// left. Blocks on the disk; does not wait for the remote.
    ///
    /// # Errors
    /// `Invalid` when the folder holds something else or the settings cannot be used, `Unavailable` when
    /// it cannot be written, `Denied` when another user owns it.
    pub fn open(settings: &LedgerSettings) -> Result<Self, Failure> {
        check_author(&settings.author, "ledger.author")?;
        let location = Location::named(settings)?;
        let remote = settings.remote.as_ref();
        let transport = remote.map(|remote| remote_of(settings, remote, &location)).transpose()?;
        location.prepare()?;
        let author = settings.author.clone();
        let thread = |error: std::io::Error| location.io_failure(&error);
        let remote = transport.as_ref().map(|transport| transport.url().to_owned());
        let pusher = transport
            .map(|transport| {
                Pusher::start(Sync { location: location.clone(), author: author.clone(), transport })
            })
            .transpose()
            .map_err(thread)?;
        let wake = pusher.as_ref().map(Pusher::waker);
        let written = move || wake.iter().for_each(|wake| wake.notify_one());
        let writer = writer::start(location.clone(), author.clone(), written).map_err(thread)?;
        let lookup = Lookup::new(location.clone());
        let reader = LedgerReader::new(location.path(), Some(&settings.branch));
        Ok(Self { location, reader, author, writer, lookup, pusher, remote })
    }

    /// See [`LedgerReader::log`].
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn log(&self, filter: LogFilter) -> Result<Vec<Entry>, Failure> {
        let reader = self.reader.clone();
        blocking(&self.location, move || reader.log(&filter)).await
    }

    /// See [`LedgerReader::verify`]; every commit must be by the author of the settings.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn verify(&self) -> Result<VerifyReport, Failure> {
        let (reader, author) = (self.reader.clone(), self.author.clone());
        blocking(&self.location, move || reader.verify(Some(&author))).await
    }

    /// See [`LedgerReader::current_versions`].
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn current_versions(&self) -> Result<BTreeMap<PolicyName, (Version, RotationId)>, Failure> {
        let reader = self.reader.clone();
        blocking(&self.location, move || reader.current_versions()).await
    }

    /// How far the remote is behind, as far as is known without asking it.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn push_state(&self) -> Result<PushState, Failure> {
        let Some(pusher) = &self.pusher else {
            return Ok(PushState { remote: None, ahead: 0, last_error: None });
        };
        let location = self.location.clone();
        let ahead = blocking(&self.location, move || Sync::ahead(&location)).await?;
        Ok(PushState { remote: self.remote.clone(), ahead, last_error: pusher.last_error() })
    }

    /// Tries to push now, waits until the try is over or the deadline has passed, and says what is left.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn flush(&self, deadline: Duration) -> Result<PushState, Failure> {
        if let Some(pusher) = &self.pusher {
            pusher.flush(deadline).await;
        }
        self.push_state().await
    }
}

/// The remote of a ledger.
pub(super) fn remote_of(
    settings: &LedgerSettings,
    remote: &RemoteSettings,
    location: &Location,
) -> Result<Transport, Failure> {
    let purpose = Purpose {
        what: "the ledger's remote".into(),
        field: "ledger.remote".into(),
        meanwhile: "records stay in the ledger and are pushed when the remote answers",
    };
    Transport::new(remote, &settings.branch, location.path().to_owned(), purpose)
}

/// Runs what waits for the disk where it keeps nobody else waiting.
pub(super) async fn blocking<T: Send + 'static>(
    location: &Location,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Failure::new(FailureClass::Unavailable, location.doing(), "the program is stopping"))
    })
}

#[async_trait]
impl Ledger for GitLedger {
    async fn append(
        &self,
        record: &Record,
        after: Option<&Record>,
        forbidden: &[&SecretValue],
    ) -> Result<Record, Failure> {
        let draft = Draft::new(record)?;
        let after = after.map(Draft::new).transpose()?;
        let after = after.filter(|after| gate::search(&after.parts(), forbidden).is_none());
        if let Some(hit) = gate::search(&draft.parts(), forbidden) {
            return Err(Failure::new(FailureClass::Invalid, draft::describe(record), hit).with_remedy(
                "look for the value in the policy's names, owner and reason, and rotate it to a generated one",
            ));
        }
        let failed = |class, reason| Failure::new(class, draft::describe(record), reason);
        let (done, written) = oneshot::channel();
        let append = Append { draft, after, done };
        let appended = async {
            if self.writer.send(append).await.is_err() {
                return Err(failed(FailureClass::Unavailable, "the ledger's writer has stopped"));
            }
            written
                .await
                .unwrap_or_else(|_| Err(failed(FailureClass::Ambiguous, "the ledger's writer has stopped")))
        };
        let appended = tokio::time::timeout(APPEND_DEADLINE, appended)
            .await
            .unwrap_or_else(|_| Err(failed(FailureClass::Ambiguous, "the disk did not answer in time")));
        match appended? {
            Appended::Now => Ok(record.clone()),
            Appended::Before => {
                let (reader, policy, rotation) =
                    (self.reader.clone(), record.policy.clone(), record.rotation);
                let found = blocking(&self.location, move || reader.record(&policy, rotation)).await?;
                found.ok_or_else(|| failed(FailureClass::Conflict, "its record cannot be read"))
            }
        }
    }

    async fn holds(&self, record: &Record) -> Result<bool, Failure> {
        self.lookup.holds(record).await
    }
}
