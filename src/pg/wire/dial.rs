//! A connected socket, with the options that every connection of ours has.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use tokio_util::sync::CancellationToken;

use super::transport::Cancelled;
use crate::pg::conninfo::{Address, ConnInfo};

/// How long a thread sleeps before it looks whether it is to stop.
pub(super) const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// When to give up: on request, or at a time.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    pub cancel: CancellationToken,
    pub deadline: Option<Instant>,
}

impl Patience {
    pub fn new(cancel: &CancellationToken, timeout: Option<Duration>) -> Self {
        Self { cancel: cancel.clone(), deadline: timeout.map(|timeout| Instant::now() + timeout) }
    }

    /// # Errors
    /// `Interrupted` around [`Cancelled`], or `TimedOut`.
    pub fn check(&self) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, Cancelled));
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the socket is ready for one of `flags`, at most [`CANCEL_CHECK`]; the caller checks and repeats.
    pub fn wait(&self, socket: &Socket, flags: PollFlags) -> io::Result<PollFlags> {
        self.check()?;
        poll_once(socket, flags, CANCEL_CHECK)
    }
}

/// What the socket is ready for, within `timeout`. A signal in between counts as nothing.
pub(super) fn poll_once(socket: &Socket, flags: PollFlags, timeout: Duration) -> io::Result<PollFlags> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

/// A non-blocking socket, connected to `address`.
///
/// # Errors
/// Those of connect(2); `TimedOut`; `Interrupted` around [`Cancelled`].
pub(crate) fn dial(info: &ConnInfo, address: &Address, patience: &Patience) -> io::Result<Socket> {
    let (domain, target) = match address {
        Address::Tcp(addr) => (Domain::for_address(*addr), SockAddr::from(*addr)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if matches!(address, Address::Tcp(_)) {
        set_tcp_options(info, &socket)?;
    }
    match socket.connect(&target) {
        Ok(()) => return Ok(socket),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        // A unix socket whose queue is full: Linux does not queue a non-blocking caller.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return dial_again(&socket, &target, patience),
        Err(error) => return Err(error),
    }
    while patience.wait(&socket, PollFlags::OUT)?.is_empty() {}
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket),
    }
}

fn dial_again(socket: &Socket, target: &SockAddr, patience: &Patience) -> io::Result<Socket> {
    loop {
        patience.check()?;
        std::thread::sleep(Duration::from_millis(10));
        match socket.connect(target) {
            Ok(()) => return socket.try_clone(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn set_tcp_options(info: &ConnInfo, socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalives = &info.keepalives;
    if keepalives.enabled {
        let mut options = TcpKeepalive::new().with_time(keepalives.idle);
        if let Some(interval) = keepalives.interval {
            options = options.with_interval(interval);
        }
        if let Some(count) = keepalives.count {
            options = options.with_retries(count);
        }
        socket.set_tcp_keepalive(&options)?;
    }
    #[cfg(target_os = "linux")]
    if keepalives.user_timeout.is_some() {
        socket.set_tcp_user_timeout(keepalives.user_timeout)?;
    }
    Ok(())
}
