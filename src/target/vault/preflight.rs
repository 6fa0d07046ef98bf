//! Looks at everything a rotation will need, and changes nothing but what a login does.

use super::{VaultTarget, derived, secret_id, token};
use crate::failure::{Failure, Finding};
use crate::ident::Principal;
use crate::policy::spec::{DerivedTokens, SecretIdSpec, TokenSpec, VaultStrategy};
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, ProbeDepth, Target as _, trial};

/// A path of the API and what has to be allowed on it.
type Right = (String, &'static [&'static str]);

pub(super) async fn preflight(target: &VaultTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let mut findings = match &target.spec.strategy {
        VaultStrategy::SecretId(secret) => look_at_role(target, secret).await,
        VaultStrategy::Token(token) => look_at_token_role(target, token).await,
    };
    findings.push(look_at_rights(target).await);
    let owner = target.spec.owner();
    findings.push(match target.keys(owner).await {
        Ok(keys) => Finding::pass("keys", format!("{owner} has {}", keys.len())),
        Err(failure) => Finding::from_failure("keys", &failure),
    });
    // Before the one in force: a login that succeeds makes the server forget that another was refused.
    let wrong = wrong(request.current.map_or(owner, |current| &current.principal));
    let probe = target.probe(&wrong, ProbeDepth::Login).await;
    findings.push(trial::of_wrong(&probe, "the server", "look at the role"));
    if let Some(current) = request.current {
        let probe = target.probe(current, ProbeDepth::Login).await;
        let remedy = "make one there and bring it in with `rekeyd adopt`";
        findings.push(trial::of_current(&probe, &current.principal, "the server", remedy));
    }
    findings
}

fn wrong(principal: &Principal) -> Credential {
    Credential::new(principal.clone(), ValueSpec::default().generate())
}

async fn look_at_role(target: &VaultTarget, spec: &SecretIdSpec) -> Vec<Finding> {
    let subject = format!("role {}", spec.role);
    let role = match secret_id::role(target, spec).await {
        Ok(role) => role,
        Err(failure) => return vec![Finding::from_failure(subject, &failure)],
    };
    if let Some((reason, remedy)) = secret_id::unfit(&role) {
        return vec![Finding::fail(subject, reason, remedy)];
    }
    let mut findings = Vec::new();
    if role.secret_id_bound_cidrs.is_some_and(|cidrs| !cidrs.is_empty()) {
        findings.push(Finding::warn(
            subject.clone(),
            "its secret ids are bound to addresses, and rekeyd logs in with each of them once",
            "make sure that rekeyd's address is among `secret_id_bound_cidrs`",
        ));
    }
    if spec.tokens == DerivedTokens::Expire {
        findings.push(Finding::warn(
            subject.clone(),
            "tokens that were got with a secret id live on when it is destroyed",
            "use `tokens: revoke`, or keep `token_max_ttl` of the role short",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::pass(subject, "its secret ids can be rotated"));
    }
    findings
}

async fn look_at_token_role(target: &VaultTarget, spec: &TokenSpec) -> Vec<Finding> {
    let Some(name) = &spec.role else { return Vec::new() };
    let subject = format!("token role {name}");
    vec![match token::role(target, name).await {
        Ok(role) => match token::unfit(spec, &role) {
            Some((reason, remedy)) => Finding::fail(subject, reason, remedy),
            None => Finding::pass(subject, "its tokens can be rotated"),
        },
        Err(failure) => Finding::from_failure(subject, &failure),
    }]
}

async fn look_at_rights(target: &VaultTarget) -> Finding {
    let subject = "rights";
    let needed = needed(target);
    let paths: Vec<String> = needed.iter().map(|(path, _)| path.clone()).collect();
    let granted = match target.session.capabilities(target.session.label(), &paths).await {
        Ok(granted) => granted,
        Err(failure) => return may_not_look(subject, &failure),
    };
    let has = |path: &str, right: &str| {
        granted.get(path).is_some_and(|rights| rights.iter().any(|one| one == right || one == "root"))
    };
    let lacking: Vec<String> = needed
        .iter()
        .filter(|(path, rights)| !rights.iter().all(|right| has(path, right)))
        .map(|(path, rights)| format!("{} on `{path}`", rights.join(" and ")))
        .collect();
    if lacking.is_empty() {
        return Finding::pass(subject, "everything that a rotation needs");
    }
    let detail = format!("rekeyd's token lacks {}", lacking.join(", "));
    Finding::fail(subject, detail, "grant them in the policy of rekeyd's token")
}

fn may_not_look(subject: &str, failure: &Failure) -> Finding {
    Finding::warn(
        subject,
        failure.reason(),
        "grant `update` on `sys/capabilities-self` in the policy of rekeyd's token",
    )
}

fn needed(target: &VaultTarget) -> Vec<Right> {
    const UPDATE: &[&str] = &["update"];
    const READ: &[&str] = &["read"];
    let by_accessor = |rights: &mut Vec<Right>| {
        rights.push((derived::ACCESSORS.into(), &["list", "sudo"]));
        rights.push((derived::LOOKUP.into(), UPDATE));
        rights.push((derived::REVOKE.into(), UPDATE));
    };
    let mut rights = Vec::new();
    match &target.spec.strategy {
        VaultStrategy::SecretId(secret) => {
            rights.push((secret.path(""), READ));
            rights.push((secret.path("/role-id"), READ));
            rights.push((secret.path("/secret-id"), &["update", "list"]));
            rights.push((secret.path("/secret-id-accessor/lookup"), UPDATE));
            rights.push((secret.path("/secret-id-accessor/destroy"), UPDATE));
            if secret.tokens == DerivedTokens::Revoke {
                rights.push((derived::logins_path(secret.mount.as_str()), &["list", "sudo"]));
                by_accessor(&mut rights);
            }
        }
        VaultStrategy::Token(token) => {
            by_accessor(&mut rights);
            rights.push(("auth/token/lookup".into(), UPDATE));
            match &token.role {
                Some(role) => {
                    rights.push((format!("auth/token/roles/{role}"), READ));
                    // A period of the policy's own is for those who may do everything there.
                    let needed = if token.period.is_some() { &["update", "sudo"] } else { UPDATE };
                    rights.push((format!("auth/token/create/{role}"), needed));
                }
                None => rights.push(("auth/token/create-orphan".into(), &["update", "sudo"])),
            }
        }
    }
    rights
}
