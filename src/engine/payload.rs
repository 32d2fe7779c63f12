//! Engine.IO packets in WebSocket messages and in the payloads of polls and POSTs, in both versions
//! of the protocol.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::packet::{Format, Protocol};

mod v3;

/// Separates the packets of a payload in version 4.
const SEPARATOR: u8 = 0x1e;
/// The most packets of one payload, as many as may wait for a client: each costs more than its bytes.
const MAX_PACKETS: usize = 4096;

/// A packet from a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// Its type.
    pub kind: Kind,
    /// What follows the type.
    pub data: Data,
}

/// The types of packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Open,
    Close,
    Ping,
    Pong,
    Message,
    Upgrade,
    Noop,
}

/// The content of a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Text(String),
    /// Bytes are counted and dropped: no event takes an attachment. So this is only their number.
    Binary(usize),
}

/// What is wrong with a payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PayloadError {
    /// It cannot be read.
    Malformed(&'static str),
    /// It has too many packets, or one of them is too large.
    TooLarge(&'static str),
}

const TOO_MANY: PayloadError = PayloadError::TooLarge("a request has 4096 packets at most");
const PACKET_TOO_LARGE: PayloadError =
    PayloadError::TooLarge("a packet is too large (see MAX_MESSAGE)");
const UNKNOWN: &str = "a packet of an unknown type";

impl Kind {
    /// The type that a digit stands for.
    fn of(digit: u8) -> Option<Self> {
        Some(match digit {
            b'0' => Self::Open,
            b'1' => Self::Close,
            b'2' => Self::Ping,
            b'3' => Self::Pong,
            b'4' => Self::Message,
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            _ => return None,
        })
    }
}

/// Reads a WebSocket message.
///
/// # Errors
/// A reason, if it is no packet.
pub fn packet(payload: &[u8], is_text: bool, protocol: Protocol) -> Result<Packet, &'static str> {
    match (is_text, protocol) {
        // The frame decoder has checked that it is UTF-8.
        (true, _) => text(std::str::from_utf8(payload).map_err(|_| "not UTF-8")?, protocol),
        (false, Protocol::V4) => Ok(binary(payload.len())),
        (false, Protocol::V3) => match payload.split_first() {
            Some((4, payload)) => Ok(binary(payload.len())),
            _ => Err(UNKNOWN),
        },
    }
}

fn binary(bytes: usize) -> Packet {
    Packet { kind: Kind::Message, data: Data::Binary(bytes) }
}

/// Reads a packet that is text. Clients that cannot send bytes send them in base64 after a `b`; in
/// version 3 the type follows the `b`.
fn text(packet: &str, protocol: Protocol) -> Result<Packet, &'static str> {
    if let Some(encoded) = packet.strip_prefix('b') {
        let encoded = match protocol {
            Protocol::V3 => encoded.strip_prefix('4').ok_or(UNKNOWN)?,
            Protocol::V4 => encoded,
        };
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| "base64 that cannot be read")?;
        return Ok(binary(bytes.len()));
    }
    let mut rest = packet.chars();
    let digit = rest.next().and_then(|first| u8::try_from(first).ok());
    let kind = digit.and_then(Kind::of).ok_or(UNKNOWN)?;
    Ok(Packet { kind, data: Data::Text(rest.as_str().to_owned()) })
}

/// Reads the payload of a POST. `is_binary` is the framing of version 3 for bytes. A packet may have
/// `max` bytes.
///
/// # Errors
/// If it cannot be read, or is too large.
pub fn decode(
    body: &[u8],
    protocol: Protocol,
    is_binary: bool,
    max: usize,
) -> Result<Vec<Packet>, PayloadError> {
    match (protocol, is_binary) {
        (Protocol::V3, true) => v3::decode_binary(body, max),
        (Protocol::V3, false) => v3::decode_text(body, max),
        (Protocol::V4, _) => decode_separated(body, max),
    }
}

fn decode_separated(body: &[u8], max: usize) -> Result<Vec<Packet>, PayloadError> {
    let body = std::str::from_utf8(body).map_err(|_| PayloadError::Malformed("not UTF-8"))?;
    let mut packets = Vec::new();
    for part in body.split(char::from(SEPARATOR)) {
        add(&mut packets, text(part, Protocol::V4), part.len(), max)?;
    }
    Ok(packets)
}

/// Adds a packet of `size` bytes, if that is not too much.
fn add(
    packets: &mut Vec<Packet>,
    packet: Result<Packet, &'static str>,
    size: usize,
    max: usize,
) -> Result<(), PayloadError> {
    if packets.len() >= MAX_PACKETS {
        return Err(TOO_MANY);
    }
    if size > max {
        return Err(PACKET_TOO_LARGE);
    }
    packets.push(packet.map_err(PayloadError::Malformed)?);
    Ok(())
}

/// Writes the answer to a poll.
pub struct Encoder {
    format: Format,
    body: Vec<u8>,
}

impl Encoder {
    /// An empty answer.
    pub fn new(format: Format) -> Self {
        Self { format, body: Vec::new() }
    }

    /// Adds a packet as a WebSocket would carry it: whether it is text, and its payload.
    pub fn add(&mut self, (is_text, payload): (bool, Bytes)) {
        match (self.format.protocol, self.format.is_base64) {
            (Protocol::V4, _) => self.add_separated(is_text, &payload),
            (Protocol::V3, false) => v3::encode_binary(&mut self.body, is_text, &payload),
            (Protocol::V3, true) => v3::encode_text(&mut self.body, is_text, &payload),
        }
    }

    /// The body of the answer.
    pub fn finish(self) -> Vec<u8> {
        self.body
    }

    fn add_separated(&mut self, is_text: bool, payload: &[u8]) {
        if !self.body.is_empty() {
            self.body.push(SEPARATOR);
        }
        if is_text {
            self.body.extend_from_slice(payload);
        } else {
            self.body.push(b'b');
            self.body.extend_from_slice(BASE64_STANDARD.encode(payload).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
