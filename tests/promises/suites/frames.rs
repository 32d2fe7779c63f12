//! WebSocket frames (RFC 6455), by Autobahn's cases. Those that want an echo get one from Engine.IO: the
//! packet `2…`, a ping, is answered by `3…`.

use tokio::net::TcpStream;

use super::{Case, check};
use crate::{
    hostile::frame,
    push::raw::{CLOSE, Raw, upgrade},
    support::TestServer,
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The bit of the first byte that says that a message ends.
const FIN: u8 = 0x80;
/// What the client sends last, to see whether the connection is still open.
const LAST: &[u8] = b"last";

/// What is sent in one write each.
type Writes = Vec<Vec<u8>>;

fn case(
    name: &'static str,
    section: &'static str,
    frames: &[(u8, &[u8])],
    expected: impl Into<String>,
) -> Case<Writes> {
    let bytes = frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
    Case { name, section, input: vec![bytes], expected: expected.into() }
}

/// The same frames, one byte after the other.
fn chopped(name: &'static str, case: &Case<Writes>) -> Case<Writes> {
    let input = case.input.concat().into_iter().map(|byte| vec![byte]).collect();
    Case { name, section: case.section, input, expected: case.expected.clone() }
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// What comes back: payloads of frames, and whether the connection stays open.
async fn run(site: &TestServer, writes: &Writes) -> String {
    let mut raw = Raw::new(TcpStream::connect(site.addr).await.expect("connected"));
    raw.io.set_nodelay(true).expect("an option of the socket");
    raw.write(upgrade("EIO=4").as_bytes()).await;
    raw.head("101").await;
    assert!(raw.packet().await.starts_with("0{"));
    for bytes in writes.iter().chain([&frame(PING, LAST)]) {
        // The server may have closed the connection already.
        if tokio::io::AsyncWriteExt::write_all(&mut raw.io, bytes).await.is_err() {
            break;
        }
    }
    let mut got = Vec::new();
    while let Some(frame) = raw.next().await {
        let payload = frame.payload();
        match frame.kind() {
            PONG if payload == LAST => {
                got.push("open".to_owned());
                break;
            }
            PONG => got.push(format!("pong {}", shown(payload))),
            CLOSE => {
                let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
                got.push(format!("close {code}"));
            }
            _ => got.push(shown(payload)),
        }
    }
    got.join(", ")
}

fn shown(payload: &[u8]) -> String {
    match payload.len() {
        ..100 => String::from_utf8_lossy(payload).into_owned(),
        length => format!("{length} bytes"),
    }
}

async fn try_all(cases: Vec<Case<Writes>>) {
    let site = TestServer::start().await;
    let mut results = Vec::new();
    for case in &cases {
        results.push(run(&site, &case.input).await);
    }
    check(&cases, &results);
}

#[tokio::test]
async fn lengths_pings_and_reserved_values() {
    let long: Vec<u8> = [b"2".to_vec(), vec![b'*'; 65_535]].concat();
    let pings: Vec<(u8, &[u8])> = (0..10).map(|_| (PING, &b"p"[..])).collect();
    let mut cases = vec![
        case("1.1.1", "5.6", &[(TEXT, b"2")], "3, open"),
        case("1.1.2", "5.6", &[(TEXT, &long[..126])], "126 bytes, open"),
        case("1.1.5", "5.2", &[(TEXT, &long[..128])], "128 bytes, open"),
        case("1.1.7", "5.2", &[(TEXT, &long)], "65536 bytes, open"),
        case("2.1", "5.5.2", &[(PING, b"")], "pong , open"),
        case("2.2", "5.5.2", &[(PING, b"Hello, world!")], "pong Hello, world!, open"),
        case("2.4", "5.5", &[(PING, &[b'x'; 125])], "pong 125 bytes, open"),
        case("2.5", "5.5", &[(PING, &[b'x'; 126])], "close 1002"),
        case("2.7", "5.5.3", &[(PONG, b"")], "open"),
        case("2.8", "5.5.3", &[(PONG, b"unsolicited")], "open"),
        case("2.9", "5.5.3", &[(PONG, b"unsolicited"), (PING, b"p")], "pong p, open"),
        case("2.10", "5.5.2", &pings, format!("{}open", "pong p, ".repeat(10))),
        case("3.1", "5.2", &[(TEXT | 0x40, b"2")], "close 1002"),
        case("3.2", "5.2", &[(TEXT, b"2a"), (TEXT | 0x20, b"2b")], "3a, close 1002"),
        case("3.5", "5.2", &[(TEXT | 0x10, b"2")], "close 1002"),
        case("3.7", "5.2", &[(PING | 0x40, b"p")], "close 1002"),
    ];
    for (name, opcode) in [
        ("4.1.1", 3),
        ("4.1.2", 4),
        ("4.1.3", 5),
        ("4.1.4", 6),
        ("4.1.5", 7),
        ("4.2.1", 11),
        ("4.2.2", 12),
        ("4.2.3", 13),
        ("4.2.4", 14),
        ("4.2.5", 15),
    ] {
        cases.push(case(name, "5.2", &[(FIN | opcode, b"2")], "close 1002"));
    }
    let unmasked = Case {
        input: vec![[&[TEXT, 1][..], b"2"].concat()],
        ..case("no mask", "5.1", &[], "close 1002")
    };
    cases.extend([chopped("2.6", &cases[6]), chopped("2.11", &cases[11]), unmasked]);
    try_all(cases).await;
}

#[tokio::test]
async fn fragments() {
    let mut cases = vec![
        case("5.1", "5.4", &[(9, b"fragment1"), (FIN, b"fragment2")], "close 1002"),
        case("5.2", "5.4", &[(10, b"fragment1"), (FIN, b"fragment2")], "close 1002"),
        case("5.3", "5.4", &[(1, b"2a"), (FIN, b"b")], "3ab, open"),
        case("5.6", "5.4", &[(1, b"2a"), (PING, b"p"), (FIN, b"b")], "pong p, 3ab, open"),
        case("5.9", "5.4", &[(FIN, b"2"), (TEXT, b"2a")], "close 1002"),
        case("5.12", "5.4", &[(0, b"2"), (TEXT, b"2a")], "close 1002"),
        case("5.15", "5.4", &[(1, b"2a"), (FIN, b"b"), (0, b"c"), (TEXT, b"2")], "3ab, close 1002"),
        case("5.18", "5.4", &[(1, b"2a"), (TEXT, b"2b")], "close 1002"),
        case(
            "5.19",
            "5.4",
            &[(1, b"2"), (0, b"a"), (PING, b"1"), (0, b"b"), (PING, b"2"), (FIN, b"c")],
            "pong 1, pong 2, 3abc, open",
        ),
        case("6.1.2", "5.4", &[(1, b""), (0, b""), (FIN, b"2a")], "3a, open"),
        case("6.1.3", "5.4", &[(1, b""), (0, b"2a"), (FIN, b"")], "3a, open"),
    ];
    cases.extend([
        chopped("5.5", &cases[2]),
        chopped("5.8", &cases[3]),
        chopped("5.20", &cases[8]),
    ]);
    try_all(cases).await;
}

#[tokio::test]
async fn texts_are_utf_8() {
    let text = "2κόσμε \u{10ffff}\u{0}".as_bytes();
    let echo = "3κόσμε \u{10ffff}\u{0}, open";
    let valid = case("6.2.1", "8.1", &[(TEXT, text)], echo);
    let split = case("6.2.3", "8.1", &[(1, &text[..2]), (FIN, &text[2..])], echo);
    let mut cases = vec![chopped("6.2.2", &valid), valid, split];
    let invalid: [(&str, &[u8]); 10] = [
        ("6.3.1", b"2\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"),
        ("6.6.1 (half a character)", b"2\xce"),
        ("6.12.1 (a lone continuation)", b"2\x80"),
        ("6.14.1 (first bytes alone)", b"2\xc0 \xc1 "),
        ("6.15.1 (continuations are missing)", b"2\xe1\x80"),
        ("6.16.1", b"2\xfe"),
        ("6.17.1 (overlong)", b"2\xc0\xaf"),
        ("6.18.1 (overlong, the largest)", b"2\xc1\xbf"),
        ("6.20.1 (a surrogate)", b"2\xed\xa0\x80"),
        ("beyond U+10FFFF", b"2\xf4\x90\x80\x80"),
    ];
    for (name, bytes) in invalid {
        cases.push(case(name, "8.1", &[(TEXT, bytes)], "close 1007"));
    }
    // The end of the message is not awaited.
    cases.push(case("6.4.1", "8.1", &[(1, b"2\xf4\x90"), (0, b"\x80")], "close 1007"));
    try_all(cases).await;
}

#[tokio::test]
async fn closes() {
    let reason = [b'x'; 124];
    let mut cases = vec![
        case("7.1.1", "5.5.1", &[(TEXT, b"2a"), (CLOSE, &close(1000, b""))], "3a, close 1000"),
        case("7.1.2", "5.5.1", &[(CLOSE, &close(1000, b"")), (CLOSE, b"")], "close 1000"),
        case("7.1.3", "5.5.1", &[(CLOSE, &close(1000, b"")), (PING, b"p")], "close 1000"),
        case("7.1.4", "5.5.1", &[(CLOSE, &close(1000, b"")), (TEXT, b"2a")], "close 1000"),
        case(
            "7.1.5",
            "5.5.1",
            &[(1, b"2a"), (CLOSE, &close(1000, b"")), (FIN, b"b")],
            "close 1000",
        ),
        case("7.3.1", "5.5.1", &[(CLOSE, b"")], "close 1000"),
        case("7.3.2", "5.5.1", &[(CLOSE, b"a")], "close 1002"),
        case("7.3.4", "5.5.1", &[(CLOSE, &close(1000, b"Hello"))], "close 1000"),
        case("7.3.5", "5.5.1", &[(CLOSE, &close(1000, &reason[..123]))], "close 1000"),
        case("7.3.6", "5.5", &[(CLOSE, &close(1000, &reason))], "close 1002"),
        case("7.5.1", "8.1", &[(CLOSE, &close(1000, b"\xed\xa0\x80"))], "close 1007"),
        case("a fragmented close", "5.4", &[(8, &close(1000, b""))], "close 1002"),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let expected = format!("close {code}");
        cases.push(case("7.7", "7.4.1", &[(CLOSE, &close(code, b""))], expected));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case("7.9, 7.13", "7.4.1", &[(CLOSE, &close(code, b""))], "close 1002"));
    }
    try_all(cases).await;
}

#[tokio::test]
async fn sizes() {
    let large = [b"2".to_vec(), vec![b'*'; (64 << 10) - 1]].concat();
    let pieces: Vec<(u8, &[u8])> = large
        .chunks(256)
        .enumerate()
        .map(|(index, piece)| match index {
            0 => (1, piece),
            255 => (FIN, piece),
            _ => (0, piece),
        })
        .collect();
    let whole =
        case("9.1 (as far as a message may be)", "5.2", &[(TEXT, &large)], "65536 bytes, open");
    let too_large = [&large[..], &[b'*'; 64 << 10], b"*"].concat();
    let cases = vec![
        case("9.3 (in 256 fragments)", "5.4", &pieces, "65536 bytes, open"),
        case("9.1 (beyond it)", "7.4.1", &[(TEXT, &too_large)], "close 1009"),
        case("9.2 (binary, beyond it)", "7.4.1", &[(BINARY, &too_large)], "close 1009"),
        whole,
    ];
    try_all(cases).await;
}
