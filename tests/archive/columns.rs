//! Blocks of columns: a second reader made from `docs/FORMAT.md`, rows of all kinds, and forms made to hurt.

use std::fs;

use pgconvoy::archive::Archive;
use pgconvoy::model::{CopyFormat, CtidRange};
use proptest::prelude::*;

use crate::build::{ORDERS, chunk, place_in_memory, read_segment, relation, small_unsealed, spec, write_segment};
use crate::format::{Block, worked_form};
use crate::hostile::{read_forged, read_forged_version};

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The values of one column, out of its header, its lengths and its stored values; consumes the latter two.
fn column_of(header: &[u8], rows: usize, rest: &mut &[u8]) -> Vec<Option<Vec<u8>>> {
    let width = usize::from(header[0]);
    let mut take = |bytes: usize| {
        let (taken, left) = rest.split_at(bytes);
        *rest = left;
        taken
    };
    let stored = take(width * rows);
    let lengths: Vec<Option<usize>> = (0..rows)
        .map(|row| match width {
            0 => u32_at(header, 4),
            _ => stored[row * width..][..width].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)),
        })
        .map(|coded| coded.checked_sub(1))
        .collect();
    let mut values: Vec<Vec<u8>> = lengths.iter().flatten().map(|length| vec![0; *length]).collect();
    let longest = values.iter().map(Vec::len).max().unwrap_or(0);
    match header[1] {
        0 => values.iter_mut().for_each(|v| *v = take(v.len()).to_vec()),
        3 => {
            for at in 0..longest {
                values.iter_mut().filter(|v| v.len() > at).for_each(|v| v[at] = take(1)[0]);
            }
        }
        _ => (0..longest).rev().for_each(|at| values.iter_mut().for_each(|v| v[at] = take(1)[0])),
    }
    if header[1] == 2 {
        let bits = 8 * longest as u32;
        let mut before = 0_u128;
        for value in &mut values {
            let coded = value.iter().fold(0_u128, |n, b| n << 8 | u128::from(*b));
            let (half, odd) = (coded / 2, coded % 2 == 1);
            // An odd number stands for the negative difference -(half + 1).
            before = if odd { before + (1 << bits) - half - 1 } else { before + half } % (1 << bits);
            value.copy_from_slice(&before.to_be_bytes()[16 - longest..]);
        }
    }
    let mut values = values.into_iter();
    lengths.into_iter().map(|length| length.map(|_| values.next().unwrap())).collect()
}

/// The rows that a form stands for.
pub fn rows_of(form: &[u8]) -> Vec<u8> {
    let [head, tail, rows, columns] = [0, 4, 8, 12].map(|at| u32_at(form, at));
    let mut rest = &form[16 + 8 * columns..];
    let columns: Vec<_> =
        (0..columns).map(|column| column_of(&form[16 + 8 * column..][..8], rows, &mut rest)).collect();
    assert_eq!(rest.len(), head + tail);
    let mut raw = rest[..head].to_vec();
    for row in 0..rows {
        raw.extend(i16::try_from(columns.len()).unwrap().to_be_bytes());
        for column in &columns {
            match &column[row] {
                None => raw.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    raw.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    raw.extend(value);
                }
            }
        }
    }
    raw.extend(&rest[head..]);
    raw
}

/// Raw length, codec and stored bytes of each block of a segment file.
fn blocks_of(file: &[u8]) -> Vec<(usize, u8, &[u8])> {
    let (mut at, mut blocks) = (56, Vec::new());
    while at < file.len() - 56 {
        let stored = u32_at(file, at + 12);
        blocks.push((u32_at(file, at + 8), file[at + 20], &file[at + 24..][..stored]));
        at += 24 + stored;
    }
    blocks
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Serial,
    Falling,
    Smallint,
    Random,
    Nulls,
    Boolean,
    Numeric,
    Uuid,
    Array,
    Text,
    Long,
    Empty,
}

const KINDS: [Kind; 12] = [
    Kind::Serial,
    Kind::Falling,
    Kind::Smallint,
    Kind::Random,
    Kind::Nulls,
    Kind::Boolean,
    Kind::Numeric,
    Kind::Uuid,
    Kind::Array,
    Kind::Text,
    Kind::Long,
    Kind::Empty,
];

