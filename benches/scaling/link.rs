//! Links between two machines, in user space: each connection has a delay and a rate of its own, in each direction.
//!
//! Bytes leave no earlier than `delay` after they came, and no faster than the rate. What is on its way is bounded by
//! the link's own capacity (rate × delay) and one buffer: a sender that is faster waits, as for a TCP window.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Small enough that the rate is even, large enough that the link costs little.
const PIECE_BYTES: usize = 32 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub delay: Duration,
    /// For each connection, in each direction.
    pub bytes_per_second: u64,
}

/// Bytes, and when they may leave.
type Piece = (Instant, Vec<u8>);

impl Link {
    /// Takes connections at `listen` until the process ends, and leads them to `to`. Returns the address taken.
    pub fn open(self, listen: SocketAddr, to: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Who cannot be reached is told by a connection that ends.
                let _ = TcpStream::connect(to).and_then(|far| self.join(&near, &far));
            }
        });
        Ok(address)
    }

    fn join(self, near: &TcpStream, far: &TcpStream) -> io::Result<()> {
        for (from, to) in [(near, far), (far, near)] {
            from.set_nodelay(true)?;
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (sender, receiver) = sync_channel(self.pieces_on_the_way());
            thread::spawn(move || self.take(from, &sender));
            thread::spawn(move || self.give(to, &receiver));
        }
        Ok(())
    }

    fn pieces_on_the_way(self) -> usize {
        let bytes = self.bytes_per_second as f64 * self.delay.as_secs_f64();
        (bytes / PIECE_BYTES as f64).ceil() as usize + 1
    }

    fn take(self, mut from: TcpStream, to: &SyncSender<Piece>) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.send((Instant::now() + self.delay, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    }

    fn give(self, mut to: TcpStream, from: &Receiver<Piece>) {
        let mut free_at = Instant::now();
        for (due, bytes) in from {
            let start = due.max(free_at);
            thread::sleep(start.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
            // Counted from when it should have left: a thread that wakes late does not slow the link.
            free_at = start + Duration::from_secs_f64(bytes.len() as f64 / self.bytes_per_second as f64);
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
