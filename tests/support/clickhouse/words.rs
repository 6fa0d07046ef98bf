//! A statement in its words.

/// A word of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// `ALTER`, `system`, `7`
    Plain(String),
    /// `` `a name` ``
    Name(String),
    /// `'a text'`
    Text(String),
    Sign(char),
}

/// `None` where a quote is left open.
pub(super) fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '\'' | '`' => {
                let mut inside = String::new();
                loop {
                    match chars.next()? {
                        '\\' => inside.push(match chars.next()? {
                            'n' => '\n',
                            't' => '\t',
                            'r' => '\r',
                            '0' => '\0',
                            c => c,
                        }),
                        end if end == c => break,
                        other => inside.push(other),
                    }
                }
                words.push(if c == '`' { Word::Name(inside) } else { Word::Text(inside) });
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                words.push(Word::Plain(word));
            }
            c => words.push(Word::Sign(c)),
        }
    }
    Some(words)
}

/// Words that are taken one after another.
pub(super) struct Reader<'a> {
    words: &'a [Word],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(words: &'a [Word]) -> Self {
        Self { words }
    }

    pub(super) const fn is_done(&self) -> bool {
        self.words.is_empty()
    }

    /// Takes these words if they come next.
    pub(super) fn take(&mut self, wanted: &str) -> bool {
        let wanted: Vec<&str> = wanted.split(' ').collect();
        let comes = wanted.len() <= self.words.len()
            && wanted
                .iter()
                .zip(self.words)
                .all(|(wanted, word)| matches!(word, Word::Plain(is) if is == wanted));
        if comes {
            self.words = &self.words[wanted.len()..];
        }
        comes
    }

    pub(super) fn sign(&mut self, wanted: char) -> bool {
        let comes = self.words.first() == Some(&Word::Sign(wanted));
        if comes {
            self.words = &self.words[1..];
        }
        comes
    }

    pub(super) fn name(&mut self) -> Option<String> {
        let (Word::Name(name) | Word::Plain(name)) = self.words.first()? else { return None };
        self.words = &self.words[1..];
        Some(name.clone())
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let Word::Text(text) = self.words.first()? else { return None };
        self.words = &self.words[1..];
        Some(text.clone())
    }

    /// What comes before the next of these words or the end, as it would be shown.
    pub(super) fn before(&mut self, ends: &[&str]) -> String {
        let is_end = |word: &Word| matches!(word, Word::Plain(word) if ends.contains(&word.as_str()));
        let length = self.words.iter().position(is_end).unwrap_or(self.words.len());
        let (taken, rest) = self.words.split_at(length);
        self.words = rest;
        shown(taken)
    }
}

pub(super) fn shown(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        let gap =
            !text.is_empty() && !matches!(word, Word::Sign(',' | '.' | ')')) && !text.ends_with(['.', '(']);
        text.push_str(if gap { " " } else { "" });
        match word {
            Word::Plain(word) => text.push_str(word),
            Word::Name(name) => text.push_str(&quoted(name, '`')),
            Word::Text(inside) => text.push_str(&quoted(inside, '\'')),
            Word::Sign(sign) => text.push(*sign),
        }
    }
    text
}

/// As a server shows it.
pub(super) fn quoted(text: &str, quote: char) -> String {
    let escaped = text.replace('\\', "\\\\").replace(quote, &format!("\\{quote}"));
    format!("{quote}{escaped}{quote}")
}
