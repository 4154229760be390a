use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;

use super::*;

const KEY: &str = "HRKU-3d1b2c3d";

/// What the server does with one connection.
enum Answer {
    /// Status, further header lines, body.
    Say(u16, &'static str, &'static str),
    /// The request is read, and the connection closed without a word.
    Hang,
    /// More is promised than comes.
    Cut,
    /// Nothing, for so long.
    Sleep(Duration),
}
use Answer::{Cut, Hang, Say, Sleep};

#[derive(Debug)]
struct Seen {
    line: String,
    headers: String,
    body: String,
}

/// A server on a free port that gives these answers, one each to a connection, and hands over what it has read.
fn server(answers: Vec<Answer>) -> (String, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, seen) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            tell.send(read(&stream)).unwrap();
            reply(stream, &answer);
        }
    });
    (url, seen)
}

fn read(stream: &TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let (mut line, mut headers) = (String::new(), String::new());
    reader.read_line(&mut line).unwrap();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        headers.push_str(&header.to_lowercase());
    }
    let length = headers.lines().find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    Seen { line: line.trim().to_owned(), headers, body: String::from_utf8(body).unwrap() }
}

fn reply(mut stream: TcpStream, answer: &Answer) {
    match answer {
        Say(status, headers, body) => {
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n{body}").unwrap();
        }
        Hang => {}
        Cut => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":").unwrap(),
        Sleep(time) => std::thread::sleep(*time),
    }
}

fn hasty() -> Patience {
    Patience {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(4),
        longest_retry_after: Duration::from_secs(3),
        spared_wait: Duration::from_millis(150),
        ..Patience::default()
    }
}

fn client(url: &str) -> Client {
    Client::with_patience(url, Authorization::Bearer(Secret::new(KEY)), hasty()).unwrap()
}

fn post(repeat: Repeat) -> Request {
    Request::new(Method::Post, "/apps/a/addons", repeat).json(&json!({"plan": "standard-0"}))
}