fn value(kind: Kind, row: u64, noise: &mut Noise) -> Option<Vec<u8>> {
    let random = noise.next();
    let text = |length: u64| (0..length).map(|i| b'a' + (random.rotate_left(i as u32) % 20) as u8).collect();
    Some(match kind {
        Kind::Serial => row.to_be_bytes().to_vec(),
        Kind::Falling => (u32::MAX / 2).wrapping_sub(row as u32 * 3 + random as u32 % 2).to_be_bytes().to_vec(),
        Kind::Smallint if random.is_multiple_of(7) => return None,
        Kind::Smallint => (random as u16 % 100).to_be_bytes().to_vec(),
        Kind::Random => random.to_be_bytes().to_vec(),
        Kind::Nulls => return None,
        Kind::Boolean => vec![random as u8 % 2],
        Kind::Numeric => {
            let digits = (random % 5) as u16;
            let words =
                [digits, digits / 2, 0, 2].into_iter().chain((0..digits).map(|i| (random >> i) as u16 % 10_000));
            words.flat_map(u16::to_be_bytes).collect()
        }
        Kind::Uuid => [random.to_be_bytes(), noise.next().to_be_bytes()].concat(),
        Kind::Array => {
            [1, 0, 23, 2, 1, 4, row as u32, 4, random as u32 % 9].into_iter().flat_map(u32::to_be_bytes).collect()
        }
        Kind::Text if random.is_multiple_of(5) => return None,
        Kind::Text => text(random % 40),
        Kind::Long if random.is_multiple_of(50) => text(70_000),
        Kind::Long => text(random % 400),
        Kind::Empty => Vec::new(),
    })
}

/// A stream as COPY BINARY sends it: header, rows, trailer.
fn stream(kinds: &[Kind], rows: u64, seed: u64) -> Vec<u8> {
    let mut noise = Noise(seed | 1);
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in 0..rows {
        stream.extend((kinds.len() as u16).to_be_bytes());
        for kind in kinds {
            let value = value(*kind, row, &mut noise);
            stream.extend(value.as_ref().map_or(u32::MAX, |v| v.len() as u32).to_be_bytes());
            stream.extend(value.unwrap_or_default());
        }
    }
    stream.extend((-1_i16).to_be_bytes());
    stream
}

/// Writes the stream in parts of these lengths, again and again, reads it back both ways, and tells the codecs.
fn codecs(stream: &[u8], part_bytes: &[usize], format: CopyFormat) -> Vec<u8> {
    let place = place_in_memory();
    let writer = small_unsealed(&place.archive);
    writer.record_relation(&relation(1, "t", format)).unwrap();
    let (mut parts, mut rest, mut lengths) = (Vec::new(), stream, part_bytes.iter().cycle());
    while !rest.is_empty() {
        let (part, behind) = rest.split_at((*lengths.next().unwrap()).clamp(1, rest.len()));
        parts.push(part);
        rest = behind;
    }
    let record = write_segment(&writer, spec(chunk(1, 0, CtidRange::ALL), format), &parts, 1);
    let archive = Archive::open_unsealed(&place.archive).unwrap();
    assert!(read_segment(&archive, &record).unwrap().concat() == stream, "read by pgconvoy");
    let file = fs::read(place.archive.join("data/00/1.0.seg")).unwrap();
    let blocks = blocks_of(&file);
    let raw = blocks.iter().map(|(raw_bytes, codec, stored)| match codec {
        1 => stored.to_vec(),
        2 => zstd::bulk::decompress(stored, *raw_bytes).unwrap(),
        3 => rows_of(&zstd::bulk::decompress(stored, *raw_bytes).unwrap()),
        _ => panic!("codec {codec}"),
    });
    assert!(raw.collect::<Vec<_>>().concat() == stream, "read as specified");
    blocks.iter().map(|block| block.1).collect()
}

#[test]
fn rows_are_stored_as_columns_wherever_the_stream_is_cut() {
    let stream = stream(&KINDS[..10], 9000, 5);
    for part_bytes in [&[256 << 10][..], &[200_001], &[7], &[1, 130_000, 3, 2, 500_000], &[2 << 20]] {
        let codecs = codecs(&stream, part_bytes, CopyFormat::Binary);
        assert!(codecs.len() > 2);
        assert_eq!(codecs.iter().filter(|codec| **codec != 3).count(), 0, "{part_bytes:?}: {codecs:?}");
    }
}

#[test]
fn what_are_no_rows_is_stored_as_before() {
    let rows = stream(&KINDS[..10], 9000, 5);
    let unlike = |stream: &[u8], format| {
        let codecs = codecs(stream, &[256 << 10], format);
        assert!(codecs.iter().all(|codec| *codec != 3), "{codecs:?}");
    };
    unlike(&rows, CopyFormat::Text);
    unlike(&rows[1..], CopyFormat::Binary);
    unlike(&stream(&[], 200_000, 5), CopyFormat::Binary);
    let mut one_huge = stream(&[Kind::Long], 0, 5);
    one_huge.truncate(19);
    one_huge.extend(b"\0\x01\0\x20\0\0");
    one_huge.extend(b"all one row ".iter().cycle().take(2 << 20));
    unlike(&one_huge, CopyFormat::Binary);
}

