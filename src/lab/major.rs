use std::str::FromStr;

use crate::model::ServerVersion;

/// A major version of PostgreSQL: 9.6, 10, 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Major(u32);

impl Major {
    pub const V9_6: Self = Self(906);
    pub const V10: Self = Self(1000);
    pub const V11: Self = Self(1100);
    pub const V12: Self = Self(1200);
    pub const V13: Self = Self(1300);
    pub const V14: Self = Self(1400);
    pub const V15: Self = Self(1500);
    pub const V16: Self = Self(1600);
    pub const V17: Self = Self(1700);
    pub const V18: Self = Self(1800);

    /// Every major version that [`super::Binaries`] can fetch, oldest first.
    pub const ALL: [Self; 10] =
        [Self::V9_6, Self::V10, Self::V11, Self::V12, Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The major version that a server's full version belongs to.
    #[must_use]
    pub const fn of(version: ServerVersion) -> Self {
        Self(version.major())
    }
}

impl std::fmt::Display for Major {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{}", self.0 / 100),
            minor => write!(f, "{}.{minor}", self.0 / 100),
        }
    }
}

impl FromStr for Major {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("`{text}` is not a major version of PostgreSQL; write for example 17 or 9.6");
        let (first, second) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        let first: u32 = first.parse().map_err(|_| bad())?;
        match (first, second) {
            (10..=99, "") => Ok(Self(first * 100)),
            (9, _) => match second.parse() {
                Ok(minor @ 0..=6) => Ok(Self(900 + minor)),
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_read_and_print_as_people_say_them() {
        for major in Major::ALL {
            assert_eq!(major.to_string().parse(), Ok(major));
        }
        assert_eq!("9.6".parse(), Ok(Major::V9_6));
        assert_eq!("17".parse(), Ok(Major::V17));
        assert_eq!(Major::of(ServerVersion(90_624)), Major::V9_6);
        assert_eq!(Major::of(ServerVersion(180_004)), Major::V18);
        for wrong in ["", "9", "8.4", "17.2", "9.7", "x"] {
            assert!(wrong.parse::<Major>().is_err(), "{wrong}");
        }
    }
}
