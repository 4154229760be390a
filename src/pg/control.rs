//! The control plane: tokio-postgres on a socket, a TLS and a choice of server that the data plane shares.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::{NoTls, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, config};
use tokio_util::sync::CancellationToken;

use super::conninfo::{Address, ChannelBinding, ConnInfo, Endpoint};
use super::tls::{self, Connector};
use super::wire::{self, Patience};
use super::{Error, Result, ServerError};
use crate::model::{ServerVersion, Side};

/// How long a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection of the control plane. Its session has the settings of [`wire::session_settings`].
pub struct Control {
    pub client: Client,
    /// The server that was chosen: `conninfo.pinned(&control.endpoint)` takes further connections there.
    pub endpoint: Endpoint,
    pub version: ServerVersion,
    pub in_recovery: bool,
    pinned: ConnInfo,
    warnings: Warnings,
}

/// WARNINGs of a server that nobody has asked for yet, the oldest first.
type Warnings = Arc<Mutex<VecDeque<ServerWarning>>>;

/// More are forgotten: what a statement of ours warns of is asked for as soon as it is over.
const WARNINGS_MAX: usize = 100;

/// A WARNING that a statement gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerWarning {
    pub message: String,
    /// The file of the server's source that it comes from: messages are in the server's language.
    pub file: String,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, version, in_recovery, .. } = self;
        f.debug_struct("Control")
            .field("endpoint", endpoint)
            .field("version", version)
            .field("in_recovery", in_recovery)
            .finish_non_exhaustive()
    }
}

impl Control {
    pub fn side(&self) -> Side {
        self.pinned.side()
    }

    /// The settings for every further connection to the same server.
    pub fn pinned(&self) -> &ConnInfo {
        &self.pinned
    }

    /// The warnings since this was asked last. When a statement's result is there, its warnings are.
    pub fn take_warnings(&self) -> Vec<ServerWarning> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// What stops the statement that runs on this connection; to be kept where Ctrl-C is heard.
    pub fn cancel_token(&self) -> CancelHandle {
        CancelHandle { token: self.client.cancel_token(), pinned: self.pinned.clone() }
    }
}

/// Stops what another connection is doing.
#[derive(Clone)]
pub struct CancelHandle {
    token: tokio_postgres::CancelToken,
    pinned: ConnInfo,
}

impl CancelHandle {
    /// Asks the server to stop the statement. It never says whether there was one.
    ///
    /// # Errors
    /// The server could not be reached within 10 seconds.
    pub async fn cancel(&self) -> Result<()> {
        let endpoint = endpoint_of(&self.pinned)?;
        let attempt = async {
            let stream = dial(&self.pinned, &endpoint, Some(CANCEL_TIMEOUT)).await?;
            let sent = match connector(&self.pinned, &endpoint)? {
                Some(connector) => self.token.cancel_query_raw(stream, connector).await,
                None => self.token.cancel_query_raw(stream, NoTls).await,
            };
            sent.map_err(|error| connect_error(&self.pinned, &endpoint, &error))
        };
        match tokio::time::timeout(CANCEL_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(timed_out(&self.pinned, &endpoint)),
        }
    }
}

/// Connects and applies the session settings. Where `conninfo` is not pinned, the data plane's way of choosing a
/// server finds it first: several hosts, target_session_attrs, sslmode, the check for poolers.
///
/// Dropping the future gives up.
///
/// # Errors
/// As [`wire::connect`].
pub async fn connect(conninfo: &ConnInfo) -> Result<Control> {
    let pinned = match conninfo.endpoint() {
        Some(_) => conninfo.clone(),
        None => conninfo.pinned(&choose(conninfo).await?),
    };
    let endpoint = endpoint_of(&pinned)?;
    let attempt = log_in(&pinned, &endpoint);
    let (client, warnings) = match pinned.connect_timeout {
        None => attempt.await?,
        Some(timeout) => tokio::time::timeout(timeout, attempt).await.map_err(|_| timed_out(&pinned, &endpoint))??,
    };
    let (version, in_recovery) = prepare(&client, pinned.side()).await?;
    Ok(Control { client, endpoint, version, in_recovery, pinned, warnings })
}

async fn choose(conninfo: &ConnInfo) -> Result<Endpoint> {
    let cancel = CancellationToken::new();
    let _give_up_when_dropped = cancel.clone().drop_guard();
    let info = conninfo.clone();
    on_thread(conninfo.side(), move || wire::choose(&info, &cancel)).await?
}

/// Runs what blocks on a thread of its own.
async fn on_thread<T: Send + 'static>(side: Side, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::protocol(side, format!("the thread that connects ended: {error}")))
}

fn endpoint_of(pinned: &ConnInfo) -> Result<Endpoint> {
    let endpoint = pinned.endpoint().cloned();
    endpoint.ok_or_else(|| Error::protocol(pinned.side(), "no server was chosen for this connection"))
}

async fn dial(info: &ConnInfo, endpoint: &Endpoint, timeout: Option<Duration>) -> Result<Stream> {
    let cancel = CancellationToken::new();
    let _give_up_when_dropped = cancel.clone().drop_guard();
    let patience = Patience::new(&cancel, timeout);
    let (own, address) = (info.clone(), endpoint.address.clone());
    let socket = on_thread(info.side(), move || wire::dial(&own, &address, &patience)).await?;
    socket
        .and_then(|socket| Stream::new(socket, &endpoint.address))
        .map_err(|error| wire::connect_error(info, endpoint, error))
}

