//! From a directory of files to policies, and everything that is wrong with them.
//!
//! A document with an error gives no policy; the other documents of its file do. Where two policies claim
//! one thing, it belongs to the one that was there first: a file before any resource of a cluster, and of two
//! resources the one that was made earlier. Nothing says which of two files, or of two resources of one second, is
//! right, and neither is given.

mod files;
mod recipes;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;

use self::recipes::Found;
pub(crate) use self::recipes::read_text as read_recipes;
use super::diagnostic::{Diagnostic, Problem, Source, choose};
use super::document::{Document, Metadata};
use super::node::{Chunk, Content, Node, Span, chunks};
use super::shape::{FieldPath, Site, shape};
use super::validate::{Breach, Claim, Recipes, Rule, Surroundings, breaches, claims, names_recipe, settle};
use super::{API_VERSION, KIND, Policy, Spec};
use crate::ident::{DnsLabel, PolicyName};
use crate::recipe::Family;
use crate::settings::Settings;

/// The `kind` of recipes for consumers.
const CONSUMER_RECIPE: &str = "ConsumerRecipe";

/// Those of recipes.
const RECIPES: [&str; 2] = ["Recipe", CONSUMER_RECIPE];

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The policies that hold to every rule, by file and position.
    pub policies: Vec<Policy>,
    /// Policies that hold to every rule but that they claim what another one claims.
    pub disputed: BTreeSet<PolicyName>,
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
/// ConfigMap; links to files are read, links to folders are not followed. Schedules are checked from `now` on.
#[must_use]
pub fn load_policies(
    directory: Option<&Path>,
    texts: &[Text],
    settings: &Settings,
    now: Timestamp,
) -> Loaded {
    load(directory, texts, settings, (true, now))
}

/// A document that is in no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Stands for it in diagnostics: `RotationPolicy orders/orders-db`.
    pub name: String,
    pub text: Arc<str>,
    /// When it was made.
    pub since: Timestamp,
}

/// Finds what is wrong with policies whose settings have mistakes, too: nothing is held against what is not
/// certain. None of the policies may be put in force.
#[must_use]
pub fn review_policies(directory: Option<&Path>, settings: &Settings, now: Timestamp) -> Loaded {
    load(directory, &[], settings, (false, now))
}

