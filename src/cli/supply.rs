//! `rekeyd supply`: hands over a key that a person made.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::adopt::read_value;
use super::output::{self, Format, GOOD};
use super::session::{self, Local};
use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, Principal};
use crate::secret::{Credential, SecretValue};

pub(super) async fn run(config: Option<PathBuf>, policy: PolicyName, principal: Principal) -> ExitCode {
    let settings = match session::settings(config, Format::Text) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let doing = format!("take key {principal} for {policy}");
    let value = match asked(&doing, &policy) {
        Ok(value) => value,
        Err(failure) => return output::refused(&failure, Format::Text),
    };
    // A running daemon is no hindrance: the run document is the lock between the two.
    let local = Local::start(&settings).await;
    let supplied = local.service.supply(&policy, Credential::new(principal.clone(), value)).await;
    local.finish().await;
    if let Err(failure) = supplied {
        return output::refused(&failure, Format::Text);
    }
    let told = format!("key {principal} is the candidate of {policy}");
    // So that it goes on now; by itself it looks within a minute.
    let goes_on = match session::daemon(&settings).await {
        Ok(Some(daemon)) => {
            let _ = daemon.attend(&policy).await;
            "the daemon goes on with it".to_owned()
        }
        _ => format!("go on with it: rekeyd resume {policy}"),
    };
    output::line(format_args!("{GOOD}taken{GOOD:#}: {told}; {goes_on}"));
    ExitCode::SUCCESS
}

/// The value, which a terminal does not show.
fn asked(doing: &str, policy: &PolicyName) -> Result<SecretValue, Failure> {
    if !std::io::stdin().is_terminal() {
        return read_value(doing);
    }
    let typed =
        dialoguer::Password::new().with_prompt(format!("New key for {policy} (not shown)")).interact();
    let mut typed = Zeroizing::new(typed.map_err(|_| {
        Failure::new(FailureClass::Invalid, doing, "the terminal cannot be asked")
            .with_remedy("pipe the value into standard input")
    })?);
    let length = typed.trim_end().len();
    typed.truncate(length);
    if typed.is_empty() {
        let failure = Failure::new(FailureClass::Invalid, doing, "nothing was typed");
        return Err(failure.with_remedy("type the value, or pipe it into standard input"));
    }
    Ok(SecretValue::new(std::mem::take(&mut *typed).into_bytes()))
}
