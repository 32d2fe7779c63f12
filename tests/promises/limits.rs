//! Limits: what exceeds one is refused, and the answer names the setting or the reason.

use roomcast::config::Settings;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Client, POLLING, Polling, TestServer, request, within};

#[tokio::test]
async fn a_connection_over_the_limit_is_answered_503() {
    let site = TestServer::start_with(|settings| settings.max_connections = Some("2".into())).await;
    let first = Client::connect(&site).await;
    let _second = Client::connect(&site).await;
    let (status, text) = request(site.addr, "GET", "/", "").await;
    assert_eq!(status, 503);
    assert!(String::from_utf8_lossy(&text).contains("MAX_CONNECTIONS"));
    assert_eq!(site.metric("roomcast_connections_refused_total").await, 1);
    drop(first);
    site.until("room for one more", async || request(site.addr, "GET", "/", "").await.0 == 200)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_connections_does_not_get_past_the_limit() {
    const LIMIT: usize = 50;
    let site =
        TestServer::start_with(|settings| settings.max_connections = Some(LIMIT.to_string())).await;
    let mut connecting = JoinSet::new();
    for _ in 0..4 * LIMIT {
        connecting.spawn(TcpStream::connect(site.addr));
    }
    let streams = connecting.join_all().await;
    site.until_metric("roomcast_connections", LIMIT as u64).await;
    site.until_metric("roomcast_connections_refused_total", 3 * LIMIT as u64).await;
    drop(streams);
}

#[tokio::test]
async fn polling_sessions_count_as_connections() {
    let site = TestServer::start_with(|settings| settings.max_connections = Some("3".into())).await;
    for _ in 0..3 {
        Polling::connect(&site).await;
    }
    let (status, text) = request(site.addr, "GET", POLLING, "").await;
    assert_eq!(status, 503);
    assert!(String::from_utf8_lossy(&text).contains("MAX_CONNECTIONS"));
}

#[tokio::test]
async fn connections_per_address_are_limited() {
    let change = |settings: &mut Settings| settings.max_connections_per_address = Some("2".into());
    let site = TestServer::start_with(change).await;
    let first = Client::connect(&site).await;
    let _second = Client::connect(&site).await;
    let (status, text) = request(site.addr, "GET", "/", "").await;
    assert_eq!(status, 429);
    assert!(String::from_utf8_lossy(&text).contains("MAX_CONNECTIONS_PER_ADDRESS"));
    assert_eq!(site.metric("roomcast_refusals_total{reason=\"address\"}").await, 1);
    drop(first);
    site.until("a free permit", async || request(site.addr, "GET", "/", "").await.0 == 200).await;
}

/// Sends a request as a proxy on this machine would; returns the status and the open connection.
async fn forwarded(site: &TestServer, client: &str, path: &str, more: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {client}\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut status = [0; 12];
    within("an answer", stream.read_exact(&mut status)).await.expect("an answer");
    (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_counted_by_the_forwarded_address() {
    const WEBSOCKET: &str = "connection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n";
    let site = TestServer::start_with(|settings| {
        settings.max_connections_per_address = Some("2".into());
        settings.trusted_proxies = Some("127.0.0.1".into());
    });
    let site = site.await;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let (status, _follows) = forwarded(&site, "9.9.9.9", "/events/device01", "").await;
    assert_eq!(status, "200");
    let (status, socket) = forwarded(&site, "9.9.9.9", path, WEBSOCKET).await;
    assert_eq!(status, "101");
    assert_eq!(forwarded(&site, "9.9.9.9", "/", "").await.0, "429");
    assert_eq!(forwarded(&site, "8.8.8.8, 9.9.9.9", "/", "").await.0, "429");
    assert_eq!(forwarded(&site, "9.9.9.8", "/", "").await.0, "200");
    drop(socket);
    site.until("a free permit", async || forwarded(&site, "9.9.9.9", "/", "").await.0 == "200")
        .await;

    // Without a trusted proxy, `x-forwarded-for` is ignored.
    let change = |settings: &mut Settings| settings.max_connections_per_address = Some("1".into());
    let site = TestServer::start_with(change).await;
    let _first = Client::connect(&site).await;
    assert_eq!(forwarded(&site, "9.9.9.8", "/", "").await.0, "429");
}

#[tokio::test]
async fn rooms_per_socket_are_limited() {
    let site = TestServer::start_with(|settings| settings.max_rooms = "2".into()).await;
    let mut client = Client::connect(&site).await;
    client.join("first").await;
    client.join("second").await;
    client.join("second").await;
    let answer = client.ask(json!(["channel", "third"])).await;
    assert_eq!(answer["error"]["code"], "too_many_rooms");
    client.ask(json!(["leave", "first"])).await;
    client.join("third").await;
}

#[tokio::test]
async fn events_over_the_rate_limit_are_refused_and_a_flood_disconnects() {
    let site = TestServer::start_with(|settings| {
        (settings.max_events, settings.max_rooms) = ("1".into(), "5".into());
    });
    let site = site.await;
    let mut client = Client::connect(&site).await;
    let mut answered = 0;
    let refused = loop {
        let answer = client.ask(json!(["leave", "device01"])).await;
        if answer["ok"] == false {
            break answer;
        }
        answered += 1;
    };
    assert!(answered >= 10, "all rooms can be joined and left at once: {answered}");
    assert_eq!(refused["error"]["code"], "too_fast");
    client.emit(json!(["leave", "device01"])).await;
    let event = client.event().await;
    assert_eq!((&event[0], &event[1]["code"]), (&json!("error"), &json!("too_fast")));
    assert!(site.metric("roomcast_refusals_total{reason=\"too_fast\"}").await >= 2);
    assert_eq!(site.metric("roomcast_sockets").await, 1);
    // The server may close the connection before all of it is sent.
    client.flood(r#"42["leave","device01"]"#, 1000).await;
    client.rest().await;
    site.until_metric("roomcast_closes_total{reason=\"too_fast\"}", 1).await;
    site.until_metric("roomcast_sockets", 0).await;
}

#[tokio::test]
async fn all_rooms_can_be_joined_at_once() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    for room in 0..256 {
        client.emit(json!(["channel", format!("room{room}")])).await;
    }
    site.until_metric("roomcast_members", 256).await;
    let answer = client.ask(json!(["channel", "one more"])).await;
    assert_eq!(answer["error"]["code"], "too_many_rooms");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_over_both_transports() {
    const REFUSED: &str = "roomcast_refusals_total{reason=\"too_large\"}";
    let site = TestServer::start().await;
    let packet = |size: usize| {
        let frame = r#"42["channel",""]"#.len();
        format!(r#"42["channel","{}"]"#, "x".repeat(size - frame))
    };
    const MOST: usize = 64 << 10;
    // A packet over the limit is answered `too_large`. One over twice the limit is not read: a POST
    // is answered 413, a WebSocket is closed.
    let polling = Polling::connect(&site).await;
    assert_eq!(polling.post(&packet(MOST)).await, 200);
    assert!(polling.poll().await.1.contains("bad_room"));
    assert_eq!(polling.post(&packet(MOST + 10)).await, 200);
    assert!(polling.poll().await.1.contains("too_large"));
    assert_eq!(site.metric(REFUSED).await, 1);
    assert_eq!(polling.post(&packet(2 * MOST + 10)).await, 413);
    assert_eq!(site.metric(REFUSED).await, 2);
    assert_eq!(polling.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;

    let mut client = Client::connect(&site).await;
    client.send(&packet(MOST)).await;
    assert_eq!(client.event().await[1]["code"], "bad_room");
    client.send(&packet(MOST + 10)).await;
    assert_eq!(client.event().await[1]["code"], "too_large");
    assert_eq!(site.metric(REFUSED).await, 3);
    client.flood(&packet(2 * MOST + 10), 1).await;
    client.rest().await;
    site.until_metric("roomcast_sessions{transport=\"websocket\"}", 0).await;
}

#[tokio::test]
async fn engine_io_3_payloads_are_read_and_wrong_lengths_are_refused() {
    let site = TestServer::start().await;
    let path = "/socket.io/?EIO=3&transport=polling";
    let (_, open) = request(site.addr, "GET", path, "").await;
    let open = String::from_utf8_lossy(&open);
    let (_, sid) = open.split_once(r#""sid":""#).expect("a sid");
    let session = format!("{path}&sid={}", sid.split('"').next().expect("a sid"));
    let join = r#"42["channel","dévice"]"#;
    let body = format!("{}:{join}1:2", join.encode_utf16().count());
    assert_eq!(request(site.addr, "POST", &session, &body).await.0, 200);
    site.until_metric("roomcast_members", 1).await;
    // More packets than one request may have.
    assert_eq!(request(site.addr, "POST", &session, &"1:2".repeat(300_000)).await.0, 413);
    // The length ends inside a character: the session ends.
    assert_eq!(request(site.addr, "POST", &session, "2:4\u{1f600}xyz").await.0, 400);
    site.until_metric("roomcast_members", 0).await;
}

#[tokio::test]
async fn bodies_and_heads_of_requests_are_limited() {
    let site = TestServer::start().await;
    let path = "/socket.io/?EIO=4&transport=polling";
    let (_, open) = request(site.addr, "GET", path, "").await;
    let open: serde_json::Value = serde_json::from_slice(&open[1..]).expect("JSON");
    let session = format!("{path}&sid={}", open["sid"].as_str().expect("a sid"));
    assert_eq!(request(site.addr, "POST", &session, &"4".repeat((1 << 20) + 1)).await.0, 413);

    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    // The server may answer and close the connection before all of it is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    within("an answer", stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn bad_engine_io_requests_are_refused() {
    let site = TestServer::start().await;
    for (path, status) in [
        ("/socket.io/", 400),
        ("/socket.io/?EIO=4", 400),
        ("/socket.io/?EIO=9&transport=polling", 400),
        ("/socket.io/?EIO=4&transport=websocket", 400),
        ("/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA", 400),
        ("/socket.io/nothing.js", 404),
        ("/nothing", 404),
        ("/livez", 200),
        ("/readyz", 404),
        ("/metrics", 404),
        ("/socket.io/socket.io.js", 200),
        ("/socket.io/socket.io.esm.min.js", 200),
    ] {
        assert_eq!(request(site.addr, "GET", path, "").await.0, status, "{path}");
    }
    site.until_metric("roomcast_sessions{transport=\"polling\"}", 0).await;
    site.until_metric("roomcast_sessions{transport=\"websocket\"}", 0).await;
}
