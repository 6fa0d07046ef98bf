//! From `rekeyd.yaml` to [`Settings`], or everything that is wrong with it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Settings;
use super::validate::{Breach, Rule, breaches};
use crate::policy::diagnostic::{Diagnostic, Problem, Source};
use crate::policy::node::{Node, chunks};
use crate::policy::shape::{Fault, FieldPath, shape};

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
    let source = Source::read(path).map_err(|diagnostic| vec![*diagnostic])?;
    // It fails for an empty path and without a working directory, and the file was just read.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    check(&source, absolute.parent().unwrap_or(Path::new("/")))
}

/// Like [`load`], from a text; `name` stands for it in diagnostics and `folder` is where it would be.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Settings, Vec<Diagnostic>> {
    check(&Source::new(name, text.to_owned()), folder)
}

fn choose(flag: Option<PathBuf>, variable: Option<OsString>) -> PathBuf {
    let variable = variable.filter(|path| !path.is_empty()).map(PathBuf::from);
    flag.or(variable).unwrap_or_else(|| DEFAULT.into())
}

fn check(source: &Source, folder: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let whole = |problem| vec![Diagnostic::of_file(source.name(), &problem)];
    let mut documents = Vec::new();
    for chunk in chunks(source.text()) {
        match chunk.parse() {
            Ok(root) => documents.extend(root),
            Err(error) => return Err(vec![source.diagnose_syntax(&error)]),
        }
    }
    let mut root = match documents.pop() {
        None => return Err(whole(FileProblem::Empty)),
        Some(_) if !documents.is_empty() => return Err(whole(FileProblem::SeveralDocuments)),
        Some(root) => root,
    };

    let mut faults = Vec::new();
    let settings = shape::<Settings>(&mut root, &mut faults);
    let mut diagnostics: Vec<Diagnostic> =
        faults.iter().map(|fault| source.diagnose(fault.site, &fault.path, &fault.reason)).collect();
    let settings = settings.map(|settings| settings.resolved(folder));
    for breach in settings.iter().flat_map(breaches).filter(|breach| !follows(breach, &faults, &root)) {
        diagnostics.push(source.diagnose(breach.path.locate(&root), &breach.path, &breach.rule));
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.position);
    match settings {
        Some(settings) if diagnostics.is_empty() => Ok(settings),
        _ => Err(diagnostics),
    }
}

/// Whether a breach may only come from what was dropped: a field beside it, or the store that it names.
fn follows(breach: &Breach, faults: &[Fault], root: &Node) -> bool {
    let names_store = matches!(breach.rule, Rule::UnknownStore { .. });
    (names_store && FieldPath::from(["stores"]).has_lost(root))
        || faults.iter().any(|fault| fault.path.parent() == breach.path.parent())
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
