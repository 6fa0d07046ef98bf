//! The text of a YAML file as trees that know where each part stands.
//!
//! A file is cut into its documents first, so that a broken one does not hide the others. What the
//! library protects against stays refused: aliases that grow without bound, nesting without end, tags.
//! Two equal keys of one mapping are kept, for [`super::shape`] to report both with their positions.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{DefaultMessageFormatter, Location, MessageFormatter as _, Spanned};

use super::diagnostic::Problem;

/// A part of a document and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) span: Span,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Box<str>),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Was wrong, was reported, and counts as absent from then on.
    Dropped,
}

impl Node {
    /// Whether it is made of other nodes.
    pub(crate) const fn has_parts(&self) -> bool {
        matches!(self.content, Content::List(_) | Content::Mapping(_))
    }

    /// A value that nobody wrote, placed where something else is.
    pub(crate) fn unwritten(value: serde_json::Value, span: Span) -> Self {
        use serde_json::Value;
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(value),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Content::Integer(number),
                None => Content::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Content::Text(text.into()),
            Value::Array(items) => {
                Content::List(items.into_iter().map(|item| Self::unwritten(item, span)).collect())
            }
            Value::Object(entries) => {
                let entry = |(key, value): (String, _)| Entry {
                    key: key.into(),
                    key_span: span,
                    value: Self::unwritten(value, span),
                };
                Content::Mapping(entries.into_iter().map(entry).collect())
            }
        };
        Self { content, span }
    }
}

/// A key of a mapping and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    /// In bytes from the start of the file.
    pub(crate) start: usize,
    /// In bytes from the start of the file, behind the last one.
    pub(crate) end: usize,
}

/// One document of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    text: &'a str,
    /// Lines of the file before it.
    lines_before: u32,
    /// Bytes of the file before it.
    bytes_before: usize,
}

/// Why a text is not YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not YAML: {message}")]
pub(crate) struct SyntaxError {
    message: String,
    pub(crate) span: Span,
}

/// Cuts a file into its documents; those that hold nothing but comments are left out.
///
/// A line that begins with `---` or `...` ends a document wherever it stands, within a block or a quoted
/// text too, so the cut needs no parser.
pub(crate) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut begin, mut begin_line, mut offset) = (0, 0, 0);
    let (mut is_begun, mut has_content) = (false, false);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let (is_begin, is_end) = (is_marker(line, "---"), is_marker(line, "..."));
        if (is_begin || is_end) && has_content {
            chunks.push(Chunk { text: &text[begin..offset], lines_before: begin_line, bytes_before: begin });
        }
        if is_begin {
            // What stands before the first marker, and holds nothing, may be directives: they stay with it.
            if is_begun || has_content {
                (begin, begin_line) = (offset, number);
            }
            (is_begun, has_content) = (true, !is_blank(&line[3..]));
        } else if is_end {
            (begin, begin_line) = (offset + line.len(), number.saturating_add(1));
            (is_begun, has_content) = (false, false);
        } else {
            has_content |= !is_blank(line) && !line.starts_with('%');
        }
        offset += line.len();
    }
    if has_content {
        chunks.push(Chunk { text: &text[begin..], lines_before: begin_line, bytes_before: begin });
    }
    chunks
}

impl Chunk<'_> {
    /// The document as a tree; `None` when it is empty.
    pub(crate) fn parse(&self) -> Result<Option<Node>, SyntaxError> {
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(self.text, options()) {
            Ok(root) => Ok(Some(self.place(root)).filter(|root| root.content != Content::Null)),
            Err(error) => Err(SyntaxError {
                message: describe(&error),
                span: self.span(error.location().unwrap_or(Location::UNKNOWN)),
            }),
        }
    }

    /// The same, in half the time, with no place but the document's own; `None` also when it is not YAML. For
    /// documents with which nothing is wrong: there may be thousands.
    pub(crate) fn parse_unplaced(&self) -> Option<Node> {
        let root = serde_saphyr::from_str_with_options::<Spanned<Unplaced>>(self.text, options()).ok()?;
        let span = self.span(root.referenced);
        Some(Node { span, ..root.value.0 }).filter(|root| root.content != Content::Null)
    }

    fn place(&self, spanned: Spanned<Raw>) -> Node {
        let span = self.span(spanned.referenced);
        let content = match spanned.value {
            Raw::Null => Content::Null,
            Raw::Bool(value) => Content::Bool(value),
            Raw::Integer(value) => Content::Integer(value),
            Raw::Float(value) => Content::Float(value),
            Raw::Text(text) => Content::Text(text),
            Raw::List(items) => Content::List(items.into_iter().map(|item| self.place(item)).collect()),
            Raw::Mapping(entries) => Content::Mapping(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        key: key.value,
                        key_span: self.span(key.referenced),
                        value: self.place(value),
                    })
                    .collect(),
            ),
        };
        Node { content, span }
    }

    /// A place in the document as a place in the file.
    fn span(&self, location: Location) -> Span {
        let start = location.span().byte_offset().unwrap_or(0) as usize;
        let end = start + location.span().byte_len().unwrap_or(0) as usize;
        Span {
            line: self.lines_before.saturating_add(location.line().max(1) as u32),
            column: location.column().max(1) as u32,
            start: self.bytes_before + start.min(self.text.len()),
            end: self.bytes_before + end.min(self.text.len()),
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // Reported by us, each with its position, instead of stopping at the first.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Merge,
        strict_booleans: true,
        reject_unsupported_tags: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        // The library's own excerpts show lines around the place, and those may hold what must not be shown.
        with_snippet: false,
    }
}

