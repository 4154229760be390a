//! The arguments of `pgconvoy ec2`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use pgconvoy::cloud::ec2::{DEFAULT_KIND, Wanted, region_for};

/// A machine beside the databases, for the time of a migration.
///
/// A big machine of EC2 in the region of the app: made, used and ended from here. It ends itself after its hours,
/// whatever happens here. All is found again by tags: from another terminal, after a lost connection.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  pgconvoy ec2 up --region us --hours 8
  pgconvoy ec2 run -- copy -j 32
  pgconvoy ec2 logs
  pgconvoy ec2 down

The databases' addresses go from PGCONVOY_SOURCE and PGCONVOY_TARGET here to the job there, through ssh, into memory.
AWS is asked with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else with what `aws configure export-credentials` says.")]
pub struct Ec2Args {
    #[command(subcommand)]
    pub verb: Ec2Verb,
}

#[derive(Debug, Subcommand)]
pub enum Ec2Verb {
    Up(UpArgs),
    Status(StatusArgs),
    Run(RunArgs),
    Logs(LogsArgs),
    Stop(StopArgs),
    Extend(ExtendArgs),
    Down(DownArgs),
    Sweep(SweepArgs),
}

/// Which machine.
#[derive(Clone, Debug, Args)]
pub struct WhichArgs {
    /// Name of the run that the machine is for; without it the one that there is
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// AWS's region, or one of Heroku's such as `us` or `eu`; else AWS_REGION, else AWS_DEFAULT_REGION
    #[arg(long, value_name = "REGION", value_parser = parse_region)]
    pub region: Option<String>,
}

/// How to log in.
#[derive(Clone, Debug, Default, Args)]
pub struct LoginArgs {
    /// Private key to log in with, instead of one made for the run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "key_name", help_heading = "Login")]
    pub identity: Option<PathBuf>,
    /// Name of that key's pair at EC2
    #[arg(long, value_name = "NAME", requires = "identity", help_heading = "Login")]
    pub key_name: Option<String>,
    /// Who logs in, where the image is your own
    #[arg(long, value_name = "NAME", help_heading = "Login")]
    pub ssh_user: Option<String>,
    /// An option of ssh, such as `ProxyJump=bastion`; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_option, help_heading = "Login")]
    pub ssh_option: Vec<String>,
    /// Take the key that the machine shows first, where EC2 does not show it on the console
    #[arg(long, help_heading = "Login")]
    pub trust_first_key: bool,
}

impl LoginArgs {
    /// With what is said here of the machine.
    pub fn of_machine(&self, machine: Wanted) -> Wanted {
        Wanted {
            key: self.key_name.clone().zip(self.identity.clone()),
            ssh_user: self.ssh_user.clone(),
            ssh_options: self.ssh_option.clone(),
            trust_first_key: self.trust_first_key,
            ..machine
        }
    }
}

/// Make a machine, or find it, and wait until jobs can be started on it.
///
/// Prints what it costs and when it ends itself. Safe to repeat with the same --run.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Types, the best first: the next is taken where EC2 has none left
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', default_value = DEFAULT_KIND)]
    pub kinds: Vec<String>,
    /// Hours after which it ends itself
    #[arg(long, value_name = "N", default_value_t = 12.0, value_parser = parse_hours)]
    pub hours: f64,
    /// Cheaper, but EC2 may take it back within two minutes: for rehearsals
    #[arg(long)]
    pub spot: bool,
    /// Image to start from, instead of the newest Ubuntu LTS
    #[arg(long, value_name = "AMI", requires = "ssh_user")]
    pub image: Option<String>,
    /// Major version of the pg_dump that is installed there: that of the newer server
    #[arg(long, value_name = "MAJOR", default_value_t = 18, value_parser = clap::value_parser!(u32).range(10..=99))]
    pub pg_client: u32,
    /// A pgconvoy for that machine, where this one is not for Linux on the same processor
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub program: Option<PathBuf>,
    /// Network to start in, instead of the account's default one
    #[arg(long, value_name = "ID", help_heading = "Network")]
    pub subnet: Option<String>,
    /// Firewall to use, instead of one made for the run that lets ssh in from here
    #[arg(long, value_name = "ID", help_heading = "Network")]
    pub security_group: Option<String>,
    /// Who may reach ssh, instead of this machine's own address
    #[arg(long, value_name = "CIDR", conflicts_with = "security_group", help_heading = "Network")]
    pub ssh_from: Option<String>,
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Show the machine, its end, its cost so far, and its jobs.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Start pgconvoy on the machine and show its output, until it ends.
///
/// It goes on when the connection is lost, when you press Ctrl-C, and when this machine is switched off: `pgconvoy ec2 logs`
/// shows it again. Exits with its exit code.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  PGCONVOY_SOURCE=... PGCONVOY_TARGET=... pgconvoy ec2 run -- copy -j 32
  pgconvoy ec2 run --env PGCONVOY_SOURCE -- dump /mnt/pgconvoy/shop.convoy")]
pub struct RunArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Name of the job; one of that name is started once
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Variables to hand over; without it PGCONVOY_SOURCE and PGCONVOY_TARGET, where set
    #[arg(long = "env", value_name = "NAME")]
    pub variables: Vec<String>,
    /// Start it, and do not watch
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub login: LoginArgs,
    /// What pgconvoy is to do there
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub command: Vec<String>,
}

/// Show the output of a job from its beginning, until it ends.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// The job; without it the one that runs, else the last
    #[arg(value_name = "JOB")]
    pub job: Option<String>,
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Ask a job to stop, as Ctrl-C does where it runs.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// The job
    #[arg(value_name = "JOB")]
    pub job: String,
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Set the machine's end anew: so many hours from now.
#[derive(Debug, Args)]
pub struct ExtendArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Hours from now
    #[arg(long, value_name = "N", value_parser = parse_hours)]
    pub hours: f64,
    #[command(flatten)]
    pub login: LoginArgs,
}

/// End the machine with all that is on it, and wait until EC2 says so.
#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    pub which: WhichArgs,
}

/// List the machines of all runs, and end those that have outlived their time.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Regions to look at; without it AWS_REGION, and those of Heroku's `us` and `eu`
    #[arg(long, value_name = "REGION", value_parser = parse_region)]
    pub region: Vec<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub fn parse_region(text: &str) -> Result<String, String> {
    region_for(text).map(ToOwned::to_owned).ok_or_else(|| "write for example us, eu or us-east-1".into())
}

fn parse_option(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// A week is longer than any migration, and than any bill should be.
const HOURS_MAX: f64 = 168.0;

pub fn parse_hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if (0.25..=HOURS_MAX).contains(&hours) => Ok(hours),
        _ => Err("write hours from 0.25 to 168".into()),
    }
}
