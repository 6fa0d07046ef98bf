//! From a tree to typed values, with every structural fault of the document, not the first alone.
//!
//! Serde stops at the first error, so the tree is read again without the part that was wrong until the
//! rest holds. Where the document cannot do without a part, a stand-in takes its place, so that everything
//! else can be looked at in the same run. The derived types are the only list of fields: names, allowed
//! values, defaults and stand-ins come from them.

mod deserialize;
mod schema;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use self::deserialize::Tree;
use self::schema::Schema;
use super::diagnostic::{Problem, choose, list};
use super::node::{Content, Entry, Node, Span};

/// The way from a document's root to one of its parts. Prints as `spec.consumers[0].file.path`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct FieldPath(Vec<Step>);

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Key(Cow<'static, str>),
    Index(usize),
}

impl From<&'static str> for Step {
    fn from(key: &'static str) -> Self {
        Self::Key(key.into())
    }
}

impl From<String> for Step {
    fn from(key: String) -> Self {
        Self::Key(key.into())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl FieldPath {
    pub(crate) fn join(&self, step: impl Into<Step>) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.into());
        Self(steps)
    }

    /// The part that holds this one; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, parents) = self.0.split_last()?;
        Some(Self(parents.to_vec()))
    }

    /// Whether it is the other part, holds it or is in it.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        let shared = self.0.len().min(other.0.len());
        self.0[..shared] == other.0[..shared]
    }

    /// Whether it is the other part or is in it.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Its first steps, up to so many.
    pub(crate) fn head(&self, steps: usize) -> Self {
        Self(self.0.iter().take(steps).cloned().collect())
    }

    /// How many steps it is away from the root.
    pub(crate) fn depth(&self) -> usize {
        self.0.len()
    }

    /// Where the part stands. For a part that is absent, where the nearest one around it is named.
    pub(crate) fn locate(&self, root: &Node) -> Site {
        let (mut node, mut site) = (root, Site::Value { span: root.span, key: None });
        for step in &self.0 {
            match (step, &node.content) {
                (Step::Key(name), Content::Mapping(entries)) => {
                    match entries.iter().find(|entry| *entry.key == **name) {
                        Some(entry) => {
                            site = Site::Value { span: entry.value.span, key: Some(entry.key_span) };
                            node = &entry.value;
                        }
                        None => return site.named(),
                    }
                }
                (Step::Index(index), Content::List(items)) => match items.get(*index) {
                    Some(item) => {
                        site = Site::Value { span: item.span, key: None };
                        node = item;
                    }
                    None => return site.named(),
                },
                _ => return site.named(),
            }
        }
        match node.content {
            // A whole block, and nothing at all, are pointed at by their name.
            Content::List(_) | Content::Mapping(_) | Content::Null => site.named(),
            _ => site,
        }
    }

    /// Whether the mapping has the field, be it a dropped one.
    fn holds(&self, root: &Node, name: &str) -> bool {
        self.entries(root).iter().any(|entry| *entry.key == *name)
    }

    /// Whether anything in the mapping was dropped.
    pub(crate) fn has_lost(&self, root: &Node) -> bool {
        self.entries(root).iter().any(|entry| entry.value.content == Content::Dropped)
    }

    /// The entries of a mapping, none where there is no mapping.
    fn entries<'a>(&self, root: &'a Node) -> &'a [Entry] {
        let node = self.0.iter().try_fold(root, |node, step| match (step, &node.content) {
            (Step::Key(name), Content::Mapping(entries)) => {
                entries.iter().find(|entry| *entry.key == **name).map(|entry| &entry.value)
            }
            (Step::Index(index), Content::List(items)) => items.get(*index),
            _ => None,
        });
        match node.map(|node| &node.content) {
            Some(Content::Mapping(entries)) => entries,
            _ => &[],
        }
    }

    fn find<'a>(&self, root: &'a mut Node) -> Option<&'a mut Node> {
        self.0.iter().try_fold(root, |node, step| match (step, &mut node.content) {
            (Step::Key(name), Content::Mapping(entries)) => {
                entries.iter_mut().find(|entry| *entry.key == **name).map(|entry| &mut entry.value)
            }
            (Step::Index(index), Content::List(items)) => items.get_mut(*index),
            _ => None,
        })
    }
}

