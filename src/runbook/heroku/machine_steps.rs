//! The steps of a machine that rows pass through, and of a dump that is kept. Pure functions.

use super::steps::{Action, DAY, HOUR, MINUTE, Maker, Role};
use crate::runbook::machines::MachineWish;
use crate::runbook::step::{Phase, Step, step};

impl Maker<'_> {
    /// Before the follower has caught up: what is refused is known while nothing waits for it.
    pub(super) fn machine_up(&self) -> Option<Step<Action>> {
        let wish = self.wishes.machine.as_ref()?;
        Some(Step {
            estimate_s: 5 * MINUTE,
            patience_s: HOUR,
            manual: vec![format!(
                "pgconvoy ec2 up{} --type {} --hours {}",
                self.which(wish),
                wish.machine.kinds.join(","),
                wish.machine.minutes.div_ceil(60)
            )],
            ..step(
                "machine-up",
                &format!("Make the machine that rows pass through: {}, run {}", wish.describe(), self.run),
                Phase::Ready(1),
                Action::MachineUp,
            )
        })
    }

    /// As soon as it is not needed any more: it is paid for by the second.
    pub(super) fn machine_down(&self, phase: Phase) -> Option<Step<Action>> {
        let wish = self.wishes.machine.as_ref()?;
        Some(Step {
            estimate_s: MINUTE,
            patience_s: HOUR,
            manual: vec![format!("pgconvoy ec2 down{}", self.which(wish))],
            ..step("machine-down", "End the machine, by EC2's own word", phase, Action::MachineDown)
        })
    }

    fn which(&self, wish: &MachineWish) -> String {
        format!(" --run {} --region {}", self.run, wish.region)
    }

    /// How pgconvoy is run where rows pass through. Addresses hold passwords, and are in no command line.
    pub(super) fn pgconvoy(&self, source: &str, target: &str, words: &str) -> String {
        let end = |variable, url: &str| if url.is_empty() { String::new() } else { format!("{variable}=${url} ") };
        let ends = end("PGCONVOY_SOURCE", source) + &end("PGCONVOY_TARGET", target);
        match (&self.wishes.machine, &self.wishes.elsewhere) {
            (Some(wish), _) => format!("{ends}pgconvoy ec2 run{} -- {words}", self.which(wish)),
            (None, Some(command)) => format!("{ends}{command} {words}"),
            (None, None) => format!("{ends}pgconvoy {words}"),
        }
    }

    /// To a directory first: a restore that fails does not need the source again.
    pub(super) fn dump_and_restore(&self, phase: Phase, directory: &str, move_s: u64) -> Vec<Step<Action>> {
        let jobs = self.wishes.jobs;
        let archive = format!("{directory}/{}.convoy", self.run);
        let shown = match (&self.wishes.machine, directory) {
            (Some(_), ".") => "/mnt/pgconvoy of the machine",
            (_, ".") => "this directory",
            (_, directory) => directory,
        };
        let dump = Step {
            estimate_s: move_s * 3 / 8,
            patience_s: 4 * DAY,
            manual: vec![self.pgconvoy("FOLLOWER_URL", "", &format!("dump {archive} -j {jobs}"))],
            ..step("dump", &format!("Dump everything into {shown}"), phase, Action::Dump { from: Role::Dump })
        };
        let restore = Step {
            estimate_s: move_s * 3 / 8,
            patience_s: 4 * DAY,
            manual: vec![self.pgconvoy("", "NEW_URL", &format!("restore {archive} --provider heroku -j {jobs}"))],
            ..step("restore", "Restore it into the new database", phase, Action::Restore { to: Role::New })
        };
        vec![dump, restore]
    }
}
