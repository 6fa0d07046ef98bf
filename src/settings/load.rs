//! From `rekeyd.yaml` to [`Settings`], or everything that is wrong with it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Settings;
use super::validate::{Breach, Rule, breaches};
use crate::policy::diagnostic::{Diagnostic, Problem, Source};
use crate::policy::node::{Node, chunks};
use crate::policy::shape::{FieldPath, shape};

/// Where the settings are when nothing else is said.
const DEFAULT: &str = "/etc/rekeyd/rekeyd.yaml";

/// The settings file to read: the flag's, else that of `REKEYD_CONFIG`, else `/etc/rekeyd/rekeyd.yaml`.
///
/// Never one in the working directory by itself: whoever could place a file there would name the socket
/// that commands go to, and the stores and admins that a daemon uses.
#[must_use]
pub fn locate(flag: Option<PathBuf>) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]
    let variable = std::env::var_os("REKEYD_CONFIG");
    choose(flag, variable)
}

/// Reads and checks the settings; relative paths become absolute, from the file's folder.
///
/// # Errors
/// Everything that is wrong with the file; none of it is a warning.
pub fn load(path: &Path) -> Result<Settings, Vec<Diagnostic>> {
    review(path).into_result()
}

/// Like [`load`], for whoever wants to look at more than the file: what it holds with stand-ins for what is
/// wrong.
#[must_use]
pub fn review(path: &Path) -> Reviewed {
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(diagnostic) => return Reviewed::unread(*diagnostic),
    };
    // It fails for an empty path and without a working directory, and the file was just read.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    check(&source, absolute.parent().unwrap_or(Path::new("/")))
}

/// A settings file that may have mistakes.
#[derive(Debug)]
pub struct Reviewed {
    /// Not to be used for anything but looking at policies, if there are diagnostics.
    pub settings: Option<Settings>,
    /// Whether `policies` is what its author wrote.
    pub names_directory: bool,
    pub diagnostics: Vec<Diagnostic>,
}

impl Reviewed {
    fn unread(diagnostic: Diagnostic) -> Self {
        Self { settings: None, names_directory: false, diagnostics: vec![diagnostic] }
    }

    fn into_result(self) -> Result<Settings, Vec<Diagnostic>> {
        match self.settings {
            Some(settings) if self.diagnostics.is_empty() => Ok(settings),
            _ => Err(self.diagnostics),
        }
    }
}

/// Like [`load`], from a text; `name` stands for it in diagnostics and `folder` is where it would be.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Settings, Vec<Diagnostic>> {
    check(&Source::new(name, text.to_owned()), folder).into_result()
}

fn choose(flag: Option<PathBuf>, variable: Option<OsString>) -> PathBuf {
    let variable = variable.filter(|path| !path.is_empty()).map(PathBuf::from);
    flag.or(variable).unwrap_or_else(|| DEFAULT.into())
}

fn check(source: &Source, folder: &Path) -> Reviewed {
    let whole = |problem| Reviewed::unread(Diagnostic::of_file(source.name(), &problem));
    let mut documents = Vec::new();
    for chunk in chunks(source.text()) {
        match chunk.parse() {
            Ok(root) => documents.extend(root),
            Err(error) => return Reviewed::unread(source.diagnose_syntax(&error)),
        }
    }
    let mut root = match documents.pop() {
        None => return whole(FileProblem::Empty),
        Some(_) if !documents.is_empty() => return whole(FileProblem::SeveralDocuments),
        Some(root) => root,
    };

    let mut faults = Vec::new();
    let (settings, doubtful) = shape::<Settings>(&mut root, &mut faults);
    let mut diagnostics: Vec<Diagnostic> =
        faults.iter().map(|fault| source.diagnose(fault.site, &fault.path, &fault.reason)).collect();
    let settings = settings.map(|settings| settings.resolved(folder));
    for breach in settings.iter().flat_map(breaches).filter(|breach| !may_follow(breach, &doubtful, &root)) {
        diagnostics.push(source.diagnose(breach.path.locate(&root), &breach.path, &breach.rule));
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.position);
    let policies = FieldPath::from(["policies"]);
    let names_directory = !doubtful.iter().any(|fault| fault.touches(&policies));
    Reviewed { settings, names_directory, diagnostics }
}

/// Whether a breach may only come from a fault elsewhere: in the same place or beside it, or in the store
/// that it names.
fn may_follow(breach: &Breach, doubtful: &[FieldPath], root: &Node) -> bool {
    let stores = FieldPath::from(["stores"]);
    let names_store = matches!(breach.rule, Rule::UnknownStore { .. });
    let lost_store = || stores.has_lost(root) || doubtful.contains(&stores);
    let beside = |fault: &FieldPath| {
        let holder = fault.parent().unwrap_or_default();
        Some(&holder) == breach.path.parent().as_ref()
            || (holder.depth() > 1 && breach.path.is_within(&holder))
    };
    (names_store && lost_store()) || doubtful.iter().any(|fault| breach.path.touches(fault) || beside(fault))
}

/// What is wrong with the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum FileProblem {
    #[error("holds no settings")]
    Empty,
    #[error("holds more than one document")]
    SeveralDocuments,
}

impl Problem for FileProblem {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Empty => "see deploy/rekeyd.yaml for an example",
            Self::SeveralDocuments => "keep one; policies belong into the policy directory",
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_comes_before_the_variable_and_the_variable_before_the_default() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(choose(path("a"), Some("b".into())), PathBuf::from("a"));
        assert_eq!(choose(None, Some("b".into())), PathBuf::from("b"));
        assert_eq!(choose(None, Some("".into())), PathBuf::from(DEFAULT));
        assert_eq!(choose(None, None), PathBuf::from(DEFAULT));
    }
}
