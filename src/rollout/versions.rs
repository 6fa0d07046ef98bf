//! The file of a GitOps repository that says for which versions pods are to be made. Pure.
//!
//! It is a kustomize patch: one document for each workload, with the annotations of its pod template and nothing
//! else. Its first line says that it is rekeyd's, and for which namespace of which cluster: whoever may commit it
//! agrees to that, and no policy of another namespace reaches the workloads that are in it.
//!
//! ```yaml
//! # rekeyd.dev/versions-of main:orders
//! apiVersion: apps/v1
//! kind: Deployment
//! metadata:
//!   name: app
//!   namespace: orders
//! spec:
//!   template:
//!     metadata:
//!       annotations:
//!         rekeyd.dev/version.orders-db: "17"
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};

use super::reference::ANNOTATION;
use super::workload::{api_of, template_pointer};
use crate::ident::{DnsLabel, Version};
use crate::policy::spec::{WorkloadKind, WorkloadName};

/// What the first line begins with.
const MARK: &str = "# rekeyd.dev/versions-of ";

/// What the second line says.
const NOTICE: &str =
    "# Written by rekeyd: the versions of Secrets that pods are to be made for. Other comments are not kept.";

/// A namespace of a cluster, as `main:orders`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) cluster: DnsLabel,
    pub(super) namespace: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cluster, self.namespace)
    }
}

/// What such a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Versions {
    place: Place,
    workloads: BTreeMap<WorkloadName, Entry>,
}

/// What it says of one workload. A document stays when nothing is left to say: kustomize takes it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    /// A patch has to name the namespace where the manifest does, and must not where it does not.
    names_namespace: bool,
    versions: BTreeMap<String, Version>,
}

/// Why a file is not rekeyd's to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    #[error("there is no such file")]
    Missing(Place),
    #[error("its first line does not say that it is rekeyd's, for {0}")]
    Unmarked(Place),
    #[error("it is not YAML")]
    Broken,
    #[error("document {0} is not a workload with versions of Secrets alone")]
    Foreign(usize),
    #[error("{0} stands in it twice")]
    Twice(WorkloadName),
}

impl Misfit {
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Missing(place) => format!(
                "commit it with the line `{MARK}{place}`, and name it under `patches` of the kustomization beside it"
            ),
            Self::Unmarked(place) => {
                format!("use a file of rekeyd's own; if this is to be it, begin it with `{MARK}{place}`")
            }
            Self::Broken | Self::Foreign(_) => {
                "use a file of rekeyd's own, or take out of it what rekeyd did not write".into()
            }
            Self::Twice(_) => "take one of the two out".into(),
        }
    }
}

impl Versions {
    /// Reads a file that is to be of a place.
    pub(super) fn parse(content: Option<&[u8]>, place: &Place) -> Result<Self, Misfit> {
        let content = content.ok_or_else(|| Misfit::Missing(place.clone()))?;
        let text = std::str::from_utf8(content).map_err(|_| Misfit::Broken)?;
        let first = text.lines().next().unwrap_or_default();
        if first.strip_prefix(MARK).map(str::trim_end) != Some(&place.to_string()) {
            return Err(Misfit::Unmarked(place.clone()));
        }
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|_| Misfit::Broken)?;
        let mut workloads = BTreeMap::new();
        for (index, document) in documents.iter().enumerate().filter(|(_, document)| !document.is_null()) {
            let (name, entry) = read(document, place).ok_or(Misfit::Foreign(index + 1))?;
            if workloads.insert(name.clone(), entry).is_some() {
                return Err(Misfit::Twice(name));
            }
        }
        Ok(Self { place: place.clone(), workloads })
    }

    /// The version under an annotation of a workload's template.
    pub(super) fn of(&self, workload: &WorkloadName, annotation: &str) -> Version {
        let entry = self.workloads.get(workload);
        entry.and_then(|entry| entry.versions.get(annotation)).copied().unwrap_or(Version::NONE)
    }

    /// Says another; [`Version::NONE`] takes it out.
    pub(super) fn set(&mut self, workload: &WorkloadName, annotation: &str, version: Version) {
        // As the others do: manifests of one folder are alike.
        let names_namespace =
            self.workloads.is_empty() || self.workloads.values().any(|entry| entry.names_namespace);
        let new = || Entry { names_namespace, versions: BTreeMap::new() };
        let entry = self.workloads.entry(workload.clone()).or_insert_with(new);
        if version == Version::NONE {
            entry.versions.remove(annotation);
        } else {
            entry.versions.insert(annotation.to_owned(), version);
        }
    }

    /// The file, the same for the same versions.
    pub(super) fn render(&self) -> String {
        let mut text = format!("{MARK}{}\n{NOTICE}\n", self.place);
        for (index, (name, entry)) in self.workloads.iter().enumerate() {
            if index > 0 {
                text.push_str("---\n");
            }
            self.render_one(&mut text, name, entry).expect("a String takes everything");
        }
        text
    }

    fn render_one(&self, text: &mut String, name: &WorkloadName, entry: &Entry) -> fmt::Result {
        let (group, version) = api_of(name.kind);
        writeln!(text, "apiVersion: {group}/{version}\nkind: {}", name.kind)?;
        writeln!(text, "metadata:\n  name: {}", plain(name.name.as_str()))?;
        if entry.names_namespace {
            writeln!(text, "  namespace: {}", plain(&self.place.namespace))?;
        }
        if entry.versions.is_empty() {
            return Ok(());
        }
        let mut indent = 0;
        for part in path_to_annotations(name.kind) {
            writeln!(text, "{:indent$}{part}:", "")?;
            indent += 2;
        }
        for (annotation, version) in &entry.versions {
            writeln!(text, "{:indent$}{annotation}: \"{}\"", "", version.number())?;
        }
        Ok(())
    }
}

