//! Conflation (`maxRate`, `latest`): a client gets fewer messages, and always the newest one last.

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::support::{Client, Polling, TestServer};

fn number(event: &Value) -> u64 {
    event[1].as_str().and_then(|text| text.split(' ').next()?.parse().ok()).expect("a number")
}

#[tokio::test]
async fn max_rate_sends_the_first_message_at_once_and_the_newest_last() {
    const MESSAGES: u64 = 200;
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.ask(json!(["channel", "device01", {"maxRate": 5, "meta": true}])).await;
    for number in 1..=MESSAGES {
        site.publish("device01", number.to_string()).await;
    }
    let mut seen = vec![number(&client.event().await)];
    while seen.last() != Some(&MESSAGES) {
        let event = client.event().await;
        assert_eq!(event[2]["offset"], number(&event));
        seen.push(number(&event));
    }
    assert!(seen.len() < 20, "{seen:?}");
    assert!(seen.is_sorted());
    // After a pause the next message comes at once again.
    site.publish("device01", "201").await;
    assert_eq!(number(&client.event().await), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_skips_to_the_newest_message_for_a_slow_client() {
    const MESSAGES: u64 = 2000;
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut behind = Client::connect_over(socket, &site).await;
    behind.ask(json!(["channel", "device01", {"latest": true}])).await;
    let padding = "x".repeat(16 << 10);
    for number in 1..=MESSAGES {
        site.publish("device01", format!("{number} {padding}")).await;
    }
    site.until_metric("roomcast_messages_total", MESSAGES).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&MESSAGES) {
        seen.push(number(&behind.event().await));
    }
    assert!(seen.is_sorted());
    assert!((seen.len() as u64) < MESSAGES / 2, "{} were not conflated", seen.len());
}

#[tokio::test]
async fn latest_queues_only_the_newest_message_between_polls() {
    let site = TestServer::start().await;
    let client = Polling::connect(&site).await;
    assert_eq!(client.post(r#"42["channel","device01",{"latest":true}]"#).await, 200);
    site.until_metric("roomcast_members", 1).await;
    for number in ["1", "2", "3"] {
        site.publish("device01", number).await;
    }
    site.until_metric("roomcast_messages_total", 3).await;
    assert_eq!(client.poll().await, (200, r#"42["message","3"]"#.to_owned()));
}
