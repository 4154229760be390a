//! From connection settings to a session that is ready for its first query.
//!
//! The one place where hosts are tried, TLS is negotiated and a server is judged: the control plane asks here which
//! server to take (`PQconnectPoll` in libpq's `fe-connect.c`; PostgreSQL's documentation, "Message Flow").

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use tokio_util::sync::CancellationToken;

use super::auth::authenticate;
use super::dial::{Patience, dial};
use super::failure::{Failure, Next, sum_up};
use super::pooler;
use super::session::Session;
use super::transport::Transport;
use crate::model::ServerVersion;
use crate::pg::conninfo::{Address, ConnInfo, Endpoint, SslMode, SslNegotiation, TargetSessionAttrs};
use crate::pg::{Error, ErrorKind, Result, ServerError, tls};

/// A connection that has logged in and has its session settings, and what the server said on the way.
pub struct WireStart {
    pub transport: Transport,
    /// From BackendKeyData: for [`cancel_request`]. Behind a proxy it is no process of the server's.
    pub backend_pid: i32,
    pub secret_key: i32,
    /// `pg_backend_pid()`: what the server's views show.
    pub server_pid: i32,
    pub parameters: HashMap<String, String>,
    pub version: ServerVersion,
    pub in_recovery: bool,
    /// Where the connection goes; [`ConnInfo::pinned`] takes further ones there.
    pub endpoint: Endpoint,
    /// Bytes that have been read beyond the last message: to be looked at before the transport is read.
    pub leftover: BytesMut,
}

impl std::fmt::Debug for WireStart {
    /// Without the key: who has it can cancel what the session does.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WireStart")
            .field("endpoint", &self.endpoint)
            .field("version", &self.version)
            .field("server_pid", &self.server_pid)
            .finish_non_exhaustive()
    }
}

/// How long a server may take to let go of a connection that is said goodbye to.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

/// How long a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// What the check of a new session asks, in this order.
const CHECK: &str = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), \
                     pg_catalog.current_setting('transaction_read_only'), \
                     pg_catalog.current_setting('server_version_num')";

/// Connects, logs in, looks whether the server will do, applies [`session_settings`].
///
/// Blocks. Where `conninfo` is pinned, only its endpoint is tried and nothing is judged again.
///
/// # Errors
/// `Connect`, `Tls`, `Auth`, `Unsupported` for a pooler, `Server` for what the checks say, `Cancelled`.
pub fn connect(conninfo: &ConnInfo, cancel: &CancellationToken) -> Result<WireStart> {
    let start = establish(conninfo, cancel)?;
    start.session.finish(start.checked)
}

/// Finds the server that `conninfo` means, and leaves it at once.
///
/// # Errors
/// As [`connect`].
pub(crate) fn choose(conninfo: &ConnInfo, cancel: &CancellationToken) -> Result<Endpoint> {
    let Established { session, .. } = establish(conninfo, cancel)?;
    let endpoint = session.endpoint.clone();
    session.close();
    Ok(endpoint)
}

struct Established<'a> {
    session: Session<'a>,
    checked: Checked,
}

/// What a server says about itself.
#[derive(Clone, Copy)]
struct Checked {
    server_pid: i32,
    in_recovery: bool,
    read_only: bool,
    version: ServerVersion,
}

fn establish<'a>(info: &'a ConnInfo, cancel: &CancellationToken) -> Result<Established<'a>> {
    let mut errors = Vec::new();
    // A standby, and if there is none, anything.
    let passes: &[TargetSessionAttrs] = match info.target_session_attrs {
        _ if info.endpoint().is_some() => &[TargetSessionAttrs::Any],
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        ref wanted => std::slice::from_ref(wanted),
    };
    for wanted in passes {
        errors.clear();
        for (host_index, addresses) in candidates(info) {
            let addresses = match addresses {
                Ok(addresses) => addresses,
                Err(error) => {
                    errors.push(Failure::resolve(info, host_index, error).error);
                    continue;
                }
            };
            for address in addresses {
                match try_address(info, host_index, &address, cancel)
                    .and_then(|session| check(session, *wanted, cancel))
                {
                    Ok(established) => return Ok(established),
                    Err(Failure { error, next: Next::Address }) => errors.push(error),
                    Err(Failure { error, .. }) => return Err(error),
                }
            }
        }
    }
    Err(sum_up(info, errors))
}

type Candidate = (usize, std::io::Result<Vec<Address>>);

