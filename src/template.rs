//! stub until merge
use crate::{
    ident::{PolicyName, Principal, Version},
    secret::SecretValue,
};
#[derive(Debug)]
pub struct Template(String);
#[derive(Debug, thiserror::Error)]
#[error("template")]
pub struct TemplateError;
pub struct Values<'a> {
    pub policy: &'a PolicyName,
    pub version: Version,
    pub principal: &'a Principal,
    pub value: &'a SecretValue,
}
impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self(text.into()))
    }
    pub fn render(&self, v: &Values<'_>) -> Result<SecretValue, TemplateError> {
        Ok(SecretValue::new(
            self.0
                .replace("{{ principal }}", v.principal.as_str())
                .replace("{{ value }}", v.value.expose_str().unwrap())
                .into_bytes(),
        ))
    }
}
