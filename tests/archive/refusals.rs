//! What a writer refuses, what a failed one leaves, and how the errors read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgconvoy::archive::{Archive, ArchiveState, ArchiveWriter, Error, Misuse, Record, Totals, inspect};
use pgconvoy::model::{CopyFormat, CtidRange};

use crate::build::{
    NOTES, ORDERS, chunk, files, header, orders_blocks, place, relation, small, small_unsealed, spec, write_segment,
};

/// Message and hint as a person sees them, with paths that are the same everywhere.
fn said(error: &Error, directory: &Path) -> String {
    let text = format!("{error}\n  hint: {}", error.hint().unwrap_or_else(|| "-".into()));
    text.replace(&directory.display().to_string(), "TMP")
}

#[test]
fn a_directory_with_anything_in_it_is_refused_and_left_alone() {
    let place = place();
    fs::create_dir(&place.archive).unwrap();
    fs::write(place.archive.join("holiday.jpg"), b"sea").unwrap();
    let error = ArchiveWriter::create(&place.archive, header()).unwrap_err();
    insta::assert_snapshot!("not_empty", said(&error, place.directory.path()));
    assert_eq!(files(&place.archive), [place.archive.join("holiday.jpg")]);
    fs::remove_file(place.archive.join("holiday.jpg")).unwrap();
    ArchiveWriter::create(&place.archive, header()).unwrap().abandon().unwrap();
    assert_eq!(fs::read_dir(&place.archive).unwrap().count(), 0, "an empty one is used, and stays");
}

#[test]
fn what_is_no_directory_is_refused() {
    let place = place();
    fs::write(&place.archive, b"a file").unwrap();
    let error = ArchiveWriter::create(&place.archive, header()).unwrap_err();
    insta::assert_snapshot!("not_a_directory", said(&error, place.directory.path()));
    let error = Archive::open(&place.archive).unwrap_err();
    assert!(matches!(&error, Error::NotAnArchive { why, .. } if why == "it is not a directory"), "{error}");
    assert_eq!(error.hint().unwrap(), "name the directory that `pgconvoy dump` wrote");
    let nowhere = place.directory.path().join("no/such/parent");
    let error = ArchiveWriter::create(&nowhere, header()).unwrap_err();
    insta::assert_snapshot!("no_parent", said(&error, place.directory.path()));
    let error = Archive::open(&nowhere).unwrap_err();
    insta::assert_snapshot!("no_archive", said(&error, place.directory.path()));
    let empty = place.directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let error = Archive::open(&empty).unwrap_err();
    insta::assert_snapshot!("no_manifest", said(&error, place.directory.path()));
    fs::write(empty.join("manifest"), b"Manifest-Version: 1.0\n").unwrap();
    let error = Archive::open(&empty).unwrap_err();
    insta::assert_snapshot!("foreign_manifest", said(&error, place.directory.path()));
}

#[test]
fn the_root_may_be_a_link_that_the_user_made() {
    let place = place();
    let real = place.directory.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, &place.archive).unwrap();
    small(&place.archive);
    assert!(Archive::open(&place.archive).is_ok());
    assert!(real.join("manifest").exists());
}

#[test]
fn a_second_writer_and_a_reader_are_told_that_the_first_one_lives() {
    let place = place();
    let writer = small_unsealed(&place.archive);
    let error = ArchiveWriter::create(&place.archive, header()).unwrap_err();
    insta::assert_snapshot!("locked", said(&error, place.directory.path()));
    assert!(matches!(Archive::open(&place.archive), Err(Error::Locked { .. })));
    assert_eq!(inspect(&place.archive).unwrap().state, ArchiveState::BeingWritten);
    drop(writer);
    assert!(matches!(ArchiveWriter::create(&place.archive, header()), Err(Error::NotEmpty { .. })));
}

