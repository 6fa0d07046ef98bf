//! A file's text, and the little of it that a diagnostic shows.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{Diagnostic, Position, Problem, printable};
use crate::failure::IoReason;
use crate::policy::node::{Span, SyntaxError};
use crate::policy::shape::{FieldPath, Site};

/// The largest file that is read.
const MOST_BYTES: u64 = 1024 * 1024;

/// The longest excerpt, in characters: a file may be one line.
const MOST_SHOWN: usize = 160;

/// A file's name and text.
#[derive(Debug)]
pub(crate) struct Source {
    name: String,
    text: String,
}

/// A line reduced to what may be shown of it, and the part of it that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    /// In bytes of `text`.
    pub(super) start: usize,
    /// In bytes.
    pub(super) length: usize,
}

impl Source {
    pub(crate) fn new(name: &str, text: String) -> Self {
        Self { name: printable(name), text }
    }

    pub(crate) fn read(path: &Path) -> Result<Self, Box<Diagnostic>> {
        let name = printable(&path.to_string_lossy());
        let bytes = read_bytes(path).map_err(|problem| Box::new(Diagnostic::of_file(&name, &problem)))?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
                let line = 1 + before.matches('\n').count() as u32;
                let column = 1 + before.rsplit('\n').next().map_or(0, |last| last.chars().count()) as u32;
                let position = Some(Position { line, column });
                Err(Box::new(Diagnostic { position, ..Diagnostic::of_file(&name, &Unreadable::NotText) }))
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// About a part of a document.
    pub(crate) fn diagnose(&self, site: Site, field: &FieldPath, problem: &impl Problem) -> Diagnostic {
        Diagnostic {
            position: Some(Position { line: site.span().line, column: site.span().column }),
            field: printable(&field.to_string()),
            excerpt: Some(self.excerpt(site, problem.conceals())),
            ..Diagnostic::of_file(&self.name, problem)
        }
    }

    /// About a document that is not YAML. Of the line, its key is shown: without a structure there is no
    /// telling what else is on it.
    pub(crate) fn diagnose_syntax(&self, error: &SyntaxError) -> Diagnostic {
        let Span { line, column, .. } = error.span;
        let text = self.text.lines().nth(line as usize - 1).unwrap_or_default();
        let word = |char: char| char.is_ascii_alphanumeric() || "-_. ".contains(char);
        let shown = match text.split_once(':') {
            Some((key, _)) if key.chars().all(word) => format!("{key}: …"),
            _ => "…".into(),
        };
        let excerpt = Excerpt { start: 0, length: shown.len(), text: shown };
        Diagnostic {
            position: Some(Position { line, column }),
            excerpt: Some(excerpt),
            ..Diagnostic::of_file(&self.name, error)
        }
    }

    /// Where line `number` (from 1) of a text value stands, when the value is a literal block.
    pub(crate) fn line_of_block(&self, site: Site, number: usize) -> Option<Site> {
        let Site::Value { span, key: Some(key) } = site else { return None };
        let header = key.end;
        let indicator = self.text.get(header..span.start)?.find('|')?;
        let lines = self.text[header + indicator..].split_inclusive('\n');
        let start = header + indicator + lines.take(number).map(str::len).sum::<usize>();
        let text = self.text[start..].lines().next()?;
        let indent = text.len() - text.trim_start().len();
        let line = 1 + self.text[..start].matches('\n').count() as u32;
        let span = Span {
            line,
            column: indent as u32 + 1,
            start: start + indent,
            end: start + text.trim_end().len(),
        };
        Some(Site::Value { span, key: None })
    }

    /// The text of the line with all blanked out but the key and the value.
    fn excerpt(&self, site: Site, conceal: bool) -> Excerpt {
        let Span { start, end, .. } = site.span();
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find(['\n', '\r']).map_or(self.text.len(), |length| start + length);
        let end = end.clamp(start, line_end);
        let (key, conceal) = match site {
            Site::Key(_) => (None, false),
            Site::Value { key, .. } => (key, conceal),
        };
        let key = key.filter(|key| key.start >= line_start && key.end <= start);
        let shown_from = key.map_or(start, |key| key.start);

        let before = &self.text[line_start..shown_from];
        let is_indent = before.chars().all(|char| matches!(char, ' ' | '-'));
        let mut text = match before.chars().count() {
            _ if is_indent => before.to_owned(),
            // Far to the right in a long line: the position says where.
            columns if columns > MOST_SHOWN => String::new(),
            columns => " ".repeat(columns),
        };
        text.push_str(&visible(&self.text[shown_from..start]));
        let marked = text.len();
        match (&self.text[start..end], conceal) {
            ("", _) | (_, true) => text.push('…'),
            (value, false) => text.extend(visible(value).chars().take(MOST_SHOWN)),
        }
        Excerpt { start: marked, length: text.len() - marked, text }
    }
}

/// Characters that a terminal acts on, each replaced by one that it does not.
fn visible(text: &str) -> String {
    let shown = |char: char| match char {
        '\t' => ' ',
        '\'' | '"' | '\\' => char,
        _ if char.escape_debug().count() > 1 => char::REPLACEMENT_CHARACTER,
        _ => char,
    };
    text.chars().map(shown).collect()
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let failed = |error: std::io::Error| Unreadable::Failed(IoReason(error.kind()));
    // Looked at before it is opened: opening a pipe would wait for a writer.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Unreadable::TooLarge);
    }
    Ok(bytes)
}

/// Why a file cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("cannot be read: {0}")]
    Failed(IoReason),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is larger than 1 MiB")]
    TooLarge,
    #[error("is not UTF-8 text")]
    NotText,
}

impl Problem for Unreadable {
    fn remedy(&self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Failed(_) => "check that it exists and that this user may read it",
            Self::NotAFile => "put a regular file, or a link to one, in its place",
            Self::TooLarge => "split it into several files",
            Self::NotText => "save it as UTF-8",
        }
        .into()
    }
}
