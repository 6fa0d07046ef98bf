//! Puts the figures of all proofs together: a table, and `target/prove/result.json`.
//!
//! The tests of each level leave a file in `target/prove`; `make prove` and `make test` run them and then
//! this. It fails when a level is missing, when anything was violated, and when a seeded bug or a planted
//! value was not found. With `--document` the table, and the list of fault points, go into
//! `docs/reliability.md`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

/// A level: its file, what it is, and the figures that tell how much was done.
struct Level {
    name: &'static str,
    what: &'static str,
    counts: &'static [(&'static str, &'static str)],
}

const LEVELS: [Level; 14] = [
    Level { name: "properties", what: "1 rules under any history", counts: &[("cases", "histories")] },
    Level { name: "model", what: "2 model, exhaustive", counts: &[("states", "states")] },
    Level { name: "model-keys", what: "2 model of keys, exhaustive", counts: &[("states", "states")] },
    Level { name: "model-mutants", what: "2 seeded bugs", counts: &[("mutantsCaught", "caught")] },
    Level {
        name: "simulation",
        what: "3 simulated histories",
        counts: &[("histories", "seeds"), ("rotations", "rotations")],
    },
    Level {
        name: "simulation-cluster",
        what: "3 simulated clusters",
        counts: &[("histories", "seeds"), ("rotations", "rotations"), ("requests", "requests")],
    },
    Level { name: "simulation-mutants", what: "3 seeded bugs", counts: &[("mutantsCaught", "caught")] },
    Level {
        name: "simulation-cluster-mutants",
        what: "3 seeded bugs of clusters",
        counts: &[("mutantsCaught", "caught")],
    },
    Level {
        name: "sweep",
        what: "4 faults on real servers",
        counts: &[("cases", "cases"), ("points", "points")],
    },
    Level { name: "sweep-cluster", what: "4 faults on a real cluster", counts: &[("cases", "cases")] },
    Level { name: "sweep-mutants", what: "4 seeded bugs", counts: &[("mutantsCaught", "caught")] },
    Level { name: "kills", what: "5 kill -9 at random", counts: &[("kills", "kills")] },
    Level {
        name: "canary",
        what: "values searched for",
        counts: &[("places", "places"), ("controlsFound", "controls found")],
    },
    Level {
        name: "scanner",
        what: "gitleaks over the ledger",
        counts: &[("commits", "commits"), ("controlsFound", "controls found")],
    },
];

/// Nothing of these may be left.
const FAULTS: [&str; 4] = ["violations", "mutantsMissed", "canaryHits", "controlsMissed"];

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prove");
    let mut levels = Map::new();
    let mut table = String::from("| proof | done | found |\n|---|---|---|\n");
    let mut missing = Vec::new();
    let mut totals = FAULTS.map(|_| 0);
    for level in &LEVELS {
        let file = folder.join(format!("{}.json", level.name));
        let read = std::fs::read_to_string(&file).ok();
        let Some(figures) = read.and_then(|text| serde_json::from_str::<Value>(&text).ok()) else {
            println!("{:<28} NOT RUN", level.what);
            missing.push(level.name);
            continue;
        };
        let done: Vec<String> =
            level.counts.iter().map(|(key, unit)| format!("{} {unit}", figures[*key])).collect();
        let mut faults = Vec::new();
        for (fault, total) in FAULTS.iter().zip(&mut totals) {
            let Some(number) = figures[*fault].as_u64() else { continue };
            *total += number;
            faults.push(format!("{number} {}", words(fault)));
        }
        if faults.is_empty() {
            // It tells of nothing that it could have found.
            missing.push(level.name);
        }
        println!("{:<28} {:<34} {}", level.what, done.join(", "), faults.join(", "));
        let _ = writeln!(table, "| {} | {} | {} |", level.what, done.join(", "), faults.join(", "));
        for (mutant, how) in figures["caught"].as_object().into_iter().flatten() {
            let first = how.as_str().and_then(|how| how.lines().next());
            println!("    {mutant:<50} {}", first.unwrap_or_default());
        }
        levels.insert(level.name.to_owned(), figures);
    }
    if let Some(bound) = levels.get("kills").and_then(|kills| kills["bound95"].as_f64()) {
        println!(
            "a kill breaks an invariant in less than {:.2} % of cases, with 95 % certainty",
            bound * 100.0
        );
    }
    let mut result = json!({"levels": levels, "levelsMissing": missing});
    for (fault, total) in FAULTS.iter().zip(totals) {
        result[*fault] = json!(total);
    }
    let text = serde_json::to_string_pretty(&result).expect("JSON");
    if let Err(error) = std::fs::write(folder.join("result.json"), text + "\n") {
        eprintln!("error: cannot write {}: {error}", folder.join("result.json").display());
        return ExitCode::FAILURE;
    }
    if std::env::args().any(|argument| argument == "--document")
        && let Err(error) = document(&table)
    {
        eprintln!("error: cannot write docs/reliability.md: {error}");
        return ExitCode::FAILURE;
    }
    if missing.is_empty() && totals.iter().all(|total| *total == 0) {
        println!("proven: {}", folder.join("result.json").display());
        ExitCode::SUCCESS
    } else {
        println!("NOT PROVEN: {}", folder.join("result.json").display());
        ExitCode::FAILURE
    }
}

/// Puts the table into the page, between its two marks.
fn document(table: &str) -> std::io::Result<()> {
    const MARKS: [&str; 2] = ["<!-- figures -->\n", "<!-- end of figures -->\n"];
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let page = std::fs::read_to_string(&file)?;
    let parts = page.split_once(MARKS[0]).and_then(|(head, rest)| Some((head, rest.split_once(MARKS[1])?.1)));
    let (head, tail) = parts.ok_or_else(|| std::io::Error::other("it has no marks"))?;
    std::fs::write(file, [head, MARKS[0], "\n", table, "\n", MARKS[1], tail].concat())
}

/// `mutantsMissed` as `mutants missed`.
fn words(key: &str) -> String {
    key.chars().fold(String::new(), |mut words, letter| {
        if letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
        words
    })
}
