//! TLS over a non-blocking socket, fed in large pieces.

use std::io::{self, BufRead as _, Read as _, Write as _};

use socket2::Socket;

use super::transport::Inbox;

/// How much is encrypted ahead of the socket: one large write instead of one per TLS record of 16 KiB.
const OUTBOX_BYTES: usize = 256 << 10;

/// An established or beginning TLS session; sockets and inboxes belong to the [`super::Transport`].
pub(super) struct TlsStream {
    session: rustls::ClientConnection,
    /// The server has said that it sends nothing more.
    closed: bool,
}

impl TlsStream {
    pub fn new(mut session: rustls::ClientConnection) -> Self {
        session.set_buffer_limit(Some(OUTBOX_BYTES));
        Self { session, closed: false }
    }

    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    pub fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn server_certificate(&self) -> Option<&[u8]> {
        self.session.peer_certificates().and_then(<[_]>::first).map(|certificate| &**certificate)
    }

    /// Sends what is encrypted; `Ok(false)` where the socket takes no more for now.
    pub fn send(&mut self, socket: &Socket) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut &*socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Encrypts as much of `buf` as there is room for, and says how much that was.
    pub fn encrypt(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.session.writer().write(buf)
    }

    /// Gives one piece of the inbox to rustls.
    pub fn feed(&mut self, inbox: &mut Inbox) -> io::Result<()> {
        if inbox.is_empty() {
            return Ok(());
        }
        let count = self.session.read_tls(&mut inbox.unread())?;
        inbox.consume(count);
        let state =
            self.session.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.closed |= state.peer_has_closed();
        Ok(())
    }

    /// Feeds rustls until something can be read; `Ok(false)` where the inbox does not hold enough for that.
    pub fn feed_readable(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        loop {
            match self.session.reader().fill_buf() {
                Ok(chunk) if !chunk.is_empty() => return Ok(true),
                // The server's farewell.
                Ok(_) => {
                    self.closed = true;
                    return Ok(false);
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if inbox.is_empty() || self.closed => return Ok(false),
                Err(_) => self.feed(inbox)?,
            }
        }
    }

    /// Decrypts into `buf` as much as the inbox holds; 0 where it holds no whole record.
    pub fn read(&mut self, inbox: &mut Inbox, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.session.reader().read(&mut buf[filled..]) {
                // The server's farewell.
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if inbox.is_empty() || self.closed {
                        break;
                    }
                    self.feed(inbox)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}
