//! `rekeyd check`: is every document valid?

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::output::{self, Format, GOOD};
use super::session;
use crate::clock::{Clock as _, SystemClock};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::load::{load_policies, review_policies};
use crate::settings::{self, Reviewed};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    valid: bool,
    policies: usize,
    diagnostics: &'a [Diagnostic],
}

pub(super) fn run(config: Option<PathBuf>, format: Format) -> ExitCode {
    let Reviewed { settings, names_directory, mut diagnostics } = settings::review(&settings::locate(config));
    let settings = settings.filter(|_| names_directory);
    let policies = settings.as_ref().map(|settings| {
        let (directory, now) = (settings.policies.directory.as_deref(), SystemClock.now());
        let loaded = if diagnostics.is_empty() {
            load_policies(directory, &[], settings, now)
        } else {
            review_policies(directory, settings, now)
        };
        diagnostics.extend(loaded.diagnostics);
        loaded.policies.len()
    });
    let unchecked = policies.is_none();
    let policies = policies.unwrap_or_default();
    let errors = diagnostics.iter().filter(|each| each.is_error()).count();
    let valid = errors == 0;
    match format {
        Format::Json => output::json(&Answer { valid, policies, diagnostics: &diagnostics }),
        Format::Text => {
            session::print_diagnostics(&diagnostics);
            if valid {
                output::line(format_args!(
                    "{GOOD}valid{GOOD:#}: {policies} {}",
                    output::plural(policies, "policy", "policies")
                ));
            } else {
                let warnings = diagnostics.len() - errors;
                output::line(format_args!(
                    "{errors} {}, {warnings} {}; {policies} valid {}",
                    output::plural(errors, "error", "errors"),
                    output::plural(warnings, "warning", "warnings"),
                    output::plural(policies, "policy", "policies"),
                ));
                if unchecked {
                    output::line("no policy was looked at: the settings do not say where they are");
                }
            }
        }
    }
    if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
