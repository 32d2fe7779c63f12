//! Socket.IO packets: the one place that knows their text, and the door to the crates that read and
//! write it (`socketioxide-core` and `socketioxide-parser-common`).

use bytes::{Bytes, BytesMut};
use serde::Serialize;
pub use socketioxide_core::Sid;
use socketioxide_core::{
    Str, Value,
    packet::{Packet, PacketData},
    parser::{Parse, ParseConfig, ParseError, ParserState},
};
use socketioxide_parser_common::CommonParser;

use super::frame;

/// The namespace that all clients use. There is no other.
const MAIN: &str = "/";
/// The most attachments that a packet may announce. No event takes one: they are counted and
/// skipped, so that the event can be answered.
const MAX_ATTACHMENTS: usize = 64;

/// The version of the protocols that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    /// Engine.IO 3 and Socket.IO 4: clients 1.x and 2.x.
    V3,
    /// Engine.IO 4 and Socket.IO 5: clients 3.x and 4.x.
    V4,
}

/// How a client's frames are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Format {
    /// The version of the protocols.
    pub protocol: Protocol,
    /// The client asked for binary data as base64 text (`b64=1`).
    pub is_base64: bool,
}

/// A packet from a client.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// CONNECT to a namespace, with its payload as JSON text.
    Connect {
        /// The namespace, without a query.
        namespace: String,
        /// The payload; clients 3.x and later send their token in it.
        auth: Option<String>,
    },
    /// DISCONNECT from the main namespace.
    Disconnect,
    /// EVENT or BINARY_EVENT in the main namespace.
    ClientEvent {
        /// The JSON array of name and arguments.
        text: String,
        /// The id under which an answer is expected.
        ack: Option<i64>,
    },
    /// Anything that needs no answer: acknowledgements, and packets of other namespaces.
    Ignored,
}

/// A packet, and the number of attachments that follow it.
pub type Decoded = (Received, usize);

/// Reads a packet. Its attachments are the binary messages that follow it.
///
/// # Errors
/// A reason, if it is no packet that a client may send.
pub fn decode(text: &str) -> Result<Decoded, &'static str> {
    // The parser keeps a packet with attachments in its state. A new state for each packet costs
    // nothing, and takes the packet out at once.
    let (config, state) = (config(), ParserState::default());
    let packet = match CommonParser.decode_str(&config, &state, Str::copy_from_slice(text)) {
        Ok(packet) => packet,
        Err(ParseError::NeedsMoreBinaryData) => {
            let partial = state.partial_bin_packet.into_inner().ok().flatten();
            partial.ok_or("a packet without its attachments")?.packet
        }
        Err(ParseError::TooManyAttachments { .. }) => return Err("too many attachments"),
        // An acknowledgement without a payload or with a huge id; no answer of ours asks for one.
        Err(_) if text.starts_with(['3', '6']) => return Ok((Received::Ignored, 0)),
        Err(_) => return Err("not a Socket.IO packet"),
    };
    let attachments = state.incoming_binary_cnt.into_inner();
    let is_main = packet.ns.as_str() == MAIN || packet.ns.starts_with("/?");
    let received = match packet.inner {
        PacketData::Connect(auth) => {
            let namespace = packet.ns.split('?').next().unwrap_or(MAIN).to_owned();
            Received::Connect { namespace, auth: auth.and_then(into_text) }
        }
        PacketData::Disconnect if is_main => Received::Disconnect,
        PacketData::Event(value, ack) | PacketData::BinaryEvent(value, ack) if is_main => {
            Received::ClientEvent { text: into_text(value).unwrap_or_default(), ack }
        }
        _ => Received::Ignored,
    };
    Ok((received, attachments))
}

fn config() -> ParseConfig {
    ParseConfig { max_incoming_binaries: MAX_ATTACHMENTS, ..ParseConfig::default() }
}

