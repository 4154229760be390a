use super::Method;

/// Result of every request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A request that came to nothing. Holds no key, no header and no body: what the provider said, shortened.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}: {kind}{}", attempts_text(*.attempts))]
pub struct Error {
    pub method: Method,
    /// The path without its query.
    pub path: String,
    /// How often it was sent, or tried to be.
    pub attempts: u32,
    pub kind: ErrorKind,
    /// An attempt before the last one may have been acted on.
    pub(super) earlier_unknown: bool,
}

fn attempts_text(attempts: u32) -> String {
    if attempts > 1 { format!(" (after {attempts} attempts)") } else { String::new() }
}

/// Why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The provider answered, and declined.
    #[error("{}", refusal_text(*.status, .id.as_deref(), .message))]
    Refused { status: u16, id: Option<String>, message: String },
    /// There was no connection: nothing was sent.
    #[error("no connection: {0}")]
    NotSent(String),
    /// It was sent, at least in part, and no whole reply came.
    #[error("no reply: {0}")]
    NoReply(String),
    /// The certificate is not one of whom we meant to speak to. Nothing was sent.
    #[error("not trusted: {0}")]
    Untrusted(String),
    #[error("the reply is longer than {limit_bytes} bytes")]
    TooLong { limit_bytes: u64 },
    /// A reply of another form than was expected. `problem` names the place in it, not its content.
    #[error("the reply is not understood: {problem}")]
    NotUnderstood { problem: String },
    /// What was to be sent is not a request.
    #[error("{0}")]
    Unsendable(String),
    #[error("interrupted")]
    Cancelled,
}

fn refusal_text(status: u16, id: Option<&str>, message: &str) -> String {
    match id {
        Some(id) => format!("{message} ({id}, status {status})"),
        None => format!("{message} (status {status})"),
    }
}

/// What is known of a failed request's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The provider did not act on it.
    None,
    /// It may have: look before doing it again.
    Unknown,
}

impl Error {
    /// The status of the answer, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.kind {
            ErrorKind::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The provider's own name of the error, where it gave one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match &self.kind {
            ErrorKind::Refused { id, .. } => id.as_deref(),
            _ => None,
        }
    }

    /// Whether the provider may have done what was asked. A 5xx may come from a gateway whose server went on.
    #[must_use]
    pub fn effect(&self) -> Effect {
        if self.earlier_unknown { Effect::Unknown } else { self.kind.effect() }
    }
}

impl ErrorKind {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Refused { status, .. } if *status < 500 && *status != 408 => Effect::None,
            Self::NotSent(_) | Self::Untrusted(_) | Self::Unsendable(_) | Self::Cancelled => Effect::None,
            _ => Effect::Unknown,
        }
    }
}
