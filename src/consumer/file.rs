//! A file on this machine, and the command that makes its reader look again.
//!
//! The file is replaced atomically: a reader sees the old content or the new, never a part. Beside it
//! lies a note (`.db.env.rekeyd`) of the version it holds and of the version its reader was told of. The
//! note comes first: a file without one was not written by rekeyd and is refused, unless the policy
//! adopts it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Consumer, Observed, PublishRequest};
use crate::failure::{Failure, FailureClass, Finding, IoReason};
use crate::ident::{PolicyName, Version};
use crate::policy::spec::FileSpec;
use crate::secret::SecretValue;
use crate::template::{Template, Values};

/// No credential file is larger; a bigger one there is not ours.
const MAX_BYTES: u64 = 1024 * 1024;

/// A file consumer.
#[derive(Debug, Clone)]
pub struct FileConsumer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: FileSpec,
    template: Template,
    note: PathBuf,
    draft: PathBuf,
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
        let doing = || format!("use file {}", spec.path.display());
        let invalid = |reason: &dyn std::fmt::Display| Failure::new(FailureClass::Invalid, doing(), reason);
        let template = Template::parse(&spec.content).map_err(|error| invalid(&error))?;
        let name = spec.path.file_name().and_then(|name| name.to_str()).filter(|_| spec.path.is_absolute());
        let name = name.ok_or_else(|| invalid(&"its path is not the absolute path of a file"))?;
        let (note, draft) = (format!(".{name}.rekeyd"), format!(".{name}.rekeyd-draft"));
        let (note, draft) = (spec.path.with_file_name(note), spec.path.with_file_name(draft));
        Ok(Self { inner: Arc::new(Inner { spec: spec.clone(), template, note, draft }) })
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

    async fn publish(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let values = Values {
            policy: request.policy,
            version: request.version,
            principal: &request.credential.principal,
            value: &request.credential.value,
        };
        let content = self.inner.template.render(&values).map_err(|error| {
            Failure::new(FailureClass::Invalid, self.inner.doing("write"), error)
                .with_remedy("correct `content` in the policy")
        })?;
        let (policy, version) = (request.policy.clone(), request.version);
        self.blocking(move |inner| inner.publish(&policy, version, &content)).await
    }

    /// Dying between the command and the note: the command runs once more.
    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let policy = request.policy.clone();
        let note = self.blocking(move |inner| inner.own_note(&policy)).await?;
        let published = note.as_ref().map_or(Version::NONE, |note| note.published);
        let Some(note) = note.filter(|_| published >= request.version) else {
            return Err(Failure::new(
                FailureClass::Unavailable,
                self.inner.doing("reload the reader of"),
                format_args!("it holds {published}, not {}", request.version),
            ));
        };
        if note.reloaded >= request.version {
            return Ok(());
        }
        self.inner.run_reload().await?;
        let note = Note { reloaded: note.published, ..note };
        self.blocking(move |inner| inner.write_note(&note)).await
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
    fn publish(&self, policy: &PolicyName, version: Version, content: &SecretValue) -> Result<(), Failure> {
        let note = self.own_note(policy)?;
        if let Some(note) = note.as_ref().filter(|note| note.published > version) {
            return Err(Failure::new(
                FailureClass::Conflict,
                self.doing("write"),
                format_args!("it holds {} already, newer than {version}", note.published),
            )
            .with_remedy(format!(
                "if the store is right and the file is not, remove {} and {}",
                self.spec.path.display(),
                self.note.display()
            )));
        }
        let reloaded = note.as_ref().map_or(Version::NONE, |note| note.reloaded);
        if note.as_ref().is_some_and(|note| note.published == version) && self.holds(content) {
            return Ok(());
        }
        if note.is_none() {
            self.refuse_foreign()?;
            // On disk before the file is: or the file would be taken for somebody else's.
            self.write_note(&Note { policy: policy.clone(), published: Version::NONE, reloaded })?;
            self.sync_folder()?;
        }
        self.replace(&self.spec.path, content.expose(), self.spec.mode.bits(), true)?;
        self.sync_folder()?;
        // Dying here: the note is behind, and the next sitting writes the same content again.
        self.write_note(&Note { policy: policy.clone(), published: version, reloaded })
    }

    /// The note, if it is this policy's.
    fn own_note(&self, policy: &PolicyName) -> Result<Option<Note>, Failure> {
        let bytes = match fs::read(&self.note) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read the note beside", &error)),
        };
        let note: Note = serde_json::from_slice(&bytes).map_err(|_| {
            Failure::new(
                FailureClass::Invalid,
                self.doing("read the note beside"),
                "it is not one of rekeyd's",
            )
            .with_remedy(format!("remove {} and set `adopt: true` once", self.note.display()))
        })?;
        if note.policy == *policy {
            return Ok(Some(note));
        }
        Err(Failure::new(
            FailureClass::Conflict,
            self.doing("use"),
            format_args!("policy {} writes it already", note.policy),
        )
        .with_remedy("give each policy its own file"))
    }

    fn refuse_foreign(&self) -> Result<(), Failure> {
        if self.spec.adopt || !self.spec.path.exists() {
            return Ok(());
        }
        Err(Failure::new(FailureClass::Invalid, self.doing("write"), "it exists and rekeyd did not write it")
            .with_remedy("move it away, or set `adopt: true` in the policy to take it over"))
    }

    /// Whether the file is there as it should be: content, kind and permissions.
    fn holds(&self, content: &SecretValue) -> bool {
        let Ok(mut file) = OpenOptions::new().read(true).custom_flags(nofollow()).open(&self.spec.path)
        else {
            return false;
        };
        let Ok(metadata) = file.metadata() else { return false };
        if !metadata.is_file()
            || metadata.len() > MAX_BYTES
            || metadata.permissions().mode() & 0o777 != self.spec.mode.bits()
        {
            return false;
        }
        let mut held = Zeroizing::new(Vec::with_capacity(content.expose().len() + 1));
        file.read_to_end(&mut held).is_ok() && SecretValue::new(std::mem::take(&mut *held)) == *content
    }

    /// A power cut may bring an older note back: what it is behind of is done again.
    fn write_note(&self, note: &Note) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(note).expect("a note has only string keys");
        self.replace(&self.note, &bytes, 0o600, false)
    }

    /// Replaces a file in one step: after a power cut there is the old one or the new one. The draft has
    /// its final permissions before it has content.
    fn replace(&self, path: &Path, content: &[u8], mode: u32, owned: bool) -> Result<(), Failure> {
        let attempt = || -> Result<(), std::io::Error> {
            // A draft that is still there belongs to a writer that died.
            match fs::remove_file(&self.draft) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut draft = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(nofollow())
                .open(&self.draft)?;
            if owned && let Some(owner) = &self.spec.owner {
                let (user, group) = resolve(owner)?;
                fchown(&draft, user, group)?;
            }
            draft.set_permissions(Permissions::from_mode(mode))?;
            draft.write_all(content)?;
            draft.sync_all()?;
            fs::rename(&self.draft, path)
        };
        attempt().map_err(|error| {
            let _ = fs::remove_file(&self.draft);
            self.io("write", &error)
        })
    }

    /// Makes renames survive a power cut.
    fn sync_folder(&self) -> Result<(), Failure> {
        File::open(self.folder())
            .and_then(|folder| folder.sync_all())
            .map_err(|error| self.io("write", &error))
    }

    async fn run_reload(&self) -> Result<(), Failure> {
        let Some((program, arguments)) = self.spec.reload.split_first() else { return Ok(()) };
        let doing = || format!("run `{program}` for file {}", self.spec.path.display());
        let limit = self.spec.reload_timeout;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            // What it prints could hold the value it reads: it is not shown.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::new(FailureClass::Unavailable, doing(), IoReason(error.kind()))
                    .with_remedy("name a program that exists and that rekeyd may run")
            })?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        match tokio::time::timeout(limit.as_duration(), child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(Failure::new(FailureClass::Unavailable, doing(), format_args!("it failed ({status})"))
                    .with_remedy("run it by hand to see why; it is tried again"))
            }
            Ok(Err(error)) => Err(Failure::new(FailureClass::Unavailable, doing(), error.kind())),
            Err(_) => {
                // Its children too: the group is its own.
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait().await;
                Err(Failure::new(
                    FailureClass::Unavailable,
                    doing(),
                    format_args!("it did not end within {limit}"),
                )
                .with_remedy("raise `reloadTimeout`, or find out why it hangs"))
            }
        }
    }

    fn preflight(&self, label: &str, policy: &PolicyName) -> Vec<Finding> {
        let mut findings = Vec::new();
        let folder = self.folder();
        match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
            Ok(()) => findings.push(Finding::pass(label, format!("folder {} is writable", folder.display()))),
            Err(error) => findings.push(Finding::fail(
                label,
                format!(
                    "folder {} is not writable: {}",
                    folder.display(),
                    IoReason(std::io::Error::from(error).kind())
                ),
                "create it and let rekeyd write there",
            )),
        }
        match self
            .own_note(policy)
            .and_then(|note| if note.is_none() { self.refuse_foreign().map(|()| None) } else { Ok(note) })
        {
            Ok(Some(note)) => findings.push(Finding::pass(label, format!("holds {}", note.published))),
            Ok(None) => findings.push(Finding::pass(label, "will be written first by the next rotation")),
            Err(failure) => findings.push(Finding::from_failure(label, &failure)),
        }
        if let Some(owner) = &self.spec.owner
            && let Err(error) = resolve(owner)
        {
            findings.push(Finding::fail(
                label,
                error.to_string(),
                "name a user and group that this machine knows",
            ));
        }
        if let Some(program) = self.spec.reload.first().filter(|program| program.contains('/'))
            && rustix::fs::access(program.as_str(), rustix::fs::Access::EXEC_OK).is_err()
        {
            findings.push(Finding::fail(
                label,
                format!("`{program}` cannot be run"),
                "name a program that rekeyd may run",
            ));
        }
        findings
    }

    fn folder(&self) -> &Path {
        self.spec.path.parent().unwrap_or_else(|| Path::new("/"))
    }

    fn doing(&self, verb: &str) -> String {
        format!("{verb} file {}", self.spec.path.display())
    }

    fn io(&self, verb: &str, error: &std::io::Error) -> Failure {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "create the folder",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "let rekeyd write there",
            ErrorKind::InvalidInput => "name a user and group that this machine knows",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
            _ => "look at the file and its folder",
        };
        let failure = |reason: &dyn std::fmt::Display| {
            Failure::new(FailureClass::Unavailable, self.doing(verb), reason).with_remedy(remedy)
        };
        match error.get_ref() {
            // Ours: an owner that this machine does not know.
            Some(own) => failure(own),
            None => failure(&IoReason(error.kind())),
        }
    }
}

/// `user` or `user:group` as numbers. Names are looked up; numbers are taken as they are.
fn resolve(owner: &str) -> Result<(Option<u32>, Option<u32>), std::io::Error> {
    let unknown = |kind: &str, name: &str| {
        std::io::Error::new(ErrorKind::InvalidInput, format!("no {kind} `{name}` on this machine"))
    };
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let user = match user.parse() {
        Ok(id) => id,
        Err(_) => nix::unistd::User::from_name(user)?.ok_or_else(|| unknown("user", user))?.uid.as_raw(),
    };
    let group = match group.map(|group| (group, group.parse())) {
        None => None,
        Some((_, Ok(id))) => Some(id),
        Some((group, Err(_))) => {
            Some(nix::unistd::Group::from_name(group)?.ok_or_else(|| unknown("group", group))?.gid.as_raw())
        }
    };
    Ok((Some(user), group))
}

/// A link in the file's place is not followed: it could point anywhere.
fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("an open flag fits")
}
