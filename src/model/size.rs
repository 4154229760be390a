/// A number of bytes, printed for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format_bytes(self.0))
    }
}

const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];

/// Prints bytes with three significant digits in powers of 1000: `980 B`, `12.3 MB`, `4.57 GB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn format_bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `1 row`, `3 rows`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Prints a rate in bytes per second over `elapsed_ms`.
#[must_use]
pub fn format_rate(bytes: u64, elapsed_ms: u64) -> String {
    format!("{}/s", format_bytes(bytes.saturating_mul(1000) / elapsed_ms.max(1)))
}

/// Prints milliseconds as a person says them: `0.42 s`, `12.3 s`, `3m 07s`, `2h 05m`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn format_duration_ms(ms: u64) -> String {
    match ms {
        0..=9_994 => format!("{:.2} s", ms as f64 / 1000.0),
        9_995..=99_949 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => {
            let seconds = ms.saturating_add(500) / 1000;
            if seconds < 3600 {
                format!("{}m {:02}s", seconds / 60, seconds % 60)
            } else {
                format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60)
            }
        }
    }
}

/// Reads `64MB`, `64 MiB`, `1g`, `65536`. Decimal units are powers of 1000, `iB` units powers of 1024.
///
/// # Errors
/// Says what was not understood.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("`{text}` is not a size; write for example 64MB"))?;
    let factor: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000 * 1000,
        "g" | "gb" => 1000 * 1000 * 1000,
        "t" | "tb" => 1000 * 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        unit => return Err(format!("`{unit}` is not a unit of size; use kB, MB, GB or KiB, MiB, GiB")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_print_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (999_999, "1.00 MB"),
            (12_345_678, "12.3 MB"),
            (4_570_000_000, "4.57 GB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn durations_read_naturally() {
        for (ms, text) in [(420, "0.42 s"), (12_340, "12.3 s"), (187_000, "3m 07s"), (7_500_000, "2h 05m")] {
            assert_eq!(format_duration_ms(ms), text);
        }
    }

    #[test]
    fn sizes_parse_with_and_without_units() {
        assert_eq!(parse_bytes("64MB"), Ok(64_000_000));
        assert_eq!(parse_bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("512"), Ok(512));
        assert!(parse_bytes("64 parsecs").is_err());
        assert!(parse_bytes("99999999TB").is_err());
        assert!(parse_bytes("").is_err());
    }
}
