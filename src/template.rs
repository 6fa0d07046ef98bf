//! What a file consumer writes: a template over one credential.
//!
//! `principal`, `value`, `version` (a number), `policy` and `namespace` are defined, and `parts.NAME` for each further
//! part of the credential; any other name is an error, and so is a template that runs without end. Nothing is escaped: the file is no web page.
//!
//! The value is handed to the engine as an object that prints it into the output, so that no copy of it is
//! made on the way. A template that computes with the value (`{{ value | upper }}`) makes the engine hold
//! copies that are freed without being wiped; nothing can be done about that from here.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, ObjectRepr};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use zeroize::Zeroizing;

use crate::ident::{PartName, PolicyName, Version};
use crate::secret::{Credential, SecretValue};

/// Steps that rendering may take.
const MOST_STEPS: u64 = 100_000;

/// The largest content, in bytes.
const MOST_BYTES: usize = 1024 * 1024;

/// The names that a template may use.
const NAMES: [&str; 5] = ["namespace", "policy", "principal", "value", "version"];

/// What parts stand below.
const PARTS: &str = "parts";

/// A template that is valid, uses only the names that are defined, and was rendered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: Box<str>,
    uses_value: bool,
    parts: Vec<PartName>,
    uses_principal: bool,
}

/// What a template is filled with.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub policy: &'a PolicyName,
    pub version: Version,
    pub credential: &'a Credential,
}

impl Template {
    /// Checks all of a template that can be checked without a credential: also what stands in branches
    /// that a rendering may not take.
    ///
    /// # Errors
    /// When it is not a template, uses another name, or cannot be rendered.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let compiled = ENGINE.template_from_str(source).map_err(|error| TemplateError::of(&error))?;
        let mut used: Vec<String> = compiled.undeclared_variables(false).into_iter().collect();
        used.sort_unstable();
        let parts = parts_of(&compiled);
        let known = |name: &str| {
            NAMES.contains(&name)
                || name == PARTS && parts.is_some()
                || ENGINE.globals().any(|(global, _)| global == name)
        };
        if let Some(name) = used.iter().find(|name| !known(name)) {
            let line = source.lines().position(|line| has_word(line, name)).map(|index| index + 1);
            return Err(TemplateError { line, reason: Reason::UnknownName(name.clone()) });
        }
        let parts = parts.unwrap_or_default();
        let uses = |wanted: &str| used.iter().any(|name| name == wanted);
        let (uses_value, uses_principal) = (uses("value") || !parts.is_empty(), uses("principal"));
        let value = || SecretValue::new(vec![b'x'; 32]);
        let credential = Credential::new(example("principal"), value())
            .with_parts(parts.iter().map(|part| (part.clone(), value())).collect());
        let policy = example("namespace/policy");
        let values = Values { policy: &policy, version: Version::new(1), credential: &credential };
        fill(&compiled, source.len(), &values)?;
        Ok(Self { source: source.into(), uses_value, uses_principal, parts })
    }

    /// The further parts of a credential that it uses.
    #[must_use]
    pub fn parts(&self) -> &[PartName] {
        &self.parts
    }

    /// Whether the value, or one of its parts, has a place in it at all.
    #[must_use]
    pub const fn uses_value(&self) -> bool {
        self.uses_value
    }

    /// Whether the principal has.
    #[must_use]
    pub const fn uses_principal(&self) -> bool {
        self.uses_principal
    }

    /// Fills the template.
    ///
    /// # Errors
    /// When the value is not text, or the template fails on these values. The error shows none of them.
    pub fn render(&self, values: &Values<'_>) -> Result<SecretValue, TemplateError> {
        let compiled = ENGINE.template_from_str(&self.source).map_err(|error| TemplateError::of(&error))?;
        fill(&compiled, self.source.len(), values)
    }
}

