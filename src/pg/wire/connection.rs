use std::sync::{Arc, Weak};

use bytes::{BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message, NoticeResponseBody};
use postgres_protocol::message::frontend;
use tokio_util::sync::CancellationToken;

use super::frames::{FrameError, FrameReader};
use super::startup::{self, decode_fields};
use super::transport::{Cancelled, Transport};
use crate::model::{ServerVersion, Side};
use crate::pg::conninfo::ConnInfo;
use crate::pg::error::{Error, ErrorKind, Result, ServerError};

/// One row of a control query, every value as text.
pub type TextRow = Vec<Option<String>>;

/// A connection that rows travel over.
///
/// Control statements go through the simple query protocol. After any error the connection is either back at
/// ReadyForQuery, or `broken`, and then every further call fails.
pub struct DataConnection {
    pub(super) side: Side,
    pub(super) transport: Transport,
    pub(super) reader: FrameReader,
    version: ServerVersion,
    backend_pid: i32,
    canceller: Canceller,
    _alive: Arc<()>,
    /// The protocol is out of step or the socket is gone.
    broken: bool,
    /// The server waits for a query: nothing is under way.
    idle: bool,
}

/// Cancels what a connection is doing, from another thread.
#[derive(Clone)]
pub struct Canceller {
    conninfo: ConnInfo,
    backend_pid: i32,
    secret_key: i32,
    alive: Weak<()>,
}

impl Canceller {
    /// Sends a cancel request over a connection of its own. The server does not say whether it helped.
    pub fn cancel(&self) -> Result<()> {
        startup::cancel_request(&self.conninfo, self.backend_pid, self.secret_key)
    }

    /// The connection was dropped.
    pub fn is_over(&self) -> bool {
        self.alive.strong_count() == 0
    }
}

impl DataConnection {
    /// Connects, logs in and applies the settings every one of our connections has.
    ///
    /// # Errors
    /// As `startup::connect`; a pooler in between is refused.
    pub fn connect(side: Side, conninfo: &ConnInfo, cancel: &CancellationToken) -> Result<Self> {
        let start = startup::connect(conninfo, cancel)?;
        let alive = Arc::new(());
        Ok(Self {
            side,
            transport: start.transport,
            reader: FrameReader::new(&start.leftover),
            version: start.version,
            backend_pid: start.server_pid,
            canceller: Canceller {
                conninfo: conninfo.clone(),
                backend_pid: start.backend_pid,
                secret_key: start.secret_key,
                alive: Arc::downgrade(&alive),
            },
            _alive: alive,
            broken: false,
            idle: true,
        })
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn version(&self) -> ServerVersion {
        self.version
    }

    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Listens to another token from here on.
    pub fn set_cancel(&mut self, cancel: &CancellationToken) {
        self.transport.set_cancel(cancel);
    }

    /// Whether the connection can no longer be used.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.idle
    }

