//! Diagnostics for people at a terminal.

use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode,
};
use miette::{SourceSpan, SpanContents};

use super::{Diagnostic, Position, Severity};

/// Diagnostics with the place in the file drawn out. `width` is the terminal's, in columns.
#[must_use]
pub fn graphical(diagnostics: &[Diagnostic], width: usize, colour: bool) -> String {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(width.max(40))
        .with_context_lines(0)
        .with_links(false)
        .without_syntax_highlighting();
    diagnostics.iter().fold(String::new(), |mut text, diagnostic| {
        handler.render_report(&mut text, &Report(diagnostic)).expect("writing to a string cannot fail");
        text.push('\n');
        text
    })
}

#[derive(Debug)]
struct Report<'a>(&'a Diagnostic);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.field {
            "" => f.write_str(&self.0.message),
            field => write!(f, "{field}: {}", self.0.message),
        }
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.0.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    /// The place, where there is no text to draw it in.
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match (self.0.position, &self.0.excerpt) {
            (_, Some(_)) => None,
            (Some(Position { line, column }), None) => {
                Some(Box::new(format!("{}:{line}:{column}", self.0.file)))
            }
            (None, None) => Some(Box::new(&self.0.file)),
        }
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.0.remedy))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.excerpt.as_ref().map(|_| self as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.0.excerpt.as_ref()?;
        let label = LabeledSpan::new_primary_with_span(None, (excerpt.start, excerpt.length));
        Some(Box::new(std::iter::once(label)))
    }
}

/// The one line that is shown, as the line of the file that it is.
impl SourceCode for Report<'_> {
    fn read_span<'a>(
        &'a self,
        _: &SourceSpan,
        _: usize,
        _: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (Some(excerpt), Some(position)) = (&self.0.excerpt, self.0.position) else {
            return Err(MietteError::OutOfBounds);
        };
        Ok(Box::new(MietteSpanContents::new_named(
            self.0.file.clone(),
            excerpt.text.as_bytes(),
            (0, excerpt.text.len()).into(),
            position.line as usize - 1,
            position.column as usize - 1,
            1,
        )))
    }
}
