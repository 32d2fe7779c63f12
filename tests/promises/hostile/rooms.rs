//! Clients that join many rooms, or ask for the list of channels again and again.

use serde_json::json;
use tokio::task::JoinSet;

use super::{Attack, until};
use crate::support::{Client, within};

/// Rooms of one client; the default of `MAX_ROOMS`.
const ROOMS: usize = 256;
/// More clients than all rooms together may have: 65,536 memberships, and eight of each client.
const CLIENTS: usize = 268;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_rooms_are_bounded_and_leave_the_history_alone() {
    let attack = Attack::begin(&[]).await;
    for number in 0..50 {
        attack.site.publish("device00", number.to_string()).await;
    }
    let mut joining = JoinSet::new();
    for client in 0..CLIENTS {
        let site = attack.site.clone();
        joining.spawn(async move {
            let mut viewer = Client::connect(&site).await;
            for room in 0..ROOMS {
                viewer.send(&format!(r#"42["channel","empty-{client}-{room}"]"#)).await;
            }
            // All joins are answered before this one.
            viewer.ask(json!(["leave", "nowhere"])).await;
            viewer
        });
        // A few at a time, so that the listener's queue is never full.
        if joining.len() == 32 {
            let viewer = joining.join_next().await.expect("one").expect("no panic");
            tokio::spawn(viewer.stay());
        }
    }
    let viewers = joining.join_all().await;
    let refused = "roomcast_refusals_total{reason=\"too_many_rooms\"}";
    assert!(attack.site.metric(refused).await > 0);
    assert!(attack.site.metric("roomcast_members").await <= 65_536 + 8 * 270);
    // 1 KiB is reckoned for each membership.
    let grown = attack.process.memory().saturating_sub(attack.memory);
    assert!(grown <= 96 << 10, "grown by {grown} kB");

    let mut viewer = Client::connect(&attack.site).await;
    let answer = viewer.ask(json!(["channel", "device00", { "last": 100 }])).await;
    assert_eq!(answer["replayed"], 50, "the history is all there");
    for room in 0..7 {
        viewer.join(&format!("own{room}")).await;
    }
    let answer = viewer.ask(json!(["channel", "own8"])).await;
    assert_eq!(answer["error"]["code"], "too_many_rooms", "{answer}");
    drop((viewers, viewer));
    // The others stay in their tasks, which end with the server.
    attack.stop().await;
}

/// What is counted as history is what the process grows by, also after all of it has been replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_the_history_are_those_that_it_takes() {
    let attack = Attack::begin(&[("HISTORY_BYTES", "20MiB"), ("HISTORY_TTL", "1h")]).await;
    for turn in ["first", "second"] {
        for number in 0..55_000 {
            attack.site.publish(&format!("{turn}{number}"), "1").await;
        }
        let messages = "roomcast_queue_messages";
        until(&attack.site, messages, async || attack.site.metric(messages).await == 0).await;
        let counted = attack.site.metric("roomcast_history_bytes").await >> 10;
        assert!(counted > 19 << 10, "{counted} kB");
        // The allocator returns what it does not need with a delay.
        until(&attack.site, "no more memory than is counted", async || {
            let grown = attack.process.memory().saturating_sub(attack.memory);
            (85..=130).contains(&(100 * counted / grown.max(1)))
        })
        .await;
    }
    attack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_channels_keep_nobody_waiting_for_messages() {
    let attack = Attack::begin(&[]).await;
    for number in 0..20_000 {
        attack.site.publish(&format!("plant/machine-{number:07}/temperature"), "21.5").await;
    }
    let pattern = format!("*[{}]", "~".repeat(250));
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let (site, pattern) = (attack.site.clone(), pattern.clone());
        asking.spawn(async move {
            let mut client = Client::connect(&site).await;
            for _ in 0..50 {
                client.emit(json!(["channels", pattern])).await;
            }
            within("an answer", client.ask(json!(["leave", "nowhere"]))).await;
            client
        });
    }
    let clients = asking.join_all().await;
    // Four requests of each may wait at the same time.
    let refused = "roomcast_refusals_total{reason=\"too_fast\"}";
    assert!(attack.site.metric(refused).await > 0);
    let mut viewer = Client::connect(&attack.site).await;
    let answer = within("the list", viewer.ask(json!(["channels", "*machine-000000?*"]))).await;
    assert_eq!(answer["channels"].as_array().map(Vec::len), Some(10), "{answer}");
    let stars = viewer.ask(json!(["channels", "a*".repeat(9)])).await;
    assert_eq!(stars["error"]["code"], "bad_request");
    drop((clients, viewer));
    until(&attack.site, "nothing else", async || attack.site.metric("roomcast_sockets").await == 1)
        .await;
    attack.end().await;
}
