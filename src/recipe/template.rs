//! The texts of requests, filled in.
//!
//! A template knows `owner`, `name` (what a new key is to be called), `policy`, `version`, `parameters`, `admin`,
//! `credentials` and `session`, and where a call is about one key, `id`, `value` and `parts`. Any other name is an error. What
//! is filled into a path is escaped, so that no parameter leads elsewhere.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

mod place;

pub use self::place::PlaceContext;
pub(super) use self::place::fill_parameters;
use super::document::{Body, ParameterValue};
use super::{Basic, Request, assertion, sealed};
use crate::ident::{PolicyName, Principal, Version};
use crate::secret::{Credential, Parts, SecretValue};
use crate::template::opaque;

/// Steps that filling one text may take.
const MOST_STEPS: u64 = 20_000;

/// What is left as it is in a path: the unreserved characters of RFC 3986.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What templates are filled with.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub policy: Option<&'a PolicyName>,
    pub owner: &'a Principal,
    /// What a key that is made now is to be called.
    pub name: Option<&'a str>,
    pub version: Option<Version>,
    pub parameters: &'a BTreeMap<String, ParameterValue>,
    pub admin: Option<&'a Credential>,
    pub credentials: &'a BTreeMap<String, Credential>,
    pub session: Option<&'a SecretValue>,
    /// The key that a call is about.
    pub id: Option<&'a Principal>,
    pub value: Option<&'a SecretValue>,
    /// What belongs to it.
    pub parts: Option<&'a Parts>,
    /// Seconds since 1970.
    pub now: i64,
}

/// A request with everything filled in.
pub struct Rendered {
    pub method: super::Method,
    /// Below the base; begins with `/`, or with `https://` for another host.
    pub path: String,
    /// Names and values.
    pub query: Vec<(String, Zeroizing<String>)>,
    pub headers: Vec<(String, Zeroizing<String>)>,
    pub basic: Option<(Zeroizing<String>, Zeroizing<String>)>,
    pub body: Option<Content>,
}

/// What a request carries.
pub struct Content {
    pub kind: &'static str,
    pub bytes: Zeroizing<Vec<u8>>,
}

/// Why a request cannot be made. Shows a place in the recipe, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its {place} {reason}")]
pub struct RenderProblem {
    pub place: String,
    reason: String,
}

impl Request {
    /// Fills everything in.
    ///
    /// # Errors
    /// When a template is none, uses what is not known here, or does not work on these values.
    pub fn render(&self, context: &Context<'_>) -> Result<Rendered, RenderProblem> {
        self.filled(context.names())
    }

    fn filled(&self, names: Result<Value, String>) -> Result<Rendered, RenderProblem> {
        let names = names.map_err(|reason| RenderProblem { place: "values".into(), reason })?;
        let text = |place: String, source: &str| {
            fill(&TEXT, source, &names).map_err(|reason| RenderProblem { place, reason })
        };
        let all = |what: &str, of: &BTreeMap<String, String>| {
            of.iter()
                .map(|(name, source)| Ok((name.clone(), text(format!("{what} `{name}`"), source)?)))
                .collect::<Result<Vec<_>, RenderProblem>>()
        };
        let path = fill(&ESCAPING, &self.path, &names)
            .map_err(|reason| RenderProblem { place: "path".into(), reason })?;
        let mut headers = all("header", &self.headers)?;
        if let Some(bearer) = &self.bearer {
            let mut header = Zeroizing::new(String::from("Bearer "));
            header.push_str(&text("bearer".into(), bearer)?);
            headers.push(("authorization".into(), header));
        }
        let basic = match &self.basic {
            Some(Basic { user, password }) => {
                Some((text("basic.user".into(), user)?, text("basic.password".into(), password)?))
            }
            None => None,
        };
        let body = match (&self.json, self.form.is_empty()) {
            (Some(Body(json)), _) => {
                let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
                write_json(json, "json", &names, &mut bytes)?;
                Some(Content { kind: "application/json", bytes })
            }
            (None, false) => {
                let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
                for (index, (name, value)) in all("form", &self.form)?.iter().enumerate() {
                    if index > 0 {
                        bytes.push(b'&');
                    }
                    let (name, value) = (utf8_percent_encode(name, PATH), utf8_percent_encode(value, PATH));
                    name.chain(["="]).chain(value).for_each(|part| bytes.extend_from_slice(part.as_bytes()));
                }
                Some(Content { kind: "application/x-www-form-urlencoded", bytes })
            }
            (None, true) => None,
        };
        let path = String::from(path.as_str());
        Ok(Rendered { method: self.method, path, query: all("query", &self.query)?, headers, basic, body })
    }
}

