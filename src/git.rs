//! Git repositories that are elsewhere: where records are pushed to, and where a GitOps tool reads what is wanted.

pub(crate) mod branch;
pub(crate) mod remote;
pub(crate) mod transport;

use git2::{Signature, Time};

use crate::failure::{Failure, FailureClass};
use crate::settings::AuthorSettings;

/// Refuses an author whom Git would write differently, or not at all. `field` is where it stands in the settings.
pub(crate) fn check_author(author: &AuthorSettings, field: &str) -> Result<(), Failure> {
    let kept = |written: Signature<'_>| {
        written.name_bytes() == author.name.as_bytes() && written.email_bytes() == author.email.as_bytes()
    };
    if Signature::new(&author.name, &author.email, &Time::new(0, 0)).is_ok_and(kept) {
        return Ok(());
    }
    let reason = "Git cannot write the name or the address as they are";
    Err(Failure::new(FailureClass::Invalid, format!("use `{field}`"), reason)
        .with_remedy("use one line each, without `<`, `>` and outer spaces or punctuation"))
}

/// A foreign text as one visible line of at most 200 characters.
pub(crate) fn one_line(text: &str) -> String {
    let text = text.trim();
    let mut line: String =
        text.chars().take(200).map(|c| if is_hidden(c) { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if text.chars().count() > 200 {
        line.push_str("...");
    }
    if line.is_empty() { "-".to_owned() } else { line }
}

/// Control characters, line and paragraph separators, and what changes direction or has no width.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
