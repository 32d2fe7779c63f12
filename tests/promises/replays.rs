//! Long replays: read as fast as their client reads, whole, and at no cost for others.

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::{
    events::Curl,
    support::{Client, Polling, TestServer},
};

/// More than the kernel buffers for a client that does not read.
const MESSAGES: usize = 8000;
const BACKLOG: &str = "roomcast_backlog_bytes";
/// Bytes of one piece: its payloads, with what is written around them.
const PIECE: u64 = 128 << 10;

/// Publishes `count` messages of 1 kB, which begin with their numbers, and waits until they are kept.
async fn publish(site: &TestServer, numbers: std::ops::Range<usize>) {
    let messages = "roomcast_messages_total";
    let all = site.metric(messages).await + numbers.len() as u64;
    for number in numbers {
        site.publish("room", format!("{number} {}", "x".repeat(1000))).await;
    }
    site.until_metric(messages, all).await;
    site.until_metric("roomcast_queue_messages", 0).await;
}

/// A client with a small receive buffer, which reads nothing unless the test does.
async fn stalled(site: &TestServer) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    Client::connect_over(socket, site).await
}

/// The number at the beginning of a message's payload.
fn number(payload: &Value) -> usize {
    let payload = payload.as_str().expect("text");
    payload.split_once(' ').and_then(|(number, _)| number.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_replay_waits_for_its_client_and_lets_live_messages_pass() {
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    publish(&site, 0..MESSAGES).await;
    let mut client = stalled(&site).await;
    client.join("live").await;
    let options = json!({"last": MESSAGES, "meta": true});
    let answer = client.ask(json!(["channel", "room", options])).await;
    assert_eq!(answer["replayed"], MESSAGES, "{answer}");
    site.until("a piece waits", async || site.metric(BACKLOG).await > 0).await;
    site.publish("live", "passes").await;
    publish(&site, MESSAGES..MESSAGES + 10).await;
    assert!(site.metric(BACKLOG).await < PIECE, "nothing else waits");
    let (mut expected, mut passed) = (0, None);
    while expected < MESSAGES + 10 {
        let event = client.event().await;
        if event[1] == "passes" {
            passed = Some(expected);
        } else {
            assert_eq!((event[0].as_str(), number(&event[1])), (Some("message"), expected));
            expected += 1;
        }
    }
    assert!(passed.is_some_and(|passed| passed < MESSAGES - 256), "{passed:?}");
    publish(&site, MESSAGES + 10..MESSAGES + 11).await;
    assert_eq!(number(&client.event().await[1]), MESSAGES + 10, "it is live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_under_a_replay_is_told_or_the_client_is_disconnected() {
    let site = TestServer::start_with(|settings| {
        settings.slow_after = "19s".into();
        settings.history = MESSAGES.to_string();
    })
    .await;
    publish(&site, 0..MESSAGES).await;
    let (mut told, mut plain) = (stalled(&site).await, stalled(&site).await);
    let options = json!({"last": MESSAGES, "meta": true});
    let answer = told.ask(json!(["channel", "room", options])).await;
    assert_eq!(answer["replayed"], MESSAGES);
    plain.ask(json!(["channel", "room", {"last": MESSAGES}])).await;
    publish(&site, MESSAGES..2 * MESSAGES).await;
    let rest = plain.rest().await;
    assert!(rest.len() < MESSAGES, "{}", rest.len());
    site.until_metric("roomcast_closes_total{reason=\"queue_full\"}", 1).await;

    let (mut expected, mut omitted) = (0, 0);
    while expected < 2 * MESSAGES {
        let event = told.event().await;
        if event[0] == "gap" {
            assert_eq!((&event[1]["reason"], omitted), (&json!("forgotten"), 0));
            omitted = event[1]["omitted"].as_u64().expect("a number") as usize;
            assert_eq!(expected + omitted, MESSAGES);
            expected = MESSAGES;
        } else {
            assert_eq!(number(&event[1]), expected);
            expected += 1;
        }
    }
    assert!(omitted > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_not_read_ends_as_any_stall_and_leaves_nothing() {
    let site = TestServer::start_with(|settings| settings.slow_after = "1s".into()).await;
    publish(&site, 0..MESSAGES).await;
    let mut client = stalled(&site).await;
    client.ask(json!(["channel", "room", {"last": MESSAGES}])).await;
    let curl = Curl::get(&site, &format!("/events/room?last={MESSAGES}"), "").await;
    site.until_metric("roomcast_closes_total{reason=\"slow\"}", 2).await;
    for gauge in [BACKLOG, "roomcast_members", "roomcast_connections"] {
        site.until_metric(gauge, 0).await;
    }
    drop((client, curl));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_during_replays_leave_nothing() {
    let site = TestServer::start().await;
    publish(&site, 0..MESSAGES).await;
    let join = json!(["channel", "room", {"last": MESSAGES}]);
    let mut client = stalled(&site).await;
    // The second join goes on with the first one's replay, the third one begins anew.
    for event in [join.clone(), json!(["channel", "room"]), join.clone(), json!(["leave", "room"])]
    {
        client.ask(event).await;
    }
    client.arrived();
    client.ask(join).await;
    client.send("41").await;
    site.until_metric("roomcast_members", 0).await;
    site.until_metric("roomcast_rooms", 1).await;
}

#[tokio::test]
async fn a_replay_comes_by_polls_as_a_whole() {
    let site = TestServer::start().await;
    publish(&site, 0..MESSAGES).await;
    let client = Polling::connect(&site).await;
    let join = format!("42[\"channel\",\"room\",{{\"last\":{MESSAGES}}}]");
    assert_eq!(client.post(&join).await, 200);
    let mut expected = 0;
    while expected < MESSAGES {
        let (status, packets) = client.poll().await;
        assert_eq!(status, 200);
        for packet in packets.split('\x1e').filter(|packet| *packet != "2") {
            let event: Value = serde_json::from_str(&packet[2..]).expect("JSON");
            assert_eq!(number(&event[1]), expected);
            expected += 1;
        }
        assert!(site.metric(BACKLOG).await < 2 * PIECE);
    }
}

#[tokio::test]
async fn an_event_stream_replays_a_long_history_and_has_no_id_before_it() {
    let site = TestServer::start().await;
    publish(&site, 0..MESSAGES).await;
    let mut curl = Curl::get(&site, &format!("/events/room?last={MESSAGES}"), "").await;
    let (joined, id) = curl.event().await;
    assert!(joined.starts_with("event: joined\n"), "{joined}");
    assert_eq!(id, "", "it would be taken for the position of a client that has got no message");
    for expected in 0..MESSAGES {
        let (event, _) = curl.event().await;
        assert!(event.starts_with(&format!("data: {expected} x")), "{expected}: {event}");
    }
    publish(&site, MESSAGES..MESSAGES + 1).await;
    assert!(curl.event().await.0.starts_with(&format!("data: {MESSAGES} x")));
}
