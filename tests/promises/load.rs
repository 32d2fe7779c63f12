//! Many clients at once that connect, join, leave and reset at any moment.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::support::{Client, TestServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_sent_right_after_connecting_is_not_lost() {
    const CLIENTS: usize = 2000;
    let site = TestServer::start().await;
    let mut joining = JoinSet::new();
    for _ in 0..CLIENTS {
        let site = site.clone();
        joining.spawn(async move {
            let mut client = Client::connect(&site).await;
            client.emit(json!(["channel", "device01"])).await;
            client
        });
    }
    let clients = joining.join_all().await;
    site.until_metric("roomcast_members", CLIENTS as u64).await;
    site.publish("device01", "to all").await;
    let mut reading = JoinSet::new();
    for mut client in clients {
        reading.spawn(async move { assert_eq!(client.message().await, "to all") });
    }
    reading.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_disconnect_at_any_moment_leave_nothing_behind() {
    const CLIENTS: u64 = 4000;
    const AT_ONCE: usize = 64;
    let site = TestServer::start_with(|settings| settings.history = "0".into()).await;
    let mut running = JoinSet::new();
    for seed in 0..CLIENTS {
        if running.len() == AT_ONCE {
            running.join_next().await.expect("a running task").expect("no panic");
        }
        let (own, random) = (site.clone(), StdRng::seed_from_u64(seed));
        running.spawn(async move { come_and_go(&own, random).await });
        if seed % 16 == 0 {
            site.publish(&format!("room{}", seed % 7), "x").await;
        }
    }
    running.join_all().await;
    let gauges = [
        "roomcast_members",
        "roomcast_rooms",
        "roomcast_sockets",
        "roomcast_sessions{transport=\"websocket\"}",
        "roomcast_sessions{transport=\"polling\"}",
        "roomcast_connections",
    ];
    for gauge in gauges {
        site.until_metric(gauge, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_reset_before_the_first_packet_leave_nothing_behind() {
    const CLIENTS: usize = 1000;
    let site = TestServer::start().await;
    let mut running = JoinSet::new();
    for _ in 0..CLIENTS {
        let site = site.clone();
        running.spawn(async move {
            // With Engine.IO 3 the server connects the client to the namespace by itself.
            let mut stream = TcpStream::connect(site.addr).await.expect("connected");
            let head = "GET /socket.io/?EIO=3&transport=websocket HTTP/1.1\r\nhost: localhost\r\n\
                        connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                        sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("sent");
            stream.set_zero_linger().expect("a reset instead of FIN");
        });
        if running.len() == 32 {
            running.join_next().await;
        }
    }
    running.join_all().await;
    for gauge in ["roomcast_connections", "roomcast_sockets"] {
        site.until_metric(gauge, 0).await;
    }
    site.until_metric("roomcast_sessions{transport=\"websocket\"}", 0).await;
}

/// A client leaves and joins with `since` again and again while messages are published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_and_rejoining_under_load_misses_and_doubles_nothing() {
    const CROWD: usize = 300;
    const ROUNDS: usize = 100;
    let site = TestServer::start_with(|settings| settings.history = "2000".into()).await;
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let mut client = Client::connect(&site).await;
        client.join("device01").await;
        crowd.spawn(async move { client.rest().await });
    }
    let publishing = tokio::spawn({
        let site = site.clone();
        async move {
            loop {
                site.publish("device01", "x").await;
            }
        }
    });
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channel", "device01", {"meta": true}])).await;
    let mut position = json!({"epoch": answer["epoch"], "offset": answer["offset"]});
    for round in 0..ROUNDS {
        for _ in 0..5 {
            let event = client.event().await;
            let offset = event[2]["offset"].as_u64().expect("an offset");
            assert_eq!(Some(offset), position["offset"].as_u64().map(|seen| seen + 1), "{round}");
            position["offset"] = offset.into();
        }
        client.ask(json!(["leave", "device01"])).await;
        // Messages that arrived before the answer count. None may arrive after it.
        for event in client.arrived() {
            position["offset"] = event[2]["offset"].clone();
        }
        let options = json!({"meta": true, "since": position});
        let answer = client.ask(json!(["channel", "device01", options])).await;
        assert_eq!(answer["recovered"], true, "{answer}");
    }
    publishing.abort();
    site.stop();
}

/// Connects, and drops the connection after a random number of steps, with or without a close.
async fn come_and_go(site: &TestServer, mut random: StdRng) {
    let steps = random.random_range(0..6);
    let mut client = Client::open(TcpSocket::new_v4().expect("a socket"), site).await;
    for step in 0..steps {
        match step {
            0 => drop(client.packet().await),
            1 => client.send("40").await,
            // Without this read the join may reach the server before it has answered CONNECT. Then
            // the server only has to end the connection.
            2 if random.random() => drop(client.packet().await),
            2 => {}
            3 => {
                client.emit(json!(["channel", format!("room{}", random.random_range(0..7))])).await
            }
            4 if random.random() => client.send("41").await,
            _ => client.send("1").await,
        }
    }
}
