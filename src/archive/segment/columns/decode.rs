use super::words::{take_planes, unzigzag};
use super::{COLUMN_HEADER_BYTES, FORM_HEADER_BYTES, Layout, MAX_PLANES, SHARED_LENGTH, WORD_BYTES, has_deltas};
use crate::archive::segment::format::Damage;

const OVERRUN: Damage = "the block's columns are longer than their form";
const NOT_THE_LENGTH: Damage = "the block's columns do not make its raw length";

/// Makes rows of columns again, and believes nothing: every length is held against the form's and the block's before
/// anything is made of it. In buffers that are used again for each block.
#[derive(Default)]
pub(in crate::archive::segment) struct Rows {
    /// How long each row is, then where its next field begins.
    cursors: Vec<u32>,
    /// Of one column: each field's length plus one, zero for NULL.
    lengths: Vec<u32>,
    /// Of one column: where the values belong that are not NULL, and how long they are.
    values: Vec<(u32, u32)>,
    words: Vec<u64>,
}

/// A column as the form says it.
struct Column<'a> {
    length_bytes: u8,
    layout: Layout,
    /// The length plus one that all fields share.
    shared: u32,
    lengths: &'a [u8],
    values: &'a [u8],
}

struct FormHeader {
    head: usize,
    tail: usize,
    rows: usize,
    columns: u16,
}

impl Rows {
    /// Appends the `raw_bytes` that this form stands for to `out`. What was appended before an error is the caller's to
    /// remove; it is never more than `raw_bytes`.
    pub(in crate::archive::segment) fn restore(
        &mut self,
        form: &[u8],
        raw_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        let header = FormHeader::read(form, raw_bytes)?;
        let (columns, ends) = self.measure(form, &header)?;
        if ends.len() != header.head + header.tail {
            return Err("the block's columns do not fill their form");
        }
        let (head, tail) = ends.split_at(header.head);
        let rows_bytes: u64 = self.cursors.iter().map(|&length| u64::from(length)).sum();
        if rows_bytes + ends.len() as u64 != raw_bytes as u64 {
            return Err(NOT_THE_LENGTH);
        }
        out.reserve_exact(raw_bytes);
        out.extend_from_slice(head);
        let before = out.len();
        out.resize(before + raw_bytes - ends.len(), 0);
        let rows = &mut out[before..];
        let mut start = 0;
        for cursor in &mut self.cursors {
            rows[start as usize..][..2].copy_from_slice(&header.columns.to_be_bytes());
            let length = std::mem::replace(cursor, start + 2);
            start += length;
        }
        for column in &columns {
            self.put_column(column, rows);
        }
        out.extend_from_slice(tail);
        Ok(())
    }

    /// Reads the columns' headers, adds the rows' lengths up and proves that every layout fits its lengths. Also gives
    /// back what is behind the columns.
    fn measure<'a>(&mut self, form: &'a [u8], header: &FormHeader) -> Result<(Vec<Column<'a>>, &'a [u8]), Damage> {
        let headers = usize::from(header.columns) * COLUMN_HEADER_BYTES;
        let (headers, mut rest) = form[FORM_HEADER_BYTES..].split_at_checked(headers).ok_or(OVERRUN)?;
        self.cursors.clear();
        self.cursors.resize(header.rows, 2 + 4 * u32::from(header.columns));
        let mut columns = Vec::with_capacity(usize::from(header.columns));
        for &bytes in headers.as_chunks::<COLUMN_HEADER_BYTES>().0 {
            let mut column = Column::read(bytes)?;
            (column.lengths, rest) =
                rest.split_at_checked(header.rows * usize::from(column.length_bytes)).ok_or(OVERRUN)?;
            column.read_lengths(header.rows, &mut self.lengths);
            let values_bytes: u64 = self.lengths.iter().map(|&length| u64::from(length.saturating_sub(1))).sum();
            let values_bytes = usize::try_from(values_bytes).map_err(|_| OVERRUN)?;
            (column.values, rest) = rest.split_at_checked(values_bytes).ok_or(OVERRUN)?;
            column.check_layout(&self.lengths)?;
            // A block's form is shorter than 4 GiB, and so are the values of a row.
            self.cursors.iter_mut().zip(&self.lengths).for_each(|(row, length)| *row += length.saturating_sub(1));
            columns.push(column);
        }
        Ok((columns, rest))
    }

    fn put_column(&mut self, column: &Column<'_>, rows: &mut [u8]) {
        column.read_lengths(self.cursors.len(), &mut self.lengths);
        self.values.clear();
        for (cursor, length) in self.cursors.iter_mut().zip(&self.lengths) {
            rows[*cursor as usize..][..4].copy_from_slice(&length.wrapping_sub(1).to_be_bytes());
            *cursor += 4;
            if let Some(length) = length.checked_sub(1) {
                self.values.push((*cursor, length));
                *cursor += length;
            }
        }
        match column.layout {
            Layout::Plain => self.put_plain(column.values, rows),
            Layout::Planes => self.put_planes(column.values, rows),
            Layout::DeltaPlanes => self.put_deltas(column.values, rows),
            Layout::Ragged => self.put_ragged(column.values, rows),
        }
    }

    fn put_plain(&self, mut values: &[u8], rows: &mut [u8]) {
        for &(at, length) in &self.values {
            let value;
            (value, values) = values.split_at(length as usize);
            rows[at as usize..][..value.len()].copy_from_slice(value);
        }
    }

    fn put_planes(&mut self, mut planes: &[u8], rows: &mut [u8]) {
        let mut left = self.values.first().map_or(0, |value| value.1 as usize);
        while left > 0 {
            let width = left.min(WORD_BYTES);
            left -= width;
            let group;
            (group, planes) = planes.split_at(self.values.len() * width);
            take_planes(group, width, &mut self.words);
            self.put_words(left, width, rows);
        }
    }

    fn put_deltas(&mut self, planes: &[u8], rows: &mut [u8]) {
        let width = self.values.first().map_or(WORD_BYTES, |value| value.1 as usize);
        take_planes(planes, width, &mut self.words);
        let mut before = 0;
        for word in &mut self.words {
            before = unzigzag(*word, before, width);
            *word = before;
        }
        self.put_words(0, width, rows);
    }

    /// Writes the words into the `width` bytes behind the first `skip` ones of each value.
    fn put_words(&self, skip: usize, width: usize, rows: &mut [u8]) {
        let words = self.values.iter().map(|value| value.0 as usize + skip).zip(&self.words);
        match width {
            8 => words.for_each(|(at, word)| rows[at..at + 8].copy_from_slice(&word.to_be_bytes())),
            4 => words.for_each(|(at, word)| rows[at..at + 4].copy_from_slice(&word.to_be_bytes()[4..])),
            _ => words.for_each(|(at, word)| rows[at..at + width].copy_from_slice(&word.to_be_bytes()[8 - width..])),
        }
    }

    fn put_ragged(&mut self, mut values: &[u8], rows: &mut [u8]) {
        for plane in 0.. {
            self.values.retain(|value| value.1 > plane);
            if self.values.is_empty() {
                break;
            }
            let bytes;
            (bytes, values) = values.split_at(self.values.len());
            for (value, byte) in self.values.iter().zip(bytes) {
                rows[(value.0 + plane) as usize] = *byte;
            }
        }
    }
}

