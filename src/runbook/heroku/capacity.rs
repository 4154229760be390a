//! What plans can be used for. Pure functions.

use crate::model::format_bytes;

const GB: u64 = 1 << 30;

/// Disk by the number of a plan (devcenter: choosing the right Heroku Postgres plan, 2024). Others are not known.
const DISKS: [(&str, u64); 7] = [("0", 64), ("2", 256), ("3", 512), ("4", 768), ("5", 1024), ("6", 1536), ("7", 2048)];

/// Plans whose databases can be followed: `standard-0`, but not `essential-0`.
pub(super) fn can_be_followed(plan: &str) -> bool {
    ["standard-", "premium-", "private-", "shield-"].iter().any(|kind| plan.starts_with(kind))
}

/// Why a database of so many bytes cannot be on a plan; `None`: nothing is known against it.
pub(super) fn against(plan: &str, bytes: u64) -> Option<String> {
    let disk = plan.rsplit('-').next().and_then(|tier| DISKS.iter().find(|(number, _)| *number == tier));
    match disk {
        Some((_, disk)) if bytes > disk * GB => {
            Some(format!("{plan} has a disk of {}, and there are {}", format_bytes(disk * GB), format_bytes(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_must_have_followers_and_room() {
        assert!(can_be_followed("premium-3") && !can_be_followed("essential-2") && !can_be_followed("mini"));
        assert_eq!(against("standard-0", 64 * GB), None);
        assert!(against("standard-0", 64 * GB + 1).is_some_and(|why| why.contains("standard-0")));
        assert_eq!(against("standard-99", u64::MAX), None);
    }
}
