//! A credential as Jenkins writes and reads it: XML, by way of XStream.
//!
//! What Jenkins shows has no secret in it: there is an element in its place. An update replaces the whole credential, so
//! what is written is made from what is there, with everything that a person may have set besides.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};
use zeroize::Zeroizing;

use crate::secret::SecretValue;

/// The kinds of credential that rekeyd writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    UsernamePassword,
    SecretText,
    File,
}

impl Kind {
    const ALL: [Self; 3] = [Self::UsernamePassword, Self::SecretText, Self::File];

    /// The class behind it, which is the name of the document's root.
    const fn class(self) -> &'static str {
        match self {
            Self::UsernamePassword => {
                "com.cloudbees.plugins.credentials.impl.UsernamePasswordCredentialsImpl"
            }
            Self::SecretText => "org.jenkinsci.plugins.plaincredentials.impl.StringCredentialsImpl",
            Self::File => "org.jenkinsci.plugins.plaincredentials.impl.FileCredentialsImpl",
        }
    }

    /// What stands beside the secret, and the secret.
    const fn fields(self) -> (Option<&'static str>, &'static str) {
        match self {
            Self::UsernamePassword => (Some("username"), "password"),
            Self::SecretText => (None, "secret"),
            Self::File => (Some("fileName"), "secretBytes"),
        }
    }

    /// As the form of Jenkins calls it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::UsernamePassword => "username with password",
            Self::SecretText => "secret text",
            Self::File => "secret file",
        }
    }
}

/// A credential as Jenkins shows it, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// `None` for one that rekeyd does not write.
    pub(super) kind: Option<Kind>,
    pub(super) description: String,
    /// The user name, or the file's name.
    pub(super) beside: Option<String>,
    /// Whatever else a person may have set, in order.
    pub(super) kept: Vec<(String, String)>,
    /// Something that cannot be kept, by its name: it is no plain text, and may be a secret that is not shown.
    pub(super) unknown: Option<String>,
}

/// What is no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCredential {
    /// A page for people, such as a login form.
    Page,
    Other,
}

/// What is to be written.
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) id: &'a str,
    pub(super) description: &'a str,
    pub(super) beside: Option<&'a str>,
    pub(super) kept: &'a [(String, String)],
    pub(super) secret: &'a SecretValue,
}

/// XML has no place for a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoSuchCharacter;

struct Field {
    name: String,
    text: String,
    is_plain: bool,
}

/// What stands in an answer for a character that its encoding lacks.
const LOST: char = '?';

/// Jenkins answers in the encoding that its servlet container has for XML, which is ISO-8859-1 unless somebody set another.
pub(super) fn read(body: &[u8]) -> Result<Shown, NoCredential> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(body.iter().copied().map(char::from).collect()),
    };
    let (class, fields) = parse(&text)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.class() == class);
    let (beside, secret) = kind.map_or((None, ""), Kind::fields);
    let mut shown = Shown { kind, description: String::new(), beside: None, kept: Vec::new(), unknown: None };
    for field in fields {
        match &*field.name {
            "id" => {}
            name if name == secret => {}
            _ if !field.is_plain => {
                shown.unknown.get_or_insert(field.name.chars().take(64).collect());
            }
            "description" => shown.description = field.text,
            name if Some(name) == beside => shown.beside = Some(field.text),
            _ if field.text.contains(LOST) => {
                shown.unknown.get_or_insert(field.name.chars().take(64).collect());
            }
            _ => shown.kept.push((field.name, field.text)),
        }
    }
    Ok(shown)
}

