//! Payloads and packets in both versions of the protocol.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;

const MAX: usize = 100;

fn message(text: &str) -> Packet {
    Packet { kind: Kind::Message, data: Data::Text(text.to_owned()) }
}

fn v4(body: &str) -> Result<Vec<Packet>, PayloadError> {
    decode(body.as_bytes(), Protocol::V4, false, MAX)
}

fn v3(body: &str) -> Result<Vec<Packet>, PayloadError> {
    decode(body.as_bytes(), Protocol::V3, false, MAX)
}

fn is_malformed<T>(result: Result<T, PayloadError>) -> bool {
    matches!(result, Err(PayloadError::Malformed(_)))
}

#[test]
fn payloads_of_version_4_are_read() {
    let two = vec![message("hello"), Packet { kind: Kind::Ping, data: Data::Text(String::new()) }];
    assert_eq!(v4("4hello\x1e2"), Ok(two));
    assert_eq!(v4("4€\x1ebAQIDBA=="), Ok(vec![message("€"), binary(4)]));
    for body in ["", "x", "7", "4a\x1e", "\x1e4a", "b!", "🙂"] {
        assert!(is_malformed(v4(body)), "{body:?}");
    }
    assert!(is_malformed(decode(b"4\xff", Protocol::V4, false, MAX)));
}

#[test]
fn payloads_of_version_3_are_read_in_utf_16_units() {
    let read = vec![message("hello"), message("2€")];
    assert_eq!(v3("6:4hello3:42€"), Ok(read));
    assert_eq!(v3("3:4😀"), Ok(vec![message("😀")]));
    assert_eq!(v3("10:b4AQIDBA=="), Ok(vec![binary(4)]));
    assert_eq!(v3(""), Ok(Vec::new()));
    // The second one ends inside a character.
    for body in [
        "4a",
        "2:4😀xyz",
        "9:4a",
        ":4a",
        "x:4a",
        "-1:4",
        "99999999999999999999:4",
        "1:x",
        "6:bAQID",
    ] {
        assert!(is_malformed(v3(body)), "{body:?}");
    }
}

#[test]
fn text_that_a_client_1_x_has_encoded_twice_is_decoded() {
    let twice: String = "4[\"dévice😀\"]".bytes().map(char::from).collect();
    let body = format!("{}:{twice}", twice.encode_utf16().count());
    assert_eq!(v3(&body), Ok(vec![message("[\"dévice😀\"]")]));
    assert_eq!(v3("8:4dévice!"), Ok(vec![message("dévice!")]));
}

#[test]
fn binary_payloads_of_version_3_are_read() {
    let read = |body: &[u8]| decode(body, Protocol::V3, true, MAX);
    assert_eq!(read(b"\x00\x02\xff4a"), Ok(vec![message("a")]));
    assert_eq!(read(b"\x01\x03\xff\x04ab\x00\x01\xff2").map(|packets| packets.len()), Ok(2));
    let long = [&b"\x00\x01\x02\x03\xff4"[..], &[b'x'; 122]].concat();
    assert_eq!(decode(&long, Protocol::V3, true, 200), Ok(vec![message(&"x".repeat(122))]));
    for body in [
        &b"\x00"[..],
        b"\x00\xff4",
        b"\x00\x09\xff4",
        b"\x02\x01\xff4",
        b"\x00\x0a\xff4",
        b"\x01\x00\xff",
    ] {
        assert!(is_malformed(read(body)), "{body:?}");
    }
    assert!(is_malformed(read(&[&[0][..], &[9; 30], &[255]].concat())));
}

#[test]
fn many_or_large_packets_are_too_large() {
    let is_too_large = |result| matches!(result, Err(PayloadError::TooLarge(_)));
    let many = vec!["2"; MAX_PACKETS];
    assert_eq!(v4(&many.join("\x1e")).map(|packets| packets.len()), Ok(MAX_PACKETS));
    assert!(is_too_large(v4(&[&many[..], &["2"]].concat().join("\x1e"))));
    assert!(is_too_large(v3(&"1:2".repeat(MAX_PACKETS + 1))));
    assert!(is_too_large(decode(
        &b"\x00\x01\xff2".repeat(MAX_PACKETS + 1),
        Protocol::V3,
        true,
        MAX
    )));
    assert!(is_too_large(v4(&format!("4{}", "x".repeat(MAX)))));
}

#[test]
fn websocket_messages_are_packets() {
    assert_eq!(packet(b"4hi", true, Protocol::V4), Ok(message("hi")));
    assert_eq!(packet(b"hi", false, Protocol::V4), Ok(binary(2)));
    assert_eq!(packet(b"\x04hi", false, Protocol::V3), Ok(binary(2)));
    assert_eq!(packet(b"b4aGk=", true, Protocol::V3), Ok(binary(2)));
    assert!(packet(b"hi", false, Protocol::V3).is_err());
    assert!(packet(b"", true, Protocol::V4).is_err());
    assert!(packet(b"", false, Protocol::V3).is_err());
}

fn encoded(protocol: Protocol, is_base64: bool, packets: &[(bool, &[u8])]) -> Vec<u8> {
    let mut encoder = Encoder::new(Format { protocol, is_base64 });
    for (is_text, payload) in packets {
        encoder.add((*is_text, Bytes::copy_from_slice(payload)));
    }
    encoder.finish()
}

#[test]
fn answers_are_written_in_the_framing_of_the_client() {
    let text: (bool, &[u8]) = (true, "4ü".as_bytes());
    let answer = encoded(Protocol::V4, false, &[text, (false, &[0, 255])]);
    assert_eq!(answer, "4ü\x1ebAP8=".as_bytes());
    let packets = [text, (false, &[4, 0, 255])];
    let answer = encoded(Protocol::V3, false, &packets);
    assert_eq!(answer, [b"\x00\x03\xff", "4ü".as_bytes(), b"\x01\x03\xff\x04\x00\xff"].concat());
    let answer = encoded(Protocol::V3, true, &packets);
    assert_eq!(answer, br"7:4\u00fc6:b4AP8=");
    let answer = encoded(Protocol::V3, true, &[(true, "4😀".as_bytes())]);
    assert_eq!(answer, br"13:4\ud83d\ude00");
}

proptest! {
    #[test]
    fn texts_survive_a_round_trip(
        texts in vec("[ -~ü€😀]{0,20}", 1..20),
        protocol in prop_oneof![Just(Protocol::V3), Just(Protocol::V4)],
    ) {
        let packets: Vec<_> = texts.iter().map(|text| format!("4{text}").into_bytes()).collect();
        let packets: Vec<_> = packets.iter().map(|packet| (true, &packet[..])).collect();
        let body = encoded(protocol, false, &packets);
        let expected: Vec<_> = texts.iter().map(|text| message(text)).collect();
        prop_assert_eq!(decode(&body, protocol, true, MAX), Ok(expected));
    }

    #[test]
    fn any_bytes_are_read(body in vec(any::<u8>(), 0..200), digits in "[0-9:]{0,12}") {
        for body in [body.clone(), [digits.as_bytes(), &body].concat()] {
            for (protocol, is_binary) in
                [(Protocol::V4, false), (Protocol::V3, false), (Protocol::V3, true)]
            {
                let _read = decode(&body, protocol, is_binary, MAX);
                let _read = packet(&body, is_binary, protocol);
            }
        }
    }
}
