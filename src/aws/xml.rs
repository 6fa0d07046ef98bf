//! The few elements of an answer in XML that are read.

use aws_smithy_xml::decode::{Document, ScopedDecoder, XmlDecodeError, try_data};
use zeroize::Zeroizing;

/// The elements whose text is read.
const READ: [&str; 11] = [
    "AccessKeyId",
    "Arn",
    "Code",
    "CreateDate",
    "IsTruncated",
    "LastUsedDate",
    "Marker",
    "Message",
    "SecretAccessKey",
    "Status",
    "UserName",
];

/// No answer is deeper.
const DEEPEST: usize = 16;

/// What stands in an answer, in its order. Wiped when dropped.
pub(crate) struct Elements(Vec<(String, Zeroizing<String>)>);

impl Elements {
    /// `None` when it is not one whole document.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut document = Document::new(text);
        let mut root = document.root_element().ok()?;
        let name = root.start_el().local().to_owned();
        let mut found = vec![(name.clone(), Zeroizing::default())];
        flatten(&mut root, &mut found, DEEPEST).ok()?;
        drop(root);
        // The reader says nothing of one that is cut off.
        text.trim_end().ends_with(&format!("</{name}>")).then_some(Self(found))
    }

    /// What the whole is. A page of something in between may be a document, too.
    pub(super) fn kind(&self) -> &str {
        self.0.first().map_or("", |(name, _)| name)
    }

    /// The text of the first element of a name.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, text)| text.as_str())
    }

    /// Each member of a list.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.0.split(|(name, _)| name == "member").skip(1).map(Member)
    }
}

impl std::fmt::Debug for Elements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Elements(...)")
    }
}

/// One member of a list, and what comes after the last one.
pub(crate) struct Member<'a>(&'a [(String, Zeroizing<String>)]);

impl<'a> Member<'a> {
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, text)| text.as_str())
    }
}

fn flatten(
    tag: &mut ScopedDecoder<'_, '_>,
    found: &mut Vec<(String, Zeroizing<String>)>,
    depth: usize,
) -> Result<(), XmlDecodeError> {
    if depth == 0 {
        return Err(XmlDecodeError::custom("too deep"));
    }
    while let Some(mut inner) = tag.next_tag() {
        let name = inner.start_el().local().to_owned();
        if READ.contains(&name.as_str()) {
            found.push((name, Zeroizing::new(try_data(&mut inner)?.into_owned())));
        } else {
            found.push((name, Zeroizing::default()));
            flatten(&mut inner, found, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "<?xml version=\"1.0\"?>\n<ListAccessKeysResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">\
        <ListAccessKeysResult><AccessKeyMetadata>\
        <member><UserName>a</UserName><AccessKeyId>ONE</AccessKeyId></member>\
        <member><AccessKeyId>T&amp;O</AccessKeyId></member>\
        </AccessKeyMetadata><IsTruncated>false</IsTruncated></ListAccessKeysResult></ListAccessKeysResponse>\n";

    #[test]
    fn members_and_texts_are_found() {
        let elements = Elements::of(LIST).expect("a document");
        let ids: Vec<_> = elements.members().map(|member| member.text("AccessKeyId")).collect();
        assert_eq!(ids, [Some("ONE"), Some("T&O")]);
        assert_eq!(elements.text("IsTruncated"), Some("false"));
        assert_eq!(elements.text("Marker"), None);
        assert_eq!(elements.kind(), "ListAccessKeysResponse");
        assert_eq!(format!("{elements:?}"), "Elements(...)");
    }

    #[test]
    fn what_is_cut_off_is_none() {
        for end in 0..LIST.trim_end().len() {
            assert!(Elements::of(&LIST[..end]).is_none(), "{}", &LIST[..end]);
        }
        assert!(Elements::of(&format!("{}{}", "<a>".repeat(99), "</a>".repeat(99))).is_none());
    }
}