#[test]
fn rows_that_say_the_same_in_two_columns_are_stored_as_is_better() {
    let mut noise = Noise(77);
    let mut stream = stream(&[], 0, 0)[..19].to_vec();
    for _ in 0..40_000 {
        let text: Vec<u8> = std::iter::repeat_with(|| b'a' + (noise.next() % 26) as u8).take(60).collect();
        stream.extend(3_u16.to_be_bytes());
        for _ in 0..3 {
            let number = &noise.next().to_be_bytes()[(noise.next() % 8) as usize..];
            stream.extend((60 + number.len() as u32).to_be_bytes());
            stream.extend(number);
            stream.extend(&text);
        }
    }
    let codecs = codecs(&stream, &[256 << 10], CopyFormat::Binary);
    assert!(codecs[..30].iter().all(|codec| *codec == 2), "{codecs:?}");
}

#[test]
fn rows_of_another_number_of_columns_end_the_columns() {
    let mut mixed = stream(&KINDS, 300, 1);
    mixed.truncate(mixed.len() - 2);
    mixed.extend(&stream(&[Kind::Serial, Kind::Text], 9000, 2)[19..]);
    mixed.extend(b"behind the trailer");
    let codecs = codecs(&mixed, &[100_000], CopyFormat::Binary);
    assert!(codecs.contains(&3), "{codecs:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn rows_of_any_kind_in_any_parts_come_back(
        kinds in prop::collection::vec(prop::sample::select(&KINDS[..]), 1..9),
        rows in prop_oneof![0..40_u64, 500..3000_u64],
        seed in any::<u64>(),
        part_bytes in prop::collection::vec(prop_oneof![1..50_usize, 1..300_000_usize, 128_000..600_000_usize], 1..6),
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut stream = stream(&kinds, rows, seed);
        if let Some((at, byte)) = change {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        codecs(&stream, &part_bytes, CopyFormat::Binary);
    }
}

/// A form of seven rows with every layout, and how many bytes it stands for.
fn small_form() -> (Vec<u8>, usize) {
    let mut form: Vec<u8> = [3, 2, 7, 6].into_iter().flat_map(u32::to_le_bytes).collect();
    let header =
        |length_bytes: u8, layout: u8, shared: u32| [&[length_bytes, layout, 0, 0][..], &shared.to_le_bytes()].concat();
    form.extend(header(0, 0, 0));
    form.extend(header(1, 0, 0));
    form.extend(header(2, 3, 0));
    form.extend(header(0, 2, 5));
    form.extend(header(4, 1, 0));
    form.extend(header(0, 1, 13));
    form.extend([2, 0, 1, 3, 2, 2, 2]);
    form.extend(b"abbcde");
    form.extend([3_u16, 9, 0, 11, 3, 3, 3].into_iter().flat_map(u16::to_le_bytes));
    form.extend(0..26_u8);
    form.extend((0..28_u8).map(|i| i * 9));
    form.extend([3_u32, 3, 0, 3, 3, 3, 3].into_iter().flat_map(u32::to_le_bytes));
    form.extend((0..12_u8).map(|i| i + 100));
    form.extend((0..84_u8).map(|i| i * 3));
    form.extend(b"HEDTL");
    let raw_bytes = rows_of(&form).len();
    (form, raw_bytes)
}

fn read_form(form: &[u8], raw_bytes: usize) -> String {
    let frame = zstd::bulk::compress(form, 1).unwrap();
    let raw = u32::try_from(raw_bytes).unwrap();
    read_forged(&[(raw, 3, &frame)], u64::from(raw))
}

#[test]
fn forms_that_pgconvoy_does_not_write_are_read_as_specified() {
    let (form, raw_bytes) = small_form();
    assert_eq!(read_form(&form, raw_bytes), format!("read {raw_bytes} bytes"));
    let (frame, place) = (zstd::bulk::compress(&form, 1).unwrap(), place_in_memory());
    let raw = u32::try_from(raw_bytes).unwrap();
    let blocks: [Block<'_>; 1] = [(raw, 3, &frame)];
    let archive = crate::hostile::forge_segment(&place, 2, &blocks, u64::from(raw));
    let record = archive.segments_of(ORDERS).nth(1).unwrap();
    assert_eq!(read_segment(&archive, record).unwrap().concat(), rows_of(&form));
}

#[test]
fn an_archive_of_version_1_is_read_and_has_no_columns() {
    let frame = zstd::bulk::compress(&[0; 100], 1).unwrap();
    assert_eq!(read_forged_version(1, &[(100, 2, &frame), (3, 1, b"abc")], 103), "read 103 bytes");
    let (form, raw_bytes) = small_form();
    let (frame, raw) = (zstd::bulk::compress(&form, 1).unwrap(), u32::try_from(raw_bytes).unwrap());
    let said = read_forged_version(1, &[(raw, 3, &frame)], u64::from(raw));
    assert!(said.ends_with("the block's codec is unknown"), "{said}");
}

#[test]
fn the_worked_form_is_read_as_specified() {
    let (form, raw) = worked_form();
    assert_eq!(rows_of(&form), raw);
    let (frame, place) = (zstd::bulk::compress(&form, 1).unwrap(), place_in_memory());
    let raw_bytes = u32::try_from(raw.len()).unwrap();
    let archive = crate::hostile::forge_segment(&place, 2, &[(raw_bytes, 3, &frame)], raw_bytes.into());
    let record = archive.segments_of(ORDERS).nth(1).unwrap();
    assert_eq!(read_segment(&archive, record).unwrap(), [raw]);
}

#[test]
fn forged_forms_are_refused_with_the_reason() {
    let (form, raw_bytes) = small_form();
    let mut said = Vec::new();
    let mut case = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut forged = form.clone();
        change(&mut forged);
        said.push(format!("{name}: {}", read_form(&forged, raw_bytes)));
    };
    let set = |form: &mut Vec<u8>, at: usize, number: u32| form[at..at + 4].copy_from_slice(&number.to_le_bytes());
    case("no form", &|f| f.truncate(15));
    case("no columns' headers", &|f| f.truncate(40));
    case("half of it", &|f| f.truncate(f.len() / 2));
    case("a byte less", &|f| f.truncate(f.len() - 1));
    case("a byte more", &|f| f.push(0));
    case("a head of 4 GiB", &|f| set(f, 0, u32::MAX));
    case("another tail", &|f| set(f, 4, 3));
    case("no rows", &|f| set(f, 8, 0));
    case("4 billion rows", &|f| set(f, 8, u32::MAX));
    case("no columns", &|f| set(f, 12, 0));
    case("too many columns", &|f| set(f, 12, 32_768));
    case("4 billion columns", &|f| set(f, 12, u32::MAX));
    case("lengths of three bytes", &|f| f[24] = 3);
    case("an unknown layout", &|f| f[25] = 4);
    case("something where zero belongs", &|f| f[26] = 1);
    case("both kinds of lengths", &|f| set(f, 28, 1));
    case("differences of twelve bytes", &|f| f[57] = 2);
    case("planes of different lengths", &|f| f[25] = 1);
    case("a shared length of 4 GiB", &|f| set(f, 60, u32::MAX));
    case("a ragged length beyond the form", &|f| f[77] = 0xff);
    case("lengths that take other columns' values", &|f| f[64..66].copy_from_slice(&[1, 1]));
    let large = vec![0; 2 << 20];
    let frame = zstd::bulk::compress(&large, 1).unwrap();
    said.push(format!("a bomb: {}", read_forged(&[(1 << 20, 3, &frame)], 1 << 20)));
    said.push(format!("a block beyond the limit: {}", read_forged(&[((1 << 20) + 1, 3, &frame)], (1 << 20) + 1)));
    insta::assert_snapshot!("forged_forms", said.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn changed_forms_with_right_checksums_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        header_change in prop::option::of((0..16_usize, prop_oneof![0..9_u32, any::<u32>()])),
        length in any::<prop::sample::Index>(),
        cut in prop::bool::weighted(0.2),
        raw_bytes in prop_oneof![Just(0_usize), 1..2000_usize],
    ) {
        let (mut form, right) = small_form();
        for (at, byte) in changes {
            let at = at.index(form.len());
            form[at] = byte;
        }
        if let Some((at, number)) = header_change {
            form[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
        }
        if cut {
            form.truncate(length.index(form.len()));
        }
        let raw_bytes = if raw_bytes == 0 { right } else { raw_bytes };
        let said = read_form(&form, raw_bytes);
        prop_assert!(said == format!("read {raw_bytes} bytes") || said.contains("segment data/10/16447.1.seg"), "{}", said);
    }
}
