//! Types of machines that fit the job: many cores, local NVMe, much network.

/// A type of instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    pub name: &'static str,
    pub vcpus: u32,
    /// Bytes of its own disks together.
    pub disk_bytes: u64,
    /// Network as AWS gives it: what lasts, what is reached at times, in Gbit/s.
    pub network_gbps: (f64, f64),
    pub arm: bool,
    /// Disks that must be asked for at the start: those of Xen that are not NVMe.
    pub mapped_disks: u32,
    /// US dollars an hour on demand in us-east-1 and eu-west-1, to be looked up again: prices change.
    pub price: Option<(f64, f64)>,
}

const GB: u64 = 1_000_000_000;

/// "Amazon EC2 instance types: storage optimized" for the sizes; the prices are those of AWS's price list as known in
/// 2025, without tax.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "i4i.2xlarge",
        vcpus: 8,
        disk_bytes: 1875 * GB,
        network_gbps: (4.687, 12.0),
        arm: false,
        mapped_disks: 0,
        price: Some((0.686, 0.765)),
    },
    Kind {
        name: "i4i.4xlarge",
        vcpus: 16,
        disk_bytes: 3750 * GB,
        network_gbps: (9.375, 25.0),
        arm: false,
        mapped_disks: 0,
        price: Some((1.373, 1.53)),
    },
    Kind {
        name: "i4i.8xlarge",
        vcpus: 32,
        disk_bytes: 7500 * GB,
        network_gbps: (18.75, 18.75),
        arm: false,
        mapped_disks: 0,
        price: Some((2.746, 3.06)),
    },
    Kind {
        name: "i7i.4xlarge",
        vcpus: 16,
        disk_bytes: 3750 * GB,
        network_gbps: (9.375, 25.0),
        arm: false,
        mapped_disks: 0,
        price: Some((1.51, 1.683)),
    },
    Kind {
        name: "i7ie.6xlarge",
        vcpus: 24,
        disk_bytes: 15_000 * GB,
        network_gbps: (12.5, 25.0),
        arm: false,
        mapped_disks: 0,
        price: None,
    },
    Kind {
        name: "i8g.4xlarge",
        vcpus: 16,
        disk_bytes: 3750 * GB,
        network_gbps: (9.375, 25.0),
        arm: true,
        mapped_disks: 0,
        price: Some((1.373, 1.53)),
    },
    Kind {
        name: "im4gn.4xlarge",
        vcpus: 16,
        disk_bytes: 7500 * GB,
        network_gbps: (25.0, 25.0),
        arm: true,
        mapped_disks: 0,
        price: Some((1.455, 1.621)),
    },
    Kind {
        name: "i3en.6xlarge",
        vcpus: 24,
        disk_bytes: 15_000 * GB,
        network_gbps: (25.0, 25.0),
        arm: false,
        mapped_disks: 0,
        price: Some((2.712, 3.0)),
    },
    Kind {
        name: "i3.4xlarge",
        vcpus: 16,
        disk_bytes: 3800 * GB,
        network_gbps: (5.0, 10.0),
        arm: false,
        mapped_disks: 0,
        price: Some((1.248, 1.376)),
    },
    Kind {
        name: "i3.8xlarge",
        vcpus: 32,
        disk_bytes: 7600 * GB,
        network_gbps: (10.0, 10.0),
        arm: false,
        mapped_disks: 0,
        price: Some((2.496, 2.752)),
    },
    Kind {
        name: "i2.4xlarge",
        vcpus: 16,
        disk_bytes: 3200 * GB,
        network_gbps: (2.0, 10.0),
        arm: false,
        mapped_disks: 4,
        price: Some((3.41, 3.751)),
    },
    Kind {
        name: "i2.8xlarge",
        vcpus: 32,
        disk_bytes: 6400 * GB,
        network_gbps: (10.0, 10.0),
        arm: false,
        mapped_disks: 8,
        price: Some((6.82, 7.502)),
    },
];

/// The class of machine of the first migration of this kind, as it is sold today.
pub const DEFAULT_KIND: &str = "i4i.4xlarge";

impl Kind {
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Dollars an hour, where known for that region.
    #[must_use]
    pub fn price_in(&self, region: &str) -> Option<f64> {
        match region {
            "us-east-1" => self.price.map(|(us, _)| us),
            "eu-west-1" => self.price.map(|(_, eu)| eu),
            _ => None,
        }
    }
}

/// Whether a type that the table does not know is an ARM one: Graviton's names end their family with a `g` after the
/// digit, further letters may follow (`im4gn`, `c7gd`, `i8g`).
#[must_use]
pub fn is_arm(name: &str) -> bool {
    if let Some(kind) = Kind::named(name) {
        return kind.arm;
    }
    let family = name.split('.').next().unwrap_or_default();
    let Some(digit) = family.find(|c: char| c.is_ascii_digit()) else { return false };
    family[digit..].trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('g') || family == "a1"
}

/// AWS's region for one of Heroku's, or for what already is AWS's ("Regions", Heroku Dev Center).
#[must_use]
pub fn region_for(name: &str) -> Option<&str> {
    match name {
        // The second names are those of Private Spaces.
        "us" | "virginia" => Some("us-east-1"),
        "oregon" => Some("us-west-2"),
        "eu" | "dublin" => Some("eu-west-1"),
        "frankfurt" => Some("eu-central-1"),
        "london" => Some("eu-west-2"),
        "montreal" => Some("ca-central-1"),
        "mumbai" => Some("ap-south-1"),
        "singapore" => Some("ap-southeast-1"),
        "sydney" => Some("ap-southeast-2"),
        "tokyo" => Some("ap-northeast-1"),
        aws if aws.split('-').count() >= 3 && aws.ends_with(|c: char| c.is_ascii_digit()) => Some(aws),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_heroku_are_regions_of_aws() {
        let known =
            [("us", "us-east-1"), ("eu", "eu-west-1"), ("frankfurt", "eu-central-1"), ("us-west-2", "us-west-2")];
        assert!(known.iter().all(|(from, to)| region_for(from) == Some(to)));
        assert_eq!(region_for("moon"), None);
    }

    #[test]
    fn architectures_are_known_by_name() {
        assert!(["im4gn.4xlarge", "i8g.4xlarge", "c7gd.large", "a1.large", "is4gen.large"].into_iter().all(is_arm));
        assert!(!["i4i.4xlarge", "i7ie.6xlarge", "m5.large", "g5.xlarge", "i2.4xlarge"].into_iter().any(is_arm));
        assert!(Kind::named(DEFAULT_KIND).unwrap().price_in("us-east-1").unwrap() > 1.0);
        assert_eq!(Kind::named(DEFAULT_KIND).unwrap().price_in("ap-south-1"), None);
    }
}
