//! A folder with all that one rekeyd needs: settings, policies, an embedded store, a ledger.

use std::fs;
use std::path::{Path, PathBuf};

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::policy::load::{Loaded, parse_policies};
use rekeyd::settings::{self, Settings};
use rekeyd::store::embedded::EmbeddedStore;

use super::Outcome;

/// The role that rekeyd logs in as at databases.
pub(crate) const ADMIN: &str = "rekeyd";

/// Policies are in files alone.
#[allow(dead_code, reason = "not every benchmark has only those")]
pub(crate) const IN_FILES: &str = "policies: {directory: policies}\n";

pub(crate) struct Site {
    folder: PathBuf,
    pub(crate) settings: Settings,
}

impl Site {
    /// Makes a new one in `folder`, in place of an earlier one. `admin` is the file with the password of
    /// the databases' admin.
    /// `places` are lines of the settings that say where policies are, and clusters.
    pub(crate) fn make(folder: &Path, admin: &Path, places: &str) -> Outcome<Self> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder.join("policies"))?;
        EmbeddedStore::generate_key_file(&folder.join("store.key"))?;
        let (place, admin) = (folder.display(), admin.display());
        // Where a login hands the value over it may go to servers of this machine alone; those of clusters are elsewhere.
        let hosts = if places == IN_FILES { ", hosts: [127.0.0.1]" } else { "" };
        let text = format!(
            "{places}\
             stores: {{main: {{embedded: {{path: store.db, key: {{file: store.key}}}}}}}}\n\
             credentials: {{admin: {{file: {{username: {ADMIN}, path: {admin}{hosts}}}}}}}\n\
             ledger: {{path: ledger.git}}\n\
             socket: {place}/rekeyd.sock\n"
        );
        fs::write(folder.join("rekeyd.yaml"), &text)?;
        let settings = settings::load(&folder.join("rekeyd.yaml")).map_err(|problems| said(&problems))?;
        Ok(Self { folder: folder.to_owned(), settings })
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("rekeyd.yaml")
    }

    /// Replaces a file of policies, and gives what it holds.
    pub(crate) fn write_policies(&self, file: &str, text: &str) -> Outcome<Loaded> {
        let loaded = parse_policies(file, text, &self.settings, SystemClock.now());
        if loaded.has_errors() {
            return Err(said(&loaded.diagnostics).into());
        }
        let policies = self.settings.policies.directory.as_ref().expect("a directory");
        let draft = policies.join(format!(".{file}"));
        fs::write(&draft, text)?;
        fs::rename(draft, policies.join(file))?;
        Ok(loaded)
    }
}

fn said(problems: &[impl ToString]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
