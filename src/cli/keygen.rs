//! `rekeyd keygen`: a new sealing key.

use std::path::Path;
use std::process::ExitCode;

use super::output::{self, Format, GOOD};
use crate::store::embedded::EmbeddedStore;

pub(super) fn run(file: &Path) -> ExitCode {
    match EmbeddedStore::generate_key_file(file) {
        Ok(()) => {
            output::line(format_args!(
                "{GOOD}written{GOOD:#}: {} (keep a copy: without it the store cannot be read)",
                file.display()
            ));
            ExitCode::SUCCESS
        }
        Err(failure) => output::refused(&failure, Format::Text),
    }
}
