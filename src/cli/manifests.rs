//! `rekeyd rbac`, `rekeyd placeholders` and `rekeyd iam-policy`: what the policies need in a cluster, in its Git
//! repository, and at AWS.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::output::{self, Format};
use super::session;
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::kubernetes::placeholders::{self, Placeholders};
use crate::kubernetes::rights::{self, Account};
use crate::policy::load::Loaded;
use crate::settings::Settings;
use crate::store::aws::rights as iam;

/// The rights that the policies need.
pub(super) async fn rbac(
    config: Option<PathBuf>,
    policies: Option<PathBuf>,
    cluster: &DnsLabel,
    account: &Account,
) -> ExitCode {
    match load(config, policies).await {
        Ok((settings, loaded)) => print(&rights::manifests(&settings, &loaded.policies, cluster, account)),
        Err(code) => code,
    }
}

/// The Secrets as Git may hold them.
pub(super) async fn placeholders(
    config: Option<PathBuf>,
    policies: Option<PathBuf>,
    cluster: &DnsLabel,
) -> ExitCode {
    let (_, loaded) = match load(config, policies).await {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let Placeholders { manifests, left_out } = placeholders::manifests(&loaded.policies, cluster);
    for (secret, kind) in left_out {
        output::remark(format_args!(
            "Secret {secret} is left out: an API server takes none of type {kind} without its keys"
        ));
    }
    print(&manifests)
}

/// The rights that the policies need at AWS Secrets Manager. Those of the policies of one store: a role is of one
/// account.
pub(super) async fn iam_policy(
    config: Option<PathBuf>,
    policies: Option<PathBuf>,
    store: Option<DnsLabel>,
) -> ExitCode {
    let (settings, loaded) = match load(config, policies).await {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let refuse = |reason: String, remedy: &'static str| {
        let failure = Failure::new(FailureClass::Invalid, "write the policy of IAM", reason);
        output::refused(&failure.with_remedy(remedy), Format::Text)
    };
    let mut there = settings.stores.iter().filter(|(_, store)| store.version_budget().is_some());
    let store = match (store, there.next(), there.next()) {
        (Some(store), _, _) => store,
        (None, Some((only, _)), None) => only.clone(),
        (None, Some(_), Some(_)) => {
            return refuse("the settings have several stores there".into(), "name one with `--store`");
        }
        (None, None, _) => {
            return refuse(iam::NoRights::NotThere.to_string(), iam::NoRights::NotThere.remedy());
        }
    };
    match iam::policy(&settings, &loaded.policies, &store) {
        Ok(policy) => {
            let length = iam::length(&policy);
            if length > iam::LONGEST {
                output::remark(format_args!(
                    "it has {length} characters, and IAM takes {} in a role: give the statements to several roles, or a path of their own to these policies' secrets",
                    iam::LONGEST
                ));
            }
            output::json(&policy);
            ExitCode::SUCCESS
        }
        Err(problem) => refuse(problem.to_string(), problem.remedy()),
    }
}

/// The settings and the policies. They are written before rekeyd runs anywhere: those may be of a checkout.
async fn load(config: Option<PathBuf>, policies: Option<PathBuf>) -> Result<(Settings, Loaded), ExitCode> {
    let mut settings = session::settings(config, Format::Text)?;
    if let Some(policies) = policies {
        settings.policies.directory = Some(policies);
    }
    let loaded = match session::policies(&settings).await {
        Ok(loaded) => loaded,
        Err(failure) if settings.policies.directory.is_none() => {
            return Err(output::refused(&failure, Format::Text));
        }
        Err(failure) => {
            output::remark(format_args!("{failure}: only the policies of the directory count"));
            session::files(&settings)
        }
    };
    if loaded.has_errors() {
        session::print_diagnostics(&loaded.diagnostics);
        return Err(ExitCode::FAILURE);
    }
    Ok((settings, loaded))
}

fn print(manifests: &[Value]) -> ExitCode {
    for manifest in manifests {
        match serde_saphyr::to_string(manifest) {
            Ok(text) => output::line(format_args!("---\n{}", text.trim_end())),
            Err(error) => {
                let failure = Failure::new(FailureClass::Invalid, "write the manifests", error);
                return output::refused(&failure, Format::Text);
            }
        }
    }
    ExitCode::SUCCESS
}
