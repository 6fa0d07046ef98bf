//! Whether the admin may grant what a user of a pair is made anew with.
//!
//! The server itself is asked, since only it knows what a right includes and what comes by a role: by a grant to nobody
//! (`TO NONE`). It looks at the admin's `GRANT OPTION` or `ADMIN OPTION` as for any other, and there is nothing to change.

use super::api::{Api, Said, exception, lost, strange};
use super::pair::{Model, given_to};
use super::sql::ident;
use crate::failure::{Failure, Finding};
use crate::http::Stage;
use crate::policy::spec::ClickhouseNode;

const ACCESS_DENIED: u32 = 497;
const SYNTAX_ERROR: u32 = 62;
const SUBJECT: &str = "rights";

/// Nothing to say where nothing is granted.
pub(super) async fn look(
    api: &Api,
    node: &ClickhouseNode,
    model: &Model,
    doing: &str,
) -> Result<Option<Finding>, Failure> {
    let admin = &api.credential().principal;
    // Who may grant something may take a part of it out again.
    let given: Vec<&String> = model.grants.iter().filter(|line| line.starts_with("GRANT ")).collect();
    let (mut lacking, mut grants) = (Vec::new(), Vec::new());
    for line in &given {
        match api.send(&given_to(line, "NONE")).await.map_err(|error| lost(error, Stage::Reading, doing))? {
            Said::Rows(_) | Said::Unreadable => {}
            Said::Exception(ACCESS_DENIED) => {
                lacking.push(what(line));
                grants.push(grantable(line, &ident(admin.as_str())));
            }
            Said::Exception(SYNTAX_ERROR) => {
                return Ok(Some(Finding::warn(
                    SUBJECT,
                    format!("{node} does not tell whether {admin} may grant what the pair has"),
                    "compare it with SHOW GRANTS of the admin by hand",
                )));
            }
            Said::Exception(code) => return Err(exception(code, Stage::Reading, doing)),
            Said::Strange(status) => return Err(strange(status, Stage::Reading, doing)),
        }
    }
    Ok(match lacking.as_slice() {
        _ if given.is_empty() => None,
        [] => Some(Finding::pass(SUBJECT, format!("{admin} may grant on {node} what the pair has"))),
        lacking => Some(Finding::fail(
            SUBJECT,
            format!("{admin} may not grant on {node} what the pair has: {}", lacking.join(", ")),
            grants.join("; "),
        )),
    })
}

/// What a line grants: `SELECT ON shop.*`.
fn what(line: &str) -> String {
    let end = line.rfind(" TO {}").unwrap_or(line.len());
    line[..end].trim_start_matches("GRANT ").to_owned()
}

/// The statement that lets somebody grant what a line grants.
fn grantable(line: &str, whom: &str) -> String {
    let option = if line.starts_with("GRANT `") { "ADMIN" } else { "GRANT" };
    let end = line.rfind("{}").map_or(line.len(), |at| at + "{}".len());
    format!("{} WITH {option} OPTION", given_to(&line[..end], whom))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_made_grantable() {
        for (line, told, mends) in [
            (
                "GRANT SELECT ON shop.* TO {}",
                "SELECT ON shop.*",
                "GRANT SELECT ON shop.* TO `rekeyd` WITH GRANT OPTION",
            ),
            (
                "GRANT SELECT(a) ON shop.`{} TO x` TO {} WITH GRANT OPTION",
                "SELECT(a) ON shop.`{} TO x`",
                "GRANT SELECT(a) ON shop.`{} TO x` TO `rekeyd` WITH GRANT OPTION",
            ),
            ("GRANT `r, s` TO {}", "`r, s`", "GRANT `r, s` TO `rekeyd` WITH ADMIN OPTION"),
        ] {
            assert_eq!((&*what(line), &*grantable(line, "`rekeyd`")), (told, mends));
        }
    }
}
