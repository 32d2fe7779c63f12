//! Viewers that do not take what is theirs harm nobody else.

use tokio::{net::TcpSocket, task::JoinSet};

use crate::support::{Client, Polling, Site, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_stops_reading_is_ended_and_the_others_miss_nothing() {
    const OTHERS: usize = 49;
    const ROUNDS: usize = 400;
    const SLOW: &str = "roomcast_closes_total{reason=\"slow\"}";
    let site = Site::start_with(|settings| settings.slow_after = "1s".into()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut stalled = Client::connect_over(socket, &site).await;
    stalled.join("device01").await;

    let (mut others, padding) = (Vec::new(), "x".repeat(64 << 10));
    for _ in 0..OTHERS {
        let mut other = Client::connect(&site).await;
        other.join("device01").await;
        others.push(other);
    }
    // A round ends when the others have it, so that only the stalled one is ever behind.
    let mut sent = 0;
    while site.metric(SLOW).await == 0 {
        assert!(sent < ROUNDS, "the stalled viewer is still there after {sent} messages");
        let payload = format!("{sent} {padding}");
        site.publish("device01", &payload).await;
        let mut reading = JoinSet::new();
        for mut other in others.drain(..) {
            let payload = payload.clone();
            reading.spawn(async move {
                assert_eq!(other.message().await, payload);
                other
            });
        }
        others = reading.join_all().await;
        sent += 1;
    }
    site.until_metric("roomcast_members", OTHERS as u64).await;
    site.until_metric("roomcast_connections", OTHERS as u64).await;
    assert_eq!(site.metric(SLOW).await, 1);
    drop(stalled);
}

#[tokio::test]
async fn a_viewer_with_a_full_queue_is_ended() {
    let site = Site::start_with(|settings| settings.slow_after = "19s".into()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut stalled = Client::connect_over(socket, &site).await;
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
