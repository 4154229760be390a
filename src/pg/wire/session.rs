//! A connection while it is being made: whole messages, and the few simple queries of the start.

use std::collections::HashMap;
use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{BackendKeyDataBody, DataRowBody, Message, ParameterStatusBody};
use postgres_protocol::message::frontend;

use super::failure::Failure;
use super::startup::decode_fields;
use super::transport::Transport;
use crate::pg::conninfo::{ConnInfo, Endpoint};
use crate::pg::{Error, ErrorKind};

/// PostgreSQL 18 reports sixteen.
const PARAMETERS_MAX: usize = 1000;

/// More than any message before the first query can have. A longer one comes from something that is not PostgreSQL.
const MESSAGE_LIMIT_BYTES: usize = 1 << 20;

/// A row of a simple query: values in text.
pub(super) type Row = Vec<Option<String>>;

/// A connection that is being made, to one endpoint.
pub(super) struct Session<'a> {
    pub info: &'a ConnInfo,
    pub endpoint: Endpoint,
    pub transport: Transport,
    pub parameters: HashMap<String, String>,
    /// What BackendKeyData says: for cancel requests.
    pub process_id: i32,
    pub secret_key: i32,
    /// Whether the server has got as far as to ask for a proof of identity.
    pub login_begun: bool,
    pub input: BytesMut,
    output: BytesMut,
}

impl<'a> Session<'a> {
    pub fn new(info: &'a ConnInfo, endpoint: Endpoint, transport: Transport) -> Self {
        Self {
            info,
            endpoint,
            transport,
            parameters: HashMap::new(),
            process_id: 0,
            secret_key: 0,
            login_begun: false,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    pub fn broken(&self, error: io::Error) -> Failure {
        Failure::io(self.info, &self.endpoint, error)
    }

    pub fn surprise(&self, what: &str) -> Failure {
        Failure::stop(Error::protocol(
            self.info.side(),
            format!("{what}, from {}", self.info.host_address(self.endpoint.host_index)),
        ))
    }

    /// Sends what `write` puts together.
    pub fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Failure> {
        self.output.clear();
        let written = write(&mut self.output).and_then(|()| self.transport.write_all(&self.output));
        written.map_err(|error| self.broken(error))
    }

    /// The next message that is about what we asked; notices and changed parameters are dealt with here.
    pub fn receive(&mut self) -> Result<Message, Failure> {
        loop {
            match self.receive_any()? {
                Message::NoticeResponse(body) => {
                    let notice = decode_fields(body.fields());
                    tracing::debug!(side = %self.info.side(), severity = notice.severity, "{}", notice.message);
                }
                Message::ParameterStatus(body) => self.note_parameter(&body)?,
                message => return Ok(message),
            }
        }
    }

    fn note_parameter(&mut self, body: &ParameterStatusBody) -> Result<(), Failure> {
        let pair = body.name().and_then(|name| Ok((name.to_owned(), body.value()?.to_owned())));
        let (name, value) = pair.map_err(|error| self.broken(error))?;
        self.parameters.insert(name, value);
        if self.parameters.len() > PARAMETERS_MAX {
            return Err(self.surprise("more parameters than any PostgreSQL has"));
        }
        Ok(())
    }

    fn receive_any(&mut self) -> Result<Message, Failure> {
        loop {
            if let Some(header) = self.input.get(..5) {
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                if length > MESSAGE_LIMIT_BYTES {
                    return Err(self.surprise("an answer that PostgreSQL would not give"));
                }
            }
            match Message::parse(&mut self.input) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(self.surprise(&format!("a message that cannot be read ({error})"))),
            }
            let filled = self.input.len();
            self.input.resize(filled + 8192, 0);
            let read = self.transport.read(&mut self.input[filled..]);
            self.input.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    return Err(
                        self.broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))
                    );
                }
                Ok(_) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    pub fn note_key(&mut self, body: &BackendKeyDataBody) {
        self.process_id = body.process_id();
        self.secret_key = body.secret_key();
    }

    /// Runs a simple query and collects its rows.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        self.send(|out| frontend::query(sql, out))?;
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            match self.receive() {
                Ok(Message::DataRow(body)) => rows.push(decode_row(&body).map_err(|error| self.broken(error))?),
                Ok(Message::ErrorResponse(body)) => failed = Some(decode_fields(body.fields())),
                Ok(Message::ReadyForQuery(_)) => break,
                Ok(Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse) => {}
                Ok(_) => return Err(self.surprise("an unexpected answer to a query")),
                // A last word, then the end: the word is what matters.
                Err(_) if failed.is_some() => break,
                Err(failure) => return Err(failure),
            }
        }
        match failed {
            None => Ok(rows),
            Some(error) => {
                Err(Failure::stop(Error::new(self.info.side(), ErrorKind::Server(error)).with_statement(sql)))
            }
        }
    }

    /// A query that gives one value.
    pub fn query_value(&mut self, sql: &str) -> Result<String, Failure> {
        let value = self.query(sql)?.pop().and_then(|mut row| row.pop()).flatten();
        value.ok_or_else(|| self.surprise("a query without a result"))
    }

    /// Says goodbye and waits until the server has let go: its place is free for the next connection then.
    pub fn close(mut self) {
        let bye = self.send(|out| {
            frontend::terminate(out);
            Ok(())
        });
        let mut rest = [0; 256];
        self.transport.set_timeout(super::startup::GOODBYE);
        while bye.is_ok() && matches!(self.transport.read(&mut rest), Ok(count) if count > 0) {}
    }
}

fn decode_row(body: &DataRowBody) -> io::Result<Row> {
    let ranges: Vec<_> = body.ranges().collect()?;
    Ok(ranges
        .into_iter()
        .map(|range| range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned()))
        .collect())
}
