//! Talks to a remote through the `git` program.
//!
//! Commits are made and read by libgit2, but not sent by it. Its own ssh and TLS would be a second TLS
//! stack; transports of our own need `git2::transport::register`, which is unsafe; and for a path on
//! this machine it writes into the remote itself, past the remote's hooks. `git` is what the remote's
//! owner tests with, runs as a process group that a deadline can end, and needs three commands here.
//!
//! The program sees no configuration but what is set here, only a few inherited variables, and no
//! terminal. What it needs to know of the settings travels in `GIT_CONFIG_*` variables. The token is in
//! neither an argument nor a variable: Git's credential protocol asks a shell function for it, which
//! reads the file with shell built-ins.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use git2::Oid;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::one_line;
use super::remote::{RemoteUrl, Scheme};
use crate::failure::{Failure, FailureClass};
use crate::settings::{self, RemoteSettings};

/// Where a fetched branch is kept.
pub(crate) const FETCHED: &str = "refs/rekeyd/remote";

/// The first version that reads `GIT_CONFIG_COUNT`.
const NEEDS_GIT: &str = "install git 2.31 or later where rekeyd runs";

/// How long an ended child has to go before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// How much of a child's output is kept.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// Hands out the user name and the token; only for `get`, only what the two variables name.
const CREDENTIAL_HELPER: &str = "!f() { test \"$1\" = get || return 0; \
     IFS= read -r token <\"$REKEYD_TOKEN_FILE\"; \
     printf 'username=%s\\npassword=%s\\n' \"$REKEYD_USERNAME\" \"$token\"; }; f";

/// What a remote is to rekeyd, for whoever reads its failures.
#[derive(Debug, Clone)]
pub(crate) struct Purpose {
    /// Such as "the ledger's remote".
    pub(crate) what: String,
    /// Where it stands in the settings, such as `ledger.remote`.
    pub(crate) field: String,
    /// What becomes of the work while it is away.
    pub(crate) meanwhile: &'static str,
}

/// How much of a branch is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    All,
    /// The newest commit alone; what is left of earlier ones is cleared away.
    Newest,
}

/// A branch of a remote repository, and the folder that what is fetched goes to.
#[derive(Debug)]
pub(crate) struct Transport {
    url: RemoteUrl,
    purpose: Purpose,
    folder: PathBuf,
    settings: RemoteSettings,
    branch: String,
    environment: Vec<(OsString, OsString)>,
}

/// What came of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Done,
    /// Somebody else moved the branch in the meantime. Nothing was changed.
    Overtaken,
}

impl Transport {
    /// # Errors
    /// `Invalid` when the settings name something that must not be used. Nothing is contacted.
    pub(crate) fn new(
        remote: &RemoteSettings,
        branch: &str,
        folder: PathBuf,
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        let url = RemoteUrl::parse(remote, &purpose.field)?;
        let mut transport = Self {
            url,
            purpose,
            folder,
            settings: remote.clone(),
            branch: format!("refs/heads/{branch}"),
            environment: Vec::new(),
        };
        transport.environment = transport.child_environment();
        Ok(transport)
    }

    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The commit that the remote's branch is at; `None` when it has no such branch.
    pub(crate) async fn head(&self) -> Result<Option<Oid>, Failure> {
        let doing = "look at";
        let url = self.url.as_str();
        let done = self.run(doing, &["ls-remote", "--quiet", "--", url, &self.branch]).await?;
        if !done.status.success() {
            return Err(self.explain(doing, &done));
        }
        let line = done.stdout.lines().find_map(|line| line.split_once('\t')).filter(|l| l.1 == self.branch);
        line.map(|(id, _)| Oid::from_str(id)).transpose().map_err(|_| {
            Failure::new(FailureClass::Invalid, self.doing(doing), "it names no SHA-1 commit")
                .with_remedy("use a remote repository of the SHA-1 object format")
        })
    }

