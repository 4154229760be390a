//! The layers that settings come from, the first that has a value winning: the string given, the service file,
//! the environment (`conninfo_add_defaults` in libpq's `fe-connect.c`). Defaults are the business of `build`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::choice::Choice;
use super::keyword::KEYWORDS;
use super::{Env, Problem, parse, service};

/// Where a setting was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The connection string on the command line, or the variable that stands in for it.
    Given(&'static str),
    ServiceFile(PathBuf),
    Variable(&'static str),
    /// A password file and the line in it.
    PassFile(PathBuf, usize),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(what) => write!(f, "the {what}"),
            Self::ServiceFile(path) => write!(f, "the service file {}", path.display()),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::PassFile(path, line) => write!(f, "line {line} of the password file {}", path.display()),
        }
    }
}

/// All settings that have a value, each with its origin.
#[derive(Default)]
pub(super) struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Layers {
    pub fn read(given: Option<(&'static str, &str)>, env: &dyn Env) -> Result<Self, Problem> {
        let mut layers = Self::default();
        if let Some((what, text)) = given {
            for (name, value) in parse::parse(text)? {
                layers.values.insert(name, (value, Origin::Given(what)));
            }
        }
        let own = |layers: &Self, name, variable| {
            layers.text(name).map(Into::into).or_else(|| env.var(variable).filter(|value| !value.is_empty()))
        };
        if let Some(service) = own(&layers, "service", "PGSERVICE") {
            let file = own(&layers, "servicefile", "PGSERVICEFILE");
            let (pairs, path) = service::find(&service, file.as_deref(), env)?;
            for (name, value) in pairs {
                layers.values.entry(name).or_insert_with(|| (value, Origin::ServiceFile(path.clone())));
            }
        }
        for keyword in KEYWORDS {
            let Some(variable) = keyword.variable else { continue };
            let Some(value) = env.var(variable) else { continue };
            layers.values.entry(keyword.name).or_insert((value, Origin::Variable(variable)));
        }
        Ok(layers)
    }

    /// The value of a setting; an empty one counts as none, as with libpq.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.values.get(name).map(|(_, origin)| origin)
    }

    pub fn choice<T: Choice>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        let Some(value) = self.text(name) else { return Ok(None) };
        T::parse(value).map(Some).ok_or_else(|| {
            let allowed: Vec<_> = T::VALUES.iter().map(|(name, _)| *name).collect();
            self.invalid(name).hint(format!("it can be {}", allowed.join(", ")))
        })
    }

    /// A whole number, such as seconds; libpq allows blanks around it.
    pub fn number(&self, name: &'static str) -> Result<Option<i32>, Problem> {
        let Some(value) = self.text(name) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| self.invalid(name).hint("it is a whole number"))
    }

    /// A setting that is on unless it is 0.
    pub fn switch(&self, name: &'static str) -> Result<bool, Problem> {
        Ok(self.number(name)? != Some(0))
    }

    /// That a setting has no value makes sense to nobody; says whose it is, not what it is.
    pub fn invalid(&self, name: &str) -> Problem {
        let origin = self.origin(name).map(|origin| format!(" (from {origin})")).unwrap_or_default();
        Problem::new(format!("the value of \"{name}\"{origin} is not valid"))
    }
}
