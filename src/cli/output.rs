//! How answers look: text in colour on a terminal, plain in a pipe, JSON on request.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use comfy_table::presets;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::failure::{Failure, Verdict};
use crate::policy::diagnostic::Diagnostic;

/// A terminal of fewer columns is not a width to fold tables to.
const NARROWEST: u16 = 40;

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For scripts; field names are stable.
    Json,
}

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
pub(super) const FAINT: Style = Style::new().dimmed();

/// Whether standard error is a terminal that takes colour, and nobody asked for none.
pub(super) fn stderr_takes_colour() -> bool {
    let stderr = std::io::stderr();
    stderr.is_terminal() && anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never
}

/// One JSON document.
pub(super) fn json(answer: &impl Serialize) {
    let text = serde_json::to_string_pretty(answer).expect("an answer has only string keys");
    line(text);
}

/// A line on standard output. A reader that went away or a full disk must not stop what is under way: it
/// is remembered, and [`is_lost`] tells.
pub(super) fn line(text: impl Display) {
    if let Err(error) = writeln!(anstream::stdout().lock(), "{text}") {
        let _ = LOST.set(error.kind());
    }
}

/// A line on standard error. Where not even that can be written, there is nobody to tell.
pub(super) fn remark(text: impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Whether a line of the answer could not be written. A reader that has seen enough is no reason to
/// complain.
pub(super) fn is_lost() -> bool {
    let lost = LOST.get();
    if let Some(kind) = lost.filter(|kind| **kind != ErrorKind::BrokenPipe) {
        failure(&format!("cannot write the answer to standard output: {kind}"), None);
    }
    lost.is_some()
}

static LOST: OnceLock<ErrorKind> = OnceLock::new();

/// An error and its remedy, on standard error.
pub(super) fn failure(message: &str, remedy: Option<&str>) {
    remark(format_args!("{BAD}error{BAD:#}: {message}"));
    if let Some(remedy) = remedy {
        remark(format_args!("  {FAINT}remedy:{FAINT:#} {remedy}"));
    }
}

/// Says why a command could not do its work, and answers with the exit code for it.
pub(super) fn refused(refusal: &Failure, format: Format) -> ExitCode {
    match format {
        Format::Json => json(&Refusal::new(refusal, &[])),
        Format::Text => failure(&refusal.to_string(), refusal.remedy()),
    }
    ExitCode::FAILURE
}

/// What `-o json` prints where there is no answer.
#[derive(Serialize)]
pub(super) struct Refusal<'a> {
    error: Reason<'a>,
}

#[derive(Serialize)]
struct Reason<'a> {
    class: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
    /// What is wrong with the settings, if that is why.
    #[serde(skip_serializing_if = "<[Diagnostic]>::is_empty")]
    diagnostics: &'a [Diagnostic],
}

impl<'a> Refusal<'a> {
    pub(super) fn new(failure: &'a Failure, diagnostics: &'a [Diagnostic]) -> Self {
        let (class, message, remedy) = (failure.class().as_str(), failure.to_string(), failure.remedy());
        Self { error: Reason { class, message, remedy, diagnostics } }
    }
}

/// A table without lines.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    // Consoles and pseudo-terminals that do not know their width say 0: cells are not folded to fit that.
    let arrangement = match table.width() {
        Some(width) if width < NARROWEST => ContentArrangement::Disabled,
        _ => ContentArrangement::Dynamic,
    };
    table.load_style(presets::NOTHING).set_content_arrangement(arrangement).set_header(header);
    table
}

/// A cell in colour, where the terminal takes it.
pub(super) fn cell(text: impl Into<String>, colour: Color) -> Cell {
    Cell::new(text.into()).fg(colour)
}

/// A verdict as a word in colour.
pub(super) fn verdict(verdict: Verdict) -> Cell {
    match verdict {
        Verdict::Pass => cell("pass", Color::Green),
        Verdict::Warn => cell("warn", Color::Yellow),
        Verdict::Fail => cell("FAIL", Color::Red),
    }
}

/// A moment in a zone, to the minute.
pub(super) fn minute(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned_datetime(zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}

/// The word for so many of something.
pub(super) const fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// A length of time in its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let mut text = format!("{}{}", seconds / units[first].1, units[first].0);
    if let Some((unit, size)) = units.get(first + 1) {
        let rest = seconds % units[first].1 / size;
        if rest > 0 {
            text.push_str(&format!(" {rest}{unit}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3_661, "1h 1m"), (90_000, "1d 1h"), (86_400 * 30, "30d")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