impl<S: Into<Step>, const N: usize> From<[S; N]> for FieldPath {
    fn from(steps: [S; N]) -> Self {
        Self(steps.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) => {
                    write!(f, "{}{key}", if index == 0 { "" } else { "." })?;
                }
                Step::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// Where something in a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// A key.
    Key(Span),
    /// A value, and its key when it has one.
    Value { span: Span, key: Option<Span> },
}

impl Site {
    pub(crate) fn span(self) -> Span {
        match self {
            Self::Key(span) | Self::Value { span, .. } => span,
        }
    }

    /// The key in place of the value, where there is one.
    fn named(self) -> Self {
        match self {
            Self::Value { key: Some(key), .. } => Self::Key(key),
            other => other,
        }
    }
}

/// Something about a document's structure that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: FieldPath,
    pub(crate) site: Site,
    pub(crate) reason: Reason,
}

impl Fault {
    /// The part that is not as its author meant it: a missing field's own place.
    fn part(&self) -> FieldPath {
        match &self.reason {
            Reason::MissingField { name } => self.path.join(name.clone().into_owned()),
            _ => self.path.clone(),
        }
    }
}

/// What can be wrong about a document's structure. Quotes names and texts of known fields, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("unknown field `{name}`")]
    UnknownField { name: String, known: &'static [&'static str] },
    #[error("the field `{name}` is missing")]
    MissingField { name: Cow<'static, str> },
    #[error("the field `{name}` stands here twice")]
    DuplicateField { name: Box<str> },
    #[error("expected {expected}, found {found}")]
    WrongKind { expected: String, found: &'static str },
    #[error("expected a list of {expected}, found one of {found}")]
    WrongLength { expected: usize, found: usize },
    #[error("`{name}` is not among the choices")]
    UnknownChoice { name: String, known: &'static [&'static str] },
    #[error("expected exactly one of {}", list(.known.iter()))]
    NotOneOf { known: &'static [&'static str] },
    #[error("`{name}` needs fields of its own")]
    NeedsContent { name: Box<str> },
    #[error("this choice has no fields")]
    NoContent,
    /// What a type with a text form says of a wrong one.
    #[error("{message}")]
    Invalid { message: String, remedy: Option<String> },
    #[error("more than {MOST_FAULTS} errors in one document")]
    TooMany,
    /// A part was reported and dropped, and what holds it cannot do without. Never reported.
    #[error("incomplete")]
    Incomplete,
}

/// Beyond this, a document is not one with mistakes but something else.
const MOST_FAULTS: usize = 100;

/// Reads a typed value and adds every fault to `faults`.
///
/// A value is returned where what is left after taking the wrong parts out, with stand-ins for those that
/// must be there, still makes one: further rules can be checked on it, but it must not be used when there
/// are faults. With it come the parts that are not as their author meant them.
pub(crate) fn shape<T: DeserializeOwned + JsonSchema>(
    root: &mut Node,
    faults: &mut Vec<Fault>,
) -> (Option<T>, Vec<FieldPath>) {
    let mut stand_ins = StandIns { schema: None, placed: Vec::new() };
    let value = shape_with(root, faults, &mut stand_ins);
    let mut doubtful = stand_ins.placed;
    doubtful.extend(faults.iter().map(Fault::part));
    (value, doubtful)
}

fn shape_with<T: DeserializeOwned + JsonSchema>(
    root: &mut Node,
    faults: &mut Vec<Fault>,
    stand_ins: &mut StandIns,
) -> Option<T> {
    drop_duplicates(root, &FieldPath::default(), faults);
    let most = faults.len() + MOST_FAULTS;
    loop {
        let error = match T::deserialize(Tree(root)) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let path = error.path();
        match error.reason {
            Reason::Incomplete => {}
            // What stands in for something has no faults of its own. It goes with what holds it.
            _ if stand_ins.placed.iter().any(|placed| path.is_within(placed)) => {}
            Reason::MissingField { name } => {
                let schema = stand_ins.schema::<T>();
                report_missing(schema, root, &path, &name, faults);
                if stand_ins.place::<T>(root, &path, &name) {
                    continue;
                }
            }
            reason => {
                let site = path.locate(root);
                let site = if error.at_key { site.named() } else { site };
                faults.push(Fault { path: path.clone(), site, reason });
            }
        }
        if faults.len() > most {
            let site = FieldPath::default().locate(root);
            faults.push(Fault { path: FieldPath::default(), site, reason: Reason::TooMany });
            return None;
        }
        match path.find(root) {
            Some(node) if path != FieldPath::default() => node.content = Content::Dropped,
            _ => return None,
        }
    }
}

