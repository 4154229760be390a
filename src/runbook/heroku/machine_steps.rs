//! The steps of a machine that rows pass through, and of a dump that is kept. Pure functions.

use super::steps::{Action, DAY, HOUR, MINUTE, Maker, Role, step};
use crate::runbook::machines::MachineWish;
use crate::runbook::step::{Phase, Step};

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
                wish.kinds.join(","),
                wish.minutes.div_ceil(60)
            )],
            ..step(
                "machine-up",
                &format!("Make the machine that rows pass through: {}, run {}", wish.describe(), self.run),
                Phase::Ready(1),
                Action::MachineUp { live_s: 0 },
            )
        })
    }

    /// The last before the app goes down: a run may have been held for days.
    pub(super) fn machine_still(&self) -> Option<Step<Action>> {
        let wish = self.wishes.machine.as_ref()?;
        let live_s = self.wishes.budget_s + HOUR;
        Some(Step {
            estimate_s: 5,
            patience_s: HOUR,
            manual: vec![format!("pgconvoy ec2 extend{} --hours {}", self.which(wish), live_s.div_ceil(HOUR) + 1)],
            ..step(
                "machine-still",
                "See that the machine is there, and lives for longer than the app may be down",
                Phase::Ready(1),
                Action::MachineUp { live_s },
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

    /// What runs pgconvoy where rows pass through.
    pub(super) fn pgconvoy(&self) -> String {
        match (&self.wishes.machine, &self.wishes.elsewhere) {
            (Some(wish), _) => format!("pgconvoy ec2 run{} --", self.which(wish)),
            (None, Some(command)) => command.clone(),
            (None, None) => "pgconvoy".into(),
        }
    }

    /// To a directory first: a restore that fails does not need the source again.
    pub(super) fn dump_and_restore(&self, phase: Phase, directory: &str, move_s: u64) -> Vec<Step<Action>> {
        let (pgconvoy, jobs) = (self.pgconvoy(), self.wishes.jobs);
        let archive = format!("{directory}/{}.convoy", self.run);
        let dump = Step {
            estimate_s: move_s * 3 / 8,
            patience_s: 4 * DAY,
            manual: vec![format!("{pgconvoy} dump {archive} -j {jobs}    # --source FOLLOWER_URL")],
            ..step("dump", &format!("Dump everything into {directory}"), phase, Action::Dump { from: Role::Dump })
        };
        let restore = Step {
            estimate_s: move_s * 3 / 8,
            patience_s: 4 * DAY,
            manual: vec![format!(
                "{pgconvoy} restore {archive} --provider heroku -j {jobs}    # --target NEW_URL; --resume goes on"
            )],
            ..step("restore", "Restore it into the new database", phase, Action::Restore { to: Role::New })
        };
        vec![dump, restore]
    }
}
