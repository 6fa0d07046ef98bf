//! Serde's view of a tree. Its errors know the way to the part that is wrong and quote nothing of it.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer as _, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{FieldPath, Reason, Step};
use crate::policy::node::{Content, Entry, Node};

/// Deserialises from a [`Node`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a>(pub(super) &'a Node);

/// Why a tree does not have the shape of a type.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) reason: Reason,
    /// Whether it is the key of the last step that is wrong, and not its value.
    pub(super) at_key: bool,
    /// From the inside out: each level adds its own when the error passes.
    steps: Vec<Step>,
}

impl Error {
    pub(super) fn path(&self) -> FieldPath {
        FieldPath(self.steps.iter().rev().cloned().collect())
    }

    fn under(mut self, step: impl Into<Step>) -> Self {
        self.steps.push(step.into());
        self
    }

    fn at_key(self, key: &str) -> Self {
        Self { at_key: true, ..self.under(key.to_owned()) }
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self { reason, at_key: false, steps: Vec::new() }
    }
}

impl<'a> Tree<'a> {
    fn mapping(self) -> Result<&'a [Entry], Error> {
        match &self.0.content {
            Content::Mapping(entries) => Ok(entries),
            _ => Err(self.unlike("a mapping")),
        }
    }

    fn list(self) -> Result<&'a [Node], Error> {
        match &self.0.content {
            Content::List(items) => Ok(items),
            _ => Err(self.unlike("a list")),
        }
    }

    fn text(self) -> Result<&'a str, Error> {
        match &self.0.content {
            Content::Text(text) => Ok(text),
            _ => Err(self.unlike("text")),
        }
    }

    fn unlike(self, expected: impl Into<String>) -> Error {
        let found = match self.0.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Integer(_) | Content::Float(_) => "a number",
            Content::Text(_) => "text",
            Content::List(_) => "a list",
            Content::Mapping(_) => "a mapping",
            Content::Dropped => return Reason::Incomplete.into(),
        };
        Reason::WrongKind { expected: expected.into(), found }.into()
    }
}

macro_rules! deserialize_whole_number {
    ($($method:ident $visit:ident $type:ty),+ $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = match self.0.content {
                Content::Integer(number) => <$type>::try_from(number).ok(),
                _ => None,
            };
            match number {
                Some(number) => visitor.$visit(number),
                None => Err(self.unlike(format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX))),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Tree<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.content {
            Content::Null => visitor.visit_unit(),
            Content::Bool(value) => visitor.visit_bool(*value),
            Content::Integer(number) => visitor.visit_i64(*number),
            Content::Float(number) => visitor.visit_f64(*number),
            Content::Text(text) => visitor.visit_borrowed_str(text),
            Content::List(items) => visitor.visit_seq(Items::new(items)),
            Content::Mapping(entries) => visitor.visit_map(Entries::new(entries)),
            Content::Dropped => Err(Reason::Incomplete.into()),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.content {
            Content::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.unlike("true or false")),
        }
    }

    deserialize_whole_number! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.content {
            Content::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items::new(self.list()?))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        let items = self.list()?;
        if items.iter().any(|item| item.content == Content::Dropped) {
            return Err(Reason::Incomplete.into());
        }
        if items.len() != length {
            return Err(Reason::WrongLength { expected: length, found: items.len() }.into());
        }
        visitor.visit_seq(Items::new(items))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries::new(self.mapping()?))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.0.content {
            Content::Text(name) => visitor.visit_enum(Choice { name, content: None }),
            Content::Mapping(entries) => {
                let mut alive = entries.iter().filter(|entry| entry.value.content != Content::Dropped);
                match (alive.next(), alive.next()) {
                    (Some(entry), None) => {
                        visitor.visit_enum(Choice { name: &entry.key, content: Some(&entry.value) })
                    }
                    (Some(_), Some(second)) => {
                        Err(Error::from(Reason::NotOneOf { known }).at_key(&second.key))
                    }
                    (None, _) if entries.is_empty() => Err(Reason::NotOneOf { known }.into()),
                    (None, _) => Err(Reason::Incomplete.into()),
                }
            }
            Content::Dropped => Err(Reason::Incomplete.into()),
            _ => Err(Reason::NotOneOf { known }.into()),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple_struct identifier
    }
}

/// The live items of a list.
struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'a> Items<'a> {
    fn new(items: &'a [Node]) -> Self {
        Self { items: items.iter().enumerate() }
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        match self.items.find(|(_, item)| item.content != Content::Dropped) {
            Some((index, item)) => seed.deserialize(Tree(item)).map(Some).map_err(|error| error.under(index)),
            None => Ok(None),
        }
    }
}

/// The live entries of a mapping.
struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'a> Entries<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        Self { entries: entries.iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.entries.find(|entry| entry.value.content != Content::Dropped);
        match self.current {
            Some(entry) => seed
                .deserialize(StrDeserializer::<Error>::new(&entry.key))
                .map(Some)
                .map_err(|error| error.at_key(&entry.key)),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let entry = self.current.take().expect("serde asks for a value after its key");
        seed.deserialize(Tree(&entry.value)).map_err(|error| error.under(entry.key.to_string()))
    }
}

/// A named choice: `name`, or `name: content`.
struct Choice<'a> {
    name: &'a str,
    content: Option<&'a Node>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        match seed.deserialize(name) {
            Ok(variant) => Ok((variant, self)),
            Err(error) if self.content.is_some() => Err(error.at_key(self.name)),
            Err(error) => Err(error),
        }
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(Error::from(Reason::NoContent).at_key(self.name)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let Some(content) = self.content else {
            return Err(Reason::NeedsContent { name: self.name.into() }.into());
        };
        seed.deserialize(Tree(content)).map_err(|error| error.under(self.name.to_owned()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Reason::NeedsContent { name: self.name.into() }.into())
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(Reason::NeedsContent { name: self.name.into() }.into())
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        // The text forms of this crate say "`x` is not a y: write z", or "use z".
        let colon = text.rfind(": use ").max(text.rfind(": write "));
        let (message, remedy) = match colon {
            Some(colon) => (text[..colon].to_owned(), Some(text[colon + 2..].to_owned())),
            None => (text, None),
        };
        Reason::Invalid { message, remedy }.into()
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Reason::WrongKind { expected: expected.to_string(), found: "something else" }.into()
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Reason::WrongKind { expected: expected.to_string(), found: "something else" }.into()
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Reason::UnknownChoice { name: name.to_owned(), known }.into()
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Reason::UnknownField { name: name.to_owned(), known }.into()
    }

    fn missing_field(name: &'static str) -> Self {
        Reason::MissingField { name: name.into() }.into()
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path(), self.reason)
    }
}
