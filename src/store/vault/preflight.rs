//! What a rotation will need of OpenBao or Vault, looked at without changing it.

use vaultrs::api::kv2::requests::ReadConfigurationRequest;
use vaultrs::api::token::requests::LookupTokenSelfRequest;
use zeroize::Zeroize as _;

use super::VaultStore;
use super::system::Health;
use crate::failure::{Finding, Verdict};
use crate::ident::{PolicyName, StorePath};
use crate::store::{Place, Store as _};
use crate::vault::{Call, Effect, NOT_KV2, Trouble};

/// A token that cannot be renewed and ends sooner (seconds) deserves a look.
const SHORT_LIFE: u64 = 24 * 3600;

impl VaultStore {
    /// Stops at the first failure that the rest would only repeat.
    pub(super) async fn look(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        let mut findings = vec![self.look_at_server().await];
        if passed(&findings) {
            findings.push(self.look_at_token().await);
        }
        if passed(&findings) {
            findings.push(self.look_at_mount().await);
        }
        if passed(&findings) {
            findings.extend(self.look_at_rights(place, policy).await);
            findings.extend(self.look_at_lifetime().await);
            findings.push(self.look_at_current(place).await);
        }
        findings
    }

    async fn look_at_server(&self) -> Finding {
        let subject = format!("server of {}", self.label);
        match self.health().await {
            Ok(Health::Active) => Finding::pass(subject, "unsealed and active"),
            // It passes requests on to the active one, or says where that is, which the next look shows.
            Ok(Health::Standby) => Finding::warn(
                subject,
                "a standby: what it answers may be older than the last write",
                "point the address of the store at the active server",
            ),
            Ok(Health::Sealed) => {
                Finding::fail(subject, "the server is sealed", "unseal it with `bao operator unseal`")
            }
            Ok(Health::Uninitialised) => Finding::fail(
                subject,
                "the server is not initialised",
                "initialise it with `bao operator init`",
            ),
            Err(failure) => Finding::from_failure(subject, &failure),
        }
    }

    async fn look_at_token(&self) -> Finding {
        let subject = format!("token for {}", self.label);
        let request = || LookupTokenSelfRequest::builder().build().expect("it has no parts");
        let mut token = match self.session.fetch(request).await {
            Ok(token) => token,
            Err(Trouble::Login(failure)) => return Finding::from_failure(subject, &failure),
            Err(trouble) if trouble.is_forbidden() => {
                return Finding::warn(
                    subject,
                    "it may not look at itself: how long it lives is not known",
                    "grant `read` on `auth/token/lookup-self` in its policy",
                );
            }
            Err(trouble) => {
                let (doing, path) = ("look at the token".into(), "auth/token/lookup-self".into());
                let call = Call { doing, path, needs: "`read`", effect: Effect::Reads };
                return Finding::from_failure(subject, &trouble.into_failure(call));
            }
        };
        token.id.zeroize();
        let renewable = token.renewable.unwrap_or(false);
        match token.ttl {
            _ if token.policies.iter().any(|policy| policy == "root") => Finding::warn(
                subject,
                "a root token: it may do everything",
                "give rekeyd a token with its own policy alone",
            ),
            0 => Finding::pass(subject, "accepted, lives for ever"),
            ttl if !renewable && !self.session.can_log_in() && ttl < SHORT_LIFE => Finding::warn(
                subject,
                format!("accepted, ends in {ttl} s and cannot be renewed"),
                "let an agent replace the file in time, or use AppRole or Kubernetes",
            ),
            ttl if renewable => Finding::pass(subject, format!("accepted, {ttl} s left, renewed in time")),
            ttl => Finding::pass(subject, format!("accepted, {ttl} s left, replaced in time")),
        }
    }

    async fn look_at_mount(&self) -> Finding {
        let subject = format!("mount `{}`", self.mount);
        match self.mount_kind().await {
            Ok(mount) if mount.is_kv2() => Finding::pass(subject, mount.to_string()),
            Ok(mount) => Finding::fail(subject, mount.to_string(), NOT_KV2),
            Err(failure) => Finding::from_failure(subject, &failure),
        }
    }

