//! Whole migrations: `heroku` and `migrate`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueHint};

use pgconvoy::cloud::ec2::DEFAULT_KIND;

use super::ec2::{LoginArgs, parse_hours, parse_region};
use super::groups::{JobsArgs, ProgressArgs};
use super::values::{Conninfo, Seconds, parse_seconds, parse_some_seconds};

const HEROKU_HELP: &str = "\
Environment:
  HEROKU_API_KEY                     who asks; `heroku authorizations:create -e 28800` makes a key for eight hours
  HEROKU_HOST, HEROKU_DATA_HOST      other hosts, as the heroku program reads them
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
                                     for --ec2; else what `aws configure export-credentials` says

Examples:
  pgconvoy heroku plan --example
  pgconvoy heroku plan sphinx --version 17 --high-plan standard-5
  pgconvoy heroku plan sphinx --version 17 --ec2 --keep-dump
  pgconvoy heroku rehearse sphinx.plan
  pgconvoy heroku run sphinx.plan --hold
  pgconvoy heroku cutover sphinx.plan

docs/HEROKU.md walks through a migration.";

/// Migrate an app's database on Heroku to another version or plan: planned, rehearsed, resumed, taken back.
///
/// The app is down only while its rows move, and is taken back to what it was by itself when anything fails before the
/// switch. Everything that is done stands in a journal beside the plan.
#[derive(Debug, Args)]
#[command(after_long_help = HEROKU_HELP, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct HerokuArgs {
    #[command(subcommand)]
    pub command: HerokuCommand,
}

#[derive(Debug, Subcommand)]
pub enum HerokuCommand {
    /// Read the app, say what would be cheaper, and save the steps of its migration; changes nothing
    Plan(Box<HerokuPlanArgs>),
    /// Do everything of a plan that costs no downtime, say what follows for the real run, and destroy what was made
    Rehearse(HerokuRunArgs),
    /// Execute a saved plan from its beginning
    Run(HerokuRunArgs),
    /// Go on with a run that was held: the app goes down
    Cutover(HerokuRunArgs),
    /// Go on with a run that was killed, stopped or held
    Resume(HerokuRunArgs),
    /// Take the app back to what it was before the window that is open
    Abort(HerokuRunArgs),
    /// Show how far a run is
    Status(HerokuLookArgs),
    /// Look on while a run is at work, from any terminal
    Attach(HerokuLookArgs),
    /// Show how long each step took, how long the app was down, how fast rows moved, and what was billed
    Report(HerokuLookArgs),
    /// Destroy what a run has made and the app does not use, its machine too, after an abort or before the freeze
    Cleanup(HerokuRunArgs),
}

impl HerokuCommand {
    /// How it is shown, where it goes on for a while.
    pub fn progress(&mut self) -> Option<&mut ProgressArgs> {
        match self {
            Self::Plan(_) => None,
            Self::Rehearse(args)
            | Self::Run(args)
            | Self::Cutover(args)
            | Self::Resume(args)
            | Self::Abort(args)
            | Self::Cleanup(args) => Some(&mut args.progress),
            Self::Status(args) | Self::Attach(args) | Self::Report(args) => Some(&mut args.progress),
        }
    }
}

