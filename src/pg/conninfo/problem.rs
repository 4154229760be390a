use crate::model::Side;
use crate::pg::{Error, ErrorKind};

/// What is wrong with a setting, before it is known whose side it is.
///
/// Never holds a value that could be a password, or part of one that was not quoted.
#[derive(Debug)]
pub(super) struct Problem {
    pub message: String,
    pub hint: Option<String>,
    /// The setting makes sense, but not to us.
    pub unsupported: bool,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, unsupported: false }
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::new(message) }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn on(self, side: Side) -> Error {
        let Self { message, hint, unsupported } = self;
        Error::new(
            side,
            if unsupported { ErrorKind::Unsupported { message, hint } } else { ErrorKind::Config { message, hint } },
        )
    }
}
