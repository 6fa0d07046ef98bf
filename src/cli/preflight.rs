//! `rekeyd preflight`: would a rotation work?

use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::Cell;
use serde::Serialize;

use super::output::{self, Format};
use super::session::{self, Local};
use crate::failure::{Finding, Verdict};
use crate::ident::PolicyName;
use crate::ledger::GitLedger;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    passed: bool,
    ledger: Vec<Finding>,
    policies: Vec<PolicyFindings>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyFindings {
    policy: PolicyName,
    findings: Vec<Finding>,
}

pub(super) async fn run(config: Option<PathBuf>, only: Option<PolicyName>, format: Format) -> ExitCode {
    let settings = match session::settings(config, format) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let local = Local::start(&settings).await;
    let names = match only {
        Some(name) => vec![name],
        None => local.service.catalog().policies().map(|policy| policy.name().clone()).collect(),
    };
    let ledger = GitLedger::preflight(&settings.ledger).await;
    let mut policies = Vec::with_capacity(names.len());
    for policy in names {
        match local.service.policy(&policy) {
            Ok(found) => {
                policies.push(PolicyFindings { policy, findings: local.wiring().preflight(&found).await })
            }
            Err(failure) => return output::refused(&failure, format),
        }
    }
    let all = || ledger.iter().chain(policies.iter().flat_map(|each| &each.findings));
    let passed = all().all(|finding| finding.verdict != Verdict::Fail);
    match format {
        Format::Json => output::json(&Answer { passed, ledger, policies }),
        Format::Text => {
            print("ledger", &ledger);
            for each in &policies {
                print(&each.policy.to_string(), &each.findings);
            }
        }
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(title: &str, findings: &[Finding]) {
    let mut table = output::table(&["", "what", "found"]);
    for finding in findings {
        let (subject, detail) = (Cell::new(&finding.subject), Cell::new(&finding.detail));
        table.add_row([output::verdict(finding.verdict), subject, detail]);
        if let Some(remedy) = &finding.remedy {
            table.add_row([String::new(), String::new(), format!("-> {remedy}")]);
        }
    }
    output::line(format_args!("{title}\n{table}\n"));
}