/// What the library says, without any text of the file: a broken document can have a value anywhere.
fn describe(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::UnsupportedTag { .. } => "tags (`!...`) are not taken".into(),
        Error::NonFiniteFloat { .. } => "numbers must be finite".into(),
        Error::AliasError { error, .. } => describe(error),
        Error::NullIntoString { .. } => "a key must be a text".into(),
        other => DefaultMessageFormatter.format_message(other).into_owned(),
    }
}

impl Problem for SyntaxError {
    fn remedy(&self) -> Cow<'static, str> {
        "check the indentation and the quotes here and in the line above".into()
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    let rest = line.strip_prefix(marker);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn is_blank(line: &str) -> bool {
    let text = line.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    text.is_empty() || text.starts_with('#')
}

/// The tree as the library hands it over.
enum Raw {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Box<str>),
    List(Vec<Spanned<Self>>),
    Mapping(Vec<(Spanned<Box<str>>, Spanned<Self>)>),
}

/// A tree whose parts stand nowhere.
struct Unplaced(Node);

/// A tree as it is built, with places or without.
trait Tree<'de>: Deserialize<'de> {
    type Key: Deserialize<'de>;
    type Part: Deserialize<'de>;
    fn scalar(scalar: Raw) -> Self;
    fn list(items: Vec<Self::Part>) -> Self;
    fn mapping(entries: Vec<(Self::Key, Self::Part)>) -> Self;
}

impl<'de> Tree<'de> for Raw {
    type Key = Spanned<Box<str>>;
    type Part = Spanned<Self>;

    fn scalar(scalar: Raw) -> Self {
        scalar
    }

    fn list(items: Vec<Self::Part>) -> Self {
        Self::List(items)
    }

    fn mapping(entries: Vec<(Self::Key, Self::Part)>) -> Self {
        Self::Mapping(entries)
    }
}

impl<'de> Tree<'de> for Unplaced {
    type Key = Box<str>;
    type Part = Self;

    fn scalar(scalar: Raw) -> Self {
        Self::of(match scalar {
            Raw::Bool(value) => Content::Bool(value),
            Raw::Integer(value) => Content::Integer(value),
            Raw::Float(value) => Content::Float(value),
            Raw::Text(text) => Content::Text(text),
            Raw::Null | Raw::List(_) | Raw::Mapping(_) => Content::Null,
        })
    }

    fn list(items: Vec<Self>) -> Self {
        Self::of(Content::List(items.into_iter().map(|item| item.0).collect()))
    }

    fn mapping(entries: Vec<(Box<str>, Self)>) -> Self {
        let entry = |(key, value): (Box<str>, Self)| Entry { key, key_span: NOWHERE, value: value.0 };
        Self::of(Content::Mapping(entries.into_iter().map(entry).collect()))
    }
}

impl Unplaced {
    const fn of(content: Content) -> Self {
        Self(Node { content, span: NOWHERE })
    }
}

const NOWHERE: Span = Span { line: 1, column: 1, start: 0, end: 0 };

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Unplaced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor(PhantomData))
    }
}

struct TreeVisitor<T>(PhantomData<T>);

