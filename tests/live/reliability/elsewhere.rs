//! A point that is left out here is played by some other test.

use std::fs;
use std::path::{Path, PathBuf};

use rekeyd::proving::point::{IN_NO_HISTORY, POINTS};

use super::scene::PLAYED_ELSEWHERE;
use crate::cluster_sweep;

/// Whoever names points here says that they are played, and plays none.
const LISTS: [&str; 2] = ["live/reliability/scene.rs", "live/cluster_sweep.rs"];

/// What the tests say, without the lists.
fn tests() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (mut text, mut folders, mut lists) = (String::new(), vec![root.clone()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of tests") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if LISTS.iter().any(|list| path == root.join(list)) {
                lists += 1;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).expect("a test"));
            }
        }
    }
    assert_eq!(lists, LISTS.len(), "a list is somewhere else");
    text
}

fn begins_with(point: &str, list: &[&str]) -> bool {
    list.iter().any(|on| point.starts_with(on))
}

#[test]
fn whatever_is_said_to_be_played_elsewhere_is() {
    let tests = tests();
    let is_played = |point: &str| {
        // Every one of these is held against what is reached: calls by the simulation, the others by the cluster's sweep.
        let by_simulation = point.contains('/') && !begins_with(point, &IN_NO_HISTORY);
        let by_sweep = point.starts_with("kubernetes.") && !begins_with(point, &cluster_sweep::ELSEWHERE);
        by_simulation
            || by_sweep
            || tests.contains(&format!("\"{point}\""))
            || tests.contains(&format!("\"{point}#"))
    };
    let missing: Vec<_> = POINTS
        .iter()
        .map(|point| point.name)
        .filter(|point| begins_with(point, &PLAYED_ELSEWHERE) && !is_played(point))
        .collect();
    assert!(missing.is_empty(), "nobody dies at {missing:?}");
}

#[test]
fn whatever_is_left_out_is_a_point() {
    let all = PLAYED_ELSEWHERE.iter().chain(&cluster_sweep::ELSEWHERE).chain(&IN_NO_HISTORY);
    let unknown: Vec<_> = all.filter(|on| !POINTS.iter().any(|point| point.name.starts_with(**on))).collect();
    assert!(unknown.is_empty(), "these are no points: {unknown:?}");
}
