//! Engine.IO 4: handshakes, polls, upgrades and ends. The clock of heartbeats is tested beside the
//! engine (`engine/session/tests.rs`).

use serde_json::Value;
use tokio::net::TcpStream;

use super::{Case, check};
use crate::{
    push::raw::{Raw, get, upgrade},
    support::{POLLING, TestServer, request, sid},
};

const PATH: &str = "/socket.io/";

/// A request: its method, its query, its body.
type Request = (&'static str, &'static str, &'static str);

fn case(
    name: &'static str,
    section: &'static str,
    input: Request,
    expected: &str,
) -> Case<Request> {
    Case { name, section, input, expected: expected.to_owned() }
}

/// Opens a session by polling; returns the path of its requests.
async fn session(site: &TestServer) -> String {
    let (_, open) = request(site.addr, "GET", POLLING, "").await;
    format!("{POLLING}&sid={}", sid(&String::from_utf8_lossy(&open)))
}

async fn text(site: &TestServer, method: &str, path: &str, body: &str) -> (u16, String) {
    let (status, text) = request(site.addr, method, path, body).await;
    (status, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn handshakes() {
    let cases = [
        case(
            "polling: opens a session",
            "handshake",
            ("GET", "EIO=4&transport=polling", ""),
            "200",
        ),
        case("polling: no version", "handshake", ("GET", "transport=polling", ""), "400 code 5"),
        case(
            "polling: a wrong version",
            "handshake",
            ("GET", "EIO=abc&transport=polling", ""),
            "400 code 5",
        ),
        case("polling: no transport", "handshake", ("GET", "EIO=4", ""), "400 code 0"),
        case(
            "polling: a wrong transport",
            "handshake",
            ("GET", "EIO=4&transport=abc", ""),
            "400 code 0",
        ),
        case("polling: POST", "handshake", ("POST", "EIO=4&transport=polling", ""), "400 code 2"),
        case("polling: PUT", "handshake", ("PUT", "EIO=4&transport=polling", ""), "400 code 2"),
        case(
            "polling: an unknown session",
            "handshake",
            ("GET", "EIO=4&transport=polling&sid=abc", ""),
            "400 code 1",
        ),
        case(
            "websocket: no upgrade",
            "handshake",
            ("GET", "EIO=4&transport=websocket", ""),
            "400 code 3",
        ),
    ];
    let site = TestServer::start().await;
    let mut results = Vec::new();
    for Case { input: (method, query, body), .. } in &cases {
        let (status, answer) = text(&site, method, &format!("{PATH}?{query}"), body).await;
        let code = serde_json::from_str::<Value>(&answer).ok();
        let code = code.and_then(|code| Some(format!(" code {}", code.get("code")?)));
        results.push(format!("{status}{}", code.unwrap_or_default()));
    }
    check(&cases, &results);
}

#[tokio::test]
async fn the_open_packet_announces_what_the_client_needs() {
    let site = TestServer::start().await;
    let (_, polled) = text(&site, "GET", POLLING, "").await;
    let mut raw = Raw::new(TcpStream::connect(site.addr).await.expect("connected"));
    raw.write(upgrade("EIO=4").as_bytes()).await;
    raw.head("101").await;
    let direct = raw.packet().await;
    for (packet, upgrades) in [(polled, r#"["websocket"]"#), (direct, "[]")] {
        let open: Value =
            serde_json::from_str(packet.strip_prefix('0').expect("open")).expect("JSON");
        assert!(open["sid"].as_str().is_some_and(|sid| sid.len() >= 16), "{open}");
        assert_eq!(open["upgrades"].to_string(), upgrades);
        for field in ["pingInterval", "pingTimeout", "maxPayload"] {
            assert!(open[field].as_u64().is_some_and(|number| number > 0), "{field}: {open}");
        }
    }
}

#[tokio::test]
async fn packets_by_polling() {
    let cases = [
        case("one packet", "message", ("POST", "", "40"), "200 ok, 40"),
        case("several packets", "payload", ("POST", "", "40\x1e42[\"leave\",\"x\"]"), "200 ok, 40"),
        case("a binary packet", "payload", ("POST", "", "40\x1ebAQID"), "400, ended"),
        case("an unknown packet", "payload", ("POST", "", "abc"), "400, ended"),
        case("an empty payload", "payload", ("POST", "", ""), "400, ended"),
        case("close", "close", ("POST", "", "1"), "200 ok, ended"),
    ];
    let site = TestServer::start().await;
    let mut results = Vec::new();
    for Case { input: (method, _, body), .. } in &cases {
        let path = session(&site).await;
        let (status, answer) = text(&site, method, &path, body).await;
        let (polled, packets) = text(&site, "GET", &path, "").await;
        let packets = packets.get(..2).filter(|_| polled == 200).unwrap_or("ended");
        let answer = if status == 200 { format!(" {answer}") } else { String::new() };
        results.push(format!("{status}{answer}, {packets}"));
    }
    check(&cases, &results);
}

#[tokio::test]
async fn a_second_poll_ends_the_session() {
    let site = TestServer::start().await;
    let path = session(&site).await;
    let polls = [(); 2].map(|()| text(&site, "GET", &path, ""));
    let [first, second] = polls;
    let (first, second) = tokio::join!(first, second);
    assert!(first.0 == 400 || second.0 == 400, "{first:?} {second:?}");
    assert_eq!(text(&site, "GET", &path, "").await.0, 400);
}

/// A WebSocket for the session of a path.
async fn websocket(site: &TestServer, path: &str) -> Raw<TcpStream> {
    let mut raw = Raw::new(TcpStream::connect(site.addr).await.expect("connected"));
    let (_, sid) = path.split_once("&sid=").expect("an id");
    raw.write(upgrade(&format!("EIO=4&sid={sid}")).as_bytes()).await;
    raw
}

#[tokio::test]
async fn upgrades() {
    let site = TestServer::start().await;
    let path = session(&site).await;
    let mut raw = websocket(&site, &path).await;
    raw.head("101").await;
    let mut poll = Raw::new(TcpStream::connect(site.addr).await.expect("connected"));
    poll.write(get(&path, "").as_bytes()).await;
    raw.send(&["2probe"]).await;
    assert_eq!(raw.packet().await, "3probe");
    assert_eq!(poll.body().await, "6", "the poll that waits is answered");
    raw.send(&["5", "40"]).await;
    assert!(raw.packet().await.starts_with("40{"), "the session is carried by the WebSocket");
    assert_eq!(text(&site, "GET", &path, "").await.0, 400, "a poll is refused");
    assert_eq!(text(&site, "POST", &path, "42[\"leave\",\"x\"]").await.0, 400, "and a POST");
    let mut second = websocket(&site, &path).await;
    second.head("400").await;
    raw.send(&["420[\"leave\",\"x\"]"]).await;
    assert!(raw.packet().await.starts_with("430["), "neither harms the session");
}
