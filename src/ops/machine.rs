//! This machine, when the servers run on it too: how busy its cores are.

use std::path::Path;

/// How many cores this machine lets us use.
pub(super) fn cores() -> Option<u32> {
    std::thread::available_parallelism().ok().and_then(|n| u32::try_from(n.get()).ok())
}

/// Whether the process is a PostgreSQL server's on this machine. The far end of a tunnel, or the inside of a container,
/// has process numbers of its own.
pub(super) fn runs_backend(pid: i32) -> bool {
    let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    name.is_ok_and(|name| name.trim_end() == "postgres")
}

/// Time that the cores were busy and idle, from `/proc/stat` (proc_stat(5)).
#[derive(Debug, Default)]
pub(super) struct CoreClock {
    idle_ticks: u64,
    all_ticks: u64,
}

impl CoreClock {
    /// Cores that were idle since the last call, waiting for a disk included. `None` where the kernel does not tell.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a quarter of a second")]
    pub(super) fn idle_cores(&mut self) -> Option<f64> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
        let (idle_ticks, all_ticks) = ticks(stat.lines().next()?)?;
        let (idle, all) = (idle_ticks.saturating_sub(self.idle_ticks), all_ticks.saturating_sub(self.all_ticks));
        *self = Self { idle_ticks, all_ticks };
        Some(cores as f64 * idle as f64 / all.max(1) as f64)
    }
}

/// Idle and all ticks of the line `cpu user nice system idle iowait irq softirq steal …`.
fn ticks(line: &str) -> Option<(u64, u64)> {
    let ticks: Vec<u64> =
        line.strip_prefix("cpu ")?.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((idle, ticks.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle() {
        assert_eq!(ticks("cpu  10 1 20 300 40 0 5 6 0 0"), Some((340, 382)));
        assert_eq!(ticks("intr 1"), None);
    }

    #[test]
    fn this_process_is_no_server() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(!runs_backend(pid));
    }
}
