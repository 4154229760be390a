//! A small blocking client for the providers' interfaces: one request, one reply, both held in memory.
//!
//! - TLS is rustls with ring and the system's certificates. `http://` is refused except to this machine.
//! - Redirects are not followed: the key would travel along.
//! - A request is sent again only where the caller said [`Repeat::Safe`]: after a 429, a 5xx, a failed connection or
//!   a lost reply. `Retry-After` is kept to; else the wait doubles, with jitter.
//! - Every request gets a new connection: one that the provider has closed meanwhile would look like a lost reply.
//! - Headers and bodies are not shown by `Debug`, and not part of any error.

mod error;
mod request;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::model::Secret;

pub use error::{Effect, Error, ErrorKind, Result};
pub use request::{Method, Repeat, Request, Response, segment};
use transport::Transport;

/// How a request says who sends it.
#[derive(Clone)]
pub enum Authorization {
    None,
    /// `Authorization: Bearer …`
    Bearer(Secret),
    /// `Authorization: Basic …`, RFC 7617.
    Basic {
        user: String,
        password: Secret,
    },
    /// Headers made of each request anew, as for AWS.
    Signed(Arc<dyn Sign>),
}

/// Signs requests.
pub trait Sign: Send + Sync {
    /// The headers to add to `request`, which goes to `host` (with the port, where it is not the scheme's own).
    ///
    /// # Errors
    /// Says why it cannot be signed, without secrets.
    fn headers(&self, host: &str, request: &Request) -> std::result::Result<Vec<(String, Secret)>, String>;
}

/// What a reply means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// `passes`: the same request may succeed later.
    Refused {
        id: Option<String>,
        message: String,
        passes: bool,
    },
}

/// How long, and how often.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// The wait after the first attempt; doubled after every other, up to `longest_wait`.
    pub first_wait: Duration,
    pub longest_wait: Duration,
    /// A `Retry-After` above this ends the request: waiting for less would be in vain.
    pub longest_retry_after: Duration,
    /// Below so many requests that the provider still takes, each waits `spared_wait` first.
    pub spare_below: u64,
    pub spared_wait: Duration,
    pub connect_timeout: Duration,
    /// From the first byte sent to the last one received.
    pub reply_timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 7,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(20),
            longest_retry_after: Duration::from_secs(180),
            // Heroku gives back 75 a minute.
            spare_below: 25,
            spared_wait: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(60),
        }
    }
}

/// No reply of a provider is anywhere near.
const REPLY_BYTES_MAX: u64 = 16 << 20;
/// Of a provider's message, so much is kept.
const MESSAGE_CHARS_MAX: usize = 600;
const NO_LIMIT_KNOWN: u64 = u64::MAX;

/// A provider's interface at one address.
pub struct Client {
    transport: Transport,
    authorization: Authorization,
    headers: Vec<(String, String)>,
    judge: fn(&Response) -> Verdict,
    patience: Patience,
    reply_bytes_max: u64,
    cancel: CancellationToken,
    remaining: AtomicU64,
}

impl Client {
    /// A client for `base_url`: `https://host[:port][/path]`, or `http://` and an address of this machine. Replies are
    /// judged by [`judge_json`]. Reads the system's certificates.
    ///
    /// # Errors
    /// `Unsendable`: not such a URL, or no certificate was found.
    pub fn new(base_url: &str, authorization: Authorization) -> Result<Self> {
        Self::with_patience(base_url, authorization, Patience::default())
    }

