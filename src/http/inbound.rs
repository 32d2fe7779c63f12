//! What polling clients post: checked, and framed as in version 4, before the engine reads it.
//!
//! engineioxide-core 0.2 reads the text framing of Engine.IO 3 in a time that grows with the square
//! of its length, and for ever if a length ends inside a character of two UTF-16 units. So the
//! engine gets to see the framing of version 4 alone, a separator between packets, of whose content
//! both versions have the same idea.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::engine_io3::{split_binary, split_text};

/// Stands between the packets of version 4.
const SEPARATOR: u8 = 0x1e;
/// Packets of one request: as many as may wait for a client. Each costs more than its bytes.
pub const MAX_PACKETS: usize = 4096;

/// How the packets of a body are put together.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    /// Version 4.
    Separated,
    /// Version 3, as text.
    Text,
    /// Version 3, as bytes.
    Binary,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Problem {
    /// It cannot be read.
    Malformed,
    /// One of its packets is larger than a message may be, or there are too many.
    TooLarge,
}

/// The body in the framing of version 4, with packets of `max` bytes at most.
pub fn reframe(body: Bytes, framing: Framing, max: usize) -> Result<Bytes, Problem> {
    let body = match framing {
        Framing::Separated => body,
        Framing::Text => join(from_text(&body).ok_or(Problem::Malformed)?),
        Framing::Binary => join(from_binary(&body).ok_or(Problem::Malformed)?),
    };
    let mut packets = body.split(|&byte| byte == SEPARATOR);
    if packets.clone().nth(MAX_PACKETS).is_some() || packets.any(|packet| packet.len() > max) {
        return Err(Problem::TooLarge);
    }
    Ok(body)
}

fn from_text(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let packets = split_text(std::str::from_utf8(body).ok()?)?.into_iter();
    packets.map(|packet| separable(packet.as_bytes())).collect()
}

fn from_binary(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let packets = split_binary(body)?.into_iter().map(|(kind, packet)| match kind {
        0 => separable(packet),
        _ => Some(binary(&BASE64_STANDARD.encode(packet.get(1..)?))),
    });
    packets.collect()
}

/// A packet of text, in which version 3 names the type of a binary one, and version 4 does not.
fn separable(packet: &[u8]) -> Option<Vec<u8>> {
    // JSON has control characters as escapes alone.
    if packet.contains(&SEPARATOR) {
        return None;
    }
    let base64 = packet.strip_prefix(b"b4").and_then(|base64| std::str::from_utf8(base64).ok());
    Some(base64.map_or_else(|| packet.to_vec(), binary))
}

fn binary(base64: &str) -> Vec<u8> {
    format!("b{base64}").into_bytes()
}

fn join(packets: Vec<Vec<u8>>) -> Bytes {
    packets.join(&SEPARATOR).into()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A packet of text, and one of bytes.
    fn packet() -> impl Strategy<Value = (bool, Vec<u8>)> {
        let text = "[0-6][ -~ü😀]{0,20}".prop_map(|text| (false, text.into_bytes()));
        prop_oneof![text, vec(any::<u8>(), 0..20).prop_map(|bytes| (true, bytes))]
    }

    fn framed(body: &[u8], framing: Framing) -> Result<Bytes, Problem> {
        reframe(Bytes::copy_from_slice(body), framing, 10)
    }

    #[test]
    fn version_3_becomes_version_4() {
        let text = "3:4ü!1:24:4😀!".as_bytes();
        assert_eq!(framed(text, Framing::Text).as_deref(), Ok("4ü!\x1e2\x1e4😀!".as_bytes()));
        assert_eq!(framed(b"6:b4AP8=", Framing::Text).as_deref(), Ok(&b"bAP8="[..]));
        let binary = b"\x00\x02\xff4a\x01\x03\xff\x04\x00\xff";
        assert_eq!(framed(binary, Framing::Binary).as_deref(), Ok(&b"4a\x1ebAP8="[..]));
        assert_eq!(framed(b"4a\x1e2", Framing::Separated).as_deref(), Ok(&b"4a\x1e2"[..]));
    }

    #[test]
    fn what_would_keep_the_engine_busy_for_ever_is_refused() {
        let endless = "2:4😀xyz".as_bytes();
        assert_eq!(framed(endless, Framing::Text), Err(Problem::Malformed));
    }

    #[test]
    fn packets_are_bounded_in_size_and_number() {
        assert_eq!(framed(b"4123456789\x1e2", Framing::Separated).map(|body| body.len()), Ok(12));
        assert_eq!(framed(b"2\x1e41234567890", Framing::Separated), Err(Problem::TooLarge));
        let many = b"1:3".repeat(MAX_PACKETS);
        assert!(framed(&many, Framing::Text).is_ok());
        assert_eq!(framed(&[&many[..], b"1:3"].concat(), Framing::Text), Err(Problem::TooLarge));
    }

    proptest! {
        #[test]
        fn both_framings_of_version_3_are_read_as_they_were_written(
            packets in vec(packet(), 1..20),
        ) {
            let (mut text, mut binary, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for (is_binary, packet) in &packets {
                let base64 = BASE64_STANDARD.encode(packet);
                let plain = String::from_utf8_lossy(packet).into_owned();
                let (in_text, kind, in_binary, own) = if *is_binary {
                    let typed = [&[4][..], packet].concat();
                    (format!("b4{base64}"), 1, typed, format!("b{base64}"))
                } else {
                    (plain.clone(), 0, packet.clone(), plain)
                };
                let units = in_text.encode_utf16().count();
                text.extend(format!("{units}:{in_text}").into_bytes());
                binary.push(kind);
                binary.extend(in_binary.len().to_string().bytes().map(|digit| digit - b'0'));
                binary.push(0xff);
                binary.extend(in_binary);
                expected.push(own);
            }
            let expected = expected.join("\x1e");
            for (body, framing) in [(text, Framing::Text), (binary, Framing::Binary)] {
                let read = reframe(body.into(), framing, usize::MAX);
                prop_assert_eq!(read.as_deref(), Ok(expected.as_bytes()));
            }
        }

        #[test]
        fn any_bytes_are_read(body in vec(any::<u8>(), 0..200), digits in "[0-9:]{0,12}") {
            for body in [body.clone(), [digits.as_bytes(), &body].concat()] {
                for framing in [Framing::Separated, Framing::Text, Framing::Binary] {
                    let _ = reframe(body.clone().into(), framing, 100);
                }
                for base64_only in [false, true] {
                    crate::http::engine_io3::reframe(&body, base64_only);
                }
            }
        }
    }
}
