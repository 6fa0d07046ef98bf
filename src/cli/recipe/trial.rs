//! `rekeyd recipe try`: what a recipe says, held against the provider itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::adapters::Wiring;
use crate::cli::adopt::read_file;
use crate::cli::output::{self, DOUBTFUL, Format, GOOD};
use crate::cli::{Operation, operate, session};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass, Finding, Verdict};
use crate::ident::{Fence, PolicyName, Principal, RotationId, Version};
use crate::policy::Policy;
use crate::policy::spec::{Interval, TargetSpec};
use crate::recipe::{Recipe, RecipeStrategy};
use crate::rotation::engine::Adapters as _;
use crate::rotation::plan::Strategy;
use crate::secret::Credential;
use crate::service::Action;
use crate::target::{
    Attempt, Extent, LastUse, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, RetireRequest,
    Retired, Target,
};

/// How long a key that was revoked is asked for again, beyond what the recipe says of settling.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long failing steps of a rotation that a trial ends with are tried again, as `rekeyd rotate` has it.
const ROTATION: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(in crate::cli) struct Trial {
    /// As `namespace/name`
    policy: PolicyName,
    /// A value that has to be refused, such as one that was revoked; beside the one that rekeyd makes up
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    dead: Option<PathBuf>,
    /// Where a new value takes the earlier one's place, or spends what it is asked with: rotate once all else is well
    #[arg(long)]
    spend: bool,
}

pub(super) async fn run(config: Option<PathBuf>, trial: Trial) -> ExitCode {
    let settings = match session::settings(config.clone(), Format::Text) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let loaded = match session::policies(&settings).await {
        Ok(loaded) => loaded,
        Err(failure) => return output::refused(&failure, Format::Text),
    };
    let Some(policy) = loaded.policies.iter().find(|policy| *policy.name() == trial.policy) else {
        session::print_diagnostics(&loaded.diagnostics);
        let failure = invalid(&trial, "there is no such policy in force", "see `rekeyd check`");
        return output::refused(&failure, Format::Text);
    };
    let wiring = Wiring::new(&settings);
    match attempt(&wiring, policy, &trial).await {
        Ok(()) if trial.spend => rotate(config, trial.policy).await,
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::refused(&failure, Format::Text),
    }
}

async fn attempt(wiring: &Wiring, policy: &Policy, trial: &Trial) -> Result<(), Failure> {
    let spec = &policy.spec().target;
    let recipe = match spec {
        TargetSpec::Http(http) => http.definition.as_deref(),
        _ => None,
    };
    let strategy = match recipe {
        Some(recipe) => recipe.strategy,
        None if Strategy::of(spec) == Strategy::DualKey => RecipeStrategy::DualKey,
        None => {
            let reason = "its target makes no key beside the one in force, and has no recipe";
            let remedy = "see `rekeyd preflight`, and rotate it where nobody needs the value";
            return Err(invalid(trial, reason, remedy));
        }
    };
    if trial.spend && strategy != RecipeStrategy::Reissued {
        let reason = "nothing is spent there by asking for a value";
        return Err(invalid(trial, reason, "leave --spend out"));
    }
    let target = wiring.target(spec)?;
    let target = target.ok_or_else(|| invalid(trial, "it has no target", "name a policy with a recipe"))?;
    let current = match recipe {
        // A key is made beside it: the one in force is nobody's business.
        Some(_) if strategy != RecipeStrategy::DualKey || trial.dead.is_some() => {
            Some(in_force(wiring, policy, trial).await?)
        }
        _ => None,
    };
    if let (Some(recipe), Some(current)) = (recipe.filter(|_| strategy != RecipeStrategy::DualKey), &current)
    {
        look(policy, &*target, recipe, current).await?;
    }
    if let Some(file) = &trial.dead {
        let about = current.as_ref().map_or_else(|| policy.principals()[0], |current| &current.principal);
        is_dead(&*target, about, file, trial).await?;
    }
    match strategy {
        RecipeStrategy::DualKey => cycle(policy, &*target).await?,
        RecipeStrategy::HandOff | RecipeStrategy::Reissued => {
            for what in left_out(policy.name(), strategy, recipe, trial) {
                untried(&what);
            }
        }
    }
    Ok(())
}

/// The key in force, which only the server gets to see that it is for.
async fn in_force(wiring: &Wiring, policy: &Policy, trial: &Trial) -> Result<Credential, Failure> {
    let (findings, current) = wiring.in_force(policy).await;
    settle(&findings)?;
    current.ok_or_else(|| {
        let remedy = format!("rotate, or take one over: rekeyd adopt {}", policy.name());
        invalid(trial, "the store holds no key yet that could be tried", remedy)
    })
}