/// The root's name and what is directly below it. Entities are those of XML itself: a document that defines others is none.
fn parse(text: &str) -> Result<(String, Vec<Field>), NoCredential> {
    let mut reader = Reader::from_str(text);
    let (mut root, mut fields) = (None, Vec::<Field>::new());
    let mut depth = 0_usize;
    loop {
        let event = reader.read_event().map_err(|_| NoCredential::Other)?;
        let is_empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(tag) | Event::Empty(tag) => {
                let name = tag.name().as_ref().to_owned();
                match depth {
                    0 if name.eq_ignore_ascii_case("html") => return Err(NoCredential::Page),
                    0 if root.is_some() => return Err(NoCredential::Other),
                    0 => root = Some(name),
                    1 => fields.push(Field { name, text: String::new(), is_plain: true }),
                    _ => fields.last_mut().ok_or(NoCredential::Other)?.is_plain = false,
                }
                depth += usize::from(!is_empty);
            }
            Event::End(_) => depth = depth.checked_sub(1).ok_or(NoCredential::Other)?,
            Event::Text(text) if depth == 2 => add(&mut fields, &text.xml10_content())?,
            Event::CData(text) if depth == 2 => add(&mut fields, &text.xml10_content())?,
            Event::GeneralRef(entity) if depth == 2 => {
                let resolved = match entity.resolve_char_ref().map_err(|_| NoCredential::Other)? {
                    Some(char) => char.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&entity.into_inner())
                        .ok_or(NoCredential::Other)?
                        .to_owned(),
                };
                add(&mut fields, &resolved)?;
            }
            Event::DocType(kind) => {
                let is_page = kind.into_inner().trim_start().to_ascii_lowercase().starts_with("html");
                return Err(if is_page { NoCredential::Page } else { NoCredential::Other });
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match root {
        Some(root) if depth == 0 => Ok((root, fields)),
        _ => Err(NoCredential::Other),
    }
}

impl Shown {
    /// Whether the description may have characters that the answer could not hold.
    pub(super) fn may_lack_letters(&self) -> bool {
        self.description.contains(LOST)
    }

    /// Whether this stands beside the secret, as far as the answer could hold it.
    pub(super) fn has_beside(&self, wanted: Option<&str>) -> bool {
        let shown = |char: char| if u8::try_from(u32::from(char)).is_ok() { char } else { LOST };
        match (self.beside.as_deref(), wanted) {
            (Some(held), Some(wanted)) => held == wanted || wanted.chars().map(shown).eq(held.chars()),
            (held, wanted) => held == wanted,
        }
    }
}

fn add(fields: &mut [Field], text: &str) -> Result<(), NoCredential> {
    fields.last_mut().ok_or(NoCredential::Other)?.text.push_str(text);
    Ok(())
}

impl Draft<'_> {
    /// The document; the buffer has room for all of it from the start, so that no part stays behind in freed memory.
    pub(super) fn write(&self) -> Result<Zeroizing<Vec<u8>>, NoSuchCharacter> {
        let encoded;
        let secret = if self.kind == Kind::File {
            let mut text = Zeroizing::new(String::with_capacity(self.secret.expose().len() * 4 / 3 + 4));
            STANDARD.encode_string(self.secret.expose(), &mut text);
            encoded = text;
            &**encoded
        } else {
            self.secret.expose_str().map_err(|_| NoSuchCharacter)?
        };
        let kept = self.kept.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let (beside, secret_field) = self.kind.fields();
        let fields: Vec<(&str, &str)> = [("id", self.id), ("description", self.description)]
            .into_iter()
            .chain(kept)
            .chain(beside.zip(self.beside))
            .chain([(secret_field, secret)])
            .collect();
        if fields.iter().any(|(_, text)| text.chars().any(is_unwritable)) {
            return Err(NoSuchCharacter);
        }
        let texts: usize = fields.iter().map(|(name, text)| 2 * name.len() + 6 * text.len() + 8).sum();
        let mut document = Zeroizing::new(Vec::with_capacity(texts + 1024));
        let mut writer = Writer::new(&mut *document);
        let write = |writer: &mut Writer<&mut Vec<u8>>, event: Event<'_>| {
            writer.write_event(event).expect("a buffer takes everything");
        };
        write(&mut writer, Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
        write(&mut writer, Event::Start(BytesStart::new(self.kind.class())));
        for (name, text) in fields {
            write(&mut writer, Event::Start(BytesStart::new(name)));
            write(&mut writer, Event::Text(BytesText::from_escaped(&**escaped(text))));
            write(&mut writer, Event::End(BytesEnd::new(name)));
        }
        write(&mut writer, Event::End(BytesEnd::new(self.kind.class())));
        Ok(document)
    }
}

/// The library's own escaping grows its buffer on the way; here each part that needs none is taken over as it is.
fn escaped(text: &str) -> Zeroizing<String> {
    let mut escaped = Zeroizing::new(String::with_capacity(6 * text.len()));
    let mut bytes = [0; 4];
    for char in text.chars() {
        let one: &str = char.encode_utf8(&mut bytes);
        escaped.push_str(&quick_xml::escape::escape(one));
    }
    escaped
}

