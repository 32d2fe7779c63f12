//! Slow viewers: their backlog is limited, and other viewers are not affected.

use serde_json::json;
use tokio::{net::TcpSocket, task::JoinSet};

use crate::support::{Client, Polling, TestServer, within};

/// More than the kernel buffers for a stalled client, less than a viewer's backlog limit (4 MiB).
const MESSAGES: usize = 30;

/// A client with a small receive buffer, which reads nothing unless the test does.
async fn stalled(site: &TestServer) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    Client::connect_over(socket, site).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_stops_reading_is_disconnected_and_others_miss_nothing() {
    const OTHERS: usize = 49;
    const SLOW: &str = "roomcast_closes_total{reason=\"slow\"}";
    let site = TestServer::start_with(|settings| settings.slow_after = "1s".into()).await;
    let mut stalled = stalled(&site).await;
    stalled.join("device01").await;
    let mut others = JoinSet::new();
    for _ in 0..OTHERS {
        let mut other = Client::connect(&site).await;
        other.join("device01").await;
        others.spawn(async move {
            for number in 0..MESSAGES {
                assert!(other.message().await.starts_with(&format!("{number} ")));
            }
            other
        });
    }
    let padding = "x".repeat(64 << 10);
    for number in 0..MESSAGES {
        site.publish("device01", format!("{number} {padding}")).await;
    }
    let others = others.join_all().await;
    site.until_metric(SLOW, 1).await;
    site.until_metric("roomcast_members", OTHERS as u64).await;
    site.until_metric("roomcast_connections", OTHERS as u64).await;
    drop((stalled, others));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_total_backlog_limit_only_the_largest_backlog_is_evicted() {
    const TOTAL: u64 = 8 << 20;
    const BACKLOG: &str = "roomcast_backlog_bytes";
    const EVICTED: &str = "roomcast_closes_total{reason=\"backlog\"}";
    let site = TestServer::start_with(|settings| {
        settings.backlog_total = Some("8MiB".into());
        settings.slow_after = "19s".into();
    })
    .await;
    let mut good = Client::connect(&site).await;
    good.join("all").await;
    let mut slow = Vec::new();
    for number in 0..3 {
        let mut client = stalled(&site).await;
        client.join("all").await;
        client.join(&format!("own{number}")).await;
        slow.push(client);
    }
    let payload = "x".repeat(64 << 10);
    // The first client falls far behind, within its own limit. Then all three do.
    for _ in 0..16 {
        site.publish("own0", &payload).await;
    }
    site.until("the first is behind", async || site.metric(BACKLOG).await > 1 << 19).await;
    let mut seen = 0;
    while site.metric(EVICTED).await == 0 {
        site.publish("all", format!("{seen}{payload}")).await;
        assert!(good.message().await.starts_with(&format!("{seen}x")));
        seen += 1;
        assert!(site.metric(BACKLOG).await <= TOTAL);
    }
    assert_eq!(site.metric("roomcast_closes_total{reason=\"queue_full\"}").await, 0);
    site.until_metric("roomcast_connections", 3).await;
    // The first client was evicted: its own room has no member any more.
    site.until_metric("roomcast_members", 5).await;
    drop(slow);
    site.until_metric(BACKLOG, 0).await;
    site.publish("all", "still there").await;
    assert_eq!(good.message().await, "still there");
}

#[tokio::test]
async fn messages_of_every_kind_leave_the_backlog_once_read() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.join("plain").await;
    client.ask(json!(["channel", "placed", {"meta": true}])).await;
    for size in [0, 1, 50, 99, 100, 101, 125, 126, 60_000, 65_500, 65_536, 200_000] {
        for room in ["plain", "placed"] {
            site.publish(room, "ü\"\n".repeat(size / 4)).await;
            client.event().await;
            site.publish(room, vec![0xff; size.max(1)]).await;
            client.packet().await;
            client.attachment().await;
        }
    }
    client.ask(json!(["channels"])).await;
    let mut replayed = Client::connect(&site).await;
    let answer = replayed.ask(json!(["channel", "placed", {"last": 2}])).await;
    assert_eq!(answer["replayed"], 2);
    site.until_metric("roomcast_backlog_bytes", 0).await;
}

