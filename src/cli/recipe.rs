//! `rekeyd recipe`: which recipes there are, and whether one is right.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueHint};
use serde::Serialize;

use super::output::{self, BAD, Format, GOOD};
use super::session;
use crate::adapters::Wiring;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, Fence, PolicyName, RotationId, Version};
use crate::policy::Policy;
use crate::policy::diagnostic::{Diagnostic, Source};
use crate::policy::load::read_recipes;
use crate::recipe::{ConsumerRecipe, Example, Family, PlaceExample, Recipe, shipped};
use crate::rotation::engine::Adapters as _;
use crate::rotation::plan::Strategy;
use crate::secret::Credential;
use crate::target::{
    Attempt, Extent, MintRequest, Minted, Probe, ProbeDepth, RetireRequest, Retired, Target,
};

/// How long a key that was revoked is asked for again, beyond what the recipe says of settling.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Try the recipe of a policy's target at the provider: a key is made, tried, found, revoked and tried again; the one in force is left alone
    Try {
        /// As `namespace/name`
        policy: PolicyName,
    },
}

pub(super) async fn run(config: Option<PathBuf>, command: Command) -> ExitCode {
    match command {
        Command::List { output } => list(output.output),
        Command::Show { name } => show(&name),
        Command::Test { files, output } => test(&files, output.output),
        Command::Try { policy } => attempt(config, &policy).await,
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
    diagnostics: Vec<Diagnostic>,
}

fn test(files: &[PathBuf], format: Format) -> ExitCode {
    let mut tested =
        Tested { valid: false, recipes: 0, examples: 0, failures: Vec::new(), diagnostics: Vec::new() };
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
            let (examples, failures) = match recipe {
                Family::Keys(recipe) => (recipe.examples.len(), mistaken(name, recipe)),
                Family::Place(recipe) => (recipe.examples.len(), mistaken_of_place(name, recipe)),
            };
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

async fn attempt(config: Option<PathBuf>, name: &PolicyName) -> ExitCode {
    let settings = match session::settings(config, Format::Text) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let loaded = match session::policies(&settings).await {
        Ok(loaded) => loaded,
        Err(failure) => return output::refused(&failure, Format::Text),
    };
    let doing = format!("try the recipe of {name}");
    let invalid = |reason: &str, remedy: &'static str| {
        let failure = Failure::new(FailureClass::Invalid, &*doing, reason).with_remedy(remedy);
        output::refused(&failure, Format::Text)
    };
    let Some(policy) = loaded.policies.iter().find(|policy| policy.name() == name) else {
        session::print_diagnostics(&loaded.diagnostics);
        return invalid("there is no such policy in force", "see `rekeyd check`");
    };
    if Strategy::of(&policy.spec().target) != Strategy::DualKey {
        return invalid(
            "its target makes no key beside the one in force",
            "try it with a rotation, where nobody needs the value",
        );
    }
    let wiring = Wiring::new(&settings);
    match wiring.target(&policy.spec().target) {
        Ok(Some(target)) => match cycle(policy, &*target).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => output::refused(&failure, Format::Text),
        },
        Ok(None) => invalid("it has no target", "name a policy with a recipe"),
        Err(failure) => output::refused(&failure, Format::Text),
    }
}

/// Makes a key, tries it, finds it, revokes it and tries it again.
async fn cycle(policy: &Policy, target: &dyn Target) -> Result<(), Failure> {
    let owner = policy.principals()[0];
    let attempt = Attempt {
        policy: policy.name(),
        rotation: RotationId::generate(),
        version: Version::new(0),
        fence: Fence::default(),
    };
    let done = |what: &str| output::line(format_args!("{GOOD}done{GOOD:#}: {what}"));
    let request = MintRequest { attempt, owner, outgoing: None, repeated: false, contains: false };
    let made = match target.mint(request).await? {
        Minted::Made(made) => made,
        Minted::Awaited(what) => {
            output::line(format_args!("a person makes the keys here: {what}"));
            return Ok(());
        }
    };
    done(&format!("key {} made", made.principal));
    let tried = tried(target, &made, attempt).await;
    // Whatever came of it: nothing is left behind.
    let request = RetireRequest {
        attempt,
        principal: &made.principal,
        extent: Extent::Principal,
        outgoing: Some(&made),
        beside: None,
    };
    let retired = target.retire(request).await;
    tried?;
    match retired? {
        Retired::Done { .. } => done("revoked"),
        Retired::Awaited(what) => {
            output::line(format_args!("a person revokes the keys here: {what}"));
            return Ok(());
        }
        Retired::Superseded { .. } => {}
    }
    if !settles(target, &made, &Probe::Refused).await {
        let reason = "the provider still accepts it after it was revoked";
        return Err(Failure::new(
            FailureClass::Conflict,
            format!("see key {} refused", made.principal),
            reason,
        ));
    }
    done("refused when it is tried again");
    Ok(())
}

async fn tried(target: &dyn Target, made: &Credential, attempt: Attempt<'_>) -> Result<(), Failure> {
    let done = |what: &str| output::line(format_args!("{GOOD}done{GOOD:#}: {what}"));
    if !settles(target, made, &Probe::Accepted).await {
        let probe = target.probe(made, ProbeDepth::Login).await;
        let doing = format!("see key {} accepted", made.principal);
        return Err(match probe {
            Probe::Unknown(failure) | Probe::Unfit(failure) => failure,
            Probe::Accepted | Probe::Refused => {
                Failure::new(FailureClass::Refused, doing, "the provider refuses it")
            }
        });
    }
    done("accepted when it is tried");
    let keys = target.keys(&made.principal).await?;
    match keys.iter().find(|key| key.id == made.principal) {
        Some(key) if key.tag.as_ref().is_some_and(|tag| tag.rotation == attempt.rotation) => {
            done("found in the list by its tag");
        }
        Some(_) => done("found in the list; its name has no tag"),
        None if keys.is_empty() => done("the provider lists no keys"),
        None => {
            let doing = format!("find key {}", made.principal);
            return Err(Failure::new(FailureClass::Invalid, doing, "the list does not have it")
                .with_remedy("correct the recipe's `list`"));
        }
    }
    Ok(())
}

/// Whether the target comes to say so of a value.
async fn settles(target: &dyn Target, made: &Credential, wanted: &Probe) -> bool {
    let (clock, began) = (SystemClock, SystemClock.monotonic());
    loop {
        if target.probe(made, ProbeDepth::Login).await == *wanted {
            return true;
        }
        if clock.monotonic().saturating_sub(began) > target.settling() + PATIENCE {
            return false;
        }
        clock.sleep(Duration::from_millis(500)).await;
    }
}
