//! Polling answers for Engine.IO 3 clients, framed as all of them can read.
//!
//! The protocol has two framings of a list of packets: text (`length:packet`, in UTF-16 units)
//! and binary (0 or 1, the length's digits as bytes, 255, the packet). socket.io-client up to 1.3
//! reads an answer to a browser only as binary, later ones read both; so everybody gets binary,
//! except who asked for base64 only (`b64=1`).
//!
//! Two more things are mended on the way. engineioxide 0.17 writes a binary message as `b` and
//! base64 where version 3 of the protocol wants the packet's type between the two. And
//! socket.io-client 1.x expects the text framing's text to be encoded as UTF-8 twice, 2.x once;
//! JSON escapes instead of anything but ASCII are the same to both.

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// The packet type “message”, as a byte in binary packets and as a digit in text.
const MESSAGE: u8 = 4;

enum Packet<'a> {
    Text(&'a str),
    Binary(Vec<u8>),
}

/// Frames the packets of `body` anew. A body that cannot be read is returned as it is.
pub fn reframe(body: &[u8], base64_only: bool) -> Vec<u8> {
    let Some(packets) = read(body) else { return body.to_vec() };
    let mut framed = Vec::with_capacity(body.len() + 8 * packets.len());
    for packet in &packets {
        if base64_only {
            write_text(packet, &mut framed)
        } else {
            write_binary(packet, &mut framed)
        }
    }
    framed
}

fn read(body: &[u8]) -> Option<Vec<Packet<'_>>> {
    if !matches!(body.first(), Some(0 | 1)) {
        let packets = split_text(std::str::from_utf8(body).ok()?)?;
        return Some(packets.into_iter().map(Packet::from_text).collect());
    }
    let packets = split_binary(body)?.into_iter().map(|(kind, packet)| match kind {
        0 => std::str::from_utf8(packet).ok().map(Packet::from_text),
        _ => packet.get(1..).map(|bytes| Packet::Binary(bytes.to_vec())),
    });
    packets.collect()
}

/// The packets of the text framing.
pub fn split_text(mut rest: &str) -> Option<Vec<&str>> {
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_once(':')?;
        let end = utf16_end(tail, length.parse().ok()?)?;
        packets.push(&tail[..end]);
        rest = &tail[end..];
    }
    Some(packets)
}

/// The packets of the binary framing, each with its kind: 0 is text, 1 begins with its type.
pub fn split_binary(mut rest: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut packets = Vec::new();
    while let Some((&kind, tail)) = rest.split_first() {
        let digits = tail.iter().position(|&byte| byte == 255)?;
        let length = tail[..digits].iter().try_fold(0usize, |length, &digit| {
            length.checked_mul(10)?.checked_add(usize::from(digit))
        })?;
        let tail = &tail[digits + 1..];
        packets.push((kind, tail.get(..length)?));
        rest = &tail[length..];
    }
    Some(packets)
}

/// Where the first `units` UTF-16 units of a text end.
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

impl<'a> Packet<'a> {
    fn from_text(text: &'a str) -> Self {
        let binary = text.strip_prefix('b').and_then(|base64| BASE64_STANDARD.decode(base64).ok());
        binary.map_or(Self::Text(text), Self::Binary)
    }
}

fn write_binary(packet: &Packet<'_>, framed: &mut Vec<u8>) {
    let (kind, head, packet): (u8, &[u8], &[u8]) = match packet {
        Packet::Text(text) => (0, &[], text.as_bytes()),
        Packet::Binary(bytes) => (1, &[MESSAGE], bytes),
    };
    framed.push(kind);
    let length = head.len() + packet.len();
    framed.extend(length.to_string().bytes().map(|digit| digit - b'0'));
    framed.push(255);
    framed.extend_from_slice(head);
    framed.extend_from_slice(packet);
}

fn write_text(packet: &Packet<'_>, framed: &mut Vec<u8>) {
    let text = match packet {
        Packet::Text(text) => ascii(text),
        Packet::Binary(bytes) => format!("b{MESSAGE}{}", BASE64_STANDARD.encode(bytes)),
    };
    framed.extend_from_slice(format!("{}:{text}", text.len()).as_bytes());
}

/// What is not ASCII stands inside JSON strings, where it may be escaped.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(body: &[u8]) -> Vec<u8> {
        reframe(body, false)
    }

    #[test]
    fn text_becomes_binary_by_bytes() {
        assert_eq!(binary("2:4a".as_bytes()), b"\x00\x02\xff4a");
        // 😀 is two UTF-16 units and four bytes; ü one and two.
        let expected = ["\0\u{7}".as_bytes(), b"\xff", "4😀ü".as_bytes(), b"\x00\x02\xff40"];
        assert_eq!(binary("4:4😀ü2:40".as_bytes()), expected.concat());
        let long = "x".repeat(123);
        let framed = binary(format!("{}:{long}", long.len()).as_bytes());
        assert_eq!(&framed[..5], b"\x00\x01\x02\x03\xff");
        assert_eq!(&framed[5..], long.as_bytes());
    }

    #[test]
    fn binary_messages_get_their_type() {
        assert_eq!(binary(b"5:bAP8="), b"\x01\x03\xff\x04\x00\xff");
        assert_eq!(binary(b"\x00\x05\xffbAP8="), b"\x01\x03\xff\x04\x00\xff");
        assert_eq!(reframe(b"5:bAP8=", true), b"6:b4AP8=");
    }

    #[test]
    fn text_stays_text_for_who_asked_for_base64_and_is_ascii() {
        assert_eq!(reframe("8:4[\"ü😀\"]".as_bytes(), true), br#"23:4["\u00fc\ud83d\ude00"]"#);
    }

    #[test]
    fn what_cannot_be_read_stays() {
        for body in ["", "ok", "9:short", "x:4", "1:😀"] {
            assert_eq!(binary(body.as_bytes()), body.as_bytes());
        }
        assert_eq!(binary(b"\x00\x09\xff4"), b"\x00\x09\xff4");
        assert_eq!(binary(b"\x00\xff\xff\xff"), b"\x00\xff\xff\xff");
    }
}
