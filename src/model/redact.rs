//! Takes passwords out of text that is about to be shown.
//!
//! The engine keeps secrets in types that do not print. This is the second fence, for text that comes from
//! elsewhere: a misplaced argument, a server's message, a statement that sets a password.

const MASK: &str = "***";

/// Replaces what stands where a password stands: `scheme://user:HERE@host`, `password=HERE`, `PASSWORD 'HERE'`; and secret
/// keys of age.
#[must_use]
pub fn redact(text: &str) -> String {
    redact_secret_keys(&redact_keys(&redact_userinfo(text)))
}

/// age's secret keys: `AGE-SECRET-KEY-1HERE`, in any case.
fn redact_secret_keys(text: &str) -> String {
    const KEY: &str = "age-secret-key-1";
    // ASCII lower case keeps every byte offset.
    let lower = text.to_ascii_lowercase();
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    while let Some(found) = lower[from..].find(KEY) {
        let start = from + found + KEY.len();
        let length = text[start..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len() - start);
        out.push_str(&text[from..start]);
        if length > 0 {
            out.push_str(MASK);
        }
        from = start + length;
    }
    out.push_str(&text[from..]);
    out
}

/// Whether a connection string carries a password.
#[must_use]
pub fn has_password(conninfo: &str) -> bool {
    // All of it is one URI, blanks and quotes included.
    let uri = conninfo.strip_prefix("postgresql://").or_else(|| conninfo.strip_prefix("postgres://"));
    uri.is_some_and(|uri| mask_userinfo(uri) != uri) || redact(conninfo) != conninfo
}

fn redact_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let mut end = after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).unwrap_or(after.len());
        if before.ends_with("postgres://") || before.ends_with("postgresql://") {
            end += rest_of_password(&after[..end], &after[end..]);
        }
        let (token, tail) = after.split_at(end);
        out.push_str(&mask_userinfo(token));
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// How much of what follows belongs to a password that has a blank or a quote in it: `user:two` + ` words@host`.
fn rest_of_password(token: &str, tail: &str) -> usize {
    let hosts = token.split(['/', '?']).next().unwrap_or_default();
    let is_port = |item: &str| item.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    if token.contains('@') || hosts.starts_with('[') || hosts.split(',').all(is_port) {
        return 0;
    }
    let line = tail.lines().next().unwrap_or_default();
    line.find('@').map_or(0, |at| at + line[at..].find(char::is_whitespace).unwrap_or(line.len() - at))
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
            ("postgres://u:hunter2 'secret@h/db", "postgres://u:***@h/db"),
            ("invalid value postgres://u:hunter2 x@h:5432/db here", "invalid value postgres://u:***@h:5432/db here"),
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
    fn secret_keys_go_in_any_case() {
        for (text, shown) in [
            ("AGE-SECRET-KEY-1QQQQ", "AGE-SECRET-KEY-1***"),
            ("cannot open 'age-secret-key-1qqqq': no such file", "cannot open 'age-secret-key-1***': no such file"),
            ("Age-Secret-Key-1A\nAGE-SECRET-KEY-1B.", "Age-Secret-Key-1***\nAGE-SECRET-KEY-1***."),
            ("no secret key of age (AGE-SECRET-KEY-1…)", "no secret key of age (AGE-SECRET-KEY-1…)"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn text_without_a_password_is_left_alone() {
        for text in [
            "postgres://u@h:5432/db",
            "postgres://u:@h/db",
            "postgres://h1:5432,h2:5433/db",
            "cannot reach postgres://h1:5432 as user@host",
            "it starts with postgres:// or postgresql://: see me@example.com",
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