#[derive(Debug, Args)]
pub struct HerokuPlanArgs {
    /// The app
    #[arg(value_name = "APP", required_unless_present = "example", value_parser = NonEmptyStringValueParser::new())]
    pub app: Option<String>,
    /// Plan and pretend the migration of an app that does not exist: needs no account and no server
    #[arg(long, conflicts_with = "app")]
    pub example: bool,
    /// Where to save the plan; APP.plan without it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "example")]
    pub save: Option<PathBuf>,
    /// Plan of the databases that work while the app is down; the larger of standard-5 and the present one without it
    #[arg(long, value_name = "PLAN", help_heading = "Wishes")]
    pub high_plan: Option<String>,
    /// Plan in the end; the present one without it. The same as --high-plan: the app goes down once, not twice
    #[arg(long, value_name = "PLAN", help_heading = "Wishes")]
    pub final_plan: Option<String>,
    /// Major version in the end; Heroku's newest without it
    #[arg(long, value_name = "MAJOR", help_heading = "Wishes")]
    pub version: Option<u32>,
    /// No follower of the new database in the end
    #[arg(long, help_heading = "Wishes")]
    pub no_follower: bool,
    /// A rehearsal to take times from, instead of assuming them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Wishes")]
    pub rehearsal: Option<PathBuf>,
    /// Downtime that is too much, such as 90m: everything is taken back then
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "2h", help_heading = "Safety")]
    pub budget: Seconds,
    /// How long old databases are kept after the last switch
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "24h", help_heading = "Safety")]
    pub hold_time: Seconds,
    /// How long the database must be seen to stand still
    #[arg(long, value_name = "TIME", value_parser = parse_some_seconds, default_value = "10s", help_heading = "Safety")]
    pub still_for: Seconds,
    /// The release process may run whenever an attachment changes: it migrates nothing
    #[arg(long, help_heading = "Safety")]
    pub release_is_harmless: bool,
    /// Other names than DATABASE that lead to the database, and config vars that hold its address, are read by nobody
    #[arg(long, help_heading = "Safety")]
    pub other_names_are_unused: bool,
    /// What runs pgconvoy on a machine near the databases, to copy and compare there
    ///
    /// Its arguments are appended; PGCONVOY_SOURCE and PGCONVOY_TARGET are in its environment, to be passed on:
    /// 'ssh -o SendEnv=PGCONVOY_* near pgconvoy'. Plan, journal and requests to Heroku stay here.
    #[arg(long, value_name = "COMMAND", value_parser = NonEmptyStringValueParser::new(), help_heading = "Where rows pass through")]
    pub on: Option<String>,
    /// Dump to this directory first, and restore from there, instead of copying from server to server
    ///
    /// A restore that fails is gone on with, and does not need the source again. With --ec2 the directory is on the
    /// machine; without a name it is on its NVMe disks.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = ".",
        value_hint = ValueHint::DirPath, conflicts_with = "on", help_heading = "Where rows pass through")]
    pub keep_dump: Option<String>,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Between two looks
    #[arg(long, value_name = "MS", default_value_t = 5000, hide = true)]
    pub poll_ms: u64,
    #[command(flatten)]
    pub jobs: JobsArgs,
}

/// A machine that is made for the run.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Rows pass through a machine of EC2 in the app's region, which the run makes, uses and ends
    ///
    /// It copies and compares as jobs that outlive the connection and this program. AWS is asked as by `pgconvoy ec2`.
    #[arg(long, conflicts_with = "on", help_heading = "Where rows pass through")]
    pub ec2: bool,
    /// Types, the best first: the next is taken where EC2 has none left
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = DEFAULT_KIND, requires = "ec2", help_heading = "Where rows pass through")]
    pub ec2_type: Vec<String>,
    /// Hours after which it ends itself, unless the run needs it; twice what is estimated without it
    #[arg(long, value_name = "N", value_parser = parse_hours, requires = "ec2", help_heading = "Where rows pass through")]
    pub ec2_hours: Option<f64>,
    /// Region, instead of the app's
    #[arg(long, value_name = "REGION", value_parser = parse_region, requires = "ec2", help_heading = "Where rows pass through")]
    pub ec2_region: Option<String>,
    /// Image to start from, instead of the newest Ubuntu LTS
    #[arg(long, value_name = "AMI", requires_all = ["ec2", "ssh_user"], help_heading = "Where rows pass through")]
    pub ec2_image: Option<String>,
    /// A pgconvoy for that machine, where this one is not for Linux on the same processor
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "ec2", help_heading = "Where rows pass through")]
    pub ec2_program: Option<PathBuf>,
    /// Network to start in, instead of the account's default one
    #[arg(long, value_name = "ID", requires = "ec2", help_heading = "Where rows pass through")]
    pub ec2_subnet: Option<String>,
    /// Firewall to use, instead of one made for the run that lets ssh in from here
    #[arg(long, value_name = "ID", requires = "ec2", help_heading = "Where rows pass through")]
    pub ec2_security_group: Option<String>,
    /// Who may reach ssh there, instead of this machine's own address
    #[arg(
        long,
        value_name = "CIDR",
        requires = "ec2",
        conflicts_with = "ec2_security_group",
        help_heading = "Where rows pass through"
    )]
    pub ssh_from: Option<String>,
    #[command(flatten)]
    pub login: LoginArgs,
}

