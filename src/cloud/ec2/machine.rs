use std::path::{Path, PathBuf};
use std::time::{Duration, Instant as Clock};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Instance, Parameters, State, instance, is_no_capacity};
use super::keys::{Keys, host_keys};
use super::user_data::{BYTES_MAX, UserData};
use super::xml::items;
use super::{DEFAULT_KIND, Error, Kind, Result, TAG_EXPIRES, TAG_RUN, TAG_USER, check_run, is_arm};
use crate::cloud::http::{Authorization, Client, Request, base64};
use crate::cloud::ssh::{self, Login};

/// What says which address we come from. Its answer is one line.
const WHO_AM_I: &str = "https://checkip.amazonaws.com";

/// The machine that is wanted. Holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Types, the best first: the next is tried where EC2 has none left.
    pub kinds: Vec<String>,
    /// From its first boot to its end.
    pub minutes: u32,
    /// Cheaper, but EC2 may take it back within two minutes, disks and all: for rehearsals.
    pub spot: bool,
    /// An image's id, instead of the newest Ubuntu LTS.
    pub image: Option<String>,
    /// Who logs in there; needed with an image of one's own.
    pub ssh_user: Option<String>,
    /// A key pair that EC2 knows, and its private key, instead of one made for the run.
    pub key: Option<(String, PathBuf)>,
    pub security_group: Option<String>,
    pub subnet: Option<String>,
    /// Who may reach ssh, as a CIDR block; else this machine's own address, as AWS sees it.
    pub ssh_from: Option<String>,
    /// More of ssh's options.
    pub ssh_options: Vec<String>,
    /// Take the key that the machine shows at the first connection.
    pub trust_first_key: bool,
    /// Major version of the pg_dump that is installed there.
    pub pg_client: u32,
    /// The pgconvoy that is brought there: a program for Linux and that machine's processor; `None`: this one.
    pub program: Option<PathBuf>,
}

impl Default for Wanted {
    /// The usual machine, for twelve hours.
    fn default() -> Self {
        Self {
            kinds: vec![DEFAULT_KIND.to_owned()],
            minutes: 12 * 60,
            spot: false,
            image: None,
            ssh_user: None,
            key: None,
            security_group: None,
            subnet: None,
            ssh_from: None,
            ssh_options: Vec::new(),
            trust_first_key: false,
            pg_client: 18,
            program: None,
        }
    }
}

/// How often is looked, and how long is waited.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub look_every: Duration,
    /// From the request to a machine that runs.
    pub start_for: Duration,
    /// From there to one that jobs can be started on: boot, disks, packages.
    pub ready_for: Duration,
    pub end_for: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(5),
            start_for: Duration::from_secs(600),
            ready_for: Duration::from_secs(1200),
            end_for: Duration::from_secs(900),
        }
    }
}

/// The machine of one run, whether it is there or not.
pub struct Machine {
    pub api: Api,
    run: String,
    wanted: Wanted,
    keys: Keys,
    pace: Pace,
    cancel: CancellationToken,
}

/// So often, and for as many times [`Pace::look_every`], a run's machine is looked for that was never seen.
const LOOKS_AT_NOTHING: u32 = 8;

type Tell<'a> = &'a mut dyn FnMut(&str);

impl Machine {
    /// # Errors
    /// `run` is no run's name.
    pub fn new(api: Api, run: &str, wanted: Wanted, keys: Keys) -> Result<Self> {
        check_run(run)?;
        Ok(Self { api, run: run.to_owned(), wanted, keys, pace: Pace::default(), cancel: CancellationToken::new() })
    }

    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Gives up waiting when `cancel` is cancelled. What was begun is found again.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    #[must_use]
    pub fn run_name(&self) -> &str {
        &self.run
    }

    /// The run's machine, where there is one that has not ended.
    ///
    /// # Errors
    /// The call failed; there are several.
    pub fn find(&self) -> Result<Option<Instance>> {
        self.only_one(self.api.of_run(&self.run)?)
    }

    pub(super) fn only_one(&self, known: Vec<Instance>) -> Result<Option<Instance>> {
        let mut alive: Vec<Instance> = known.into_iter().filter(|instance| instance.state.is_alive()).collect();
        match alive.len() {
            0 | 1 => Ok(alive.pop()),
            _ => Err(Error::Several {
                run: self.run.clone(),
                region: self.api.region.clone(),
                ids: alive.into_iter().map(|instance| instance.id).collect(),
            }),
        }
    }