/// Fills a template whose source has so many bytes.
fn fill(
    compiled: &minijinja::Template<'_, '_>,
    size: usize,
    values: &Values<'_>,
) -> Result<SecretValue, TemplateError> {
    let text = |value: &SecretValue| match value.expose_str() {
        Ok(text) => Ok(opaque(text)),
        Err(_) => Err(TemplateError { line: None, reason: Reason::NotText }),
    };
    let Credential { principal, value, parts } = values.credential;
    let parts = parts.iter().map(|(name, part)| Ok((name.as_str(), text(part)?)));
    let parts = parts.collect::<Result<BTreeMap<_, _>, TemplateError>>()?;
    let context = context! {
        policy => values.policy.name(),
        namespace => values.policy.namespace(),
        version => values.version.number(),
        principal => principal.as_str(),
        value => text(value)?,
        parts => parts,
    };
    let mut output = Output(Zeroizing::new(Vec::with_capacity(size + 1024)));
    // What the engine says of a failure may quote what it worked on: only the kind is taken from it.
    compiled.render_captured_to(context, &mut output).map_err(|error| TemplateError::of(&error))?;
    Ok(SecretValue::new(std::mem::take(&mut output.0)))
}

/// The parts that a template names; `None` where it uses them as a whole, or by a name that is none.
fn parts_of(template: &minijinja::Template<'_, '_>) -> Option<Vec<PartName>> {
    let mut parts = Vec::new();
    for name in template.undeclared_variables(true) {
        match name.split_once('.') {
            _ if name == PARTS => return None,
            Some((PARTS, part)) => parts.push(part.parse().ok()?),
            _ => {}
        }
    }
    parts.sort_unstable();
    Some(parts)
}

/// The engine, set up once: it holds no template and no value.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // A file ends with its line's end.
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    engine.set_syntax(syntax.expect("the default delimiters differ"));
    engine.set_fuel(Some(MOST_STEPS));
    // Prints everything that is defined.
    engine.remove_global("debug");
    engine
});

/// A value for the engine to print into its output and nowhere else.
pub(crate) fn opaque(text: &str) -> Value {
    Value::from_object(Opaque(Zeroizing::new(text.to_owned())))
}

/// The value, for the engine to print into its output and nowhere else.
struct Opaque(Zeroizing<String>);

impl Object for Opaque {
    /// Not a map of nothing, which is what it would count as: asking for its length is an error then.
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// A buffer that is wiped where it grows and where it is dropped.
struct Output(Zeroizing<Vec<u8>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > MOST_BYTES {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if needed > self.0.capacity() {
            // A vector that grows by itself leaves its old content behind in freed memory.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed * 2));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn example<T: std::str::FromStr<Err: fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a literal name")
}

fn has_word(line: &str, word: &str) -> bool {
    let within = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word)
        .any(|(start, _)| !line[..start].ends_with(within) && !line[start + word.len()..].starts_with(within))
}

/// Why a template cannot be used. Shows names and lines of the template, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    line: Option<usize>,
    reason: Reason,
}

impl TemplateError {
    /// The line of the template, from 1, where one is known.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        self.line
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.reason {
            Reason::UnknownName(_) | Reason::Fails("a name in it is not defined") => {
                format!("use {}, or parts.NAME", NAMES.join(", "))
            }
            Reason::NotText => "use an alphabet of text characters".into(),
            Reason::Invalid(_) | Reason::Fails(_) => {
                "write for example `PGPASSWORD={{ value }}`; the syntax is that of Jinja".into()
            }
        }
    }

