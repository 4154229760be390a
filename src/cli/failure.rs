//! An error of an operation, as a person and as a script read it. One view feeds both.

use std::fmt::Write as _;

use pgconvoy::model::{QualifiedName, Side};
use pgconvoy::ops::{Cause, Error};
use serde::Serialize;

use super::printer::indent_rest;
use super::signals::INTERRUPTED;
use super::text::{Canvas, clean, one_line};
use pgconvoy::model::redact;

/// Statements can be as long as a view.
const MAX_STATEMENT_CHARS: usize = 300;

/// The record that ends a failed run. Holds no DETAIL and no CONTEXT of a server: those can carry row values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename = "error")]
pub struct Failure {
    pub exit_code: u8,
    pub side: Option<Side>,
    pub relation: Option<QualifiedName>,
    /// The chunk's blocks, where the relation was cut.
    pub chunk: Option<String>,
    pub doing: Option<String>,
    pub message: String,
    pub statement: Option<String>,
    pub hints: Vec<String>,
    /// How many others failed after this one.
    pub siblings: usize,
    /// The message says no more than `interrupted`.
    #[serde(skip)]
    says_only_that_it_stopped: bool,
}

impl Failure {
    /// `interrupted`: the user has asked to stop. What breaks then breaks because of it.
    pub fn new(error: &Error, interrupted: bool) -> Self {
        let own_reason = matches!(
            error.cause,
            Cause::Difference(_)
                | Cause::Usage(_)
                | Cause::Refused { .. }
                | Cause::AtWork { .. }
                | Cause::Blocked { .. }
        );
        let exit_code = if interrupted && !own_reason { INTERRUPTED } else { error.exit_code() };
        Self {
            exit_code,
            side: error.side(),
            relation: error.relation.clone(),
            chunk: error.range.filter(|range| !range.is_all()).map(|range| range.to_string()),
            doing: error.doing.as_deref().map(redact),
            message: redact(&error.to_string()),
            statement: error.statement().map(|s| one_line(&redact(s), MAX_STATEMENT_CHARS)).filter(|s| !s.is_empty()),
            hints: unique(error.all_hints().iter().map(|hint| redact(hint))),
            siblings: error.siblings,
            says_only_that_it_stopped: error.is_cancelled(),
        }
    }

    /// Something that is not an operation's error: a file that cannot be written.
    pub fn other(exit_code: u8, message: impl AsRef<str>) -> Self {
        Self {
            exit_code,
            side: None,
            relation: None,
            chunk: None,
            doing: None,
            message: redact(message.as_ref()),
            statement: None,
            hints: Vec::new(),
            siblings: 0,
            says_only_that_it_stopped: false,
        }
    }

    /// For a terminal or a log: what, where, why, the statement, the way out.
    pub fn render(&self, canvas: &Canvas) -> String {
        let paint = canvas.paint;
        let headline = self.headline();
        let interrupted = self.exit_code == INTERRUPTED;
        let word = if interrupted { paint.warning("interrupted:") } else { paint.error("error:") };
        let side = self.side.map_or_else(String::new, |side| format!("{side}: "));
        let first = match &headline {
            Some(headline) => headline,
            None if self.says_only_that_it_stopped => "the run was stopped",
            None => &self.message,
        };
        let mut lines = vec![format!("{word} {side}{}", indent_rest(&clean(first), "  "))];
        if headline.is_some() && !self.says_only_that_it_stopped {
            lines.push(labelled("cause", &self.message));
        }
        if let Some(statement) = &self.statement {
            lines.push(labelled("statement", statement));
        }
        if self.siblings > 0 {
            lines.push(format!("  {} more failed after it", self.siblings));
        }
        lines.extend(self.hints.iter().map(|hint| labelled("hint", hint)));
        lines.join("\n") + "\n"
    }

    /// `failed while loading rows of public.orders (blocks 1000..2000)`; `None` where nothing but the message is known.
    fn headline(&self) -> Option<String> {
        let relation = self.relation.as_ref().map(ToString::to_string);
        let verb = if self.exit_code == INTERRUPTED { "stopped" } else { "failed" };
        let mut headline = match (&self.doing, relation) {
            (Some(doing), Some(relation)) if !doing.contains(&relation) => {
                format!("{verb} while {doing} of {relation}")
            }
            (Some(doing), _) => format!("{verb} while {doing}"),
            (None, Some(relation)) => format!("{verb} at {relation}"),
            (None, None) => return None,
        };
        if let Some(chunk) = &self.chunk {
            let _ = write!(headline, " ({chunk})");
        }
        Some(headline)
    }
}

fn labelled(label: &str, text: &str) -> String {
    format!("  {label}: {}", indent_rest(&clean(text), "    "))
}

fn unique(hints: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for hint in hints {
        if !seen.contains(&hint) {
            seen.push(hint);
        }
    }
    seen
}

#[cfg(test)]
mod tests;
