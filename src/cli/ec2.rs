//! `pgconvoy ec2`: what is asked, done with [`pgconvoy::cloud::ec2`], and said.

use std::io::{BufRead as _, IsTerminal as _};

use pgconvoy::cloud::ec2::{
    Api, Credentials, Error, Instance, Keys, Kind, Leftover, Machine, Result, State, Wanted, region_for, sweep,
};
use pgconvoy::cloud::ssh::{self, Job, JobState, Login, Watch};
use pgconvoy::model::{Secret, format_duration_ms, has_password};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio_util::sync::CancellationToken;

use super::args::ec2::{
    DownArgs, Ec2Args, Ec2Verb, ExtendArgs, LoginArgs, LogsArgs, RunArgs, StatusArgs, StopArgs, SweepArgs, UpArgs,
    WhichArgs,
};
use super::failure::Failure;
use super::printer::Printer;
use super::signals::INTERRUPTED;

const INTERNAL: u8 = 6;
const USAGE: u8 = 2;
/// Handed over unless --env says otherwise.
const DATABASES: [&str; 2] = ["PGCONVOY_SOURCE", "PGCONVOY_TARGET"];
/// A job may need this long after the machine's end was set; below it, a warning is said.
const SOON: time::Duration = time::Duration::hours(1);

/// What the verbs need.
struct Desk<'a> {
    printer: &'a Printer,
    cancel: CancellationToken,
}

/// Runs a verb; gives the exit code.
pub fn run(args: &Ec2Args, printer: &Printer, cancel: &CancellationToken) -> u8 {
    let desk = Desk { printer, cancel: cancel.clone() };
    let done = match &args.verb {
        Ec2Verb::Up(args) => desk.up(args),
        Ec2Verb::Status(args) => desk.status(args),
        Ec2Verb::Run(args) => desk.run(args),
        Ec2Verb::Logs(args) => desk.logs(args),
        Ec2Verb::Stop(args) => desk.stop(args),
        Ec2Verb::Extend(args) => desk.extend(args),
        Ec2Verb::Down(args) => desk.down(args),
        Ec2Verb::Sweep(args) => desk.sweep(args),
    };
    match done {
        Ok(exit_code) => exit_code,
        Err(error) => {
            let failure = failure(&error, cancel.is_cancelled());
            printer.err(&failure.render(&printer.err_canvas()));
            failure.exit_code
        }
    }
}

fn failure(error: &Error, interrupted: bool) -> Failure {
    let exit_code = match error {
        Error::Cancelled | Error::Ssh(ssh::Error::Detached(_)) => INTERRUPTED,
        _ if interrupted => INTERRUPTED,
        Error::Usage(_) | Error::Credentials(_) | Error::Ssh(ssh::Error::Usage(_)) => USAGE,
        _ => INTERNAL,
    };
    let mut failure = Failure::other(exit_code, error.to_string());
    failure.hints.extend(error.hint());
    failure
}

