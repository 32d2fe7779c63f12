//! Frames against the specification, and against tungstenite as a reference.

use std::io::{self, Cursor, Read, Write};

use proptest::{collection::vec, prelude::*, sample::Index};
use tokio_tungstenite::tungstenite::{
    Error, Message as Reference, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use bytes::BytesMut;

use super::*;
use crate::engine::frame::{BINARY, TEXT, put_header, split};

const MAX: usize = 100_000;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// An item that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Message(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

impl From<Item<'_>> for Owned {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Message { is_text, payload } => Self::Message(is_text, payload.to_vec()),
            Item::Ping(payload) => Self::Ping(payload.to_vec()),
            Item::Pong => Self::Pong,
            Item::Close { code } => Self::Close(code),
        }
    }
}

/// A client's frame.
fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut head = BytesMut::new();
    put_header(&mut head, first, payload.len());
    let mut frame = head.to_vec();
    frame[1] |= MASKED;
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// All items in bytes that arrive in these pieces, and the violation that ends them.
fn read(pieces: &[&[u8]], max: usize) -> (Vec<Owned>, Option<Violation>) {
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        loop {
            match decoder.next(&mut input, max) {
                Ok(Some(item)) => items.push(item.into()),
                Ok(None) => break,
                Err(violation) => return (items, Some(violation)),
            }
        }
        assert!(input.is_empty(), "all input is taken");
    }
    (items, None)
}

/// Cuts bytes at these places.
fn cut<'a>(bytes: &'a [u8], at: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Bytes to read, and nowhere to write.
struct Script(Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite reads as a server, and whether it met a violation.
fn reference(bytes: &[u8]) -> (Vec<Owned>, bool) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX)).max_frame_size(Some(MAX));
    let script = Script(Cursor::new(bytes.to_vec()));
    let mut socket = WebSocket::from_raw_socket(script, Role::Server, Some(config));
    let mut items = Vec::new();
    loop {
        items.push(match socket.read() {
            Ok(Reference::Text(text)) => Owned::Message(true, text.as_bytes().to_vec()),
            Ok(Reference::Binary(bytes)) => Owned::Message(false, bytes.to_vec()),
            Ok(Reference::Ping(payload)) => Owned::Ping(payload.to_vec()),
            Ok(Reference::Pong(_)) => Owned::Pong,
            Ok(Reference::Close(close)) => {
                items.push(Owned::Close(close.map(|close| close.code.into())));
                return (items, false);
            }
            Ok(Reference::Frame(_)) => unreachable!("only for writing"),
            Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed) => {
                return (items, false);
            }
            // The end of the bytes, without a goodbye.
            Err(Error::Protocol(error)) if error.to_string().contains("closing handshake") => {
                return (items, false);
            }
            Err(_) => return (items, true),
        });
    }
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![Just(0x89), Just(0x8a)], any::<[u8; 4]>(), vec(any::<u8>(), 0..=125))
        .prop_map(|(first, mask, payload)| frame(first, mask, &payload))
}

