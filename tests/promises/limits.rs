//! What is too much is refused with words.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Client, Site, request, within};

#[tokio::test]
async fn a_connection_too_many_is_answered_503() {
    let site = Site::start_with(|settings| settings.max_connections = Some("2".into())).await;
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
        Site::start_with(|settings| settings.max_connections = Some(LIMIT.to_string())).await;
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
async fn polling_sessions_are_bounded_also_over_one_connection() {
    let site = Site::start_with(|settings| settings.max_connections = Some("3".into())).await;
    let path = "/socket.io/?EIO=4&transport=polling";
    for _ in 0..3 {
        assert_eq!(request(site.addr, "GET", path, "").await.0, 200);
    }
    let (status, text) = request(site.addr, "GET", path, "").await;
    assert_eq!(status, 503);
    assert!(String::from_utf8_lossy(&text).contains("MAX_CONNECTIONS"));
}

#[tokio::test]
async fn requests_have_bounds() {
    let site = Site::start().await;
    let path = "/socket.io/?EIO=4&transport=polling";
    let (_, open) = request(site.addr, "GET", path, "").await;
    let open: serde_json::Value = serde_json::from_slice(&open[1..]).expect("JSON");
    let session = format!("{path}&sid={}", open["sid"].as_str().expect("a sid"));
    assert_eq!(request(site.addr, "POST", &session, &"4".repeat((1 << 20) + 1)).await.0, 413);

    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    // The server may answer and close before all of it is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    within("an answer", stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn what_is_no_session_or_no_upgrade_is_refused() {
    let site = Site::start().await;
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