    fn program(&self) -> Result<PathBuf> {
        match &self.wanted.program {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe().map_err(|source| Error::Io { path: "this program".into(), source }),
        }
    }

    /// Finds the machine or asks for one, and waits until it runs and has an address.
    ///
    /// # Errors
    /// EC2 refuses, has none left, or takes too long.
    pub fn launch(&self, tell: Tell<'_>) -> Result<Instance> {
        let program = self.program()?;
        for kind in &self.wanted.kinds {
            check_program(&program, is_arm(kind))?;
        }
        let found = match self.find()? {
            Some(found) => {
                tell(&format!("found {} ({}, {})", found.id, found.kind, found.state.as_str()));
                found
            }
            None => self.ask_for(tell)?,
        };
        let begun = Clock::now();
        let mut now = found;
        while now.state != State::Running || now.public_ip.is_none() {
            if !matches!(now.state, State::Pending | State::Running) {
                return Err(gone(&now));
            }
            self.wait(begun, self.pace.start_for, &format!("the start of {}", now.id))?;
            now = self.refreshed(now)?;
        }
        tell(&format!("{} runs at {}", now.id, now.public_ip.as_deref().unwrap_or("?")));
        Ok(now)
    }

    /// EC2 may need some seconds to know what it has just made.
    fn refreshed(&self, known: Instance) -> Result<Instance> {
        let found = self.api.instances(|| Parameters::default().filter(1, "instance-id", &[&known.id]))?;
        Ok(found.into_iter().next().unwrap_or(known))
    }

    fn ask_for(&self, tell: Tell<'_>) -> Result<Instance> {
        let group = self.group()?;
        let key_name = match &self.wanted.key {
            Some((name, _)) => name.clone(),
            None => self.api.ensure_key_pair(&self.run, &self.keys.public_key()?)?,
        };
        let mut refusal = None;
        for kind in &self.wanted.kinds {
            tell(&format!("asking for {}", self.offer(kind)));
            match self.request(kind, &key_name, &group) {
                Err(error) if is_no_capacity(&error) => {
                    tell(&format!("{} has no {kind} left now", self.api.region));
                    refusal = Some(error);
                }
                Err(error) if error.code() == Some("IdempotentParameterMismatch") => return self.asked_before(),
                Err(error) => return Err(error),
                Ok(made) if !made.state.is_alive() => return Err(self.used_up(&made)),
                Ok(made) => return Ok(made),
            }
        }
        Err(Error::NoCapacity {
            region: self.api.region.clone(),
            kinds: self.wanted.kinds.join(", "),
            message: refusal.map_or_else(|| "no type was named".into(), |error| error.to_string()),
        })
    }

    /// Another process has asked for it, a moment ago: EC2 will list it.
    fn asked_before(&self) -> Result<Instance> {
        let begun = Clock::now();
        loop {
            // One look for both: it may come to be listed between two.
            let known = self.api.of_run(&self.run)?;
            let dead = known.first().cloned();
            match (self.only_one(known)?, dead) {
                (Some(found), _) => return Ok(found),
                (None, Some(dead)) => return Err(self.used_up(&dead)),
                (None, None) => {}
            }
            self.wait(begun, self.pace.look_every * 12, "the machine that was asked for before")?;
        }
    }

    /// EC2 keeps a token for longer than its machine.
    fn used_up(&self, dead: &Instance) -> Error {
        let Instance { id, state, .. } = dead;
        Error::Usage(format!("the run {} has had its machine ({id}, {}): name another run", self.run, state.as_str()))
    }

    fn group(&self) -> Result<String> {
        if let Some(group) = &self.wanted.security_group {
            return Ok(group.clone());
        }
        let from = match &self.wanted.ssh_from {
            Some(from) => from.clone(),
            None => own_address()?,
        };
        let network = self.wanted.subnet.as_deref().map(|subnet| self.api.network_of(subnet)).transpose()?;
        self.api.ensure_group(&self.run, network.as_deref(), &from)
    }

