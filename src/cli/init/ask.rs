//! Answers: from a flag, else from the person at the terminal, else the usual one. Never a value.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::str::FromStr;

use clap::ValueEnum;
use dialoguer::{Confirm, Input, Select};

use super::Stop;
use crate::failure::{Failure, FailureClass};

/// What is done, in failures.
pub(super) const DOING: &str = "write the first settings";

/// Who answers what no flag says.
pub(super) struct Asker {
    /// Somebody is there.
    terminal: bool,
    /// The usual answers are taken unasked.
    brief: bool,
}

impl Asker {
    pub(super) fn new(brief: bool) -> Self {
        Self { terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(), brief }
    }

    /// A text that has to be there.
    pub(super) fn text<T>(
        &self,
        given: Option<T>,
        flag: &'static str,
        question: &str,
        usual: Option<String>,
    ) -> Result<T, Stop>
    where
        T: FromStr<Err: Display>,
    {
        let asks = self.terminal && !(self.brief && usual.is_some());
        let text = match (given, usual) {
            (Some(given), _) => return Ok(given),
            (None, usual) if asks => {
                let right = |text: &String| text.parse::<T>().map(drop).map_err(|error| error.to_string());
                let input = Input::<String>::new().with_prompt(question).validate_with(right);
                let input = match usual {
                    Some(usual) => input.default(usual),
                    None => input,
                };
                input.interact_text().map_err(gone)?
            }
            (None, Some(usual)) => usual,
            (None, None) => return Err(unsaid(flag, question)),
        };
        text.parse().map_err(|error: T::Err| Stop::Usage(invalid(&error.to_string(), format!("give {flag}"))))
    }

    /// A text that may be missing.
    pub(super) fn optional<T>(&self, given: Option<T>, question: &str) -> Result<Option<T>, Stop>
    where
        T: FromStr<Err: Display>,
    {
        if given.is_some() || !self.terminal || self.brief {
            return Ok(given);
        }
        let right = |text: &String| match text.trim() {
            "" => Ok(()),
            text => text.parse::<T>().map(drop).map_err(|error| error.to_string()),
        };
        let prompt = format!("{question} (may be empty)");
        let input = Input::<String>::new().with_prompt(prompt).allow_empty(true).validate_with(right);
        Ok(input.interact_text().map_err(gone)?.trim().parse().ok())
    }

    /// One of a few words.
    pub(super) fn choice<T: ValueEnum + Clone>(
        &self,
        given: Option<T>,
        flag: &'static str,
        question: &str,
        choices: &[T],
        usual: Option<usize>,
    ) -> Result<T, Stop> {
        if let Some(given) = given {
            return Ok(given);
        }
        match usual {
            Some(usual) if !self.terminal || self.brief => Ok(choices[usual].clone()),
            None if !self.terminal => Err(unsaid(flag, question)),
            _ => {
                let words: Vec<String> = choices.iter().map(word).collect();
                let select = Select::new().with_prompt(question).items(&words).default(usual.unwrap_or(0));
                Ok(choices[select.interact().map_err(gone)?].clone())
            }
        }
    }

    /// Whether to go on; without a person, the flags have said so.
    pub(super) fn confirms(&self, question: &str) -> Result<bool, Stop> {
        if !self.terminal || self.brief {
            return Ok(true);
        }
        Confirm::new().with_prompt(question).default(true).interact().map_err(gone)
    }
}

/// The word on the command line for one of a few.
pub(super) fn word<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

pub(super) fn invalid(reason: &str, remedy: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(FailureClass::Invalid, DOING, reason).with_remedy(remedy)
}

fn unsaid(flag: &'static str, question: &str) -> Stop {
    let reason = format!("nothing says this: {question}");
    Stop::Usage(invalid(&reason, format!("say it with {flag}, or run it on a terminal")))
}

fn gone(error: dialoguer::Error) -> Stop {
    let dialoguer::Error::IO(error) = error;
    Stop::Failed(Failure::new(FailureClass::Invalid, DOING, format_args!("the terminal: {}", error.kind())))
}
