//! A proxy that speaks enough of the protocol to cut or stall a connection at a chosen moment.
//!
//! Connections through it are unencrypted (`sslmode=disable`): it reads messages, and changes none.
#![allow(dead_code, clippy::unwrap_used, reason = "test code, of which each test program uses a part")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A moment in the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// A query with this in it does not reach the server.
    BeforeQuery(&'static str),
    /// It does, and nothing comes back.
    AfterQuery(&'static str),
    /// As [`Self::AfterQuery`], but the server has answered.
    AfterReplyTo(&'static str),
    /// The client has sent so many bytes of COPY data.
    InCopyIn(usize),
    /// The client's CopyDone reaches the server, and nothing comes back.
    AfterCopyInDone,
    /// The server has sent so many bytes of COPY data.
    InCopyOut(usize),
    /// The server's CopyDone and `COPY n` do not reach the client.
    BeforeCopyOutDone,
    /// CopyDone does, `COPY n` does not.
    BeforeCopyOutCount,
    /// The client has all of a COPY, and the server is ready for the next query.
    AfterCopyOut,
}

/// Whose connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Anybodys,
    /// It has exported the snapshot.
    Holder,
    /// It has imported a snapshot.
    Importer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Cut,
    /// Nothing moves for so long; then it goes on.
    Stall(Duration),
}

/// What happens once, the first time that the point is reached after `skip` others.
#[derive(Clone, Debug)]
pub struct Fault {
    pub point: Point,
    pub whose: Whose,
    pub skip: usize,
    pub action: Action,
}

impl Fault {
    pub fn cut(point: Point) -> Self {
        Self { point, whose: Whose::Anybodys, skip: 0, action: Action::Cut }
    }

    #[must_use]
    pub fn of(self, whose: Whose) -> Self {
        Self { whose, ..self }
    }
}

pub struct FaultProxy {
    pub port: u16,
    shared: Arc<Shared>,
}

/// What the body of a cancel request begins with.
const CANCEL_REQUEST: [u8; 4] = 80_877_102_u32.to_be_bytes();

struct Shared {
    server_port: u16,
    /// Where connections lead to once the fault has happened; 0: to the same.
    next_port: AtomicU16,
    /// They are taken, and neither passed on nor answered.
    swallows_cancel_requests: AtomicBool,
    fault: Mutex<Option<Fault>>,
    fired: AtomicUsize,
}

/// What both directions of a connection know.
#[derive(Default)]
struct Link {
    exported: AtomicBool,
    imported: AtomicBool,
    cut: AtomicBool,
    /// Cut when the server is ready for the next query.
    cut_at_ready: AtomicBool,
    copy_in_bytes: AtomicUsize,
    copy_out_bytes: AtomicUsize,
}

impl FaultProxy {
    pub fn start(server_port: u16, fault: Option<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server_port,
            next_port: AtomicU16::new(0),
            swallows_cancel_requests: AtomicBool::new(false),
            fault: Mutex::new(fault),
            fired: AtomicUsize::new(0),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                of_thread.serve(client);
            }
        });
        Self { port, shared }
    }

    /// Once the fault has happened, another server is behind the name.
    #[must_use]
    pub fn then(self, server_port: u16) -> Self {
        self.shared.next_port.store(server_port, Ordering::SeqCst);
        self
    }

    /// From here on nothing can be cancelled on the server.
    #[must_use]
    pub fn swallowing_cancel_requests(self) -> Self {
        self.shared.swallows_cancel_requests.store(true, Ordering::SeqCst);
        self
    }

    /// How many faults have happened.
    pub fn fired(&self) -> usize {
        self.shared.fired.load(Ordering::SeqCst)
    }

    /// The URI of a database behind the proxy.
    pub fn uri(&self, tcp_uri: &str) -> String {
        let uri = tcp_uri.replace(&format!(":{}/", self.shared.server_port), &format!(":{}/", self.port));
        assert_ne!(uri, tcp_uri);
        format!("{uri}{}sslmode=disable", if uri.contains('?') { '&' } else { '?' })
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, client: TcpStream) {
        // A server that is down: so is the proxy.
        let next_port = self.next_port.load(Ordering::SeqCst);
        let has_moved = next_port > 0 && self.fired.load(Ordering::SeqCst) > 0;
        let port = if has_moved { next_port } else { self.server_port };
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let link = Arc::new(Link::default());
        let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (up, up_link) = (Arc::clone(self), Arc::clone(&link));
        std::thread::spawn(move || {
            let (mut client, mut server) = (client, server);
            let _ = up.client_to_server(&mut client, &mut server, &up_link);
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        });
        let down = Arc::clone(self);
        std::thread::spawn(move || {
            let (mut client, mut server) = ends;
            let _ = down.server_to_client(&mut server, &mut client, &link);
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        });
    }

    /// Whether the fault's moment has come; it is taken then.
    fn strikes(&self, link: &Link, is_here: impl Fn(&Point) -> bool) -> Option<Fault> {
        let mut slot = self.fault.lock().unwrap();
        let fault = slot.as_mut()?;
        let is_theirs = match fault.whose {
            Whose::Anybodys => true,
            Whose::Holder => link.exported.load(Ordering::SeqCst),
            Whose::Importer => link.imported.load(Ordering::SeqCst),
        };
        if !is_theirs || !is_here(&fault.point) {
            return None;
        }
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        self.fired.fetch_add(1, Ordering::SeqCst);
        slot.take()
    }

    fn client_to_server(&self, client: &mut TcpStream, server: &mut TcpStream, link: &Link) -> std::io::Result<()> {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut body)?;
        if body.starts_with(&CANCEL_REQUEST) && self.swallows_cancel_requests.load(Ordering::SeqCst) {
            return client.read(&mut length).map(drop);
        }
        server.write_all(&[&length[..], &body].concat())?;
        loop {
            let message = read_message(client)?;
            let text = String::from_utf8_lossy(&message[5..]);
            let is_query = message[0] == b'Q';
            if is_query {
                link.exported.fetch_or(text.contains("pg_export_snapshot"), Ordering::SeqCst);
                link.imported.fetch_or(text.contains("SET TRANSACTION SNAPSHOT"), Ordering::SeqCst);
                link.copy_in_bytes.store(0, Ordering::SeqCst);
                link.copy_out_bytes.store(0, Ordering::SeqCst);
            }
            let data = if message[0] == b'd' { message.len() - 5 } else { 0 };
            let copied = link.copy_in_bytes.fetch_add(data, Ordering::SeqCst) + data;
            let struck = self.strikes(link, |point| match point {
                Point::BeforeQuery(with) | Point::AfterQuery(with) | Point::AfterReplyTo(with) => {
                    is_query && text.contains(with)
                }
                Point::InCopyIn(bytes) => data > 0 && copied >= *bytes,
                Point::AfterCopyInDone => message[0] == b'c',
                _ => false,
            });
            match struck {
                None => server.write_all(&message)?,
                Some(Fault { action: Action::Stall(time), .. }) => {
                    std::thread::sleep(time);
                    server.write_all(&message)?;
                }
                Some(Fault { point: Point::BeforeQuery(_), .. }) => return Ok(()),
                Some(Fault { point: Point::InCopyIn(_), .. }) => {
                    return server.write_all(&message[..message.len() / 2]);
                }
                Some(Fault { point: Point::AfterReplyTo(_), .. }) => {
                    link.cut_at_ready.store(true, Ordering::SeqCst);
                    server.write_all(&message)?;
                }
                Some(_) => {
                    link.cut.store(true, Ordering::SeqCst);
                    return server.write_all(&message);
                }
            }
        }
    }

    fn server_to_client(&self, server: &mut TcpStream, client: &mut TcpStream, link: &Link) -> std::io::Result<()> {
        loop {
            let message = read_message(server)?;
            if link.cut.load(Ordering::SeqCst) {
                return Ok(());
            }
            if link.cut_at_ready.load(Ordering::SeqCst) {
                if message[0] == b'Z' {
                    return Ok(());
                }
                continue;
            }
            let data = if message[0] == b'd' { message.len() - 5 } else { 0 };
            let copied = link.copy_out_bytes.fetch_add(data, Ordering::SeqCst) + data;
            let struck = self.strikes(link, |point| match point {
                Point::InCopyOut(bytes) => data > 0 && copied >= *bytes,
                Point::BeforeCopyOutDone => message[0] == b'c',
                Point::BeforeCopyOutCount => message[0] == b'C' && copied > 0 && message[5..].starts_with(b"COPY "),
                Point::AfterCopyOut => message[0] == b'Z' && copied > 0,
                _ => false,
            });
            match struck {
                None => client.write_all(&message)?,
                Some(Fault { action: Action::Stall(time), .. }) => {
                    std::thread::sleep(time);
                    client.write_all(&message)?;
                }
                Some(Fault { point: Point::InCopyOut(_), .. }) => {
                    return client.write_all(&message[..message.len() / 2]);
                }
                Some(Fault { point: Point::AfterCopyOut, .. }) => return client.write_all(&message),
                Some(_) => return Ok(()),
            }
        }
    }
}

fn read_message(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message)?;
    let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]) as usize;
    message.resize(1 + length, 0);
    from.read_exact(&mut message[5..])?;
    Ok(message)
}
