//! What the requests know that write a value into a place, and read what is there.

use std::collections::BTreeMap;

use minijinja::Value;

use super::{RenderProblem, Rendered, TEXT, fill, logins, map, secret};
use crate::ident::{PolicyName, Principal, Version};
use crate::recipe::{Parameters, Request};
use crate::secret::{Credential, SecretValue};

/// What the templates of a place are filled with.
#[derive(Debug, Clone, Copy)]
pub struct PlaceContext<'a> {
    pub parameters: &'a Parameters,
    pub admin: Option<&'a Credential>,
    pub credentials: &'a BTreeMap<String, Credential>,
    pub session: Option<&'a SecretValue>,
    /// Seconds since 1970.
    pub now: i64,
    pub policy: Option<&'a PolicyName>,
    pub version: Option<Version>,
    pub principal: Option<&'a Principal>,
    /// What is to be written.
    pub value: Option<&'a SecretValue>,
    /// The text that says whose the place is and what it holds.
    pub mark: Option<&'a str>,
    /// What a request before had for an answer.
    pub prepared: &'a BTreeMap<String, String>,
}

impl PlaceContext<'_> {
    fn names(&self) -> Result<Value, String> {
        let mut names: BTreeMap<&str, Value> = BTreeMap::from([
            ("now", self.now.into()),
            ("parameters", map(self.parameters.iter().map(|(name, value)| (name, &value.0)))),
        ]);
        let prepared = self.prepared.iter().map(|(name, text)| (name.clone(), text.clone()));
        names.insert("prepared", prepared.collect::<BTreeMap<_, _>>().into());
        logins(&mut names, self.admin, self.credentials, self.session)?;
        if let Some(policy) = self.policy {
            names.insert("policy", policy.to_string().into());
        }
        if let Some(version) = self.version {
            names.insert("version", version.number().into());
        }
        if let Some(principal) = self.principal {
            names.insert("principal", principal.as_str().into());
        }
        if let Some(value) = self.value {
            names.insert("value", secret(value)?);
        }
        if let Some(mark) = self.mark {
            names.insert("mark", mark.into());
        }
        Ok(names.into())
    }
}

impl Request {
    /// Fills everything in.
    ///
    /// # Errors
    /// When a template is none, uses what is not known here, or does not work on these values.
    pub fn render_for_place(&self, context: &PlaceContext<'_>) -> Result<Rendered, RenderProblem> {
        self.filled(context.names())
    }
}

/// A text that only parameters are filled into; `None` where that does not work.
pub(in crate::recipe) fn fill_parameters(source: &str, parameters: &Parameters) -> Option<String> {
    let names = map(parameters.iter().map(|(name, value)| (name, &value.0)));
    let names: Value = BTreeMap::from([("parameters", names)]).into();
    fill(&TEXT, source, &names).ok().map(|text| text.to_string())
}