    fn of(error: &minijinja::Error) -> Self {
        let reason = match error.kind() {
            // Found before any value is there.
            ErrorKind::SyntaxError => Reason::Invalid(error.detail().unwrap_or("syntax error").into()),
            ErrorKind::UnknownFilter => Reason::Fails("it uses an unknown filter"),
            ErrorKind::UnknownTest => Reason::Fails("it uses an unknown test"),
            ErrorKind::UnknownFunction => Reason::Fails("it uses an unknown function"),
            ErrorKind::UnknownMethod => Reason::Fails("it uses an unknown method"),
            ErrorKind::UndefinedError => Reason::Fails("a name in it is not defined"),
            ErrorKind::TemplateNotFound => Reason::Fails("it includes another template"),
            ErrorKind::OutOfFuel => Reason::Fails("it takes too many steps"),
            ErrorKind::WriteFailure => Reason::Fails("what it makes is larger than 1 MiB"),
            _ => Reason::Fails("an operation in it is not possible on its values"),
        };
        Self { line: error.line(), reason }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("the template uses `{0}`, which is not defined")]
    UnknownName(String),
    #[error("the template is not valid: {0}")]
    Invalid(Box<str>),
    #[error("the template cannot be filled: {0}")]
    Fails(&'static str),
    #[error("the value is not text")]
    NotText,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, TemplateError> {
        let secret = |text: &str| SecretValue::new(text.as_bytes().to_vec());
        let credential = Credential::new(example("orders_a"), secret("hunter2\"<&"))
            .with_parts([(example("refreshToken"), secret("hunter3"))].into());
        let values =
            Values { policy: &example("orders/db"), version: Version::new(17), credential: &credential };
        let template =
            Template { source: source.into(), uses_value: true, uses_principal: true, parts: Vec::new() };
        let content = template.render(&values)?;
        Ok(content.expose_str().expect("text").to_owned())
    }

    #[test]
    fn every_name_is_filled_in_and_nothing_is_escaped() {
        let source = "{{ namespace }}/{{ policy }} v{{ version }}\n{{ principal }}:{{ value }}\n";
        Template::parse(source).expect("a template");
        assert_eq!(render(source).as_deref(), Ok("orders/db v17\norders_a:hunter2\"<&\n"));
    }

    #[test]
    fn parts_are_filled_in_by_their_names() {
        let template = Template::parse("{{ parts.refreshToken }}\n{{ parts.ca }}").expect("a template");
        let names: Vec<_> = template.parts().iter().map(PartName::as_str).collect();
        assert_eq!(names, ["ca", "refreshToken"]);
        assert!(template.uses_value());
        assert_eq!(render("a {{ parts.refreshToken }}").as_deref(), Ok("a hunter3"));
        assert!(render("{{ parts.ca }}").is_err(), "there is none");
        for source in ["{{ parts }}", "{{ parts['refreshToken'] }}", "{{ parts.a_b }}", "{{ parts.x.y }}"] {
            assert!(Template::parse(source).is_err(), "{source}");
        }
    }

    #[test]
    fn the_value_can_be_computed_with() {
        assert_eq!(render("{{ value | upper }}").as_deref(), Ok("HUNTER2\"<&"));
        assert_eq!(render("{{ principal ~ ':' ~ value }}").as_deref(), Ok("orders_a:hunter2\"<&"));
        assert!(render("{{ value | length }}").is_err());
    }

    #[test]
    fn output_larger_than_its_buffer_is_whole() {
        let long = "0123456789".repeat(1_000);
        let source = format!("{{% for i in range(20) %}}{long}{{% endfor %}}");
        assert_eq!(render(&source).expect("renders").len(), 200_000);
    }

    #[test]
    fn names_that_are_not_defined_are_found_in_branches_not_taken_too() {
        for source in ["a\nb {{ user }}", "a\n{% if version > 100 %}{{ user }}{% endif %}"] {
            let error = Template::parse(source).expect_err("an undefined name");
            assert_eq!(error.to_string(), "the template uses `user`, which is not defined");
            assert_eq!(error.line(), Some(2));
        }
        assert!(Template::parse("{{ debug() }}").is_err());
    }

    #[test]
    fn templates_that_cannot_be_filled_are_refused_with_their_line() {
        for (source, line, text) in [
            ("a\n{{ value", 2, "the template is not valid"),
            ("a\nb\n{{ value | frobnicate }}", 3, "an unknown filter"),
            ("{{ value.password }}", 1, "not defined"),
            ("{% include 'other' %}", 1, "includes another"),
            ("{{ value + 1 }}", 1, "not possible"),
        ] {
            let error = Template::parse(source).expect_err(source);
            assert_eq!(error.line(), Some(line), "{source}: {error}");
            assert!(error.to_string().contains(text), "{source}: {error}");
        }
    }

    #[test]
    fn templates_end() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let error = Template::parse(loops).expect_err("too many steps");
        assert!(error.to_string().contains("too many steps"), "{error}");
        let long = "0123456789".repeat(10_000);
        let error = Template::parse(&format!("{{% for a in range(20) %}}{long}{{% endfor %}}"))
            .expect_err("too large");
        assert!(error.to_string().contains("1 MiB") || error.to_string().contains("steps"), "{error}");
    }

    #[test]
    fn errors_show_no_value() {
        for source in [
            "{{ value | int }}",
            "{{ range(value) }}",
            "{{ value.x.y }}",
            "{{ value() }}",
            "{{ value / 2 }}",
            "{{ value | round }}",
        ] {
            let error = render(source).expect_err(source);
            let shown = format!("{error} {error:?} {}", error.remedy());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn whether_the_value_is_used_is_known() {
        assert!(Template::parse("{{ value }}").expect("a template").uses_value());
        assert!(!Template::parse("{{ principal }}").expect("a template").uses_value());
    }
}
