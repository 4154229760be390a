//! A digest over a whole document, so that an edit shows. It is no signature: whoever edits can make another digest.
//! Keep it apart from the document, or sign the document, where that matters.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

/// The member that holds the digest: `sha256:` and 64 hexadecimal digits.
pub const DIGEST_MEMBER: &str = "digest";

/// Reads JSON in which no object names a member twice: readers differ in which of the two counts, and the digest would be that of
/// one alone.
///
/// # Errors
/// It is no JSON, or an object names a member twice.
pub fn read_document(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Unambiguous>(text).map(|document| document.0)
}

/// A value, and in all of it no name twice.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Element.deserialize(deserializer).map(Self)
    }
}

struct Element;

impl<'de> DeserializeSeed<'de> for Element {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON that names no member twice")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(Self)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom("an object names a member twice"));
            }
            let value = members.next_value_seed(Self)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// Adds the digest of everything else in the document, an object.
pub fn seal_document(document: &mut Value) {
    let digest = digest_of(document);
    if let Value::Object(members) = document {
        members.insert(DIGEST_MEMBER.into(), Value::String(digest));
    }
}

/// Whether the document is as it was sealed. `None`: it holds no digest.
#[must_use]
pub fn is_unchanged(document: &Value) -> Option<bool> {
    let said = document.get(DIGEST_MEMBER)?;
    Some(said.as_str() == Some(&digest_of(document)))
}

/// SHA-256 of the document without its digest, as JSON in UTF-8 with the members of every object in the order of their
/// names' bytes and without white space.
fn digest_of(document: &Value) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    write_canonical(document, true, &mut text);
    let mut digest = String::from("sha256:");
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing into a String cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

fn write_canonical(value: &Value, is_root: bool, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().filter(|(name, _)| !is_root || *name != DIGEST_MEMBER).collect();
            members.sort_unstable_by_key(|(name, _)| name.as_bytes());
            out.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(value, false, out);
            }
            out.push('}');
        }
        Value::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_canonical(element, false, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_twice_is_no_document() {
        let text = r#"{"a": [1, -2, 0.5, null, true, "ü\n"], "b": {"a": {}}}"#;
        assert_eq!(read_document(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"a": [{"b": 1, "c": 2, "\u0062": 1}]}"#, "{", "{} {}"] {
            assert!(read_document(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn every_edit_shows_and_reordering_does_not() {
        let mut document = json!({"b": [1, {"y": null, "x": "ü\n"}], "a": {"digest": "inner"}, "n": u64::MAX});
        seal_document(&mut document);
        assert_eq!(is_unchanged(&document), Some(true));
        let reordered: Value = serde_json::from_str(&serde_json::to_string_pretty(&document).unwrap()).unwrap();
        assert_eq!(is_unchanged(&reordered), Some(true));
        for (pointer, edit) in [("/b/0", json!(2)), ("/b/1/x", json!("u")), ("/a/digest", json!("")), ("/n", json!(1))]
        {
            let mut edited = document.clone();
            *edited.pointer_mut(pointer).unwrap() = edit;
            assert_eq!(is_unchanged(&edited), Some(false), "{pointer}");
        }
        let mut longer = document.clone();
        longer["c"] = json!(1);
        assert_eq!(is_unchanged(&longer), Some(false));
        document["digest"] = json!("sha256:");
        assert_eq!(is_unchanged(&document), Some(false));
        assert_eq!(is_unchanged(&json!({"a": 1})), None);
    }

    #[test]
    fn the_digest_is_the_one_specified() {
        let mut document = json!({"b": 1, "a": "x"});
        seal_document(&mut document);
        // printf '{"a":"x","b":1}' | sha256sum
        assert_eq!(document["digest"], "sha256:cdab067e9f3beb32d1252cfd63e492592fecbf591b0d08cadb24bb17f3864246");
    }
}
