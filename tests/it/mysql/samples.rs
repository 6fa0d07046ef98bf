//! The shipped binary rotates what the samples for MySQL 8 say.

use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::mysql::{accepts, kept};
use serde_json::json;

use super::{ADMIN, PASSWORD};
use crate::mysql8::{Account, Mysql8};
use crate::sample_site::{Admin, Site};

struct Scene {
    server: Mysql8,
    site: Site,
}

impl Scene {
    async fn new(sample: &str, users: &[&str], roles: &[&str]) -> Self {
        let server = Mysql8::start(ADMIN, PASSWORD);
        let socket = server.socket.display().to_string();
        let admin = Admin { name: "billing-admin", user: ADMIN, password: PASSWORD, host: &socket };
        let site = Site::new(sample, admin, |target| {
            target["endpoint"] = json!({"host": socket, "tls": {"mode": "disable"}});
            target["accountHost"] = json!("%");
        });
        let site = site.await;
        let plugin = "caching_sha2_password".to_owned();
        let primary = kept(&plugin, &ValueSpec::default().generate());
        let closed = Account { plugin, primary, locked: true, ..Account::default() };
        for user in users {
            server.state.tables().accounts.insert(((*user).into(), "%".into()), closed.clone());
        }
        for role in roles {
            server.state.tables().accounts.insert(((*role).into(), "%".into()), Account::default());
        }
        Self { server, site }
    }

    fn account(&self, user: &str) -> Account {
        self.server.state.tables().accounts[&(user.to_owned(), "%".to_owned())].clone()
    }

    /// Whether the account is open, and which of its passwords it is.
    fn takes(&self, credential: &Credential) -> [bool; 2] {
        let account = self.account(credential.principal.as_str());
        let is = |kept: &[u8]| !account.locked && accepts(&account.plugin, kept, &credential.value);
        [is(&account.primary), account.secondary.as_deref().is_some_and(is)]
    }

    /// First a value, then another, then a leak: each is the one password that there is, and the one before is none.
    async fn lives(&self) {
        self.site.does("preflight").await;
        self.site.does("rotate").await;
        assert_eq!(self.takes(&self.site.delivered()), [true, false]);
        for command in ["rotate", "contain"] {
            let outgoing = self.site.delivered();
            let said = self.site.does(command).await;
            assert!(said.contains("old value refused"), "{said}");
            assert_eq!(self.takes(&outgoing), [false; 2], "{command}");
            let current = self.site.delivered();
            assert_eq!(self.takes(&current), [true, false], "{command}");
            assert_eq!(self.account(current.principal.as_str()).plugin, "caching_sha2_password");
        }
        self.site.does("preflight").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_has_a_second_password_meanwhile() {
    let scene = Scene::new("mysql8-dual-password.yaml", &["invoices"], &[]).await;
    scene.lives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_accounts_take_turns() {
    let scene = Scene::new("mysql8-alternating.yaml", &[], &["payments_app"]).await;
    scene.lives().await;
    let [a, b] = ["payments_a", "payments_b"].map(|user| scene.account(user));
    assert_eq!(a.default_roles, b.default_roles);
    assert!(a.grants == b.grants && !a.grants.is_empty(), "{a:?}");
}