    /// The same with other waits and limits.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_patience(base_url: &str, authorization: Authorization, patience: Patience) -> Result<Self> {
        let transport = Transport::new(base_url, &patience).map_err(|kind| Error {
            method: Method::Get,
            path: "/".into(),
            attempts: 0,
            kind,
            earlier_unknown: false,
        })?;
        Ok(Self {
            transport,
            authorization,
            headers: Vec::new(),
            judge: judge_json,
            patience,
            reply_bytes_max: REPLY_BYTES_MAX,
            cancel: CancellationToken::new(),
            remaining: AtomicU64::new(NO_LIMIT_KNOWN),
        })
    }

    /// Adds a header to every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Judges replies by `judge`.
    #[must_use]
    pub fn judged_by(mut self, judge: fn(&Response) -> Verdict) -> Self {
        self.judge = judge;
        self
    }

    /// Refuses replies above so many bytes.
    #[must_use]
    pub fn replies_up_to(mut self, bytes: u64) -> Self {
        self.reply_bytes_max = bytes;
        self
    }

    /// Gives up waiting when `cancel` is cancelled, and sends nothing more. A request that is
    /// under way is waited for: its effect matters.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The host, with the port where it is not the scheme's own.
    #[must_use]
    pub fn host(&self) -> &str {
        self.transport.host()
    }

    /// Sends `request` until an answer stands. Blocks.
    ///
    /// # Errors
    /// What [`ErrorKind`] lists; see [`Error::effect`] for what may have happened at the provider.
    pub fn send(&self, request: &Request) -> Result<Response> {
        self.send_until(request, None)
    }

    /// The same, but neither sends nor waits for anything after `until`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send_until(&self, request: &Request, until: Option<Instant>) -> Result<Response> {
        let (mut attempts, mut earlier_unknown) = (0, false);
        loop {
            let fail = |kind, attempts, earlier_unknown| Error {
                method: request.method,
                path: request.path.clone(),
                attempts,
                kind,
                earlier_unknown,
            };
            self.spare().map_err(|kind| fail(kind, attempts, earlier_unknown))?;
            attempts += 1;
            let (kind, wait) = match self.attempt(request, until) {
                Attempt::Done(response) => return Ok(response),
                Attempt::Failed(kind) => return Err(fail(kind, attempts, earlier_unknown)),
                Attempt::MayPass(kind, asked) => (kind, asked.unwrap_or_else(|| self.back_off(attempts))),
            };
            let ends = until.is_some_and(|until| Instant::now() + wait >= until);
            let too_long = ends || wait > self.patience.longest_retry_after.max(self.patience.longest_wait);
            if request.repeat == Repeat::Never || attempts >= self.patience.attempts || too_long {
                return Err(fail(kind, attempts, earlier_unknown));
            }
            earlier_unknown |= kind.effect() == Effect::Unknown;
            tracing::debug!(%kind, method = %request.method, path = request.path, wait_ms = wait.as_millis(), "again");
            self.pause(wait).map_err(|kind| fail(kind, attempts, earlier_unknown))?;
        }
    }

    /// Sends `request` and reads the reply as JSON.
    ///
    /// # Errors
    /// As [`Client::send`]; `NotUnderstood` where the reply is not a `T`. The request has then been acted on.
    pub fn json<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let response = self.send(request)?;
        serde_json::from_slice(&response.body).map_err(|error| Error {
            method: request.method,
            path: request.path.clone(),
            attempts: 1,
            kind: ErrorKind::NotUnderstood { problem: json_problem(&error) },
            earlier_unknown: false,
        })
    }

    fn attempt(&self, request: &Request, until: Option<Instant>) -> Attempt {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Attempt::MayPass(ErrorKind::NotSent("there is no time left for it".into()), None);
        }
        let mut headers: Vec<(String, Secret)> =
            self.headers.iter().map(|(name, value)| (name.clone(), Secret::new(value.as_str()))).collect();
        headers.extend(request.headers.iter().cloned());
        match self.authorization.headers(self.transport.host(), request) {
            Ok(authorization) => headers.extend(authorization),
            Err(problem) => return Attempt::Failed(ErrorKind::Unsendable(problem)),
        }
        let response = match self.transport.exchange(request, &headers, (self.reply_bytes_max, left)) {
            Ok(response) => response,
            Err(kind @ (ErrorKind::NotSent(_) | ErrorKind::NoReply(_))) => return Attempt::MayPass(kind, None),
            Err(kind) => return Attempt::Failed(kind),
        };
        self.remaining.store(response.rate_limit_remaining().unwrap_or(NO_LIMIT_KNOWN), Ordering::Relaxed);
        match (self.judge)(&response) {
            Verdict::Fine => Attempt::Done(response),
            Verdict::Refused { id, message, passes } => {
                let kind = ErrorKind::Refused { status: response.status, id, message: shortened(&message) };
                let asked = response.retry_after_s().map(Duration::from_secs);
                if passes { Attempt::MayPass(kind, asked) } else { Attempt::Failed(kind) }
            }
        }
    }

    /// Waits a little where the provider will soon take no more requests.
    fn spare(&self) -> Result<(), ErrorKind> {
        let short = self.remaining.load(Ordering::Relaxed) < self.patience.spare_below;
        self.pause(if short { self.patience.spared_wait } else { Duration::ZERO })
    }

    /// Half of the doubled wait, and up to as much again by chance: many clients do not come back at once.
    fn back_off(&self, attempts: u32) -> Duration {
        let doubled = self.patience.first_wait.saturating_mul(1 << (attempts - 1).min(16));
        doubled.min(self.patience.longest_wait).mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    fn pause(&self, wait: Duration) -> Result<(), ErrorKind> {
        const LOOK: Duration = Duration::from_millis(50);
        let end = Instant::now() + wait;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ErrorKind::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.transport.host())
    }
}

