//! A plan: what is known of the app, what is wished, and the steps that follow. A file, which `run` executes as it is.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::advice::{Advice, Estimate};
use super::facts::AppFacts;
use super::steps::{Action, Maker};
use crate::model::redact;
use crate::runbook::machines::MachineWish;
use crate::runbook::step::Step;
use crate::runbook::{Error, Result, hex};

const FORMAT: u32 = 1;

/// What a migration is to lead to, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wishes {
    /// The plan of the databases that work while the app is down: `standard-5`.
    pub high_plan: String,
    /// The plan in the end. The same as `high_plan`: there is no second window.
    pub final_plan: String,
    /// Major version of the new database; `None`: Heroku's newest.
    pub version: Option<u32>,
    /// A follower of the new database in the end.
    pub follower: bool,
    pub jobs: u32,
    /// The longest that the app may be down before it is switched; else everything is taken back.
    pub budget_s: u64,
    /// How long the old databases are kept after the last switch.
    pub hold_s: u64,
    /// The release process may run when attachments change.
    pub release_is_harmless: bool,
    /// Attachments other than DATABASE, and config vars that hold a copied address, are read by nobody.
    #[serde(default)]
    pub other_names_are_unused: bool,
    /// How long a database must be seen to stand still.
    pub still_s: u64,
    /// Between two looks.
    pub poll_ms: u64,
    /// What runs pgconvoy on another machine, near the databases; `None`: rows move through this one.
    #[serde(default)]
    pub elsewhere: Option<String>,
    /// A machine that is made for the run, and that rows pass through.
    #[serde(default)]
    pub machine: Option<MachineWish>,
    /// A directory where rows pass through, for a dump that a restore can be repeated from; `None`: straight from server to
    /// server.
    #[serde(default)]
    pub keep_dump: Option<String>,
}

/// Whether a plan is the migration itself, or everything of it that costs no downtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Migration,
    Rehearsal,
}

/// A plan as it stands in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    /// Names everything that is made: `a1b2c3`.
    pub run: String,
    pub kind: Kind,
    /// RFC 3339, UTC.
    pub made_at: String,
    pub app: AppFacts,
    pub wishes: Wishes,
    pub advice: Vec<Advice>,
    pub estimate: Estimate,
    pub steps: Vec<Step<Action>>,
}

impl Plan {
    pub(super) const FORMAT: u32 = FORMAT;

    /// Reads a plan, and the hash by which its journal knows it.
    ///
    /// # Errors
    /// There is none, or it is not one of ours.
    pub fn load(path: &Path) -> Result<(Self, String)> {
        let text = std::fs::read(path).map_err(|error| Error::journal(path, error))?;
        let plan: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::Usage(format!("{} is not a plan of ours: {error}", path.display())))?;
        if plan.format != FORMAT {
            return Err(Error::Usage(format!("{} has format {}, not {FORMAT}", path.display(), plan.format)));
        }
        Ok((plan, hex(&Sha256::digest(&text))))
    }

    /// Steps are what follows from the rest: nobody has taken one out.
    ///
    /// # Errors
    /// They are not, or another version of this program has made them.
    pub(super) fn check(&self) -> Result<()> {
        let Self { app, wishes, estimate, run, kind, .. } = self;
        if (Maker { app, wishes, estimate, run }).steps(*kind) == self.steps {
            return Ok(());
        }
        Err(Error::Refused("the steps of the plan are not those that follow from it: make a new plan".into()))
    }

    /// Writes it where no file is: the plan of a run that has begun is never replaced.
    ///
    /// # Errors
    /// There is a file already, or it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let cannot = |error: std::io::Error| Error::journal(path, error);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Internal(error.to_string()))?;
        if redact(&text) != text {
            return Err(Error::Internal("the plan would hold a password".into()));
        }
        let mut file = std::fs::File::create_new(path).map_err(cannot)?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(cannot)?;
        file.sync_all().map_err(cannot)
    }

    /// What names everything that its rehearsal makes.
    pub fn run_of_rehearsal(&self) -> String {
        format!("{}r", self.run)
    }

    /// Whether it is the rehearsal of `real`, and not of a plan that had the same name before.
    pub fn rehearses(&self, real: &Self) -> bool {
        self.kind == Kind::Rehearsal
            && self.run == real.run_of_rehearsal()
            && self.app.app_id == real.app.app_id
            && self.app.addon_id == real.app.addon_id
            && self.wishes == real.wishes
    }

    /// The journal stands beside the plan.
    pub fn journal_path(plan: &Path) -> PathBuf {
        plan.with_extension("journal")
    }
}
