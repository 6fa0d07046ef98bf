//! The policies in force, and what is wrong with the documents that were refused.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::ident::PolicyName;
use crate::policy::Policy;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::load::Loaded;
use crate::policy::validate::conflict::{Claim, claims};
use crate::settings::Settings;

/// The policies in force.
#[derive(Debug, Default)]
pub struct Catalog {
    policies: BTreeMap<PolicyName, Arc<Policy>>,
    diagnostics: Vec<Diagnostic>,
    /// Names of policies whose documents are broken now and that stay in force as they were.
    kept: Vec<PolicyName>,
}

impl Catalog {
    /// What was read, in force as it is.
    #[must_use]
    pub fn new(loaded: Loaded) -> Self {
        let policies =
            loaded.policies.into_iter().map(|policy| (policy.name().clone(), Arc::new(policy))).collect();
        Self { policies, diagnostics: loaded.diagnostics, kept: Vec::new() }
    }

    /// What was read now, over what was in force. A slip in an editor must not stop rotations, and a stray
    /// copy of a file must not stop a containment: a policy stays as it was when its file or the folder of it
    /// has errors and no longer yields it, and when another one claims what it has.
    #[must_use]
    pub fn updated(&self, loaded: Loaded, settings: &Settings) -> Self {
        let disputed = loaded.disputed.clone();
        let mut catalog = Self::new(loaded);
        for (name, policy) in &self.policies {
            let broken = catalog
                .diagnostics
                .iter()
                .any(|each| each.is_error() && Path::new(policy.file()).starts_with(Path::new(&each.file)));
            if (broken || disputed.contains(name)) && !catalog.policies.contains_key(name) {
                catalog.policies.insert(name.clone(), Arc::clone(policy));
                catalog.kept.push(name.clone());
            }
        }
        catalog.settle(self, settings);
        catalog
    }

    /// Refuses what claims the same as a policy that was kept: it was not compared with that one.
    fn settle(&mut self, before: &Self, settings: &Settings) {
        let claimed = |policy: &Policy| {
            let claims = claims(policy.name(), policy.spec(), settings);
            claims.into_iter().map(|(_, claim)| claim).filter(|claim| !matches!(claim, Claim::Name(_)))
        };
        let mut held: HashMap<Claim, PolicyName> = HashMap::new();
        for name in &self.kept {
            held.extend(claimed(&self.policies[name]).map(|claim| (claim, name.clone())));
        }
        if held.is_empty() {
            return;
        }
        let fresh: Vec<_> =
            self.policies.values().filter(|p| !self.kept.contains(p.name())).cloned().collect();
        for policy in fresh {
            let Some((claim, holder)) = claimed(&policy).find_map(|claim| held.get_key_value(&claim)) else {
                continue;
            };
            let rule = claim.taken(holder, self.policies[holder].source().to_owned());
            self.diagnostics.push(Diagnostic::of_file(policy.file(), &rule));
            match before.policies.get(policy.name()) {
                Some(earlier) => {
                    self.policies.insert(policy.name().clone(), Arc::clone(earlier));
                    self.kept.push(policy.name().clone());
                }
                None => {
                    self.policies.remove(policy.name());
                }
            }
        }
    }

    #[must_use]
    pub fn policy(&self, name: &PolicyName) -> Option<Arc<Policy>> {
        self.policies.get(name).cloned()
    }

    /// All policies in force, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Policies that stay in force as they were because their documents are broken now.
    #[must_use]
    pub fn kept(&self) -> &[PolicyName] {
        &self.kept
    }
}
