//! Recipes beside the policies.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CONSUMER_RECIPE, File, RECIPES, foreign, kind_of};
use crate::ident::DnsLabel;
use crate::policy::diagnostic::{Diagnostic, Source};
use crate::policy::node::{Node, chunks};
use crate::policy::shape::{FieldPath, shape};
use crate::policy::validate::{RecipeUse, Recipes, Rule};
use crate::recipe::{ConsumerRecipeDocument, Family, RecipeDocument, place_problems, problems};

/// A recipe that is written beside the policies.
pub(super) struct Found {
    pub(super) name: DnsLabel,
    pub(super) recipe: Family,
    /// `policies/recipes/git.yaml:3`.
    pub(super) place: String,
    pub(super) chunk: usize,
    pub(super) is_valid: bool,
}

/// Reads the recipes of one text, and everything that is wrong with it.
pub(crate) fn read_text(source: &Source) -> (Vec<(DnsLabel, Family)>, Vec<Diagnostic>) {
    let (mut recipes, mut diagnostics) = (Vec::new(), Vec::new());
    for chunk in chunks(source.text()) {
        let mut root = match chunk.parse() {
            Ok(Some(root)) => root,
            Ok(None) => continue,
            Err(error) => {
                diagnostics.push(source.diagnose_syntax(&error));
                continue;
            }
        };
        match foreign(&root) {
            Some((path, problem)) => diagnostics.push(source.diagnose(path.locate(&root), &path, &problem)),
            None if kind_of(&root).is_some_and(|kind| RECIPES.contains(&kind)) => {
                recipes.extend(read(source, &mut root, &mut diagnostics));
            }
            None => {}
        }
    }
    (recipes, diagnostics)
}

/// A recipe with mistakes is one all the same: policies that name it are told of that.
pub(super) fn read(
    source: &Source,
    root: &mut Node,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(DnsLabel, Family)> {
    let mut faults = Vec::new();
    let is_of_consumers = kind_of(root) == Some(CONSUMER_RECIPE);
    let read = if is_of_consumers {
        let (document, _) = shape::<ConsumerRecipeDocument>(root, &mut faults);
        document.map(|document| (document.metadata.name, Family::Place(Arc::new(document.spec))))
    } else {
        let (document, _) = shape::<RecipeDocument>(root, &mut faults);
        document.map(|document| (document.metadata.name, Family::Keys(Arc::new(document.spec))))
    };
    for fault in &faults {
        diagnostics.push(source.diagnose(fault.site, &fault.path, &fault.reason));
    }
    let (name, recipe) = read?;
    // What a stand-in took the place of says nothing about the rest.
    let found = match &recipe {
        _ if !faults.is_empty() => Vec::new(),
        Family::Keys(recipe) => problems(recipe),
        Family::Place(recipe) => place_problems(recipe),
    };
    for (path, problem) in found {
        diagnostics.push(source.diagnose(path.locate(root), &path, &problem));
    }
    Some((name, recipe))
}

/// The recipes of the directory. Of two with one name neither is given.
pub(super) fn found(files: &[File], diagnostics: &mut Vec<Diagnostic>) -> Recipes {
    let mut found = Recipes::default();
    let mut places: HashMap<&DnsLabel, &str> = HashMap::new();
    for (file, written) in files.iter().flat_map(|file| file.recipes.iter().map(move |one| (file, one))) {
        let Found { name, recipe, place, chunk, is_valid } = written;
        if let Some(other) = places.insert(name, place) {
            let rule = Rule::Recipe(RecipeUse::Twice { name: name.clone(), other: other.to_owned() });
            let path = FieldPath::from(["metadata", "name"]);
            diagnostics.push(file.diagnose_at(*chunk, &path, &rule));
            found.broken.insert(name.clone());
        } else if *is_valid {
            found.sound.insert(name.clone(), recipe.clone());
        } else {
            found.broken.insert(name.clone());
        }
    }
    found
}
