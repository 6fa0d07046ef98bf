//! The command line: parses, asks the daemon or does the work here, prints, and answers with an exit code.
//!
//! 0 done, 1 failed or invalid, 2 usage, 3 in doubt.

mod adopt;
mod audit;
mod check;
mod init;
mod keygen;
mod manifests;
mod operate;
mod output;
mod plan;
mod preflight;
mod privacy;
mod recipe;
mod session;
mod status;
mod supply;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use self::output::Format;
use crate::daemon;
use crate::ident::{DnsLabel, PartName, PolicyName, Principal, RequestId};
use crate::kubernetes::rights::Account;
use crate::policy::spec::Interval;
use crate::rotation::decision::Decision;
use crate::service::Action;
use crate::telemetry::{LogFormat, parse_filter, start_logging};

/// Rotates database credentials and API keys, proves the old ones dead, and records it in Git.
#[derive(Debug, Parser)]
#[command(name = "rekeyd", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// The settings file [default: $REKEYD_CONFIG, then /etc/rekeyd/rekeyd.yaml]
    #[arg(short, long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// What is logged, in the syntax of `tracing`: `info`, `rekeyd=debug` [default: info for `run`, warn otherwise]
    #[arg(long, global = true, value_name = "FILTER", value_parser = parse_filter)]
    log: Option<String>,
    /// How log lines look [default: pretty on a terminal, json otherwise]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

const EXAMPLES: &str = "\
Examples:
  rekeyd init                         write the first settings and policy
  rekeyd check                        is every policy valid?
  rekeyd preflight orders/orders-db   would a rotation work? changes nothing
  rekeyd rotate orders/orders-db      rotate now
  rekeyd contain orders/orders-db     it leaked: nothing old survives
  rekeyd run                          rotate by schedule, answer the socket

