use crate::model::{CtidRange, QualifiedName, Side};
use crate::{archive, flow, lab, pg, schema};

/// Result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation ended, wrapped once with where it happened.
#[derive(Debug)]
pub struct Error {
    pub cause: Cause,
    /// The relation that was being moved.
    pub relation: Option<QualifiedName>,
    pub range: Option<CtidRange>,
    /// What was being done, in words: `loading rows`, `building index public.i`.
    pub doing: Option<String>,
    pub hints: Vec<String>,
    /// How many siblings failed after the first.
    pub siblings: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{0}")]
    Pg(#[from] pg::Error),
    #[error("{0}")]
    Archive(#[from] archive::Error),
    #[error("{0}")]
    Schema(#[from] schema::Error),
    /// A throw-away server could not be had.
    #[error("{0}")]
    Lab(#[from] lab::Error),
    /// A program that was run beside us failed.
    #[error("{program} failed: {message}")]
    Program { program: String, message: String },
    /// A check found a difference: exit code 1.
    #[error("{0}")]
    Difference(String),
    #[error("{0}")]
    Usage(String),
    /// Refused before anything was written.
    #[error("{message}")]
    Refused { side: Side, message: String },
    /// Another process holds the lock of the run at the target.
    #[error("another pgconvoy is at work on database {database}")]
    AtWork { database: String },
    /// Somebody else's lock stood in the way for too long.
    #[error("{message}")]
    Blocked { side: Side, message: String },
    /// Evidence that is not there or cannot be used: exit code 5, as of an archive.
    #[error("{0}")]
    Evidence(String),
    /// Refused since the archive's disk is too small: exit code 5.
    #[error("{0}")]
    NoRoom(String),
    #[error("{0}")]
    Internal(String),
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    pub fn new(cause: impl Into<Cause>) -> Self {
        Self { cause: cause.into(), relation: None, range: None, doing: None, hints: Vec::new(), siblings: 0 }
    }

    #[must_use]
    pub fn on(mut self, relation: &QualifiedName, range: Option<CtidRange>) -> Self {
        self.relation = Some(relation.clone());
        self.range = range;
        self
    }

    #[must_use]
    pub fn doing(mut self, what: impl Into<String>) -> Self {
        self.doing.get_or_insert(what.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The server it happened on, where it did on one.
    pub fn side(&self) -> Option<Side> {
        match &self.cause {
            Cause::Pg(e) => Some(e.side),
            Cause::Schema(e) => e.side(),
            Cause::Refused { side, .. } | Cause::Blocked { side, .. } => Some(*side),
            Cause::AtWork { .. } => Some(Side::Target),
            _ => None,
        }
    }

    /// The statement that failed, where one did.
    pub fn statement(&self) -> Option<&str> {
        match &self.cause {
            Cause::Pg(e) => e.statement.as_deref(),
            _ => None,
        }
    }

    /// All hints: our own first, then those of the layers below.
    pub fn all_hints(&self) -> Vec<String> {
        let below = match &self.cause {
            Cause::Pg(e) => e.hint().map(Into::into),
            Cause::Archive(e) => e.hint(),
            Cause::Schema(e) => e.hint(),
            Cause::Lab(e) => e.hint(),
            _ => None,
        };
        let mut hints = self.hints.clone();
        hints.extend(below);
        hints.dedup();
        hints
    }

    /// 1 a check found a difference; 2 usage; 3 source; 4 target; 5 archive; 6 internal; 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match &self.cause {
            Cause::Cancelled => 130,
            Cause::Pg(e) if matches!(*e.kind, pg::ErrorKind::Cancelled) => 130,
            Cause::Schema(e) if e.is_cancelled() => 130,
            Cause::Difference(_) => 1,
            Cause::Usage(_) => 2,
            Cause::AtWork { .. } => 4,
            Cause::Archive(_) | Cause::Evidence(_) | Cause::NoRoom(_) => 5,
            Cause::Lab(_) | Cause::Program { .. } | Cause::Internal(_) => 6,
            Cause::Pg(_) | Cause::Schema(_) | Cause::Refused { .. } | Cause::Blocked { .. } => match self.side() {
                Some(Side::Source) => 3,
                Some(Side::Target) => 4,
                None => 6,
            },
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.exit_code() == 130
    }
}

impl From<flow::Error> for Cause {
    fn from(error: flow::Error) -> Self {
        match error {
            flow::Error::Pg(e) => Self::Pg(e),
            flow::Error::Archive(e) => Self::Archive(e),
            flow::Error::Stream(message) => Self::Internal(message),
            flow::Error::Cancelled | flow::Error::Suspended => Self::Cancelled,
        }
    }
}

impl<E: Into<Cause>> From<E> for Error {
    fn from(cause: E) -> Self {
        Self::new(cause)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