impl Desk<'_> {
    fn say(&self, text: &str) {
        self.printer.err(text);
    }

    fn api(&self, region: Option<&str>) -> Result<Api> {
        let region = match region {
            Some(region) => region.to_owned(),
            None => usual_region()
                .ok_or_else(|| Error::Usage("no region is named: --region us, or --region eu, or the app's".into()))?,
        };
        Api::open(&region, Credentials::find()?, self.cancel.clone())
    }

    /// The machine of the run that is named, or of the only one that there is.
    fn machine(&self, which: &WhichArgs, login: &LoginArgs) -> Result<Machine> {
        let api = self.api(which.region.as_deref())?;
        let run = match &which.run {
            Some(run) => run.clone(),
            None => only_run(&api)?
                .ok_or_else(|| Error::NotThere { run: "of any name".into(), region: api.region.clone() })?,
        };
        let keys = Keys::of(&run)?;
        let wanted = login.of_machine(Wanted::default());
        Ok(Machine::new(api, &run, wanted, keys)?.cancelled_by(self.cancel.clone()))
    }

    fn up(&self, args: &UpArgs) -> Result<u8> {
        let api = self.api(args.which.region.as_deref())?;
        let run = match &args.which.run {
            Some(run) => run.clone(),
            None => match only_run(&api)? {
                // A repeated `up` is likelier than a wish for two machines.
                Some(run) => {
                    return Err(Error::Usage(format!(
                        "the run {run} has a machine in {}: --run {run} goes on with it, another name makes another",
                        api.region
                    )));
                }
                None => new_name("run"),
            },
        };
        let wanted = Wanted {
            kinds: args.kinds.clone(),
            minutes: minutes(args.hours),
            spot: args.spot,
            image: args.image.clone(),
            security_group: args.security_group.clone(),
            subnet: args.subnet.clone(),
            ssh_from: args.ssh_from.clone(),
            pg_client: args.pg_client,
            program: args.program.clone(),
            ..args.login.of_machine(Wanted::default())
        };
        let machine = Machine::new(api, &run, wanted, Keys::of(&run)?)?.cancelled_by(self.cancel.clone());
        self.say(&format!("run {run}"));
        let mut tell = |text: &str| self.say(text);
        let instance = machine.launch(&mut tell)?;
        self.printer.out(&described(&machine, &instance));
        machine.make_ready(&instance, &mut tell)?;
        self.printer.out(&format!(
            "ready: pgconvoy ec2 run --run {run} --region {} -- copy -j 32\nend:   pgconvoy ec2 down --run {run} --region {}",
            machine.api.region, machine.api.region
        ));
        Ok(0)
    }

    fn status(&self, args: &StatusArgs) -> Result<u8> {
        let machine = self.machine(&args.which, &args.login)?;
        let login = match machine.find()? {
            None => {
                return Err(Error::NotThere { run: machine.run_name().to_owned(), region: machine.api.region.clone() });
            }
            Some(instance) if instance.state != State::Running => {
                self.printer.out(&described(&machine, &instance));
                return Ok(0);
            }
            Some(instance) => {
                // What EC2 says is worth something also where the run's key is elsewhere.
                self.printer.out(&described(&machine, &instance));
                machine.login(&instance, &mut |text| self.say(text))?
            }
        };
        let mut lines = Vec::new();
        match login.install_script().and_then(|()| login.machine_state()) {
            Ok(state) => lines.push(format!("it is  {state}")),
            Err(error) => lines.push(format!("ssh    {error}")),
        }
        for (id, state) in login.jobs().unwrap_or_default() {
            lines.push(format!("job    {id}: {}", state_text(state)));
        }
        self.printer.out(&lines.join("\n"));
        Ok(0)
    }

    fn run(&self, args: &RunArgs) -> Result<u8> {
        if let Some(secret) = args.command.iter().position(|argument| has_password(argument)) {
            return Err(Error::Usage(format!(
                "argument {} of the command holds a password: put the address into PGCONVOY_SOURCE or PGCONVOY_TARGET, \
                 which are handed over without being shown",
                secret + 1
            )));
        }
        let job = Job {
            id: args.job.clone().unwrap_or_else(|| new_name(args.command.first().map_or("job", String::as_str))),
            arguments: args.command.clone(),
            environment: handed_over(&args.variables)?,
        };
        let machine = self.machine(&args.which, &args.login)?;
        let (instance, login) = machine.reach()?;
        if instance.expires.is_some_and(|end| end - OffsetDateTime::now_utc() < SOON) {
            self.printer.warning("the machine ends itself within the hour: `pgconvoy ec2 extend` gives it more");
        }
        let watch = Watch::new(self.cancel.clone());
        login.start(&job, &watch)?;
        self.say(&format!("job {}: Ctrl-C leaves it running", job.id));
        if args.detach {
            return Ok(0);
        }
        self.follow(&login, &job.id, &watch)
    }

    fn follow(&self, login: &Login, id: &str, watch: &Watch) -> Result<u8> {
        let exit_code = login.follow(id, watch, &mut |line| self.printer.out(line))?;
        self.say(&format!("job {id}: {}", state_text(JobState::Ended { exit_code })));
        Ok(exit_code)
    }

    fn logs(&self, args: &LogsArgs) -> Result<u8> {
        let (_, login) = self.machine(&args.which, &args.login)?.reach()?;
        let id = if let Some(id) = &args.job {
            id.clone()
        } else {
            let jobs = login.jobs()?;
            let chosen = jobs.iter().find(|(_, state)| *state == JobState::Running).or(jobs.last());
            chosen.map(|(id, _)| id.clone()).ok_or_else(|| Error::Usage("no job was started there".into()))?
        };
        self.follow(&login, &id, &Watch::new(self.cancel.clone()))
    }

    fn stop(&self, args: &StopArgs) -> Result<u8> {
        let (_, login) = self.machine(&args.which, &args.login)?.reach()?;
        login.stop(&args.job)?;
        self.say(&format!("asked: `pgconvoy ec2 logs {}` shows its end", args.job));
        Ok(0)
    }

    fn extend(&self, args: &ExtendArgs) -> Result<u8> {
        let machine = self.machine(&args.which, &args.login)?;
        let end = machine.extend(minutes(args.hours))?;
        self.printer.out(&format!("it ends itself at {}", clock(end)));
        Ok(0)
    }

    fn down(&self, args: &DownArgs) -> Result<u8> {
        let machine = self.machine(&args.which, &LoginArgs::default())?;
        let ended = machine.end(&mut |text| self.say(text))?;
        self.printer.out(&match ended.len() {
            0 => format!("the run {} has no machine in {}", machine.run_name(), machine.api.region),
            _ => format!("ended, by EC2's own word: {}", ended.join(", ")),
        });
        Ok(0)
    }

    fn sweep(&self, args: &SweepArgs) -> Result<u8> {
        let regions = regions_to_sweep(&args.region);
        let now = OffsetDateTime::now_utc();
        let mut found = Vec::new();
        for region in &regions {
            let api = self.api(Some(region))?;
            let leftover = Leftover::find(&api)?;
            for machine in &leftover.machines {
                let late = if leftover.expired(now).contains(&machine) { "  OUTLIVED ITS TIME" } else { "" };
                let run = machine.run.as_deref().unwrap_or("?");
                let end = machine.expires.map_or_else(|| "unknown".to_owned(), clock);
                let Instance { id, kind, state, .. } = machine;
                self.printer.out(&format!("{region}  {id}  {kind}  {}  run {run}  ends {end}{late}", state.as_str()));
            }
            if leftover.orphans() > 0 {
                self.printer
                    .out(&format!("{region}  {} key pairs and firewalls without a machine", leftover.orphans()));
            }
            found.push((api, leftover));
        }
        found.retain(|(_, leftover)| !leftover.expired(now).is_empty() || leftover.orphans() > 0);
        if found.is_empty() {
            self.printer.out(&format!("nothing to sweep in {}", regions.join(", ")));
            return Ok(0);
        }
        if !args.yes && !self.confirmed("sweep")? {
            return Err(Error::Usage("nothing was ended: type `sweep`, or give --yes".into()));
        }
        for (api, leftover) in &found {
            let swept = sweep(api, leftover, now)?;
            let ended = if swept.ended.is_empty() { "no machine".to_owned() } else { swept.ended.join(", ") };
            self.printer.out(&format!(
                "{}  ended {ended}; removed {} key pairs, {} firewalls",
                api.region, swept.key_pairs, swept.groups
            ));
        }
        Ok(0)
    }

    fn confirmed(&self, word: &str) -> Result<bool> {
        if !std::io::stdin().is_terminal() {
            return Ok(false);
        }
        self.say(&format!("type `{word}` to end what has outlived its time:"));
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|source| Error::Io { path: "standard input".into(), source })?;
        Ok(line.trim() == word)
    }
}