#[test]
fn a_request_and_its_reply_are_what_was_said() {
    let (url, seen) = server(vec![Say(201, "RateLimit-Remaining: 4499\r\n", r#"{"id":"x"}"#)]);
    let client = client(&url).header("accept", "application/vnd.heroku+json; version=3");
    let request = post(Repeat::Never).query("range", "a b&c").header("x-more", "1");
    let response = client.send(&request).unwrap();
    assert_eq!((response.status, response.rate_limit_remaining()), (201, Some(4499)));
    assert_eq!(response.body, br#"{"id":"x"}"#);
    let seen = seen.recv().unwrap();
    assert_eq!(seen.line, "POST /apps/a/addons?range=a%20b%26c HTTP/1.1");
    assert_eq!(seen.body, r#"{"plan":"standard-0"}"#);
    for header in [
        "authorization: bearer hrku-3d1b2c3d",
        "accept: application/vnd.heroku+json; version=3",
        "content-type: application/json",
        "x-more: 1",
        "user-agent: pgconvoy/",
    ] {
        assert!(seen.headers.contains(header), "{header} is not in {}", seen.headers);
    }
}

#[test]
fn every_method_is_sent_and_basic_is_encoded() {
    let methods = [Method::Get, Method::Put, Method::Patch, Method::Delete];
    for method in methods {
        let (url, seen) = server(vec![Say(200, "", "{}")]);
        let basic = Authorization::Basic { user: String::new(), password: Secret::new(KEY) };
        let client = Client::with_patience(&format!("{url}/base/"), basic, hasty()).unwrap();
        let body = if method == Method::Get {
            Request::get("/x")
        } else {
            Request::new(method, "/x", Repeat::Never).json(&json!({"force": true}))
        };
        client.send(&body).unwrap();
        let seen = seen.recv().unwrap();
        assert_eq!(seen.line, format!("{method} /base/x HTTP/1.1"));
        assert_eq!(seen.body.is_empty(), method == Method::Get);
        assert!(seen.headers.contains("authorization: basic okhss1utm2qxyjjjm2q="), "{}", seen.headers);
    }
    assert_eq!([&b"a"[..], b"ab", b"abc", b""].map(base64), ["YQ==", "YWI=", "YWJj", ""]);
}

#[test]
fn what_passes_is_sent_again_where_that_is_safe() {
    let answers = || vec![Say(503, "", "oops"), Hang, Say(200, "", "{}")];
    let (url, seen) = server(answers());
    client(&url).send(&post(Repeat::Safe)).unwrap();
    assert_eq!(seen.iter().count(), 3);

    for first in [Hang, Cut, Say(503, "", ""), Say(429, "Retry-After: 0\r\n", "")] {
        let refused = matches!(first, Say(..));
        let limited = matches!(first, Say(429, ..));
        let (url, seen) = server(vec![first, Say(200, "", "{}")]);
        let error = client(&url).send(&post(Repeat::Never)).unwrap_err();
        assert_eq!(matches!(error.kind, ErrorKind::Refused { .. }), refused, "{error}");
        assert_eq!(error.effect(), if limited { Effect::None } else { Effect::Unknown }, "{error}");
        assert_eq!((error.attempts, seen.try_iter().count()), (1, 1), "{error}");
    }
}

#[test]
fn what_does_not_pass_is_said_at_once_in_the_providers_words() {
    let body = r#"{"id":"invalid_params","message":"Plan\nis  not one.","url":"u"}"#;
    let (url, seen) = server(vec![Say(422, "", body), Say(200, "", "{}")]);
    let error = client(&url).send(&post(Repeat::Safe)).unwrap_err();
    assert_eq!(error.to_string(), "POST /apps/a/addons: Plan is  not one. (invalid_params, status 422)");
    assert_eq!((error.status(), error.id(), error.effect()), (Some(422), Some("invalid_params"), Effect::None));
    assert_eq!(seen.try_iter().count(), 1);
}

#[test]
fn attempts_end_and_are_counted() {
    let (url, _seen) = server((0..3).map(|_| Say(500, "", "<html>")).collect());
    let error = client(&url).send(&Request::get("/apps?secret=1")).unwrap_err();
    assert_eq!(error.attempts, 3);
    assert!(error.to_string().ends_with("it gave no reason (status 500) (after 3 attempts)"), "{error}");
}

#[test]
fn a_lost_reply_is_not_forgotten_when_the_next_one_is_a_refusal() {
    let (url, _seen) = server(vec![Hang, Say(404, "", r#"{"id":"not_found","message":"No."}"#)]);
    let error = client(&url).send(&Request::new(Method::Delete, "/x", Repeat::Safe)).unwrap_err();
    assert_eq!((error.status(), error.effect()), (Some(404), Effect::Unknown));
}

#[test]
fn the_providers_wait_is_kept_to() {
    let (url, _seen) = server(vec![Say(429, "Retry-After: 1\r\n", ""), Say(200, "", "{}")]);
    let begun = Instant::now();
    client(&url).send(&Request::get("/x")).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let (url, seen) = server(vec![Say(429, "Retry-After: 600\r\n", ""), Say(200, "", "{}")]);
    let error = client(&url).send(&Request::get("/x")).unwrap_err();
    assert_eq!((error.status(), seen.try_iter().count()), (Some(429), 1), "waiting for less is in vain");
}

#[test]
fn the_last_requests_of_a_limit_are_spared() {
    let few = "RateLimit-Remaining: 3\r\n";
    let (url, _seen) =
        server(vec![Say(200, few, "{}"), Say(200, "RateLimit-Remaining: 300\r\n", "{}"), Say(200, "", "{}")]);
    let client = client(&url);
    client.send(&Request::get("/x")).unwrap();
    let begun = Instant::now();
    client.send(&Request::get("/x")).unwrap();
    assert!(begun.elapsed() >= hasty().spared_wait);
    assert_eq!(client.remaining.load(Ordering::Relaxed), 300);
    client.send(&Request::get("/x")).unwrap();
}

#[test]
fn nobody_listens_and_nobody_answers() {
    // Bound, so that nobody else takes the port, but nobody listens.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let port = deaf.local_addr().unwrap().as_socket().unwrap().port();
    let error = client(&format!("http://127.0.0.1:{port}")).send(&post(Repeat::Never)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::NotSent(_)), "{error}");
    assert_eq!(error.effect(), Effect::None);

    let (url, _seen) = server(vec![Sleep(Duration::from_secs(20))]);
    let patience =
        Patience { connect_timeout: Duration::from_millis(100), reply_timeout: Duration::from_millis(200), ..hasty() };
    let client = Client::with_patience(&url, Authorization::None, patience).unwrap();
    let error = client.send(&post(Repeat::Never)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::NoReply(_)), "{error}");
    assert_eq!(error.effect(), Effect::Unknown);
}

#[test]
fn redirects_are_not_followed() {
    let (url, seen) = server(vec![Say(302, "Location: https://example.com/\r\n", ""), Say(200, "", "{}")]);
    let error = client(&url).send(&Request::get("/x")).unwrap_err();
    assert!(error.to_string().contains("points to another address"), "{error}");
    assert_eq!(seen.try_iter().count(), 1);
}

#[test]
fn replies_are_bounded_and_must_be_understood() {
    let (url, _seen) = server(vec![Say(200, "", "[1,2,3,4,5,6,7,8,9]")]);
    let error = client(&url).replies_up_to(10).send(&Request::get("/x")).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::TooLong { limit_bytes: 10 }), "{error:?}");

    let (url, _seen) = server(vec![Say(200, "", r#"{"password":"hunter2"}"#)]);
    let error = client(&url).json::<Vec<String>>(&Request::get("/x")).unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn waiting_ends_when_it_is_called_off() {
    let (url, _seen) = server(vec![Say(429, "Retry-After: 3\r\n", "")]);
    let cancel = CancellationToken::new();
    let client = client(&url).cancelled_by(cancel.clone());
    let waiting = std::thread::spawn(move || client.send(&Request::get("/x")));
    std::thread::sleep(Duration::from_millis(50));
    cancel.cancel();
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Cancelled), "{error}");
}

#[test]
fn no_key_is_shown() {
    let (url, _seen) = server(vec![Say(401, "", r#"{"message":"Invalid credentials provided."}"#)]);
    let client = client(&url);
    let request = Request::get("/x").header("x-secret", KEY).json(&json!({"k": KEY}));
    let error = client.send(&request).unwrap_err();
    let shown = format!("{client:?} {:?} {request:?} {error:?} {error}", client.authorization);
    assert!(!shown.contains(KEY), "{shown}");

    // A key with a line break would be two headers.
    let broken = Client::new("http://127.0.0.1:1", Authorization::Bearer(Secret::new("a\r\nb"))).unwrap();
    let error = broken.send(&Request::get("/x")).unwrap_err();
    assert_eq!(error.to_string(), "GET /x: the value of the header authorization cannot be sent");
}

#[test]
fn addresses_that_would_betray_the_key_are_refused() {
    for (url, why) in [
        ("http://api.example.com", "in clear"),
        ("https://key@api.example.com", "user name"),
        ("ftp://api.example.com", "begins neither"),
        ("api.example.com/x", "address"),
        ("https://api.example.com/?a=b", "query"),
    ] {
        let error = Client::new(url, Authorization::None).unwrap_err().to_string();
        assert!(error.contains(why), "{url}: {error}");
    }
    for (url, host) in [
        ("http://localhost:80/x", "localhost"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("https://ec2.eu-west-1.amazonaws.com:443", "ec2.eu-west-1.amazonaws.com"),
    ] {
        assert_eq!(Client::new(url, Authorization::None).unwrap().host(), host);
    }
}

#[test]
fn a_certificate_of_nobody_is_not_trusted() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut plain = String::new();
        rustls::Stream::new(&mut tls, &mut stream).read_to_string(&mut plain).is_ok_and(|_| !plain.is_empty())
    });
    let client = Client::with_patience(&format!("https://localhost:{port}"), Authorization::None, hasty()).unwrap();
    let error = client.send(&Request::get("/x")).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Untrusted(_)), "{error:?}");
    assert_eq!((error.effect(), error.attempts), (Effect::None, 1));
    assert!(!served.join().unwrap(), "something was sent to a stranger");
}

/// Neither a server that is silent nor one that is always busy is waited for longer than there is time.
#[test]
fn no_request_takes_longer_than_it_may() {
    let patience = Patience { attempts: 100, longest_wait: Duration::from_millis(50), ..Patience::default() };
    let busy = || Say(503, "retry-after: 1\r\n", "{}");
    for answers in [vec![Sleep(Duration::from_secs(3)), busy()], vec![busy(), busy(), busy()]] {
        let (url, _seen) = server(answers);
        let client = Client::with_patience(&url, Authorization::None, patience.clone()).unwrap();
        let begun = Instant::now();
        let until = begun + Duration::from_millis(700);
        let error = client.send_until(&Request::new(Method::Get, "/", Repeat::Safe), Some(until)).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::NoReply(_) | ErrorKind::Refused { status: 503, .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    }
}