    /// No further use: the server notices the closed socket and ends what it is doing.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
        self.transport.shutdown();
    }

    /// Runs statements and throws their results away.
    pub fn execute(&mut self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    /// Runs statements and returns the rows of all of them as text.
    pub fn query(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        self.send_query(sql)?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let message = match (self.next_message(), failure.take()) {
                (Ok(message), earlier) => {
                    failure = earlier;
                    message
                }
                (Err(_), Some(earlier)) => return Err(self.server_error(earlier, sql)),
                (Err(error), None) => return Err(error),
            };
            match message {
                Message::DataRow(row) => rows.push(self.text_row(&row)?),
                Message::ErrorResponse(body) => {
                    failure.get_or_insert(decode_fields(body.fields()));
                }
                Message::ReadyForQuery(_) => break,
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                _ => return Err(self.out_of_step("a reply to a query", sql)),
            }
        }
        match failure {
            Some(error) => Err(self.server_error(error, sql)),
            None => Ok(rows),
        }
    }

    /// Sends a simple query.
    pub(super) fn send_query(&mut self, sql: &str) -> Result<()> {
        self.check_usable()?;
        let mut buffer = BytesMut::new();
        frontend::query(sql, &mut buffer).map_err(|e| Error::protocol(self.side, e.to_string()))?;
        self.idle = false;
        self.send(&buffer)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.transport.write_all(bytes);
        sent.map_err(|e| self.io_error(e))
    }

    /// The next message that is neither a notice nor a parameter report; waits for it.
    pub(super) fn next_message(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.buffered_message()? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    /// An error among the messages that have already been read, without waiting for more.
    pub(super) fn pending_error(&mut self) -> Result<Option<ServerError>> {
        match self.buffered_message()? {
            Some(Message::ErrorResponse(body)) => Ok(Some(decode_fields(body.fields()))),
            Some(_) => Err(self.out_of_step("an error, or nothing, before the end of the stream", "")),
            None => Ok(None),
        }
    }

    /// The next message that is neither a notice nor a parameter report, out of what has been read.
    fn buffered_message(&mut self) -> Result<Option<Message>> {
        loop {
            let next = self.reader.next_message().map(|m| m.map(|(_, whole)| BytesMut::from(whole)));
            let message = match next {
                Err(e) => return Err(self.frame_error(&e)),
                Ok(None) => return Ok(None),
                Ok(Some(mut whole)) => Message::parse(&mut whole),
            };
            match message {
                Ok(Some(Message::NoticeResponse(body))) => self.trace_notice(&body),
                Ok(Some(Message::ParameterStatus(_) | Message::NotificationResponse(_))) => {}
                Ok(Some(message)) => {
                    self.idle = matches!(message, Message::ReadyForQuery(_));
                    return Ok(Some(message));
                }
                Ok(None) => return Err(self.out_of_step("a whole message", "")),
                Err(e) => {
                    self.broken = true;
                    return Err(Error::protocol(self.side, e.to_string()));
                }
            }
        }
    }

    fn trace_notice(&self, body: &NoticeResponseBody) {
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            if field.type_() == b'M' {
                tracing::debug!(side = %self.side, "notice: {}", String::from_utf8_lossy(field.value_bytes()));
            }
        }
    }

    /// Reads from the socket once; waits for at least one byte.
    pub(super) fn fill(&mut self) -> Result<()> {
        let read = self.transport.read(self.reader.room());
        match read {
            Ok(0) => Err(self
                .io_error(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server closed the connection"))),
            Ok(bytes) => {
                self.reader.filled(bytes);
                Ok(())
            }
            Err(e) => Err(self.io_error(e)),
        }
    }

    /// The server has reported an error: reads up to ReadyForQuery, and makes the error ours. A server that ends the
    /// connection after it (severity FATAL) leaves it broken; what it said is the reason all the same.
    pub(super) fn fail_with(&mut self, error: ServerError, sql: &str) -> Error {
        // What fails here marks the connection as broken.
        let _ = self.drain_to_ready();
        self.server_error(error, sql)
    }

    /// The connection broke while something was sent. What the server said before it went is the reason.
    pub(super) fn last_word(&mut self, lost: Error, sql: &str) -> Error {
        if !matches!(*lost.kind, ErrorKind::Lost(_)) {
            return lost;
        }
        while self.fill().is_ok() {}
        match self.pending_error() {
            Ok(Some(error)) => self.server_error(error, sql),
            _ => lost.with_statement(sql),
        }
    }

    /// Reads up to ReadyForQuery, whatever comes. Returns the first error the server reports on the way.
    pub(super) fn drain_to_ready(&mut self) -> Result<Option<ServerError>> {
        let mut first = None;
        loop {
            match self.next_message()? {
                Message::ErrorResponse(body) => {
                    first.get_or_insert(decode_fields(body.fields()));
                }
                Message::ReadyForQuery(_) => return Ok(first),
                _ => {}
            }
        }
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        if self.broken {
            return Err(Error::protocol(self.side, "this connection was given up after an earlier failure"));
        }
        Ok(())
    }

    /// An error of the server, after which the connection is at ReadyForQuery.
    pub(super) fn server_error(&self, error: ServerError, sql: &str) -> Error {
        Error::new(self.side, ErrorKind::Server(error)).with_statement(sql)
    }

    pub(super) fn frame_error(&mut self, error: &FrameError) -> Error {
        self.broken = true;
        Error::protocol(self.side, error.to_string())
    }

    pub(super) fn out_of_step(&mut self, expected: &str, sql: &str) -> Error {
        self.broken = true;
        Error::protocol(self.side, format!("expected {expected}")).with_statement(sql)
    }

    pub(super) fn io_error(&mut self, error: std::io::Error) -> Error {
        self.broken = true;
        let kind = if Cancelled::is(&error) { ErrorKind::Cancelled } else { ErrorKind::Lost(error) };
        Error::new(self.side, kind)
    }

    fn text_row(&mut self, row: &DataRowBody) -> Result<TextRow> {
        let bytes = row.buffer();
        let fields = row.ranges().map(|range| Ok(range.map(|r| String::from_utf8_lossy(&bytes[r]).into_owned())));
        fields.collect().map_err(|e| {
            self.broken = true;
            Error::protocol(self.side, e.to_string())
        })
    }
}

impl Drop for DataConnection {
    fn drop(&mut self) {
        if !self.broken {
            let mut goodbye = BytesMut::new();
            goodbye.put_u8(b'X');
            goodbye.put_i32(4);
            // Politeness only: the server notices a closed socket as well.
            let _ = self.transport.write_all(&goodbye);
        }
        self.transport.shutdown();
    }
}

/// The row count of a `COPY n` command tag.
pub(super) fn copy_count(tag: &str) -> Option<u64> {
    tag.strip_prefix("COPY ")?.parse().ok()
}
