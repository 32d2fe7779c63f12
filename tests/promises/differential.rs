//! The session layer against its reference: the same packets are sent to Roomcast and to socketioxide,
//! and the answers are compared byte for byte, apart from ids.
//!
//! The reference knows Roomcast's event `leave`, and emits `message` when it is asked to `say`
//! something.

use bytes::Bytes;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use socketioxide::{
    SocketIo,
    extract::{AckSender, Data, SocketRef},
    layer::SocketIoLayer,
};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, service_fn};

use super::push::raw::{Raw, upgrade};
use crate::support::{TestServer, request};

/// A server under test. The reference lives as long as the test.
#[derive(Clone, Copy)]
struct Server(std::net::SocketAddr);

/// Starts the reference.
async fn reference() -> Server {
    let (layer, io) = SocketIo::new_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("leave", async |Data(room): Data<Value>, ack: AckSender| {
            ack.send(&json!({"ok": true, "room": room})).ok();
        });
        // Text is emitted as a string, everything else as bytes.
        socket.on("say", async |socket: SocketRef, Data(payload): Data<Vec<u8>>| {
            match String::from_utf8(payload) {
                Ok(text) => socket.emit("message", &text).ok(),
                Err(bytes) => socket.emit("message", &Bytes::from(bytes.into_bytes())).ok(),
            };
        });
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, layer));
    Server(addr)
}

async fn serve(listener: TcpListener, layer: SocketIoLayer) {
    let not_found = service_fn(async |_| {
        Ok::<_, std::convert::Infallible>(
            http::Response::new(http_body_util::Empty::<Bytes>::new()),
        )
    });
    let service = layer.layer(not_found);
    loop {
        let (io, _) = listener.accept().await.expect("a connection");
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            http.serve_connection(TokioIo::new(io), service).with_upgrades().await.ok();
        });
    }
}

impl Server {
    async fn websocket(self, version: u32) -> Raw<TcpStream> {
        let mut raw = Raw::new(TcpStream::connect(self.0).await.expect("connected"));
        raw.write(upgrade(&format!("EIO={version}")).as_bytes()).await;
        raw.head("101").await;
        raw
    }

    async fn http(self, method: &str, query: &str, body: &str) -> (u16, Bytes) {
        request(self.0, method, &format!("/socket.io/?{query}"), body).await
    }

    /// Opens a session by polling; returns the query of its requests.
    async fn session(self) -> String {
        let query = "EIO=4&transport=polling";
        let (_, open) = self.http("GET", query, "").await;
        let open: Value = serde_json::from_slice(&open[1..]).expect("JSON");
        format!("{query}&sid={}", open["sid"].as_str().expect("a sid"))
    }
}

