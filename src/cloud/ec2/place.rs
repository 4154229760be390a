use super::machine::Machine;
use super::{Result, State};
use crate::cloud::place::{Place, Standing};
use crate::cloud::ssh::{self, Job, JobState, Watch};

type Tell<'a> = &'a mut dyn FnMut(&str);

impl Place for Machine {
    fn describe(&self) -> String {
        self.offer(self.first_kind())
    }

    fn up(&self, tell: Tell<'_>) -> Result<()> {
        let machine = self.launch(tell)?;
        self.make_ready(&machine, tell).map(drop)
    }

    fn look(&self) -> Result<Standing> {
        let known = self.api.of_run(self.run_name())?;
        let was_here = !known.is_empty();
        let Some(machine) = self.only_one(known)? else {
            return Ok(if was_here { Standing::Ended } else { Standing::Nowhere });
        };
        match machine.state {
            State::Running if machine.public_ip.is_some() && self.is_known(&machine) => {}
            State::Pending | State::Running => return Ok(Standing::Coming),
            // On its way out: nothing is started there any more.
            _ => return Ok(Standing::Ended),
        }
        let login = self.login(&machine, &mut |_| ())?;
        match login.is_ready() {
            Ok(true) => Ok(Standing::Ready { kind: machine.kind, until: machine.expires }),
            Ok(false) | Err(ssh::Error::Connection { .. }) => Ok(Standing::Coming),
            Err(error) => Err(error.into()),
        }
    }

    fn extend(&self, minutes: u32) -> Result<()> {
        Machine::extend(self, minutes).map(drop)
    }

    fn run(&self, job: &Job, watch: &Watch, on_line: &mut dyn FnMut(&str)) -> Result<u8> {
        let (_, login) = self.reach()?;
        login.start(job, watch)?;
        Ok(login.follow(&job.id, watch, on_line)?)
    }

    fn job_state(&self, id: &str) -> Result<JobState> {
        Ok(self.reach()?.1.job_state(id)?)
    }

    fn stop(&self, id: &str) -> Result<()> {
        Ok(self.reach()?.1.stop(id)?)
    }

    fn down(&self, tell: Tell<'_>) -> Result<()> {
        self.end(tell).map(drop)
    }
}
