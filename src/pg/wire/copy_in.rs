use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::block::Block;
use super::connection::{DataConnection, copy_count};
use super::startup::decode_fields;
use crate::model::CopyFormat;
use crate::pg::error::Result;

/// How often, in bytes sent, a look is taken whether the server has already answered with an error.
const LOOK_EVERY_BYTES: usize = 1024 * 1024;

/// A COPY … FROM STDIN under way. Dropped unfinished it gives the connection up, and the server rolls back: success
/// must be said with [`CopyIn::finish`].
pub struct CopyIn<'c> {
    connection: &'c mut DataConnection,
    sql: String,
    since_look_bytes: usize,
}

impl DataConnection {
    /// Starts a `COPY … FROM STDIN`. Statements may stand before it in `sql`: that saves their round trips.
    ///
    /// # Errors
    /// The server's refusal; the connection is then usable.
    pub fn copy_in(&mut self, sql: &str, format: CopyFormat) -> Result<CopyIn<'_>> {
        self.send_query(sql)?;
        let mut answer = self.next_message()?;
        while matches!(answer, Message::CommandComplete(_) | Message::RowDescription(_) | Message::DataRow(_)) {
            answer = self.next_message()?;
        }
        match answer {
            Message::CopyInResponse(body) => {
                if (body.format() == 1) != (format == CopyFormat::Binary) {
                    return Err(self.out_of_step("the COPY format asked for", sql));
                }
                Ok(CopyIn { connection: self, sql: sql.into(), since_look_bytes: 0 })
            }
            Message::ErrorResponse(body) => {
                let error = decode_fields(body.fields());
                Err(self.fail_with(error, sql))
            }
            _ => Err(self.out_of_step("CopyInResponse", sql)),
        }
    }
}

impl CopyIn<'_> {
    /// Sends the block as one CopyData message and clears it.
    ///
    /// # Errors
    /// The server's error, as soon as it is noticed; the connection is then usable.
    pub fn write(&mut self, block: &mut Block) -> Result<()> {
        if block.is_empty() {
            return Ok(());
        }
        if let Err(lost) = self.connection.send(block.as_copy_data()) {
            return Err(self.connection.last_word(lost, &self.sql));
        }
        self.since_look_bytes += block.payload().len();
        block.clear();
        if self.since_look_bytes >= LOOK_EVERY_BYTES {
            self.since_look_bytes = 0;
            let has_input = self.connection.transport.has_input();
            if has_input.map_err(|e| self.connection.io_error(e))? {
                return self.early_answer();
            }
        }
        Ok(())
    }

    /// Says that the stream is complete. Returns the rows the server loaded, of its command tag.
    pub fn finish(self) -> Result<u64> {
        let mut done = BytesMut::new();
        frontend::copy_done(&mut done);
        if let Err(lost) = self.connection.send(&done) {
            return Err(self.connection.last_word(lost, &self.sql));
        }
        let mut rows = None;
        let mut failure = None;
        loop {
            let message = match (self.connection.next_message(), failure.take()) {
                (Ok(message), earlier) => {
                    failure = earlier;
                    message
                }
                (Err(_), Some(earlier)) => return Err(self.connection.server_error(earlier, &self.sql)),
                (Err(error), None) => return Err(error.with_statement(&self.sql)),
            };
            match message {
                Message::CommandComplete(body) => rows = body.tag().ok().and_then(copy_count),
                Message::ErrorResponse(body) => {
                    failure.get_or_insert(decode_fields(body.fields()));
                }
                Message::ReadyForQuery(_) => break,
                _ => return Err(self.connection.out_of_step("COPY n", &self.sql)),
            }
        }
        match (failure, rows) {
            (Some(error), _) => Err(self.connection.server_error(error, &self.sql)),
            (None, Some(rows)) => Ok(rows),
            (None, None) => Err(self.connection.out_of_step("COPY n", &self.sql)),
        }
    }

    /// Tells the server that the stream failed: it rolls the COPY back.
    pub fn abort(self, why: &str) -> Result<()> {
        let mut fail = BytesMut::new();
        frontend::copy_fail(why, &mut fail)
            .map_err(|e| crate::pg::Error::protocol(self.connection.side, e.to_string()))?;
        self.connection.send(&fail)?;
        self.connection.drain_to_ready().map(drop)
    }

    /// The server said something before the end: an error, or a notice.
    fn early_answer(&mut self) -> Result<()> {
        while self.connection.transport.has_input().map_err(|e| self.connection.io_error(e))? {
            if let Err(lost) = self.connection.fill() {
                return Err(self.connection.last_word(lost, &self.sql));
            }
        }
        let Some(error) = self.connection.pending_error()? else { return Ok(()) };
        // The server throws CopyData away until it hears the end of it.
        let mut fail = BytesMut::new();
        if frontend::copy_fail("the server reported an error", &mut fail).is_ok() {
            // A server that has ended the connection need not hear it.
            let _ = self.connection.send(&fail);
        }
        Err(self.connection.fail_with(error, &self.sql))
    }
}

impl Drop for CopyIn<'_> {
    fn drop(&mut self) {
        if !self.connection.is_idle() {
            self.connection.give_up();
        }
    }
}