    /// One request, which makes one machine however often it is sent: the token is the run's name and the type.
    fn request(&self, kind: &str, key_name: &str, group: &str) -> Result<Instance> {
        let wanted = &self.wanted;
        let (image, user) = if let Some(image) = &wanted.image {
            (image.clone(), "ubuntu")
        } else {
            let (image, user) = self.api.usual_image(is_arm(kind))?;
            (image.id, user)
        };
        let user = wanted.ssh_user.as_deref().unwrap_or(user);
        let user_data =
            UserData { minutes: wanted.minutes, pg_client: wanted.pg_client, user: user.to_owned() }.script();
        if user_data.len() > BYTES_MAX {
            return Err(Error::Usage(format!("the first boot's script has more than {BYTES_MAX} bytes")));
        }
        let expires = OffsetDateTime::now_utc() + Duration::from_secs(u64::from(wanted.minutes) * 60);
        let expires = rfc3339(expires);
        let name = format!("pgconvoy {}", self.run);
        let tags = [("Name", name.as_str()), (TAG_RUN, &self.run), (TAG_EXPIRES, &expires), (TAG_USER, user)];
        let mut parameters = Parameters::default()
            .with("ImageId", image)
            .with("InstanceType", kind)
            .with("MinCount", "1")
            .with("MaxCount", "1")
            .with("ClientToken", format!("{}-{kind}", self.run))
            .with("KeyName", key_name)
            .with("InstanceInitiatedShutdownBehavior", "terminate")
            .with("MetadataOptions.HttpTokens", "required")
            .with("MetadataOptions.HttpEndpoint", "enabled")
            .with("UserData", base64(user_data.as_bytes()))
            .tags(1, "instance", &tags)
            .tags(2, "volume", &tags);
        parameters = match &wanted.subnet {
            None => parameters.with("SecurityGroupId.1", group),
            Some(subnet) => parameters
                .with("NetworkInterface.1.DeviceIndex", "0")
                .with("NetworkInterface.1.SubnetId", subnet)
                .with("NetworkInterface.1.SecurityGroupId.1", group)
                .with("NetworkInterface.1.AssociatePublicIpAddress", "true"),
        };
        if wanted.spot {
            parameters = parameters
                .with("InstanceMarketOptions.MarketType", "spot")
                .with("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time");
        }
        for disk in 0..Kind::named(kind).map_or(0, |kind| kind.mapped_disks) {
            let letter = char::from(b'b' + u8::try_from(disk).unwrap_or(0));
            parameters = parameters
                .with(format!("BlockDeviceMapping.{}.DeviceName", disk + 1), format!("/dev/sd{letter}"))
                .with(format!("BlockDeviceMapping.{}.VirtualName", disk + 1), format!("ephemeral{disk}"));
        }
        self.api
            .ask("RunInstances", parameters, |root| items(root, "instancesSet").into_iter().next().and_then(instance))
    }

    /// How to log in. Asks EC2 for the machine's own key where it is not yet known.
    ///
    /// # Errors
    /// The key cannot be learned; the run's key is not on this machine.
    pub fn login(&self, machine: &Instance, tell: Tell<'_>) -> Result<Login> {
        let identity = match &self.wanted.key {
            Some((_, file)) => file.clone(),
            None if self.keys.is_here() => self.keys.private_key(),
            None => {
                return Err(Error::Usage(format!(
                    "the private key of the run {} is not on this machine ({}): use the one that made the run, or \
                     bring the key with --key-name and --identity",
                    self.run,
                    self.keys.private_key().display()
                )));
            }
        };
        let login = Login {
            host: machine.public_ip.clone().ok_or_else(|| gone(machine))?,
            user: self.wanted.ssh_user.clone().or_else(|| machine.user.clone()).unwrap_or_else(|| "ubuntu".into()),
            identity,
            known_hosts: self.keys.known_hosts(),
            alias: machine.id.clone(),
            trust_first_key: self.wanted.trust_first_key,
            options: self.wanted.ssh_options.clone(),
        };
        self.keys.make_directory()?;
        if !self.is_known(machine) {
            self.learn_host_key(machine, tell)?;
        }
        Ok(login)
    }

    /// Whether one could log in now, without asking EC2 for the machine's key first.
    pub(super) fn is_known(&self, machine: &Instance) -> bool {
        self.wanted.trust_first_key || self.keys.knows(&machine.id)
    }