impl FormHeader {
    fn read(form: &[u8], raw_bytes: usize) -> Result<Self, Damage> {
        let (numbers, _) = form.split_first_chunk::<FORM_HEADER_BYTES>().ok_or(OVERRUN)?;
        let number_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| numbers[at + i]));
        let [head, tail, rows, columns] = [0, 4, 8, 12].map(number_at);
        let columns = u16::try_from(columns).ok().filter(|columns| (1..=i16::MAX.cast_unsigned()).contains(columns));
        let columns = columns.ok_or("the block's number of columns is out of bounds")?;
        // Each row has its number of fields, each field its length.
        let least = u64::from(rows) * (2 + 4 * u64::from(columns)) + u64::from(head) + u64::from(tail);
        if rows == 0 || least > raw_bytes as u64 {
            return Err(NOT_THE_LENGTH);
        }
        Ok(Self { head: head as usize, tail: tail as usize, rows: rows as usize, columns })
    }
}

impl Column<'_> {
    /// What its header says; lengths and values are not found yet.
    fn read(bytes: [u8; COLUMN_HEADER_BYTES]) -> Result<Self, Damage> {
        let [length_bytes, layout, 0, 0, shared @ ..] = bytes else { return Err("a column's header is unknown") };
        let shared = u32::from_le_bytes(shared);
        let layout = match layout {
            0 => Layout::Plain,
            1 => Layout::Planes,
            2 => Layout::DeltaPlanes,
            3 => Layout::Ragged,
            _ => return Err("a column's layout is unknown"),
        };
        if !matches!(length_bytes, SHARED_LENGTH | 1 | 2 | 4) || (length_bytes != SHARED_LENGTH && shared != 0) {
            return Err("a column's lengths are of no known form");
        }
        Ok(Self { length_bytes, layout, shared, lengths: &[], values: &[] })
    }

    fn read_lengths(&self, rows: usize, lengths: &mut Vec<u32>) {
        lengths.clear();
        match self.length_bytes {
            1 => lengths.extend(self.lengths.iter().map(|&byte| u32::from(byte))),
            2 => lengths.extend(self.lengths.as_chunks().0.iter().map(|&bytes| u32::from(u16::from_le_bytes(bytes)))),
            4 => lengths.extend(self.lengths.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes))),
            _ => lengths.resize(rows, self.shared),
        }
    }

    fn check_layout(&self, lengths: &[u32]) -> Result<(), Damage> {
        let mut widths = lengths.iter().filter_map(|length| length.checked_sub(1)).map(|width| width as usize);
        let fits = match self.layout {
            Layout::Plain => true,
            Layout::Ragged => widths.all(|width| width <= MAX_PLANES),
            Layout::Planes | Layout::DeltaPlanes => match widths.next() {
                Some(first) => {
                    let is_known = if self.layout == Layout::Planes { first <= MAX_PLANES } else { has_deltas(first) };
                    is_known && widths.all(|width| width == first)
                }
                None => true,
            },
        };
        if fits { Ok(()) } else { Err("a column's lengths do not fit its layout") }
    }
}
