//! The readers of a sample, and what they show.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rekeyd::secret::Credential;
use serde_json::{Value, json};

use super::sample::Sample;
use super::variants::only;
use crate::installation::read;
use crate::jenkins::{Jenkins, TOKEN, USER};
use crate::postgres_support::{credential_of, text};

impl Sample {
    /// Gives each reader of a policy a place of the test's own.
    pub(super) async fn place_readers(&mut self, policy: &mut Value) {
        let namespace = policy["metadata"]["namespace"].clone();
        let consumers = policy["spec"]["consumers"].as_array_mut().expect("consumers");
        for (index, consumer) in consumers.iter_mut().enumerate() {
            match only(consumer).0.as_str() {
                "file" => self.place_file(index, &mut consumer["file"]),
                "kubernetes" => {
                    let reader = &mut consumer["kubernetes"];
                    assert!(reader["namespace"].is_string() || namespace.is_string());
                    let cluster = reader["cluster"].as_str().unwrap_or("main").to_owned();
                    reader["namespace"] = json!(self.space(&cluster).await.name);
                    reader["workloads"]["settle"] = json!("0s");
                }
                "jenkins" => self.place_jenkins(&mut consumer["jenkins"]).await,
                "http" => self.place_pipeline(&mut consumer["http"]).await,
                // With the stores.
                "vault" | "awsSecretsManager" => {}
                other => panic!("{other}: say here where the test has it"),
            }
        }
    }

    fn place_file(&self, index: usize, file: &mut Value) {
        let path = file["path"].as_str().expect("a path").trim_start_matches('/').to_owned();
        let path = self.at.path(&path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        file["path"] = json!(path);
        if let Some(owner) = file["owner"].as_str() {
            file["owner"] = json!(if owner.contains(':') { "root:root" } else { "root" });
        }
        if file["reload"].is_array() {
            file["reload"] = json!(["touch", self.at.path(&reloaded(index))]);
        }
    }

    async fn place_jenkins(&mut self, reader: &mut Value) {
        if self.jenkins.is_none() {
            let jenkins = Jenkins::start().await;
            jenkins.make_domain(&domain(reader));
            let admin = credential_of(&USER.parse().expect("a principal"), TOKEN);
            self.admin(reader["admin"].as_str().expect("a name"), &admin, "127.0.0.1");
            self.jenkins = Some(jenkins);
        }
        reader["url"] = json!(self.jenkins.as_ref().expect("it runs").url());
        reader.as_object_mut().expect("an object").remove("caFile");
    }

    /// Asserts that every reader has the credential, of the version in force, in the form that the sample asks for.
    pub(super) async fn readers_have(&self, credential: &Credential) {
        let document = self.document();
        let (mut space, mut copies) = (0, 0);
        for (index, consumer) in
            document["spec"]["consumers"].as_array().expect("consumers").iter().enumerate()
        {
            let (kind, reader) = only(consumer);
            match kind.as_str() {
                "file" => {
                    let path: std::path::PathBuf = reader["path"].as_str().expect("a path").into();
                    let content = reader["content"].as_str().expect("a template");
                    assert_eq!(read(&path), self.filled(content, credential), "{}", path.display());
                    let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().expect("a file"));
                    let wanted = reader["mode"].as_str().unwrap_or("0600");
                    assert_eq!(format!("{:04o}", mode & 0o7777), wanted, "{}", path.display());
                    if reader["reload"].is_array() {
                        let mark = self.at.path(&reloaded(index));
                        std::fs::remove_file(mark).expect("its reader was told");
                    }
                }
                "kubernetes" => {
                    let name = reader["secret"].as_str().expect("a name");
                    let secret = self.spaces[space].read(&format!("secret/{name}")).await;
                    space += 1;
                    let annotation = &secret["metadata"]["annotations"]["rekeyd.dev/version"];
                    assert_eq!(annotation.as_str(), Some(&*self.version.to_string()));
                    assert_eq!(secret["type"], *reader["type"].as_str().unwrap_or("Opaque"));
                    let shown = |key: &str| decoded(secret["data"][key].as_str());
                    self.fields_are(reader, credential, shown);
                }
                "jenkins" => {
                    let id = reader["id"].as_str().expect("an id");
                    let kept = self.jenkins.as_ref().expect("it runs").kept(&domain(reader), id);
                    let kept = kept.expect("a credential");
                    assert_eq!(kept.field("description"), Some(&*self.mark()));
                    let (kind, of) = only(&reader["credential"]);
                    let content = || self.filled(of["content"].as_str().expect("a template"), credential);
                    match kind.as_str() {
                        "usernamePassword" => {
                            assert_eq!(kept.field("username"), Some(credential.principal.as_str()));
                            assert_eq!(kept.field("password"), Some(text(credential)));
                        }
                        "secretText" => assert_eq!(kept.field("secret"), Some(&*content())),
                        _ => {
                            assert_eq!(kept.field("fileName"), of["name"].as_str());
                            assert_eq!(decoded(kept.field("secretBytes")), Some(content()));
                        }
                    }
                }
                "http" => self.pipeline_has(reader, credential),
                "vault" => {
                    let bao = self.bao.as_ref().expect("it runs");
                    let path = reader["path"].as_str().expect("a path");
                    let path = format!("{}/data/{path}", bao.theirs[copies].name);
                    copies += 1;
                    let copy = bao.server.make("GET", &path, json!({}));
                    self.copy_is(reader, credential, &copy["data"]["data"]);
                }
                "awsSecretsManager" => {
                    let account = self.aws.as_ref().expect("it runs");
                    let copy = account.value(reader["name"].as_str().expect("a name"), "AWSCURRENT");
                    self.copy_is(reader, credential, &copy);
                }
                other => panic!("{other}: say here how the test sees what it has"),
            }
        }
    }