impl<'de, T: Tree<'de>> Visitor<'de> for TreeVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::scalar(Raw::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::scalar(Raw::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(T::scalar(Raw::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        // No field takes a number this large: that it is a number is all that matters.
        Ok(T::scalar(i64::try_from(value).map_or(Raw::Float(value as f64), Raw::Integer)))
    }

    fn visit_i128<E>(self, value: i128) -> Result<T, E> {
        Ok(T::scalar(Raw::Float(value as f64)))
    }

    fn visit_u128<E>(self, value: u128) -> Result<T, E> {
        Ok(T::scalar(Raw::Float(value as f64)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<T, E> {
        Ok(T::scalar(Raw::Float(value)))
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::scalar(Raw::Text(text.into())))
    }

    fn visit_string<E>(self, text: String) -> Result<T, E> {
        Ok(T::scalar(Raw::Text(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(T::list(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<T, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(T::mapping(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        chunks(text).into_iter().map(|chunk| chunk.text).collect()
    }

    #[test]
    fn a_file_is_cut_into_its_documents() {
        assert_eq!(texts(""), Vec::<&str>::new());
        assert_eq!(texts("# a\n\n---\n# b\n...\n---\n"), Vec::<&str>::new());
        assert_eq!(texts("a: 1\n"), ["a: 1\n"]);
        assert_eq!(texts("---\na: 1\n---\nb: 2"), ["---\na: 1\n", "---\nb: 2"]);
        assert_eq!(
            texts("---\n# none\n---\na: 1\n...\n# rest\n"),
            ["---\n# none\n---\na: 1\n"].map(|t| &t[11..])
        );
        assert_eq!(
            texts("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n--- b"),
            ["%YAML 1.2\n---\na: 1\n", "%YAML 1.2\n--- b"]
        );
        assert_eq!(texts("a: |\n  ---\n  x\n----\n"), ["a: |\n  ---\n  x\n----\n"]);
    }

    #[test]
    fn positions_are_those_of_the_file() {
        let text = "\u{feff}a: 1\n---\né: [x, ü]\n";
        let [_, second] = chunks(text)[..] else { panic!("two documents") };
        let root = second.parse().expect("YAML").expect("a document");
        let Content::Mapping(entries) = root.content else { panic!("a mapping") };
        let Content::List(items) = &entries[0].value.content else { panic!("a list") };
        assert_eq!((entries[0].key_span.line, entries[0].key_span.column), (3, 1));
        assert_eq!((items[1].span.line, items[1].span.column), (3, 8));
        assert_eq!(&text[items[1].span.start..items[1].span.end], "ü");
    }

    #[test]
    fn scalars_are_those_of_yaml_1_2() {
        for (text, content) in [
            ("yes", Content::Text("yes".into())),
            ("true", Content::Bool(true)),
            ("0o17", Content::Integer(15)),
            ("\"1\"", Content::Text("1".into())),
            ("2026-12-20", Content::Text("2026-12-20".into())),
            ("03:00", Content::Text("03:00".into())),
            ("1.5", Content::Float(1.5)),
        ] {
            let root = chunks(text)[0].parse().expect("YAML").expect("a document");
            assert_eq!(root.content, content, "{text}");
        }
        for text in ["~", "null", "--- # nothing\n~"] {
            assert_eq!(chunks(text)[0].parse(), Ok(None), "{text}");
        }
    }

    /// A tree without its places.
    fn content(node: &Node) -> String {
        match &node.content {
            Content::List(items) => format!("{:?}", items.iter().map(content).collect::<Vec<_>>()),
            Content::Mapping(entries) => {
                let entry = |entry: &Entry| format!("{} => {}", entry.key, content(&entry.value));
                format!("{:?}", entries.iter().map(entry).collect::<Vec<_>>())
            }
            scalar => format!("{scalar:?}"),
        }
    }

    #[test]
    fn with_places_and_without_it_is_one_tree() {
        for text in [
            "a: 1\nb: [x, \"2\", {c: ~, d: 1.5}]\n",
            "base: &base {x: 1, y: yes}\nmore:\n  <<: *base\n  y: no\n",
            "a: 1\na: 2\n",
            "big: 18446744073709551615\nbigger: 340282366920938463463374607431768211456\n",
            "text: |\n  one\n  two\nfolded: >-\n  one\n  two\n",
            "# first\n---\n# second\na: {}\nb: []\n",
            "~",
            "just text",
        ] {
            let chunk = chunks(text)[0];
            let (placed, unplaced) = (chunk.parse().expect("YAML"), chunk.parse_unplaced());
            assert_eq!(placed.as_ref().map(content), unplaced.as_ref().map(content), "{text}");
            let spans = [&placed, &unplaced].map(|root| root.as_ref().map(|root| root.span.line));
            assert_eq!(spans[0], spans[1], "{text}");
        }
        assert_eq!(chunks("a: [")[0].parse_unplaced(), None);
    }

    #[test]
    fn what_is_said_of_a_broken_document_quotes_none_of_it() {
        for text in [
            "a: !hunter2 x",
            "a: .inf # hunter2",
            "a: \"hunter2",
            "hunter2: [",
            "a: *hunter2",
            "? [hunter2]\n: x",
            "a: hunter2: x",
        ] {
            let error = chunks(text)[0].parse().expect_err(text);
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert_eq!(error.span.line, 1, "{text}");
        }
    }
}
