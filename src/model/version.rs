use serde::{Deserialize, Serialize};

/// A server's version as `server_version_num` gives it: 90624 is 9.6.24, 180004 is 18.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    pub const V9_2: Self = Self(90_200);
    pub const V9_3: Self = Self(90_300);
    pub const V9_4: Self = Self(90_400);
    pub const V9_5: Self = Self(90_500);
    pub const V9_6: Self = Self(90_600);
    pub const V10: Self = Self(100_000);
    pub const V11: Self = Self(110_000);
    pub const V12: Self = Self(120_000);
    pub const V13: Self = Self(130_000);
    pub const V14: Self = Self(140_000);
    pub const V15: Self = Self(150_000);
    pub const V16: Self = Self(160_000);
    pub const V17: Self = Self(170_000);
    pub const V18: Self = Self(180_000);

    /// The major version as a number that orders rightly: 9.6 → 906, 10 → 1000, 18 → 1800.
    #[must_use]
    pub const fn major(self) -> u32 {
        if self.0 >= 100_000 { self.0 / 10_000 * 100 } else { self.0 / 100 }
    }
}

impl std::fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 >= 100_000 {
            write!(f, "{}.{}", self.0 / 10_000, self.0 % 10_000)
        } else {
            write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
        }
    }
}

/// A write-ahead log position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl std::str::FromStr for Lsn {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (high, low) = s.split_once('/').unwrap_or(("0", s));
        Ok(Self(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_print_and_order_as_people_say_them() {
        assert_eq!(ServerVersion(90_624).to_string(), "9.6.24");
        assert_eq!(ServerVersion(180_004).to_string(), "18.4");
        assert_eq!(ServerVersion(90_624).major(), 906);
        assert!(ServerVersion(100_023).major() > ServerVersion(90_624).major());
    }

    #[test]
    fn lsn_round_trips() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
    }
}