#[derive(Debug, Args)]
pub struct HerokuRunArgs {
    /// The plan, as `pgconvoy heroku plan` saved it
    #[arg(value_name = "PLAN", value_hint = ValueHint::FilePath)]
    pub plan: PathBuf,
    /// Stop before the app goes down, until `cutover`
    #[arg(long)]
    pub hold: bool,
    /// Confirms everything: the app's name. Without it, it is asked for on a terminal; elsewhere the run is held, or
    /// taken back where the app is down already
    #[arg(long, value_name = "APP")]
    pub yes_i_mean: Option<String>,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

#[derive(Debug, Args)]
pub struct HerokuLookArgs {
    /// The plan, as `pgconvoy heroku plan` saved it
    #[arg(value_name = "PLAN", value_hint = ValueHint::FilePath)]
    pub plan: PathBuf,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// Migrate an app from any server to any other: stopped, copied, compared and switched by one command.
///
/// The same steps as for Heroku, without its interfaces: commands of your own stop the app, switch it and start it again.
/// They run with `sh -c`, end with 0 when done, and may be run twice; what they leave running is not waited for. Whatever
/// fails before the switch is taken back.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  pgconvoy migrate shop.journal --source service=old --target service=new \\
    --freeze 'systemctl stop shop' --thaw 'systemctl start shop' \\
    --switch ./use-new --unswitch ./use-old
  pgconvoy migrate shop.journal ... --resume
  pgconvoy migrate shop.journal ... --abort")]
pub struct MigrateArgs {
    /// Where it is written down what was done; a new file, except with --resume and --abort
    #[arg(value_name = "JOURNAL", value_hint = ValueHint::FilePath)]
    pub journal: PathBuf,
    /// Server to leave; else PGCONVOY_SOURCE
    #[arg(long, value_name = "URI", help_heading = "Connections", display_order = 1)]
    pub source: Option<Conninfo>,
    /// Server to go to, with an empty database; else PGCONVOY_TARGET
    #[arg(long, value_name = "URI", help_heading = "Connections", display_order = 2)]
    pub target: Option<Conninfo>,
    /// A pg_dump to use for both servers instead of the one that fits best
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, help_heading = "Connections", display_order = 3)]
    pub pg_dump: Option<PathBuf>,
    /// Stops the app
    #[arg(long, value_name = "COMMAND", help_heading = "Commands")]
    pub freeze: String,
    /// Starts the app, wherever it leads then
    #[arg(long, value_name = "COMMAND", help_heading = "Commands")]
    pub thaw: String,
    /// Makes the app use the target
    #[arg(long, value_name = "COMMAND", help_heading = "Commands")]
    pub switch: String,
    /// Makes the app use the source again; without it, the switch is the point of no return
    #[arg(long, value_name = "COMMAND", help_heading = "Commands")]
    pub unswitch: Option<String>,
    /// A command that takes longer is ended, and has failed
    #[arg(long, value_name = "TIME", value_parser = parse_some_seconds, default_value = "10m", help_heading = "Commands")]
    pub command_limit: Seconds,
    /// Do not make the source read only and end its role's sessions: for roles that do not own the database
    ///
    /// All sessions of the source have to be ended by your command then, also idle ones.
    #[arg(long, help_heading = "Safety")]
    pub no_fence: bool,
    /// Downtime that is too much, such as 90m: everything is taken back then, up to the point of no return
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "2h", help_heading = "Safety")]
    pub budget: Seconds,
    /// How long the source must be seen to stand still
    #[arg(long, value_name = "TIME", value_parser = parse_some_seconds, default_value = "10s", help_heading = "Safety")]
    pub still_for: Seconds,
    /// The target's role is no superuser: leave owners, privileges and tablespaces out
    #[arg(long, help_heading = "Target")]
    pub managed: bool,
    /// Go on with a run that was killed, stopped, held or taken back; with the same commands and servers
    #[arg(long, conflicts_with = "abort")]
    pub resume: bool,
    /// Take the app back to what it was; a run that is at work, on this machine, is asked to do it
    #[arg(long)]
    pub abort: bool,
    /// Confirms everything: the database's name. Without it, it is asked for on a terminal; elsewhere the run is held,
    /// or taken back where the app is down already
    #[arg(long, value_name = "DATABASE")]
    pub yes_i_mean: Option<String>,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
}
