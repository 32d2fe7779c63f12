//! Requests with absurd heads.

use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use super::{Attack, rest};

/// How many clients send each kind at once.
const TIMES: usize = 20;

fn heads() -> Vec<Vec<u8>> {
    let get = |more: &str| format!("GET / HTTP/1.1\r\nhost: localhost\r\n{more}\r\n").into_bytes();
    let asking = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes()
    };
    let long = "x".repeat(60_000);
    let socket = "/socket.io/?EIO=4&transport=";
    let upgrade = |key: &str| {
        format!(
            "GET {socket}websocket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
        )
        .into_bytes()
    };
    let closing = |more: &str| get(&format!("connection: close\r\n{more}"));
    vec![
        get(&format!("x: {long}\r\n")),
        get(&"x: y\r\n".repeat(2000)),
        get(&format!("{long}: x\r\n")),
        asking(&format!("/{long}")),
        asking(&format!("{socket}polling&sid={}", "A".repeat(20_000))),
        asking(&format!("{socket}polling&EIO=3&EIO=9&sid=&b64=1")),
        asking("/socket.io/?EIO=4&transport=polling&sid=%00%ff"),
        asking("/events/%00"),
        asking("/events/%ff%fe"),
        asking("/events/x?last=99999999999999999999999"),
        asking("/../../../etc/passwd"),
        asking("/%2e%2e/%2e%2e/etc/passwd"),
        asking("http://[::1/"),
        asking("*"),
        asking(""),
        b"GET\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\nhost: localhost\nconnection: close\n\n".to_vec(),
        get("x\0y: z\r\n"),
        get("x : y\r\n"),
        get(" folded: y\r\n"),
        closing("content-length: -1\r\n"),
        closing("content-length: 99999999999999999999\r\n"),
        closing("content-length: 1\r\ncontent-length: 2\r\n"),
        closing("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nffffffffffffffff1\r\n"),
        closing("transfer-encoding: gzip\r\n"),
        closing(&format!("last-event-id: {}\r\n", "9".repeat(10_000))),
        closing(
            "x-forwarded-for: 1.1.1.1, \u{e9}, ::::, 999.1.1.1\r\nx-forwarded-host: \u{e9}\r\n",
        ),
        upgrade(""),
        upgrade("short"),
        upgrade(&"A".repeat(20_000)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_heads_are_refused_and_never_answered_with_5xx() {
    let attack = Attack::begin(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let mut sending = JoinSet::new();
    for head in heads().into_iter().cycle().take(TIMES * heads().len()) {
        let site = attack.site.clone();
        sending.spawn(async move {
            let mut stream = TcpStream::connect(site.addr).await.expect("connected");
            // The server may answer and close the connection before all of it is sent.
            let _ = stream.write_all(&head).await;
            let _ = stream.shutdown().await;
            let answer = rest(&mut stream).await;
            let told = String::from_utf8_lossy(&head[..head.len().min(80)]).into_owned();
            assert!(!answer.starts_with(b"HTTP/1.1 5"), "{told}");
        });
    }
    sending.join_all().await;
    assert!(
        attack.site.metric("roomcast_refusals_total{reason=\"head_too_large\"}").await
            >= TIMES as u64
    );
    attack.end().await;
}
