//! The reload command: what it is given, what becomes of one that fails, hangs or is left alone.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rekeyd::consumer::Consumer as _;
use rekeyd::failure::{FailureClass, Verdict};
use serde_json::json;

use super::contract::{policy, publish, reload};
use super::{Folder, assert_refused};

/// A folder whose reload command is a shell's line; `$0` in it is the folder.
fn with_script(script: &str, timeout: &str) -> Folder {
    let mut folder = Folder::new();
    let here = folder.dir.path().display().to_string();
    folder.more = json!({ "reload": ["/bin/sh", "-c", script, here], "reloadTimeout": timeout });
    folder
}

async fn published(folder: &Folder) {
    publish(&folder.consumer(), 1).await.expect("published");
}

#[tokio::test]
async fn a_command_is_given_its_arguments_and_nothing_of_the_daemons() {
    let script = "{ env; readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2; \
                  ls /proc/$$/fd | wc -l; echo \"$1\"; } > \"$0/seen\" 2>&1; echo shown; echo shown >&2";
    let mut folder = with_script(script, "10s");
    folder.more["reload"].as_array_mut().expect("a list").push("a $HOME; `b` 'c'".into());
    published(&folder).await;
    reload(&folder.consumer(), 1).await.expect("reloaded");
    let seen = fs::read_to_string(folder.beside("seen")).expect("what it saw");
    let lines: Vec<&str> = seen.lines().collect();
    let environment: Vec<&str> = lines.iter().filter(|line| line.contains('=')).copied().collect();
    let allowed = ["PATH=", "PWD=", "SHLVL=", "OLDPWD=", "_="];
    for variable in environment {
        assert!(allowed.iter().any(|name| variable.starts_with(name)), "it was given {variable}");
    }
    assert!(lines.contains(&"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), "{seen}");
    assert_eq!(lines.iter().filter(|line| **line == "/dev/null").count(), 1, "its input is empty: {seen}");
    assert!(lines.contains(&"a $HOME; `b` 'c'"), "a shell looked at its arguments: {seen}");
}

/// Two processes that drive one rotation come to its reader at the same time.
#[tokio::test]
async fn of_two_that_tell_a_reader_one_does() {
    let folder = with_script("echo told >> \"$0/told\"; sleep 0.3", "10s");
    published(&folder).await;
    let (one, other) = (folder.consumer(), folder.consumer());
    let (first, second) = tokio::join!(reload(&one, 1), reload(&other, 1));
    let (told, refused) = if first.is_ok() { (first, second) } else { (second, first) };
    told.expect("reloaded");
    assert_refused(refused, FailureClass::Unavailable, "another process is at it");
    // It is tried again, and finds that it was done.
    reload(&other, 1).await.expect("reloaded");
    assert_eq!(fs::read_to_string(folder.beside("told")).expect("it ran"), "told\n");
}

#[tokio::test]
async fn a_command_that_fails_is_said_and_run_again() {
    let folder = with_script("echo told >> \"$0/told\"; test -e \"$0/mended\" || exit 7", "10s");
    published(&folder).await;
    let refused = reload(&folder.consumer(), 1).await;
    assert_refused(refused, FailureClass::Unavailable, "exit status: 7");
    fs::write(folder.beside("mended"), "").expect("a file");
    for _ in 0..2 {
        reload(&folder.consumer(), 1).await.expect("reloaded");
    }
    let told = fs::read_to_string(folder.beside("told")).expect("it ran");
    assert_eq!(told.lines().count(), 2);
}

#[tokio::test]
async fn a_program_that_is_missing_is_said() {
    for (program, found_before) in [("/nowhere/reload", true), ("no-program-of-that-name", false)] {
        let folder = Folder::with(json!({ "reload": [program] }));
        published(&folder).await;
        let refused = reload(&folder.consumer(), 1).await;
        assert_refused(refused, FailureClass::Unavailable, program);
        let findings = folder.consumer().preflight(&policy()).await;
        let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        assert_eq!(failed, found_before, "{findings:?}");
    }
}

#[tokio::test]
async fn a_file_without_a_command_needs_none() {
    let folder = Folder::with(json!({ "reload": [] }));
    published(&folder).await;
    reload(&folder.consumer(), 1).await.expect("reloaded");
    let observed = folder.consumer().observe(&policy()).await.expect("observed");
    assert_eq!(observed.reloaded.number(), 1);
}

const HANGS: &str = "sleep 600 & echo $! > \"$0/child\"; echo $$ > \"$0/itself\"; : > \"$0/running\"; wait";

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let folder = with_script(HANGS, "1s");
    published(&folder).await;
    let began = Instant::now();
    let refused = reload(&folder.consumer(), 1).await;
    assert_refused(refused, FailureClass::Unavailable, "it did not end within 1s");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_gone(&folder).await;
}

/// A containment breaks off at its deadline, a daemon when it stops.
#[tokio::test]
async fn a_command_nobody_waits_for_any_more_is_killed_with_its_children() {
    let folder = with_script(HANGS, "600s");
    published(&folder).await;
    let consumer = folder.consumer();
    let running = async {
        while !folder.beside("running").exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        done = reload(&consumer, 1) => panic!("it ended: {done:?}"),
        () = running => {}
    }
    assert_gone(&folder).await;
    let observed = consumer.observe(&policy()).await.expect("observed");
    assert_eq!(observed.reloaded.number(), 0, "what was broken off is not noted");
}

/// A service that a command starts is meant to stay.
#[tokio::test]
async fn what_a_command_leaves_behind_stays() {
    let folder = with_script("sleep 600 & echo $! > \"$0/child\"", "10s");
    published(&folder).await;
    reload(&folder.consumer(), 1).await.expect("reloaded");
    let child = number(&folder.beside("child"));
    assert!(lives(child));
    let status = std::process::Command::new("kill").arg(child.to_string()).status().expect("kill runs");
    assert!(status.success());
}

/// A command runs long, and another process publishes meanwhile: its note stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_of_another_process_survives_a_long_command() {
    let script = "echo > \"$0/running\"; while ! test -e \"$0/go-on\"; do :; done";
    let folder = with_script(script, "20s");
    published(&folder).await;
    let consumer = folder.consumer();
    let other = async {
        while !folder.beside("running").exists() {
            tokio::task::yield_now().await;
        }
        publish(&folder.consumer(), 2).await.expect("published");
        fs::write(folder.beside("go-on"), "").expect("a file");
    };
    let (told, ()) = tokio::join!(reload(&consumer, 1), other);
    told.expect("reloaded");
    let observed = folder.consumer().observe(&policy()).await.expect("observed");
    assert_eq!((observed.published.number(), observed.reloaded.number()), (2, 1));
}

async fn assert_gone(folder: &Folder) {
    let (itself, child) = (number(&folder.beside("itself")), number(&folder.beside("child")));
    let gone = async {
        while lives(itself) || lives(child) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("a process is left");
}

fn number(path: &Path) -> u32 {
    fs::read_to_string(path).expect("a number").trim().parse().expect("a number")
}

/// Whether a process is there and not merely waiting to be buried.
fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
