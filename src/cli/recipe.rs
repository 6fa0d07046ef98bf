//! `rekeyd recipe`: which recipes there are, and whether one is right.

mod trial;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueHint};
use serde::Serialize;

use super::output::{self, BAD, DOUBTFUL, Format, GOOD};
use super::session;
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::policy::diagnostic::{Diagnostic, Source};
use crate::policy::load::read_recipes;
use crate::recipe::{ConsumerRecipe, Example, Family, PlaceExample, Recipe, doubts, place_doubts, shipped};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The recipes that rekeyd brings along
    List {
        #[command(flatten)]
        output: super::Output,
    },
    /// Print one of them
    Show {
        /// Its name
        name: DnsLabel,
    },
    /// Check recipes, and hold them against the answers that they have as examples; no server is asked
    Test {
        /// YAML files
        #[arg(required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        output: super::Output,
    },
    /// Try the recipe of a policy's target at the provider, and leave the key in force alone
    ///
    /// Where keys are made beside the one in force, one is made, tried, found, revoked and tried again. Where they are made by
    /// a person, or take the earlier one's place, the one in force is tried and looked for, and a wrong one is to be refused;
    /// what was not tried is said.
    Try {
        #[command(flatten)]
        trial: trial::Trial,
    },
}

pub(super) async fn run(config: Option<PathBuf>, command: Command) -> ExitCode {
    match command {
        Command::List { output } => list(output.output),
        Command::Show { name } => show(&name),
        Command::Test { files, output } => test(&files, output.output),
        Command::Try { trial } => trial::run(config, trial).await,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    title: String,
    /// Of a target; none of a place that a consumer reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<crate::recipe::RecipeStrategy>,
    /// What policies name it for.
    family: &'static str,
    tested_on: String,
}

fn list(format: Format) -> ExitCode {
    let targets = shipped::all().map(|(name, recipe)| Listed {
        name: name.to_string(),
        title: recipe.title.clone(),
        strategy: Some(recipe.strategy),
        family: "target",
        tested_on: recipe.tested_on.clone(),
    });
    let consumers = shipped::places().map(|(name, recipe)| Listed {
        name: name.to_string(),
        title: recipe.title.clone(),
        strategy: None,
        family: "consumer",
        tested_on: recipe.tested_on.clone(),
    });
    let listed: Vec<Listed> = targets.chain(consumers).collect();
    match format {
        Format::Json => output::json(&listed),
        Format::Text => {
            let width = listed.iter().map(|one| one.name.len()).max().unwrap_or_default();
            for Listed { name, title, family, tested_on, .. } in &listed {
                output::line(format_args!("{name:<width$}  {family:<8}  {title} (tested on: {tested_on})"));
            }
        }
    }
    ExitCode::SUCCESS
}

fn show(name: &DnsLabel) -> ExitCode {
    match shipped::ALL.iter().chain(shipped::PLACES).find(|(known, _)| *known == name.as_str()) {
        Some((_, text)) => {
            output::line(text.trim_end());
            ExitCode::SUCCESS
        }
        None => {
            let failure = Failure::new(
                FailureClass::Invalid,
                format!("show recipe {name}"),
                "rekeyd brings none of that name along",
            )
            .with_remedy("see `rekeyd recipe list`");
            output::refused(&failure, Format::Text)
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tested {
    valid: bool,
    recipes: usize,
    examples: usize,
    failures: Vec<String>,
    /// What is allowed, and proves less than it could.
    doubts: Vec<String>,
    diagnostics: Vec<Diagnostic>,
}

fn test(files: &[PathBuf], format: Format) -> ExitCode {
    let mut tested = Tested {
        valid: false,
        recipes: 0,
        examples: 0,
        failures: Vec::new(),
        doubts: Vec::new(),
        diagnostics: Vec::new(),
    };
    for file in files {
        let source = match Source::read(file) {
            Ok(source) => source,
            Err(diagnostic) => {
                tested.diagnostics.push(*diagnostic);
                continue;
            }
        };
        let (recipes, diagnostics) = read_recipes(&source);
        if recipes.is_empty() && diagnostics.is_empty() {
            tested.failures.push(format!("{}: there is no recipe in it", file.display()));
        }
        tested.diagnostics.extend(diagnostics);
        for (name, recipe) in &recipes {
            tested.recipes += 1;
            let (examples, failures, doubts) = match recipe {
                Family::Keys(recipe) => (recipe.examples.len(), mistaken(name, recipe), doubts(recipe)),
                Family::Place(recipe) => {
                    let doubts = place_doubts(recipe);
                    (recipe.examples.len(), mistaken_of_place(name, recipe), doubts)
                }
            };
            tested.doubts.extend(doubts.into_iter().map(|doubt| format!("{name}: {doubt}")));
            tested.examples += examples;
            tested.failures.extend(failures);
        }
    }
    tested.valid = tested.failures.is_empty() && !tested.diagnostics.iter().any(Diagnostic::is_error);
    match format {
        Format::Json => output::json(&tested),
        Format::Text => {
            session::print_diagnostics(&tested.diagnostics);
            for failure in &tested.failures {
                output::line(format_args!("{BAD}wrong{BAD:#}: {failure}"));
            }
            for doubt in &tested.doubts {
                output::line(format_args!("{DOUBTFUL}doubtful{DOUBTFUL:#}: {doubt}"));
            }
            let Tested { recipes, examples, .. } = tested;
            let told = format!(
                "{recipes} {}, {examples} {}",
                output::plural(recipes, "recipe", "recipes"),
                output::plural(examples, "example", "examples")
            );
            if tested.valid {
                output::line(format_args!("{GOOD}right{GOOD:#}: {told}"));
            } else {
                output::line(told);
            }
        }
    }
    if tested.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The examples that a recipe does not make of what they are.
fn mistaken(name: &DnsLabel, recipe: &Recipe) -> Vec<String> {
    let judge = |(number, example): (usize, &Example)| {
        let number = number + 1;
        let Some(outcome) = example.outcome(recipe) else {
            return Some(format!("{name}: example {number} is of a call that the recipe has not"));
        };
        if outcome.means != example.means {
            let (call, status) = (example.call, example.status);
            return Some(format!(
                "{name}: example {number} ({call:?}, {status}) is to mean {:?}, and the recipe makes {:?} of it",
                example.means, outcome.means
            ));
        }
        (outcome.shows != example.shows)
            .then(|| format!("{name}: example {number} does not show what the recipe finds in it"))
    };
    recipe.examples.iter().enumerate().filter_map(judge).collect()
}

fn mistaken_of_place(name: &DnsLabel, recipe: &ConsumerRecipe) -> Vec<String> {
    let judge = |(number, example): (usize, &PlaceExample)| {
        let number = number + 1;
        let PlaceExample { call, status, means, .. } = example;
        match example.outcome(recipe) {
            None => Some(format!("{name}: example {number} is of a call that the recipe has not")),
            Some(outcome) => (outcome != *means).then(|| {
                format!(
                    "{name}: example {number} ({call:?}, {status}) is to mean {means:?}, and the recipe makes {outcome:?} of it"
                )
            }),
        }
    };
    recipe.examples.iter().enumerate().filter_map(judge).collect()
}