/// A document, if it is as one is written; anything more is somebody else's.
fn read(document: &Value, place: &Place) -> Option<(WorkloadName, Entry)> {
    let kind = WorkloadKind::ALL.into_iter().find(|kind| document["kind"] == kind.as_str())?;
    let name = WorkloadName { kind, name: document["metadata"]["name"].as_str()?.parse().ok()? };
    let names_namespace = document["metadata"].get("namespace").is_some();
    let pointer: String = path_to_annotations(kind).map(|part| format!("/{part}")).collect();
    let annotations = document.pointer(&pointer).and_then(Value::as_object);
    let versions = annotations.into_iter().flatten().map(|(annotation, version)| {
        let of_a_secret = annotation.strip_prefix(ANNOTATION).is_some_and(|secret| !secret.is_empty());
        let version = version.as_str().filter(|_| of_a_secret)?.parse().ok().filter(|number| *number > 0)?;
        Some((annotation.clone(), Version::new(version)))
    });
    let entry = Entry { names_namespace, versions: versions.collect::<Option<_>>()? };
    (as_document(&name, &entry, place) == *document).then_some((name, entry))
}

fn as_document(name: &WorkloadName, entry: &Entry, place: &Place) -> Value {
    let (group, version) = api_of(name.kind);
    let mut document = json!({
        "apiVersion": format!("{group}/{version}"), "kind": name.kind, "metadata": {"name": name.name},
    });
    if entry.names_namespace {
        document["metadata"]["namespace"] = json!(place.namespace);
    }
    if !entry.versions.is_empty() {
        let versions = entry
            .versions
            .iter()
            .map(|(annotation, version)| (annotation.clone(), Value::from(version.number().to_string())));
        let mut part = &mut document;
        for key in path_to_annotations(name.kind) {
            part = &mut part[key];
        }
        *part = versions.collect::<Map<_, _>>().into();
    }
    document
}

fn path_to_annotations(kind: WorkloadKind) -> impl Iterator<Item = &'static str> {
    template_pointer(kind).split('/').skip(1).chain(["metadata", "annotations"])
}

