//! The end: nothing that has arrived is lost, and nobody holds it up.

use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Client, Polling, Site, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_arrived_is_delivered_before_the_end() {
    const MESSAGES: usize = 500;
    let site = Site::start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&site).await;
        client.join("device01").await;
        clients.push(client);
    }
    for message in 0..MESSAGES {
        site.publish("device01", message.to_string()).await;
    }
    site.until_metric("roomcast_messages_total", MESSAGES as u64).await;
    site.stop();
    let expected: Vec<_> = (0..MESSAGES).map(|message| message.to_string()).collect();
    for mut client in clients {
        assert_eq!(client.rest().await, expected);
    }
    site.until("it is over", async || site.is_over()).await;
    assert!(TcpStream::connect(site.addr).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_says_so() {
    // A request whose body never comes holds up the end until the grace is over.
    let site = Site::start_with(|settings| settings.grace = "2s".into()).await;
    let mut stalled = Client::connect(&site).await;
    stalled.join("device01").await;
    let hanging = TcpStream::connect(site.addr).await.expect("connected");
    let head = b"POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n";
    hanging.writable().await.expect("writable");
    assert_eq!(hanging.try_write(head).expect("sent"), head.len());
    site.until_metric("roomcast_connections", 2).await;
    site.stop();
    site.until("not ready", async || site.get("/readyz").await == (503, "draining\n".into())).await;
    assert_eq!(site.get("/livez").await.0, 200);
    site.until("it is over", async || site.is_over()).await;
}

#[tokio::test]
async fn a_poll_that_waits_is_answered() {
    let site = Site::start().await;
    let client = Polling::connect(&site).await;
    site.until_metric("roomcast_connections", 0).await;
    let poll = tokio::spawn(async move { client.poll().await });
    site.until_metric("roomcast_connections", 1).await;
    site.stop();
    assert_eq!(within("an answer", poll).await.expect("no panic").0, 503);
    site.until("it is over", async || site.is_over()).await;
}

#[tokio::test]
async fn a_peer_that_stopped_reading_does_not_hold_up_the_end() {
    let site = Site::start_with(|settings| settings.grace = "1s".into()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut stalled = Client::connect_over(socket, &site).await;
    stalled.ask(json!(["channel", "device01"])).await;
    let payload = "x".repeat(64 << 10);
    for _ in 0..30 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_deliveries_total", 30).await;
    site.stop();
    site.until("it is over", async || site.is_over()).await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_is_behind_gets_all_of_it_before_the_end() {
    const MESSAGES: usize = 900;
    let site = Site::start_with(|settings| {
        settings.slow_after = "19s".into();
        settings.grace = "60s".into();
    })
    .await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small window");
    let mut behind = Client::connect_over(socket, &site).await;
    behind.join("device01").await;
    let payload = "x".repeat(4096);
    for _ in 0..MESSAGES {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_deliveries_total", MESSAGES as u64).await;
    site.stop();
    site.until("draining", async || site.get("/readyz").await.0 == 503).await;
    assert_eq!(behind.rest().await.len(), MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_grace_is_enough_for_many() {
    const CLIENTS: usize = 2000;
    let site = Site::start_with(|settings| settings.grace = "2s".into()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(&site).await);
    }
    site.stop();
    for client in &mut clients {
        client.rest().await;
    }
    let cut = clients.iter().filter(|client| !client.closed).count();
    assert_eq!(cut, 0, "connections had to be cut");
    site.until("it is over", async || site.is_over()).await;
}