/// A message in fragments, with control frames between them.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        "[a-z ü😀]{0,300}".prop_map(|text| (1, text.into_bytes())),
        vec(any::<u8>(), 0..300).prop_map(|bytes| (2, bytes)),
        vec(any::<u8>(), 65_500..65_600).prop_map(|bytes| (2, bytes)),
    ];
    let parts = (content, vec(any::<Index>(), 0..4), vec(prop::option::of(control()), 5));
    (parts, any::<[u8; 4]>()).prop_map(|(((opcode, bytes), at, controls), mask)| {
        let parts = cut(&bytes, &at);
        let last = parts.len() - 1;
        let mut frames = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let opcode = if number == 0 { opcode } else { 0 };
            let first = if number == last { FINAL | opcode } else { opcode };
            frames.extend(frame(first, mask, part));
            if number < last {
                frames.extend(controls[number].clone().unwrap_or_default());
            }
        }
        frames
    })
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => message(), 1 => control()], 0..6).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn valid_frames_are_read_as_by_tungstenite_wherever_they_are_cut(
        bytes in conversation(),
        at in vec(any::<Index>(), 0..12),
    ) {
        let (expected, is_wrong) = reference(&bytes);
        prop_assert!(!is_wrong);
        prop_assert_eq!(read(&cut(&bytes, &at), MAX), (expected, None));
    }

    #[test]
    fn mutated_frames_are_refused_at_least_where_tungstenite_refuses_them(
        mut bytes in conversation(),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
        at in vec(any::<Index>(), 0..12),
    ) {
        for (index, byte) in changes {
            if !bytes.is_empty() {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
        }
        let (expected, is_wrong) = reference(&bytes);
        let whole = read(&[&bytes], MAX);
        prop_assert!(whole.1.is_some() || !is_wrong);
        if whole.1.is_none() && !expected.iter().any(|item| matches!(item, Owned::Close(_))) {
            prop_assert_eq!(&whole.0, &expected);
        }
        prop_assert_eq!(read(&cut(&bytes, &at), MAX), whole, "cut and whole give the same");
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        bytes in vec(any::<u8>(), 0..200),
        at in vec(any::<Index>(), 0..12),
    ) {
        prop_assert_eq!(read(&cut(&bytes, &at), 100), read(&[&bytes], 100));
    }

    #[test]
    fn frames_of_the_server_are_read_by_tungstenite_and_split(
        payloads in vec((any::<bool>(), "[a-zü]{0,200}|x{65530,65540}"), 0..5),
    ) {
        let mut frames = BytesMut::new();
        for (is_text, payload) in &payloads {
            put_header(&mut frames, if *is_text { TEXT } else { BINARY }, payload.len());
            frames.extend_from_slice(payload.as_bytes());
        }
        let frames = frames.freeze();
        let parts: Vec<_> = split(&frames).map(|(is_text, bytes)| (is_text, bytes.to_vec())).collect();
        let expected: Vec<_> =
            payloads.iter().map(|(is_text, text)| (*is_text, text.clone().into_bytes())).collect();
        prop_assert_eq!(&parts, &expected);
        let script = Script(Cursor::new(frames.to_vec()));
        let mut client = WebSocket::from_raw_socket(script, Role::Client, None);
        for (is_text, payload) in expected {
            let message = client.read().expect("a message");
            prop_assert_eq!(message.is_text(), is_text);
            prop_assert_eq!(message.into_data().to_vec(), payload);
        }
    }
}

const MASK: [u8; 4] = [1, 2, 3, 4];

fn code(bytes: &[u8]) -> Option<u16> {
    read(&[bytes], 1000).1.map(|violation| violation.code)
}

