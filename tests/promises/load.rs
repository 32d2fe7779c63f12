//! Many clients at once, and none of them well-behaved.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{net::TcpSocket, task::JoinSet};

use crate::support::{Client, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_join_is_lost_that_comes_the_instant_a_client_is_connected() {
    const CLIENTS: usize = 2000;
    let site = Site::start().await;
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
async fn nothing_is_left_of_clients_that_go_at_any_moment() {
    const CLIENTS: u64 = 4000;
    const AT_ONCE: usize = 64;
    let site = Site::start_with(|settings| settings.history = "0".into()).await;
    let mut running = JoinSet::new();
    for seed in 0..CLIENTS {
        if running.len() == AT_ONCE {
            running.join_next().await.expect("one of many").expect("no panic");
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

/// Goes, politely or not, after any step.
async fn come_and_go(site: &Site, mut random: StdRng) {
    let steps = random.random_range(0..6);
    let mut client = Client::open(TcpSocket::new_v4().expect("a socket"), site).await;
    for step in 0..steps {
        match step {
            0 => drop(client.packet().await),
            1 => client.send("40").await,
            // May come before the server has connected us: then it has to end us, no more.
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
