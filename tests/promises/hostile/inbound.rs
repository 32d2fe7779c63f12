//! Requests and messages that never end: what they take is bounded for all clients together.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Attack, frame, until, websocket};
use crate::support::{POLLING, TestServer, request, sid};

/// The budget without a container's limit, in kB.
const BUDGET: u64 = 64 << 10;
/// What may be taken besides, in kB: bytes on their way, and the growth of buffers.
const MORE: u64 = 40 << 10;
/// What each connection may take besides, in kB: buffers that do not count, and its own state.
const EACH: u64 = 20;

async fn send(site: &TestServer, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    stream.write_all(head.as_bytes()).await.expect("sent");
    // The server may have ended the connection.
    drop(stream.write_all(body).await);
    stream
}

/// Asserts that the attack ended connections of its own, and that memory stayed within the bound.
async fn assert_bounded(attack: &Attack, connections: u64) {
    let ended = "roomcast_closes_total{reason=\"inbound\"}";
    until(&attack.site, ended, async || attack.site.metric(ended).await > 0).await;
    let grown = attack.process.memory().saturating_sub(attack.memory);
    assert!(grown <= BUDGET + MORE + connections * EACH, "grown by {grown} kB");
    assert!(attack.site.metric("roomcast_inbound_bytes").await <= 64 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_never_end_are_bounded_in_total() {
    let attack = Attack::begin(&[]).await;
    let body = vec![b'4'; 1_048_000];
    let mut streams = Vec::new();
    for _ in 0..120 {
        let (_, open) = request(attack.site.addr, "GET", POLLING, "").await;
        let sid = sid(&String::from_utf8_lossy(&open));
        let head = format!(
            "POST {POLLING}&sid={sid} HTTP/1.1\r\nhost: localhost\r\n\
             content-length: 1048576\r\n\r\n"
        );
        streams.push(send(&attack.site, &head, &body).await);
    }
    assert_bounded(&attack, 120).await;
    drop(streams);
    attack.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_take_what_each_connection_may() {
    let attack = Attack::begin(&[]).await;
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(15 << 10));
    let mut streams = Vec::new();
    for _ in 0..3000 {
        streams.push(send(&attack.site, &head, b"").await);
    }
    until(&attack.site, "all connected, or ended by the budget", async || {
        let ended = attack.site.metric("roomcast_closes_total{reason=\"inbound\"}").await;
        attack.site.metric("roomcast_connections").await + ended == 3001
    })
    .await;
    let grown = attack.process.memory().saturating_sub(attack.memory);
    // What each connection is reckoned with.
    assert!(grown <= 3000 * 64, "grown by {grown} kB");
    drop(streams);
    attack.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_are_bounded_in_total() {
    let attack = Attack::begin(&[]).await;
    let part = frame(0x01, &vec![b'4'; 120_000]);
    let mut streams = Vec::new();
    for _ in 0..700 {
        let mut stream = websocket(&attack.site).await;
        stream.write_all(&frame(0x81, b"40")).await.expect("sent");
        drop(stream.write_all(&part).await);
        streams.push(stream);
    }
    assert_bounded(&attack, 700).await;
    drop(streams);
    attack.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_wait_for_attachments_are_not_kept_whole() {
    let attack = Attack::begin(&[]).await;
    let event =
        format!(r#"451-["channel",{{"_placeholder":true,"num":0}},"{}"]"#, "y".repeat(120_000));
    let event = frame(0x81, event.as_bytes());
    let mut streams = Vec::new();
    for _ in 0..500 {
        let mut stream = websocket(&attack.site).await;
        stream.write_all(&frame(0x81, b"40")).await.expect("sent");
        stream.write_all(&event).await.expect("sent");
        streams.push(stream);
    }
    // The server has read all of them when it has answered the last ones.
    for stream in &mut streams {
        stream.write_all(&frame(0x89, b"")).await.expect("sent");
    }
    until(&attack.site, "all in the namespace", async || {
        attack.site.metric("roomcast_sockets").await == 501
    })
    .await;
    let grown = attack.process.memory().saturating_sub(attack.memory);
    assert!(grown <= 40 << 10, "grown by {grown} kB");
    drop(streams);
    attack.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_bodies_keep_nobody_from_publishing() {
    let attack = Attack::begin(&[("PUBLISH_TOKEN", "operator")]).await;
    let head = "POST /publish/mine HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer operator\r\n\
                content-length: 262144\r\n\r\nx";
    let mut streams = Vec::new();
    for _ in 0..150 {
        streams.push(send(&attack.site, head, b"").await);
    }
    let whole = "POST /publish/device01 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 authorization: Bearer operator\r\ncontent-length: 5\r\n\r\nhello";
    let mut stream = send(&attack.site, whole, b"").await;
    let answer = super::rest(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer));
    drop(streams);
    attack.end().await;
}
