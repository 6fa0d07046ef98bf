//! What a daemon logs, one JSON object a line.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};

use super::Outcome;

pub(super) struct Log<R> {
    lines: Lines<BufReader<R>>,
    steps: Vec<String>,
}

/// A rotation that has closed.
pub(super) struct Closed {
    /// Which it was and how long its steps took.
    pub(super) line: String,
    pub(super) outcome: String,
    pub(super) trigger: String,
}

impl<R: AsyncRead + Unpin> Log<R> {
    pub(super) fn new(source: R) -> Self {
        Self { lines: BufReader::new(source).lines(), steps: Vec::new() }
    }

    /// The next rotation that opens, or is taken up again by another process.
    pub(super) async fn opened(&mut self) -> Outcome<()> {
        loop {
            let entry = self.next().await?;
            if matches!(entry["message"].as_str(), Some("rotation opened" | "rotation taken up again")) {
                self.steps.clear();
                return Ok(());
            }
        }
    }

    /// The next rotation that closes.
    pub(super) async fn rotation(&mut self) -> Outcome<Closed> {
        loop {
            let entry = self.next().await?;
            match entry["message"].as_str() {
                Some("rotation opened") => self.steps.clear(),
                Some("step done") => {
                    let (step, elapsed) =
                        (entry["step"].as_str().unwrap_or(""), entry["elapsed_ms"].as_f64());
                    self.steps.push(format!("{step} {:.0}", elapsed.unwrap_or(0.0)));
                }
                Some("rotation closed") => {
                    let text = |field: &str| entry[field].as_str().unwrap_or("").to_owned();
                    return Ok(Closed {
                        line: format!(
                            "{} [{}] {} ms",
                            text("version"),
                            text("trigger"),
                            self.steps.join(", ")
                        ),
                        outcome: text("outcome"),
                        trigger: text("trigger"),
                    });
                }
                // That its age makes it due outside of the cron's times, which is meant here.
                Some("policy document") => {}
                Some(message) if entry["level"] == "WARN" || entry["level"] == "ERROR" => {
                    let failure = entry["failure"].as_str().map(|failure| format!(": {failure}"));
                    eprintln!("{message}{}", failure.unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    async fn next(&mut self) -> Outcome<Value> {
        Ok(serde_json::from_str(&self.lines.next_line().await?.ok_or("the daemon ended")?)?)
    }
}
