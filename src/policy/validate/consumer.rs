//! The rules of a consumer.

use std::path::{Component, Path};

use super::rule::LONGEST_RELOAD;
use super::{Breaches, Rule};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{ConsumerSpec, FileSpec};
use crate::settings::Places;
use crate::template::Template;

pub(super) fn rules(at: &FieldPath, consumer: &ConsumerSpec, places: &Places, found: &mut Breaches) {
    match consumer {
        ConsumerSpec::File(file) => file_rules(&at.join("file"), file, places, found),
    }
}

fn file_rules(at: &FieldPath, file: &FileSpec, places: &Places, found: &mut Breaches) {
    path_rules(&at.join("path"), &file.path, places, found);
    if file.mode.bits() & 0o002 != 0 {
        found.add(at.join("mode"), Rule::FileWritableByOthers);
    } else if file.mode.bits() & 0o004 != 0 {
        found.add(at.join("mode"), Rule::FileReadableByOthers);
    }
    if let Some(owner) = &file.owner
        && !is_owner(owner)
    {
        found.add(at.join("owner"), Rule::NotAnOwner(owner.chars().take(64).collect()));
    }
    match Template::parse(&file.content) {
        Err(error) => found.add(at.join("content"), Rule::Template(error)),
        Ok(template) if !template.uses_value() => {
            found.add(at.join("content"), Rule::TemplateWithoutValue);
        }
        Ok(_) => {}
    }
    reload_rules(&at.join("reload"), &file.reload, found);
    if file.reload_timeout.as_duration().is_zero() || file.reload_timeout > LONGEST_RELOAD {
        found.add(at.join("reloadTimeout"), Rule::ReloadTimeout(file.reload_timeout));
    }
}

fn path_rules(at: &FieldPath, path: &Path, places: &Places, found: &mut Breaches) {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) {
        found.add(at.clone(), Rule::ControlCharacter);
    } else if !path.is_absolute() {
        found.add(at.clone(), Rule::FileNotAbsolute(path.to_owned()));
    } else if path.components().any(|part| part == Component::ParentDir) {
        found.add(at.clone(), Rule::FileThroughParent(path.to_owned()));
    } else if path.file_name().is_none() || text.ends_with('/') || text.ends_with("/.") {
        found.add(at.clone(), Rule::FileUnnamed(path.to_owned()));
    } else if let Some(what) = places.meaning_of(path) {
        found.add(at.clone(), Rule::FileOfRekeyd { path: path.to_owned(), what });
    }
}

fn reload_rules(at: &FieldPath, command: &[String], found: &mut Breaches) {
    for (index, argument) in command.iter().enumerate() {
        let at = at.join(index);
        if argument.trim().is_empty() {
            found.add(at, Rule::ReloadArgumentEmpty(index + 1));
        } else if argument.chars().any(char::is_control) {
            found.add(at, Rule::ControlCharacter);
        } else if argument.contains("{{") || argument.contains("{%") {
            found.add(at, Rule::ReloadTemplate);
        } else if index == 0 && argument.contains('/') && !argument.starts_with('/') {
            found.add(at, Rule::ReloadProgramRelative(argument.clone()));
        } else if command.len() == 1 && argument.contains(char::is_whitespace) {
            found.add(at, Rule::ReloadInOnePiece);
        }
    }
}

/// `user` or `user:group`, each a name as `useradd` takes it, or a number.
fn is_owner(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let name = |name: &str| {
        let name = name.strip_suffix('$').unwrap_or(name);
        (1..=32).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with(['-', '.'])
    };
    match text.split_once(':') {
        Some((user, group)) => name(user) && name(group),
        None => name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_users_and_groups() {
        for owner in ["app", "app:app", "1000:1000", "_apt", "host$", "a.b-c"] {
            assert!(is_owner(owner), "{owner} was refused");
        }
        for owner in ["", ":", "app:", ":app", "a:b:c", "-a", "a b", "a/b", &"a".repeat(33)] {
            assert!(!is_owner(owner), "{owner:?} was taken");
        }
    }
}
