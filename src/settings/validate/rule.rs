//! The rules settings can break, in words.

use std::borrow::Cow;

use super::{LONGEST_LEASE, LONGEST_SOCKET, LONGEST_TIMEOUT, SHORTEST_LEASE};
use crate::ident::{DnsLabel, StorePath};
use crate::policy::diagnostic::{Problem, choose};
use crate::policy::spec::Interval;

/// A rule that settings break. None quotes a URL: people put passwords into them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rule {
    #[error("this text is empty")]
    Blank,
    #[error("this text holds a control character")]
    ControlCharacter,
    #[error("there is no store")]
    NoStore,
    #[error("nothing says where policies are")]
    NoPolicies,
    #[error("there is no cluster `{name}`")]
    UnknownCluster { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("a Lease lasts from {SHORTEST_LEASE} to {LONGEST_LEASE}, and this says {0}")]
    LeaseOutOfRange(Interval),
    #[error("this is not an address")]
    NotAnAddress,
    #[error("without TLS, everybody on the way to {0} can read every value")]
    PlainAddress(String),
    #[error("the URL carries a user name or a password")]
    CredentialsInUrl,
    #[error("this is not a region of AWS")]
    NotARegion,
    #[error("of which partition of AWS this region is, is not known: its addresses and names would be wrong")]
    UnknownPartition,
    #[error("this is not an account of AWS")]
    NotAnAccount,
    #[error("this is not a key of KMS")]
    NotAKmsKey,
    #[error("`{0}` is not a path of a store")]
    NotAPath(String),
    #[error("a request may take up to {LONGEST_TIMEOUT}, and this says {0}")]
    TimeoutOutOfRange(Interval),
    #[error("this is not the name of a systemd credential")]
    NotASystemdCredential,
    #[error("there is no store `{name}`")]
    UnknownStore { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("`{0}` is in the folder that rekeyd keeps its control documents in")]
    CredentialInControl(StorePath),
    #[error("principal and value have the same key `{0}`")]
    FieldNamesEqual(String),
    #[error("an authority that signs for nobody is of no use")]
    NoNames,
    #[error("an authority that signs nothing is of no use")]
    NoUsages,
    #[error("this is not a branch name that Git takes")]
    NotABranch,
    #[error("Git takes no `<` and `>` in an author")]
    NotAnAuthor,
    #[error("this is not the URL of a Git repository")]
    NotARemote,
    #[error("`{0}://` does not protect what is sent")]
    UnprotectedRemote(String),
    #[error("this has no effect with a remote of this kind")]
    RemoteOptionUnused { kind: &'static str },
    #[error("{what} and {other} are the same path")]
    PlaceTaken { what: &'static str, other: &'static str },
    #[error("a socket's path has at most {LONGEST_SOCKET} bytes, and this one has {0}")]
    SocketTooLong(usize),
    #[error("{value} is not between 1 and {most}")]
    LimitOutOfRange { value: u16, most: u16 },
    #[error("the freeze ends before it begins")]
    FreezeReversed,
}

impl Problem for Rule {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Blank => "give it a text, or remove it".into(),
            Self::ControlCharacter => "remove line breaks and control characters".into(),
            Self::NoUsages => "write `server`, `client` or both, or leave it out".into(),
            Self::NoNames => "name hosts, `*.example.com` for all below".into(),
            Self::NoStore => "add one, `embedded`, `vault` or `awsSecretsManager`".into(),
            Self::NoPolicies => "add `directory`, or `resources` for those of a cluster".into(),
            Self::UnknownCluster { name, known } => {
                choose(name.as_str(), known.iter().map(DnsLabel::as_str)).into()
            }
            Self::LeaseOutOfRange(_) => "15s suits most".into(),
            Self::NotAnAddress => "write for example https://bao.example.com:8200".into(),
            Self::PlainAddress(_) => "use https; plain http is taken on this machine only".into(),
            Self::CredentialsInUrl => {
                "put the password into a file and name the file, and change it: it was in this one".into()
            }
            Self::NotARegion => "write for example eu-central-1".into(),
            Self::UnknownPartition => {
                "name `endpoint`, `iamEndpoint` and `stsEndpoint`; what `rekeyd iam-policy` prints is then for the partition `aws`"
                    .into()
            }
            Self::NotAnAccount => "write its twelve digits, in quotes".into(),
            Self::NotAKmsKey => "write its ARN, its id, or `alias/` and its alias".into(),
            Self::NotAPath(_) => "use segments of letters, digits, `.`, `_`, `-`, joined by `/`".into(),
            Self::TimeoutOutOfRange(_) => format!("use a time between 1s and {LONGEST_TIMEOUT}").into(),
            Self::NotASystemdCredential => {
                "write the name given in `LoadCredential=`, letters, digits, `.`, `_` and `-`".into()
            }
            Self::UnknownStore { name, known } => {
                choose(name.as_str(), known.iter().map(DnsLabel::as_str)).into()
            }
            Self::CredentialInControl(_) => "use a path outside the store's `controlPath`".into(),
            Self::FieldNamesEqual(_) => "use two different keys".into(),
            Self::NotABranch => "write for example main".into(),
            Self::NotAnAuthor => "write the name and the address alone".into(),
            Self::NotARemote => {
                "write https://host/path, ssh://user@host/path, user@host:path or an absolute path".into()
            }
            Self::UnprotectedRemote(_) => "use https or ssh".into(),
            Self::RemoteOptionUnused { kind } => format!("remove it: it belongs to {kind}").into(),
            Self::PlaceTaken { .. } => "give each a path of its own".into(),
            Self::SocketTooLong(_) => "use a shorter one, such as /run/rekeyd/rekeyd.sock".into(),
            Self::LimitOutOfRange { most, .. } => format!("use a number from 1 to {most}").into(),
            Self::FreezeReversed => "put the later moment in `to`".into(),
        }
    }

    fn conceals(&self) -> bool {
        matches!(
            self,
            Self::NotAnAddress
                | Self::CredentialsInUrl
                | Self::NotARemote
                | Self::UnprotectedRemote(_)
                | Self::NotASystemdCredential
        )
    }
}
