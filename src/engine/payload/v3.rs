//! The payloads of Engine.IO 3: text (`length:packet`, in UTF-16 units) and binary (0 or 1, the
//! length's digits as bytes, 255, the packet).
//!
//! socket.io-client up to 1.3 reads an answer to a browser only as binary, later ones read both. So
//! all clients get binary, except those that asked for base64 (`b64=1`).

use std::borrow::Cow;

use super::{Kind, Packet, PayloadError, UNKNOWN, add, binary, text};
use crate::engine::packet::Protocol;

/// Ends the length of a packet in the binary framing.
const END: u8 = 255;
/// The most digits of a length: more than any body has.
const MAX_DIGITS: usize = 10;
/// The type of a message, as a byte in binary packets.
const MESSAGE: u8 = 4;

const BAD_LENGTH: PayloadError = PayloadError::Malformed("the length of a packet cannot be read");

/// Reads the text framing. Each length is read once, so the time grows with the body alone.
pub fn decode_text(body: &[u8], max: usize) -> Result<Vec<Packet>, PayloadError> {
    let mut rest = std::str::from_utf8(body).map_err(|_| PayloadError::Malformed("not UTF-8"))?;
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let head: &str = rest.get(..rest.len().min(MAX_DIGITS + 1)).unwrap_or(rest);
        let digits = head.bytes().take_while(u8::is_ascii_digit).count();
        let length = rest.get(..digits).and_then(|digits| digits.parse().ok()).ok_or(BAD_LENGTH)?;
        let tail = rest.get(digits..).and_then(|tail| tail.strip_prefix(':')).ok_or(BAD_LENGTH)?;
        let end = utf16_end(tail, length).ok_or(BAD_LENGTH)?;
        let (packet, tail) = tail.split_at(end);
        add(&mut packets, text(&decoded_once(packet), Protocol::V3), packet.len(), max)?;
        rest = tail;
    }
    Ok(packets)
}

/// Where the first `units` UTF-16 units of a text end; `None` if that is within a character.
fn utf16_end(text: &str, units: usize) -> Option<usize> {
    let mut seen = 0;
    for (at, char) in text.char_indices() {
        if seen >= units {
            return (seen == units).then_some(at);
        }
        seen += char.len_utf16();
    }
    (seen == units).then_some(text.len())
}

/// Clients 1.x encode a packet as UTF-8 twice: each byte of its UTF-8 form arrives as one character.
/// Clients 2.x encode it once. A text all of whose characters are bytes, and whose bytes are UTF-8
/// with characters beyond ASCII, is taken for twice encoded: written by a person, such a text would
/// be nonsense like `Ã¼`.
fn decoded_once(packet: &str) -> Cow<'_, str> {
    if packet.is_ascii() {
        return packet.into();
    }
    let bytes: Option<Vec<u8>> = packet.chars().map(|char| u8::try_from(char).ok()).collect();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(decoded) => decoded.into(),
        None => packet.into(),
    }
}

/// Reads the binary framing.
pub fn decode_binary(body: &[u8], max: usize) -> Result<Vec<Packet>, PayloadError> {
    let mut rest = body;
    let mut packets = Vec::new();
    while let Some((&kind, tail)) = rest.split_first() {
        let head = tail.get(..tail.len().min(MAX_DIGITS + 1)).unwrap_or(tail);
        let digits = head.iter().position(|&byte| byte == END).ok_or(BAD_LENGTH)?;
        let length = head.iter().take(digits).try_fold(0usize, |length, &digit| {
            let digit = usize::from(digit);
            length.checked_mul(10)?.checked_add((digit < 10).then_some(digit)?)
        });
        let (_, tail) = tail.split_at_checked(digits.saturating_add(1)).ok_or(BAD_LENGTH)?;
        let length = length.filter(|_| digits > 0).ok_or(BAD_LENGTH)?;
        let (packet, tail) = tail.split_at_checked(length).ok_or(BAD_LENGTH)?;
        add(&mut packets, one(kind, packet), packet.len(), max)?;
        rest = tail;
    }
    Ok(packets)
}

fn one(kind: u8, packet: &[u8]) -> Result<Packet, &'static str> {
    match (kind, packet.split_first()) {
        (0, _) => {
            let packet = std::str::from_utf8(packet).map_err(|_| "not UTF-8")?;
            text(&decoded_once(packet), Protocol::V3)
        }
        (1, Some((&MESSAGE, bytes))) => Ok(binary(bytes.len())),
        (1, Some((&kind, _))) => match Kind::of(kind.wrapping_add(b'0')) {
            Some(kind) => Ok(Packet { kind, data: super::Data::Text(String::new()) }),
            None => Err(UNKNOWN),
        },
        _ => Err(UNKNOWN),
    }
}

/// Adds a packet in the binary framing.
pub fn encode_binary(body: &mut Vec<u8>, is_text: bool, payload: &[u8]) {
    body.push(u8::from(!is_text));
    body.extend(payload.len().to_string().bytes().map(|digit| digit.wrapping_sub(b'0')));
    body.push(END);
    body.extend_from_slice(payload);
}

/// Adds a packet in the text framing. Outside ASCII, it is written in JSON's escapes: clients 1.x
/// expect UTF-8 encoded twice, 2.x once, and the escapes are the same for both.
pub fn encode_text(body: &mut Vec<u8>, is_text: bool, payload: &[u8]) {
    let packet = match payload.split_first() {
        Some((&MESSAGE, bytes)) if !is_text => {
            use base64::{Engine as _, prelude::BASE64_STANDARD};
            format!("b4{}", BASE64_STANDARD.encode(bytes))
        }
        _ => ascii(&String::from_utf8_lossy(payload)),
    };
    body.extend_from_slice(packet.len().to_string().as_bytes());
    body.push(b':');
    body.extend_from_slice(packet.as_bytes());
}

/// What is not ASCII stands in JSON strings, where it may be escaped.
fn ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii() {
            escaped.push(char);
        } else {
            let units = char.encode_utf16(&mut [0; 2]).to_vec();
            escaped.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    escaped
}
