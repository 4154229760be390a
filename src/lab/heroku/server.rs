use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{Answer, KEY, World};
use crate::lab::{Error, Result};

/// The stand-in over HTTP, on a port of this machine that was free. It ends when it is dropped.
pub struct HerokuServer {
    pub world: Arc<World>,
    port: u16,
    over: Arc<AtomicBool>,
}

/// No request of ours is larger.
const BODY_MAX: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

impl HerokuServer {
    /// # Errors
    /// No port can be had.
    pub fn start(world: Arc<World>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Error::io("127.0.0.1"))?;
        let port = listener.local_addr().map_err(Error::io("127.0.0.1"))?.port();
        let over = Arc::new(AtomicBool::new(false));
        let (stop, served) = (Arc::clone(&over), Arc::clone(&world));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (world, stop) = (Arc::clone(&served), Arc::clone(&stop));
                std::thread::spawn(move || while !stop.load(Ordering::SeqCst) && serve(&world, &stream).is_some() {});
            }
        });
        Ok(Self { world, port, over })
    }

    /// For HEROKU_HOST: one port serves both APIs.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for HerokuServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request; `None` where the connection is over.
fn serve(world: &World, stream: &TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|&length| length > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut knows_key, mut from) = (0, false, 0);
    loop {
        let mut header = String::new();
        input.read_line(&mut header).ok().filter(|&length| length > 0)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok().filter(|&length| length <= BODY_MAX)?,
            // As a reply has named it.
            "range" => {
                let member = value.trim().strip_prefix("member ").and_then(|range| range.strip_suffix(".."));
                from = member.and_then(|member| member.parse().ok()).unwrap_or_default();
            }
            "authorization" => knows_key = value.contains(KEY),
            _ => {}
        }
    }
    let mut body = Vec::new();
    input.by_ref().take(length).read_to_end(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if !knows_key {
        let refusal = serde_json::json!({ "id": "unauthorized", "message": "Invalid credentials provided." });
        return reply(stream, &Answer { status: 401, body: Some(refusal), retry_after_s: None }, None);
    }
    let mut answer = world.handle(&method, &path, &body);
    let next_range = world.with(|state| state.page_max).and_then(|max| cut(&mut answer, from, max));
    reply(stream, &answer, next_range.as_deref())
}

/// Leaves a part of a list, and says which range is next.
fn cut(answer: &mut Answer, from: usize, max: usize) -> Option<String> {
    let Some(Value::Array(all)) = &mut answer.body else { return None };
    let to = (from + max).min(all.len());
    let is_last = to == all.len();
    *all = all.drain(from.min(to)..to).collect();
    if is_last {
        return None;
    }
    answer.status = 206;
    Some(format!("Next-Range: member {to}..\r\n"))
}

/// Each answer ends its connection: what is lost is lost for sure, and nothing of one request is left for another.
fn reply(mut stream: &TcpStream, answer: &Answer, next_range: Option<&str>) -> Option<()> {
    if let Some(body) = &answer.body {
        let text = body.to_string();
        let retry = answer.retry_after_s.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
        let head = format!(
            "HTTP/1.1 {} .\r\nContent-Type: application/json\r\nContent-Length: {}\r\nRequest-Id: stand-in\r\n{retry}{}\
             Connection: close\r\n\r\n",
            answer.status,
            text.len(),
            next_range.unwrap_or_default()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes())).ok()?;
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    None
}
