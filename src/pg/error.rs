use std::io;

use crate::model::Side;

/// What went wrong with a server, and on which side.
///
/// There is no `From<tokio_postgres::Error>`: a conversion needs a [`Side`].
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Error {
    pub side: Side,
    pub kind: Box<ErrorKind>,
    /// The statement that failed, where one did.
    pub statement: Option<String>,
}

/// Result of everything that talks to a server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The connection string, an environment variable, a service file or a password file does not make sense.
    #[error("{message}")]
    Config { message: String, hint: Option<String> },
    /// No server could be reached at any of the addresses.
    #[error("could not connect to {address}: {source}")]
    Connect { address: String, source: io::Error, hint: Option<String> },
    #[error("TLS with {address} failed: {message}")]
    Tls { address: String, message: String, hint: Option<String> },
    /// The server answered, but did not let us in.
    #[error("{address} refused the login: {message}")]
    Auth { address: String, message: String, sqlstate: Option<String>, hint: Option<String> },
    /// The server answered with an error.
    #[error("{0}")]
    Server(ServerError),
    /// The connection broke while in use.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// The server said something the protocol does not allow here.
    #[error("unexpected reply from the server: {0}")]
    Protocol(String),
    /// What was counted on both ends differs.
    #[error("{0}")]
    Mismatch(String),
    /// Stopped on request.
    #[error("cancelled")]
    Cancelled,
    /// Something that this server or its settings cannot do.
    #[error("{message}")]
    Unsupported { message: String, hint: Option<String> },
}

/// An ErrorResponse of a server, decoded.
///
/// `detail` can carry row values: it is kept for `--trace` and not printed by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub context: Option<String>,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)
    }
}

impl std::error::Error for ServerError {}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(db: &tokio_postgres::error::DbError) -> Self {
        Self {
            severity: db.severity().to_owned(),
            sqlstate: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().map(Into::into),
            hint: db.hint().map(Into::into),
            context: db.where_().map(Into::into),
        }
    }
}

impl Error {
    pub fn new(side: Side, kind: ErrorKind) -> Self {
        Self { side, kind: Box::new(kind), statement: None }
    }

    pub fn protocol(side: Side, message: impl Into<String>) -> Self {
        Self::new(side, ErrorKind::Protocol(message.into()))
    }

    pub fn config(side: Side, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::new(side, ErrorKind::Config { message: message.into(), hint: hint.map(Into::into) })
    }

    pub fn unsupported(side: Side, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::new(side, ErrorKind::Unsupported { message: message.into(), hint: hint.map(Into::into) })
    }

    #[must_use]
    pub fn with_statement(mut self, statement: impl Into<String>) -> Self {
        self.statement = Some(statement.into());
        self
    }

    /// An error of the control plane. `statement` is what was being run.
    pub fn control(side: Side, error: &tokio_postgres::Error, statement: Option<&str>) -> Self {
        let kind = match error.as_db_error() {
            Some(db) => ErrorKind::Server(db.into()),
            None => ErrorKind::Lost(io::Error::other(root_cause(error))),
        };
        Self { side, kind: Box::new(kind), statement: statement.map(Into::into) }
    }

    /// The server's SQLSTATE, where a server answered.
    pub fn sqlstate(&self) -> Option<&str> {
        match &*self.kind {
            ErrorKind::Server(e) => Some(&e.sqlstate),
            ErrorKind::Auth { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match &*self.kind {
            ErrorKind::Config { hint, .. }
            | ErrorKind::Connect { hint, .. }
            | ErrorKind::Tls { hint, .. }
            | ErrorKind::Auth { hint, .. }
            | ErrorKind::Unsupported { hint, .. } => hint.as_deref(),
            ErrorKind::Server(e) => e.hint.as_deref(),
            _ => None,
        }
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(*self.kind, ErrorKind::Cancelled) || self.sqlstate() == Some("57014")
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