#[tokio::test]
async fn a_client_that_sends_requests_without_reading_answers_is_disconnected() {
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    for number in 0..500 {
        site.publish(&format!("{number}{}", "r".repeat(200)), "x".repeat(200)).await;
    }
    let mut stalled = stalled(&site).await;
    let known = async || {
        let answer = Client::connect(&site).await.ask(json!(["channels"])).await;
        answer["channels"].as_array().map(Vec::len)
    };
    site.until("all channels are listed", async || known().await == Some(500)).await;
    // Each answer is a quarter of a megabyte, and four of them may be under way.
    let full = "roomcast_closes_total{reason=\"queue_full\"}";
    site.until(full, async || {
        if site.metric(full).await == 0 {
            stalled.flood(r#"420["channels"]"#, 4).await;
        }
        site.metric(full).await == 1
    })
    .await;
    site.until_metric("roomcast_backlog_bytes", 0).await;
}

#[tokio::test]
async fn a_disconnected_polling_viewer_leaves_no_backlog() {
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    let payload = "x".repeat(256 << 10);
    for _ in 0..17 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_closes_total{reason=\"queue_full\"}", 1).await;
    site.until_metric("roomcast_backlog_bytes", 0).await;
    // The session ends at once, without waiting for a heartbeat.
    site.until_metric("roomcast_sessions{transport=\"polling\"}", 0).await;
}

#[tokio::test]
async fn a_viewer_with_a_full_queue_is_disconnected() {
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    let mut stalled = stalled(&site).await;
    stalled.join("device01").await;
    let payload = "x".repeat(4096);
    let ended = async || site.metric("roomcast_closes_total{reason=\"queue_full\"}").await == 1;
    within("the viewer is disconnected", async {
        while !ended().await {
            for _ in 0..100 {
                site.publish("device01", &payload).await;
            }
        }
    })
    .await;
    site.until_metric("roomcast_connections", 0).await;
    site.until_metric("roomcast_members", 0).await;
}

#[tokio::test]
async fn a_viewer_that_stops_polling_loses_its_session() {
    const MORE_THAN_FIT: usize = 5000;
    let site = TestServer::start().await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    for _ in 0..MORE_THAN_FIT {
        site.publish("device01", "x").await;
    }
    site.until_metric("roomcast_members", 0).await;
    assert_eq!(site.metric("roomcast_closes_total{reason=\"queue_full\"}").await, 1);
    let (status, answer) = client.poll().await;
    assert_eq!(status, 400);
    assert!(answer.contains("Session ID unknown"), "{answer}");
    assert_eq!(client.post("3").await, 400);
}

#[tokio::test]
async fn the_backlog_of_a_polling_viewer_is_limited() {
    const LIMIT: u64 = 4 << 20;
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    let payload = "x".repeat(256 << 10);
    for _ in 0..=LIMIT / payload.len() as u64 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_closes_total{reason=\"queue_full\"}", 1).await;
    assert_eq!(client.poll().await.0, 400);
}

#[tokio::test]
async fn a_polling_viewer_that_keeps_up_may_receive_more_than_the_backlog_limit() {
    const MESSAGES: u64 = 24;
    let site = TestServer::start().await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    // 6 MiB in total, one message per poll; the backlog limit is 4 MiB.
    let payload = "x".repeat(256 << 10);
    for number in 1..=MESSAGES {
        site.publish("device01", &payload).await;
        site.until_metric("roomcast_deliveries_total", number).await;
        let (status, packets) = client.poll().await;
        assert_eq!((status, packets.len()), (200, payload.len() + r#"42["message",""]"#.len()));
    }
    assert_eq!(site.metric("roomcast_members").await, 1);
}