    async fn look_at_rights(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        let (mount, control) = (&self.mount, &self.control_path);
        let write: &[&str] = &["read", "create", "update"];
        let needed = [
            (format!("{mount}/data/{}", place.path), write),
            (format!("{mount}/data/{}", self.control_entry(policy)), write),
            (format!("{mount}/metadata/{}", self.control_entry(policy)), &["create", "update"]),
            (format!("{mount}/metadata/{control}/"), &["list"]),
            (format!("{mount}/metadata/{control}/{}/", policy.namespace()), &["list"]),
        ];
        self.rights(&needed).await
    }

    /// What a copy needs.
    pub(super) async fn look_at_copy(&self, path: &StorePath) -> Vec<Finding> {
        let mut findings = vec![self.look_at_mount().await];
        if passed(&findings) {
            let path = format!("{}/data/{path}", self.mount);
            findings.extend(self.rights(&[(path, &["read", "create", "update"])]).await);
        }
        findings
    }

    /// Whether the token has the capabilities on the paths.
    async fn rights(&self, needed: &[(String, &[&str])]) -> Vec<Finding> {
        let paths: Vec<String> = needed.iter().map(|(path, _)| path.clone()).collect();
        let granted = match self.session.capabilities(&self.label, &paths).await {
            Ok(granted) => granted,
            Err(failure) => {
                return vec![Finding::warn(
                    format!("rights at {}", self.label),
                    format!("they cannot be looked at: {}", failure.reason()),
                    "grant `update` on `sys/capabilities-self` in the policy of rekeyd's token",
                )];
            }
        };
        let has = |path: &str, wanted: &str| {
            granted.get(path).is_some_and(|held| held.iter().any(|held| held == wanted || held == "root"))
        };
        let look = |(path, wanted): &(String, &[&str])| {
            let missing: Vec<_> =
                wanted.iter().copied().filter(|capability| !has(path, capability)).collect();
            if missing.is_empty() {
                return Finding::pass(path, format!("granted: {}", wanted.join(", ")));
            }
            let missing = missing.join("`, `");
            Finding::fail(
                path,
                format!("the token lacks `{missing}`"),
                format!("grant `{missing}` on `{path}` in the policy of rekeyd's token"),
            )
        };
        needed.iter().map(look).collect()
    }

    /// A mount can be told to delete every version after a time: control documents and values in force
    /// too.
    async fn look_at_lifetime(&self) -> Option<Finding> {
        let subject = format!("configuration of mount `{}`", self.mount);
        let request =
            || ReadConfigurationRequest::builder().mount(&self.mount).build().expect("the mount is set");
        match self.session.fetch(request).await {
            Ok(configuration) if configuration.delete_version_after == "0s" => {
                Some(Finding::pass(subject, "versions are kept until they are replaced"))
            }
            Ok(configuration) => Some(Finding::fail(
                subject,
                format!("every value is deleted after {}", configuration.delete_version_after),
                format!(
                    "run `bao write {}/config delete_version_after=0s`, or use another mount",
                    self.mount
                ),
            )),
            // Not needed for anything else, so not asked for.
            Err(trouble) if trouble.is_forbidden() => None,
            Err(trouble) => {
                let (doing, path) = ("look at the mount".into(), format!("{}/config", self.mount));
                let call = Call { doing, path, needs: "`read`", effect: Effect::Reads };
                Some(Finding::from_failure(subject, &trouble.into_failure(call)))
            }
        }
    }

    async fn look_at_current(&self, place: Place<'_>) -> Finding {
        let subject = format!("{}/{}", self.mount, place.path);
        match self.current(place).await {
            Ok(Some(_)) => Finding::pass(subject, "there is a current credential"),
            Ok(None) => Finding::pass(subject, "empty: the first rotation fills it"),
            Err(failure) => Finding::from_failure(subject, &failure),
        }
    }
}

fn passed(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Fail)
}