impl Context<'_> {
    fn names(&self) -> Result<Value, String> {
        let mut names: BTreeMap<&str, Value> = BTreeMap::from([
            ("owner", self.owner.as_str().into()),
            ("now", self.now.into()),
            ("parameters", map(self.parameters.iter().map(|(name, value)| (name, &value.0)))),
        ]);
        if let Some(policy) = self.policy {
            names.insert("policy", policy.to_string().into());
        }
        if let Some(name) = self.name {
            names.insert("name", name.into());
        }
        if let Some(version) = self.version {
            names.insert("version", version.number().into());
        }
        logins(&mut names, self.admin, self.credentials, self.session)?;
        if let Some(id) = self.id {
            names.insert("id", id.as_str().into());
        }
        if let Some(value) = self.value {
            names.insert("value", secret(value)?);
        }
        let mut parts = BTreeMap::new();
        for (name, part) in self.parts.into_iter().flatten() {
            parts.insert(name.as_str(), secret(part)?);
        }
        names.insert("parts", parts.into());
        Ok(names.into())
    }
}

fn credential(credential: &Credential) -> Result<Value, String> {
    let value = secret(&credential.value)?;
    Ok(context! { principal => credential.principal.as_str(), value })
}

/// What requests log in with.
fn logins(
    names: &mut BTreeMap<&str, Value>,
    admin: Option<&Credential>,
    others: &BTreeMap<String, Credential>,
    session: Option<&SecretValue>,
) -> Result<(), String> {
    if let Some(admin) = admin {
        names.insert("admin", credential(admin)?);
    }
    let others = others.iter().map(|(name, of)| Ok((name.clone(), credential(of)?)));
    names.insert("credentials", others.collect::<Result<BTreeMap<_, _>, String>>()?.into());
    if let Some(session) = session {
        names.insert("session", secret(session)?);
    }
    Ok(())
}

/// JSON as templates know it.
fn plain(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => (*truth).into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        serde_json::Value::String(text) => text.clone().into(),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().into(),
        serde_json::Value::Object(entries) => map(entries),
    }
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a String, &'a serde_json::Value)>) -> Value {
    let entries = entries.into_iter().map(|(name, value)| (name.clone(), plain(value)));
    entries.collect::<BTreeMap<_, _>>().into()
}

/// `json(text)`: what a text in JSON says.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands it over")]
fn read_json(text: Value) -> Result<Value, minijinja::Error> {
    let text = Zeroizing::new(text.to_string());
    let json = serde_json::from_str(&text);
    // What the parser says of a failure quotes nothing, and is not passed on all the same.
    json.map(|json| plain(&json))
        .map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, "is not JSON"))
}

/// `day(seconds)`: the date at so many seconds since 1970, as `2026-11-30`.
fn day(seconds: i64) -> Result<String, minijinja::Error> {
    Ok(jiff::tz::TimeZone::UTC.to_datetime(moment_at(seconds)?).date().to_string())
}

/// `moment(seconds)`: the time then, as `2026-11-30T09:00:00Z`.
fn moment(seconds: i64) -> Result<String, minijinja::Error> {
    moment_at(seconds).map(|at| at.to_string())
}

fn moment_at(seconds: i64) -> Result<jiff::Timestamp, minijinja::Error> {
    jiff::Timestamp::from_second(seconds)
        .map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, "is no time"))
}

fn secret(value: &SecretValue) -> Result<Value, String> {
    let text = value.expose_str().map_err(|_| "are to have a value that is not text".to_owned())?;
    Ok(opaque(text))
}

