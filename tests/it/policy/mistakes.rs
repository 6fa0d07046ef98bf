//! One policy, one mistake, and what is said about it.

mod copy;
mod exec;
mod file;
mod form;
mod http;
mod jenkins;
mod kubernetes;
mod pipelines;
mod rules;
mod target;
mod value;

use rekeyd::policy::load::parse_policies;
use rekeyd::settings::Settings;

use super::{generated, lines, now, orders, sample, sample_settings};

/// Stands in a changed sample before the place that a diagnostic must point at.
const HERE: char = '«';

/// What is said about a text, each line without the file's name, and the position that [`HERE`] marks.
fn said(text: &str) -> (Vec<String>, String) {
    said_by(&sample_settings(), text)
}

fn said_by(settings: &Settings, text: &str) -> (Vec<String>, String) {
    let place = text.find(HERE).map_or(String::new(), |at| {
        let line = 1 + text[..at].matches('\n').count();
        let column = 1 + text[..at].rsplit('\n').next().map_or(0, |last| last.chars().count());
        format!(":{line}:{column}: ")
    });
    let loaded = parse_policies("p.yaml", &text.replace(HERE, ""), settings, now());
    // A policy is given exactly when nothing is wrong with it.
    assert_eq!(loaded.policies.is_empty(), loaded.has_errors(), "{:?}", loaded.diagnostics);
    let strip = |line: String| line.strip_prefix("p.yaml").unwrap_or(&line).to_owned();
    (lines(&loaded).into_iter().map(strip).collect(), place)
}

/// A part of a sample is replaced, and exactly these words are said, of the marked place.
#[track_caller]
fn tells(sample: &str, from: &str, to: &str, expected: &str) {
    let (lines, place) = said(&changed(sample, from, to));
    assert_eq!(lines, [format!("{place}{expected}")]);
}

/// A part of a sample is replaced, and nothing is wrong with that.
#[track_caller]
fn takes(sample: &str, from: &str, to: &str) {
    assert_eq!(said(&changed(sample, from, to)).0, Vec::<String>::new());
}

#[track_caller]
fn changed(sample: &str, from: &str, to: &str) -> String {
    assert!(sample.contains(from), "the sample does not hold {from:?}");
    sample.replacen(from, to, 1)
}