/// Every host in turn, its addresses resolved when it is its turn; of a pinned `info`, the one endpoint.
fn candidates(info: &ConnInfo) -> Box<dyn Iterator<Item = Candidate> + '_> {
    match info.endpoint() {
        Some(endpoint) => Box::new(std::iter::once((endpoint.host_index, Ok(vec![endpoint.address.clone()])))),
        None => Box::new(info.host_order().into_iter().map(|index| (index, info.addresses(index)))),
    }
}

/// What a connection does about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Plain,
    /// As the server likes.
    Ask,
    Must,
}

/// What to try at an address, in this order.
fn encryptions(info: &ConnInfo, address: &Address) -> &'static [Encryption] {
    use Encryption::{Ask, Must, Plain};
    if let Some(endpoint) = info.endpoint() {
        return if endpoint.encrypted { &[Must] } else { &[Plain] };
    }
    match (address, info.tls.mode) {
        (Address::Unix(_), _) | (_, SslMode::Disable) => &[Plain],
        (_, SslMode::Allow) => &[Plain, Must],
        (_, SslMode::Prefer) => &[Ask, Plain],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Must],
    }
}

fn try_address<'a>(
    info: &'a ConnInfo,
    host_index: usize,
    address: &Address,
    cancel: &CancellationToken,
) -> std::result::Result<Session<'a>, Failure> {
    let proxied = info.endpoint().is_some_and(|endpoint| endpoint.proxied);
    let endpoint = Endpoint { host_index, address: address.clone(), encrypted: false, proxied };
    let mut first_failure = None;
    for encryption in encryptions(info, address) {
        match log_in(info, endpoint.clone(), *encryption, cancel) {
            Ok(session) => return Ok(session),
            Err(failure) if failure.next == Next::OtherEncryption => {
                tracing::debug!(side = %info.side(), ?encryption, error = %failure.error, "trying the other encryption");
                // What is to be told is why the way that was asked for did not work.
                first_failure.get_or_insert(failure);
            }
            // A login that got further than the first says more; any other failure of the second way says less.
            Err(failure) if matches!(*failure.error.kind, ErrorKind::Auth { .. } | ErrorKind::Cancelled) => {
                return Err(failure);
            }
            Err(failure) => return Err(first_failure.unwrap_or(failure)),
        }
    }
    Err(first_failure.unwrap_or_else(|| Failure::connect(info, &endpoint, std::io::ErrorKind::AddrNotAvailable.into())))
}

fn log_in<'a>(
    info: &'a ConnInfo,
    mut endpoint: Endpoint,
    encryption: Encryption,
    cancel: &CancellationToken,
) -> std::result::Result<Session<'a>, Failure> {
    let patience = Patience::new(cancel, info.connect_timeout);
    let transport = open(info, &mut endpoint, encryption, patience)?;
    let mut session = Session::new(info, endpoint, transport);
    let parameters = [
        ("user", Some(info.user())),
        ("database", Some(info.dbname())),
        ("application_name", Some(info.application_name.as_str())),
        ("client_encoding", Some("UTF8")),
        ("options", info.options.as_deref()),
    ];
    let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    session.send(|out| frontend::startup_message(parameters, out))?;
    authenticate(&mut session)?;
    loop {
        match session.receive()? {
            Message::BackendKeyData(body) => session.note_key(&body),
            Message::ReadyForQuery(_) => break,
            Message::ErrorResponse(body) => {
                return Err(Failure::login(info, &session.endpoint, &decode_fields(body.fields()), true));
            }
            _ => return Err(session.surprise("an unexpected message after the login")),
        }
    }
    session.transport.clear_deadline();
    Ok(session)
}

/// A transport to the endpoint, with TLS where that is wanted and possible.
fn open(
    info: &ConnInfo,
    endpoint: &mut Endpoint,
    encryption: Encryption,
    patience: Patience,
) -> std::result::Result<Transport, Failure> {
    let socket = dial(info, &endpoint.address, &patience).map_err(|error| Failure::io(info, endpoint, error))?;
    let mut transport = Transport::new(socket, patience);
    if encryption == Encryption::Plain {
        return Ok(transport);
    }
    let config = tls::client_config(info).map_err(Failure::stop)?;
    let name = tls::server_name(info, endpoint.host_index, &endpoint.address).map_err(Failure::stop)?;
    if info.tls.negotiation == SslNegotiation::Postgres && !ask_for_tls(info, endpoint, encryption, &mut transport)? {
        return Ok(transport);
    }
    let shaken = rustls::ClientConnection::new(config, name)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
        .and_then(|session| transport.start_tls(session));
    match shaken {
        Ok(()) => {
            endpoint.encrypted = true;
            Ok(transport)
        }
        Err(error) if super::Cancelled::is(&error) || error.kind() == std::io::ErrorKind::TimedOut => {
            Err(Failure::io(info, endpoint, error))
        }
        Err(error) => {
            let next = if encryption == Encryption::Ask { Next::OtherEncryption } else { Next::Stop };
            Err(Failure { error: tls::handshake_error(info, endpoint.host_index, &error), next })
        }
    }
}