/// Whether a text is a template, and which names it uses.
pub(super) fn names_of(source: &str) -> Result<Vec<String>, String> {
    let compiled = TEXT.template_from_str(source).map_err(|error| explain(&error))?;
    let mut used: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
    used.retain(|name| !TEXT.globals().any(|(global, _)| global == name));
    used.sort_unstable();
    Ok(used)
}

static TEXT: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// Escapes what is filled in for a path.
static ESCAPING: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = environment();
    engine.set_auto_escape_callback(|_| AutoEscape::Custom("path".into()));
    engine.set_formatter(|output, state, value| {
        if value.is_undefined() {
            return minijinja::escape_formatter(output, state, value);
        }
        let text = Zeroizing::new(value.to_string());
        for part in utf8_percent_encode(&text, PATH) {
            output.write_str(part)?;
        }
        Ok(())
    });
    engine
});

fn environment() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_fuel(Some(MOST_STEPS));
    // Prints everything that is defined.
    engine.remove_global("debug");
    engine.add_function("jwt", assertion::sign);
    engine.add_function("seal", sealed::seal);
    engine.add_function("json", read_json);
    engine.add_function("day", day);
    engine.add_function("moment", moment);
    engine
}

fn fill(engine: &Environment<'_>, source: &str, names: &Value) -> Result<Zeroizing<String>, String> {
    let filled = engine.render_str(source, names).map_err(|error| explain(&error))?;
    Ok(Zeroizing::new(filled))
}

/// What the engine says of a failure may quote what it worked on: only the kind is taken from it.
fn explain(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::SyntaxError => {
            format!("is not a template: {}", error.detail().unwrap_or("syntax error"))
        }
        ErrorKind::UndefinedError => "uses a name that is not defined here".into(),
        ErrorKind::UnknownFilter => "uses an unknown filter".into(),
        ErrorKind::UnknownFunction => "uses an unknown function".into(),
        ErrorKind::OutOfFuel => "takes too many steps".into(),
        // Said by `jwt` and `seal`, which quote nothing.
        ErrorKind::BadSerialization => error.detail().unwrap_or("cannot be signed").to_owned(),
        _ => "cannot be filled in".into(),
    }
}

/// Writes JSON whose texts are templates, into a buffer that is wiped.
fn write_json(
    json: &serde_json::Value,
    place: &str,
    names: &Value,
    bytes: &mut Zeroizing<Vec<u8>>,
) -> Result<(), RenderProblem> {
    let failed = |reason: String| RenderProblem { place: place.to_owned(), reason };
    let quoted = |text: &str, bytes: &mut Zeroizing<Vec<u8>>| {
        serde_json::to_writer(&mut **bytes, text).expect("a buffer takes it");
    };
    match json {
        serde_json::Value::String(source) => {
            if let Some(expression) = only_expression(source) {
                let compiled =
                    TEXT.compile_expression(expression).map_err(|error| failed(explain(&error)))?;
                let value = compiled.eval(names).map_err(|error| failed(explain(&error)))?;
                if value.is_undefined() {
                    return Err(failed("uses a name that is not defined here".into()));
                }
                // A secret is an object that is printed and nothing else.
                if value.kind() != minijinja::value::ValueKind::Plain {
                    serde_json::to_writer(&mut **bytes, &value)
                        .map_err(|_| failed("cannot be filled in".into()))?;
                    return Ok(());
                }
                quoted(&Zeroizing::new(value.to_string()), bytes);
                return Ok(());
            }
            quoted(&fill(&TEXT, source, names).map_err(failed)?, bytes);
        }
        serde_json::Value::Array(items) => {
            bytes.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                write_json(item, &format!("{place}[{index}]"), names, bytes)?;
            }
            bytes.push(b']');
        }
        serde_json::Value::Object(entries) => {
            bytes.push(b'{');
            for (index, (name, value)) in entries.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                quoted(&fill(&TEXT, name, names).map_err(failed)?, bytes);
                bytes.push(b':');
                write_json(value, &format!("{place}.{name}"), names, bytes)?;
            }
            bytes.push(b'}');
        }
        plain => serde_json::to_writer(&mut **bytes, plain).expect("a buffer takes it"),
    }
    Ok(())
}

