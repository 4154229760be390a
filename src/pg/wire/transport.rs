//! A blocking stream of bytes to a server, over TCP or a unix socket, plain or with TLS.
//!
//! The socket is non-blocking underneath: a thread that waits looks every 100 ms whether it is to stop, and a
//! thread that writes takes in what the server sends meanwhile, so that two ends that both want to write never
//! wait for each other.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use rustix::event::PollFlags;
use socket2::Socket;
use tokio_util::sync::CancellationToken;

use super::dial::{Patience, poll_once};
use super::tls_stream::TlsStream;

/// What an [`io::Error`] of kind `Interrupted` holds when the token given at construction was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancelled {
    /// Whether `error` is one of ours.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).is_some()
    }
}

/// One read of the socket: with TLS, rustls would read 4 KiB at a time.
const INBOX_BYTES: usize = 256 << 10;

/// What is taken in while a write waits: notices and one error fit many times over. A server that sends more while
/// it does not read is not waited for any longer than one that sends nothing.
const INBOX_LIMIT_BYTES: usize = 1 << 20;

/// The longest pause that lets small packets gather. At 1 GB/s that is 300 KB, well within a receive buffer.
const LONGEST_NAP: Duration = Duration::from_micros(300);
const SHORTEST_NAP: Duration = Duration::from_micros(50);

/// Bytes from the socket that nobody has asked for yet.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The other end has closed; what is in here is the last there is.
    pub closed: bool,
}

impl Inbox {
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "consumed more than there was");
    }

    /// Takes in what the socket has, without waiting; `Ok(false)` where there is nothing, or no room for it.
    pub fn fill(&mut self, socket: &Socket) -> io::Result<bool> {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.bytes.len() {
            self.make_room();
        }
        if self.end == self.bytes.len() {
            return Ok(false);
        }
        match receive(socket, &mut self.bytes[self.end..])? {
            None => Ok(false),
            Some(0) => {
                self.closed = true;
                Ok(true)
            }
            Some(count) => {
                self.end += count;
                Ok(true)
            }
        }
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.bytes.len() < INBOX_LIMIT_BYTES {
            self.bytes.resize((self.bytes.len() * 2).clamp(INBOX_BYTES, INBOX_LIMIT_BYTES), 0);
        }
    }

    fn has_room(&self) -> bool {
        self.end - self.start < INBOX_LIMIT_BYTES
    }
}

