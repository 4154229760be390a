//! A digest over a whole document, so that an edit shows. It is no signature: whoever edits can make another digest.
//! Keep it apart from the document, or sign the document, where that matters.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The member that holds the digest: `sha256:` and 64 hexadecimal digits.
pub const DIGEST_MEMBER: &str = "digest";

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