    /// Brings the remote's branch to [`FETCHED`].
    pub(crate) async fn fetch(&self, depth: Depth) -> Result<(), Failure> {
        let doing = "fetch from";
        let refspec = format!("+{}:{FETCHED}", self.branch);
        let url = self.url.as_str();
        let mut args = vec!["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
        args.extend(match depth {
            Depth::All => ["--no-auto-maintenance"].as_slice(),
            Depth::Newest => ["--auto-maintenance", "--depth=1"].as_slice(),
        });
        args.extend(["--", url, &refspec]);
        let done = self.run(doing, &args).await?;
        if done.status.success() { Ok(()) } else { Err(self.explain(doing, &done)) }
    }

    /// Moves the remote's branch forward to a commit; never any other way.
    pub(crate) async fn push(&self, commit: Oid) -> Result<Pushed, Failure> {
        self.push_with(&[], commit).await
    }

    /// Whether rekeyd is let in to push, as far as that is known without pushing.
    pub(crate) async fn rehearse_push(&self, commit: Oid) -> Result<(), Failure> {
        self.push_with(&["--dry-run"], commit).await.map(drop)
    }

    async fn push_with(&self, options: &[&str], commit: Oid) -> Result<Pushed, Failure> {
        let doing = "push to";
        let refspec = format!("{commit}:{}", self.branch);
        let mut args = vec!["push", "--porcelain", "--no-verify"];
        args.extend(options);
        args.extend(["--", self.url.as_str(), &refspec]);
        let done = self.run(doing, &args).await?;
        if done.status.success() {
            return Ok(Pushed::Done);
        }
        // `!<tab><from>:<to><tab>[rejected] (fetch first)`, or `[remote rejected] (<the remote's words>)`.
        let refusal = done.stdout.lines().find_map(|line| line.strip_prefix("!\t"));
        let refusal = refusal.and_then(|line| line.split_once('\t')).map(|(_, why)| why);
        match refusal {
            Some(why) if is_overtaken(why) => Ok(Pushed::Overtaken),
            Some(why) => Err(Failure::new(FailureClass::Denied, self.doing(doing), self.shown(why))
                .with_remedy("look at the branch's protection and hooks on the remote")),
            None => Err(self.explain(doing, &done)),
        }
    }

    /// The version of the `git` program.
    pub(crate) async fn version(&self) -> Result<String, Failure> {
        let doing = "reach";
        let done = self.run(doing, &["version"]).await?;
        let text = done.stdout.trim().strip_prefix("git version ").unwrap_or_default();
        let mut numbers = text.split('.').map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (2, 31) {
            return Ok(text.to_owned());
        }
        let reason = format!("the program `git` is of version {}", one_line(text));
        Err(Failure::new(FailureClass::Invalid, self.doing(doing), reason).with_remedy(NEEDS_GIT))
    }

    async fn run(&self, doing: &str, args: &[&str]) -> Result<Done, Failure> {
        self.check_token(doing)?;
        let mut command = Command::new("git");
        command
            .args(args)
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir("/");
        // A preflight asks the remote before there is a folder.
        if self.folder.exists() {
            command.env("GIT_DIR", &self.folder);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let reason = format!("the program `git` does not start: {error}");
                Failure::new(FailureClass::Unavailable, self.doing(doing), reason).with_remedy(NEEDS_GIT)
            })?;
        let group = Group::of(&child);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let work = async { tokio::join!(read(out), read(err), child.wait()) };
        let outcome = tokio::time::timeout(self.settings.timeout.as_duration(), work).await;
        match outcome {
            Ok((stdout, stderr, Ok(status))) => Ok(Done { status, stdout, stderr }),
            Ok((_, _, Err(error))) => Err(Failure::new(FailureClass::Unavailable, self.doing(doing), error)),
            Err(_) => {
                group.end(&mut child).await;
                let limit = self.settings.timeout.as_duration().as_secs();
                let reason = format!("it was not done within {limit} s (`{}.timeout`)", self.purpose.field);
                Err(Failure::new(FailureClass::Unavailable, self.doing(doing), reason))
            }
        }
    }

