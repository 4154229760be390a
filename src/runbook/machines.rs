//! Machines that a run makes for itself: what is wished for, and where they come from.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Error, Result};
use crate::cloud::Place;
use crate::cloud::ec2::{Api, Credentials, Keys, Kind, Machine, Wanted, region_for};

/// The machine that rows pass through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineWish {
    /// AWS's; empty: that of the app.
    pub region: String,
    /// Its `minutes` may be set anew; 0: as long as the run may take.
    #[serde(flatten)]
    pub machine: Wanted,
}

/// A week is longer than any migration, and than any bill should be.
const MINUTES_MAX: u64 = 7 * 24 * 60;

impl Default for MachineWish {
    fn default() -> Self {
        Self { region: String::new(), machine: Wanted { minutes: 0, ..Wanted::default() } }
    }
}

impl MachineWish {
    /// Names the region where none is wished for: that of the app, so that rows do not travel.
    ///
    /// # Errors
    /// It is not known where the app is.
    pub(super) fn settle_region(&mut self, app_region: &str) -> Result<()> {
        if self.region.is_empty() {
            let region = region_for(app_region).ok_or_else(|| {
                Error::Usage(format!(
                    "it is not known which region of AWS `{app_region}` is: name it with --ec2-region"
                ))
            })?;
            region.clone_into(&mut self.region);
        }
        Ok(())
    }

    /// Sets the end of a machine whose run should take so long, with time to spare.
    pub(super) fn settle_end(&mut self, expected_s: u64) {
        if self.machine.minutes == 0 {
            let minutes = (expected_s.saturating_mul(2) / 60 + 4 * 60).clamp(12 * 60, MINUTES_MAX);
            self.machine.minutes = u32::try_from(minutes).unwrap_or(u32::MAX);
        }
    }

    /// What an hour of the type costs that is asked for first, in US cents; `None`: not known.
    pub(super) fn cents_per_hour(&self) -> Option<f64> {
        self.cents_per_hour_of(self.machine.kinds.first()?)
    }

    pub(super) fn cents_per_hour_of(&self, kind: &str) -> Option<f64> {
        Kind::named(kind).and_then(|kind| kind.price_in(&self.region)).map(|dollars| dollars * 100.0)
    }

    /// `i4i.4xlarge in us-east-1`
    pub(super) fn describe(&self) -> String {
        format!("{} in {}", self.machine.kinds.join(" or "), self.region)
    }
}

/// Where machines come from.
pub trait Machines: Send + Sync {
    /// The machine of that name, whether it is there or not. Nothing is asked of anybody yet.
    ///
    /// # Errors
    /// There is no key to ask with, or the name cannot be one.
    fn place(&self, name: &str, wish: &MachineWish, cancel: CancellationToken) -> Result<Box<dyn Place>>;
}

/// EC2, with the keys that its own programs use.
pub struct OnEc2;

impl Machines for OnEc2 {
    fn place(&self, name: &str, wish: &MachineWish, cancel: CancellationToken) -> Result<Box<dyn Place>> {
        let api = Api::open(&wish.region, Credentials::find()?, cancel.clone())?;
        Ok(Box::new(Machine::new(api, name, wish.machine.clone(), Keys::of(name)?)?.cancelled_by(cancel)))
    }
}