/// SSLRequest: whether the server agrees. Reads one byte and not one more: what comes after must be TLS.
fn ask_for_tls(
    info: &ConnInfo,
    endpoint: &Endpoint,
    encryption: Encryption,
    transport: &mut Transport,
) -> std::result::Result<bool, Failure> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    let mut answer = [0];
    let read = transport.write_all(&request).and_then(|()| transport.read(&mut answer));
    match (read.map_err(|error| Failure::io(info, endpoint, error))?, answer[0]) {
        (0, _) => Err(Failure::io(info, endpoint, std::io::ErrorKind::UnexpectedEof.into())),
        (_, b'S') => Ok(true),
        (_, b'N') if encryption == Encryption::Ask => Ok(false),
        (_, b'N' | b'E') => {
            let next = if encryption == Encryption::Ask { Next::OtherEncryption } else { Next::Stop };
            let kind = ErrorKind::Tls {
                address: info.host_address(endpoint.host_index),
                message: "the server does not do TLS".into(),
                hint: Some("switch ssl on at the server, or give sslmode=prefer or disable where that is safe".into()),
            };
            Err(Failure { error: Error::new(info.side(), kind), next })
        }
        _ => Err(Failure::connect(info, endpoint, std::io::Error::other("what answers is not a PostgreSQL server"))),
    }
}

/// Whether this server will do, and whether it is one.
fn check<'a>(
    mut session: Session<'a>,
    wanted: TargetSessionAttrs,
    cancel: &CancellationToken,
) -> std::result::Result<Established<'a>, Failure> {
    let row = session.query(CHECK)?.pop().unwrap_or_default();
    let checked = read_check(&row).ok_or_else(|| session.surprise("a strange answer to the first query"))?;
    if let Some(reason) = unsuitable(wanted, &checked) {
        let error =
            std::io::Error::other(format!("{reason}, but target_session_attrs={}", session.info.target_session_attrs));
        return Err(Failure::connect(session.info, &session.endpoint, error));
    }
    if session.info.endpoint().is_none() {
        let (info, endpoint) = (session.info, session.endpoint.clone());
        let encryption = if endpoint.encrypted { Encryption::Must } else { Encryption::Plain };
        session.endpoint.proxied =
            pooler::judge(&mut session, checked.server_pid, || log_in(info, endpoint, encryption, cancel))?;
    }
    Ok(Established { session, checked })
}

fn read_check(row: &[Option<String>]) -> Option<Checked> {
    let [Some(pid), Some(in_recovery), Some(read_only), Some(version)] = row else { return None };
    Some(Checked {
        server_pid: pid.parse().ok()?,
        in_recovery: in_recovery == "t",
        read_only: read_only == "on",
        version: ServerVersion(version.parse().ok()?),
    })
}

fn unsuitable(wanted: TargetSessionAttrs, checked: &Checked) -> Option<&'static str> {
    let read_only = checked.read_only || checked.in_recovery;
    match wanted {
        TargetSessionAttrs::ReadWrite if read_only => Some("the session is read-only"),
        TargetSessionAttrs::ReadOnly if !read_only => Some("the session is not read-only"),
        TargetSessionAttrs::Primary if checked.in_recovery => Some("the server is a standby"),
        TargetSessionAttrs::Standby if !checked.in_recovery => Some("the server is not a standby"),
        _ => None,
    }
}

impl Session<'_> {
    fn finish(mut self, checked: Checked) -> Result<WireStart> {
        self.query(&session_settings(checked.version).join("; ")).map_err(|failure| failure.error)?;
        Ok(WireStart {
            transport: self.transport,
            backend_pid: self.process_id,
            secret_key: self.secret_key,
            server_pid: checked.server_pid,
            parameters: self.parameters,
            version: checked.version,
            in_recovery: checked.in_recovery,
            endpoint: self.endpoint,
            leftover: self.input,
        })
    }
}

