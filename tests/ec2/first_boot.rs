//! The script of the first boot, with a made-up sysfs and programs that only write down that they were called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pgconvoy::cloud::ec2::UserData;

/// A machine whose programs write down how they were called; `$FAIL` names one that fails.
struct Boot {
    root: tempfile::TempDir,
}

const PROGRAMS: [&str; 14] = [
    "shutdown",
    "systemctl",
    "apt-get",
    "mdadm",
    "mkfs.ext4",
    "mount",
    "umount",
    "mountpoint",
    "blkid",
    "findmnt",
    "chown",
    "sleep",
    "apt.postgresql.org.sh",
    "poweroff",
];

impl Boot {
    fn new(disks: &[(&str, &str)]) -> Self {
        let boot = Self { root: tempfile::tempdir().unwrap() };
        for program in PROGRAMS {
            let answer = match program {
                "findmnt" => "echo /dev/xvda1",
                "mountpoint" => "exit 1",
                "blkid" => "cat \"$ROOT/label\" 2>/dev/null || exit 2",
                _ => ":",
            };
            let text = format!(
                "#!/bin/sh\necho \"{program} $*\" >>\"$ROOT/calls\"\n[ \"${{FAIL-}}\" != {program} ] || exit 1\n{answer}\n"
            );
            let place = if program.starts_with("apt.") { "usr/share/postgresql-common/pgdg" } else { "bin" };
            fs::create_dir_all(boot.at(place)).unwrap();
            let path = boot.at(place).join(program);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (name, model) in disks {
            let device = boot.at("sys/block").join(name).join("device");
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("model"), format!("{model}\n")).unwrap();
        }
        boot
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// What it says of itself in the end, and what it called, in order.
    fn run(&self, fail: &str) -> (String, Vec<String>) {
        let script = UserData { minutes: 90, pg_client: 17, user: "ubuntu".into() }.script();
        let path = self.at("script");
        fs::write(&path, script).unwrap();
        let root = self.root.path();
        let output = Command::new("bash")
            .arg(&path)
            .env_clear()
            .env("ROOT", root)
            .env("SYS", root.join("sys"))
            .env("DEV", "/no/dev")
            .env("FAIL", fail)
            .env("PATH", format!("{}/bin:/usr/bin:/bin", root.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let survives = ["", "shutdown"].contains(&fail);
        assert_eq!(output.status.success(), survives, "{}", String::from_utf8_lossy(&output.stderr));
        let state = fs::read_to_string(self.at("var/lib/pgconvoy/state")).unwrap();
        let calls = fs::read_to_string(self.at("calls")).unwrap();
        (state.trim().to_owned(), calls.lines().map(ToOwned::to_owned).collect())
    }
}

const EBS: (&str, &str) = ("nvme0n1", "Amazon Elastic Block Store");
const OWN: &str = "Amazon EC2 NVMe Instance Storage";

fn position(calls: &[String], begin: &str) -> usize {
    calls.iter().position(|call| call.starts_with(begin)).unwrap_or_else(|| panic!("no {begin} in {calls:#?}"))
}

#[test]
fn the_end_is_set_before_all_else_and_the_own_disk_is_used() {
    let boot = Boot::new(&[EBS, ("nvme1n1", OWN)]);
    let (state, calls) = boot.run("");
    assert_eq!(state, "ready");
    assert_eq!(calls[0], "shutdown -P +90 pgconvoy's time is up");
    assert!(position(&calls, "systemctl enable --now pgconvoy-end.timer") < position(&calls, "mkfs.ext4"));
    let timer = fs::read_to_string(boot.at("etc/systemd/system/pgconvoy-end.timer")).unwrap();
    assert!(timer.contains("OnCalendar=20") && timer.contains(" UTC\nPersistent=true"), "{timer}");
    let made = &calls[position(&calls, "mkfs.ext4")];
    assert!(made.contains("nodiscard") && made.ends_with("/no/dev/nvme1n1"), "{made}");
    let mounted = &calls[position(&calls, "mount -o")];
    assert!(mounted.starts_with("mount -o noatime,nodiscard /no/dev/nvme1n1 ") && mounted.ends_with("/mnt/pgconvoy"));
    assert!(calls.iter().all(|call| !call.contains("nvme0n1") && !call.starts_with("mdadm")), "{calls:#?}");
    assert!(calls[position(&calls, "apt-get install -y -q --no-install-recommends postgresql-client-17")..].len() == 1);
}

#[test]
fn several_disks_become_one_and_those_of_xen_are_found() {
    let (state, calls) = Boot::new(&[EBS, ("nvme1n1", OWN), ("nvme2n1", OWN)]).run("");
    assert_eq!(state, "ready");
    let array = &calls[position(&calls, "mdadm")];
    assert!(
        array.contains("--level=0") && array.ends_with("--raid-devices=2 /no/dev/nvme1n1 /no/dev/nvme2n1"),
        "{array}"
    );
    assert!(calls[position(&calls, "mkfs.ext4")].ends_with("/no/dev/md/pgconvoy"));

    let boot = Boot::new(&[("xvda", ""), ("xvdb", ""), ("xvdc", "")]);
    let (_, calls) = boot.run("");
    assert!(calls[position(&calls, "mdadm")].ends_with("/no/dev/xvdb /no/dev/xvdc"), "the root's disk is left alone");
}

#[test]
fn a_machine_without_disks_of_its_own_is_ready_too() {
    let (state, calls) = Boot::new(&[EBS]).run("");
    assert_eq!(state, "ready");
    assert!(calls.iter().all(|call| !call.starts_with("mkfs") && !call.starts_with("mount -o")), "{calls:#?}");
}

#[test]
fn what_is_formatted_stays_as_it_is() {
    let boot = Boot::new(&[EBS, ("nvme1n1", OWN)]);
    fs::write(boot.at("label"), "pgconvoy\n").unwrap();
    let (state, calls) = boot.run("");
    assert_eq!(state, "ready");
    assert!(calls.iter().all(|call| !call.starts_with("mkfs")), "{calls:#?}");
    position(&calls, "mount -o");
}

#[test]
fn a_failure_is_said_and_the_end_stands() {
    for program in ["mkfs.ext4", "mount", "apt-get", "apt.postgresql.org.sh"] {
        let (state, calls) = Boot::new(&[("nvme1n1", OWN)]).run(program);
        assert!(state.starts_with("failed: line "), "{program}: {state}");
        assert!(calls[0].starts_with("shutdown -P +90"), "{program}");
        position(&calls, "systemctl enable --now pgconvoy-end.timer");
        assert!(calls.iter().all(|call| !call.starts_with("poweroff")), "{program}: {calls:#?}");
    }
}

#[test]
fn where_shutdown_fails_the_timer_is_the_end() {
    let boot = Boot::new(&[EBS]);
    let (state, calls) = boot.run("shutdown");
    assert_eq!(state, "ready");
    position(&calls, "systemctl enable --now pgconvoy-end.timer");
    assert!(boot.at("etc/systemd/system/pgconvoy-end.timer").is_file());
}

#[test]
fn a_machine_that_cannot_set_its_end_does_not_live_on() {
    let (state, calls) = Boot::new(&[EBS]).run("systemctl");
    assert!(state.starts_with("failed: line "), "{state}");
    assert_eq!(calls.last().unwrap(), "poweroff -f");
    assert!(calls.iter().all(|call| !call.starts_with("apt-get")), "{calls:#?}");
}

#[test]
fn the_script_fits_and_holds_nothing_secret() {
    let script = UserData { minutes: 720, pg_client: 18, user: "ubuntu".into() }.script();
    assert!(script.len() < 12 * 1024, "{} bytes", script.len());
    assert!(!script.contains("PGCONVOY_SOURCE") && !script.contains("postgres://"));
    for check in [["bash", "-n"], ["shellcheck", "-"]] {
        let Ok(mut child) = Command::new(check[0]).args(&check[1..]).stdin(Stdio::piped()).spawn() else {
            crate::say_not_tested("the script of the first boot", &format!("{} is not installed", check[0]));
            continue;
        };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{check:?}");
    }
}