    fn copy_is(&self, reader: &Value, credential: &Credential, copy: &Value) {
        assert_eq!(copy["rekeyd"].as_str(), Some(&*self.mark()));
        self.fields_are(reader, credential, |field| copy[field].as_str().map(ToOwned::to_owned));
    }

    /// Each field that a reader asks for holds what its template says.
    fn fields_are(&self, reader: &Value, credential: &Credential, shown: impl Fn(&str) -> Option<String>) {
        let usual = json!({"username": "{{ principal }}", "password": "{{ value }}"});
        let fields = reader["data"].as_object().or(usual.as_object()).expect("fields");
        for (field, template) in fields {
            let wanted = self.filled(template.as_str().expect("a template"), credential);
            assert_eq!(shown(field), Some(wanted), "{field}");
        }
    }

    pub(super) fn mark(&self) -> String {
        format!("[rekeyd policy={} version={}]", self.policy, self.version)
    }

    /// A template with a credential in it, by plain replacement.
    pub(super) fn filled(&self, template: &str, credential: &Credential) -> String {
        let mut filled = template
            .replace("{{ principal }}", credential.principal.as_str())
            .replace("{{ value }}", text(credential))
            .replace("{{ version }}", &self.version.to_string());
        for (name, part) in &credential.parts {
            let part = part.expose_str().expect("text");
            filled = filled.replace(&format!("{{{{ parts.{name} }}}}"), part);
        }
        assert!(!filled.contains("{{"), "the test does not know all names of `{template}`");
        filled
    }
}

fn reloaded(index: usize) -> String {
    format!("reloaded-{index}")
}

fn decoded(text: Option<&str>) -> Option<String> {
    let bytes = STANDARD.decode(text?).expect("base64");
    Some(String::from_utf8(bytes).expect("text"))
}

/// Where the stub of Jenkins keeps the credentials of a folder's store.
fn domain(reader: &Value) -> String {
    let folders = reader["folder"].as_str().expect("a folder").split('/');
    let path: String = folders.map(|folder| format!("job/{folder}/")).collect();
    format!("{path}credentials/store/folder/domain/_")
}
