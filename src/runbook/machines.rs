//! Machines that a run makes for itself: what is wished for, and where they come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Error, Result};
use crate::cloud::Place;
use crate::cloud::ec2::{Api, Credentials, DEFAULT_KIND, Keys, Kind, Machine, Wanted, region_for};

/// The machine that rows pass through. Holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineWish {
    /// AWS's; empty: that of the app.
    pub region: String,
    /// Types, the best first.
    pub kinds: Vec<String>,
    /// From its first boot to its end, unless that is set anew; 0: as long as the run may take.
    pub minutes: u32,
    pub image: Option<String>,
    pub ssh_user: Option<String>,
    /// Name of a key pair at EC2, and its private key, instead of one made for the run.
    pub key: Option<(String, PathBuf)>,
    pub security_group: Option<String>,
    pub subnet: Option<String>,
    /// Who may reach ssh, as a CIDR block.
    pub ssh_from: Option<String>,
    pub ssh_options: Vec<String>,
    pub trust_first_key: bool,
    /// Major version of the pg_dump that is installed there.
    pub pg_client: u32,
    /// The pgconvoy that is brought there; `None`: this one.
    pub program: Option<PathBuf>,
}

/// A week is longer than any migration, and than any bill should be.
const MINUTES_MAX: u64 = 7 * 24 * 60;

impl Default for MachineWish {
    fn default() -> Self {
        let usual = Wanted::usual(PathBuf::new());
        Self {
            region: String::new(),
            kinds: vec![DEFAULT_KIND.to_owned()],
            minutes: 0,
            image: None,
            ssh_user: None,
            key: None,
            security_group: None,
            subnet: None,
            ssh_from: None,
            ssh_options: Vec::new(),
            trust_first_key: false,
            pg_client: usual.pg_client,
            program: None,
        }
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
        if self.minutes == 0 {
            let minutes = (expected_s.saturating_mul(2) / 60 + 4 * 60).clamp(12 * 60, MINUTES_MAX);
            self.minutes = u32::try_from(minutes).unwrap_or(u32::MAX);
        }
    }

    /// What an hour of the type costs that is asked for first, in US cents; `None`: not known.
    pub(super) fn cents_per_hour(&self) -> Option<f64> {
        self.cents_per_hour_of(self.kinds.first()?)
    }

    pub(super) fn cents_per_hour_of(&self, kind: &str) -> Option<f64> {
        Kind::named(kind).and_then(|kind| kind.price_in(&self.region)).map(|dollars| dollars * 100.0)
    }

    /// `i4i.4xlarge in us-east-1`
    pub(super) fn describe(&self) -> String {
        format!("{} in {}", self.kinds.join(" or "), self.region)
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
        let program = match &wish.program {
            Some(program) => program.clone(),
            None => {
                std::env::current_exe().map_err(|error| Error::journal(std::path::Path::new("this program"), error))?
            }
        };
        let wanted = Wanted {
            kinds: wish.kinds.clone(),
            minutes: wish.minutes,
            spot: false,
            image: wish.image.clone(),
            ssh_user: wish.ssh_user.clone(),
            key: wish.key.clone(),
            security_group: wish.security_group.clone(),
            subnet: wish.subnet.clone(),
            ssh_from: wish.ssh_from.clone(),
            ssh_options: wish.ssh_options.clone(),
            trust_first_key: wish.trust_first_key,
            pg_client: wish.pg_client,
            program,
        };
        Ok(Box::new(Machine::new(api, name, wanted, Keys::of(name)?)?.cancelled_by(cancel)))
    }
}
