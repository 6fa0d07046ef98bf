//! Which files of a directory are read.

use std::os::unix::fs::symlink;

use rekeyd::policy::load::load_policies;
use tempfile::TempDir;

use super::{generated, lines, now, sample_settings, write};

fn named(name: &str) -> String {
    generated()
        .replace("session-key\n", &format!("{name}\n"))
        .replace("/run/shop/session.toml", &format!("/run/{name}"))
}

/// The policies read and the lines said, with paths from the directory.
fn read(folder: &TempDir) -> (Vec<String>, Vec<String>) {
    let loaded = load_policies(Some(folder.path()), &[], &sample_settings(), now());
    let names = loaded.policies.iter().map(|policy| policy.name().name().to_owned()).collect();
    let root = format!("{}/", folder.path().display());
    (names, lines(&loaded).into_iter().map(|line| line.replace(&root, "")).collect())
}

#[test]
fn yaml_files_of_all_folders_in_their_order() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["b.yaml", "a.yml", "c/a.yaml", "c/d/e.yaml"] {
        let policy = name.replace(['/', '.'], "-");
        write(&folder.path().join(name), &named(&policy));
    }
    write(&folder.path().join("README.md"), "# not a policy");
    write(&folder.path().join("a.yaml.orig"), "not: a policy");
    write(&folder.path().join("empty.yaml"), "# nothing yet\n");
    let (names, said) = read(&folder);
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(names, ["a-yml", "b-yaml", "c-a-yaml", "c-d-e-yaml"]);
}

#[test]
fn a_mounted_config_map_is_read_once() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("..2026_10_01/a.yaml"), &named("a"));
    symlink("..2026_10_01", folder.path().join("..data")).expect("a link");
    symlink("..data/a.yaml", folder.path().join("a.yaml")).expect("a link");
    assert_eq!(read(&folder), (vec!["a".to_owned()], vec![]));
}

#[test]
fn links_that_lead_in_circles_are_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("a.yaml"), &named("a"));
    symlink(folder.path(), folder.path().join("loop")).expect("a link");
    symlink("self.yaml", folder.path().join("self.yaml")).expect("a link");
    let (names, said) = read(&folder);
    assert_eq!(names, ["a"]);
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        said[0],
        "loop: warning: is a link to a folder, which is not followed (put the folder itself in its place, or link its files)"
    );
    assert!(said[1].starts_with("self.yaml: error: cannot be read: "), "{said:?}");
}

#[test]
fn files_that_cannot_be_read_are_told_and_hide_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("a.yaml"), &named("a"));
    write(&folder.path().join("big.yaml"), &"# ".repeat(600 * 1024));
    std::fs::create_dir(folder.path().join("folder.yaml")).expect("a folder");
    symlink("nowhere", folder.path().join("gone.yaml")).expect("a link");
    std::fs::write(folder.path().join("latin1.yaml"), b"a: 1\nb: \xe9\n").expect("a file");
    std::os::unix::net::UnixListener::bind(folder.path().join("pipe.yaml")).expect("a socket");
    let (names, said) = read(&folder);
    assert_eq!(names, ["a"]);
    assert_eq!(
        said,
        [
            "big.yaml: error: is larger than 1 MiB (split it into several files)",
            "gone.yaml: error: cannot be read: no such file or folder (check that it exists and that this user may read it)",
            "latin1.yaml:2:4: error: is not UTF-8 text (save it as UTF-8)",
            "pipe.yaml: error: is not a regular file (put a regular file, or a link to one, in its place)",
        ]
    );
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let loaded = load_policies(Some(&folder.path().join("none")), &[], &sample_settings(), now());
    let said = lines(&loaded);
    assert!(
        loaded.has_errors() && said.len() == 1 && said[0].contains("none: error: cannot be read"),
        "{said:?}"
    );
}

#[test]
fn names_of_files_cannot_act_on_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("a\u{1b}[31m\n.yaml"), "a: 1\n");
    let (_, said) = read(&folder);
    assert!(said.iter().all(|line| !line.contains(['\u{1b}', '\n'])), "{said:?}");
    assert!(said[0].starts_with("a\\u{1b}[31m\\n.yaml:1:1: error: "), "{said:?}");
}
