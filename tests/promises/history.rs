//! History: messages published before a client joined, and messages that it missed.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, TestServer};

#[tokio::test]
async fn last_replays_the_newest_messages_first() {
    let site = TestServer::start_with(|settings| settings.history = "3".into()).await;
    for payload in ["a", "b", "c", "d"] {
        site.publish("device01", payload).await;
    }
    site.until_metric("roomcast_messages_total", 4).await;
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channel", "device01", {"last": 10}])).await;
    assert_eq!((&answer["offset"], &answer["replayed"]), (&json!(4), &json!(3)), "{answer}");
    site.publish("device01", "e").await;
    for payload in ["b", "c", "d", "e"] {
        assert_eq!(client.event().await, json!(["message", payload]));
    }
}

#[tokio::test]
async fn missed_messages_are_replayed_exactly_once_or_recovery_is_denied() {
    let site = TestServer::start_with(|settings| settings.history = "5".into()).await;
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channel", "device01", {"meta": true}])).await;
    site.publish("device01", "1").await;
    let place = client.event().await[2].clone();
    drop(client);
    for payload in ["2", "3", "4"] {
        site.publish("device01", payload).await;
    }
    site.until_metric("roomcast_messages_total", 4).await;

    let since = json!({"epoch": place["epoch"], "offset": place["offset"]});
    let mut client = Client::connect(&site).await;
    let joined = client.ask(json!(["channel", "device01", {"meta": true, "since": since}])).await;
    assert_eq!((&joined["recovered"], &joined["replayed"]), (&json!(true), &json!(3)), "{joined}");
    for (payload, offset) in [("2", 2), ("3", 3), ("4", 4)] {
        let event = client.event().await;
        assert_eq!((&event[1], &event[2]["offset"]), (&json!(payload), &json!(offset)));
    }

    for payload in ["5", "6"] {
        site.publish("device01", payload).await;
        client.event().await;
    }
    let mut late = Client::connect(&site).await;
    let since = json!({"epoch": answer["epoch"], "offset": 0});
    let joined = late.ask(json!(["channel", "device01", {"since": since, "last": 2}])).await;
    assert_eq!((&joined["recovered"], &joined["replayed"]), (&json!(false), &json!(5)), "{joined}");
    for payload in ["2", "3", "4", "5", "6"] {
        assert_eq!(late.event().await, json!(["message", payload]));
    }
    // The missing part is told to clients that joined with `meta`, before the rest.
    let mut late = Client::connect(&site).await;
    late.ask(json!(["channel", "device01", {"since": since, "meta": true}])).await;
    let gap = late.event().await;
    assert_eq!((&gap[0], &gap[1]["reason"]), (&json!("gap"), &json!("forgotten")), "{gap}");
    let first = late.event().await;
    assert_eq!((&first[1], &first[2]["prev"]), (&json!("2"), &json!(1)), "{first}");
    assert_eq!(first[2]["at"], gap[1]["to"]);
}

#[tokio::test]
async fn a_room_without_a_message_is_recovered() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channel", "silent", {"meta": true}])).await;
    drop(client);
    site.publish("device01", "counts too").await;
    site.until_metric("roomcast_messages_total", 1).await;
    let since = json!({"epoch": answer["epoch"], "offset": answer["offset"]});
    let mut client = Client::connect(&site).await;
    let joined = client.ask(json!(["channel", "silent", {"meta": true, "since": since}])).await;
    assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(true), &json!(1)), "{joined}");
}

/// Clients connect and disconnect at random moments under load, and join with `since`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_under_load_miss_and_double_nothing() {
    const VIEWERS: u64 = 20;
    const MESSAGES: usize = 2000;
    let site = TestServer::start_with(|settings| settings.history = "2000".into()).await;
    let mut viewers = JoinSet::new();
    for seed in 0..VIEWERS {
        let site = site.clone();
        viewers.spawn(async move { watch(&site, StdRng::seed_from_u64(seed), MESSAGES).await });
    }
    site.until_metric("roomcast_members", VIEWERS).await;
    for number in 1..=MESSAGES {
        site.publish("device01", number.to_string()).await;
    }
    let expected: Vec<_> = (1..=MESSAGES).collect();
    while let Some(seen) = viewers.join_next().await {
        assert!(seen.expect("no panic") == expected, "missing, doubled or reordered");
    }
}