    /// cloud-init writes the keys on the console, and EC2 shows the console to whom it knows: nobody in between.
    fn learn_host_key(&self, machine: &Instance, tell: Tell<'_>) -> Result<()> {
        tell("asking EC2 for the machine's own key");
        let (begun, mut latest) = (Clock::now(), true);
        loop {
            let keys = match self.api.console(&machine.id, latest) {
                Ok(console) => host_keys(&console),
                // Machines before Nitro show it some minutes late, and only so.
                Err(error)
                    if latest
                        && matches!(error.code(), Some("UnsupportedOperation" | "InvalidParameterCombination")) =>
                {
                    latest = false;
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            if !keys.is_empty() {
                return self.keys.know(&machine.id, &keys);
            }
            if begun.elapsed() > self.pace.ready_for {
                return Err(Error::HostKey(format!("its console shows none after {} s", begun.elapsed().as_secs())));
            }
            self.check_alive(machine)?;
            self.wait(begun, self.pace.ready_for * 2, "the machine's key")?;
        }
    }

    fn check_alive(&self, machine: &Instance) -> Result<()> {
        let now = self.refreshed(machine.clone())?;
        if matches!(now.state, State::Pending | State::Running) { Ok(()) } else { Err(gone(&now)) }
    }

    /// Waits until it answers, has done its first boot, and pgconvoy is on it.
    ///
    /// # Errors
    /// It ended, or could not make itself ready, or takes too long.
    pub fn make_ready(&self, machine: &Instance, tell: Tell<'_>) -> Result<Login> {
        let login = self.login(machine, tell)?;
        let begun = Clock::now();
        let mut said = String::new();
        loop {
            let state = match login.greet().and_then(|()| login.install_script()).and_then(|()| login.machine_state()) {
                Ok(state) => state,
                Err(error @ ssh::Error::Connection { .. }) => {
                    tracing::debug!(%error, "not yet");
                    "starting: no answer yet".to_owned()
                }
                Err(error) => return Err(error.into()),
            };
            if state == "ready" {
                break;
            }
            if let Some(why) = state.strip_prefix("failed: ") {
                return Err(Error::NotReady(why.to_owned()));
            }
            if state != said {
                tell(&state);
                said = state;
            }
            self.check_alive(machine)?;
            self.wait(begun, self.pace.ready_for, "the first boot")?;
        }
        tell("bringing pgconvoy");
        let sent = login.install_program(&self.program()?)?;
        tell(if sent { "pgconvoy is there" } else { "pgconvoy was there" });
        Ok(login)
    }

    /// The run's machine, and how to log in.
    ///
    /// # Errors
    /// There is none, or it cannot be reached.
    pub fn reach(&self) -> Result<(Instance, Login)> {
        let machine =
            self.find()?.ok_or_else(|| Error::NotThere { run: self.run.clone(), region: self.api.region.clone() })?;
        let login = self.login(&machine, &mut |_| ())?;
        Ok((machine, login))
    }

    /// Sets the machine's end anew: so many minutes from now.
    ///
    /// # Errors
    /// It cannot be reached; then the old end stands.
    pub fn extend(&self, minutes: u32) -> Result<OffsetDateTime> {
        let (machine, login) = self.reach()?;
        let timer = "/etc/systemd/system/pgconvoy-end.timer";
        let line = format!(
            "shutdown -P +{minutes} && at=$(date -u -d '+{minutes} minutes' '+%Y-%m-%d %H:%M:%S UTC') && \
             sed -i \"s/^OnCalendar=.*/OnCalendar=$at/\" {timer} && systemctl daemon-reload && \
             systemctl restart pgconvoy-end.timer"
        );
        login.as_root("setting the end", &line)?;
        let end = OffsetDateTime::now_utc() + Duration::from_secs(u64::from(minutes) * 60);
        self.api.tag(&machine.id, TAG_EXPIRES, &rfc3339(end))?;
        Ok(end)
    }

    /// The type that is asked for first.
    pub(super) fn first_kind(&self) -> &str {
        self.wanted.kinds.first().map_or(DEFAULT_KIND, String::as_str)
    }

    pub(super) fn offer(&self, kind: &str) -> String {
        let price = Kind::named(kind).and_then(|kind| kind.price_in(&self.api.region));
        let spot = if self.wanted.spot { " (spot, so for less)" } else { "" };
        let price = price.map_or_else(
            || ", at a price that is not known here".to_owned(),
            |price| {
                let most = price * f64::from(self.wanted.minutes) / 60.0;
                format!(", about ${price:.2} an hour{spot}, at most ${most:.0}")
            },
        );
        format!("{kind} in {}{price}, for {} hours at most", self.api.region, hours(self.wanted.minutes))
    }

    fn wait(&self, begun: Clock, longest: Duration, what: &str) -> Result<()> {
        if begun.elapsed() > longest {
            return Err(Error::TooSlow { what: what.to_owned(), waited_s: longest.as_secs() });
        }
        // The first looks come sooner: some things take a second.
        let pause = self.pace.look_every.min(Duration::from_millis(300) + begun.elapsed() / 4);
        let until = Clock::now() + pause;
        while Clock::now() < until {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(20).min(pause));
        }
        Ok(())
    }

    /// Ends every machine of the run, and says which; proven by EC2's own word.
    ///
    /// # Errors
    /// EC2 refuses or takes too long.
    pub fn end(&self, tell: Tell<'_>) -> Result<Vec<String>> {
        let begun = Clock::now();
        let (mut asked, mut looks_at_nothing, mut was_here) = (Vec::new(), 0, false);
        loop {
            let known = self.api.of_run(&self.run)?;
            was_here |= !known.is_empty();
            let alive: Vec<String> =
                known.iter().filter(|one| one.state.is_alive()).map(|one| one.id.clone()).collect();
            if !alive.is_empty() {
                tell(&format!("ending {}", alive.join(", ")));
                self.api.terminate(&alive)?;
                asked.extend(alive.into_iter().filter(|id| !asked.contains(id)).collect::<Vec<_>>());
            }
            let is_over = known.iter().all(|one| one.state == State::Terminated);
            looks_at_nothing = if is_over { looks_at_nothing + 1 } else { 0 };
            // One that was asked for a moment ago, by a process that died or still waits, is listed some seconds later.
            let looked_for_long =
                looks_at_nothing >= LOOKS_AT_NOTHING && begun.elapsed() >= self.pace.look_every * LOOKS_AT_NOTHING;
            if looks_at_nothing >= 2 && (was_here || looked_for_long) {
                break;
            }
            if looks_at_nothing == 2 {
                tell("no machine of the run is listed: looking some more, for one that was asked for just now");
            }
            self.wait(begun, self.pace.end_for, "the machine's end")?;
        }
        self.clear(tell)?;
        // A machine in another region would be out of reach without its key.
        if was_here {
            self.keys.forget()?;
        }
        Ok(asked)
    }

    /// Removes what was made for the run beside the machine.
    fn clear(&self, tell: Tell<'_>) -> Result<()> {
        let begun = Clock::now();
        for pair in self.api.key_pairs(&[(&format!("tag:{TAG_RUN}"), &self.run)])? {
            self.api.delete_key_pair(&pair.id)?;
        }
        for group in self.api.groups(&[(&format!("tag:{TAG_RUN}"), &self.run)])? {
            while !self.api.delete_group(&group.id)? {
                self.wait(begun, self.pace.end_for, "the firewall's end")?;
            }
        }
        tell("the key pair and the firewall of the run are gone too");
        Ok(())
    }
}

/// Refuses a program for another processor or system before anything costs money. What is no program at all shows
/// when it is run there.
fn check_program(program: &Path, arm: bool) -> Result<()> {
    use std::io::Read as _;
    let mut head = [0_u8; 20];
    std::fs::File::open(program)
        .and_then(|mut file| file.read(&mut head))
        .map_err(|source| Error::Io { path: program.display().to_string(), source })?;
    // The ELF header's e_machine: EM_X86_64 and EM_AARCH64 of <elf.h>.
    let (machine, name) = if arm { (0xb7, "arm64") } else { (0x3e, "x86-64") };
    let mach_o = [[0xcf, 0xfa, 0xed, 0xfe], [0xca, 0xfe, 0xba, 0xbe]].iter().any(|magic| head.starts_with(magic));
    if mach_o || (head.starts_with(b"\x7fELF") && u16::from_le_bytes([head[18], head[19]]) != machine) {
        return Err(Error::Usage(format!(
            "{} is not a program for Linux on {name}: name one with --program",
            program.display()
        )));
    }
    Ok(())
}

fn gone(machine: &Instance) -> Error {
    let reason = machine.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
    Error::Gone { id: machine.id.clone(), state: format!("{}{reason}", machine.state.as_str()) }
}

fn hours(minutes: u32) -> String {
    if minutes.is_multiple_of(60) { (minutes / 60).to_string() } else { format!("{:.1}", f64::from(minutes) / 60.0) }
}

/// To the second.
fn rfc3339(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

/// This machine's address as AWS sees it, as a CIDR block.
fn own_address() -> Result<String> {
    let unknown = |why: String| Error::Usage(format!("{why}: name the address that may reach ssh with --ssh-from"));
    let response = Client::new(WHO_AM_I, Authorization::None)
        .and_then(|client| client.replies_up_to(200).send(&Request::get("/")))
        .map_err(|error| unknown(format!("this machine's address is not known ({error})")))?;
    let text = String::from_utf8_lossy(&response.body);
    match text.trim().parse::<std::net::Ipv4Addr>() {
        Ok(address) => Ok(format!("{address}/32")),
        Err(_) => Err(unknown("this machine's address is not known".into())),
    }
}