/// The expression that a text consists of, if it does of one alone.
pub(super) fn only_expression(source: &str) -> Option<&str> {
    let inner = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then_some(inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::recipe::Parameters;

    fn request(of: serde_json::Value) -> Request {
        serde_json::from_value(of).expect("a request")
    }

    fn rendered(of: serde_json::Value) -> Result<Rendered, RenderProblem> {
        let parameters: Parameters =
            serde_json::from_value(json!({"project": "a/../b?c", "scopes": ["read", "write"], "days": 7, "may": {"contents": "read"}}))
                .expect("parameters");
        let admin = Credential::new(
            "admin".parse().expect("a principal"),
            SecretValue::new(b"hunter2\"<&\xc3\xa4".to_vec()),
        );
        let (policy, owner) = ("orders/api".parse().expect("a name"), "orders".parse().expect("a principal"));
        request(of).render(&Context {
            policy: Some(&policy),
            owner: &owner,
            name: Some("rekeyd-1"),
            version: Some(Version::new(7)),
            parameters: &parameters,
            admin: Some(&admin),
            credentials: &BTreeMap::new(),
            session: None,
            id: None,
            value: None,
            parts: None,
            now: 1_000,
        })
    }

    fn body(of: serde_json::Value) -> Result<String, RenderProblem> {
        let rendered = rendered(of)?;
        Ok(String::from_utf8(rendered.body.expect("a body").bytes.to_vec()).expect("text"))
    }

    #[test]
    fn what_is_filled_into_a_path_leads_nowhere_else() {
        let path = rendered(json!({"method": "GET", "path": "/p/{{ parameters.project }}/keys"}));
        assert_eq!(path.expect("a request").path, "/p/a%2F..%2Fb%3Fc/keys");
    }

    #[test]
    fn texts_that_are_one_expression_keep_their_kind() {
        let written = body(json!({
            "method": "POST", "path": "/",
            "json": {"scopes": "{{ parameters.scopes }}", "may": "{{ parameters.may }}", "days": "{{ parameters.days }}", "n": [true, 1.5, null],
                     "name": "{{ name }}", "value": "{{ admin.value }}", "both": "{{ owner }}:{{ admin.value }}"},
        }));
        let written: serde_json::Value = serde_json::from_str(&written.expect("a body")).expect("JSON");
        let value = "hunter2\"<&\u{e4}";
        assert_eq!(
            written,
            json!({"scopes": ["read", "write"], "may": {"contents": "read"}, "days": 7, "n": [true, 1.5, null], "name": "rekeyd-1",
                   "value": value, "both": format!("orders:{value}")})
        );
    }

    #[test]
    fn forms_are_escaped() {
        let written =
            body(json!({"method": "POST", "path": "/", "form": {"a b": "{{ admin.value }}", "c": "d"}}));
        assert_eq!(written.expect("a body"), "a%20b=hunter2%22%3C%26%C3%A4&c=d");
    }

    #[test]
    fn what_is_not_defined_is_told_with_its_place_and_no_value() {
        for of in [
            json!({"method": "POST", "path": "/", "json": {"a": [{"b": "{{ value }}"}]}}),
            json!({"method": "POST", "path": "/", "json": {"a": [{"b": "x {{ value }}"}]}}),
        ] {
            let problem = rendered(of).err().expect("no value here");
            assert_eq!(problem.to_string(), "its json.a[0].b uses a name that is not defined here");
        }
        for path in ["/{{ id }}", "/{{ parameters.nothing }}", "/{{ admin.password }}", "/{{ debug() }}"] {
            assert!(rendered(json!({"method": "GET", "path": path})).is_err(), "{path}");
        }
        for source in ["{{ admin.value + 1 }}", "{{ admin.value.x }}", "{{ range(admin.value) }}"] {
            let of = json!({"method": "GET", "path": "/", "headers": {"x": source}});
            let problem = rendered(of).err().expect("it cannot be filled in");
            assert!(!format!("{problem} {problem:?}").contains("hunter2"), "{problem}");
        }
    }
}