/// XML 1.0 has no other control characters, and a carriage return is read as a line's end.
const fn is_unwritable(char: char) -> bool {
    matches!(char, '\0'..='\x08' | '\x0b'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft<'a>(kind: Kind, kept: &'a [(String, String)], secret: &'a SecretValue) -> Draft<'a> {
        let beside = kind.fields().0.map(|_| "app & <co>");
        Draft { kind, id: "orders-db", description: "Orders \"x\" & <y>\nmore", beside, kept, secret }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_in_it_is_markup() {
        let kept = [("scope".to_owned(), "GLOBAL".to_owned()), ("usernameSecret".into(), "true".into())];
        for kind in Kind::ALL {
            let secret = SecretValue::new(b"a]]>&amp;</secret><x>'\"\t\n z".to_vec());
            let written = draft(kind, &kept, &secret).write().expect("written");
            let (class, fields) = parse(std::str::from_utf8(&written).expect("text")).expect("XML");
            assert_eq!(class, kind.class());
            let found = fields.iter().find(|field| field.name == kind.fields().1).expect("the secret");
            let held = match kind {
                Kind::File => STANDARD.decode(&found.text).expect("base64"),
                _ => found.text.clone().into_bytes(),
            };
            assert_eq!(held, secret.expose());
            let shown = read(&written).expect("a credential");
            assert_eq!(shown.kind, Some(kind));
            assert_eq!(shown.description, "Orders \"x\" & <y>\nmore");
            assert_eq!(shown.beside.as_deref(), kind.fields().0.map(|_| "app & <co>"));
            assert_eq!((shown.kept, shown.unknown), (kept.to_vec(), None));
        }
    }

    #[test]
    fn what_xml_has_no_place_for_is_not_written() {
        for secret in ["a\rb", "a\0b", "a\u{1b}b", "a\u{ffff}"] {
            let secret = SecretValue::new(secret.as_bytes().to_vec());
            assert_eq!(draft(Kind::SecretText, &[], &secret).write().err(), Some(NoSuchCharacter));
            assert!(draft(Kind::File, &[], &secret).write().is_ok());
        }
    }

    #[test]
    fn what_jenkins_shows_is_understood() {
        let shown = read(
            b"<?xml version='1.1' encoding='UTF-8'?>\n\
            <com.cloudbees.plugins.credentials.impl.UsernamePasswordCredentialsImpl plugin=\"credentials@1\">\n  \
              <scope>GLOBAL</scope>\n  <id>orders-db</id>\n  <description>a &#38; &lt;b&gt;</description>\n  \
              <username>app</username>\n  <password>\n    <secret-redacted/>\n  </password>\n  \
              <usernameSecret>false</usernameSecret>\n  <tags>\n <tag>a</tag>\n </tags>\n\
            </com.cloudbees.plugins.credentials.impl.UsernamePasswordCredentialsImpl>",
        )
        .expect("a credential");
        assert_eq!(shown.kind, Some(Kind::UsernamePassword));
        assert_eq!((&*shown.description, shown.beside.as_deref()), ("a & <b>", Some("app")));
        let kept = [("scope", "GLOBAL"), ("usernameSecret", "false")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!((shown.kept, shown.unknown.as_deref()), (kept.to_vec(), Some("tags")));
        let other =
            read(b"<hudson.plugins.aws.Key><id>x</id></hudson.plugins.aws.Key>").expect("a credential");
        assert_eq!(other.kind, None);
    }

    #[test]
    fn an_answer_of_few_letters_is_understood() {
        let class = Kind::UsernamePassword.class();
        let answer = |text: &str, name: &str| {
            let whole =
                format!("<{class}><description>{text}</description><username>{name}</username></{class}>");
            whole.chars().map(|char| u8::try_from(u32::from(char)).unwrap_or(b'?')).collect::<Vec<u8>>()
        };
        let shown = read(&answer("Zugang für Aufträge", "käthe")).expect("a credential");
        assert_eq!((&*shown.description, shown.may_lack_letters()), ("Zugang für Aufträge", false));
        assert!(shown.has_beside(Some("käthe")) && !shown.has_beside(Some("kathe")));
        assert!(!shown.has_beside(None));
        let shown = read(&answer("База", "иван")).expect("a credential");
        assert!(shown.may_lack_letters());
        assert!(shown.has_beside(Some("иван")) && !shown.has_beside(Some("ива")), "{shown:?}");
    }

    #[test]
    fn what_is_no_credential_is_none() {
        for page in
            ["<!DOCTYPE html><html><body>Sign in</body></html>", "<html><head/></html>", "<!doctype HTML>"]
        {
            assert_eq!(read(page.as_bytes()), Err(NoCredential::Page), "{page}");
        }
        for text in [
            "",
            "{}",
            "<a><b></a>",
            "<a>",
            "<a/><b/>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a><description>&x;</description></a>",
            "<a><description>&x;</description></a>",
        ] {
            assert_eq!(read(text.as_bytes()), Err(NoCredential::Other), "{text}");
        }
        assert_eq!(read(b"\xff\xfe<\0a\0"), Err(NoCredential::Other));
    }
}
