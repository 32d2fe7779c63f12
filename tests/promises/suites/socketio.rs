//! Socket.IO 5: CONNECT, events, acknowledgements and DISCONNECT, with Roomcast's events.

use tokio::net::TcpStream;

use super::{Case, check};
use crate::{
    hostile::frame,
    push::raw::{CLOSE, Raw, upgrade},
    support::{TestServer, request},
};

/// What the client sends last, to see whether the connection is still open; and the answer.
const LAST: &str = "2last";
const LAST_ANSWER: &str = "3last";
const REFUSAL: &str = r#"42["error",{"code":"bad_request""#;

fn case(
    name: &'static str,
    section: &'static str,
    packets: &'static [&'static str],
    expected: &str,
) -> Case<&'static [&'static str]> {
    Case { name, section, input: packets, expected: expected.to_owned() }
}

/// What comes back, without session ids.
async fn run(site: &TestServer, packets: &[&str]) -> String {
    let mut raw = Raw::new(TcpStream::connect(site.addr).await.expect("connected"));
    raw.write(upgrade("EIO=4").as_bytes()).await;
    raw.head("101").await;
    assert!(raw.packet().await.starts_with("0{"));
    raw.send(&[packets, &[LAST]].concat()).await;
    let mut got = Vec::new();
    while let Some(frame) = raw.next().await {
        if frame.kind() == CLOSE {
            let code = frame.payload().first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
            got.push(format!("close {code}"));
            continue;
        }
        match frame.text() {
            LAST_ANSWER => {
                got.push("open".to_owned());
                break;
            }
            text if text.starts_with("40{\"sid\"") => got.push("40".to_owned()),
            // The reference closes the connection; here an event that cannot be read is refused in words.
            text if text.starts_with(REFUSAL) => got.push("bad_request".to_owned()),
            text => got.push(text.to_owned()),
        }
    }
    got.join(" ")
}

#[tokio::test]
async fn packets_of_sockets() {
    let cases = [
        case("connects to the main namespace", "connection", &["40"], "40 open"),
        case("with a payload", "connection", &[r#"40{"token":"123"}"#], "40 open"),
        case(
            "to an unknown namespace",
            "connection",
            &["40/random"],
            r#"44/random,{"message":"Invalid namespace"} open"#,
        ),
        case("a handshake that is none", "connection", &["4abc"], "close 1002"),
        case("an event before CONNECT", "connection", &[r#"42["leave","x"]"#], "open"),
        case("disconnects", "disconnection", &["40", "41"], "40 open"),
        case("an event without ack", "event", &["40", r#"42["leave","x"]"#], "40 open"),
        case(
            "an event with ack",
            "acknowledgement",
            &["40", r#"42456["leave","x"]"#],
            r#"40 43456[{"ok":true,"room":"x"}] open"#,
        ),
        case("an unknown packet type", "packet", &["40", "4abc"], "40 close 1002"),
        case("a payload that is no list", "packet", &["40", "42{}"], "40 bad_request open"),
        case(
            "an ack id that is no number",
            "packet",
            &["40", r#"42abc["x"]"#],
            "40 bad_request open",
        ),
        case("CONNECT_ERROR from a client", "packet", &["40", "44"], "40 close 1002"),
        case(
            "an event with attachments",
            "event",
            &["40", r#"451-1["x",{"_placeholder":true,"num":0}]"#, "42[\"leave\",\"x\"]"],
            "40 close 1002",
        ),
    ];
    let site = TestServer::start().await;
    let mut results = Vec::new();
    for case in &cases {
        results.push(run(&site, case.input).await);
    }
    check(&cases, &results);
}

#[tokio::test]
async fn other_parsers_and_jsonp_are_refused_in_words_and_counted() {
    let site = TestServer::start().await;
    // socket.io-msgpack-parser sends binary frames, socket.io-json-parser objects.
    for packet in [frame(0x82, b"\x83\xa4type\0"), frame(0x81, b"4{\"type\":0,\"nsp\":\"/\"}")] {
        let mut raw = Raw::new(TcpStream::connect(site.addr).await.expect("connected"));
        raw.write(upgrade("EIO=4").as_bytes()).await;
        raw.head("101").await;
        assert!(raw.packet().await.starts_with("0{"));
        raw.write(&packet).await;
        let end = raw.next().await.expect("a frame");
        let words = String::from_utf8_lossy(&end.payload()[2..]).into_owned();
        assert!(end.kind() == CLOSE && words.contains("option `parser`"), "{words}");
    }
    let (status, text) =
        request(site.addr, "GET", "/socket.io/?EIO=3&transport=polling&j=0", "").await;
    assert!(status == 400 && String::from_utf8_lossy(&text).contains("JSONP"));
    site.until_metric("roomcast_refusals_total{reason=\"unsupported\"}", 3).await;
}
