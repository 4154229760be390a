//! Text for people: what may reach a terminal, and how wide it is there.

use unicode_width::UnicodeWidthChar;

/// The characters that a terminal's encoding can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glyphs {
    pub ellipsis: &'static str,
    pub dash: &'static str,
    pub ok: &'static str,
    pub warning: &'static str,
    pub refusal: &'static str,
    pub bar_full: char,
    pub bar_rest: char,
}

impl Glyphs {
    pub const UNICODE: Self =
        Self {
            ellipsis: "…", dash: "—", ok: "✓", warning: "!", refusal: "✗", bar_full: '█', bar_rest: '░'
        };
    pub const ASCII: Self =
        Self { ellipsis: "...", dash: "-", ok: "ok", warning: "!", refusal: "X", bar_full: '#', bar_rest: '.' };
}

/// Colours, or none. Nothing is said by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    pub on: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
    pub fn error(self, text: &str) -> String {
        self.wrap("1;31", text)
    }
    pub fn warning(self, text: &str) -> String {
        self.wrap("33", text)
    }
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }
}

/// What something is drawn on.
#[derive(Clone, Copy, Debug)]
pub struct Canvas {
    pub columns: usize,
    pub rows: usize,
    pub glyphs: Glyphs,
    pub paint: Paint,
}

/// Makes text from a server or a file fit to print: control characters are escaped, so that it can neither break a
/// line nor command a terminal. Line breaks stay.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push('\n'),
            '\t' => out.push(' '),
            '\r' => {}
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The text in one line, spaces collapsed, at most `limit` characters.
pub fn one_line(text: &str, limit: usize) -> String {
    let text = clean(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(limit) {
        None => text,
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
    }
}

/// Columns on a terminal. Escape sequences of [`Paint`] take none.
pub fn width(text: &str) -> usize {
    let mut columns = 0;
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\x1b' => escaped = true,
            'm' if escaped => escaped = false,
            _ if escaped => {}
            c => columns += c.width().unwrap_or(0),
        }
    }
    columns
}

/// Cuts the end off so that unpainted text takes at most `columns`.
pub fn fit(text: &str, columns: usize, ellipsis: &str) -> String {
    if width(text) <= columns {
        return text.into();
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        out.push(c);
    }
    if width(ellipsis) <= columns { out + ellipsis } else { out }
}

/// Cuts the beginning off: names of partitions differ at their ends.
pub fn fit_end(text: &str, columns: usize, ellipsis: &str) -> String {
    if width(text) <= columns {
        return text.into();
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut used = 0;
    let mut start = text.len();
    for (i, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        start = i;
    }
    if width(ellipsis) <= columns { format!("{ellipsis}{}", &text[start..]) } else { text[start..].into() }
}

pub fn pad_right(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

pub fn pad_left(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `45,678,901`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 table`, `4 tables`.
pub fn counted(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number as u64), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_command_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\u{9b}\r\nc\td\u{7}"), "a\\u{1b}[2Jb\\u{9b}\nc d\\u{7}");
    }

    #[test]
    fn statements_become_one_short_line() {
        assert_eq!(one_line("SELECT\n  1,\t 2", 300), "SELECT 1, 2");
        assert_eq!(one_line(&"é".repeat(400), 300).chars().count(), 301);
    }

    #[test]
    fn widths_count_columns_not_bytes() {
        assert_eq!(width("表é"), 3);
        assert_eq!(width(&Paint { on: true }.error("ab")), 2);
        assert_eq!(fit("public.orders", 8, "…"), "public.…");
        assert_eq!(fit_end("public.orders_2024", 8, "…"), "…rs_2024");
        assert_eq!(fit_end("表表表", 4, "…"), "…表");
        assert_eq!(fit("abc", 0, "…"), "");
        assert_eq!(pad_left("表", 4), "  表");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (45_678_901, "45,678,901")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "table"), "1 table");
        assert_eq!(counted(2000, "table"), "2,000 tables");
    }
}