/// A name, in quotes where YAML would take it for something else than a text.
fn plain(name: &str) -> Cow<'_, str> {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    if name.starts_with(|first: char| first.is_ascii_alphabetic()) && !WORDS.contains(&name) {
        name.into()
    } else {
        format!("\"{name}\"").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { cluster: "main".parse().expect("a name"), namespace: "orders".into() }
    }

    fn workload(kind: WorkloadKind, name: &str) -> WorkloadName {
        WorkloadName { kind, name: name.parse().expect("a name") }
    }

    fn parse(text: &str) -> Result<Versions, Misfit> {
        Versions::parse(Some(text.as_bytes()), &place())
    }

    const SEED: &str = "# rekeyd.dev/versions-of main:orders\n";
    const DB: &str = "rekeyd.dev/version.orders-db";
    const KEY: &str = "rekeyd.dev/version.session-key";

    #[test]
    fn what_is_written_is_sorted_and_read_again() {
        let mut versions = parse(SEED).expect("a seed");
        versions.set(&workload(WorkloadKind::CronJob, "report"), DB, Version::new(3));
        versions.set(&workload(WorkloadKind::Deployment, "web"), KEY, Version::new(2));
        versions.set(&workload(WorkloadKind::Deployment, "web"), DB, Version::new(17));
        versions.set(&workload(WorkloadKind::Deployment, "true"), DB, Version::new(1));
        let text = versions.render();
        assert_eq!(
            text,
            "# rekeyd.dev/versions-of main:orders\n\
             # Written by rekeyd: the versions of Secrets that pods are to be made for. Other comments are not kept.\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: \"true\"\n  namespace: orders\n\
             spec:\n  template:\n    metadata:\n      annotations:\n        rekeyd.dev/version.orders-db: \"1\"\n\
             ---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: orders\n\
             spec:\n  template:\n    metadata:\n      annotations:\n        rekeyd.dev/version.orders-db: \"17\"\n        \
             rekeyd.dev/version.session-key: \"2\"\n\
             ---\n\
             apiVersion: batch/v1\nkind: CronJob\nmetadata:\n  name: report\n  namespace: orders\n\
             spec:\n  jobTemplate:\n    spec:\n      template:\n        metadata:\n          annotations:\n            \
             rekeyd.dev/version.orders-db: \"3\"\n"
        );
        assert_eq!(parse(&text), Ok(versions.clone()));
        assert_eq!(versions.of(&workload(WorkloadKind::Deployment, "web"), DB), Version::new(17));
        assert_eq!(versions.of(&workload(WorkloadKind::Deployment, "api"), DB), Version::NONE);
    }

    #[test]
    fn a_version_that_is_taken_out_leaves_its_document() {
        let web = workload(WorkloadKind::Deployment, "web");
        let mut versions = parse(SEED).expect("a seed");
        versions.set(&web, DB, Version::new(17));
        versions.set(&web, DB, Version::NONE);
        let text = versions.render();
        assert!(text.ends_with("kind: Deployment\nmetadata:\n  name: web\n  namespace: orders\n"), "{text}");
        assert_eq!(parse(&text), Ok(versions));
    }

    #[test]
    fn documents_name_the_namespace_as_those_do_that_are_there() {
        let document = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
        let mut versions = parse(&format!("{SEED}{document}")).expect("a seed");
        versions.set(&workload(WorkloadKind::Deployment, "web"), DB, Version::new(1));
        versions.set(&workload(WorkloadKind::StatefulSet, "db"), DB, Version::new(1));
        assert!(!versions.render().contains("namespace"), "{}", versions.render());
    }

    #[test]
    fn what_somebody_else_wrote_is_refused() {
        let web = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
        let with = |more: &str| format!("{SEED}{web}{more}");
        let annotated = |annotations: &str| {
            with(&format!("spec: {{template: {{metadata: {{annotations: {{{annotations}}}}}}}}}\n"))
        };
        assert!(parse(&annotated("rekeyd.dev/version.a: \"1\"")).is_ok());
        for text in [
            with("spec: {replicas: 3}\n"),
            with("spec: {}\n"),
            annotated(""),
            annotated("rekeyd.dev/version.a: 1"),
            annotated("rekeyd.dev/version.a: \"01\""),
            annotated("rekeyd.dev/version.a: \"0\""),
            annotated("rekeyd.dev/version.: \"1\""),
            annotated("team: \"1\""),
            format!("{SEED}{}", web.replace("apps/v1", "apps/v1beta1")),
            format!("{SEED}{}", web.replace("name: web", "name: web, labels: {a: b}")),
            format!("{SEED}{}", web.replace("name: web", "name: web, namespace: shop")),
            format!("{SEED}{}", web.replace("Deployment", "Service")),
            format!("{SEED}- {{op: add, path: /spec, value: 1}}\n"),
            format!("{SEED}text\n"),
        ] {
            assert_eq!(parse(&text), Err(Misfit::Foreign(1)), "{text}");
        }
        let twice = format!("{SEED}{web}---\n{web}");
        assert_eq!(parse(&twice), Err(Misfit::Twice(workload(WorkloadKind::Deployment, "web"))));
        for text in [format!("{SEED}a: ["), format!("{SEED}a: 1\na: 2\n")] {
            assert_eq!(parse(&text), Err(Misfit::Broken), "{text}");
        }
    }

    #[test]
    fn the_sample_is_one() {
        let sample = include_bytes!("../../deploy/gitops/restart/rekeyd-versions.yaml");
        let place = Place { cluster: "main".parse().expect("a name"), namespace: "billing".into() };
        assert!(Versions::parse(Some(sample), &place).is_ok());
    }

    #[test]
    fn a_file_is_taken_only_where_it_says_so() {
        assert_eq!(Versions::parse(None, &place()), Err(Misfit::Missing(place())));
        for text in [
            "",
            "\n# rekeyd.dev/versions-of main:orders\n",
            "# rekeyd.dev/versions-of main:shop\n",
            "# rekeyd.dev/versions-of edge:orders\n",
            "# rekeyd.dev/versions-of main:orders-2\n",
            "kind: Deployment\n",
        ] {
            assert_eq!(parse(text), Err(Misfit::Unmarked(place())), "{text}");
        }
        assert!(parse("# rekeyd.dev/versions-of main:orders\r\n").is_ok());
    }
}
