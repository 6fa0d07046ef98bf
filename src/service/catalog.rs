//! The policies in force, and what is wrong with the documents that were refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ident::PolicyName;
use crate::policy::Policy;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::load::Loaded;

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

    /// What was read now, over what was in force. A policy whose file has errors now and which that file
    /// no longer yields stays as it was: a slip in an editor must not stop its rotations.
    #[must_use]
    pub fn updated(&self, loaded: Loaded) -> Self {
        let mut catalog = Self::new(loaded);
        for (name, policy) in &self.policies {
            let broken = catalog.diagnostics.iter().any(|each| each.is_error() && each.file == policy.file());
            if broken && !catalog.policies.contains_key(name) {
                catalog.policies.insert(name.clone(), Arc::clone(policy));
                catalog.kept.push(name.clone());
            }
        }
        catalog
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