/// The key in force and one that is none, and whether the provider lists the one and tells of its use.
async fn look(
    policy: &Policy,
    target: &dyn Target,
    recipe: &Recipe,
    current: &Credential,
) -> Result<(), Failure> {
    let request = PreflightRequest { policy: policy.name(), current: Some(current) };
    settle(&target.preflight(request).await)?;
    if recipe.list.is_some() {
        let keys = target.keys(policy.principals()[0]).await?;
        if keys.iter().any(|key| key.id == current.principal) {
            done(&format!("key {} found in the list", current.principal));
        } else if recipe.create.as_ref().is_none_or(|create| create.id.is_some()) {
            let doing = format!("find key {}", current.principal);
            return Err(Failure::new(FailureClass::Invalid, doing, "the list does not have it")
                .with_remedy("correct the recipe's `list`, or the id that the key was handed over with"));
        }
    }
    usage(target, &current.principal).await
}

/// Tells what was found, and fails with what is wrong.
fn settle(findings: &[Finding]) -> Result<(), Failure> {
    for Finding { verdict, subject, detail, remedy } in findings {
        let remedy = remedy.as_deref().unwrap_or_default();
        match verdict {
            Verdict::Pass => done(&format!("{subject}: {detail}")),
            Verdict::Warn => {
                output::line(format_args!("{DOUBTFUL}doubtful{DOUBTFUL:#}: {subject}: {detail} -> {remedy}"));
            }
            Verdict::Fail => {
                let failure = Failure::new(FailureClass::Invalid, format!("try the {subject}"), detail);
                return Err(failure.with_remedy(remedy.to_owned()));
            }
        }
    }
    Ok(())
}

/// Holds that a value that somebody knows to be dead is refused.
async fn is_dead(target: &dyn Target, of: &Principal, file: &Path, trial: &Trial) -> Result<(), Failure> {
    let dead = Credential::new(of.clone(), read_file(file, &doing(trial))?);
    match target.probe(&dead, ProbeDepth::Login).await {
        Probe::Refused => {
            done("the value that is to be dead is refused");
            Ok(())
        }
        Probe::Accepted => Err(invalid(
            trial,
            "the value that is to be dead is accepted",
            "see whether it is; if so, correct `acceptedWhen` in the recipe",
        )),
        Probe::Unfit(failure) | Probe::Unknown(failure) => Err(failure),
    }
}

/// What a trial leaves alone, in words.
fn left_out(
    policy: &PolicyName,
    strategy: RecipeStrategy,
    recipe: Option<&Recipe>,
    trial: &Trial,
) -> Vec<String> {
    if strategy == RecipeStrategy::HandOff {
        let by_hand = recipe.and_then(|recipe| recipe.by_hand.as_ref());
        let how = by_hand.and_then(|by_hand| by_hand.create.as_deref()).unwrap_or("make a key");
        let revokes = match recipe.and_then(|recipe| recipe.revoke.as_ref()) {
            Some(_) => "revoking, since there is no key here but the one in force",
            None => "revoking, which a person does here",
        };
        return vec![format!("making a key, which a person does here ({how})"), revokes.to_owned()];
    }
    if trial.spend {
        return Vec::new();
    }
    let create = recipe.and_then(|recipe| recipe.create.as_ref());
    let spent: Vec<String> = create
        .map(|create| {
            let names = create.parts.keys().filter(|name| create.request.uses(&format!("parts.{name}")));
            names.map(|name| format!("`{name}`")).collect()
        })
        .unwrap_or_default();
    let why = if spent.is_empty() {
        "it takes the place of the one in force, which is dead from then on".to_owned()
    } else {
        format!("that spends {} of the one in force, which works once", spent.join(" and "))
    };
    vec![format!(
        "asking for the next value: {why}; a rotation keeps what comes, and --spend ends with one (rekeyd rotate {policy})"
    )]
}

async fn rotate(config: Option<PathBuf>, policy: PolicyName) -> ExitCode {
    let operation = Operation {
        policy,
        reason: Some("trial of its recipe".into()),
        request: None,
        patience: Interval::from_duration(ROTATION),
        output: Some(Format::Text),
    };
    operate::run(config, Action::Rotate, operation).await
}

fn done(what: &str) {
    output::line(format_args!("{GOOD}done{GOOD:#}: {what}"));
}

fn untried(what: &str) {
    output::line(format_args!("{DOUBTFUL}not tried{DOUBTFUL:#}: {what}"));
}

fn doing(trial: &Trial) -> String {
    format!("try the recipe of {}", trial.policy)
}

fn invalid(trial: &Trial, reason: &str, remedy: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(FailureClass::Invalid, doing(trial), reason).with_remedy(remedy)
}

/// Whether the provider tells when a key was used last.
async fn usage(target: &dyn Target, key: &Principal) -> Result<(), Failure> {
    match target.usage(key).await?.last {
        LastUse::At(at) => done(&format!("its last use is told: {at:.0}")),
        LastUse::Never => done("its last use is told: never"),
        LastUse::Untold | LastUse::BySessions | LastUse::ByListed => {
            done("the provider tells nothing of its use")
        }
    }
    Ok(())
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
    let request =
        MintRequest { attempt, owner, outgoing: None, repeated: false, contains: false, life: None };
    let made = match target.mint(request).await? {
        Minted::Made(made) | Minted::Short(made, _) => made,
        Minted::Awaited(what) => {
            untried(&format!("what a person does here: {what}"));
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
            untried(&format!("revoking, which a person does here: {what}"));
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
    usage(target, &made.principal).await
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
