use postgres_protocol::message::backend::Message;

use super::block::Block;
use super::connection::{DataConnection, copy_count};
use super::frames::Drained;
use super::startup::decode_fields;
use crate::model::CopyFormat;
use crate::pg::error::{Error, ErrorKind, Result};

/// How many bytes a stream must have had before the socket is asked to wait for large pieces: short streams must
/// not wait at all.
const LOW_WATER_AFTER_BYTES: u64 = 1024 * 1024;

/// Bytes that a read of a long stream waits for.
const LOW_WATER_BYTES: usize = 128 * 1024;

/// What a complete COPY moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOutcome {
    /// Rows, as the server's command tag says; checked against the frames seen.
    pub rows: u64,
    /// Bytes of the COPY stream.
    pub bytes: u64,
}

/// A COPY … TO STDOUT under way.
///
/// Only [`CopyOut::next_block`] returning `false` means that the source said `COPY n`: a stream that merely ends is
/// not complete (a missing trailer is no error to a server that loads it).
pub struct CopyOut<'c> {
    connection: &'c mut DataConnection,
    sql: String,
    format: CopyFormat,
    bytes: u64,
    low_water: bool,
    outcome: Option<CopyOutcome>,
}

/// A COPY … TO STDOUT that the server has agreed to, apart from its connection: so that the connection can be used after a
/// refusal.
pub struct CopyOutStart {
    sql: String,
    format: CopyFormat,
}

impl CopyOutStart {
    /// `connection`: the one it was started on.
    #[must_use]
    pub fn stream(self, connection: &mut DataConnection) -> CopyOut<'_> {
        let Self { sql, format } = self;
        CopyOut { connection, sql, format, bytes: 0, low_water: false, outcome: None }
    }
}

impl DataConnection {
    /// Starts a `COPY … TO STDOUT`. Statements may stand before it in `sql`. What comes is read with
    /// [`CopyOutStart::stream`].
    ///
    /// # Errors
    /// The server's refusal; the connection is then usable.
    pub fn copy_out(&mut self, sql: &str, format: CopyFormat) -> Result<CopyOutStart> {
        self.send_query(sql)?;
        let mut answer = self.next_message()?;
        while matches!(answer, Message::CommandComplete(_)) {
            answer = self.next_message()?;
        }
        match answer {
            Message::CopyOutResponse(body) => {
                let binary = body.format() == 1;
                if binary != (format == CopyFormat::Binary) {
                    return Err(self.out_of_step("the COPY format asked for", sql));
                }
                self.reader.begin_copy();
                Ok(CopyOutStart { sql: sql.into(), format })
            }
            Message::ErrorResponse(body) => {
                let error = decode_fields(body.fields());
                Err(self.fail_with(error, sql))
            }
            _ => Err(self.out_of_step("CopyOutResponse", sql)),
        }
    }
}

impl CopyOut<'_> {
    /// Fills `block`. `false`: the stream is complete, the block may hold its last bytes.
    ///
    /// # Errors
    /// A failure of the source in mid-stream, or a row count that does not fit the frames seen.
    pub fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        let full_len = block.full_len();
        let before = block.payload().len();
        let more = loop {
            let drained = self.connection.reader.drain_copy(block.tail(), full_len);
            match drained {
                Ok(Drained::Full) => break true,
                Ok(Drained::NeedInput) => self.connection.fill()?,
                Ok(Drained::OtherMessage) => {
                    if self.end_of_stream()? {
                        break false;
                    }
                }
                Err(e) => return Err(self.connection.frame_error(&e)),
            }
        };
        self.bytes += (block.payload().len() - before) as u64;
        if more {
            self.raise_low_water();
        } else {
            self.complete()?;
        }
        Ok(more)
    }

    /// Reads the stream to its end and throws it away, where the connection must survive it.
    ///
    /// # Errors
    /// As [`CopyOut::next_block`].
    pub fn drain(&mut self, block: &mut Block) -> Result<()> {
        loop {
            block.clear();
            if !self.next_block(block)? {
                return Ok(());
            }
        }
    }

    /// CopyData messages so far: one a row, and in binary the trailer.
    pub fn frames(&self) -> u64 {
        self.connection.reader.frames()
    }

    /// What was moved. `None` before [`CopyOut::next_block`] has returned `false`.
    pub fn outcome(&self) -> Option<CopyOutcome> {
        self.outcome
    }

    /// Reads a message that is not CopyData. `true`: the server is ready again and all went well.
    fn end_of_stream(&mut self) -> Result<bool> {
        match self.connection.next_message()? {
            Message::CommandComplete(body) => {
                let rows = body.tag().ok().and_then(copy_count);
                let Some(rows) = rows else { return Err(self.connection.out_of_step("COPY n", &self.sql)) };
                self.outcome = Some(CopyOutcome { rows, bytes: 0 });
                Ok(false)
            }
            Message::CopyDone => Ok(false),
            Message::ReadyForQuery(_) if self.outcome.is_some() => {
                self.lower_low_water();
                Ok(true)
            }
            Message::ErrorResponse(body) => {
                let error = decode_fields(body.fields());
                self.lower_low_water();
                Err(self.connection.fail_with(error, &self.sql))
            }
            _ => Err(self.connection.out_of_step("CopyData, CopyDone or COPY n", &self.sql)),
        }
    }

    /// The pair check: rows of the command tag against frames seen. In binary, the trailer is a frame of its own and
    /// the header shares the first one, also in an empty table, so that there is one frame more than rows.
    fn complete(&mut self) -> Result<()> {
        let frames = self.connection.reader.frames();
        let by_frames = match self.format {
            CopyFormat::Binary => frames.saturating_sub(1),
            CopyFormat::Text => frames,
        };
        let bytes = self.bytes;
        if let Some(outcome) = &mut self.outcome {
            outcome.bytes = bytes;
            if outcome.rows != by_frames {
                let message = format!("the source says {} rows, its stream held {by_frames}", outcome.rows);
                return Err(Error::new(self.connection.side, ErrorKind::Mismatch(message)).with_statement(&self.sql));
            }
        }
        Ok(())
    }

    fn raise_low_water(&mut self) {
        if !self.low_water && self.bytes >= LOW_WATER_AFTER_BYTES {
            self.connection.transport.set_low_water(LOW_WATER_BYTES);
            self.low_water = true;
        }
    }

    fn lower_low_water(&mut self) {
        if self.low_water {
            self.connection.transport.set_low_water(1);
            self.low_water = false;
        }
    }
}

/// Left unfinished, the stream is not read to its end: the connection is given up.
impl Drop for CopyOut<'_> {
    fn drop(&mut self) {
        self.lower_low_water();
        if !self.connection.is_idle() {
            self.connection.give_up();
        }
    }
}
