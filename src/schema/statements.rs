//! Cuts SQL text into its statements, as psql would (`psqlscan.l`), so that the one that fails can be named.

/// Splits with `standard_conforming_strings` on, as every pg_dump of a server with default settings writes.
#[must_use]
pub fn split(sql: &str) -> Vec<&str> {
    split_with(sql, true)
}

/// Splits at each semicolon that ends a statement: not in strings, quoted identifiers, dollar quotes, comments,
/// parentheses (rules with several actions) or `BEGIN ATOMIC … END` bodies.
///
/// The pieces come without the semicolon and without comments before their first word; pieces that hold nothing but
/// white space and comments are left out. Backslashes escape in plain strings only if `standard_conforming_strings`
/// is false.
#[must_use]
pub fn split_with(sql: &str, standard_conforming_strings: bool) -> Vec<&str> {
    let mut scanner = Scanner { sql, bytes: sql.as_bytes(), at: 0, standard_conforming_strings };
    let mut statements = Vec::new();
    let mut current = Statement::default();
    while scanner.at < scanner.bytes.len() {
        let from = scanner.at;
        match scanner.token() {
            Token::Blank => {}
            Token::Semicolon if current.is_complete_at_semicolon() => {
                if let Some(start) = current.start {
                    statements.push(sql[start..from].trim_end());
                }
                current = Statement::default();
            }
            Token::Word => current.word(from, &sql[from..scanner.at]),
            Token::Open => current.punctuation(from, 1),
            Token::Close => current.punctuation(from, -1),
            Token::Semicolon | Token::Other => current.punctuation(from, 0),
        }
    }
    if let Some(start) = current.start {
        statements.push(sql[start..].trim_end());
    }
    statements
}

