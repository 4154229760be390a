use super::words::{put_planes, zigzag};
use super::{
    COLUMN_HEADER_BYTES, FORM_HEADER_BYTES, Layout, MAX_PLANES, NUMERIC_MIN_BYTES, SHARED_LENGTH, WORD_BYTES,
    has_deltas,
};

/// A NULL's length on the wire, as it is without its sign.
const NULL: u32 = u32::MAX;

/// One value in so many is asked whether differences are smaller than values.
const SAMPLE_STEP: usize = 8;

/// Rewrites blocks of rows into columns, in buffers that are used again for each.
#[derive(Default)]
pub(in crate::archive::segment) struct Columns {
    /// Where each row's next field begins.
    cursors: Vec<u32>,
    /// Of the column that is being written: where the values are that are not NULL, and how long.
    values: Vec<Value>,
    /// Each field's length in that column plus one, so that NULL is zero.
    lengths: Vec<u32>,
    words: Vec<u64>,
    zigzags: Vec<u64>,
    form: Vec<u8>,
    /// Where in the form the columns end.
    ends: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Value {
    at: u32,
    length: u32,
}

/// What a column's lengths have in common, NULLs left out.
struct Lengths {
    min: u32,
    max: u32,
    nulls: usize,
}

impl Columns {
    /// Finds the rows of as many columns as the first one that begin at `head`, and says where the last of them ends.
    ///
    /// `raw` must be shorter than 4 GiB.
    pub(in crate::archive::segment) fn find_rows(&mut self, raw: &[u8], head: usize) -> usize {
        self.cursors.clear();
        let Some(count) = bytes_at::<2>(raw, head).map(i16::from_be_bytes).filter(|&count| count > 0) else {
            return head;
        };
        let mut at = head;
        'rows: while let Some(found) = bytes_at::<2>(raw, at) {
            if i16::from_be_bytes(found) != count {
                break;
            }
            let mut end = at + 2;
            for _ in 0..count {
                let Some(length) = bytes_at::<4>(raw, end) else { break 'rows };
                let length = i32::from_be_bytes(length);
                if length < -1 {
                    break 'rows;
                }
                end += 4 + usize::try_from(length).unwrap_or(0);
            }
            if end > raw.len() {
                break;
            }
            self.cursors.push(to_u32(at + 2));
            at = end;
        }
        at
    }

    /// How many rows were found.
    pub(in crate::archive::segment) fn rows(&self) -> usize {
        self.cursors.len()
    }

    /// Makes the form of the block whose rows were found between `head` and `end`.
    pub(in crate::archive::segment) fn rewrite(&mut self, raw: &[u8], head: usize, end: usize) {
        let columns = bytes_at::<2>(raw, head).map_or(0, u16::from_be_bytes);
        self.form.clear();
        self.ends.clear();
        for number in [to_u32(head), to_u32(raw.len() - end), to_u32(self.cursors.len()), u32::from(columns)] {
            self.form.extend_from_slice(&number.to_le_bytes());
        }
        self.form.resize(FORM_HEADER_BYTES + usize::from(columns) * COLUMN_HEADER_BYTES, 0);
        for column in 0..usize::from(columns) {
            self.put_column(raw, column);
            self.ends.push(self.form.len());
        }
        self.form.extend_from_slice(&raw[..head]);
        self.form.extend_from_slice(&raw[end..]);
    }

    /// The form that was made last.
    pub(in crate::archive::segment) fn form(&self) -> &[u8] {
        &self.form
    }

    /// The form in pieces that begin and end between columns, each but the last of `min_bytes` at least.
    pub(in crate::archive::segment) fn pieces(&self, min_bytes: usize) -> impl Iterator<Item = &[u8]> {
        let (mut from, mut ends) = (0, self.ends.iter());
        std::iter::from_fn(move || {
            let end = ends.find(|&&end| end >= from + min_bytes).copied().unwrap_or(self.form.len());
            let piece = &self.form[from..end];
            from = end;
            (!piece.is_empty()).then_some(piece)
        })
    }

    fn put_column(&mut self, raw: &[u8], column: usize) {
        let found = self.measure(raw);
        let rows = self.cursors.len();
        self.values.clear();
        let (length_bytes, shared) = if found.nulls == rows {
            self.cursors.iter_mut().for_each(|cursor| *cursor += 4);
            (SHARED_LENGTH, 0)
        } else if found.nulls == 0 && found.min == found.max {
            self.take_equal(found.max);
            (SHARED_LENGTH, found.max + 1)
        } else {
            self.take_different(raw);
            (self.put_lengths(found.max), 0)
        };
        let layout = self.put_values(raw, &found);
        let at = FORM_HEADER_BYTES + column * COLUMN_HEADER_BYTES;
        let header = &mut self.form[at..at + COLUMN_HEADER_BYTES];
        header[0] = length_bytes;
        header[1] = layout as u8;
        header[4..8].copy_from_slice(&shared.to_le_bytes());
    }

    fn measure(&self, raw: &[u8]) -> Lengths {
        let mut found = Lengths { min: NULL, max: 0, nulls: 0 };
        for &cursor in &self.cursors {
            let length = length_at(raw, cursor);
            found.min = found.min.min(length);
            if length == NULL {
                found.nulls += 1;
            } else {
                found.max = found.max.max(length);
            }
        }
        found
    }

    fn take_equal(&mut self, length: u32) {
        self.values.extend(self.cursors.iter_mut().map(|cursor| {
            let at = *cursor + 4;
            *cursor = at + length;
            Value { at, length }
        }));
    }

