//! Where the rows pass through: a machine that is made for the run, or another that is there anyway.

use time::OffsetDateTime;

use super::ssh::{Job, JobState, Watch};

/// Result of everything a place does.
pub type Result<T, E = super::ec2::Error> = std::result::Result<T, E>;

/// Whether jobs can be started on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has heard of it: never asked for, or asked for a moment ago; or it has ended, and is forgotten since. EC2
    /// forgets within an hour or so.
    Nowhere,
    /// There, and not yet to be used.
    Coming,
    Ready {
        /// Its type.
        kind: String,
        /// When it ends itself; `None`: nobody knows.
        until: Option<OffsetDateTime>,
    },
    /// It was there, and no other of its name will be.
    Ended,
}

/// A machine that pgconvoy runs on. Every call is safe to repeat: from another process too, after any kill.
pub trait Place: Send {
    /// What it is, for people: `i4i.4xlarge in us-east-1, about $1.37 an hour`.
    fn describe(&self) -> String;

    /// Makes it, or finds it, and comes back when jobs can be started on it. `tell` hears what is being done.
    ///
    /// # Errors
    /// It cannot be had. What was made so far is found again by the next call, and ended by [`Place::down`].
    fn up(&self, tell: &mut dyn FnMut(&str)) -> Result<()>;

    /// Whether it is there; changes nothing.
    ///
    /// # Errors
    /// Its provider does not say, or somebody else answers in its place.
    fn look(&self) -> Result<Standing>;

    /// Sets its end anew: so many minutes from now.
    ///
    /// # Errors
    /// It is out of reach; then the old end stands.
    fn extend(&self, minutes: u32) -> Result<()>;

    /// Starts `job` unless it was started before, and gives every line of its output, from the first, exactly once,
    /// until it has ended; then its exit code. Lost connections are made again.
    ///
    /// # Errors
    /// See [`super::ssh::Error`]: `Detached` when `watch` was called off (the job goes on), `JobLost`.
    fn run(&self, job: &Job, watch: &Watch, on_line: &mut dyn FnMut(&str)) -> Result<u8>;

    /// What has become of a job.
    ///
    /// # Errors
    /// It is out of reach.
    fn job_state(&self, id: &str) -> Result<JobState>;

    /// Asks a job to stop, as Ctrl-C does.
    ///
    /// # Errors
    /// It is out of reach.
    fn stop(&self, id: &str) -> Result<()>;

    /// Ends it with all that is on it, and comes back when that is proven. Nothing there is fine.
    ///
    /// # Errors
    /// It could not be proven.
    fn down(&self, tell: &mut dyn FnMut(&str)) -> Result<()>;
}
