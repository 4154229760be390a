//! What a server may send, byte by byte of its own choosing.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;

use super::frames::{Drained, FrameReader, MESSAGE_LIMIT_BYTES, READ_BUFFER_BYTES};
use super::startup::{decode_error, decode_fields};

/// What a block of a lane holds here.
const BLOCK_BYTES: usize = 4096;

/// Takes the bytes as a server's messages: first as those of a COPY, then as answers. The first byte says in how large pieces
/// they come.
pub(crate) fn messages(bytes: &[u8]) -> Vec<u8> {
    let Some((piece, bytes)) = bytes.split_first() else { return Vec::new() };
    let mut reader = FrameReader::new(&[]);
    let (mut block, mut payload) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(usize::from(*piece) + 1) {
        let room = reader.room();
        assert!(room.len() <= 2 * (MESSAGE_LIMIT_BYTES + READ_BUFFER_BYTES), "a buffer of {} bytes", room.len());
        let taken = piece.len().min(room.len());
        room[..taken].copy_from_slice(&piece[..taken]);
        reader.filled(taken);
        loop {
            block.clear();
            let drained = reader.drain_copy(&mut block, BLOCK_BYTES);
            assert!(block.len() <= BLOCK_BYTES, "a block of {} bytes", block.len());
            payload.extend_from_slice(&block);
            match drained {
                Ok(Drained::Full) => {}
                Ok(Drained::NeedInput) => break,
                Ok(Drained::OtherMessage) => match reader.next_message() {
                    Ok(Some((_, whole))) => answer(whole),
                    Ok(None) => break,
                    Err(_) => return payload,
                },
                Err(_) => return payload,
            }
        }
    }
    payload
}

/// A message that is not CopyData, as the connection reads it.
fn answer(whole: &[u8]) {
    use fallible_iterator::FallibleIterator as _;
    let mut bytes = BytesMut::from(whole);
    match Message::parse(&mut bytes) {
        Ok(Some(Message::ErrorResponse(body))) => drop(decode_fields(body.fields())),
        Ok(Some(Message::NoticeResponse(body))) => drop(decode_fields(body.fields())),
        Ok(Some(Message::DataRow(row))) => _ = row.ranges().count(),
        Ok(Some(Message::CommandComplete(body))) => _ = body.tag(),
        Ok(Some(Message::RowDescription(body))) => _ = body.fields().count(),
        _ => {}
    }
    decode_error(whole);
}
