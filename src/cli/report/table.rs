//! Aligned columns that give way, one after the other, where the terminal is narrow.

use crate::cli::text::{Canvas, fit_end, pad_left, pad_right, width};

/// Names are cut before they are narrower than this.
const MIN_NAME: usize = 12;
const GAP: &str = "  ";

pub struct Column {
    pub title: &'static str,
    /// Columns of the highest rank are dropped first; rank 0 stays.
    pub rank: u8,
}

/// The first column holds names, aligned left; the others hold numbers, aligned right.
pub struct Table {
    pub columns: Vec<Column>,
    /// Columns go before a name is cut.
    pub whole_names: bool,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn lines(&self, indent: &str, canvas: &Canvas) -> Vec<String> {
        let room = canvas.columns.saturating_sub(width(indent));
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        // A column without a single value says nothing.
        kept.retain(|&c| c == 0 || self.rows.iter().any(|row| !row[c].is_empty()));
        loop {
            let numbers: usize = kept.iter().skip(1).map(|&c| self.column_width(c) + GAP.len()).sum();
            let name = self.column_width(0).min(room.saturating_sub(numbers).max(MIN_NAME));
            let Some(dropped) =
                kept.iter().copied().filter(|&c| self.columns[c].rank > 0).max_by_key(|&c| self.columns[c].rank)
            else {
                return self.draw(&kept, name, indent, canvas);
            };
            // Other names may be cut to half before a column goes.
            let whole = self.column_width(0);
            let enough = if self.whole_names { whole } else { whole.div_ceil(2).max(MIN_NAME).min(whole) };
            if name >= enough && name + numbers <= room {
                return self.draw(&kept, name, indent, canvas);
            }
            kept.retain(|&c| c != dropped);
        }
    }

    fn column_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| width(&row[column])).max().unwrap_or(0);
        cells.max(width(self.columns[column].title))
    }

    fn draw(&self, kept: &[usize], name_width: usize, indent: &str, canvas: &Canvas) -> Vec<String> {
        let line = |cells: &dyn Fn(usize) -> String| {
            let mut line = String::from(indent);
            for &c in kept {
                if c == 0 {
                    line.push_str(&pad_right(&fit_end(&cells(c), name_width, canvas.glyphs.ellipsis), name_width));
                } else {
                    line.push_str(GAP);
                    line.push_str(&pad_left(&cells(c), self.column_width(c)));
                }
            }
            line.trim_end().to_string()
        };
        let mut lines = vec![canvas.paint.dim(&line(&|c| self.columns[c].title.to_string()))];
        lines.extend(self.rows.iter().map(|row| line(&|c| row[c].clone())));
        lines
    }
}