/// One non-blocking read; `None` where it would block.
fn receive(mut socket: &Socket, buf: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match socket.read(buf) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A connection to a server, as bytes. One thread at a time; no allocation per read or write.
pub struct Transport {
    socket: Socket,
    tls: Option<Box<TlsStream>>,
    inbox: Inbox,
    patience: Patience,
    low_water: usize,
    nap: Duration,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("socket", &self.socket)
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// `socket` must be non-blocking.
    pub(super) fn new(socket: Socket, patience: Patience) -> Self {
        Self { socket, tls: None, inbox: Inbox::default(), patience, low_water: 1, nap: SHORTEST_NAP }
    }

    /// From here on there is no deadline: the connection is made.
    pub(super) fn clear_deadline(&mut self) {
        self.patience.deadline = None;
    }

    /// Reads and writes end with `TimedOut` after this.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.patience.deadline = Some(std::time::Instant::now() + timeout);
    }

    /// Listens to another token from here on.
    pub fn set_cancel(&mut self, cancel: &CancellationToken) {
        self.patience.cancel = cancel.clone();
    }

    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The server's certificate, in DER.
    pub(super) fn server_certificate(&self) -> Option<&[u8]> {
        self.tls.as_deref().and_then(TlsStream::server_certificate)
    }

    /// Shakes hands. Nothing may have been read beyond the server's agreement to TLS.
    pub(super) fn start_tls(&mut self, session: rustls::ClientConnection) -> io::Result<()> {
        debug_assert!(self.inbox.is_empty(), "plain bytes before TLS");
        let mut tls = Box::new(TlsStream::new(session));
        loop {
            while tls.wants_write() && !tls.send(&self.socket)? {
                self.patience.wait(&self.socket, PollFlags::OUT)?;
            }
            if !tls.is_handshaking() {
                break;
            }
            if self.inbox.is_empty() {
                self.fill_wait()?;
                if self.inbox.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            if let Err(error) = tls.feed(&mut self.inbox) {
                // The alert that tells the server why; it does not change what went wrong.
                let _ = tls.send(&self.socket);
                return Err(error);
            }
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// Waits until the inbox has something new in it, or the other end has closed.
    fn fill_wait(&mut self) -> io::Result<()> {
        while !self.inbox.closed && !self.inbox.fill(&self.socket)? {
            self.patience.wait(&self.socket, PollFlags::IN)?;
        }
        Ok(())
    }

    /// Waits until there is something to read, and reads it; 0 means that the server has closed the connection.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` for broken TLS; `Interrupted` around [`Cancelled`] within about 100 ms of
    /// the token's cancellation.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.patience.check()?;
        if self.tls.is_some() { self.read_tls(buf) } else { self.read_plain(buf) }
    }

    fn read_plain(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.inbox.is_empty() {
            let unread = self.inbox.unread();
            let count = unread.len().min(buf.len());
            buf[..count].copy_from_slice(&unread[..count]);
            self.inbox.consume(count);
            return Ok(count);
        }
        if self.inbox.closed {
            return Ok(0);
        }
        self.take_nap();
        loop {
            if let Some(count) = receive(&self.socket, buf)? {
                self.inbox.closed = count == 0;
                self.plan_nap(count);
                return Ok(count);
            }
            self.patience.wait(&self.socket, PollFlags::IN)?;
        }
    }

    fn read_tls(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.as_deref_mut() else { return self.read_plain(buf) };
        let mut count = tls.read(&mut self.inbox, buf)?;
        if count == 0 {
            self.take_nap();
        }
        while count == 0 {
            if self.inbox.closed && self.inbox.is_empty() {
                return Ok(0);
            }
            self.fill_wait()?;
            let received = self.inbox.unread().len();
            self.plan_nap(received);
            let Some(tls) = self.tls.as_deref_mut() else { return Ok(0) };
            count = tls.read(&mut self.inbox, buf)?;
            if tls.wants_write() {
                // An answer of TLS itself (a key update); if it does not fit, the next write takes it along.
                tls.send(&self.socket)?;
            }
            if tls.is_closed() {
                self.inbox.closed = true;
                self.inbox.consume(self.inbox.unread().len());
            }
        }
        Ok(count)
    }

    /// A pause before a read, so that the next one gets more: a server sends rows in pieces of 8 KiB, and a system
    /// call and a context switch for each cost more than the bytes. (SO_RCVLOWAT would do it for TCP, but there is
    /// no safe way to set it.)
    fn take_nap(&mut self) {
        if self.low_water > 1 && !self.nap.is_zero() {
            std::thread::sleep(self.nap);
        }
    }

    /// The next pause: longer after a small read, shorter after a large one.
    fn plan_nap(&mut self, received: usize) {
        if received < self.low_water / 2 {
            self.nap = (self.nap * 2).clamp(SHORTEST_NAP, LONGEST_NAP);
        } else if received >= self.low_water {
            self.nap = if self.nap > SHORTEST_NAP { self.nap / 2 } else { Duration::ZERO };
        }
    }

    /// How many bytes a read should bring at least, while the stream is long: a wish, never waited for by more than
    /// a third of a millisecond per read. 1 means: whatever is there, at once.
    pub fn set_low_water(&mut self, bytes: usize) {
        self.low_water = bytes.clamp(1, INBOX_BYTES);
        self.nap = SHORTEST_NAP;
    }

    /// Writes everything. While the socket takes no more, what the server sends is kept for later reads.
    ///
    /// # Errors
    /// As [`Self::read`]. When the server has closed the connection, what it said before is kept: read it.
    pub fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.patience.check()?;
        let result = if self.tls.is_some() { self.write_tls(buf) } else { self.write_plain(buf) };
        if result.is_err() {
            // The reason may be waiting in the socket: a FATAL message, then the end.
            while matches!(self.inbox.fill(&self.socket), Ok(true)) && !self.inbox.closed {}
        }
        result
    }

    fn write_plain(&mut self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match (&self.socket).write(buf) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => buf = &buf[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_writable()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_tls(&mut self, mut buf: &[u8]) -> io::Result<()> {
        loop {
            let Some(tls) = self.tls.as_deref_mut() else { return Ok(()) };
            if !buf.is_empty() {
                buf = &buf[tls.encrypt(buf)?..];
            }
            if !tls.wants_write() {
                if buf.is_empty() {
                    return Ok(());
                }
            } else if !tls.send(&self.socket)? {
                self.wait_writable()?;
            }
        }
    }

    fn wait_writable(&mut self) -> io::Result<()> {
        loop {
            let listen = self.inbox.has_room() && !self.inbox.closed;
            let flags = if listen { PollFlags::OUT | PollFlags::IN } else { PollFlags::OUT };
            let ready = self.patience.wait(&self.socket, flags)?;
            if listen && ready.contains(PollFlags::IN) {
                self.inbox.fill(&self.socket)?;
            }
            if ready.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
        }
    }

    /// Whether a read would return at once, with bytes or with the news that the connection is closed.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn has_input(&mut self) -> io::Result<bool> {
        match self.tls.as_deref_mut() {
            None if !self.inbox.is_empty() || self.inbox.closed => Ok(true),
            None => Ok(!poll_once(&self.socket, PollFlags::IN, Duration::ZERO)?.is_empty()),
            Some(tls) => {
                // Bytes of TLS need not be bytes for us: session tickets are not.
                while !tls.feed_readable(&mut self.inbox)? {
                    if self.inbox.closed || tls.is_closed() {
                        return Ok(true);
                    }
                    if !self.inbox.fill(&self.socket)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Ends the connection in both directions, at once.
    pub fn shutdown(&self) {
        // It fails only where the other end was faster.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