/// Whether a text, put between parentheses, stays between them: none of its own closes ours, and no semicolon ends the
/// statement. Whether it is an expression, the server says.
#[must_use]
pub fn stays_in_parentheses(text: &str) -> bool {
    let mut scanner = Scanner { sql: text, bytes: text.as_bytes(), at: 0, standard_conforming_strings: true };
    let mut depth = 0_i32;
    while scanner.at < scanner.bytes.len() {
        match scanner.token() {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Semicolon => return false,
            Token::Blank | Token::Word | Token::Other => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// What is known of the statement that is being read.
#[derive(Default)]
struct Statement {
    start: Option<usize>,
    parentheses: i32,
    /// Open `BEGIN` and `CASE` of an SQL-standard routine body.
    blocks: u32,
    words: usize,
    creates: bool,
    makes_routine: bool,
    /// The last word was `BEGIN`, which opens a body only if `ATOMIC` follows: a routine can be called begin.
    after_begin: bool,
}

impl Statement {
    fn is_complete_at_semicolon(&self) -> bool {
        self.parentheses <= 0 && self.blocks == 0
    }

    fn punctuation(&mut self, at: usize, parentheses: i32) {
        self.start.get_or_insert(at);
        self.parentheses += parentheses;
    }

    /// `CREATE [OR REPLACE] FUNCTION|PROCEDURE … BEGIN ATOMIC … END`: only there can a semicolon stand inside.
    fn word(&mut self, at: usize, word: &str) {
        self.start.get_or_insert(at);
        self.words += 1;
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        match self.words {
            1 => self.creates = is("create"),
            2..=4 if self.creates && (is("function") || is("procedure")) => self.makes_routine = true,
            _ if !self.makes_routine || self.parentheses > 0 => {}
            _ if self.after_begin && is("atomic") => self.blocks += 1,
            _ if is("case") && self.blocks > 0 => self.blocks += 1,
            _ if is("end") => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
        self.after_begin = is("begin");
    }
}

enum Token {
    /// White space or a comment.
    Blank,
    Word,
    Semicolon,
    Open,
    Close,
    Other,
}

struct Scanner<'a> {
    sql: &'a str,
    bytes: &'a [u8],
    at: usize,
    standard_conforming_strings: bool,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Reads one token; always moves on, always stops at a character boundary.
    fn token(&mut self) -> Token {
        match (self.peek(0), self.peek(1)) {
            (b'-', b'-') => self.line_comment(),
            (b'/', b'*') => self.block_comment(),
            (b'\'', _) => {
                let escapes = !self.standard_conforming_strings;
                self.quoted(b'\'', escapes);
                Token::Other
            }
            (b'E' | b'e', b'\'') => {
                self.at += 1;
                self.quoted(b'\'', true);
                Token::Other
            }
            (b'"', _) => {
                self.quoted(b'"', false);
                Token::Other
            }
            (b'$', _) => self.dollar(),
            (b';', _) => self.single(Token::Semicolon),
            (b'(', _) => self.single(Token::Open),
            (b')', _) => self.single(Token::Close),
            (c, _) if is_word_start(c) => {
                self.skip_while(is_word);
                Token::Word
            }
            // A number takes a following `$` or letter with it, so that `1$a$` does not open a quote.
            (b'0'..=b'9', _) => {
                self.skip_while(is_word);
                Token::Other
            }
            (c, _) if c.is_ascii_whitespace() || c == 0x0b => self.single(Token::Blank),
            _ => self.single(Token::Other),
        }
    }

    fn single(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && belongs(self.bytes[self.at]) {
            self.at += 1;
        }
    }

    fn line_comment(&mut self) -> Token {
        self.skip_while(|c| c != b'\n');
        Token::Blank
    }

    fn block_comment(&mut self) -> Token {
        let mut depth = 0;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ => self.at += 1,
            }
        }
        Token::Blank
    }

    /// A string or identifier; a doubled quote reads as the end of one and the start of the next, to the same effect.
    fn quoted(&mut self, quote: u8, escapes: bool) {
        self.at += 1;
        while self.at < self.bytes.len() {
            let c = self.bytes[self.at];
            self.at += 1;
            if c == b'\\' && escapes {
                self.at = (self.at + 1).min(self.bytes.len());
            } else if c == quote {
                if escapes && self.peek(0) == quote {
                    self.at += 1;
                    continue;
                }
                break;
            }
        }
        while !self.sql.is_char_boundary(self.at) {
            self.at += 1;
        }
    }

    /// `$tag$ … $tag$`, or a lone dollar.
    fn dollar(&mut self) -> Token {
        let rest = &self.bytes[self.at + 1..];
        let tag = rest.iter().position(|&c| !is_word(c) || c == b'$');
        let opens = tag.filter(|&n| rest[n] == b'$' && !rest.first().is_some_and(u8::is_ascii_digit)).map(|n| n + 2);
        let Some(length) = opens else {
            return self.single(Token::Other);
        };
        let delimiter = &self.sql[self.at..self.at + length];
        let body = self.at + length;
        self.at = self.sql[body..].find(delimiter).map_or(self.bytes.len(), |end| body + end + length);
        Token::Other
    }
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_' || c >= 0x80
}

fn is_word(c: u8) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn semicolons_in_quotes_comments_and_bodies_do_not_split() {
        let pieces = [
            "SELECT 'a;''b', \"x;\"\"y\"",
            "SELECT E'a\\';b', U&'d;'",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $_$ begin; $x$;$x$ end; $_$",
            "SELECT 1 /* a; /* nested; */ b; */ + 1 -- end; of line\n",
            "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)",
            "CREATE OR REPLACE FUNCTION s.begin(a int) RETURNS int LANGUAGE sql\n    BEGIN ATOMIC\n \
             SELECT CASE WHEN a > 1 THEN 2 ELSE 3 END;\n SELECT 4;\nEND",
            "CREATE FUNCTION begin() RETURNS int LANGUAGE sql RETURN 1",
            "SELECT a$1$b FROM t$x$",
            "SELECT $1, $$;$$",
        ];
        let sql = format!("-- comment; first\n{};\n-- last;\n", pieces.map(str::trim_end).join("\n;\n\n"));
        assert_eq!(split(&sql), pieces.map(str::trim_end));
    }

    #[test]
    fn comments_before_a_statement_and_empty_statements_vanish() {
        assert_eq!(split("-- *not* creating schema, since initdb creates it\n\n"), Vec::<&str>::new());
        assert_eq!(split(";; /* x */ ;"), Vec::<&str>::new());
        assert_eq!(split("-- why\n/* so */ SELECT 1;"), ["SELECT 1"]);
    }

    #[test]
    fn backslashes_follow_standard_conforming_strings() {
        assert_eq!(split_with("SELECT 'a\\'; SELECT 2", true).len(), 2);
        assert_eq!(split_with("SELECT 'a\\'; SELECT 2'", false).len(), 1);
    }

    #[test]
    fn a_condition_cannot_leave_its_parentheses() {
        for text in ["a = 1", "(a) OR (b)", "t = ')' AND \"(\" > 1", "a IN (SELECT $$;)$$)", "a -- )\n"] {
            assert!(stays_in_parentheses(text), "{text}");
        }
        for text in ["a) OR (b", "a; DROP TABLE t", "(a", "a)"] {
            assert!(!stays_in_parentheses(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_losing_or_inventing_anything(sql in "[a-e$;'\"\\\\()\\-/*\n é1]{0,60}") {
            let mut rest = sql.as_str();
            for piece in split(&sql) {
                prop_assert!(!piece.is_empty());
                let at = rest.find(piece);
                prop_assert!(at.is_some());
                rest = &rest[at.unwrap() + piece.len()..];
            }
        }

        #[test]
        fn quoted_texts_survive_whole(texts in proptest::collection::vec("[a-c;'\"$ \n-]{0,12}", 1..6)) {
            let statements: Vec<_> =
                texts.iter().map(|t| format!("SELECT {}", crate::model::quote_literal(t))).collect();
            let sql = statements.join(";\n");
            prop_assert_eq!(split(&sql), statements);
        }
    }
}
