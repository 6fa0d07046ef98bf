//! A file on this machine, and the command that makes its reader look again.
//!
//! The file is replaced atomically: a reader sees the old content or the new, never a part. Beside it
//! lies a note (`.db.env.rekeyd`) of the version it holds and of the version its reader was told of. The
//! note comes first: a file without one was not written by rekeyd and is refused, unless the policy
//! adopts it.

mod command;
mod place;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::place::Place;
use super::{Consumer, Observed, PublishRequest, Published, Reach};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{PolicyName, Version};
use crate::policy::spec::FileSpec;
use crate::secret::SecretValue;
use crate::template::{Template, Values};

/// A file consumer.
#[derive(Debug, Clone)]
pub struct FileConsumer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: FileSpec,
    template: Template,
    place: Place,
}

/// What lies beside the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    policy: PolicyName,
    /// The version in the file. [`Version::NONE`]: the file is rekeyd's to write, and was not written yet.
    published: Version,
    /// The version that the reader was told of.
    reloaded: Version,
}

impl FileConsumer {
    /// # Errors
    /// When the template cannot be parsed or the path names no file.
    pub fn new(spec: &FileSpec) -> Result<Self, Failure> {
        let invalid = |reason: &dyn std::fmt::Display| {
            Failure::new(FailureClass::Invalid, format!("use file {}", spec.path.display()), reason)
        };
        let template = Template::parse(&spec.content).map_err(|error| invalid(&error))?;
        let place =
            Place::new(spec).ok_or_else(|| invalid(&"its path is not the absolute path of a file"))?;
        Ok(Self { inner: Arc::new(Inner { spec: spec.clone(), template, place }) })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .expect("file work does not panic and is not cancelled")
    }
}

#[async_trait]
impl Consumer for FileConsumer {
    fn label(&self) -> String {
        format!("file {}", self.inner.spec.path.display())
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        self.inner.render(request)?;
        let (policy, version) = (request.policy.clone(), request.version);
        self.blocking(move |inner| inner.rehearse(&policy, version)).await?;
        Ok(Vec::new())
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let content = self.inner.render(request)?;
        let (policy, version) = (request.policy.clone(), request.version);
        self.blocking(move |inner| inner.publish(&policy, version, &content)).await
    }

    /// Dying between the command and the note: the command runs once more.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let (policy, version) = (request.policy.clone(), request.version);
        let (note, _telling) = self
            .blocking(move |inner| {
                let telling = inner.place.lock_telling()?;
                Ok((inner.own_note(&policy)?, telling))
            })
            .await?;
        let published = note.as_ref().map_or(Version::NONE, |note| note.published);
        let Some(note) = note.filter(|_| published >= version) else {
            return Err(Failure::new(
                FailureClass::Unavailable,
                self.inner.place.doing("reload the reader of"),
                format_args!("it holds {published}, not {version}"),
            ));
        };
        if note.reloaded >= version && !mutated!(TimestampRestart) {
            return Ok(());
        }
        command::run(&self.inner.spec).await?;
        between!("file.reload.ran");
        self.blocking(move |inner| inner.note_reloaded(&note)).await
    }

    /// The command has ended: whoever reads the file took it.
    async fn reach(&self, _request: PublishRequest<'_>) -> Result<Reach, Failure> {
        Ok(Reach::Moved)
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        let policy = policy.clone();
        let note = self.blocking(move |inner| inner.own_note(&policy)).await?;
        Ok(note.map_or_else(Observed::default, |note| Observed {
            published: note.published,
            reloaded: note.reloaded,
        }))
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        let policy = policy.clone();
        let label = self.label();
        self.blocking(move |inner| inner.preflight(&label, &policy)).await
    }
}

impl Inner {
    fn render(&self, request: PublishRequest<'_>) -> Result<SecretValue, Failure> {
        let values =
            Values { policy: request.policy, version: request.version, credential: request.credential };
        self.template.render(&values).map_err(|error| {
            Failure::new(FailureClass::Invalid, self.place.doing("write"), error)
                .with_remedy("correct `content` in the policy")
        })
    }

    fn rehearse(&self, policy: &PolicyName, version: Version) -> Result<(), Failure> {
        self.place.check_owner()?;
        match self.own_note(policy)? {
            None => self.refuse_foreign(),
            Some(note) => self.refuse_newer(&note, version),
        }
    }

