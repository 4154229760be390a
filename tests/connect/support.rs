//! Settings, queries and go-betweens for the tests.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use pgconvoy::model::Side;
use pgconvoy::pg::conninfo::{ConnInfo, Env};
use pgconvoy::pg::wire::{self, WireStart};
use pgconvoy::pg::{self, Control};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio_util::sync::CancellationToken;

/// Nothing from the machine the tests run on.
#[derive(Default)]
pub struct TestEnv(pub HashMap<&'static str, String>);

impl Env for TestEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn home(&self) -> Option<PathBuf> {
        self.0.get("HOME").map(PathBuf::from)
    }

    fn user_name(&self) -> Option<String> {
        None
    }
}

pub fn info(given: &str) -> ConnInfo {
    ConnInfo::resolve(Side::Source, Some(given), &TestEnv::default()).unwrap_or_else(|error| panic!("{given}: {error}"))
}

pub fn connect(given: &str) -> pg::Result<WireStart> {
    wire::connect(&info(given), &CancellationToken::new())
}

/// Both planes; they must agree.
pub fn connect_both(given: &str) -> pg::Result<(WireStart, Control, tokio::runtime::Runtime)> {
    let data = connect(given);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let control = runtime.block_on(pg::control::connect(&info(given)));
    match (data, control) {
        (Ok(data), Ok(control)) => {
            assert_eq!(data.endpoint, control.endpoint, "{given}");
            assert_eq!(data.version, control.version, "{given}");
            Ok((data, control, runtime))
        }
        (Err(error), Err(control)) => {
            assert_eq!(error.to_string(), control.to_string(), "{given}");
            Err(error)
        }
        (Ok(_), Err(error)) => panic!("{given}: only the control plane fails: {error}"),
        (Err(error), Ok(_)) => panic!("{given}: only the data plane fails: {error}"),
    }
}

pub fn refusal(given: &str) -> pg::Error {
    match connect_both(given) {
        Ok(_) => panic!("{given} was let in"),
        Err(error) => error,
    }
}

/// Sends a simple query.
pub fn send_query(start: &mut WireStart, sql: &str) {
    let mut out = BytesMut::new();
    frontend::query(sql, &mut out).unwrap();
    start.transport.write_all(&out).unwrap();
}

/// The first column of what a query gives, or the SQLSTATE of its error.
pub fn read_answer(start: &mut WireStart) -> Result<Vec<String>, String> {
    let mut answer = Ok(Vec::new());
    loop {
        match Message::parse(&mut start.leftover).unwrap() {
            Some(Message::ReadyForQuery(_)) => return answer,
            Some(Message::ErrorResponse(body)) => {
                let code = body.fields().find(|field| Ok(field.type_() == b'C')).unwrap().unwrap();
                answer = Err(String::from_utf8_lossy(code.value_bytes()).into_owned());
            }
            Some(Message::DataRow(body)) => {
                let range = body.ranges().next().unwrap().flatten().unwrap();
                let value = String::from_utf8_lossy(&body.buffer()[range]).into_owned();
                answer.as_mut().unwrap().push(value);
            }
            Some(_) => {}
            None => {
                let mut buf = [0; 4096];
                let count = start.transport.read(&mut buf).unwrap();
                assert!(count > 0, "the server closed the connection");
                start.leftover.extend_from_slice(&buf[..count]);
            }
        }
    }
}

pub fn query(start: &mut WireStart, sql: &str) -> Result<Vec<String>, String> {
    send_query(start, sql);
    read_answer(start)
}

pub fn one(start: &mut WireStart, sql: &str) -> String {
    query(start, sql).unwrap().remove(0)
}

/// A port where nobody listens.
pub fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A proxy that invents process ids, as poolers do, but has one backend per connection, as poolers have not.
pub fn session_proxy(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut up_in, mut up_out) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up_in, &mut up_out);
                let _ = up_out.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || relay_messages(server, client));
        }
    });
    own
}

fn relay_messages(mut server: TcpStream, mut client: TcpStream) {
    let mut header = [0; 5];
    while server.read_exact(&mut header).is_ok() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; length - 4];
        server.read_exact(&mut body).unwrap();
        if header[0] == b'K' {
            body[..4].copy_from_slice(&999_999_i32.to_be_bytes());
        }
        if client.write_all(&[&header[..], &body].concat()).is_err() {
            return;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// A proxy that remembers with which byte each connection begins: a TLS handshake is 22 (RFC 8446, 5.1), the request
/// for TLS that is asked for first 0.
pub fn remembering_proxy(port: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let firsts: Arc<Mutex<Vec<u8>>> = Arc::default();
    let remembered = Arc::clone(&firsts);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut first = [0];
            if client.peek(&mut first).is_ok_and(|count| count == 1) {
                remembered.lock().unwrap().push(first[0]);
            }
            let (mut up_in, mut up_out) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up_in, &mut up_out);
                let _ = up_out.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut server, &mut client);
                let _ = client.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    (own, firsts)
}
