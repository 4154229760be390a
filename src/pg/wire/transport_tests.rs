use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, ServerName};

use super::*;

fn transport(socket: impl Into<Socket>, cancel: &CancellationToken) -> Transport {
    let socket = socket.into();
    socket.set_nonblocking(true).unwrap();
    Transport::new(socket, Patience::new(cancel, None))
}

fn unix_pair() -> (Transport, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (transport(std::os::fd::OwnedFd::from(ours), &CancellationToken::new()), theirs)
}

fn tcp_pair() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (transport(ours, &CancellationToken::new()), listener.accept().unwrap().0)
}

/// A stream with TLS on both ends; the other end runs `serve` on a thread.
fn tls_pair(
    serve: impl FnOnce(rustls::StreamOwned<rustls::ServerConnection, TcpStream>) + Send + 'static,
) -> (Transport, std::thread::JoinHandle<()>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (mut ours, theirs) = tcp_pair();
    let thread = std::thread::spawn(move || {
        let session = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        serve(rustls::StreamOwned::new(session, theirs));
    });
    let name = ServerName::try_from("localhost").unwrap();
    ours.start_tls(rustls::ClientConnection::new(Arc::new(client), name).unwrap()).unwrap();
    (ours, thread)
}

/// Bytes that show at once when one is lost, doubled or moved.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
}

fn read_to_end(transport: &mut Transport) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), vec![0; 128 << 10]);
    loop {
        match transport.read(&mut buf).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buf[..count]),
        }
    }
}

#[test]
fn an_end_is_told_apart_from_silence() {
    let (mut ours, mut theirs) = unix_pair();
    assert!(!ours.has_input().unwrap());
    theirs.write_all(b"abc").unwrap();
    assert!(ours.has_input().unwrap());
    let mut buf = [0; 2];
    assert_eq!(ours.read(&mut buf).unwrap(), 2);
    assert_eq!(ours.read(&mut buf).unwrap(), 1);
    assert!(!ours.has_input().unwrap());
    drop(theirs);
    assert!(ours.has_input().unwrap());
    assert_eq!(ours.read(&mut buf).unwrap(), 0);
    assert_eq!(ours.read(&mut buf).unwrap(), 0);
}

#[test]
fn a_waiting_thread_hears_that_it_is_to_stop() {
    let cancel = CancellationToken::new();
    let (mut ours, theirs) = unix_pair();
    ours.set_cancel(&cancel);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        });
        let error = ours.read(&mut [0; 10]).unwrap_err();
        assert!(Cancelled::is(&error), "{error:?}");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    });
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    let (mut ours, again) = unix_pair();
    let cancel = CancellationToken::new();
    ours.set_cancel(&cancel);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        });
        // Nobody reads: the write cannot end.
        let error = ours.write_all(&pattern(8 << 20)).unwrap_err();
        assert!(Cancelled::is(&error), "{error:?}");
    });
    drop((theirs, again));
}

#[test]
fn a_deadline_ends_a_read() {
    let (mut ours, _theirs) = tcp_pair();
    ours.set_timeout(Duration::from_millis(120));
    assert_eq!(ours.read(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

/// The other end says a lot before it reads anything: with a plain blocking write, both would wait for ever.
#[test]
fn two_ends_that_both_write_do_not_wait_for_each_other() {
    let (said, sent) = (pattern(700 << 10), pattern(8 << 20));
    let (mut ours, mut theirs) = tcp_pair();
    let (their_words, expected) = (said.clone(), sent.clone());
    let thread = std::thread::spawn(move || {
        theirs.write_all(&their_words).unwrap();
        let mut heard = vec![0; expected.len()];
        theirs.read_exact(&mut heard).unwrap();
        assert!(heard == expected, "what was sent arrived changed");
    });
    ours.write_all(&sent).unwrap();
    assert!(read_to_end(&mut ours) == said, "what was said arrived changed");
    thread.join().unwrap();
}

#[test]
fn the_last_words_of_a_closing_server_are_kept() {
    let (mut ours, mut theirs) = tcp_pair();
    theirs.write_all(b"FATAL").unwrap();
    drop(theirs);
    let block = pattern(1 << 20);
    while ours.write_all(&block).is_ok() {}
    let mut buf = [0; 16];
    assert_eq!(ours.read(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"FATAL");
}

/// How many reads it takes to get what a server sends in many small pieces, and a last one without an end after it.
fn reads_of_small_pieces(low_water: usize) -> usize {
    const PIECES: usize = 1500;
    let (mut ours, mut theirs) = tcp_pair();
    ours.set_low_water(low_water);
    let mut expected = pattern(8 << 10).repeat(PIECES);
    expected.extend_from_slice(b"tail");
    let thread = std::thread::spawn(move || {
        for _ in 0..PIECES {
            theirs.write_all(&pattern(8 << 10)).unwrap();
            std::thread::sleep(Duration::from_micros(10));
        }
        theirs.write_all(b"tail").unwrap();
        theirs.read_exact(&mut [0; 2]).unwrap();
    });
    let (mut all, mut reads, mut buf) = (Vec::new(), 0, vec![0; 128 << 10]);
    while all.len() < expected.len() {
        let count = ours.read(&mut buf).unwrap();
        assert!(count > 0);
        all.extend_from_slice(&buf[..count]);
        reads += 1;
    }
    assert!(all == expected, "what arrived was changed");
    ours.write_all(b"ok").unwrap();
    thread.join().unwrap();
    reads
}

#[test]
fn low_water_loses_nothing_and_lets_the_last_piece_through() {
    for low_water in [1, 128 << 10] {
        let reads = reads_of_small_pieces(low_water);
        assert!(reads >= 1, "low water of {low_water}");
    }
}

#[test]
fn tls_carries_much_in_both_directions() {
    let sent = pattern(5 << 20);
    let expected = sent.clone();
    let (mut ours, thread) = tls_pair(move |mut theirs| {
        let mut heard = vec![0; expected.len()];
        theirs.read_exact(&mut heard).unwrap();
        assert!(heard == expected, "what was sent arrived changed");
        theirs.write_all(&heard).unwrap();
        theirs.conn.send_close_notify();
        theirs.flush().unwrap();
    });
    assert!(ours.is_encrypted());
    ours.write_all(&sent).unwrap();
    assert!(read_to_end(&mut ours) == sent, "what came back was changed");
    thread.join().unwrap();
}

/// The server's session tickets are bytes in the socket, but none for us.
#[test]
fn tls_has_input_only_when_there_is_something_to_read() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (mut ours, thread) = tls_pair(move |mut theirs| {
        theirs.flush().unwrap();
        wait.recv().unwrap();
        theirs.write_all(b"hello").unwrap();
        theirs.flush().unwrap();
        wait.recv().unwrap();
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!ours.has_input().unwrap());
    go.send(()).unwrap();
    let started = Instant::now();
    while !ours.has_input().unwrap() {
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let mut buf = [0; 16];
    assert_eq!(ours.read(&mut buf).unwrap(), 5);
    assert!(!ours.has_input().unwrap());
    go.send(()).unwrap();
    thread.join().unwrap();
    // No farewell, just the end.
    assert!(ours.has_input().unwrap());
    assert_eq!(ours.read(&mut buf).unwrap(), 0);
}
