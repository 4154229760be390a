//! Archives whose every byte somebody else has chosen, the checksums made right again: what guards against damage must not
//! keep a fuzzer out.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::crypt::{Identities, Input};
use super::error::Error;
use super::layout::segment_path;
use super::manifest::{Manifest, frame_json, hex};
use super::record::SegmentRecord;
use super::segment::{Expected, SegmentHeader, SegmentReader, forge_blocks};
use crate::model::{Chunk, ChunkId, CopyFormat, CtidRange};

/// A block of a segment stands for no more.
const BLOCK_MAX_BYTES: usize = 16 << 20;

/// Of the corpus alone: nothing else is encrypted to it.
const KNOWN_KEY: &str = "AGE-SECRET-KEY-1AN2DZG5EX64RQN2MNSUZ49E5XTF6KFHEZKJ4SC8XGAX5X686NMKSSJ08GS";

/// Reads bytes as a manifest: as they are, and each line as the JSON of a record.
pub(crate) fn manifest(bytes: &[u8]) -> bool {
    let as_it_is = read_manifest(bytes);
    let mut framed = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let seals = line.windows(8).any(|word| word == b"\"sealed\"");
        let json = if seals { seal(line, &framed) } else { line.to_vec() };
        framed.extend(frame_json(&json));
    }
    read_manifest(&framed) || as_it_is
}

/// A seal with the right hash.
fn seal(line: &[u8], before: &[u8]) -> Vec<u8> {
    let Ok(mut record) = serde_json::from_slice::<serde_json::Value>(line) else { return line.to_vec() };
    if let Some(record) = record.as_object_mut() {
        record.insert("manifest_sha256".into(), hex(&Sha256::digest(before)).into());
    }
    record.to_string().into_bytes()
}

/// Whether it is that of a finished archive.
fn read_manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::read(Path::new("archive"), bytes) else { return false };
    for segment in &manifest.segments {
        let path = segment_path(segment.chunk.id);
        let inside = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c) || c == '.' || c == '/';
        let below = path.strip_prefix("data/").and_then(|path| path.strip_suffix(".seg")).unwrap_or("/..");
        assert!(below.chars().all(inside) && !below.contains("..") && !below.starts_with('/'), "{path}");
    }
    manifest.sealed
}

/// Reads bytes as a segment: as they are, and as blocks (a codec, four bytes of raw length, two of stored length, the stored
/// bytes) whose checksums are right.
pub(crate) fn segment(bytes: &[u8]) -> bool {
    let Some(([version, format], blocks)) = bytes.split_first_chunk::<2>() else { return false };
    let format = if format.is_multiple_of(2) { CopyFormat::Binary } else { CopyFormat::Text };
    let header = SegmentHeader {
        version: u32::from(version % 2) + 1,
        chunk: ChunkId { relation: 16_384, index: 0 },
        range: CtidRange::ALL,
        format,
        archive_id: [7; 16],
    };
    let (head, seed) = header.encode();
    let forged = forge_blocks(blocks, seed);
    let record = |stored_bytes: usize, content: u64| SegmentRecord {
        chunk: Chunk { id: header.chunk, range: header.range, estimated_bytes: 0 },
        format,
        rows: 1,
        raw_bytes: forged.raw_bytes,
        stored_bytes: stored_bytes as u64,
        encrypted_bytes: None,
        blocks: forged.blocks,
        checksum: format!("{content:016x}"),
        row_hash: None,
    };
    let mut chain = Xxh3::with_seed(seed);
    forged.checksums.iter().for_each(|checksum| chain.update(&checksum.to_le_bytes()));
    let content = chain.digest();
    let file = [&head[..], &forged.bytes, &forged.footer(content, seed)].concat();
    let is_whole = read_segment(&file, &record(file.len(), content), header.version);
    let file = [&head[..], blocks].concat();
    read_segment(&file, &record(file.len(), content), header.version) || is_whole
}

/// Whether it is sound.
fn read_segment(bytes: &[u8], record: &SegmentRecord, format_version: u32) -> bool {
    let Ok(file) = file_of(bytes) else { return false };
    let expected = Expected { record, archive_id: [7; 16], format_version, table: "public.t".into() };
    let Ok(mut reader) = SegmentReader::start(expected, Ok((Input::Plain(file), bytes.len() as u64))) else {
        return false;
    };
    let (mut block, mut is_sound) = (Vec::new(), true);
    loop {
        block.clear();
        match reader.next_block(&mut block) {
            Ok(true) => assert!(block.len() <= BLOCK_MAX_BYTES, "a block of {} bytes", block.len()),
            Ok(false) => return is_sound,
            Err(_) if reader.resume_after_damage() => is_sound = false,
            Err(_) => return false,
        }
    }
}

/// Reads bytes as a file that is encrypted to a key that everybody knows.
pub(crate) fn encrypted(bytes: &[u8]) -> bool {
    let (Ok(file), Ok(identities)) = (file_of(bytes), Identities::of_text(KNOWN_KEY)) else { return false };
    let failed = |what| Error::manifest(Path::new("archive"), 1, what);
    let Ok(mut input) = Input::decrypt(Path::new("archive"), file, &identities, failed) else { return false };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return input.is_at_end().unwrap_or(false),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

fn file_of(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("segment", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
