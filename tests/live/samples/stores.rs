//! The stores of the sample settings: a mount and a login at OpenBao with the documented rights, and an account of moto.

use rekeyd::secret::Credential;
use rekeyd::settings::StoreSettings;
use serde_json::{Value, json};

use super::sample::Sample;
use crate::moto::Account;
use crate::openbao::{Mount, Policy, Server, unique};
use crate::postgres_support::text;
use crate::site::write_secret;

/// The store `bao`.
pub(super) struct Bao {
    pub(super) server: Server,
    pub(super) mount: Mount,
    /// Those of other teams, which have copies.
    pub(super) theirs: Vec<Mount>,
    _policy: Policy,
    login: String,
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.server.call("DELETE", &format!("sys/auth/{}", self.login), json!({}));
    }
}

impl Sample {
    /// Puts the stores behind the settings that a policy keeps values or copies in.
    pub(super) fn place_stores(&mut self, policy: &mut Value) {
        let has = |policy: &Value, store: &str, consumer: &str| {
            let consumers = policy["spec"]["consumers"].as_array().expect("consumers");
            policy["spec"]["store"]["name"] == store
                || consumers.iter().any(|one| one[consumer]["store"] == store)
        };
        if has(policy, "bao", "vault") {
            self.bao = Some(self.place_openbao(policy));
        }
        // What makes access keys needs a moto that checks them.
        let has_keys = !policy["spec"]["target"]["awsIam"].is_null();
        if has(policy, "aws", "awsSecretsManager") && !has_keys {
            self.aws = Some(self.place_aws());
        }
    }

    fn place_openbao(&self, policy: &mut Value) -> Bao {
        let server = Server::shared();
        let mount = server.mount(2);
        let rights = include_str!("../../../deploy/openbao/rekeyd.hcl");
        let mut rights = rights.replace("path \"secret/", &format!("path \"{}/", mount.name));
        let mut theirs = Vec::new();
        for consumer in policy["spec"]["consumers"].as_array_mut().expect("consumers") {
            if let Some(copy) = consumer.get_mut("vault") {
                let other = server.mount(2);
                let path = copy["path"].as_str().expect("a path");
                // As `rekeyd.hcl` says that it is needed for each copy.
                rights += &format!(
                    "path \"{}/data/{path}\" {{ capabilities = [\"create\", \"read\", \"update\"] }}\n",
                    other.name
                );
                copy["mount"] = json!(other.name);
                theirs.push(other);
            }
        }
        let (policy, login) = (server.policy(&rights), unique("login"));
        server.make("POST", &format!("sys/auth/{login}"), json!({"type": "approle"}));
        let role = format!("auth/{login}/role/rekeyd");
        let body = json!({"token_policies": [policy.name], "token_no_default_policy": true});
        server.make("POST", &role, body);
        let role_id = server.make("GET", &format!("{role}/role-id"), json!({}));
        let secret_id = server.make("POST", &format!("{role}/secret-id"), json!({}));
        let text = |answer: &Value, field: &str| answer["data"][field].as_str().expect("an id").to_owned();
        write_secret(&self.at.path("role-id"), &text(&role_id, "role_id"));
        write_secret(&self.at.path("secret-id"), &text(&secret_id, "secret_id"));
        self.at.change_settings(|settings| {
            let vault = &mut settings["stores"]["bao"]["vault"];
            vault["address"] = json!(server.address);
            vault["mount"] = json!(mount.name);
            vault["auth"]["appRole"] =
                json!({"mount": login, "roleIdFile": "role-id", "secretIdFile": "secret-id"});
            // It speaks no TLS.
            vault.as_object_mut().expect("an object").remove("caFile");
        });
        Bao { server, mount, theirs, _policy: policy, login }
    }

    fn place_aws(&self) -> Account {
        let account = Account::new();
        self.at.change_settings(|settings| {
            let place = StoreSettings::AwsSecretsManager(account.settings());
            let mut place = serde_json::to_value(place).expect("JSON");
            let aws = settings["stores"]["aws"]["awsSecretsManager"].as_object_mut().expect("a store");
            aws.append(place["awsSecretsManager"].as_object_mut().expect("a store"));
        });
        account
    }

    /// Puts a credential into a store, as a person does.
    pub(super) fn keep(&self, store: &str, path: &str, credential: &Credential) {
        let data = json!({"username": credential.principal.as_str(), "password": text(credential)});
        match store {
            "bao" => {
                let Bao { server, mount, .. } = self.bao.as_ref().expect("the sample uses OpenBao");
                server.make("POST", &format!("{}/data/{path}", mount.name), json!({"data": data}));
            }
            "aws" => {
                let account = self.aws.as_ref().expect("the sample uses AWS");
                let body = json!({
                    "Name": path, "SecretString": data.to_string(),
                    "ClientRequestToken": rekeyd::ident::RotationId::generate().to_string(),
                });
                account.call("CreateSecret", &body);
            }
            other => panic!("no admin credential is kept in {other}"),
        }
    }
}
