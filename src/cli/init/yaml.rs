//! A YAML document with comments, written from a tree so that no answer can become more than a value.

use std::fmt::Write as _;

use serde_json::Value;

/// What stands at a key.
pub(super) enum Node {
    /// A text, in quotes where it would be something else without.
    Text(String),
    /// A number.
    Number(u32),
    /// What JSON can say, which YAML can too.
    Json(Value),
    /// Lines of text.
    Lines(&'static str),
    /// Texts in one line.
    Texts(Vec<String>),
    Maps(Vec<Map>),
    Map(Map),
}

/// Keys in the order in which they are written.
#[derive(Default)]
pub(super) struct Map(Vec<Entry>);

struct Entry {
    remark: Option<&'static str>,
    key: String,
    value: Node,
}

impl Map {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn with(mut self, key: impl Into<String>, value: Node) -> Self {
        self.0.push(Entry { remark: None, key: key.into(), value });
        self
    }

    pub(super) fn text(self, key: impl Into<String>, text: impl ToString) -> Self {
        self.with(key, Node::Text(text.to_string()))
    }

    pub(super) fn map(self, key: impl Into<String>, map: Self) -> Self {
        self.with(key, Node::Map(map))
    }

    /// Says something above what was added last.
    pub(super) fn remark(mut self, remark: &'static str) -> Self {
        if let Some(last) = self.0.last_mut() {
            last.remark = Some(remark);
        }
        self
    }

    /// One key more, if there is something to say.
    pub(super) fn with_some(self, key: &str, text: Option<impl ToString>) -> Self {
        match text {
            Some(text) => self.text(key, text),
            None => self,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, indent: usize) {
        let margin = " ".repeat(indent);
        for Entry { remark, key, value } in &self.0 {
            // The parts of the whole stand apart.
            if indent == 0 && remark.is_some() {
                out.push('\n');
            }
            for line in remark.iter().flat_map(|remark| remark.lines()) {
                put(out, format_args!("{margin}# {line}\n"));
            }
            let key = scalar(key);
            match value {
                Node::Text(text) => put(out, format_args!("{margin}{key}: {}\n", scalar(text))),
                Node::Number(number) => put(out, format_args!("{margin}{key}: {number}\n")),
                Node::Json(value) => put(out, format_args!("{margin}{key}: {value}\n")),
                Node::Texts(texts) => {
                    let texts: Vec<String> = texts.iter().map(|text| scalar(text)).collect();
                    put(out, format_args!("{margin}{key}: [{}]\n", texts.join(", ")));
                }
                Node::Lines(text) => {
                    put(out, format_args!("{margin}{key}: |\n"));
                    for line in text.lines() {
                        put(out, format_args!("{margin}  {line}\n"));
                    }
                }
                Node::Map(map) if map.is_empty() => put(out, format_args!("{margin}{key}: {{}}\n")),
                Node::Map(map) => {
                    put(out, format_args!("{margin}{key}:\n"));
                    map.write(out, indent + 2);
                }
                Node::Maps(maps) => {
                    put(out, format_args!("{margin}{key}:\n"));
                    for map in maps {
                        let mut entry = String::new();
                        map.write(&mut entry, indent + 4);
                        // The dash takes the place of the first line's margin.
                        put(out, format_args!("{margin}  - {}", entry.trim_start()));
                    }
                }
            }
        }
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

/// A text as YAML, bare only where nothing reads it as anything else.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let bare = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/@+".contains(&b))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    // JSON's quotes and escapes are YAML's as well.
    if bare {
        return text.to_owned();
    }
    // But for characters that JSON lets stand and YAML does not.
    let odd = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}');
    Value::from(text).to_string().chars().fold(String::new(), |mut quoted, char| {
        if odd(char) {
            quoted.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            quoted.push(char);
        }
        quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_answered_comes_back_as_it_is() {
        for text in [
            "",
            " ",
            "a",
            "no",
            "Null",
            "~",
            "1e3",
            "0x1f",
            "2026-01-01",
            "a: b",
            "a #b",
            "[a",
            "- a",
            "&a",
            "*a",
            "{{ value }}",
            "'",
            "\"",
            "\\",
            "a\nb: c",
            "é\u{7f}\u{2028}",
            "!tag",
            "%",
            "a,b",
            "@a",
            "10.0.0.1",
            "::1",
            "/run/x",
        ] {
            let document = Map::new()
                .text("a", text)
                .with("b", Node::Texts(vec![text.into(), text.into()]))
                .with("c", Node::Maps(vec![Map::new().text("d", text).map("e", Map::new())]));
            let read: Value = serde_saphyr::from_str(&document.render()).expect("YAML");
            let expected = serde_json::json!({"a": text, "b": [text, text], "c": [{"d": text, "e": {}}]});
            assert_eq!(read, expected, "{}", document.render());
        }
    }

    #[test]
    fn remarks_stand_above_their_key() {
        let document = Map::new()
            .map("a", Map::new().text("b", "c").remark("one\ntwo"))
            .with("d", Node::Lines("x\ny\n"));
        assert_eq!(document.render(), "a:\n  # one\n  # two\n  b: c\nd: |\n  x\n  y\n");
    }
}
