//! A stand-in for Heroku's two APIs: one app, its databases, and everything that can go wrong.
//!
//! [`World`] answers requests; [`HerokuServer`] does so over HTTP, so that the real heroku program can ask too. Databases are
//! real servers where addresses are given for them; what happens to an add-on is told to a listener, who may do the
//! same to the server behind it.

mod routes;
mod server;
mod state;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

pub use server::HerokuServer;
pub use state::{AddOnState, AttachmentState, ProcessState, ReleaseState, State};

/// The key that the stand-in takes.
pub const KEY: &str = "stand-in-key";

/// How the app begins.
#[derive(Clone, Debug)]
pub struct Setup {
    pub app: String,
    /// `standard-0`.
    pub plan: String,
    pub version: u32,
    /// The address of the app's first database.
    pub source_url: String,
    /// Addresses for add-ons to come, by a part of their name. Others get one where nobody listens.
    pub urls: Vec<(String, String)>,
    /// Type, quantity, size.
    pub formation: Vec<(String, u32, String)>,
    /// Times one asks until an add-on is provisioned.
    pub provision_polls: u32,
    /// Commits that a new follower is behind; one less whenever one asks.
    pub lag: u64,
    /// Times one asks until a new database can be followed.
    pub followable_polls: u32,
    /// Times one asks until a release that leads DATABASE elsewhere has ended.
    pub release_polls: u32,
    pub bytes: u64,
}

impl Default for Setup {
    fn default() -> Self {
        let process = |kind: &str, quantity| (kind.to_owned(), quantity, "Standard-1X".to_owned());
        Self {
            app: "sphinx".into(),
            plan: "standard-0".into(),
            version: 14,
            source_url: "postgres://u0:p0@127.0.0.1:1/d0".into(),
            urls: Vec::new(),
            formation: vec![process("web", 3), process("worker", 1)],
            provision_polls: 2,
            lag: 3,
            followable_polls: 2,
            release_polls: 0,
            bytes: 120 << 30,
        }
    }
}

/// What goes wrong, and how often.
#[derive(Clone, Debug)]
pub struct Fault {
    pub method: &'static str,
    /// A part of the path.
    pub path: String,
    pub kind: FaultKind,
    /// How many requests go well before.
    pub after: u32,
    pub times: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Answers so, and does nothing.
    Status(u16),
    /// Does it, and answers so.
    DoneBut(u16),
    /// 429, to come again after so many seconds.
    TooMany(u64),
    /// Does it, and never answers.
    LostReply,
    /// Neither.
    LostRequest,
    /// Never answers, and does it only after so many requests more.
    Late(u32),
}

/// What happened to the app; for those who do the same to the servers behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    Unfollowed { url: String },
    Maintenance(bool),
    Scaled,
    Promoted { addon: String },
    Destroyed { addon: String },
}

/// One request and its answer. No bodies: they hold addresses.
#[derive(Clone, Debug)]
pub struct Logged {
    pub method: String,
    pub path: String,
    pub status: u16,
}

/// What goes back; `None` for the body of a reply that is lost.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Option<Value>,
    pub retry_after_s: Option<u64>,
}

type Listener = Arc<dyn Fn(&Happening) + Send + Sync>;

/// The app and all that belongs to it.
pub struct World {
    state: Mutex<State>,
    listener: Mutex<Option<Listener>>,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        Self { state: Mutex::new(State::new(setup)), listener: Mutex::new(None) }
    }

    /// Tells somebody what happens, before the answer goes out.
    pub fn listen(&self, listener: impl Fn(&Happening) + Send + Sync + 'static) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(listener));
    }

    pub fn fail(&self, fault: Fault) {
        self.with(|state| state.faults.push(fault));
    }

    /// Looks at the state, or changes it behind everybody's back.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers one request.
    pub fn handle(&self, method: &str, path: &str, body: &Value) -> Answer {
        let (answer, happened) = self.with(|state| {
            state.do_what_is_late();
            let fault = state.next_fault(method, path);
            let done = match fault {
                Some(FaultKind::Late(requests_left)) => {
                    state.postpone(requests_left, (method, path, body));
                    Err((0, String::new()))
                }
                Some(FaultKind::Status(status)) => Err((status, "injected failure".to_owned())),
                Some(FaultKind::TooMany(_)) => Err((429, "Your account reached the API rate limit".to_owned())),
                Some(FaultKind::LostRequest) => Err((0, String::new())),
                _ => routes::answer(state, method, path, body),
            };
            let (status, body) = match done {
                Ok((status, body)) => (status, body),
                Err((status, message)) => (status, json!({ "id": "refused", "message": message })),
            };
            let answer = match fault {
                Some(FaultKind::LostReply | FaultKind::LostRequest | FaultKind::Late(_)) => {
                    Answer { status, body: None, retry_after_s: None }
                }
                Some(FaultKind::DoneBut(status)) => {
                    let body = Some(json!({ "id": "injected", "message": "done, but" }));
                    Answer { status, body, retry_after_s: None }
                }
                Some(FaultKind::TooMany(seconds)) => Answer { status, body: Some(body), retry_after_s: Some(seconds) },
                _ => Answer { status, body: Some(body), retry_after_s: None },
            };
            state.log.push(Logged { method: method.into(), path: path.into(), status: answer.status });
            (answer, std::mem::take(&mut state.happened))
        });
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(listener) = listener {
            for happening in &happened {
                listener(happening);
            }
        }
        answer
    }
}