#[test]
fn of_many_that_begin_at_once_one_gets_the_directory() {
    let place = place();
    let barrier = std::sync::Barrier::new(8);
    let made = std::thread::scope(|scope| {
        let begin = || {
            barrier.wait();
            ArchiveWriter::create(&place.archive, header())
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost.into_iter().map(Result::unwrap_err) {
        assert!(matches!(error, Error::Locked { .. } | Error::NotEmpty { .. }), "{error}");
    }
    let archive = Archive::open_unsealed(&place.archive).unwrap();
    assert_eq!(archive.header(), &header());
}

#[test]
fn a_killed_dump_is_refused_and_says_what_it_lacks() {
    let place = place();
    let writer = ArchiveWriter::create(&place.archive, header()).unwrap();
    writer.record_relation(&relation(ORDERS, "orders", CopyFormat::Binary)).unwrap();
    writer.record_relation(&relation(NOTES, "notes", CopyFormat::Text)).unwrap();
    writer.record_relation(&relation(1, "whole", CopyFormat::Binary)).unwrap();
    let first = CtidRange { start: None, end: Some(7) };
    write_segment(&writer, spec(chunk(ORDERS, 0, first), CopyFormat::Binary), &[&orders_blocks()[0]], 2);
    write_segment(&writer, spec(chunk(1, 0, CtidRange::ALL), CopyFormat::Binary), &[b"x"], 1);
    let mut lost = writer.segment(spec(chunk(NOTES, 0, CtidRange::ALL), CopyFormat::Text)).unwrap();
    lost.write(b"never finished").unwrap();
    // As a kill does it: no destructor runs, the descriptors are closed.
    std::mem::forget(lost);
    let copy = place.directory.path().join("copy");
    let copied = Command::new("cp").arg("-r").arg(&place.archive).arg(&copy).status().unwrap();
    assert!(copied.success());
    let error = Archive::open(&copy).unwrap_err();
    insta::assert_snapshot!("unsealed", said(&error, place.directory.path()));
    let inspection = inspect(&copy).unwrap();
    assert_eq!(inspection.state, ArchiveState::Unsealed);
    insta::assert_snapshot!("killed_lacks", inspection.missing.join("\n"));
    let complete: Vec<_> = inspection.tables.iter().map(|t| t.complete).collect();
    assert_eq!(complete, [false, false, true]);
}

#[test]
fn abandoning_removes_what_is_ours_and_nothing_else() {
    let place = place();
    let writer = small_unsealed(&place.archive);
    let unfinished = {
        writer.record_relation(&relation(1, "t", CopyFormat::Binary)).unwrap();
        writer.segment(spec(chunk(1, 0, CtidRange::ALL), CopyFormat::Binary)).unwrap()
    };
    writer.clone().abandon().unwrap();
    assert!(matches!(unfinished.finish(0, None), Err(Error::Misuse(Misuse::Closed))));
    assert!(!place.archive.exists());
    assert!(matches!(writer.record(&Record::Note { message: String::new() }), Err(Error::Misuse(Misuse::Closed))));

    let writer = small_unsealed(&place.archive);
    fs::write(place.archive.join("mine"), b"").unwrap();
    fs::write(place.archive.join("data/10/mine"), b"").unwrap();
    writer.abandon().unwrap();
    assert_eq!(files(&place.archive), [place.archive.join("data/10/mine"), place.archive.join("mine")]);
}

#[test]
fn a_seal_is_refused_while_anything_is_missing() {
    let place = place();
    let mut said_all = Vec::new();
    let mut refused = |writer: &ArchiveWriter, totals: Totals| {
        said_all.push(said(&writer.clone().seal(totals).unwrap_err(), place.directory.path()));
    };
    let writer = ArchiveWriter::create(&place.archive, header()).unwrap();
    refused(&writer, writer.totals());
    let schema = place.directory.path().join("s");
    fs::write(&schema, b"x").unwrap();
    writer.adopt_schema(&schema).unwrap();
    writer.record_relation(&relation(ORDERS, "orders", CopyFormat::Binary)).unwrap();
    refused(&writer, writer.totals());
    let half = |start, end| spec(chunk(ORDERS, start, CtidRange { start: Some(start), end }), CopyFormat::Binary);
    write_segment(&writer, half(0, Some(5)), &[b"x"], 1);
    write_segment(&writer, half(9, None), &[b"x"], 1);
    refused(&writer, writer.totals());
    let open = writer.segment(half(5, Some(9))).unwrap();
    refused(&writer, writer.totals());
    open.finish(1, None).unwrap();
    refused(&writer, Totals { rows: 4, ..writer.totals() });
    write_segment(&writer, half(6, Some(7)), &[b"x"], 1);
    refused(&writer, writer.totals());
    insta::assert_snapshot!("seal_refused", said_all.join("\n"));
}

#[test]
fn wrong_calls_are_named() {
    let place = place();
    let writer = small_unsealed(&place.archive);
    let text = spec(chunk(ORDERS, 5, CtidRange::ALL), CopyFormat::Text);
    let mut level = spec(chunk(ORDERS, 5, CtidRange::ALL), CopyFormat::Binary);
    level.zstd_level = 99;
    let errors = [
        writer.segment(spec(chunk(4, 0, CtidRange::ALL), CopyFormat::Binary)).unwrap_err(),
        writer.segment(spec(chunk(ORDERS, 0, CtidRange::ALL), CopyFormat::Binary)).unwrap_err(),
        writer.segment(text).unwrap_err(),
        writer.segment(level).unwrap_err(),
        writer.record_relation(&relation(ORDERS, "orders", CopyFormat::Binary)).unwrap_err(),
        writer.record(&Record::Header(Box::new(header()))).unwrap_err(),
        writer.adopt_schema(Path::new("/dev/null")).unwrap_err(),
    ];
    let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("misuse", all.join("\n"));
    let totals = writer.totals();
    writer.clone().seal(totals).unwrap();
    assert!(matches!(writer.clone().seal(totals), Err(Error::Misuse(Misuse::Closed))));
    assert!(matches!(writer.abandon(), Err(Error::Misuse(Misuse::Closed))));
    assert!(Archive::open(&place.archive).is_ok(), "none of it did harm");
}

/// A file system of one megabyte, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at).output().ok()?;
        mount.status.success().then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_with_what_was_written_and_what_it_takes() {
    let place = place();
    let Some(disk) = SmallDisk::mount(place.directory.path().join("disk")) else {
        eprintln!("NOT TESTED: A FULL DISK. Mounting a tmpfs takes root.");
        return;
    };
    let archive = disk.0.join("archive");
    let writer = ArchiveWriter::create(&archive, header()).unwrap();
    let mut orders = relation(ORDERS, "orders", CopyFormat::Binary);
    orders.heap_bytes = 5_000_000;
    writer.record_relation(&orders).unwrap();
    let mut segment = writer.segment(spec(chunk(ORDERS, 0, CtidRange::ALL), CopyFormat::Binary)).unwrap();
    let noise: Vec<u8> = std::iter::repeat_with(rand::random).take(200_000).collect();
    let error = (0..9).find_map(|_| segment.write(&noise).err()).unwrap();
    insta::assert_snapshot!("no_space", said(&error, place.directory.path()));
    assert!(matches!(segment.finish(1, None), Err(Error::Misuse(Misuse::FailedSegment))));
    assert_eq!(files(&archive), [archive.join("manifest")], "the room is given back");
    writer.abandon().unwrap();
    assert!(!archive.exists());
    let full = disk.0.join("full");
    let filled = fs::write(&full, vec![0; 2 << 20]);
    assert!(filled.is_err());
    let error = ArchiveWriter::create(&archive, header()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(!archive.exists(), "nothing is left behind");
}