fn connector(info: &ConnInfo, endpoint: &Endpoint) -> Result<Option<Connector>> {
    if !endpoint.encrypted {
        return Ok(None);
    }
    Ok(Some(Connector {
        config: tls::client_config(info)?,
        name: tls::server_name(info, endpoint.host_index, &endpoint.address)?,
        bind_channel: info.channel_binding != ChannelBinding::Disable,
    }))
}

async fn log_in(info: &ConnInfo, endpoint: &Endpoint) -> Result<(Client, Warnings)> {
    let warnings = Warnings::default();
    let stream = dial(info, endpoint, info.connect_timeout).await?;
    let config = login(info, endpoint);
    if let Some(connector) = connector(info, endpoint)? {
        let connected = config.connect_raw(stream, connector).await;
        let (client, connection) = connected.map_err(|error| connect_error(info, endpoint, &error))?;
        tokio::spawn(drive(info.side(), connection, Arc::clone(&warnings)));
        return Ok((client, warnings));
    }
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.map_err(|error| connect_error(info, endpoint, &error))?;
    tokio::spawn(drive(info.side(), connection, Arc::clone(&warnings)));
    Ok((client, warnings))
}

fn login(info: &ConnInfo, endpoint: &Endpoint) -> Config {
    let mut config = Config::new();
    config.user(info.user()).dbname(info.dbname()).application_name(&info.application_name);
    if let Some(options) = &info.options {
        config.options(options);
    }
    if let Some(password) = info.hosts().get(endpoint.host_index).and_then(|host| host.password.as_ref()) {
        config.password(password.secret.expose());
    }
    config.ssl_mode(if endpoint.encrypted { config::SslMode::Require } else { config::SslMode::Disable });
    config.ssl_negotiation(match info.tls.negotiation {
        super::conninfo::SslNegotiation::Postgres => config::SslNegotiation::Postgres,
        super::conninfo::SslNegotiation::Direct => config::SslNegotiation::Direct,
    });
    config.channel_binding(match info.channel_binding {
        ChannelBinding::Disable => config::ChannelBinding::Disable,
        ChannelBinding::Prefer => config::ChannelBinding::Prefer,
        ChannelBinding::Require => config::ChannelBinding::Require,
    });
    config
}

/// Moves the connection's bytes until the client is dropped.
async fn drive<T: TlsStream + Unpin>(side: Side, mut connection: Connection<Stream, T>, warnings: Warnings) {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            None => return,
            Some(Ok(AsyncMessage::Notice(notice))) if is_warning(&notice) => {
                tracing::warn!(%side, sqlstate = notice.code().code(), "{}", notice.message());
                let warning =
                    ServerWarning { message: notice.message().into(), file: notice.file().unwrap_or_default().into() };
                let mut kept = warnings.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == WARNINGS_MAX {
                    kept.pop_front();
                }
                kept.push_back(warning);
            }
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(%side, severity = notice.severity(), "{}", notice.message());
            }
            Some(Ok(_)) => {}
            // The statement that was running is told as well, and says it to the user.
            Some(Err(error)) => {
                tracing::debug!(%side, %error, "control connection lost");
                return;
            }
        }
    }
}

/// Servers before 9.6 say it in their language only.
fn is_warning(notice: &DbError) -> bool {
    notice.parsed_severity() == Some(Severity::Warning) || notice.severity() == "WARNING"
}

/// What an attempt to log in ended with, in the same words as the data plane's.
fn connect_error(info: &ConnInfo, endpoint: &Endpoint, error: &tokio_postgres::Error) -> Error {
    if let Some(refusal) = error.as_db_error() {
        return wire::login_error(info, endpoint, &ServerError::from(refusal));
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = cause.source() {
        if let Some(io) = next.downcast_ref::<io::Error>() {
            if tls::is_tls_error(io) {
                return tls::handshake_error(info, endpoint.host_index, io);
            }
            return wire::connect_error(info, endpoint, io::Error::new(io.kind(), io.to_string()));
        }
        cause = next;
    }
    wire::connect_error(info, endpoint, io::Error::other(cause.to_string()))
}

fn timed_out(info: &ConnInfo, endpoint: &Endpoint) -> Error {
    wire::connect_error(info, endpoint, io::ErrorKind::TimedOut.into())
}

async fn prepare(client: &Client, side: Side) -> Result<(ServerVersion, bool)> {
    const CHECK: &str = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
                         pg_catalog.pg_is_in_recovery()";
    let row = client.query_typed_one(CHECK, &[]).await.map_err(|error| Error::control(side, &error, Some(CHECK)))?;
    let number = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
    let (version, in_recovery) = (ServerVersion(number), row.get(1));
    let settings = wire::session_settings(version).join("; ");
    let applied = client.batch_execute(&settings).await;
    applied.map_err(|error| Error::control(side, &error, Some(&settings)))?;
    Ok((version, in_recovery))
}

/// A socket as tokio wants it.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn new(socket: Socket, address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(_) => TcpStream::from_std(socket.into()).map(Self::Tcp),
            Address::Unix(_) => UnixStream::from_std(socket.into()).map(Self::Unix),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
