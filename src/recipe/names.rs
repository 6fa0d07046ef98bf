//! The templates of a request, and which names they use.

use super::{Body, Request, template};

/// Whether a request uses a name anywhere.
pub(super) fn uses(request: &Request, wanted: &str) -> bool {
    let has = |source: &str| {
        template::names_of(source).is_ok_and(|names| {
            names.iter().any(|name| {
                name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
            })
        })
    };
    texts(request).iter().any(|(_, source)| has(source))
}

impl super::Verify {
    /// Whether trying a key takes other credentials than the key.
    #[must_use]
    pub fn needs_admins(&self) -> bool {
        let needs =
            |request: &Request| ["admin", "credentials", "session"].iter().any(|name| uses(request, name));
        let health = self.health.as_ref().map(|health| &health.request);
        // Without a request of its own, what is listed tells.
        self.request.as_ref().is_none_or(needs) || health.is_some_and(needs)
    }
}

impl Request {
    /// Whether it uses a name anywhere.
    #[must_use]
    pub fn uses(&self, name: &str) -> bool {
        uses(self, name)
    }
}

/// Every template of a request and where it is.
pub(super) fn texts(request: &Request) -> Vec<(Vec<String>, String)> {
    let mut texts = vec![(vec!["path".to_owned()], request.path.clone())];
    let maps = [("query", &request.query), ("headers", &request.headers), ("form", &request.form)];
    for (field, map) in maps {
        texts.extend(map.iter().map(|(name, source)| (vec![field.into(), name.clone()], source.clone())));
    }
    texts.extend(request.bearer.iter().map(|source| (vec!["bearer".into()], source.clone())));
    if let Some(basic) = &request.basic {
        texts.push((vec!["basic".into(), "user".into()], basic.user.clone()));
        texts.push((vec!["basic".into(), "password".into()], basic.password.clone()));
    }
    if let Some(Body(json)) = &request.json {
        json_texts(json, &mut vec!["json".into()], &mut texts);
    }
    texts
}

fn json_texts(json: &serde_json::Value, at: &mut Vec<String>, texts: &mut Vec<(Vec<String>, String)>) {
    match json {
        serde_json::Value::String(source) => texts.push((at.clone(), source.clone())),
        serde_json::Value::Array(items) => items.iter().for_each(|item| json_texts(item, at, texts)),
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                at.push(name.clone());
                json_texts(value, at, texts);
                at.pop();
            }
        }
        _ => {}
    }
}
