use serde_json::Value;

use crate::cloud::http::{self, ErrorKind};
use crate::model::redact;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request came to nothing, or was not seen to come to anything.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No answer. What was asked for may have happened.
    #[error("no answer from Heroku to {what}: {why}")]
    NoReply { what: String, why: String },
    #[error("Heroku refused {what} with {status}: {message}")]
    Refused { status: u16, what: String, message: String },
    #[error("{0}")]
    Unexpected(String),
    #[error("{0}")]
    Config(String),
}

impl Error {
    pub(super) fn refused(status: u16, what: &str, body: &Value) -> Self {
        let message = body["message"].as_str().map_or_else(|| "no reason was given".into(), redact);
        Self::Refused { status, what: what.to_owned(), message }
    }

    pub(super) fn from_http(what: &str, error: &http::Error) -> Self {
        let what = what.to_owned();
        match &error.kind {
            ErrorKind::Refused { status, message, .. } => {
                Self::Refused { status: *status, what, message: redact(message) }
            }
            ErrorKind::NotSent(why) | ErrorKind::NoReply(why) => Self::NoReply { what, why: why.clone() },
            _ => Self::Unexpected(error.to_string()),
        }
    }

    pub(super) fn unexpected(message: String) -> Self {
        Self::Unexpected(message)
    }

    /// Whether it may be otherwise a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoReply { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Unexpected(_) | Self::Config(_) => false,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}
