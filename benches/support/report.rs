//! What was measured, as a table on the terminal and as `target/bench/<name>.json`.

use std::fs;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use rekeyd::clock::{Clock as _, SystemClock};
use serde::Serialize;

use super::machine::Machine;

/// One thing that was measured several times.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    /// What programs find it by; unique in a report, and the same in every version.
    pub(crate) id: String,
    /// What it is, for people.
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) runs: usize,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// In the order they were taken.
    pub(crate) values: Vec<f64>,
    /// What it should be, if the project set itself a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Target>,
}

/// What a median should be, and whether it is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Target {
    what: &'static str,
    met: bool,
}

impl Figure {
    pub(crate) fn new(
        id: impl Into<String>,
        what: impl Into<String>,
        unit: &'static str,
        values: &[f64],
    ) -> Self {
        let sorted = sorted(values);
        Self {
            id: id.into(),
            what: what.into(),
            unit,
            runs: values.len(),
            median: percentile(&sorted, 50.0),
            min: sorted.first().copied().unwrap_or(f64::NAN),
            max: sorted.last().copied().unwrap_or(f64::NAN),
            values: values.to_vec(),
            target: None,
        }
    }

    /// The quotients of two things that were measured in turn, run by run.
    pub(crate) fn ratio(id: impl Into<String>, what: impl Into<String>, of: &[f64], to: &[f64]) -> Self {
        let values: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
        Self::new(id, what, "x", &values)
    }

    /// `what` says in words what `met` finds true of the median.
    pub(crate) fn with_target(mut self, what: &'static str, met: impl FnOnce(f64) -> bool) -> Self {
        self.target = Some(Target { what, met: met(self.median) });
        self
    }

    fn verdict(&self) -> String {
        self.target.map_or_else(String::new, |Target { what, met }| {
            format!("{what}: {}", if met { "met" } else { "MISSED" })
        })
    }
}

/// The value that so many per cent of the sorted ones do not exceed.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = percent / 100.0 * last as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    sorted[below] + (sorted[(below + 1).min(last)] - sorted[below]) * share
}

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Everything one benchmark says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    bench: &'static str,
    at: jiff::Timestamp,
    rekeyd: &'static str,
    machine: Machine,
    /// What was done, for readers of the figures.
    setting: Vec<String>,
    sections: Vec<Section>,
}

#[derive(Debug, Serialize)]
struct Section {
    title: &'static str,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(bench: &'static str, machine: Machine) -> Self {
        Self {
            bench,
            at: SystemClock.now(),
            rekeyd: env!("CARGO_PKG_VERSION"),
            machine,
            setting: Vec::new(),
            sections: Vec::new(),
        }
    }

    pub(crate) fn say(&mut self, setting: impl Into<String>) {
        self.setting.push(setting.into());
    }

    pub(crate) fn section(&mut self, title: &'static str, figures: Vec<Figure>) {
        self.sections.push(Section { title, figures });
    }

    /// Prints the report and writes it down.
    pub(crate) fn publish(&self) -> std::io::Result<()> {
        println!("\n{}: {}", self.bench, self.machine);
        for line in &self.setting {
            println!("  {line}");
        }
        for Section { title, figures } in &self.sections {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header([title, "median", "min", "max", "", "runs", ""]);
            for figure in figures {
                table.add_row([
                    figure.what.clone(),
                    number(figure.median),
                    number(figure.min),
                    number(figure.max),
                    figure.unit.to_owned(),
                    figure.runs.to_string(),
                    figure.verdict(),
                ]);
            }
            for column in [1, 2, 3, 5] {
                if let Some(column) = table.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            println!("\n{table}");
        }
        let path = folder().join(format!("{}.json", self.bench));
        fs::create_dir_all(folder())?;
        fs::write(&path, serde_json::to_vec_pretty(self)?)?;
        let shown = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&path);
        println!("\nwritten to {}", shown.display());
        Ok(())
    }
}

/// Where benchmarks work and write.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
