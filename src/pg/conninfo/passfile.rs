//! Password files (PostgreSQL's documentation, "The Password File"; `passwordFromFile` in libpq's `fe-connect.c`).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Secret;

/// A password file, read once: not the passwords that nobody asked for, only the lines.
pub(super) struct PassFile {
    pub path: PathBuf,
    text: String,
}

/// What an entry must match.
pub(super) struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

impl PassFile {
    /// Opens a password file; `Ok(None)` where there is none, a warning where libpq would not use it either.
    pub fn open(path: &Path) -> Result<Option<Self>, String> {
        let Ok(metadata) = std::fs::metadata(path) else { return Ok(None) };
        let name = path.display();
        if !metadata.is_file() {
            return match path.to_str() {
                // The usual way to say "none".
                Some("/dev/null") => Ok(None),
                _ => Err(format!("password file {name} is ignored: it is not a plain file")),
            };
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(format!(
                "password file {name} is ignored: group or others can read it; run chmod 0600 {name} to use it"
            ));
        }
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(Self { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() })),
            Err(error) => Err(format!("password file {name} is ignored: {error}")),
        }
    }

    /// The password of the first line that matches, and the number of that line.
    pub fn find(&self, wanted: &Wanted<'_>) -> Option<(Secret, usize)> {
        let port = wanted.port.to_string();
        let fields = [wanted.host, &port, wanted.dbname, wanted.user];
        let lines = self.text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
        for (number, line) in lines {
            let matched = fields.iter().try_fold(line, |rest, field| match_field(rest, field));
            if let Some(password) = matched {
                return Some((Secret::new(unescape(password)), number + 1));
            }
        }
        None
    }
}

/// What follows the field and its colon, where the field at the start of `line` is `wanted` or `*`.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            ':' => return wanted.next().is_none().then(|| &line[at + 1..]),
            '\\' => chars.next().map_or('\\', |(_, escaped)| escaped),
            c => c,
        };
        if wanted.next() != Some(c) {
            return None;
        }
    }
    None
}

fn unescape(password: &str) -> String {
    let mut plain = String::new();
    let mut chars = password.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    plain
}

/// Looks for what a file's own first line names, and for what it does not.
pub(crate) fn fuzz_passfile(text: &str) -> bool {
    let file = PassFile { path: PathBuf::new(), text: text.to_owned() };
    let mut fields = text.lines().next().unwrap_or_default().splitn(4, ':');
    let mut field = || fields.next().unwrap_or_default();
    let (host, port, dbname, user) = (field(), field(), field(), field());
    let port = port.parse().unwrap_or(5432);
    drop(file.find(&Wanted { host: "h", port: 1, dbname: "", user: "\\:" }));
    file.find(&Wanted { host, port, dbname, user: user.split(':').next().unwrap_or_default() }).is_some()
}