/// Section of RFC 6455, what the client sends, and the close code.
#[test]
fn violations_are_closed_with_the_code_of_the_specification() {
    let close =
        |code: u16, reason: &[u8]| frame(0x88, MASK, &[&code.to_be_bytes()[..], reason].concat());
    let of_length = |second: u8, length: &[u8]| [&[0x82, second][..], length, &[0; 8]].concat();
    let table: Vec<(&str, Vec<u8>, u16)> = vec![
        ("5.1: not masked", b"\x81\x02ok".to_vec(), 1002),
        ("5.2: RSV1", frame(0xc1, MASK, b"x"), 1002),
        ("5.2: RSV2", frame(0xa1, MASK, b"x"), 1002),
        ("5.2: RSV3", frame(0x91, MASK, b"x"), 1002),
        ("5.2: opcode 3", frame(0x83, MASK, b"x"), 1002),
        ("5.2: opcode 11", frame(0x8b, MASK, b""), 1002),
        ("5.2: 125 in 16 bits", of_length(0xfe, &125u16.to_be_bytes()), 1002),
        ("5.2: 65535 in 64 bits", of_length(0xff, &65_535u64.to_be_bytes()), 1002),
        ("5.2: highest bit of a length", of_length(0xff, &u64::MAX.to_be_bytes()), 1002),
        ("5.4: a continuation first", frame(0x80, MASK, b"x"), 1002),
        (
            "5.4: a message in another",
            [frame(1, MASK, b"x"), frame(0x81, MASK, b"y")].concat(),
            1002,
        ),
        ("5.5: a control frame of 126 bytes", frame(0x89, MASK, &[0; 126]), 1002),
        ("5.5: a fragmented ping", frame(0x09, MASK, b"x"), 1002),
        ("5.5.1: a close of one byte", frame(0x88, MASK, b"x"), 1002),
        ("7.4.2: code 999", close(999, b""), 1002),
        ("7.4.2: code 1004", close(1004, b""), 1002),
        ("7.4.2: code 1005", close(1005, b""), 1002),
        ("7.4.2: code 1006", close(1006, b""), 1002),
        ("7.4.2: code 1015", close(1015, b""), 1002),
        ("7.4.2: code 2999", close(2999, b""), 1002),
        ("7.4.2: code 5000", close(5000, b""), 1002),
        ("5.5.1: a reason that is not UTF-8", close(1000, b"\xff"), 1007),
        ("8.1: text that is not UTF-8", frame(0x81, MASK, b"a\xff"), 1007),
        ("8.1: a surrogate", frame(0x81, MASK, b"\xed\xa0\x80"), 1007),
        ("8.1: a cut character at the end", frame(0x81, MASK, b"\xf0\x9f\x98"), 1007),
        ("8.1: a wrong first fragment", frame(0x01, MASK, b"\xff"), 1007),
        ("10.4: too large, announced", of_length(0xfe, &1001u16.to_be_bytes()), 1009),
        (
            "10.4: too large together",
            [frame(2, MASK, &[0; 999]), frame(0, MASK, &[0; 2])].concat(),
            1009,
        ),
        (
            "10.4: endless empty fragments",
            [frame(2, MASK, b""), frame(0, MASK, b"").repeat(4096)].concat(),
            1009,
        ),
    ];
    for (name, bytes, expected) in table {
        assert_eq!(code(&bytes), Some(expected), "{name}");
    }
}

#[test]
fn what_the_specification_allows_is_accepted() {
    let close = |code: u16| frame(0x88, MASK, &code.to_be_bytes());
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999] {
        assert_eq!(read(&[&close(code)], 10), (vec![Owned::Close(Some(code))], None));
    }
    assert_eq!(read(&[&frame(0x88, MASK, b"")], 10), (vec![Owned::Close(None)], None));
    let in_a_character = [frame(1, MASK, b"\xc3"), frame(0x80, MASK, b"\xbc")].concat();
    let whole = vec![Owned::Message(true, "ü".into())];
    assert_eq!(read(&[&in_a_character], 10), (whole, None));
    let largest = frame(0x82, MASK, &[7; 10]);
    assert_eq!(read(&[&largest], 10), (vec![Owned::Message(false, vec![7; 10])], None));
}

#[test]
fn only_bytes_that_have_arrived_are_kept() {
    let mut decoder = Decoder::new();
    assert_eq!(decoder.pending(), 0);
    let mut bytes = frame(0x82, MASK, &[0; 50_000])[..100].to_vec();
    assert_eq!(decoder.next(&mut bytes.as_mut_slice(), MAX), Ok(None));
    assert!((50..=100).contains(&decoder.pending()), "{}", decoder.pending());
    let partial = decoder.partial.as_ref().and_then(|partial| partial.message.as_ref());
    assert!(partial.expect("a message").bytes.capacity() < 1000);
    let mut rest = frame(0x82, MASK, &[0; 50_000])[100..].to_vec();
    let mut input = rest.as_mut_slice();
    assert!(matches!(decoder.next(&mut input, MAX), Ok(Some(Item::Message { .. }))));
    assert_eq!(decoder.next(&mut input, MAX), Ok(None));
    assert_eq!(decoder.pending(), 0);
    assert!(size_of::<Decoder>() <= 32);
}
