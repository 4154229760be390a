//! Whether many connections are as much faster than one as they are more, where the links are slow and not the cores.
//!
//! `cargo bench --bench scaling`, as root, with `ip` of iproute2. pgconvoy runs in a network namespace of its own; from
//! there, two throw-away servers are reached over links with a delay and a rate per connection, in user space
//! (`link.rs`): a kernel without `sch_netem` and `sch_fq` can run it too, and the rate is that of one connection, not of
//! all together.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a benchmark"
)]

mod link;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use link::Link;
use pgconvoy::lab::shapes::{self, Amount, Shape};
use pgconvoy::lab::{Binaries, Cluster, ClusterSpec, Durability, Major, Progress};

#[derive(Parser)]
struct Options {
    /// How much is generated, on disk with its indexes
    #[arg(long, default_value = "2GB", value_parser = pgconvoy::model::parse_bytes)]
    size: u64,
    #[arg(long, default_value = "narrow")]
    shape: Shape,
    /// One way
    #[arg(long, default_value_t = 20)]
    delay_ms: u64,
    /// Bytes per second of each connection, each way
    #[arg(long, default_value = "4MB", value_parser = pgconvoy::model::parse_bytes)]
    rate: u64,
    /// Numbers of connections per server; the first is what the others are held against
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    jobs: Vec<u32>,
    /// Small, so that a small table has many: a large one has them anyway
    #[arg(long, default_value = "8MB")]
    chunk_size: String,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A network namespace, and a cable between it and ours.
struct Namespace {
    name: String,
    outside: String,
}

/// Of the documentation's range 198.51.100.0/24 (RFC 5737): nobody's address.
const HERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split_whitespace()).status().is_ok_and(|status| status.success())
}

impl Namespace {
    /// What a run that was killed has left would have the same addresses.
    fn clear() {
        let listed = Command::new("ip").args(["netns", "list"]).output().map(|out| out.stdout).unwrap_or_default();
        for name in String::from_utf8_lossy(&listed).lines().filter_map(|line| line.split_whitespace().next()) {
            let pid = name.strip_prefix("pgconvoy-");
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                ip(&format!("netns delete {name}"));
            }
        }
    }

    fn new() -> Option<Self> {
        Self::clear();
        let id = std::process::id();
        let namespace = Self { name: format!("pgconvoy-{id}"), outside: format!("pgc{id}") };
        let (name, outside) = (&namespace.name, &namespace.outside);
        if !ip(&format!("netns add {name}")) {
            return None;
        }
        let made = ip(&format!("link add {outside} type veth peer name cable netns {name}"))
            && ip(&format!("addr add {HERE}/30 dev {outside}"))
            && ip(&format!("link set {outside} up"))
            && ip(&format!("-n {name} addr add {THERE}/30 dev cable"))
            && ip(&format!("-n {name} link set cable up"));
        made.then_some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable's other end goes with it.
        ip(&format!("netns delete {}", self.name));
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let Some(namespace) = Namespace::new() else {
        println!("scaling: left out; a network namespace can be made by root only, with `ip` of iproute2");
        return;
    };
    let start = |major| async move {
        let spec = ClusterSpec::new(major).durability(Durability::Full);
        Cluster::start(spec, &Progress::new(|line| println!("{line}"))).await.unwrap()
    };
    let (source, target) = (start(Major::V17).await, start(Major::V18).await);
    source.create_database("bench").await.unwrap();
    println!("filling the source with the shape {}", options.shape);
    let amount = Amount::Bytes(options.size);
    shapes::generate(&source.config("bench"), options.shape, amount, &Progress::none()).await.unwrap();

    let link = Link { delay: Duration::from_millis(options.delay_ms), bytes_per_second: options.rate };
    let open = |cluster: &Cluster| {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port()));
        link.open(SocketAddr::from((HERE, 0)), to).unwrap()
    };
    let links = [(&source, open(&source)), (&target, open(&target))];
    println!(
        "{} ms one way, {:.1} MB/s for each connection, {}\n",
        options.delay_ms,
        options.rate as f64 / 1e6,
        pgconvoy::model::counted(std::thread::available_parallelism().map_or(0, |n| n.get() as u64), "core")
    );
    println!("connections     rows s    MB/s  times the first   whole s");
    let mut first = None;
    for &jobs in &options.jobs {
        let database = format!("copy_{jobs}");
        target.create_database(&database).await.unwrap();
        let moved = copy(&namespace, &options, links, (&database, jobs));
        target.drop_database(&database).await.unwrap();
        let rate = moved.bytes as f64 / moved.rows_s;
        let times = rate / *first.get_or_insert(rate);
        println!("{jobs:>11} {:>10.1} {:>7.1} {times:>16.2} {:>9.1}", moved.rows_s, rate / 1e6, moved.whole_s);
    }
}

struct Moved {
    bytes: u64,
    /// From the first chunk's begin to the last one's end.
    rows_s: f64,
    whole_s: f64,
}

/// One copy over the links, from within the namespace.
fn copy(
    namespace: &Namespace,
    options: &Options,
    links: [(&Cluster, SocketAddr); 2],
    (database, jobs): (&str, u32),
) -> Moved {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let uri = |(cluster, address): (&Cluster, SocketAddr), database: &str| {
        format!("postgresql://{}:{}@{address}/{database}", cluster.user(), cluster.password())
    };
    let output = Command::new("ip")
        .args(["netns", "exec", &namespace.name, env!("CARGO_BIN_EXE_pgconvoy"), "copy", "--quiet"])
        .args(["--progress", "none", "-j", &jobs.to_string(), "--chunk-size", &options.chunk_size, "--report"])
        .arg(&report)
        .env("PGCONVOY_SOURCE", uri(links[0], "bench"))
        .env("PGCONVOY_TARGET", uri(links[1], database))
        .env("PGCONVOY_PG_DUMP", Binaries::clients(&Progress::none()).unwrap().pg_dump)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    moved(&report)
}

fn moved(report: &Path) -> Moved {
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let rows = report["phases"].as_array().unwrap().iter().find(|phase| phase["phase"] == "rows").unwrap();
    Moved {
        bytes: report["tables"].as_array().unwrap().iter().map(|table| table["copy_bytes"].as_u64().unwrap()).sum(),
        rows_s: rows["elapsed_ms"].as_u64().unwrap() as f64 / 1e3,
        whole_s: report["elapsed_ms"].as_u64().unwrap() as f64 / 1e3,
    }
}