Exit codes: 0 done, 1 failed or invalid, 2 usage, 3 in doubt.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Parse and validate the settings and all policies
    #[command(
        after_help = "Examples:\n  rekeyd check\n  rekeyd check -o json | jq -r '.diagnostics[].message'"
    )]
    Check {
        #[command(flatten)]
        output: Output,
    },
    /// Look at everything a rotation will need; changes nothing
    #[command(after_help = "Examples:\n  rekeyd preflight\n  rekeyd preflight orders/orders-db -o json")]
    Preflight {
        /// Only this policy
        policy: Option<PolicyName>,
        #[command(flatten)]
        output: Output,
    },
    /// Show the coming rotations, in local time and in each policy's zone
    #[command(after_help = "Examples:\n  rekeyd plan\n  rekeyd plan --days 90 orders/orders-db")]
    Plan {
        /// Only this policy
        policy: Option<PolicyName>,
        /// How far ahead to look
        #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=3660))]
        days: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Rotate a policy's credential now
    #[command(
        after_help = "Examples:\n  rekeyd rotate orders/orders-db\n  rekeyd rotate orders/orders-db --reason 'CHG-1042' --request chg-1042"
    )]
    Rotate {
        #[command(flatten)]
        operation: Operation,
    },
    /// Contain a leak: a new credential in force, the old one refused, its sessions closed
    #[command(
        after_help = "Examples:\n  rekeyd contain orders/orders-db --reason 'found in a public repository'"
    )]
    Contain {
        #[command(flatten)]
        operation: Operation,
    },
    /// Take a live credential over without changing it; the value is read from standard input
    #[command(
        after_help = "Examples:\n  rekeyd adopt orders/orders-db --principal orders_app_a < value.txt\n  rekeyd adopt orders/orders-db --from-store"
    )]
    Adopt {
        /// As `namespace/name`
        policy: PolicyName,
        /// Whose value it is [default: the policy's only user]
        #[arg(long)]
        principal: Option<Principal>,
        /// Take the value that the store's path holds, instead of standard input
        #[arg(long)]
        from_store: bool,
        /// A further part of the value and the file that holds it: `refreshToken=/run/token`. As often as there are parts.
        #[arg(long, value_name = "NAME=FILE", value_parser = part, conflicts_with = "from_store")]
        part: Vec<(PartName, PathBuf)>,
        /// Adopt although a value is managed already: the live one was changed by hand
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Hand over a key that a person made, to the rotation that waits for it
    #[command(
        after_help = "The value is asked for without showing it, or read from standard input.\n\nExamples:\n  rekeyd supply search/cohere-key --principal production-2026-11\n  rekeyd supply search/cohere-key --principal production-2026-11 < key.txt"
    )]
    Supply {
        /// As `namespace/name`
        policy: PolicyName,
        /// The key's public id or name, as the provider shows it
        #[arg(long)]
        principal: Principal,
    },
    /// Run the daemon
    #[command(
        after_help = "Examples:\n  rekeyd run\n  rekeyd run --config rekeyd.yaml --log rekeyd=debug\n\nSignals: SIGTERM and SIGINT stop it after the running steps; SIGHUP reads the policies again."
    )]
    Run,
    /// Show where policies stand
    #[command(after_help = "Examples:\n  rekeyd status\n  rekeyd status orders/orders-db -o json")]
    Status {
        /// Only this policy
        policy: Option<PolicyName>,
        #[command(flatten)]
        output: Output,
    },
    /// Finish an open rotation, or give its candidate up while that is possible
    #[command(
        after_help = "Examples:\n  rekeyd resume orders/orders-db\n  rekeyd resume orders/orders-db --abandon\n  rekeyd resume orders/orders-db --keep-current"
    )]
    Resume {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        operation: Operation,
    },
    /// Read and check the ledger
    #[command(subcommand, after_help = "Examples:\n  rekeyd audit log --since 30d\n  rekeyd audit verify")]
    Audit(audit::Audit),
    /// Print the rights that the policies need in a Kubernetes cluster, as manifests
    #[command(
        after_help = "Examples:\n  rekeyd rbac > rbac.yaml\n  rekeyd rbac --policies policies --service-account rekeyd/rekeyd | kubectl apply -f -"
    )]
    Rbac {
        /// Also those of this directory; instead of the settings'
        #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
        policies: Option<PathBuf>,
        /// The cluster, by its name in the settings
        #[arg(long, default_value = "main", value_name = "NAME")]
        cluster: DnsLabel,
        /// Who gets the rights, as `namespace/name`
        #[arg(long, default_value = "rekeyd/rekeyd", value_name = "ACCOUNT", value_parser = account)]
        service_account: Account,
    },
    /// Print the Secrets that the policies write as a GitOps repository may hold them, without a value
    #[command(
        after_help = "Examples:\n  rekeyd placeholders > secrets.yaml\n  rekeyd placeholders --policies policies --cluster staging"
    )]
    Placeholders {
        /// Also those of this directory; instead of the settings'
        #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
        policies: Option<PathBuf>,
        /// The cluster, by its name in the settings
        #[arg(long, default_value = "main", value_name = "NAME")]
        cluster: DnsLabel,
    },
    /// Print the rights that the policies need at AWS Secrets Manager, as a policy of IAM
    #[command(
        after_help = "Examples:\n  rekeyd iam-policy > iam-policy.json\n  rekeyd iam-policy --policies policies --store aws"
    )]
    IamPolicy {
        /// Also those of this directory; instead of the settings'
        #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
        policies: Option<PathBuf>,
        /// The store, by its name in the settings [default: the only one there]
        #[arg(long, value_name = "NAME")]
        store: Option<DnsLabel>,
    },
    /// See and try the recipes by which keys of HTTP APIs are rotated
    #[command(
        subcommand,
        after_help = "Examples:\n  rekeyd recipe list\n  rekeyd recipe show gitlab-token > policies/recipes/mine.yaml\n  rekeyd recipe test policies/recipes/mine.yaml\n  rekeyd recipe try shop/mail-api"
    )]
    Recipe(recipe::Command),
    /// Write the first settings and the first policy: asks for what no flag says, and never for a value
    #[command(
        after_help = "Examples:\n  rekeyd init\n  rekeyd init --yes --target postgres --host db.example.com --database orders --users orders_a,orders_b --member-of orders_app --admin-user rekeyd --consumer file:/run/orders/db.env"
    )]
    Init(Box<init::Flags>),
    /// Write a new sealing key for an embedded store; never overwrites
    #[command(after_help = "Examples:\n  rekeyd keygen /etc/rekeyd/store.key")]
    Keygen {
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print a shell's completions
    #[command(after_help = "Examples:\n  rekeyd completions bash > /etc/bash_completion.d/rekeyd")]
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
struct Output {
    /// How the answer looks
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What is decided about an open rotation.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Choice {
    /// Give the candidate up; possible before the point of no return
    #[arg(long)]
    abandon: bool,
    /// In doubt: keep what the store holds; the target has to accept it
    #[arg(long)]
    keep_current: bool,
    /// In doubt: go on with the candidate; the target has to accept it
    #[arg(long)]
    use_candidate: bool,
    /// In doubt: set the candidate once more, at the target and in the store
    #[arg(long)]
    set_both: bool,
}

impl Choice {
    fn decision(&self) -> Decision {
        match self {
            Self { abandon: true, .. } => Decision::Abandon,
            Self { keep_current: true, .. } => Decision::KeepCurrent,
            Self { use_candidate: true, .. } => Decision::UseCandidate,
            Self { set_both: true, .. } => Decision::SetBoth,
            _ => Decision::GoOn,
        }
    }
}

#[derive(Debug, Args)]
struct Operation {
    /// As `namespace/name`
    policy: PolicyName,
    /// Why; stands in the record
    #[arg(long)]
    reason: Option<String>,
    /// Names the request: the same one never rotates twice
    #[arg(long, value_name = "ID")]
    request: Option<RequestId>,
    /// How long failing steps are tried again before the rotation is left open
    #[arg(long, default_value = "1m", value_name = "TIME")]
    patience: Interval,
    /// How progress looks [default: live on a terminal, JSON lines otherwise]
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

fn account(text: &str) -> Result<Account, String> {
    let parsed = text.split_once('/').and_then(|(namespace, name)| {
        Some(Account { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
    });
    parsed.ok_or_else(|| "write it as namespace/name, for example rekeyd/rekeyd".to_owned())
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    privacy::keep_to_itself();
    let arguments = Arguments::parse();
    let daemon = matches!(arguments.command, Command::Run);
    let colour = output::stderr_takes_colour();
    let format = arguments.global.log_format.unwrap_or(if colour || !daemon {
        LogFormat::Pretty
    } else {
        LogFormat::Json
    });
    let filter = arguments.global.log.as_deref().unwrap_or(if daemon { "info" } else { "warn" });
    start_logging(format, filter, colour);
    // Linked once for all of TLS; refused only when a second one is installed, which nothing here does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::failure(&format!("cannot start: {}", error.kind()), None);
            return ExitCode::FAILURE;
        }
    };
    // A rotation is told by how it ended, whoever reads the answer.
    let rotates = matches!(
        arguments.command,
        Command::Rotate { .. } | Command::Contain { .. } | Command::Resume { .. } | Command::Adopt { .. }
    );
    let code = runtime.block_on(dispatch(arguments));
    #[cfg(feature = "proving")]
    runtime.block_on(crate::proving::disturbance::settle());
    // Nothing that may not be dropped runs any more, and a disk that hangs must not keep the process.
    runtime.shutdown_background();
    if output::is_lost() && !rotates { ExitCode::FAILURE } else { code }
}

async fn dispatch(Arguments { global, command }: Arguments) -> ExitCode {
    match command {
        Command::Check { output } => check::run(global.config, output.output),
        Command::Preflight { policy, output } => preflight::run(global.config, policy, output.output).await,
        Command::Plan { policy, days, output } => plan::run(global.config, policy, days, output.output).await,
        Command::Rotate { operation } => operate::run(global.config, Action::Rotate, operation).await,
        Command::Contain { operation } => operate::run(global.config, Action::Contain, operation).await,
        Command::Resume { choice, operation } => {
            operate::run(global.config, Action::Resume { decision: choice.decision() }, operation).await
        }
        Command::Adopt { policy, principal, part: parts, from_store, replace, output } => {
            let adoption = adopt::Adoption { policy, principal, from_store, replace, parts };
            adopt::run(global.config, adoption, output.output).await
        }
        Command::Supply { policy, principal } => supply::run(global.config, policy, principal).await,
        Command::Status { policy, output } => status::run(global.config, policy, output.output).await,
        Command::Audit(audit) => audit::run(global.config, audit).await,
        Command::Rbac { policies, cluster, service_account } => {
            manifests::rbac(global.config, policies, &cluster, &service_account).await
        }
        Command::Placeholders { policies, cluster } => {
            manifests::placeholders(global.config, policies, &cluster).await
        }
        Command::IamPolicy { policies, store } => manifests::iam_policy(global.config, policies, store).await,
        Command::Recipe(command) => recipe::run(global.config, command).await,
        Command::Init(flags) => init::run(global.config.as_deref(), *flags),
        Command::Keygen { file } => keygen::run(&file),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "rekeyd", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            ExitCode::SUCCESS
        }
        Command::Run => {
            let settings = match session::settings(global.config, Format::Text) {
                Ok(settings) => settings,
                Err(code) => return code,
            };
            match daemon::run(settings).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => output::refused(&failure, Format::Text),
            }
        }
    }
}

/// `NAME=FILE`.
fn part(text: &str) -> Result<(PartName, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=FILE, the file that holds the part")?;
    if file.is_empty() {
        return Err("name the file that holds the part".into());
    }
    Ok((name.parse().map_err(|error: crate::ident::NameError| error.to_string())?, file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
