//! rekeyd's account at a cluster, with the rights that it asks for and no others.

use serde_json::json;

use crate::kubernetes::{Cluster, Namespace};
use crate::site::*;

/// An account of the test's own in its namespace, whose token the site uses from now on.
pub(crate) struct Account<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) space: &'a Namespace,
    pub(crate) site: &'a Site,
    pub(crate) token: String,
}

impl<'a> Account<'a> {
    pub(crate) async fn make(cluster: &'a Cluster, space: &'a Namespace, site: &'a Site) -> Self {
        space.kubectl(&["create", "serviceaccount", "rekeyd"]).await;
        let token = space.kubectl(&["create", "token", "rekeyd", "--duration=1h"]).await;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rekeyd",
            "clusters": [{"name": "c", "cluster": {
                "server": cluster.server, "certificate-authority": cluster.ca_file,
            }}],
            "users": [{"name": "rekeyd", "user": {"token": token.trim()}}],
            "contexts": [{"name": "rekeyd", "context": {"cluster": "c", "user": "rekeyd"}}],
        });
        let path = site.at.path("rekeyd.kubeconfig");
        write_secret(&path, &kubeconfig.to_string());
        site.at.change_settings(|settings| {
            settings["clusters"] = json!({"main": {"kubeconfig": {"path": path}}});
        });
        Self { cluster, space, site, token: token.trim().to_owned() }
    }

    /// What `rekeyd rbac` says that the policies need.
    pub(crate) async fn allow(&self) {
        let account = format!("{}/rekeyd", self.space.name);
        let rights = self.site.at.run(&["rbac", "--service-account", &account]).await.ended(0).stdout;
        let path = self.site.at.path("rights.yaml");
        std::fs::write(&path, rights).expect("written");
        self.cluster.kubectl(&["apply", "-f", path.to_str().expect("a path")], "").await;
    }
}