/// Replaces session ids, which differ.
fn without_ids(packet: &str) -> String {
    let Some((before, rest)) = packet.split_once(r#""sid":""#) else { return packet.to_owned() };
    let (_, after) = rest.split_once('"').expect("the end of the id");
    format!(r#"{before}"sid":"…"{after}"#)
}

/// Sends packets one by one and collects the answers: as many as `answers` says for each.
async fn conversation(server: Server, version: u32, script: &[(&str, usize)]) -> Vec<String> {
    let mut raw = server.websocket(version).await;
    // The first packet announces limits, which differ.
    let mut heard = vec![raw.packet().await.chars().take(1).collect()];
    if version == 3 {
        heard.push(raw.packet().await);
    }
    for (packet, answers) in script {
        raw.send(&[packet]).await;
        for _ in 0..*answers {
            heard.push(without_ids(&raw.packet().await));
        }
    }
    heard
}

#[tokio::test]
async fn packets_are_answered_as_by_the_reference() {
    let (site, reference) = (TestServer::start().await, reference().await);
    let common = [
        (r#"420["leave","x"]"#, 1),
        (r#"427["leave","ü😀"]"#, 1),
        (r#"429007199254740993["leave","x"]"#, 1),
        (r#"42007["leave","x"]"#, 1),
        ("40/admin,", 1),
        (r#"40/admin,{"token":"x"}"#, 1),
        (r#"4399["x"]"#, 0),
        (r#"428["leave","after an acknowledgement that nobody expects"]"#, 1),
        ("41", 0),
        ("40", 1),
        (r#"421["leave","in again"]"#, 1),
    ];
    let version_4 = [&[("40", 1)][..], &common, &[("40{}", 0)]].concat();
    let version_3 = [&[("2", 1)][..], &common].concat();
    for (version, script) in [(4, version_4), (3, version_3)] {
        let ours = conversation(Server(site.addr), version, &script).await;
        assert_eq!(ours, conversation(reference, version, &script).await, "version {version}");
    }
}

#[tokio::test]
async fn messages_are_framed_as_by_the_reference() {
    let (site, reference) = (TestServer::start().await, reference().await);
    let text = |length: usize| "x".repeat(length).into_bytes();
    let binary = |length: usize| [&[0xff][..], &text(length)].concat();
    let lengths = [0, 1, 108, 109, 110, 111, 112, 113, 65_515, 65_519, 65_520, 65_521, 70_000];
    let odd = ["ü\u{1f600}\u{2028}\0\u{7f}", "\"\\\n\r/</script>", "2", "3probe"];
    let odd = odd.map(|text| text.as_bytes().to_vec());
    let payloads =
        lengths.map(text).into_iter().chain([0, 124, 125, 70_000].map(binary)).chain(odd);
    for version in [3, 4] {
        let mut ours =
            Raw::enter(TcpStream::connect(site.addr).await.expect("a stream"), version).await;
        ours.send(&[r#"420["channel","room"]"#]).await;
        ours.until("430").await;
        let stream = TcpStream::connect(reference.0).await.expect("a stream");
        let mut theirs = Raw::enter(stream, version).await;
        for payload in payloads.clone() {
            let frames = if std::str::from_utf8(&payload).is_ok() { 1 } else { 2 };
            site.publish("room", &payload).await;
            theirs.send(&[format!("42{}", json!(["say", payload]))]).await;
            for _ in 0..frames {
                let (ours, theirs) = (ours.frame().await, theirs.frame().await);
                assert!(ours == theirs, "version {version}, {} bytes", payload.len());
            }
        }
    }
}

#[tokio::test]
async fn polls_are_answered_as_by_the_reference() {
    let (site, reference) = (TestServer::start().await, reference().await);
    let mut answers = Vec::new();
    for server in [Server(site.addr), reference] {
        let session = server.session().await;
        let mut heard = Vec::new();
        for body in ["40", "420[\"leave\",\"x\"]\x1e421[\"leave\",\"ü\"]", "40/admin,"] {
            let (status, answer) = server.http("POST", &session, body).await;
            heard.push(format!("{status} {}", String::from_utf8_lossy(&answer)));
            let expected = body.split('\x1e').count();
            let mut packets = Vec::new();
            while packets.len() < expected {
                let (_, answer) = server.http("GET", &session, "").await;
                let answer = String::from_utf8(answer.to_vec()).expect("UTF-8");
                // The reference sends its first PING at once, Roomcast after the interval.
                let answer = answer.split('\x1e').filter(|packet| *packet != "2");
                packets.extend(answer.map(without_ids));
            }
            heard.extend(packets);
        }
        answers.push(heard);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn bad_requests_are_refused_as_by_the_reference() {
    let (site, reference) = (TestServer::start().await, reference().await);
    for (method, query) in [
        ("GET", "EIO=4"),
        ("GET", "EIO=4&transport=flash"),
        ("GET", "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA"),
        ("POST", "EIO=4&transport=polling"),
        ("POST", "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA"),
        ("GET", "EIO=5&transport=polling"),
        ("GET", "transport=polling"),
    ] {
        let code = async |server: Server| {
            let (status, body) = server.http(method, query, "40").await;
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            // The protocol has numbers; the reference writes them as strings.
            (status, body["code"].to_string().replace('"', ""))
        };
        let (ours, theirs) = (code(Server(site.addr)).await, code(reference).await);
        assert_eq!(ours, theirs, "{method} {query}");
    }
}
