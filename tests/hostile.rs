//! Bytes that somebody has made to hurt: the corpus of `fuzz/`, and seeded mutations of it, through the same functions.
//!
//! Every target runs in a process of its own with little address space: memory that is taken by a number that was read ends it.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PGCONVOY_HOSTILE_ROUNDS` | mutations of each target; 4000 if not set |
//! | `PGCONVOY_HOSTILE_SEED` | where they begin; printed with a failure |

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

use pgconvoy::fuzzing::TARGETS;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Says to a process of this program which target is its own.
const TARGET: &str = "PGCONVOY_HOSTILE_TARGET";

/// Twelve times the largest record of a manifest.
const ADDRESS_SPACE_BYTES: u64 = 768 << 20;

/// Mutations are no longer.
const INPUT_MAX_BYTES: usize = 64 << 10;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
}

/// xorshift64*: the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() >> 11).unwrap() % end.max(1)
    }
}

/// Numbers at which lengths and counts break.
const NUMBERS: [u32; 12] =
    [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x10_0000, 0x0100_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// What text formats are made of.
const WORDS: [&[u8]; 14] = [
    b"\"",
    b"\\",
    b"'",
    b":",
    b"%00",
    b"[",
    b"{\"a\":",
    b"99999999999999999999",
    b"-1",
    b"../../etc",
    b"\n",
    b"postgres://",
    b"$$",
    b"\xff\xfe",
];

fn mutate(bytes: &mut Vec<u8>, others: &[(String, Vec<u8>)], dice: &mut Dice) {
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match dice.below(9) {
            0 if rest > 0 => bytes[at] ^= 1 << dice.below(8),
            1 if rest > 0 => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
            2 if rest >= 4 => {
                let number = NUMBERS[dice.below(NUMBERS.len())];
                let number = if dice.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
                bytes[at..at + 4].copy_from_slice(&number);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + dice.below(rest.min(64) + 1))),
            5 => {
                let copy = bytes[at..at + dice.below(rest.min(256) + 1)].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let other = &others[dice.below(others.len())].1;
                let from = dice.below(other.len() + 1);
                let to = from + dice.below((other.len() - from).min(512) + 1);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            7 => drop(bytes.splice(at..at, WORDS[dice.below(WORDS.len())].iter().copied())),
            _ => drop(bytes.splice(at..at, std::iter::repeat_n(b'0', dice.below(40)))),
        }
        bytes.truncate(INPUT_MAX_BYTES);
    }
}

/// In a process of its own.
fn run_target(name: &str) {
    let limit = Some(ADDRESS_SPACE_BYTES);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    let (_, run) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let corpus = corpus(name);
    let taken = corpus.iter().filter(|(_, bytes)| run(bytes)).count();
    assert!(taken * 2 >= corpus.len(), "{name}: only {taken} of {} are what they are to be", corpus.len());
    let seed = number("PGCONVOY_HOSTILE_SEED", 1);
    for round in 0..number("PGCONVOY_HOSTILE_ROUNDS", 4000) {
        let mut dice = Dice((seed << 32 | (round + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes = corpus[dice.below(corpus.len())].1.clone();
        mutate(&mut bytes, &corpus, &mut dice);
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "{name}, seed {seed}, round {round}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

fn in_a_process_of_its_own(test: &str, target: &str) {
    if std::env::var(TARGET).is_ok_and(|asked| asked == target) {
        return run_target(target);
    }
    let this = std::env::current_exe().unwrap();
    let ran = Command::new(this).args([test, "--exact", "--nocapture"]).env(TARGET, target).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{target}: {}\n{said}", ran.status);
    assert!(said.contains("1 passed"), "{said}");
}

macro_rules! hostile {
    ($($test:ident: $target:literal;)*) => {
        $(#[test]
        fn $test() {
            in_a_process_of_its_own(stringify!($test), $target);
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$($target),*];
            assert!(TARGETS.iter().all(|(target, _)| run.contains(target)));
        }
    };
}

hostile! {
    manifests_do_no_harm: "manifest";
    segments_do_no_harm: "segment";
    tables_of_contents_do_no_harm: "toc";
    servers_messages_do_no_harm: "copy_frames";
    connection_strings_do_no_harm: "conninfo";
    password_files_do_no_harm: "passfile";
    evidence_does_no_harm: "evidence";
    encrypted_files_do_no_harm: "encrypted";
}

/// What a limit of the address space is for.
#[test]
fn a_process_that_takes_too_much_memory_is_noticed() {
    if std::env::var(TARGET).is_ok_and(|asked| asked == "too much") {
        let limit = Some(ADDRESS_SPACE_BYTES);
        setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
        let much = vec![0_u8; 1 << 30];
        assert_eq!(std::hint::black_box(&much).len(), 1 << 30);
        return;
    }
    let this = std::env::current_exe().unwrap();
    let test = "a_process_that_takes_too_much_memory_is_noticed";
    let ran = Command::new(this).args([test, "--exact"]).env(TARGET, "too much").output().unwrap();
    assert!(!ran.status.success());
}