    fn take_different(&mut self, raw: &[u8]) {
        self.lengths.clear();
        for cursor in &mut self.cursors {
            let length = length_at(raw, *cursor);
            self.lengths.push(length.wrapping_add(1));
            *cursor += 4;
            if length != NULL {
                self.values.push(Value { at: *cursor, length });
                *cursor += length;
            }
        }
    }

    /// Appends the lengths and says how many bytes each takes.
    fn put_lengths(&mut self, max: u32) -> u8 {
        let coded = self.lengths.iter().map(|length| length.to_le_bytes());
        match max {
            ..0xff => {
                self.form.extend(coded.map(|[first, ..]| first));
                1
            }
            0xff..0xffff => {
                self.form.extend(coded.flat_map(|[first, second, ..]| [first, second]));
                2
            }
            _ => {
                self.form.extend(coded.flatten());
                4
            }
        }
    }

    fn put_values(&mut self, raw: &[u8], found: &Lengths) -> Layout {
        let width = found.max as usize;
        if found.min == found.max && width <= MAX_PLANES {
            if has_deltas(width) {
                return self.put_words(raw, width);
            }
            // A zero is in no text: these are several numbers, as in an array, a point, an interval.
            if width > 1 && self.values.first().is_some_and(|value| bytes_of(raw, *value).contains(&0)) {
                self.put_wide(raw, width);
                return Layout::Planes;
            }
        } else if self.are_numeric(raw, found) {
            self.put_ragged(raw);
            return Layout::Ragged;
        }
        for value in &self.values {
            self.form.extend_from_slice(bytes_of(raw, *value));
        }
        Layout::Plain
    }

    /// Reads the `width` bytes behind the first `skip` ones of each value as a number.
    fn read_words(&mut self, raw: &[u8], skip: usize, width: usize) {
        let starts = self.values.iter().map(|value| value.at as usize + skip);
        self.words.clear();
        match width {
            8 => self.words.extend(starts.map(|at| u64::from_be_bytes(bytes_at(raw, at).unwrap_or_default()))),
            4 => {
                self.words
                    .extend(starts.map(|at| u64::from(u32::from_be_bytes(bytes_at(raw, at).unwrap_or_default()))));
            }
            2 => {
                self.words
                    .extend(starts.map(|at| u64::from(u16::from_be_bytes(bytes_at(raw, at).unwrap_or_default()))));
            }
            _ => self
                .words
                .extend(starts.map(|at| raw[at..at + width].iter().fold(0, |word, b| word << 8 | u64::from(*b)))),
        }
    }

    fn put_words(&mut self, raw: &[u8], width: usize) -> Layout {
        self.read_words(raw, 0, width);
        let (mut plain_bits, mut delta_bits) = (0, 0);
        for two in self.words.windows(2).step_by(SAMPLE_STEP) {
            plain_bits += 64 - (two[0] ^ two[1]).leading_zeros();
            delta_bits += 64 - zigzag(two[1], two[0], width).leading_zeros();
        }
        // Values without order differ by about as many bits as they have.
        if delta_bits + delta_bits / 8 >= plain_bits {
            put_planes(&self.words, width, &mut self.form);
            return Layout::Planes;
        }
        let mut before = 0;
        self.zigzags.clear();
        self.zigzags.extend(self.words.iter().map(|&word| {
            let zigzag = zigzag(word, before, width);
            before = word;
            zigzag
        }));
        put_planes(&self.zigzags, width, &mut self.form);
        Layout::DeltaPlanes
    }

    /// Planes of values that are longer than a word, from their ends.
    fn put_wide(&mut self, raw: &[u8], width: usize) {
        let mut left = width;
        while left > 0 {
            let taken = left.min(WORD_BYTES);
            left -= taken;
            self.read_words(raw, left, taken);
            put_planes(&self.words, taken, &mut self.form);
        }
    }

    /// Whether all values are what `numeric_send` makes (PostgreSQL's `numeric.c`): the number of digits, weight, sign,
    /// scale, and the digits, of two bytes each.
    fn are_numeric(&self, raw: &[u8], found: &Lengths) -> bool {
        !self.values.is_empty()
            && found.min as usize >= NUMERIC_MIN_BYTES
            && found.max as usize <= MAX_PLANES
            && self.values.iter().all(|value| {
                let digits = bytes_at(raw, value.at as usize).map_or(0, u16::from_be_bytes);
                u32::from(digits) * 2 + 8 == value.length
            })
    }

    fn put_ragged(&mut self, raw: &[u8]) {
        self.read_words(raw, 0, WORD_BYTES);
        self.words.iter_mut().for_each(|word| *word = word.swap_bytes());
        put_planes(&self.words, WORD_BYTES, &mut self.form);
        for plane in 8..=to_u32(MAX_PLANES) {
            self.values.retain(|value| value.length > plane);
            if self.values.is_empty() {
                break;
            }
            self.form.extend(self.values.iter().map(|value| raw[(value.at + plane) as usize]));
        }
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N).and_then(|found| found.try_into().ok())
}

fn bytes_of(raw: &[u8], value: Value) -> &[u8] {
    &raw[value.at as usize..][..value.length as usize]
}

/// A field's length, in a row that was found.
fn length_at(raw: &[u8], cursor: u32) -> u32 {
    bytes_at(raw, cursor as usize).map_or(NULL, u32::from_be_bytes)
}

/// Positions and lengths within a block.
fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