/// What takes the place of parts that a document cannot do without.
struct StandIns {
    /// Made when it is first needed: most documents have no mistakes.
    schema: Option<Schema>,
    placed: Vec<FieldPath>,
}

impl StandIns {
    fn schema<T: JsonSchema>(&mut self) -> &Schema {
        self.schema.get_or_insert_with(Schema::of::<T>)
    }

    /// Puts one where a field is missing or was dropped; `false` if there is none that could.
    fn place<T: JsonSchema>(&mut self, root: &mut Node, mapping: &FieldPath, name: &str) -> bool {
        let path = mapping.join(name.to_owned());
        if self.placed.contains(&path) {
            return false;
        }
        let Some(value) = self.schema::<T>().stand_in(&path) else { return false };
        let Some(node) = mapping.find(root) else { return false };
        let span = node.span;
        let Content::Mapping(entries) = &mut node.content else { return false };
        let value = Node::unwritten(value, span);
        match entries.iter_mut().find(|entry| *entry.key == *name) {
            Some(entry) => entry.value = value,
            None => entries.push(Entry { key: name.into(), key_span: span, value }),
        }
        self.placed.push(path);
        true
    }
}

/// Takes out the second of two entries with one key, and reports it.
fn drop_duplicates(node: &mut Node, path: &FieldPath, faults: &mut Vec<Fault>) {
    match &mut node.content {
        Content::List(items) => {
            for (index, item) in items.iter_mut().enumerate().filter(|(_, item)| item.has_parts()) {
                drop_duplicates(item, &path.join(index), faults);
            }
        }
        Content::Mapping(entries) => {
            let mut seen = BTreeSet::new();
            for entry in entries {
                let path = || path.join(entry.key.to_string());
                if seen.insert(&entry.key) {
                    if entry.value.has_parts() {
                        drop_duplicates(&mut entry.value, &path(), faults);
                    }
                } else {
                    entry.value.content = Content::Dropped;
                    faults.push(Fault {
                        path: path(),
                        site: Site::Key(entry.key_span),
                        reason: Reason::DuplicateField { name: entry.key.clone() },
                    });
                }
            }
        }
        _ => {}
    }
}

/// Reports every field that the mapping at `path` misses, save those that were dropped.
fn report_missing(schema: &Schema, root: &Node, path: &FieldPath, first: &str, faults: &mut Vec<Fault>) {
    let present = |name: &str| path.holds(root, name);
    let site = path.locate(root).named();
    let mut missing = schema.required(path);
    if !missing.iter().any(|name| name == first) {
        missing.push(first.to_owned());
    }
    missing.retain(|name| !present(name));
    for name in missing {
        let reason = Reason::MissingField { name: name.into() };
        if !faults.iter().any(|fault| fault.path == *path && fault.reason == reason) {
            faults.push(Fault { path: path.clone(), site, reason });
        }
    }
}

impl Problem for Reason {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::UnknownField { name, known } | Self::UnknownChoice { name, known } => {
                choose(name, *known).into()
            }
            Self::MissingField { name } => format!("add `{name}:`").into(),
            Self::DuplicateField { .. } => "keep one of the two".into(),
            Self::WrongKind { expected, found: "a number" | "true or false" } if expected == "text" => {
                "put it in quotes".into()
            }
            Self::WrongKind { found: "nothing", .. } => "give it a value, or remove it".into(),
            Self::WrongKind { expected, .. } => format!("write {expected}").into(),
            Self::WrongLength { expected, .. } => format!("write {expected} of them").into(),
            Self::NotOneOf { .. } => "keep one of them".into(),
            Self::NeedsContent { name } => format!("write `{name}:` and its fields below it").into(),
            Self::NoContent => "write its name alone".into(),
            Self::Invalid { remedy: Some(remedy), .. } => remedy.clone().into(),
            Self::Invalid { remedy: None, .. } => "see the field's description in the JSON Schema".into(),
            Self::TooMany => "correct these first, then check again".into(),
            Self::Incomplete => "".into(),
        }
    }

    /// A text where no text belongs may be a pasted secret.
    fn conceals(&self) -> bool {
        !matches!(self, Self::UnknownChoice { .. } | Self::Invalid { .. })
    }
}
