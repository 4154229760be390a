use std::path::PathBuf;

/// What connection settings are read from beside the string a user gives.
///
/// A trait, so that tests need not change the environment of the process.
pub trait Env {
    /// An environment variable; `None` where it is not set or not valid UTF-8.
    fn var(&self, name: &str) -> Option<String>;
    /// The home directory, where `.pgpass`, `.pg_service.conf` and `.postgresql` are looked for.
    fn home(&self) -> Option<PathBuf>;
    /// The name the operating system knows the user by: the default for `user`.
    fn user_name(&self) -> Option<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn home(&self) -> Option<PathBuf> {
        std::env::home_dir()
    }

    fn user_name(&self) -> Option<String> {
        whoami::username().ok()
    }
}
