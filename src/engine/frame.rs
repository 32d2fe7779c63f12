//! WebSocket frames (RFC 6455, section 5): those of clients are read, those of the server written.

use bytes::{BufMut, Bytes, BytesMut};

mod decoder;
mod header;
mod utf8;

pub use decoder::{Decoder, Item, Violation};
use header::MAX_CONTROL;

/// First byte of a whole text frame.
pub const TEXT: u8 = 0x81;
/// First byte of a whole binary frame.
pub const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

/// Close code: the connection has done its work.
pub const NORMAL: u16 = 1000;
/// Close code: the server is stopping.
pub const GOING_AWAY: u16 = 1001;
/// Close code: the client broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// Close code: a text was not UTF-8.
const NOT_UTF8: u16 = 1007;
/// Close code: the client did what the server does not allow.
pub const POLICY: u16 = 1008;
/// Close code: a message was too large.
const TOO_LARGE: u16 = 1009;
/// Close code: the server has no room for this client now.
pub const TRY_AGAIN_LATER: u16 = 1013;

/// The most bytes of a server's header: two, and the length's eight.
const MAX_HEADER: usize = 10;

/// A text frame with the payload of all parts together, which must be UTF-8.
pub fn text(parts: &[&[u8]]) -> Bytes {
    whole(TEXT, parts)
}

/// A pong with a ping's payload.
pub fn pong(payload: &[u8]) -> Bytes {
    whole(PONG, &[payload])
}

/// A close frame. The reason may have 123 bytes; what is longer is left out.
pub fn close(code: u16, reason: &str) -> Bytes {
    let reason = reason.as_bytes().get(..MAX_CONTROL - 2).unwrap_or(reason.as_bytes());
    whole(CLOSE, &[&code.to_be_bytes(), reason])
}

fn whole(first: u8, parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(length + MAX_HEADER);
    put_header(&mut frame, first, length);
    parts.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

/// Appends the header of a server's frame: its first byte, and the length in its shortest form.
pub fn put_header(frames: &mut BytesMut, first: u8, length: usize) {
    frames.reserve(MAX_HEADER + length);
    frames.put_u8(first);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frames.put_u8(short),
        (_, Ok(length)) => {
            frames.put_u8(126);
            frames.put_u16(length);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(length as u64);
        }
    }
}

/// The messages in whole frames of the server: whether each is text, and its payload.
pub fn split(frames: &Bytes) -> impl Iterator<Item = (bool, Bytes)> {
    let mut rest = frames.clone();
    std::iter::from_fn(move || {
        let (first, short) = (*rest.first()?, *rest.get(1)?);
        let (length, size): (usize, usize) = match short {
            126 => (usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.get(2..)?.first_chunk()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let end = size.checked_add(length).filter(|end| *end <= rest.len())?;
        let frame = rest.split_to(end);
        Some((first == TEXT, frame.slice(size..)))
    })
}
