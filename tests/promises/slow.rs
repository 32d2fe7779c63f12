//! Viewers that do not take what is theirs harm nobody else.

use tokio::{net::TcpSocket, task::JoinSet};

use crate::support::{Client, Polling, Site, within};

/// More than the kernel takes for who does not read, less than may wait for a viewer (4 MiB).
const MESSAGES: usize = 30;

/// A client that the kernel takes little for.
async fn stalled(site: &Site) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    Client::connect_over(socket, site).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_stops_reading_is_ended_and_the_others_miss_nothing() {
    const OTHERS: usize = 49;
    const SLOW: &str = "roomcast_closes_total{reason=\"slow\"}";
    let site = Site::start_with(|settings| settings.slow_after = "1s".into()).await;
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

#[tokio::test]
async fn a_viewer_with_a_full_queue_is_ended() {
    let site = Site::start_with(|settings| settings.slow_after = "19s".into()).await;
    let mut stalled = stalled(&site).await;
    stalled.join("device01").await;
    let payload = "x".repeat(4096);
    let ended = async || site.metric("roomcast_closes_total{reason=\"queue_full\"}").await == 1;
    within("ended", async {
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
async fn a_polling_viewer_that_no_longer_polls_is_ended_and_told_to_begin_again() {
    const MORE_THAN_FIT: usize = 5000;
    let site = Site::start().await;
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
async fn bytes_that_wait_are_bounded_also_where_nobody_polls() {
    const ROOM_FOR: u64 = 4 << 20;
    let site = Site::start_with(|settings| settings.slow_after = "19s".into()).await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    let payload = "x".repeat(256 << 10);
    for _ in 0..=ROOM_FOR / payload.len() as u64 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_closes_total{reason=\"queue_full\"}", 1).await;
    assert_eq!(client.poll().await.0, 400);
}

#[tokio::test]
async fn a_polling_viewer_that_takes_what_waits_is_not_ended_however_much_it_was_in_all() {
    const MESSAGES: u64 = 24;
    let site = Site::start().await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01"]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    // 6 MiB, each message between two polls, where 4 MiB may wait.
    let payload = "x".repeat(256 << 10);
    for number in 1..=MESSAGES {
        site.publish("device01", &payload).await;
        site.until_metric("roomcast_deliveries_total", number).await;
        let (status, packets) = client.poll().await;
        assert_eq!((status, packets.len()), (200, payload.len() + r#"42["message",""]"#.len()));
    }
    assert_eq!(site.metric("roomcast_members").await, 1);
}