/// What every session of ours sets, on both planes: no timeout of the server's or the role's ends a transfer, names
/// are never looked up by chance, text looks the same on both sides, and rows are never hidden without a word.
pub fn session_settings(version: ServerVersion) -> Vec<String> {
    let always = ServerVersion(0);
    let settings = [
        (always, "statement_timeout = 0"),
        (ServerVersion::V9_3, "lock_timeout = 0"),
        (ServerVersion::V9_6, "idle_in_transaction_session_timeout = 0"),
        // Queries of the catalogs of many tables look costly, and compiling them costs more.
        (ServerVersion::V11, "jit = off"),
        (ServerVersion::V14, "idle_session_timeout = 0"),
        (ServerVersion::V17, "transaction_timeout = 0"),
        // Whoever has waited for a lock must see what its holder has committed.
        (always, "default_transaction_isolation = 'read committed'"),
        (always, "search_path = ''"),
        (ServerVersion::V9_5, "row_security = off"),
        (always, "DateStyle = 'ISO, MDY'"),
        (always, "IntervalStyle = 'postgres'"),
        (always, "extra_float_digits = 3"),
        (always, "bytea_output = 'hex'"),
        (always, "xmloption = content"),
        (always, "array_nulls = on"),
        (always, "standard_conforming_strings = on"),
        (always, "synchronize_seqscans = off"),
    ];
    let mut statements: Vec<_> =
        settings.iter().filter(|(since, _)| version >= *since).map(|(_, setting)| format!("SET {setting}")).collect();
    if version < ServerVersion::V9_5 {
        // Renegotiation in the middle of a stream: rustls does not do it, and nobody misses it.
        statements.push("SET ssl_renegotiation_limit = 0".into());
    }
    statements
}

/// Asks the server to cancel what the session with this key is doing. `conninfo` must be pinned to the endpoint of
/// that session; TLS is used where the session used it. Blocks, at most about 10 seconds.
///
/// The server never says whether it did anything.
///
/// # Errors
/// The server could not be reached.
pub fn cancel_request(conninfo: &ConnInfo, backend_pid: i32, secret_key: i32) -> Result<()> {
    let Some(endpoint) = conninfo.endpoint() else {
        return Err(Error::protocol(conninfo.side(), "a cancel request needs the endpoint of its session"));
    };
    let patience = Patience::new(&CancellationToken::new(), Some(CANCEL_TIMEOUT));
    let encryption = if endpoint.encrypted { Encryption::Must } else { Encryption::Plain };
    let mut transport = open(conninfo, &mut endpoint.clone(), encryption, patience).map_err(|failure| failure.error)?;
    let mut request = BytesMut::new();
    frontend::cancel_request(backend_pid, secret_key, &mut request);
    transport.write_all(&request).map_err(|error| Failure::io(conninfo, endpoint, error).error)?;
    // The server closes when the signal is sent; whatever else happens, the request is on its way.
    let mut rest = [0; 64];
    while matches!(transport.read(&mut rest), Ok(count) if count > 0) {}
    Ok(())
}

/// The fields of an ErrorResponse or NoticeResponse, given the body of the message (PostgreSQL's documentation,
/// "Error and Notice Message Fields"). What is not UTF-8 is replaced, what is broken left out.
pub fn decode_error(mut body: &[u8]) -> ServerError {
    let mut decoder = Decoder::default();
    while let [code, rest @ ..] = body {
        let Some(end) = rest.iter().position(|byte| *byte == 0) else { break };
        decoder.add(*code, &rest[..end]);
        body = &rest[end + 1..];
    }
    decoder.finish()
}

/// The same for a message that `postgres-protocol` has parsed.
pub(crate) fn decode_fields(mut fields: ErrorFields<'_>) -> ServerError {
    let mut decoder = Decoder::default();
    while let Ok(Some(field)) = fields.next() {
        decoder.add(field.type_(), field.value_bytes());
    }
    decoder.finish()
}

#[derive(Default)]
struct Decoder {
    error: ServerError,
    /// The severity in the server's language: all that servers before 9.6 send.
    localized: Option<String>,
}

impl Decoder {
    fn add(&mut self, code: u8, value: &[u8]) {
        let value = String::from_utf8_lossy(value).into_owned();
        match code {
            b'V' => self.error.severity = value,
            b'S' => self.localized = Some(value),
            b'C' => self.error.sqlstate = value,
            b'M' => self.error.message = value,
            b'D' => self.error.detail = Some(value),
            b'H' => self.error.hint = Some(value),
            b'W' => self.error.context = Some(value),
            _ => {}
        }
    }

    fn finish(self) -> ServerError {
        let Self { mut error, localized } = self;
        if error.severity.is_empty() {
            error.severity = localized.unwrap_or_default();
        }
        error
    }
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
