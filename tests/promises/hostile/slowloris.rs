//! Slowloris: connections that clients keep open by sending a byte now and then.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::interval,
};

use super::{Attack, frame, rest, until, websocket};
use crate::support::{Polling, TestServer};

/// How often each client sends a byte: too often for a time-out between two bytes.
const BYTE_EVERY: Duration = Duration::from_millis(500);

/// Sends these bytes one by one, in a loop, until the server closes the connection.
async fn dribble(mut stream: TcpStream, bytes: Vec<u8>) {
    let (mut read, mut write) = stream.split();
    let sending = async {
        let mut ticks = interval(BYTE_EVERY);
        for byte in bytes.iter().cycle() {
            ticks.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    let mut sink = [0; 4096];
    let reading = async { while matches!(read.read(&mut sink).await, Ok(1..)) {} };
    let both = async {
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
    };
    tokio::time::timeout(super::DEADLINE, both).await.expect("the server closes the connection");
    drop(rest(&mut stream).await);
}

async fn connected(site: &TestServer, first: &str) -> TcpStream {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    stream.write_all(first.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_clients_that_send_a_byte_at_a_time_are_disconnected() {
    let attack = Attack::begin(&[]).await;
    let site = &attack.site;
    let session = Polling::connect(site).await;
    let _silent = Polling::connect(site).await;
    // The session of polls with a body. Two polls at once end it, as two POSTs end theirs.
    let polled = Polling::connect(site).await;
    let mut slow = JoinSet::new();
    for number in 0..500 {
        let site = site.clone();
        let request = move |method: &str, path: &str| {
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n")
        };
        let poll = request("GET", &polled.path);
        slow.spawn(async move {
            let (stream, bytes) = match number % 5 {
                0 => (
                    connected(&site, "GET / HTTP/1.1\r\nhost: localhost\r\n").await,
                    b"x: y\r\n".to_vec(),
                ),
                1 => (connected(&site, "").await, b"G".to_vec()),
                2 => {
                    let post = request("POST", &Polling::connect(&site).await.path);
                    (connected(&site, &post).await, b"4".to_vec())
                }
                3 => (connected(&site, &poll).await, b"4".to_vec()),
                // A frame that never ends, from a client that has sent no CONNECT.
                _ => (websocket(&site).await, frame(0x81, &[b'4'; 60_000])),
            };
            dribble(stream, bytes).await;
        });
    }
    slow.join_all().await;
    assert!(site.metric("roomcast_refusals_total{reason=\"head_time\"}").await >= 200);
    assert!(site.metric("roomcast_refusals_total{reason=\"body_time\"}").await >= 100);
    assert_eq!(session.post("1").await, 200);
    // The silent polling client has not answered its heartbeat.
    let overdue = "roomcast_closes_total{reason=\"ping_timeout\"}";
    until(site, overdue, async || site.metric(overdue).await >= 1).await;
    attack.end().await;
}
