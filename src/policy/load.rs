//! From a directory of files to policies, and everything that is wrong with them.
//!
//! A document with an error gives no policy; the other documents of its file do. Where two policies claim
//! one thing, neither is given: nothing says which of them is right.

mod files;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Problem, Source, choose};
use super::document::Document;
use super::node::{Chunk, Content, Node, chunks};
use super::shape::{FieldPath, Site, shape};
use super::validate::{Breach, Claim, Rule, Surroundings, breaches, claims};
use super::{API_VERSION, KIND, Policy};
use crate::settings::Settings;

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The policies that hold to every rule, by file and position.
    pub policies: Vec<Policy>,
    /// By file and position.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// Whether anything that was read cannot be used.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Reads every `*.yaml` and `*.yml` below a directory.
///
/// Names that begin with `.` are left out, which is how Kubernetes hides the folders behind a mounted
/// ConfigMap; links to files are read, links to folders are not followed.
#[must_use]
pub fn load_policies(directory: &Path, settings: &Settings) -> Loaded {
    let mut loader = Loader::new(settings);
    let files = files::below(directory, &mut loader.diagnostics);
    for path in files {
        match Source::read(&path) {
            Ok(source) => loader.read(source),
            Err(diagnostic) => loader.diagnostics.push(*diagnostic),
        }
    }
    loader.finish()
}

/// Reads the documents of one text; `name` stands for it in diagnostics.
#[must_use]
pub fn parse_policies(name: &str, text: &str, settings: &Settings) -> Loaded {
    let mut loader = Loader::new(settings);
    loader.read(Source::new(name, text.to_owned()));
    loader.finish()
}

struct Loader<'a> {
    surroundings: Surroundings<'a>,
    sources: Vec<Source>,
    candidates: Vec<Candidate>,
    diagnostics: Vec<Diagnostic>,
}

/// A policy, and what must be compared with the others before it counts.
struct Candidate {
    policy: Policy,
    source: usize,
    claims: Vec<(FieldPath, Claim, Site)>,
    is_valid: bool,
}

impl<'a> Loader<'a> {
    fn new(settings: &'a Settings) -> Self {
        let surroundings = Surroundings { settings, places: settings.places() };
        Self { surroundings, sources: Vec::new(), candidates: Vec::new(), diagnostics: Vec::new() }
    }

    fn read(&mut self, source: Source) {
        let index = self.sources.len();
        for chunk in chunks(source.text()) {
            let before = self.diagnostics.len();
            if let Some(mut candidate) = self.read_document(&source, chunk) {
                candidate.source = index;
                candidate.is_valid = !self.diagnostics[before..].iter().any(Diagnostic::is_error);
                self.candidates.push(candidate);
            }
        }
        self.sources.push(source);
    }

    fn read_document(&mut self, source: &Source, chunk: Chunk<'_>) -> Option<Candidate> {
        let mut root = match chunk.parse() {
            Ok(root) => root?,
            Err(error) => {
                self.diagnostics.push(source.diagnose_syntax(&error));
                return None;
            }
        };
        if let Some((path, problem)) = foreign(&root) {
            self.diagnostics.push(source.diagnose(path.locate(&root), &path, &problem));
            return None;
        }
        let mut faults = Vec::new();
        let document = shape::<Document>(&mut root, &mut faults);
        for fault in &faults {
            self.diagnostics.push(source.diagnose(fault.site, &fault.path, &fault.reason));
        }
        let Document { metadata, spec, .. } = document?;

        // What stands beside a dropped field may be right together with it.
        let in_doubt = |path: &FieldPath| faults.iter().any(|fault| fault.path.parent() == path.parent());
        for Breach { path, rule } in breaches(&spec, &self.surroundings) {
            if !in_doubt(&path) {
                let site = path.locate(&root);
                let site = match &rule {
                    Rule::Template(error) => {
                        error.line().and_then(|line| source.line_of_block(site, line)).unwrap_or(site)
                    }
                    _ => site,
                };
                self.diagnostics.push(source.diagnose(site, &path, &rule));
            }
        }

        let name = metadata.policy_name();
        let place = |(path, claim): (FieldPath, Claim)| {
            let site = path.locate(&root);
            (path, claim, site)
        };
        let claims = claims(&name, &spec, self.surroundings.settings).into_iter().map(place).collect();
        let policy = Policy {
            name,
            labels: metadata.labels,
            spec: Arc::new(spec),
            source: format!("{}:{}", source.name(), root.span.line).into(),
        };
        Some(Candidate { policy, source: 0, claims, is_valid: true })
    }

    fn finish(mut self) -> Loaded {
        let disputed = self.compare();
        self.diagnostics.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
        let policies = self
            .candidates
            .into_iter()
            .zip(disputed)
            .filter(|(candidate, disputed)| candidate.is_valid && !disputed)
            .map(|(candidate, _)| candidate.policy)
            .collect();
        Loaded { policies, diagnostics: self.diagnostics }
    }

    /// Finds the candidates that claim the same, and reports each but the first.
    fn compare(&mut self) -> Vec<bool> {
        let mut disputed = vec![false; self.candidates.len()];
        let mut first: HashMap<&Claim, (usize, Site)> = HashMap::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            for (path, claim, site) in &candidate.claims {
                let Some((other, other_site)) = first.get(claim).copied() else {
                    first.insert(claim, (index, *site));
                    continue;
                };
                (disputed[index], disputed[other]) = (true, true);
                let span = other_site.span();
                let other = &self.candidates[other];
                let place = format!("{}:{}:{}", self.sources[other.source].name(), span.line, span.column);
                let rule = claim.taken(&other.policy.name, place);
                self.diagnostics.push(self.sources[candidate.source].diagnose(*site, path, &rule));
            }
        }
        disputed
    }
}

/// Whether a document is of another kind, so that its fields are none of ours.
fn foreign(root: &Node) -> Option<(FieldPath, Foreign)> {
    let text = |name| match &root.content {
        Content::Mapping(entries) => {
            entries.iter().find(|entry| &*entry.key == name).and_then(|entry| match &entry.value.content {
                Content::Text(text) => Some(&**text),
                _ => None,
            })
        }
        _ => None,
    };
    match (text("apiVersion"), text("kind")) {
        (_, Some(kind)) if kind != KIND => Some((["kind"].into(), Foreign::Kind(kind.into()))),
        (Some(version), _) if version != API_VERSION => {
            Some((["apiVersion"].into(), Foreign::Version(version.into())))
        }
        _ => None,
    }
}

/// How a document is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Foreign {
    #[error("a `{0}` is not read from the policy directory")]
    Kind(String),
    #[error("`{0}` is not a version that this rekeyd reads")]
    Version(String),
}

impl Problem for Foreign {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Kind(kind) if strsim::damerau_levenshtein(kind, KIND) < 4 => choose(kind, [KIND]).into(),
            Self::Kind(_) => format!("move it elsewhere; policies are of kind `{KIND}`").into(),
            Self::Version(_) => format!("write `apiVersion: {API_VERSION}`").into(),
        }
    }
}
