//! Heroku: the Platform API, whose schema is published, and the Data API, which is not.
//!
//! [`Heroku`] speaks both over a [`Transport`]. Nothing here repeats a request that changes something: whoever asked looks
//! first whether it has happened.

mod data;
mod error;
mod platform;
mod transport;
mod values;

pub use data::{Behind, Database, WaitStatus};
pub use error::{Error, Result};
pub use platform::{Heroku, NewAddOn};
pub use transport::{Api, Credentials, HttpTransport, Reply, Request, Transport};
pub use values::{AddOn, App, Attachment, Dyno, Plan, Price, Process, Release};
