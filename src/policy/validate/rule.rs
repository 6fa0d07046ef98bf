//! The rules a policy can break, in words.

use std::borrow::Cow;
use std::path::PathBuf;

use super::by_hand::ByHandProblem;
use super::target::exec::ProgramUse;
use super::target::http::RecipeUse;
use super::value::ValueProblem;
use crate::ident::{DnsLabel, PolicyName, Principal, StorePath};
use crate::policy::diagnostic::{Problem, Severity, choose};
use crate::policy::spec::{Interval, TlsMode, WorkloadKind, WorkloadName};
use crate::schedule::{self, ScheduleProblem};
use crate::template::TemplateError;

/// A rule that a policy breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rule {
    // Texts.
    #[error("this text is empty")]
    Blank,
    #[error("this text holds a control character")]
    ControlCharacter,

    // Values.
    #[error("a value of {0} characters is not supported")]
    ValueLength(u16),
    #[error("a value of this length and alphabet has {0} bits: it can be guessed")]
    ValueGuessable(u32),
    #[error("{0}")]
    Value(ValueProblem),

    // Schedule.
    #[error("an interval of 0s never has room for a rotation")]
    ZeroInterval,
    #[error("the jitter of {jitter} is longer than the window of {window}: some rotations could never start")]
    JitterBeyondWindow { jitter: Interval, window: Interval },
    #[error("a value may be {max_age} old, and an outgoing one lives for {grace} longer")]
    MaxAgeWithinGrace { max_age: Interval, grace: Interval },
    #[error("the freeze ends before it begins")]
    FreezeReversed,
    #[error("{0}")]
    Schedule(ScheduleProblem),

    // Target.
    #[error("`{0}` is not a host name, an address or the absolute path of a Unix socket")]
    NotAHost(String),
    #[error("`{0}` is not a host name or an address")]
    NotAHostName(String),
    #[error("there is no server to change the user on")]
    NoNode,
    #[error("`{0}` stands here twice")]
    NodeTwice(String),
    #[error("`{0}` holds a space, and no Redis user does")]
    UserWithSpace(Principal),
    #[error(
        "`default` is whoever has not logged in yet, and nobody's alone: replicas, Sentinels and clients without a name"
    )]
    UserOfEverybody,
    #[error("`{0}` holds a colon, and no login over HTTP can name such a user")]
    UserWithColon(Principal),
    #[error("`{name}` is longer than the {most} that the server takes")]
    NameTooLong { name: Principal, most: &'static str },
    #[error("port 0 does not exist")]
    PortZero,
    #[error("without TLS, everybody on the way to {0} can read the value")]
    PlaintextToRemote(String),
    #[error("with mode `require` the certificate of {0} is not checked: somebody on the way can pose as it")]
    UncheckedCertificate(String),
    #[error("there is no TLS on a Unix socket")]
    TlsOnSocket,
    #[error("the authorities are not looked at in mode `{}`", mode_name(*.0))]
    CaFileUnused(TlsMode),
    #[error("`allowPlaintext` has no effect: TLS is on, or the host is this machine")]
    AllowPlaintextUnused,
    #[error("both users are `{0}`")]
    UsersEqual(Principal),
    #[error("`{user}` is the user of the admin credential `{admin}`")]
    UserIsAdmin { user: Principal, admin: DnsLabel },
    #[error("a login at this server hands it the value, and the settings let `{0}` be used at any")]
    AdminAnywhere(DnsLabel),
    #[error("the settings do not let the admin credential `{admin}` be used at `{host}`")]
    AdminElsewhere { admin: DnsLabel, host: String },
    #[error("`{0}` is not the host part of an account")]
    NotAnAccountHost(String),
    #[error("`{0}` is a name that the database keeps to itself")]
    ReservedRole(Principal),
    #[error("`{0}` cannot be a member of itself")]
    MemberOfUser(Principal),
    #[error("`{0}` is the admin's user: its members could do whatever rekeyd can")]
    MemberOfAdmin(Principal),
    #[error("`{0}` stands here twice")]
    MemberOfTwice(Principal),
    #[error("{0}")]
    Recipe(RecipeUse),
    #[error("{0}")]
    Program(ProgramUse),
    #[error("the settings have no credential `{name}`")]
    UnknownAdmin { name: DnsLabel, known: Vec<DnsLabel> },

    #[error("store `{0}` is no OpenBao or Vault")]
    StoreIsNoVault(DnsLabel),
    #[error("`{0}` is not the name of a service account")]
    NotAServiceAccount(Principal),
    #[error("an API server gives out no token that ends after {0}")]
    TokenTooShort(Interval),
    #[error("a value ends by itself after {0}, and may be in force for longer")]
    EndsBeforeRotation(Interval),
    #[error("store `{0}` is not at AWS")]
    StoreIsNotAtAws(DnsLabel),
    #[error("`{0}` is not the name of a user of IAM")]
    NotAnIamUser(Principal),
    #[error("`{0}` is not a name that an OpenBao or a Vault takes")]
    NotAVaultName(Principal),
    #[error("the token would have every policy of rekeyd's own")]
    TokenWithoutRights,
    #[error("a token with the policy `root` may do anything, for ever")]
    RootToken,

    // Store.
    #[error("the settings have no store `{name}`")]
    UnknownStore { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("`{0}` is in the folder that rekeyd keeps its control documents in")]
    StorePathInControl(StorePath),
    #[error("`{path}` holds the credential `{credential}` that rekeyd itself uses")]
    StorePathOfCredential { path: StorePath, credential: DnsLabel },
    #[error("principal and value have the same key `{0}`")]
    FieldNamesEqual(String),
    #[error("store `{0}` keeps nothing beside principal and value")]
    ExtraUnused(DnsLabel),
    #[error("`{0}` is the key of the principal or of the value")]
    ExtraIsField(String),
    #[error(
        "cron starts {rotations} rotations within a day, and the versions that store `{store}` keeps are enough for {most}"
    )]
    VersionBudget { store: DnsLabel, rotations: u32, most: u32 },
    #[error(
        "`{0}` ends as an ARN of AWS does, in a hyphen and six characters: whoever looks a secret up by a part of its ARN may find another one"
    )]
    NameLikeArn(StorePath),

    // Consumers.
    #[error("`{}` is not an absolute path", .0.display())]
    FileNotAbsolute(PathBuf),
    #[error("`{}` leads through `..`", .0.display())]
    FileThroughParent(PathBuf),
    #[error("`{}` names no file", .0.display())]
    FileUnnamed(PathBuf),
    #[error("`{}` is rekeyd's own: {what}", .path.display())]
    FileOfRekeyd { path: PathBuf, what: &'static str },
    #[error("everybody on the machine may change the file")]
    FileWritableByOthers,
    #[error("everybody on the machine may read the file")]
    FileReadableByOthers,
    #[error("`{0}` is not a file owner")]
    NotAnOwner(String),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the template does not use the value")]
    TemplateWithoutValue,
    #[error("argument {0} of the command is empty")]
    ReloadArgumentEmpty(usize),
    #[error("the program `{0}` is neither an absolute path nor a plain name")]
    ReloadProgramRelative(String),
    #[error("the command is one text with spaces: a program of that name is unlikely")]
    ReloadInOnePiece,
    #[error("arguments of the command are not templates")]
    ReloadTemplate,
    #[error("a command may take up to {LONGEST_RELOAD}, and this says {0}")]
    ReloadTimeout(Interval),

    // Kubernetes.
    #[error("the settings have no cluster `{name}`")]
    UnknownCluster { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("Kubernetes fills Secrets of type `{0}` itself")]
    SecretOfTokens(String),
    #[error("the Secret would have no key")]
    SecretWithoutKeys,
    #[error("`{0}` is not the key of a Secret: use 1 to 253 letters, digits, `-`, `_` and `.`")]
    NotASecretKey(String),
    #[error("no key of the Secret uses the value")]
    SecretWithoutValue,
    #[error("the name leaves no room for a version behind it")]
    SecretNameTooLong,
    #[error("`{0}` stands here twice")]
    WorkloadTwice(WorkloadName),
    #[error("a policy in a cluster does not write files of rekeyd's machine")]
    FileOfResource,
    #[error("a policy in a cluster reaches that cluster alone, `{0}`")]
    ClusterOfResource(DnsLabel),
    #[error("a policy in a cluster reaches its own namespace alone, `{0}`")]
    NamespaceOfResource(String),
    #[error("{0} waits for itself, through those that it comes after")]
    WorkloadCircle(WorkloadName),
    #[error("a {0} has no canary pod: it replaces one pod at a time")]
    CanaryPodOf(WorkloadKind),
    #[error("the settings have no GitOps repository `{name}`")]
    UnknownRepository { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("which Secret a workload names cannot be committed to a GitOps repository yet, only its version")]
    ImmutableByGit,
    #[error("a value that is changed in place is not tried first: nothing else works by then")]
    CanaryPodInPlace,

    // Other readers.
    #[error("this is not the address of a server")]
    NotAJenkinsUrl,
    #[error("without TLS, everybody on the way to {0} can read the value")]
    JenkinsWithoutTls(String),
    #[error("`{0}` is not a name that Jenkins takes")]
    NotAJenkinsName(String),
    #[error("`{0}` is not the id of a credential: use letters, digits, `-`, `_` and `.`")]
    NotAJenkinsId(String),
    #[error("store `{0}` is not {1}")]
    CopyElsewhere(DnsLabel, &'static str),
    #[error("the copy would have no field")]
    CopyWithoutFields,
    #[error("no field of the copy uses the value")]
    CopyWithoutValue,
    #[error("`{0}` is the field of rekeyd's mark")]
    CopyFieldIsMark(String),
    #[error("a policy in a cluster does not reach {0}")]
    PlaceOfResource(&'static str),
    #[error(
        "rekeyd makes {0} with its own login, and this policy is of a namespace that has no right to them"
    )]
    LoginOfResource(&'static str),

    // Retire.
    #[error("a grace of {0} keeps the outgoing value alive for too long")]
    GraceTooLong(Interval),
    #[error("a containment that waits for {0} contains nothing")]
    ContainmentTooLong(Interval),
    #[error("{0}")]
    ByHand(ByHandProblem),

    // Between rotations.
    #[error("a login every {0} is more than a target should be asked for")]
    VerifiedTooOften(Interval),
    #[error("nothing is verified, so a refusal is never noticed")]
    NeverVerified,

    // Between policies.
    #[error("the policy `{name}` is already at {other}")]
    NameTaken { name: PolicyName, other: String },
    #[error("the path `{path}` of this store already belongs to `{policy}`, at {other}")]
    StorePathTaken { path: StorePath, policy: PolicyName, other: String },
    #[error("the user `{user}` of {server} is already rotated by `{policy}`, at {other}")]
    UserTaken { user: Principal, server: String, policy: PolicyName, other: String },
    #[error("the file `{}` is already written by `{policy}`, at {other}", .path.display())]
    FileTaken { path: PathBuf, policy: PolicyName, other: String },
    #[error("the Secret `{secret}` is already written by `{policy}`, at {other}")]
    SecretTaken { secret: String, policy: PolicyName, other: String },
    #[error("the credential `{id}` of this Jenkins is already written by `{policy}`, at {other}")]
    JenkinsTaken { id: String, policy: PolicyName, other: String },
    #[error("{place} is already written by `{policy}`, at {other}")]
    PlaceTaken { place: String, policy: PolicyName, other: String },
}

/// The shortest time between two proofs of one policy's value.
pub(super) const SHORTEST_VERIFICATION: Interval = Interval::from_duration(std::time::Duration::from_secs(1));

/// The longest time that a reload command may take.
pub(super) const LONGEST_RELOAD: Interval = Interval::from_duration(std::time::Duration::from_secs(3_600));

/// The longest time that sessions of an outgoing value may live on.
pub(super) const LONGEST_GRACE: Interval =
    Interval::from_duration(std::time::Duration::from_secs(30 * 86_400));

/// The longest time that a containment may wait.
pub(super) const LONGEST_CONTAINMENT: Interval =
    Interval::from_duration(std::time::Duration::from_secs(86_400));

impl Rule {
    /// Whether it was judged on what the settings hold.
    pub(in crate::policy) const fn rests_on_settings(&self) -> bool {
        match self {
            Self::UnknownAdmin { .. }
            | Self::UserIsAdmin { .. }
            | Self::AdminElsewhere { .. }
            | Self::AdminAnywhere(_)
            | Self::MemberOfAdmin(_)
            | Self::UnknownStore { .. }
            | Self::StoreIsNoVault(_)
            | Self::StoreIsNotAtAws(_)
            | Self::UnknownCluster { .. }
            | Self::UnknownRepository { .. }
            | Self::CopyElsewhere(..)
            | Self::StorePathInControl(_)
            | Self::StorePathOfCredential { .. }
            | Self::FileOfRekeyd { .. } => true,
            Self::Program(problem) => problem.rests_on_settings(),
            Self::Value(problem) => problem.rests_on_settings(),
            // Freezes may stand in the settings.
            Self::Schedule(problem) => !matches!(problem, ScheduleProblem::NeverFires { .. }),
            _ => false,
        }
    }

    /// Whether it was judged on fields beside the one that is told.
    pub(in crate::policy) const fn spans_fields(&self) -> bool {
        match self {
            Self::ValueGuessable(_)
            | Self::JitterBeyondWindow { .. }
            | Self::MaxAgeWithinGrace { .. }
            | Self::FreezeReversed
            | Self::Schedule(_)
            | Self::PlaintextToRemote(_)
            | Self::UncheckedCertificate(_)
            | Self::TlsOnSocket
            | Self::CaFileUnused(_)
            | Self::AllowPlaintextUnused
            | Self::UsersEqual(_)
            | Self::UserIsAdmin { .. }
            | Self::AdminElsewhere { .. }
            | Self::Recipe(_)
            | Self::Program(_)
            | Self::Value(_)
            | Self::MemberOfUser(_)
            | Self::MemberOfAdmin(_)
            | Self::MemberOfTwice(_)
            | Self::NodeTwice(_)
            | Self::StorePathInControl(_)
            | Self::StorePathOfCredential { .. }
            | Self::FieldNamesEqual(_)
            | Self::ExtraUnused(_)
            | Self::ExtraIsField(_)
            | Self::VersionBudget { .. }
            | Self::NameLikeArn(_)
            | Self::ReloadInOnePiece
            | Self::SecretWithoutValue
            | Self::SecretNameTooLong
            | Self::WorkloadTwice(_)
            | Self::EndsBeforeRotation(_)
            | Self::WorkloadCircle(_)
            | Self::CanaryPodOf(_)
            | Self::CanaryPodInPlace
            | Self::ImmutableByGit
            | Self::FileOfResource
            | Self::PlaceOfResource(_)
            | Self::LoginOfResource(_)
            | Self::CopyWithoutValue
            | Self::CopyFieldIsMark(_)
            | Self::ClusterOfResource(_)
            | Self::NamespaceOfResource(_)
            | Self::ByHand(_)
            | Self::NeverVerified => true,
            Self::Blank
            | Self::ControlCharacter
            | Self::ValueLength(_)
            | Self::ZeroInterval
            | Self::NotAHost(_)
            | Self::NotAHostName(_)
            | Self::NoNode
            | Self::UserWithSpace(_)
            | Self::UserOfEverybody
            | Self::UserWithColon(_)
            | Self::NameTooLong { .. }
            | Self::AdminAnywhere(_)
            | Self::PortZero
            | Self::NotAnAccountHost(_)
            | Self::StoreIsNoVault(_)
            | Self::StoreIsNotAtAws(_)
            | Self::NotAnIamUser(_)
            | Self::NotAServiceAccount(_)
            | Self::TokenTooShort(_)
            | Self::NotAVaultName(_)
            | Self::TokenWithoutRights
            | Self::RootToken
            | Self::ReservedRole(_)
            | Self::UnknownAdmin { .. }
            | Self::UnknownStore { .. }
            | Self::UnknownCluster { .. }
            | Self::UnknownRepository { .. }
            | Self::SecretOfTokens(_)
            | Self::SecretWithoutKeys
            | Self::NotASecretKey(_)
            | Self::FileNotAbsolute(_)
            | Self::FileThroughParent(_)
            | Self::FileUnnamed(_)
            | Self::FileOfRekeyd { .. }
            | Self::FileWritableByOthers
            | Self::FileReadableByOthers
            | Self::NotAnOwner(_)
            | Self::Template(_)
            | Self::TemplateWithoutValue
            | Self::ReloadArgumentEmpty(_)
            | Self::ReloadProgramRelative(_)
            | Self::ReloadTemplate
            | Self::ReloadTimeout(_)
            | Self::GraceTooLong(_)
            | Self::ContainmentTooLong(_)
            | Self::VerifiedTooOften(_)
            | Self::NameTaken { .. }
            | Self::StorePathTaken { .. }
            | Self::UserTaken { .. }
            | Self::FileTaken { .. }
            | Self::SecretTaken { .. }
            | Self::JenkinsTaken { .. }
            | Self::PlaceTaken { .. }
            | Self::CopyElsewhere(..)
            | Self::CopyWithoutFields
            | Self::NotAJenkinsUrl
            | Self::JenkinsWithoutTls(_)
            | Self::NotAJenkinsName(_)
            | Self::NotAJenkinsId(_) => false,
        }
    }
}

impl Problem for Rule {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Blank => "give it a text, or remove it".into(),
            Self::ControlCharacter => "remove line breaks and control characters".into(),
            Self::ValueLength(_) => "use a length from 16 to 256".into(),
            Self::ValueGuessable(_) => "use more characters: 80 bits are the least".into(),
            Self::ZeroInterval => "give it a length, or remove it".into(),
            Self::JitterBeyondWindow { window, .. } => format!("use a jitter of at most {window}").into(),
            Self::MaxAgeWithinGrace { .. } => "use a maxAge beyond retire.grace, or a shorter grace".into(),
            Self::FreezeReversed => "put the later moment in `to`".into(),
            Self::Schedule(problem) => problem.remedy().into(),
            Self::Recipe(problem) => problem.remedy(),
            Self::Program(problem) => problem.remedy(),
            Self::Value(problem) => problem.remedy(),
            Self::NotAHost(_) => {
                "write the name alone: the port goes to `port`, the database to `database`".into()
            }
            Self::NotAHostName(_) => "write the name alone: the port goes to `port`".into(),
            Self::NoNode => "name every server that has the user, replicas too".into(),
            Self::NodeTwice(_) => "name each server once".into(),
            Self::UserWithSpace(_) => "name the user as ACL LIST does".into(),
            Self::UserOfEverybody => {
                "give its readers a user of their own with ACL SETUSER, and name that".into()
            }
            Self::UserWithColon(_) => "rotate a user of another name".into(),
            Self::NameTooLong { .. } => "use a shorter name".into(),
            Self::PortZero => "use the server's port, or remove it for the usual one".into(),
            Self::PlaintextToRemote(_) => {
                "use mode `verify-full`, or say `allowPlaintext: true` where the network protects it".into()
            }
            Self::UncheckedCertificate(_) => "use mode `verify-full` with `caFile`".into(),
            Self::TlsOnSocket => "say `tls: {mode: disable}`".into(),
            Self::CaFileUnused(_) => "use mode `verify-full` or `verify-ca`, or remove `caFile`".into(),
            Self::AllowPlaintextUnused => "remove it".into(),
            Self::UsersEqual(_) => "name two users".into(),
            Self::AdminElsewhere { .. } => {
                "use an admin that is for this host, or have it added to the credential's `hosts`".into()
            }
            Self::AdminAnywhere(_) => "name the hosts that the credential is for, in its `hosts`".into(),
            Self::UserIsAdmin { .. } => "use an admin that is not rotated by this policy".into(),
            Self::NotAnAccountHost(_) => {
                "write it as `SHOW GRANTS` does: `%`, `10.0.0.%`, `app.example.com`".into()
            }
            Self::ReservedRole(_) => "use a role of the application's own".into(),
            Self::MemberOfUser(_) => "name the group role that both users belong to".into(),
            Self::MemberOfAdmin(_) => "name a group role with the application's rights".into(),
            Self::MemberOfTwice(_) => "keep one of the two".into(),
            Self::UnknownAdmin { name, known }
            | Self::UnknownStore { name, known }
            | Self::UnknownCluster { name, known }
            | Self::UnknownRepository { name, known } => {
                choose(name.as_str(), known.iter().map(DnsLabel::as_str)).into()
            }
            Self::StoreIsNoVault(_) => "name a store of the settings that is a `vault`".into(),
            Self::NotAServiceAccount(_) => {
                "write the name alone, as `kubectl get serviceaccounts` does".into()
            }
            Self::TokenTooShort(_) => "use 10m or more".into(),
            Self::EndsBeforeRotation(_) => {
                "let it live longer than the time between two rotations and the grace, or rotate more often"
                    .into()
            }
            Self::StoreIsNotAtAws(_) => "name a store of the settings that is an `awsSecretsManager`".into(),
            Self::NotAnIamUser(_) => "use letters, digits and `+=,.@-_`, without a path".into(),
            Self::NotAVaultName(_) => "use letters, digits, `-`, `_` and `.`".into(),
            Self::TokenWithoutRights => "name a `role`, or `policies`".into(),
            Self::RootToken => "name the policies that the program needs".into(),
            Self::StorePathInControl(_) => "use a path outside the store's `controlPath`".into(),
            Self::StorePathOfCredential { .. } => "use a path of the application's own".into(),
            Self::FieldNamesEqual(_) => "use two different keys".into(),
            Self::ExtraUnused(_) => "remove it: it is for AWS Secrets Manager".into(),
            Self::ExtraIsField(_) => "remove it: rekeyd writes it".into(),
            Self::NameLikeArn(_) => "use a name that ends otherwise".into(),
            Self::VersionBudget { .. } => {
                "let cron fire less often, or the store refuses writes, those of a containment too".into()
            }
            Self::FileNotAbsolute(_) => "write it from the root, `/run/app/db.env`".into(),
            Self::FileThroughParent(_) => "write it without `..`".into(),
            Self::FileUnnamed(_) => "add the file's name".into(),
            Self::FileOfRekeyd { .. } => "use a file of the application's own".into(),
            Self::FileWritableByOthers => "use mode \"0600\" or \"0640\"".into(),
            Self::FileReadableByOthers => "use mode \"0600\", or \"0640\" and a group in `owner`".into(),
            Self::NotAnOwner(_) => "write `user` or `user:group`, as names or numbers".into(),
            Self::Template(error) => error.remedy().into(),
            Self::TemplateWithoutValue => "put `{{ value }}` where the value belongs".into(),
            Self::ReloadArgumentEmpty(_) => "remove it, or give it a text".into(),
            Self::ReloadProgramRelative(_) => "write it from the root, `/usr/bin/systemctl`".into(),
            Self::ReloadInOnePiece => "write program and arguments apart: [systemctl, reload, nginx]".into(),
            Self::ReloadTemplate => {
                "let the command read the file: everybody on the machine can see its arguments".into()
            }
            Self::ReloadTimeout(_) => "use a time between 1s and 1h".into(),
            Self::GraceTooLong(_) => format!("use at most {LONGEST_GRACE}").into(),
            Self::ByHand(problem) => problem.remedy(),
            Self::ContainmentTooLong(_) => format!("use at most {LONGEST_CONTAINMENT}").into(),
            Self::NameTaken { .. } => "rename one of the two, or use another namespace".into(),
            Self::VerifiedTooOften(_) => {
                format!("use {SHORTEST_VERIFICATION} or more, or 0s for never").into()
            }
            Self::NeverVerified => "give `every` a length, or remove `onRefusal`".into(),
            Self::StorePathTaken { .. } => "give each policy a path of its own".into(),
            Self::UserTaken { .. } => "let one policy rotate the user".into(),
            Self::FileTaken { .. } => "give each consumer a file of its own".into(),
            Self::SecretTaken { .. } => "give each policy a Secret of its own".into(),
            Self::SecretOfTokens(_) => "use `Opaque`, or another type that holds what it is given".into(),
            Self::SecretWithoutKeys => "name one, as in `password: \"{{ value }}\"`".into(),
            Self::NotASecretKey(_) => "rename it".into(),
            Self::SecretWithoutValue => "put `{{ value }}` where the value belongs".into(),
            Self::SecretNameTooLong => "use a shorter name, or leave `immutable` out".into(),
            Self::WorkloadTwice(_) => "name it once".into(),
            Self::JenkinsTaken { .. } => "give each policy a credential of its own".into(),
            Self::PlaceTaken { .. } => "give each policy a place of its own".into(),
            Self::CopyElsewhere(..) => "name a store of that kind".into(),
            Self::CopyWithoutFields => "name one, as in `password: \"{{ value }}\"`".into(),
            Self::CopyWithoutValue => "put `{{ value }}` where the value belongs".into(),
            Self::CopyFieldIsMark(_) => "name another field as `mark`".into(),
            Self::NotAJenkinsUrl => "write `https://host/path`, and the login as `admin`".into(),
            Self::JenkinsWithoutTls(_) => "use https".into(),
            Self::NotAJenkinsName(_) => "write it as Jenkins shows it in its own address".into(),
            Self::NotAJenkinsId(_) => "write the credential's id, not its description".into(),
            Self::LoginOfResource(_) => "put the policy into rekeyd's policy directory".into(),
            Self::FileOfResource | Self::PlaceOfResource(_) => {
                "write to a Secret, or put the policy into rekeyd's policy directory".into()
            }
            Self::ClusterOfResource(_) | Self::NamespaceOfResource(_) => {
                "leave it out, or put the policy there or into rekeyd's policy directory".into()
            }
            Self::CanaryPodOf(_) => {
                "name it under `canary`, so that the others wait until it has moved".into()
            }
            Self::ImmutableByGit => "leave out `immutable` or `restart.gitops`".into(),
            Self::CanaryPodInPlace => "leave it out, or use a strategy with an overlap".into(),
            Self::WorkloadCircle(_) => "let the canary and whoever comes first wait for nobody".into(),
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Self::MaxAgeWithinGrace { .. }
            | Self::UncheckedCertificate(_)
            | Self::AllowPlaintextUnused
            | Self::FileReadableByOthers
            | Self::TemplateWithoutValue
            | Self::SecretWithoutValue
            | Self::CopyWithoutValue
            | Self::ReloadInOnePiece
            | Self::NeverVerified
            | Self::NameLikeArn(_)
            | Self::VersionBudget { .. } => Severity::Warning,
            Self::Schedule(problem) => match problem.severity() {
                schedule::Severity::Warning => Severity::Warning,
                schedule::Severity::Error => Severity::Error,
            },
            _ => Severity::Error,
        }
    }

    /// A template's line can hold anything, and an address a login.
    fn conceals(&self) -> bool {
        matches!(
            self,
            Self::Template(_) | Self::ReloadTemplate | Self::ReloadInOnePiece | Self::NotAJenkinsUrl
        )
    }
}

const fn mode_name(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Disable => "disable",
        TlsMode::Require => "require",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::VerifyFull => "verify-full",
    }
}
