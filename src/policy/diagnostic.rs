//! What is wrong with a file, where, and what to do about it.
//!
//! Policies and settings hold no secret by design, and people paste secrets into them all the same. So a
//! diagnostic shows of a file's text the key and the value it is about, and of what is no known field the
//! key alone; what stands around them is never shown.

mod excerpt;
mod render;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use self::excerpt::Excerpt;
pub(crate) use self::excerpt::Source;
pub use self::render::graphical;

/// One thing that is wrong with a file. Prints as one line without colour:
/// `policies/orders.yaml:12:9: error: spec.schedule.cron: ... (remedy)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: String,
    /// From 1; absent when it is about the file as a whole.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The field as a path, `spec.consumers[0].file.path`; empty when it is about no field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Lower case, without a full stop.
    pub message: String,
    /// What a person can do about it.
    pub remedy: String,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// A line and a column of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

/// Whether a file can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    Error,
    Warning,
}

/// Something that can be wrong: says what, and what to do about it.
pub(crate) trait Problem: fmt::Display {
    fn remedy(&self) -> Cow<'static, str>;

    fn severity(&self) -> Severity {
        Severity::Error
    }

    /// Whether the text it is about may hold a secret and is not to be shown.
    fn conceals(&self) -> bool {
        false
    }
}

impl Diagnostic {
    /// About a file as a whole.
    pub(crate) fn of_file(file: &str, problem: &impl Problem) -> Self {
        Self {
            severity: problem.severity(),
            file: file.to_owned(),
            position: None,
            field: String::new(),
            message: printable(&problem.to_string()),
            remedy: printable(&problem.remedy()),
            excerpt: None,
        }
    }

    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}: ", self.severity)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({})", self.message, self.remedy)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A text in one line, without anything that a terminal acts on.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, char| {
        match char {
            '\'' | '"' | '\\' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
        shown
    })
}

/// `a`, `b`, `c`
pub(crate) fn list<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let mut names = names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    const MOST: usize = 20;
    if names.len() > MOST {
        names.truncate(MOST);
        names.push("...".into());
    }
    names.join(", ")
}

/// What a person can do about a name that is not among the known ones.
pub(crate) fn choose<T: AsRef<str>>(name: &str, known: impl IntoIterator<Item = T>) -> String {
    let known: Vec<T> = known.into_iter().collect();
    let near = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate.as_ref()), candidate.as_ref()))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min();
    match near {
        _ if known.is_empty() => "there is none to choose".into(),
        Some((_, near)) => format!("did you mean `{near}`? Known: {}", list(known.iter().map(T::as_ref))),
        None => format!("use one of {}", list(known.iter().map(T::as_ref))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_sent_no_control_sequence() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{202e}é'\"\\"), "a\\u{1b}[31m\\nb\\u{202e}é'\"\\");
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        assert!(choose("shedule", ["schedule", "store"]).starts_with("did you mean `schedule`?"));
        assert_eq!(choose("password", ["schedule", "store"]), "use one of `schedule`, `store`");
    }
}