    fn refuse_newer(&self, note: &Note, version: Version) -> Result<(), Failure> {
        if note.published <= version {
            return Ok(());
        }
        Err(Failure::new(
            FailureClass::Conflict,
            self.place.doing("write"),
            format_args!("it holds {} already, newer than {version}", note.published),
        )
        .with_remedy(format!(
            "if the store is right and the file is not, remove {} and {}",
            self.place.path().display(),
            self.place.note().display()
        )))
    }

    fn publish(
        &self,
        policy: &PolicyName,
        version: Version,
        content: &SecretValue,
    ) -> Result<Published, Failure> {
        let _lock = self.place.lock()?;
        let note = self.own_note(policy)?;
        if let Some(note) = &note {
            self.refuse_newer(note, version)?;
        }
        let is_there = note.as_ref().is_some_and(|note| note.published == version);
        if is_there && self.place.holds(content) {
            return Ok(Published::Already(None));
        }
        let note = match note {
            // The note comes first: from here on the file is rekeyd's to write.
            None => {
                self.refuse_foreign()?;
                let note = Note { policy: policy.clone(), published: Version::NONE, reloaded: Version::NONE };
                self.write_note(&note)?;
                between!("file.publish.noted");
                note
            }
            // Somebody changed the file. It is mended, and its reader, who may have read it, told again.
            Some(note) if is_there => {
                let note = Note { reloaded: Version::NONE, ..note };
                self.write_note(&note)?;
                note
            }
            Some(note) => note,
        };
        self.place.write(content)?;
        self.place.sync_folder()?;
        between!("file.publish.placed");
        if is_there {
            return Ok(Published::Now);
        }
        // Dying here: the note is behind, and the next sitting writes the same content again.
        self.write_note(&Note { published: version, ..note })?;
        Ok(Published::Now)
    }

    /// The command may have taken long, and another process may have written in the meantime: what the
    /// note says now is kept.
    fn note_reloaded(&self, told: &Note) -> Result<(), Failure> {
        let _lock = self.place.lock()?;
        match self.own_note(&told.policy)? {
            Some(note) if note.published >= told.published && note.reloaded < told.published => {
                self.write_note(&Note { reloaded: told.published, ..note })
            }
            _ => Ok(()),
        }
    }

    /// The note, if it is this policy's.
    fn own_note(&self, policy: &PolicyName) -> Result<Option<Note>, Failure> {
        let Some(bytes) = self.place.read_note()? else { return Ok(None) };
        let note: Note = serde_json::from_slice(&bytes).map_err(|_| {
            Failure::new(
                FailureClass::Invalid,
                self.place.doing("read the note beside"),
                "it is not one of rekeyd's",
            )
            .with_remedy(format!("remove {} and set `adopt: true` once", self.place.note().display()))
        })?;
        if note.policy == *policy {
            return Ok(Some(note));
        }
        Err(Failure::new(
            FailureClass::Conflict,
            self.place.doing("use"),
            format_args!("policy {} writes it already", note.policy),
        )
        .with_remedy(format!(
            "give each policy its own file; if {} no longer exists, remove {} and set `adopt: true` once",
            note.policy,
            self.place.note().display()
        )))
    }

    /// A power cut may bring an older note back: what it is behind of is done again.
    fn write_note(&self, note: &Note) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(note).expect("a note has only string keys");
        self.place.write_note(&bytes)
    }

    fn refuse_foreign(&self) -> Result<(), Failure> {
        if self.spec.adopt || !self.place.is_taken() {
            return Ok(());
        }
        let reason = "it exists and rekeyd did not write it";
        Err(Failure::new(FailureClass::Invalid, self.place.doing("write"), reason)
            .with_remedy("move it away, or set `adopt: true` in the policy to take it over"))
    }

    fn preflight(&self, label: &str, policy: &PolicyName) -> Vec<Finding> {
        let mut findings = vec![self.place.preflight(label)];
        match self
            .own_note(policy)
            .and_then(|note| if note.is_none() { self.refuse_foreign().map(|()| None) } else { Ok(note) })
        {
            Ok(Some(note)) => findings.push(Finding::pass(label, format!("holds {}", note.published))),
            Ok(None) => findings.push(Finding::pass(label, "will be written first by the next rotation")),
            Err(failure) => findings.push(Finding::from_failure(label, &failure)),
        }
        findings.extend(self.place.preflight_owner(label));
        findings.extend(command::preflight(&self.spec, label));
        findings
    }
}