    /// Looked at before each call, so that the reason is not Git's "authentication failed".
    fn check_token(&self, doing: &str) -> Result<(), Failure> {
        let Some(file) = &self.settings.token_file else { return Ok(()) };
        let refuse = |reason: String| {
            Failure::new(FailureClass::Denied, self.doing(doing), reason)
                .with_remedy(format!("write the token to `{}.tokenFile` as one line", self.purpose.field))
        };
        let bytes = std::fs::read(file)
            .map(Zeroizing::new)
            .map_err(|error| refuse(format!("the token file {} cannot be read: {error}", file.display())))?;
        let token = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
            return Err(refuse(format!("the token file {} does not hold one line", file.display())));
        }
        Ok(())
    }

    fn child_environment(&self) -> Vec<(OsString, OsString)> {
        // `HOME` only for ssh: below it curl would find a `.netrc`.
        let mut environment = settings::inherited(match self.url.scheme() {
            Scheme::File => &["PATH", "TMPDIR"],
            Scheme::Ssh => &["PATH", "TMPDIR", "HOME", "SSH_AUTH_SOCK"],
            Scheme::Https | Scheme::Http => {
                &["PATH", "TMPDIR", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"]
            }
        });
        let mut set = |key: &str, value: &OsStr| environment.push((key.into(), value.into()));
        for (key, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_SSH_VARIANT", "ssh"),
        ] {
            set(key, value.as_ref());
        }
        set("GIT_SSH_COMMAND", self.ssh_command().as_ref());
        if let Some(file) = &self.settings.token_file {
            set("REKEYD_TOKEN_FILE", file.as_os_str());
            set("REKEYD_USERNAME", self.settings.username.as_ref());
        }
        let config = self.config();
        for (at, (key, value)) in config.iter().enumerate() {
            set(&format!("GIT_CONFIG_KEY_{at}"), key.as_ref());
            set(&format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        set("GIT_CONFIG_COUNT", config.len().to_string().as_ref());
        environment
    }

    /// Overrides whatever stands in the folder's own configuration file.
    fn config(&self) -> Vec<(String, OsString)> {
        let mut config: Vec<(String, OsString)> = [
            ("protocol.allow", "never"),
            ("core.hooksPath", "/dev/null"),
            ("core.askPass", ""),
            ("core.fsync", "all"),
            ("credential.helper", ""),
            ("credential.interactive", "never"),
            ("http.followRedirects", "false"),
            ("http.sslVerify", "true"),
            ("push.gpgSign", "false"),
            ("push.recurseSubmodules", "no"),
            ("fetch.recurseSubmodules", "no"),
            ("transfer.fsckObjects", "true"),
            // A fetched pack stays a pack, however small.
            ("transfer.unpackLimit", "1"),
            // Maintenance is over when the command is.
            ("gc.autoDetach", "false"),
            ("maintenance.autoDetach", "false"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
        config.push((format!("protocol.{}.allow", self.url.scheme().as_str()), "always".into()));
        if matches!(self.url.scheme(), Scheme::Https | Scheme::Http) && self.settings.token_file.is_some() {
            config.push(("credential.helper".into(), CREDENTIAL_HELPER.into()));
        }
        if let Some(file) = &self.settings.ca_file {
            config.push(("http.sslCAInfo".into(), file.into()));
        }
        config
    }

    /// A shell command line; the two paths in it are plain (see [`RemoteUrl::parse`]).
    fn ssh_command(&self) -> String {
        let mut command = "ssh -T -oBatchMode=yes -oStrictHostKeyChecking=yes -oClearAllForwardings=yes \
             -oForwardAgent=no -oPermitLocalCommand=no -oControlMaster=no -oControlPath=none -oServerAliveInterval=5 -oServerAliveCountMax=3"
            .to_owned();
        let connect = self.settings.timeout.as_duration().as_secs().clamp(1, 10);
        command.push_str(&format!(" -oConnectTimeout={connect}"));
        if let Some(file) = &self.settings.known_hosts_file {
            let file = file.display();
            command.push_str(&format!(" -oUserKnownHostsFile={file} -oGlobalKnownHostsFile=/dev/null"));
        }
        if let Some(file) = &self.settings.identity_file {
            command.push_str(&format!(" -oIdentitiesOnly=yes -oIdentityFile={}", file.display()));
        }
        command
    }

    /// Completes "cannot ...".
    pub(crate) fn doing(&self, doing: &str) -> String {
        format!("{doing} {} {}", self.purpose.what, self.url.as_str())
    }

    /// What `git` said, as a failure.
    fn explain(&self, doing: &str, done: &Done) -> Failure {
        use FailureClass::{Denied, Invalid, Unavailable};
        let said = |texts: &[&str]| texts.iter().any(|text| done.stderr.contains(text));
        let field = &self.purpose.field;
        let (class, remedy) = if said(&["Host key verification failed"]) {
            (Denied, format!("put the host's key into `{field}.knownHostsFile`, after comparing it"))
        } else if said(&[
            "Permission denied",
            "Authentication failed",
            "could not read Username",
            "error: 403",
        ]) {
            (Denied, format!("give `{field}` a key or token that may read and push this branch"))
        } else if said(&["certificate"]) {
            (Invalid, format!("set `{field}.caFile` to the authority that signed the remote's certificate"))
        } else if said(&["dubious ownership"]) {
            (Denied, "let the user that rekeyd runs as own the remote's folder".to_owned())
        } else if said(&["not found", "does not exist", "does not appear to be a git repository"]) {
            (Invalid, format!("create the remote repository, empty, or correct `{field}.url`"))
        } else {
            (Unavailable, self.purpose.meanwhile.to_owned())
        };
        let said: Vec<&str> = done.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let told = said.iter().filter(|line| !line.starts_with("hint:")).copied().take(3).collect::<Vec<_>>();
        let reason = if told.is_empty() {
            format!("git ended with {}", done.status)
        } else {
            self.shown(&told.join("; "))
        };
        Failure::new(class, self.doing(doing), reason).with_remedy(remedy)
    }

    /// A text from the other side, fit to be printed, unless it repeats the token.
    fn shown(&self, text: &str) -> String {
        let token = self.settings.token_file.as_ref().and_then(|file| std::fs::read(file).ok());
        let token = Zeroizing::new(token.unwrap_or_default());
        let token = token.strip_suffix(b"\n").unwrap_or(&token);
        if !token.is_empty() && memchr::memmem::find(text.as_bytes(), token).is_some() {
            return "the remote's answer repeats the token and is not shown".to_owned();
        }
        one_line(text)
    }
}

/// Whether a push came too late: somebody else moved the branch, before it or at the same time. Then a server finds the
/// branch locked, or not where it was, and says so in its version's words; the last ones can have other causes.
fn is_overtaken(why: &str) -> bool {
    const AT_THE_SAME_TIME: [&str; 3] = ["cannot lock ref", "incorrect old value", "failed to update ref"];
    why.starts_with("[rejected]") || AT_THE_SAME_TIME.iter().any(|sign| why.contains(sign))
}

/// A child that has ended.
struct Done {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// A child and all it started.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Asks first: on a termination `git` removes its temporary files.
    async fn end(&self, child: &mut Child) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            self.signal(Signal::KILL);
            let _ = child.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Reads all of it and keeps the beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let _ = (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}