/// The run that has a machine; `None` where none has.
fn only_run(api: &Api) -> Result<Option<String>> {
    let mut runs: Vec<String> = api
        .of_all_runs()?
        .into_iter()
        .filter(|machine| machine.state.is_alive())
        .filter_map(|machine| machine.run)
        .collect();
    runs.sort();
    runs.dedup();
    match runs.len() {
        0 | 1 => Ok(runs.pop()),
        _ => Err(Error::Usage(format!(
            "several runs have machines in {}: name one of {} with --run",
            api.region,
            runs.join(", ")
        ))),
    }
}

fn usual_region() -> Option<String> {
    ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
}

/// Those that are named, else the usual one and Heroku's two; each once.
fn regions_to_sweep(named: &[String]) -> Vec<String> {
    let mut regions = named.to_vec();
    if regions.is_empty() {
        regions.extend(usual_region());
        regions.extend(["us", "eu"].into_iter().filter_map(region_for).map(ToOwned::to_owned));
    }
    let mut seen = std::collections::BTreeSet::new();
    regions.retain(|region| seen.insert(region.clone()));
    regions
}

/// The variables by name. One that is named and not set is a mistake; of the usual ones, those that are set count.
fn handed_over(names: &[String]) -> Result<Vec<(String, Secret)>> {
    let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new);
    if names.is_empty() {
        return Ok(DATABASES.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect());
    }
    names
        .iter()
        .map(|name| {
            let value =
                value(name).ok_or_else(|| Error::Usage(format!("{name} is to be handed over, and is not set")))?;
            Ok((name.clone(), value))
        })
        .collect()
}

