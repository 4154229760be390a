use std::str::FromStr;

use pgconvoy::model::parse_bytes;

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

/// How much sample data `demo` makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DemoScale {
    Small,
    Medium,
    Large,
    /// Times the small one.
    Factor(f64),
}

pub fn parse_scale(text: &str) -> Result<DemoScale, String> {
    match text {
        "small" => Ok(DemoScale::Small),
        "medium" => Ok(DemoScale::Medium),
        "large" => Ok(DemoScale::Large),
        _ => match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(DemoScale::Factor(factor)),
            _ => Err("write small, medium, large, or a factor above 0 such as 2.5".into()),
        },
    }
}

/// A major version as people say it: `9.6`, `15`.
pub fn parse_major(text: &str) -> Result<String, String> {
    let number = |part: &str| !part.is_empty() && part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
    let good = match text.split_once('.') {
        Some((major, minor)) => major == "9" && number(minor),
        None => number(text) && text.parse::<u8>().is_ok_and(|major| major >= 10),
    };
    if good { Ok(text.into()) } else { Err("write a major version such as 15 or 9.6".into()) }
}