fn load(
    directory: Option<&Path>,
    texts: &[Text],
    settings: &Settings,
    (certain, now): (bool, Timestamp),
) -> Loaded {
    let surroundings = Surroundings::new(settings, certain, now);
    let of_resources = Surroundings::new(settings, certain, now).of_resources();
    let mut diagnostics = Vec::new();
    let paths = directory.map_or_else(Vec::new, |directory| files::below(directory, &mut diagnostics));
    let places: Vec<Place<'_>> =
        paths.into_iter().map(Place::Path).chain(texts.iter().map(Place::Text)).collect();
    let read = |place: &Place<'_>| match place {
        Place::Path(path) => File::read_path(path, &surroundings),
        Place::Text(Text { name, text, since }) => {
            let source = Source::new(name, text.to_string());
            Ok(File { since: Some(*since), ..File::read_text(source, &of_resources) })
        }
    };
    // Parsing takes nearly all of the time, and no file needs another one.
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(8);
    let share = places.len().div_ceil(threads).max(1);
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = places
            .chunks(share)
            .map(|places| scope.spawn(move || places.iter().map(read).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    let mut files = Vec::with_capacity(results.len());
    for result in results {
        match result {
            Ok(file) => files.push(file),
            Err(diagnostic) => diagnostics.push(*diagnostic),
        }
    }
    join(files, diagnostics, settings, certain)
}

/// Reads the documents of one text; `name` stands for it in diagnostics.
#[must_use]
pub fn parse_policies(name: &str, text: &str, settings: &Settings, now: Timestamp) -> Loaded {
    let source = Source::new(name, text.to_owned());
    let file = File::read_text(source, &Surroundings::new(settings, true, now));
    join(vec![file], Vec::new(), settings, true)
}

/// What one file holds. Its text and trees are gone by then: there may be thousands of policies.
struct File {
    origin: Origin,
    /// When it was made; `None` of one that is in the directory.
    since: Option<Timestamp>,
    candidates: Vec<Candidate>,
    recipes: Vec<Found>,
    diagnostics: Vec<Diagnostic>,
}

/// Where a document is.
enum Place<'a> {
    Path(PathBuf),
    Text(&'a Text),
}

/// Where a text can be had again, to point into it.
enum Origin {
    Path(PathBuf),
    Text(Source),
}

/// A policy that must be compared with the others before it counts.
struct Candidate {
    policy: Policy,
    /// The number of its document in the file.
    chunk: usize,
    is_valid: bool,
    /// The parts that are not as their author meant them: it claims nothing by these.
    doubtful: Vec<FieldPath>,
}

impl Candidate {
    fn claims(&self, settings: &Settings) -> Vec<(FieldPath, Claim)> {
        let mut claims = claims(self.policy.name(), self.policy.spec(), settings);
        claims.retain(|(path, _)| {
            let part = path.head(2);
            !self.doubtful.iter().any(|fault| fault.touches(&part))
        });
        claims
    }
}

impl File {
    fn read_path(path: &Path, surroundings: &Surroundings<'_>) -> Result<Self, Box<Diagnostic>> {
        let source = Source::read(path)?;
        let read = read_documents(&source, surroundings);
        Ok(Self { origin: Origin::Path(path.to_owned()), ..read })
    }

    fn read_text(source: Source, surroundings: &Surroundings<'_>) -> Self {
        let read = read_documents(&source, surroundings);
        Self { origin: Origin::Text(source), ..read }
    }

    /// Says of a field of a candidate that it breaks a rule. Reads the text once more: this is rare, and
    /// keeping every text would not be.
    fn diagnose(&self, candidate: &Candidate, path: &FieldPath, rule: &Rule) -> Diagnostic {
        self.diagnose_at(candidate.chunk, path, rule)
    }

    /// Holds the policies that name a recipe against it.
    fn settle(
        &mut self,
        recipes: &Recipes,
        settings: &Settings,
        certain: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let mut candidates = std::mem::take(&mut self.candidates);
        for candidate in &mut candidates {
            if !names_recipe(&candidate.policy.spec) {
                continue;
            }
            let doubtful = &candidate.doubtful;
            let is_meant = |part: &FieldPath| !doubtful.iter().any(|fault| fault.touches(part));
            let spec = Arc::make_mut(&mut candidate.policy.spec);
            for Breach { path, rule } in settle(spec, recipes, settings, is_meant) {
                if certain || !rule.rests_on_settings() {
                    let diagnostic = self.diagnose(candidate, &path, &rule);
                    candidate.is_valid &= !diagnostic.is_error();
                    diagnostics.push(diagnostic);
                }
            }
        }
        self.candidates = candidates;
    }

    fn diagnose_at(&self, chunk: usize, path: &FieldPath, rule: &Rule) -> Diagnostic {
        let read;
        let source = match &self.origin {
            Origin::Text(source) => source,
            Origin::Path(file) => match Source::read(file) {
                Ok(source) => {
                    read = source;
                    &read
                }
                Err(diagnostic) => return *diagnostic,
            },
        };
        match self.site(source, chunk, path) {
            Some(site) => source.diagnose(site, path, rule),
            None => Diagnostic::of_file(source.name(), rule),
        }
    }

    /// Where a field of a candidate stands, as `policies/orders.yaml:3:9`.
    fn place(&self, candidate: &Candidate, path: &FieldPath) -> String {
        let read = match &self.origin {
            Origin::Text(source) => {
                self.site(source, candidate.chunk, path).map(|site| (source.name().to_owned(), site))
            }
            Origin::Path(file) => Source::read(file).ok().and_then(|source| {
                Some((source.name().to_owned(), self.site(&source, candidate.chunk, path)?))
            }),
        };
        match read {
            Some((name, site)) => {
                let Span { line, column, .. } = site.span();
                format!("{name}:{line}:{column}")
            }
            None => candidate.policy.source().to_owned(),
        }
    }

    /// `None` when the file has changed since it was read.
    fn site(&self, source: &Source, chunk: usize, path: &FieldPath) -> Option<Site> {
        let root = chunks(source.text()).into_iter().nth(chunk)?.parse().ok()??;
        Some(path.locate(&root))
    }
}

/// Its origin is for whoever knows it to put there.
fn read_documents(source: &Source, surroundings: &Surroundings<'_>) -> File {
    let (mut candidates, mut recipes, mut diagnostics) = (Vec::new(), Vec::new(), Vec::new());
    for (number, chunk) in chunks(source.text()).into_iter().enumerate() {
        let before = diagnostics.len();
        let read = read_document(source, chunk, surroundings, &mut diagnostics);
        let is_valid = !diagnostics[before..].iter().any(Diagnostic::is_error);
        match read {
            Some(Read::Policy(policy, doubtful)) => {
                candidates.push(Candidate { policy, chunk: number, is_valid, doubtful });
            }
            Some(Read::Recipe(name, recipe, line)) => {
                let place = format!("{}:{line}", source.name());
                recipes.push(Found { name, recipe, place, chunk: number, is_valid });
            }
            None => {}
        }
    }
    let origin = Origin::Path(PathBuf::new());
    File { origin, since: None, candidates, recipes, diagnostics }
}

/// What a document is, with the parts of a policy that are not as their author meant them.
enum Read {
    Policy(Policy, Vec<FieldPath>),
    Recipe(DnsLabel, Family, u32),
}

fn read_document(
    source: &Source,
    chunk: Chunk<'_>,
    surroundings: &Surroundings<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Read> {
    if let Some(policy) = read_sound(source, chunk, surroundings) {
        return Some(Read::Policy(policy, Vec::new()));
    }
    let mut root = match chunk.parse() {
        Ok(root) => root?,
        Err(error) => {
            diagnostics.push(source.diagnose_syntax(&error));
            return None;
        }
    };
    if let Some((path, problem)) = foreign(&root) {
        diagnostics.push(source.diagnose(path.locate(&root), &path, &problem));
        return None;
    }
    if kind_of(&root).is_some_and(|kind| RECIPES.contains(&kind)) {
        let (name, recipe) = recipes::read(source, &mut root, diagnostics)?;
        return Some(Read::Recipe(name, recipe, root.span.line));
    }
    let mut faults = Vec::new();
    let (document, doubtful) = shape::<Document>(&mut root, &mut faults);
    for fault in &faults {
        diagnostics.push(source.diagnose(fault.site, &fault.path, &fault.reason));
    }
    let Document { metadata, spec, .. } = document?;

    for Breach { path, rule } in breaches(&metadata.policy_name(), &spec, surroundings) {
        if may_follow(&path, &rule, &doubtful) || (!surroundings.certain && rule.rests_on_settings()) {
            continue;
        }
        let whole = path.locate(&root);
        let line = match &rule {
            Rule::Template(error) => error.line().and_then(|line| source.line_of_block(whole, line)),
            _ => None,
        };
        diagnostics.push(source.diagnose(line.unwrap_or(whole), &path, &rule));
    }

    Some(Read::Policy(policy(source, &root, metadata, spec), doubtful))
}

/// The policy of a document with which nothing is wrong. Places are for mistakes, and cost as much as all else.
fn read_sound(source: &Source, chunk: Chunk<'_>, surroundings: &Surroundings<'_>) -> Option<Policy> {
    let mut root = chunk.parse_unplaced()?;
    if foreign(&root).is_some() || kind_of(&root) != Some(KIND) {
        return None;
    }
    let mut faults = Vec::new();
    let (document, _) = shape::<Document>(&mut root, &mut faults);
    let Document { metadata, spec, .. } = document?;
    let is_sound = faults.is_empty() && breaches(&metadata.policy_name(), &spec, surroundings).is_empty();
    is_sound.then(|| policy(source, &root, metadata, spec))
}

fn policy(source: &Source, root: &Node, metadata: Metadata, mut spec: Spec) -> Policy {
    spec.settle(&metadata.namespace);
    Policy {
        name: metadata.policy_name(),
        labels: metadata.labels.into_iter().collect(),
        spec: Arc::new(spec),
        source: format!("{}:{}", source.name(), root.span.line).into(),
    }
}

/// Whether what is wrong with a field may only come from a fault: in the field itself, or in what the rule
/// was judged on besides. Such rules stay within one part of the specification, but for that of a value's age
/// against its grace.
fn may_follow(path: &FieldPath, rule: &Rule, doubtful: &[FieldPath]) -> bool {
    let retire = FieldPath::from(["spec", "retire"]);
    let aged = matches!(rule, Rule::MaxAgeWithinGrace { .. });
    doubtful.iter().any(|fault| {
        path.touches(fault)
            || (rule.spans_fields() && path.head(2).touches(fault))
            || (aged && fault.touches(&retire))
    })
}

fn join(
    mut files: Vec<File>,
    mut diagnostics: Vec<Diagnostic>,
    settings: &Settings,
    certain: bool,
) -> Loaded {
    let recipes = recipes::found(&files, &mut diagnostics);
    for file in &mut files {
        file.settle(&recipes, settings, certain, &mut diagnostics);
    }
    let disputes = disputes(&files, settings, &mut diagnostics);
    let (mut policies, mut disputed) = (Vec::new(), BTreeSet::new());
    for (index, file) in files.into_iter().enumerate() {
        diagnostics.extend(file.diagnostics);
        for (at, candidate) in file.candidates.into_iter().enumerate() {
            match (candidate.is_valid, disputes.contains(&(index, at))) {
                (true, false) => policies.push(candidate.policy),
                (true, true) => {
                    disputed.insert(candidate.policy.name().clone());
                }
                (false, _) => {}
            }
        }
    }
    diagnostics.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
    Loaded { policies, disputed, diagnostics }
}

/// Finds the candidates that claim what is not theirs, by file and number, and reports them. Of two files the
/// second is reported, which names the first; of two resources each has a status of its own to be told in.
fn disputes(
    files: &[File],
    settings: &Settings,
    diagnostics: &mut Vec<Diagnostic>,
) -> HashSet<(usize, usize)> {
    let mut disputed = HashSet::new();
    // Claims are remembered by their hashes and made again when two meet.
    let hasher = RandomState::new();
    let mut holders: HashMap<u64, (usize, usize)> = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        for (at, candidate) in file.candidates.iter().enumerate() {
            for (path, claim) in candidate.claims(settings) {
                let holder = match holders.entry(hasher.hash_one(&claim)) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        entry.insert((index, at));
                        continue;
                    }
                };
                let (other_file, other) = (&files[holder.0], &files[holder.0].candidates[holder.1]);
                let Some((other_path, _)) =
                    other.claims(settings).into_iter().find(|(_, other)| *other == claim)
                else {
                    continue;
                };
                let mut refuse = |(file, candidate, path): Claimant<'_>,
                                  (first, holder, at): Claimant<'_>| {
                    let rule = claim.taken(holder.policy.name(), first.place(holder, at));
                    diagnostics.push(file.diagnose(candidate, path, &rule));
                };
                let (this, that) = ((file, candidate, &path), (other_file, other, &other_path));
                match file.since.cmp(&other_file.since) {
                    Ordering::Greater => {
                        disputed.insert((index, at));
                        refuse(this, that);
                    }
                    Ordering::Less => {
                        disputed.insert(holder);
                        refuse(that, this);
                        holders.insert(hasher.hash_one(&claim), (index, at));
                    }
                    Ordering::Equal => {
                        disputed.extend([(index, at), holder]);
                        refuse(this, that);
                        if file.since.is_some() {
                            refuse(that, this);
                        }
                    }
                }
            }
        }
    }
    disputed
}

/// A candidate of a file, and the field by which it claims something.
type Claimant<'a> = (&'a File, &'a Candidate, &'a FieldPath);

/// Whether a document is of another kind, so that its fields are none of ours.
fn foreign(root: &Node) -> Option<(FieldPath, Foreign)> {
    match (text_of(root, "apiVersion"), kind_of(root)) {
        (_, Some(kind)) if kind != KIND && !RECIPES.contains(&kind) => {
            Some((["kind"].into(), Foreign::Kind(kind.into())))
        }
        (Some(version), _) if version != API_VERSION => {
            Some((["apiVersion"].into(), Foreign::Version(version.into())))
        }
        _ => None,
    }
}

fn kind_of(root: &Node) -> Option<&str> {
    text_of(root, "kind")
}

fn text_of<'a>(root: &'a Node, name: &str) -> Option<&'a str> {
    let Content::Mapping(entries) = &root.content else { return None };
    match &entries.iter().find(|entry| &*entry.key == name)?.value.content {
        Content::Text(text) => Some(&**text),
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
