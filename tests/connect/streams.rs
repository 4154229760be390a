//! Long streams over the transport: whole, quick to notice an error, quick to stop.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgconvoy::pg::wire::{Cancelled, WireStart};
use postgres_protocol::message::frontend::{self, CopyData};
use tokio_util::sync::CancellationToken;

use crate::server::{Server, server};
use crate::support::{connect, query, read_answer, send_query};
use crate::tcp;

const ROWS: usize = 60_000;
const ROW_BYTES: usize = 1001;

fn start(server: &Server, mode: &str) -> WireStart {
    connect(&tcp(server, &format!("user=trust_user sslmode={mode}"))).unwrap()
}

/// Reads a COPY OUT to its end: the bytes of its rows, and how many reads that took.
fn drain(start: &mut WireStart) -> (usize, usize) {
    let (mut buf, mut header, mut wanted) = (vec![0; 256 << 10], Vec::new(), 0);
    let (mut tag, mut data, mut reads) = (0, 0, 0);
    loop {
        let count = start.transport.read(&mut buf).unwrap();
        assert!(count > 0, "the server closed the connection");
        reads += 1;
        let mut bytes = &buf[..count];
        while !bytes.is_empty() {
            if wanted == 0 {
                let missing = bytes.len().min(5 - header.len());
                header.extend_from_slice(&bytes[..missing]);
                bytes = &bytes[missing..];
                if header.len() < 5 {
                    continue;
                }
                (tag, wanted) = (header[0], u32::from_be_bytes(header[1..5].try_into().unwrap()) as usize - 4);
                header.clear();
            }
            let part = wanted.min(bytes.len());
            (wanted, bytes) = (wanted - part, &bytes[part..]);
            if tag == b'd' {
                data += part;
            }
            if tag == b'Z' && wanted == 0 {
                return (data, reads);
            }
        }
    }
}

#[test]
fn a_long_copy_arrives_whole_in_large_reads() {
    let Some(server) = server() else { return };
    for mode in ["disable", "require"] {
        let mut start = start(server, mode);
        start.transport.set_low_water(128 << 10);
        send_query(&mut start, &format!("COPY (SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})) TO STDOUT"));
        let (data, reads) = drain(&mut start);
        assert_eq!(data, ROWS * ROW_BYTES);
        println!("sslmode={mode}: {reads} reads for {data} bytes");
        assert!(data / reads > 16 << 10, "{reads} reads for {data} bytes are too many");
        start.transport.set_low_water(1);
        assert_eq!(query(&mut start, "SELECT 'well'"), Ok(vec!["well".into()]));
    }
}

#[test]
fn an_error_in_the_middle_of_a_load_is_noticed_while_writing() {
    let Some(server) = server() else { return };
    for mode in ["disable", "require"] {
        let mut start = start(server, mode);
        query(&mut start, "CREATE TEMP TABLE numbers (n int)").unwrap();
        send_query(&mut start, "COPY numbers FROM STDIN");
        let mut block = BytesMut::new();
        CopyData::new(&b"1\n".repeat(100_000)[..]).unwrap().write(&mut block);
        let mut bad = BytesMut::new();
        CopyData::new(&b"not a number\n"[..]).unwrap().write(&mut bad);
        // The answer to COPY itself.
        start.transport.read(&mut [0; 100]).unwrap();
        start.transport.write_all(&block).unwrap();
        assert!(!start.transport.has_input().unwrap());
        start.transport.write_all(&bad).unwrap();
        let started = Instant::now();
        while !start.transport.has_input().unwrap() {
            assert!(started.elapsed() < Duration::from_secs(20), "the error was not noticed");
            start.transport.write_all(&block).unwrap();
        }
        let mut end = BytesMut::new();
        frontend::copy_done(&mut end);
        start.transport.write_all(&end).unwrap();
        assert_eq!(read_answer(&mut start), Err("22P02".into()));
        assert_eq!(query(&mut start, "SELECT 'well'"), Ok(vec!["well".into()]));
    }
}

#[test]
fn a_stream_stops_when_it_is_told_to() {
    let Some(server) = server() else { return };
    let mut start = start(server, "require");
    let cancel = CancellationToken::new();
    start.transport.set_cancel(&cancel);
    send_query(&mut start, "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000000)) TO STDOUT");
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
    });
    let started = Instant::now();
    let mut buf = vec![0; 256 << 10];
    let error = loop {
        if let Err(error) = start.transport.read(&mut buf) {
            break error;
        }
    };
    assert!(Cancelled::is(&error), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    start.transport.shutdown();
    stopper.join().unwrap();
}
