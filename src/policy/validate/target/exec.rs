//! The rules of a target that is a program of others.

use std::borrow::Cow;
use std::path::{Component, PathBuf};

use super::{Breaches, Rule, admin_rules, field};
use crate::ident::DnsLabel;
use crate::policy::diagnostic::Problem;
use crate::policy::spec::{ExecSpec, ExecStrategy, Interval, TargetSpec};
use crate::settings::Settings;

/// The longest time that one call may take.
const LONGEST: Interval = Interval::from_duration(std::time::Duration::from_secs(600));

/// How a policy may not use a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProgramUse {
    #[error("`{}` is not an absolute path without `..`", .0.display())]
    NotAPath(PathBuf),
    #[error("the settings name no directory of plug-ins, so none is run")]
    NoDirectory,
    #[error("`{}` is not below the directory of plug-ins, `{}`", .program.display(), .directory.display())]
    Elsewhere { program: PathBuf, directory: PathBuf },
    #[error("the settings do not let plug-ins be handed the credential `{0}`")]
    AdminElsewhere(DnsLabel),
    #[error("a call may take up to {LONGEST}, and this says {0}")]
    Timeout(Interval),
    #[error("a system may settle for up to {LONGEST}, and this says {0}")]
    Settling(Interval),
    #[error("a policy in a cluster does not run programs of rekeyd's machine")]
    OfResource,
}

impl ProgramUse {
    pub(in crate::policy::validate) const fn rests_on_settings(&self) -> bool {
        matches!(self, Self::NoDirectory | Self::Elsewhere { .. } | Self::AdminElsewhere(_))
    }
}

impl Problem for ProgramUse {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::NotAPath(_) => "write it from the root, `/usr/lib/rekeyd/plugins/example`",
            Self::NoDirectory => "name it as `plugins.directory` in the settings",
            Self::Elsewhere { .. } => "have the program put there",
            Self::AdminElsewhere(_) => "have it added to `plugins.credentials` in the settings",
            Self::Timeout(_) => "use a time between 1s and 10m",
            Self::Settling(_) => "use a time of at most 10m",
            Self::OfResource => "put the policy into rekeyd's policy directory",
        }
        .into()
    }
}

pub(super) fn rules(exec: &ExecSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "exec"]);
    let at_program = at.join("program");
    let program = &exec.program;
    let is_plain = program.is_absolute()
        && program.file_name().is_some()
        && program.components().all(|part| part != Component::ParentDir);
    let text = program.to_string_lossy();
    if text.chars().any(char::is_control) {
        found.add(at_program, Rule::ControlCharacter);
    } else if !is_plain || text.ends_with('/') {
        found.add(at_program, Rule::Program(ProgramUse::NotAPath(program.clone())));
    } else {
        // Whoever writes policies chooses the program: the settings have to say where that may be.
        match &settings.plugins {
            None => found.add(at_program, Rule::Program(ProgramUse::NoDirectory)),
            Some(plugins) if !exec.is_within(&plugins.directory) => {
                let (program, directory) = (program.clone(), plugins.directory.clone());
                found.add(at_program, Rule::Program(ProgramUse::Elsewhere { program, directory }));
            }
            Some(_) => {}
        }
    }
    for (index, argument) in exec.arguments.iter().enumerate() {
        if argument.chars().any(char::is_control) {
            found.add(at.join("arguments").join(index), Rule::ControlCharacter);
        }
    }
    if exec.timeout < Interval::from_duration(std::time::Duration::from_secs(1)) || exec.timeout > LONGEST {
        found.add(at.join("timeout"), Rule::Program(ProgramUse::Timeout(exec.timeout)));
    }
    if exec.settling > LONGEST {
        found.add(at.join("settling"), Rule::Program(ProgramUse::Settling(exec.settling)));
    }
    let user = exec.admin.as_ref().and_then(|admin| {
        let user = admin_rules(&at.join("admin"), admin, [], settings, found);
        // What it does with one, and where it goes with it, nobody knows but the program.
        let is_for_plugins =
            settings.plugins.as_ref().is_none_or(|plugins| plugins.credentials.contains(admin));
        if settings.credentials.contains_key(admin) && !is_for_plugins {
            found.add(at.join("admin"), Rule::Program(ProgramUse::AdminElsewhere(admin.clone())));
        }
        user.map(|user| (user, admin))
    });
    let at = at.join("strategy");
    let principals = match &exec.strategy {
        ExecStrategy::Alternating(pair) => {
            let at = at.join("alternating").join("users");
            if pair.users[0] == pair.users[1] {
                found.add(at.join(1), Rule::UsersEqual(pair.users[1].clone()));
            }
            vec![(at.join(0), &pair.users[0]), (at.join(1), &pair.users[1])]
        }
        ExecStrategy::DualPassword(one) => vec![(at.join("dualPassword").join("user"), &one.user)],
        ExecStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), &one.user)],
        // Whoever makes keys may have keys.
        ExecStrategy::DualKey(_) | ExecStrategy::Reissued(_) => Vec::new(),
    };
    for (at, principal) in principals {
        if let Some((user, admin)) = user
            && user == principal
        {
            found.add(at, Rule::UserIsAdmin { user: user.clone(), admin: admin.clone() });
        }
    }
}

/// Whoever may write resources of a namespace has rights there, and none on rekeyd's machine.
pub(in crate::policy::validate) fn confined(target: &TargetSpec, found: &mut Breaches) {
    if let TargetSpec::Exec(_) = target {
        found.add(field(["spec", "target", "exec"]), Rule::Program(ProgramUse::OfResource));
    }
}
