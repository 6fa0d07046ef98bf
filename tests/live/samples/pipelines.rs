//! Readers that are places of pipelines, on stubs of GitHub Actions and of GitLab.

use rekeyd::secret::Credential;
use serde_json::{Value, json};

use super::sample::Sample;
use crate::postgres_support::credential_of;
use crate::providers_support::Stub;
use crate::providers_support::github_actions::{ENVIRONMENT, GitHubActions, REPOSITORY, Sites};
use crate::providers_support::gitlab_variables::{GitLabVariables, Variables};

const ADMIN: &str = "the-admins-value";

/// Where a sample's pipelines are.
pub(super) struct Pipelines {
    stub: Stub,
    kept: Kept,
}

enum Kept {
    GitHub(Sites),
    GitLab(Variables),
}

impl Sample {
    pub(super) async fn place_pipeline(&mut self, reader: &mut Value) {
        let is_github = reader["recipe"].as_str().expect("a recipe").starts_with("github-");
        if self.pipelines.is_none() {
            let (stub, kept) = if is_github {
                let (github, sites) = GitHubActions::new(ADMIN);
                (Stub::start(github).await, Kept::GitHub(sites))
            } else {
                let variables = Variables::default();
                let gitlab = GitLabVariables { admin: ADMIN.into(), variables: variables.clone() };
                (Stub::start(gitlab).await, Kept::GitLab(variables))
            };
            self.at.change_settings(|settings| settings["outbound"] = json!({"privateHosts": ["127.0.0.1"]}));
            let admin = credential_of(&"admin".parse().expect("a principal"), ADMIN);
            self.admin(reader["admin"].as_str().expect("a name"), &admin, "127.0.0.1");
            self.pipelines = Some(Pipelines { stub, kept });
        }
        let address = self.pipelines.as_ref().expect("it runs").stub.address;
        reader["base"] = json!(format!("http://{address}"));
        reader.as_object_mut().expect("an object").remove("caFile");
        if is_github {
            // The repository that the stub has.
            (reader["parameters"]["owner"], reader["parameters"]["repository"]) =
                (json!("acme"), json!("orders"));
        }
    }

    /// Asserts that a place has the credential, in the form that the sample asks for, under the mark in force.
    pub(super) fn pipeline_has(&self, reader: &Value, credential: &Credential) {
        let wanted = self.filled(reader["content"].as_str().unwrap_or("{{ value }}"), credential);
        let said = |name: &str| reader["parameters"][name].as_str().map(ToOwned::to_owned);
        match &self.pipelines.as_ref().expect("it runs").kept {
            Kept::GitHub(sites) => {
                let sites = sites.lock().expect("no panic");
                let site = &sites[if said("environment").is_some() { ENVIRONMENT } else { REPOSITORY }];
                let name = said("name").expect("a name");
                assert_eq!(site.secrets[&name].value, wanted.as_bytes());
                let mark = site.variables[&format!("{name}_REKEYD")]["value"].as_str().expect("a mark");
                assert!(mark.contains(&self.mark()), "{mark}");
            }
            Kept::GitLab(variables) => {
                let variables = variables.lock().expect("no panic");
                let scope = said("scope").unwrap_or_else(|| "*".into());
                let variable = &variables[&(said("key").expect("a key"), scope)];
                assert_eq!(variable["value"], wanted);
                assert_eq!(variable["description"], self.mark());
            }
        }
    }
}
