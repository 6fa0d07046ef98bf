//! `rekeyd rbac`: the rights that the policies need in a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Format};
use super::session;
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::kubernetes::rights::{Account, manifests};

pub(super) async fn run(
    config: Option<PathBuf>,
    policies: Option<PathBuf>,
    cluster: &DnsLabel,
    account: &Account,
) -> ExitCode {
    let mut settings = match session::settings(config, Format::Text) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    // Written before rekeyd runs anywhere: the policies may be those of a checkout.
    if let Some(policies) = policies {
        settings.policies.directory = Some(policies);
    }
    let loaded = match session::policies(&settings).await {
        Ok(loaded) => loaded,
        Err(failure) if settings.policies.directory.is_none() => {
            return output::refused(&failure, Format::Text);
        }
        Err(failure) => {
            output::remark(format_args!("{failure}: only the policies of the directory count"));
            session::files(&settings)
        }
    };
    if loaded.has_errors() {
        session::print_diagnostics(&loaded.diagnostics);
        return ExitCode::FAILURE;
    }
    let manifests = manifests(&settings, &loaded.policies, cluster, account);
    let failed = |error: &dyn std::fmt::Display| {
        let failure = Failure::new(FailureClass::Invalid, "write the manifests", error);
        output::refused(&failure, Format::Text)
    };
    for manifest in &manifests {
        match serde_saphyr::to_string(manifest) {
            Ok(text) => output::line(format_args!("---\n{}", text.trim_end())),
            Err(error) => return failed(&error),
        }
    }
    ExitCode::SUCCESS
}
