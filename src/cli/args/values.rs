use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use pgconvoy::lab::sample::Scale;
use pgconvoy::lab::shapes::Shape;
use pgconvoy::model::parse_bytes;
use pgconvoy::ops::Rival;

/// A connection string as the user gave it. It may hold a password, so that `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo(pub String);

impl std::fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conninfo(..)")
    }
}

impl FromStr for Conninfo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() { Err("an empty connection string names no server") } else { Ok(Self(text.into())) }
    }
}

/// A chunk is at least one heap block (8 KiB, PostgreSQL's default `BLCKSZ`).
const MIN_CHUNK_BYTES: u64 = 8 << 10;

pub fn parse_chunk_size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if bytes < MIN_CHUNK_BYTES { Err("a chunk is at least 8 KiB; write for example 256MB".into()) } else { Ok(bytes) }
}

/// `giant`, `mixed` and so on, which `--help` lists.
pub fn shape_parser() -> impl TypedValueParser<Value = Shape> {
    PossibleValuesParser::new(Shape::ALL.map(Shape::name)).try_map(|name| name.parse::<Shape>())
}

/// The other tools by name.
pub fn rival_parser() -> impl TypedValueParser<Value = Rival> {
    PossibleValuesParser::new(Rival::ALL.map(Rival::name)).try_map(|name| name.parse::<Rival>())
}

/// How much sample data `demo` makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DemoScale(pub Scale);

/// The largest factor: 1000 times the small scale is some 100 GB.
const MAX_FACTOR: f64 = 1000.0;

/// # Errors
/// The text is neither a scale's name nor a factor above 0 and up to 1000.
pub fn parse_scale(text: &str) -> Result<DemoScale, String> {
    if let Ok(scale) = text.parse() {
        return Ok(DemoScale(scale));
    }
    match text.parse::<f64>() {
        Ok(factor) if factor > 0.0 && factor <= MAX_FACTOR => Ok(DemoScale(Scale::Percent(percent(factor)))),
        _ => Err("write small, medium, large, or a factor above 0 and up to 1000 such as 2.5".into()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "above 0 and at most 100,000")]
fn percent(factor: f64) -> u32 {
    (factor * 100.0).round().max(1.0) as u32
}

/// Ten years: milliseconds of it can be counted, and nobody means more.
const MAX_SECONDS: u64 = 3650 * 86_400;

/// A time as people write it: `90m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u64);

/// # Errors
/// Not a whole number with `s`, `m`, `h` or `d` behind it.
pub fn parse_seconds(text: &str) -> Result<Seconds, String> {
    let wrong = || "write a time such as 30s, 90m, 2h or 1d".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(factor).ok_or_else(wrong)?;
    if seconds > MAX_SECONDS { Err("that is more than ten years".into()) } else { Ok(Seconds(seconds)) }
}

/// # Errors
/// As [`parse_seconds`]; or it is no time at all.
pub fn parse_some_seconds(text: &str) -> Result<Seconds, String> {
    match parse_seconds(text)? {
        Seconds(0) => Err("that is no time at all: write at least 1s".into()),
        seconds => Ok(seconds),
    }
}
