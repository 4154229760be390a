//! Takes passwords out of text that is about to be shown.
//!
//! The engine keeps secrets in types that do not print. This is the second fence, for text that comes from
//! elsewhere: a misplaced argument, a server's message, a statement that sets a password.

const MASK: &str = "***";

/// Replaces what stands where a password stands: `scheme://user:HERE@host`, `password=HERE`, `PASSWORD 'HERE'`.
#[must_use]
pub fn redact(text: &str) -> String {
    redact_keys(&redact_userinfo(text))
}

/// Whether a connection string carries a password.
#[must_use]
pub fn has_password(conninfo: &str) -> bool {
    redact(conninfo) != conninfo
}

fn redact_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).unwrap_or(after.len());
        let (token, tail) = after.split_at(end);
        out.push_str(&mask_userinfo(token));
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// A password may hold an unescaped `@`, `/` or `?`: only the last `@` surely comes after it. Where a parameter holds
/// one too, more is masked than need be.
fn mask_userinfo(token: &str) -> String {
    let Some(at) = token.rfind('@') else { return token.into() };
    match token[..at].find(':') {
        Some(colon) if colon + 1 < at => format!("{}{MASK}{}", &token[..=colon], &token[at..]),
        _ => token.into(),
    }
}

fn redact_keys(text: &str) -> String {
    const KEY: &str = "password";
    // ASCII lower case keeps every byte offset.
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(found) = lower[from..].find(KEY) {
        let key_end = from + found + KEY.len();
        out.push_str(&text[from..key_end]);
        from = key_end;
        if let Some((start, end)) = secret_after_key(&text[key_end..]) {
            out.push_str(&text[key_end..key_end + start]);
            out.push_str(MASK);
            from = key_end + end;
        }
    }
    out.push_str(&text[from..]);
    out
}

/// Where the secret lies in what follows the word: ` = value`, `='a b'`, ` 'literal'`, ` E'literal'`.
fn secret_after_key(rest: &str) -> Option<(usize, usize)> {
    let trimmed = rest.trim_start();
    let (value, bare) = match trimmed.strip_prefix('=') {
        Some(value) => (value.trim_start(), true),
        None => (trimmed.strip_prefix(['E', 'e']).filter(|v| v.starts_with('\'')).unwrap_or(trimmed), false),
    };
    let start = rest.len() - value.len();
    if let Some(quoted) = value.strip_prefix('\'') {
        let length = quoted_length(quoted);
        return (length > 0).then_some((start + 1, start + 1 + length));
    }
    let length = value.find(|c: char| c.is_whitespace() || c == '&').unwrap_or(value.len());
    (bare && length > 0).then_some((start, start + length))
}

/// Length up to the closing quote; `''` and a backslash keep the literal open. Unclosed: everything.
fn quoted_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'\'' if bytes.get(i + 1) == Some(&b'\'') => i += 2,
            b'\'' => return i,
            _ => i += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_and_the_rest_stays() {
        for (text, shown) in [
            ("postgres://u:hunter2@h:5432/db", "postgres://u:***@h:5432/db"),
            ("postgres://u:p@ss/w?rd@h/db?sslmode=require", "postgres://u:***@h/db?sslmode=require"),
            ("postgres://u:hunter2@h/db?application_name=a@b", "postgres://u:***@b"),
            ("postgresql://h/db?password=hunter2&user=u", "postgresql://h/db?password=***&user=u"),
            ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
            ("host=h password = 'hunt er\\'2' dbname=d", "host=h password = '***' dbname=d"),
            ("PASSWORD=hunter2", "PASSWORD=***"),
            ("sslpassword=hunter2", "sslpassword=***"),
            ("ALTER ROLE u PASSWORD 'hunt''er2' LOGIN", "ALTER ROLE u PASSWORD '***' LOGIN"),
            ("ALTER ROLE u PASSWORD E'hunter2'", "ALTER ROLE u PASSWORD E'***'"),
            ("OPTIONS (user 'u', password 'hunter2')", "OPTIONS (user 'u', password '***')"),
            ("password='hunter2", "password='***"),
        ] {
            assert_eq!(redact(text), shown);
            assert!(!redact(text).contains("hunt"));
            assert!(has_password(text));
        }
    }

    #[test]
    fn text_without_a_password_is_left_alone() {
        for text in [
            "postgres://u@h:5432/db",
            "postgres://u:@h/db",
            "postgres://h1:5432,h2:5433/db",
            "password authentication failed for user \"u\"",
            "host=h passfile=/home/u/.pgpass",
            "the column \"password\" does not exist",
            "password=",
            "größer: password",
            "",
        ] {
            assert_eq!(redact(text), text);
            assert!(!has_password(text));
        }
    }
}