/// Reads until the last message, and reconnects after a random number of messages.
async fn watch(site: &TestServer, mut random: StdRng, last: usize) -> Vec<usize> {
    let (mut seen, mut since) = (Vec::new(), Value::Null);
    while seen.last() != Some(&last) {
        let mut client = Client::connect(site).await;
        let options = json!({"meta": true, "since": since});
        let answer = client.ask(json!(["channel", "device01", options])).await;
        assert_ne!(answer["recovered"], false, "{answer}");
        if since.is_null() {
            since = json!({"epoch": answer["epoch"], "offset": answer["offset"]});
        }
        for _ in 0..random.random_range(1..400) {
            let event = client.event().await;
            seen.push(event[1].as_str().and_then(|text| text.parse().ok()).expect("a number"));
            since = json!({"epoch": event[2]["epoch"], "offset": event[2]["offset"]});
            if seen.last() == Some(&last) {
                break;
            }
        }
    }
    seen
}

#[tokio::test]
async fn a_lost_source_sends_a_gap_and_begins_a_new_epoch() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    let before = client.ask(json!(["channel", "device01", {"meta": true}])).await;
    let mut plain = Client::connect(&site).await;
    plain.join("device01").await;
    site.kill_subscription().await;
    let gap = client.event().await;
    assert_eq!((&gap[0], &gap[1]["reason"]), (&json!("gap"), &json!("source_lost")), "{gap}");
    assert_eq!(gap[1]["room"], "device01");
    assert!(gap[1]["from"].as_u64() <= gap[1]["to"].as_u64(), "{gap}");
    let since = json!({"epoch": before["epoch"], "offset": before["offset"]});
    let after = client.ask(json!(["channel", "device01", {"meta": true, "since": since}])).await;
    assert_eq!(after["recovered"], false);
    assert_ne!(after["epoch"], before["epoch"]);
    assert_eq!(client.event().await[1]["reason"], "source_lost");
    site.publish("device01", "after").await;
    assert_eq!(client.event().await[2]["offset"], 1);
    assert_eq!(plain.event().await, json!(["message", "after"]), "clients without meta get no gap");
    assert_eq!(site.metric("roomcast_source_reconnects_total").await, 1);
}

#[tokio::test]
async fn channels_lists_live_channels_without_members_and_no_probes() {
    let site = TestServer::start().await;
    for (channel, payload) in [("device01", "21.5"), ("device02", "x"), ("alarm", "!")] {
        site.publish(channel, payload).await;
    }
    // The server sends its first probe after 3 s without messages. The list must not show it.
    site.until("a probe has come back", async || {
        !site.get("/metrics").await.1.contains("round_trip_seconds 0.0\n")
    })
    .await;
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channels"])).await;
    let rooms: Vec<_> =
        answer["channels"].as_array().expect("a list").iter().map(|told| &told["room"]).collect();
    assert_eq!(rooms, ["alarm", "device02", "device01"], "{answer}");
    let answer = client.ask(json!(["channels", "device*1"])).await;
    let told = &answer["channels"][0];
    assert_eq!(
        (&told["room"], &told["last"], &told["size"]),
        (&json!("device01"), &json!("21.5"), &json!(4))
    );
    assert_eq!(answer["more"], false);
    assert_eq!(site.metric("roomcast_messages_total").await, 3);
}

#[tokio::test]
async fn status_tells_if_the_history_does_not_reach_back_as_far_as_it_should() {
    let site = TestServer::start_with(|settings| {
        settings.history_bytes = Some("64KiB".into());
        settings.history_ttl = "2h".into();
    })
    .await;
    let history = async || -> Value {
        let (_, status) = site.get("/status").await;
        serde_json::from_str::<Value>(&status).expect("JSON")["history"].clone()
    };
    site.publish("device01", "21.5").await;
    site.until_metric("roomcast_messages_total", 1).await;
    assert_eq!(
        (&history().await["limited"], &history().await["bytes_max"]),
        (&Value::Null, &json!(65536))
    );
    let payload = "x".repeat(10_000);
    site.until("the bytes are used up", async || {
        site.publish("device02", &payload).await;
        history().await["limited"].is_string()
    })
    .await;
    let words = history().await["limited"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(words.contains("2h") && words.contains("HISTORY_BYTES"), "{words}");
    assert!(site.metric("roomcast_history_window_seconds").await < 3600);
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channel", "device01", {"last": 1}])).await;
    assert_eq!(answer["replayed"], 1, "the latest message of a room goes last");
}
