//! What is too long for one record, in as many as it takes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::record::{Piece, Record};

/// No record holds more of such JSON, before it is quoted, which can double it: half of what a record may have.
pub(super) const PIECE_BYTES: usize = 16 << 20;

/// A kind of record, made of its JSON.
pub(super) type Kind = fn(Value, Option<Piece>) -> Record;

pub(super) const CATALOG: Kind = |json, piece| Record::Catalog { json, piece };

pub(super) const FOOTING: Kind = |json, piece| Record::Footing { optional: true, json, piece };

/// The records of a value, none of which has more than `piece_bytes` of it.
pub(super) fn records(value: &impl Serialize, kind: Kind, piece_bytes: usize) -> serde_json::Result<Vec<Record>> {
    let text = serde_json::to_string(value)?;
    if text.len() <= piece_bytes {
        return Ok(vec![kind(serde_json::from_str(&text)?, None)]);
    }
    let pieces = cut(&text, piece_bytes);
    let of = pieces.len();
    let record = |(index, text): (usize, &str)| kind(text.into(), Some(Piece { index, of }));
    Ok(pieces.into_iter().enumerate().map(record).collect())
}

/// The value of the JSON and the pieces of records of one kind, in their order; `None` where there are none, or not all, or
/// they hold something else.
pub(super) fn assemble<'a, T: DeserializeOwned>(
    records: impl Iterator<Item = (&'a Value, Option<Piece>)>,
) -> Option<T> {
    let (mut text, mut next) = (String::new(), 0);
    for (json, piece) in records {
        let Some(piece) = piece else { return T::deserialize(json).ok() };
        if piece.index != next {
            return None;
        }
        text.push_str(json.as_str()?);
        next += 1;
        if next == piece.of {
            return serde_json::from_str(&text).ok();
        }
    }
    None
}

fn cut(mut text: &str, piece_bytes: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        // At least one character, which has four bytes at most.
        let end = (1..=text.len().min(piece_bytes.max(4))).rev().find(|&end| text.is_char_boundary(end));
        let (piece, rest) = text.split_at(end.unwrap_or(text.len()));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(records: &[Record]) -> Vec<(&Value, Option<Piece>)> {
        let part = |record| match record {
            &Record::Catalog { ref json, piece } => (json, piece),
            other => panic!("{other:?}"),
        };
        records.iter().map(part).collect()
    }

    #[test]
    fn what_was_cut_is_put_together_again() {
        let json = serde_json::json!({ "names": ["añe", "\"quoted\"\n", "日本", "🐘".repeat(20)] });
        let length = json.to_string().len();
        for piece_bytes in 0..=length {
            let records = records(&json, CATALOG, piece_bytes).unwrap();
            let parts = parts(&records);
            assert_eq!(parts.len() == 1, piece_bytes == length, "{piece_bytes} of {length}");
            let longest = parts.iter().filter_map(|(json, _)| Some(json.as_str()?.len())).max();
            assert!(longest <= Some(piece_bytes.max(4)));
            assert_eq!(assemble(parts.into_iter()), Some(json.clone()), "{piece_bytes}");
        }
    }

    #[test]
    fn what_is_not_whole_is_none() {
        let whole = records(&"x".repeat(50), CATALOG, 10).unwrap();
        let whole = parts(&whole);
        assert_eq!(whole.len(), 6);
        let assembled = |parts: &[_]| assemble::<String>(parts.iter().copied());
        assert_eq!(assembled(&whole), Some("x".repeat(50)));
        assert_eq!(assembled(&[]), None);
        assert_eq!(assembled(&whole[..5]), None, "the last is missing");
        assert_eq!(assembled(&whole[1..]), None, "the first is missing");
        assert_eq!(assembled(&[&whole[..2], &whole[3..]].concat()), None, "one is missing");
        assert_eq!(assembled(&[&whole[..2], &whole[1..]].concat()), None, "one is there twice");
        let number = Value::from(1);
        assert_eq!(assembled(&[(&number, Some(Piece { index: 0, of: 1 }))]), None, "a piece is a string");
        assert_eq!(assembled(&[(&number, None)]), None, "another type");
    }
}
