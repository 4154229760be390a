//! Reports and evidence that say by a digest whether they were edited.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use pgconvoy::ops::Cause;
use pgconvoy::report::{is_unchanged, read_document};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::text::{Canvas, clean};

/// What stands before the digest in the last line of a report as text.
const LAST_LINE: &str = "sha256 of everything above: ";

/// No report is longer.
const MAX_BYTES: u64 = 1 << 30;

/// What looking at a file's digest found.
#[derive(Debug, Serialize)]
pub struct DocumentCheck {
    pub file: String,
    /// It is as pgconvoy wrote it, unless somebody has made another digest too.
    pub unchanged: bool,
}

/// The text with a last line that shows an edit.
pub fn with_digest(text: &str) -> String {
    let text = format!("{}\n", text.trim_end());
    let digest = hash(text.as_bytes());
    format!("{text}{LAST_LINE}{digest}\n")
}

fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `None`: it holds no digest.
fn verify_text(text: &str) -> Option<bool> {
    let at = text.trim_end().rfind('\n')? + 1;
    let said = text[at..].trim_end().strip_prefix(LAST_LINE)?;
    Some(said == hash(&text.as_bytes()[..at]))
}

/// `None`: it holds no digest, be it JSON or text.
fn verify(text: &str) -> Option<bool> {
    let Ok(json) = serde_json::from_str::<Value>(text) else { return verify_text(text) };
    // A member that is there twice was added by somebody: we write none.
    let is_ours = read_document(text.as_bytes()).is_ok();
    is_unchanged(&json).map(|unchanged| unchanged && is_ours)
}

/// # Errors
/// The file cannot be read, or holds no digest.
pub fn check(path: &Path) -> Result<DocumentCheck, Cause> {
    let failed = |why: &dyn std::fmt::Display| Cause::Usage(format!("{}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|e| failed(&e))?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|e| failed(&e))?;
    let unchanged = verify(&text)
        .ok_or_else(|| failed(&"neither an archive, nor a report of `verify`, nor evidence: it has no digest"))?;
    Ok(DocumentCheck { file: path.display().to_string(), unchanged })
}

pub fn render(check: &DocumentCheck, canvas: &Canvas) -> String {
    let verdict = if check.unchanged { "unchanged since it was written:" } else { "CHANGED after it was written:" };
    canvas.paint.bold(&format!("{verdict} {}", clean(&check.file))) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_there_twice_is_an_edit() {
        let mut document = serde_json::json!({"verdict": "different", "tables": []});
        pgconvoy::report::seal_document(&mut document);
        let text = document.to_string();
        assert_eq!(verify(&text), Some(true));
        let edited = text.replacen('{', "{\"verdict\":\"equal\",", 1);
        assert_eq!(verify(&edited), Some(false));
        assert_eq!(verify("{}"), None);
    }

    #[test]
    fn an_edit_of_a_text_shows() {
        let text = with_digest("equal: 3 tables\n\n  a: 5 rows\n");
        assert_eq!(verify_text(&text), Some(true));
        assert_eq!(verify_text(&text.replace("5 rows", "6 rows")), Some(false));
        assert_eq!(verify_text(&format!("x{text}")), Some(false));
        assert_eq!(verify_text("equal: 3 tables\n"), None);
        assert_eq!(verify_text(""), None);
    }
}
