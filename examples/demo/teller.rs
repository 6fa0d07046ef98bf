//! Tells the timeline.

use std::io::IsTerminal as _;
use std::time::Instant;

pub(super) struct Teller {
    pub(super) began: Instant,
    colour: bool,
}

impl Teller {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), colour: std::io::stdout().is_terminal() }
    }

    pub(super) fn tell(&self, what: &str) {
        self.line("", what);
    }

    pub(super) fn good(&self, what: &str) {
        self.line("\x1b[32m", what);
    }

    pub(super) fn bad(&self, what: &str) {
        self.line("\x1b[31m", what);
    }

    fn line(&self, style: &str, what: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let (on, off) = if self.colour && !style.is_empty() { (style, "\x1b[0m") } else { ("", "") };
        println!("{at:>6.1} s  {on}{what}{off}");
    }
}