fn into_text(value: Value) -> Option<String> {
    match value {
        Value::Str(text, _) => Some(text.into()),
        Value::Bytes(_) => None,
    }
}

/// The answer to a CONNECT that is accepted. Version 3 has no payload.
pub fn connected(protocol: Protocol, sid: Sid) -> Bytes {
    let payload = match protocol {
        Protocol::V3 => None,
        Protocol::V4 => Some(json(&serde_json::json!({ "sid": sid.as_str() }))),
    };
    encode(Packet::connect(MAIN, payload))
}

/// The answer to a CONNECT that is refused, with the reason for the developer.
pub fn connect_error(namespace: &str, reason: &str) -> Bytes {
    encode(Packet::connect_error(namespace.to_owned(), reason))
}

/// The end of the main namespace.
pub fn disconnect() -> Bytes {
    encode(Packet::disconnect(MAIN))
}

/// The answer to an event.
pub fn acknowledgement(id: i64, answer: &impl Serialize) -> Bytes {
    encode(Packet::ack(MAIN, json(&[answer]), id))
}

/// An event with one argument, or with none.
pub fn event(name: &str, argument: Option<&impl Serialize>) -> Bytes {
    let value = match argument {
        Some(argument) => json(&(name, argument)),
        None => json(&[name]),
    };
    encode(Packet::event(MAIN, value))
}

fn json(value: &impl Serialize) -> Value {
    // Strings, numbers and lists of them: encoding cannot fail.
    Value::Str(serde_json::to_string(value).unwrap_or_default().into(), None)
}

fn encode(packet: Packet) -> Bytes {
    match CommonParser.encode(packet) {
        Value::Str(text, _) => frame::text(&[b"4", text.as_bytes()]),
        Value::Bytes(bytes) => frame::text(&[b"4", &bytes]),
    }
}

/// Appends the event `message` to frames; `text` and `rest` are JSON. It is written here and not by
/// the parser, because it is the hot path: the parts are shared by all clients.
pub fn put_message(frames: &mut BytesMut, text: &str, rest: &[&str]) {
    put_text(frames, r#"42["message","#, text, rest);
}

/// Appends the event `message` with a binary payload to frames: its attachment is a frame of its own.
pub fn put_binary_message(frames: &mut BytesMut, format: Format, payload: &[u8], rest: &[&str]) {
    put_text(frames, r#"451-["message","#, r#"{"_placeholder":true,"num":0}"#, rest);
    put_attachment(frames, format, payload);
}

fn put_text(frames: &mut BytesMut, head: &str, first: &str, rest: &[&str]) {
    let length =
        head.len() + first.len() + 1 + rest.iter().map(|part| 1 + part.len()).sum::<usize>();
    frame::put_header(frames, frame::TEXT, length);
    frames.extend_from_slice(head.as_bytes());
    frames.extend_from_slice(first.as_bytes());
    for part in rest {
        frames.extend_from_slice(b",");
        frames.extend_from_slice(part.as_bytes());
    }
    frames.extend_from_slice(b"]");
}

fn put_attachment(frames: &mut BytesMut, format: Format, payload: &[u8]) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let (kind, before): (_, &[u8]) = match (format.protocol, format.is_base64) {
        (Protocol::V4, false) => (frame::BINARY, b""),
        (Protocol::V3, false) => (frame::BINARY, &[4]),
        (Protocol::V4, true) => (frame::TEXT, b"b"),
        (Protocol::V3, true) => (frame::TEXT, b"b4"),
    };
    if format.is_base64 {
        let text = BASE64_STANDARD.encode(payload);
        frame::put_header(frames, kind, before.len() + text.len());
        frames.extend_from_slice(before);
        frames.extend_from_slice(text.as_bytes());
    } else {
        frame::put_header(frames, kind, before.len() + payload.len());
        frames.extend_from_slice(before);
        frames.extend_from_slice(payload);
    }
}

#[cfg(test)]
mod tests;