enum Attempt {
    Done(Response),
    Failed(ErrorKind),
    /// What may pass, and the wait that the provider asks for.
    MayPass(ErrorKind, Option<Duration>),
}

impl Authorization {
    fn headers(&self, host: &str, request: &Request) -> std::result::Result<Vec<(String, Secret)>, String> {
        let value = match self {
            Self::None => return Ok(Vec::new()),
            Self::Signed(signer) => return signer.headers(host, request),
            Self::Bearer(key) => format!("Bearer {}", key.expose()),
            Self::Basic { user, password } => {
                format!("Basic {}", base64(format!("{user}:{}", password.expose()).as_bytes()))
            }
        };
        Ok(vec![("authorization".into(), Secret::new(value))])
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer(********)",
            Self::Basic { .. } => "Basic(********)",
            Self::Signed(_) => "Signed(********)",
        })
    }
}

/// RFC 4648 with padding.
#[must_use]
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) as usize & 63;
            out.push(if place <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    out
}

/// Replies whose refusals are `{"id": …, "message": …}`, as Heroku's: 2xx is fine, 408, 429 and 5xx may pass.
#[must_use]
pub fn judge_json(response: &Response) -> Verdict {
    #[derive(serde::Deserialize)]
    struct Refusal {
        id: Option<String>,
        message: Option<String>,
        error: Option<String>,
    }
    if response.is_success() {
        return Verdict::Fine;
    }
    let refusal = serde_json::from_slice::<Refusal>(&response.body).ok();
    let (id, message) = refusal.map_or((None, None), |refusal| (refusal.id, refusal.message.or(refusal.error)));
    let message = message.unwrap_or_else(|| match response.status {
        300..400 => "it points to another address".into(),
        _ => "it gave no reason".into(),
    });
    Verdict::Refused { id, message, passes: may_pass(response.status) }
}

/// Statuses of refusals that may pass: 408, 429, 5xx without 501.
#[must_use]
pub fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429) || ((500..600).contains(&status) && status != 501)
}

/// One line of bounded length without control characters.
fn shortened(message: &str) -> String {
    let clean: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect();
    let clean = clean.trim();
    if clean.is_empty() { "it gave no reason".into() } else { clean.to_owned() }
}

/// Where the JSON is wrong, without what stands there: it may be a password.
fn json_problem(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Io | serde_json::error::Category::Eof => "it ends early",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => "a member is missing or of another type",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}