/// A name that nobody else takes: time, and some chance.
fn new_name(first: &str) -> String {
    let format = format_description!("[year][month][day]-[hour][minute][second]");
    let time = OffsetDateTime::now_utc().format(format).unwrap_or_default();
    let first: String = first.chars().filter(char::is_ascii_lowercase).take(12).collect();
    format!("{first}-{time}-{:04x}", std::process::id() & 0xffff)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a week")]
fn minutes(hours: f64) -> u32 {
    (hours * 60.0).round() as u32
}

fn clock(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    time.format(format).unwrap_or_default()
}

fn state_text(state: JobState) -> String {
    match state {
        JobState::Unknown => "not started".into(),
        JobState::Running => "running".into(),
        JobState::Ended { exit_code: 0 } => "done".into(),
        JobState::Ended { exit_code } => format!("ended with exit code {exit_code}"),
        JobState::Lost => "lost: the machine was restarted, or somebody killed it".into(),
    }
}

/// The machine, its end and its price, in aligned lines.
fn described(machine: &Machine, instance: &Instance) -> String {
    let now = OffsetDateTime::now_utc();
    let mut lines = vec![format!("run    {}", machine.run_name())];
    let zone = instance.zone.as_deref().unwrap_or(&machine.api.region);
    lines.push(format!("is     {} {} in {zone}, {}", instance.id, instance.kind, instance.state.as_str()));
    if let Some(address) = &instance.public_ip {
        lines.push(format!("at     {address}"));
    }
    let price = Kind::named(&instance.kind).and_then(|kind| kind.price_in(&machine.api.region));
    let age = instance.launched.map(|launched| (now - launched).max(time::Duration::ZERO));
    if let Some(price) = price {
        let so_far =
            age.map_or_else(String::new, |age| format!(", ${:.2} so far", price * age.as_seconds_f64() / 3600.0));
        lines.push(format!("costs  about ${price:.2} an hour on demand{so_far}; traffic and tax are not in it"));
    } else {
        lines.push("costs  a price that is not known here: see AWS's price list".to_owned());
    }
    if let Some(end) = instance.expires {
        let left = u64::try_from((end - now).whole_milliseconds())
            .map_or_else(|_| "that is over".to_owned(), |left_ms| format!("in {}", format_duration_ms(left_ms)));
        lines.push(format!("ends   itself at {} ({left})", clock(end)));
    }
    lines.join("\n")
}
