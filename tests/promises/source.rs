//! Outages of the source: the events that viewers get, and the metrics.

use serde_json::{Value, json};

use crate::support::{Client, Polling, Redis, TestServer, free_ports, request};

/// A server with an external Redis, the port of that Redis, and the Redis itself.
async fn start() -> (std::sync::Arc<TestServer>, u16, Redis) {
    let [addr] = free_ports();
    let redis = Redis::start(addr.port()).await;
    let site = TestServer::start_with(|settings| settings.redishost = Some(addr.to_string())).await;
    (site, addr.port(), redis)
}

async fn with_meta(site: &TestServer, rooms: &[&str]) -> Client {
    let mut client = Client::connect(site).await;
    for room in rooms {
        let answer = client.ask(json!(["channel", room, {"meta": true}])).await;
        assert_eq!(answer["ok"], true, "{answer}");
    }
    client
}

/// The content of an event `source`: `up` and `since`.
fn signal(event: &Value) -> (bool, u64) {
    assert_eq!(event[0], "source", "{event}");
    (event[1]["up"].as_bool().expect("up"), event[1]["since"].as_u64().expect("a time"))
}

#[tokio::test]
async fn each_socket_gets_one_event_per_outage_and_its_end_before_the_gap() {
    let (site, port, redis) = start().await;
    let mut in_two_rooms = with_meta(&site, &["one", "two"]).await;
    let mut plain = Client::connect(&site).await;
    plain.join("one").await;
    let polling = Polling::connect(&site).await;
    assert_eq!(polling.post(r#"42["channel","one",{"meta":true}]"#).await, 200);
    site.until_metric("roomcast_members", 4).await;

    redis.stop().await;
    let (up, away) = signal(&in_two_rooms.event().await);
    assert!(!up);
    let told = polling.poll().await.1;
    assert!(told.contains(&format!(r#"42["source",{{"up":false,"since":{away}}}]"#)), "{told}");
    // A client that joins during the outage gets the event once, after the answer.
    let mut late = with_meta(&site, &["one"]).await;
    assert_eq!(signal(&late.event().await), (false, away));
    late.ask(json!(["channel", "two", {"meta": true}])).await;

    let _redis = Redis::start(port).await;
    for client in [&mut in_two_rooms, &mut late] {
        let (up, back) = signal(&client.event().await);
        assert!(up && back >= away);
        for _ in ["one", "two"] {
            let gap = client.event().await;
            assert_eq!((&gap[0], &gap[1]["reason"]), (&json!("gap"), &json!("source_lost")));
        }
    }
    let told = polling.poll().await.1;
    let (up, gap) = (told.find(r#"42["source",{"up":true,"#), told.find(r#"42["gap","#));
    assert!(up.is_some() && up < gap, "{told}");
    site.publish("one", "again").await;
    assert_eq!(in_two_rooms.event().await[0], "message");
    assert_eq!(plain.event().await, json!(["message", "again"]), "only messages without meta");
    let mut new = with_meta(&site, &["one"]).await;
    site.publish("one", "still").await;
    assert_eq!(new.event().await[0], "message", "no event about a past outage");
}

#[tokio::test]
async fn losses_and_joins_are_counted() {
    let (site, port, redis) = start().await;
    let role =
        async |role: &str| site.metric(&format!("roomcast_source_role{{role=\"{role}\"}}")).await;
    assert_eq!(role("master").await + role("replica").await + role("unknown").await, 1);
    let before = site.metric("roomcast_gaps_total{reason=\"source_lost\"}").await;
    let mut client = with_meta(&site, &["room"]).await;
    site.publish("room", "one").await;
    let event = client.event().await;
    let since = json!({"epoch": event[2]["epoch"], "offset": event[2]["offset"]});
    site.until("the delay is observed", async || {
        site.metric("roomcast_delivery_delay_seconds_count").await == 1
    })
    .await;
    let options = json!({"meta": true, "since": since});
    client.ask(json!(["channel", "room", options])).await;
    redis.stop().await;
    let _redis = Redis::start(port).await;
    site.until_metric("roomcast_gaps_total{reason=\"source_lost\"}", before + 1).await;
    while client.event().await[0] != "gap" {}
    client.ask(json!(["channel", "room", options])).await;
    for (recovered, count) in [("none", 1), ("true", 1), ("false", 1)] {
        let series = format!("roomcast_joins_total{{recovered=\"{recovered}\"}}");
        assert_eq!(site.metric(&series).await, count, "{recovered}");
    }
    let (_, text) = site.get("/metrics").await;
    let seconds = |line: &str| {
        line.strip_prefix("roomcast_gap_seconds_total{reason=\"source_lost\"} ")?
            .parse::<f64>()
            .ok()
    };
    assert!(text.lines().find_map(seconds).is_some_and(|seconds| seconds > 0.0), "{text}");
}

#[tokio::test]
async fn the_queue_is_reported_by_lane() {
    let site = TestServer::start_with(|settings| settings.lanes = Some("3".into())).await;
    site.publish("room", "x".repeat(300 << 10)).await;
    site.until_metric("roomcast_drops_total{reason=\"too_large\"}", 1).await;
    let status: Value = serde_json::from_str(&site.get("/status").await.1).expect("JSON");
    let lanes = status["queue"]["lanes"].as_array().expect("lanes");
    let sum = |name: &str| lanes.iter().filter_map(|lane| lane[name].as_u64()).sum::<u64>();
    assert_eq!(lanes.len(), 3);
    for name in ["messages", "messages_max", "bytes", "bytes_max", "dropped"] {
        assert_eq!(status["queue"][name], sum(name), "{name}");
    }
    assert!(lanes.iter().all(|lane| lane["ok"] == true), "one drop is no overload: {status}");
}

#[tokio::test]
async fn every_close_is_counted_under_one_reason() {
    let site = TestServer::start().await;
    let closes = async || {
        let (_, text) = site.get("/metrics").await;
        let counts = text.lines().filter_map(|line| {
            let (reason, count) =
                line.strip_prefix("roomcast_closes_total{reason=\"")?.split_once("\"} ")?;
            (count != "0").then(|| format!("{reason} {count}"))
        });
        let mut counts: Vec<_> = counts.collect();
        counts.sort();
        counts
    };
    let ends = async |expected: &[&str]| {
        site.until(&format!("{expected:?}"), async || closes().await == expected).await;
    };
    // A close packet.
    let mut client = Client::connect(&site).await;
    client.send("1").await;
    client.rest().await;
    ends(&["client 1"]).await;
    // Leaving the namespace, then a dropped connection, counts once.
    let mut client = Client::connect(&site).await;
    client.send("41").await;
    site.until_metric("roomcast_sockets", 0).await;
    drop(client);
    ends(&["client 2"]).await;
    // A dropped connection.
    drop(Client::connect(&site).await);
    ends(&["client 2", "transport_error 1"]).await;
    // A close packet by polling.
    let polling = Polling::connect(&site).await;
    assert_eq!(polling.post("1").await, 200);
    ends(&["client 3", "transport_error 1"]).await;
    // A malformed packet.
    let mut client = Client::connect(&site).await;
    client.send("x").await;
    client.rest().await;
    ends(&["bad_packet 1", "client 3", "transport_error 1"]).await;
    // A drop before CONNECT.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    drop(Client::open(socket, &site).await);
    ends(&["bad_packet 1", "client 3", "not_connected 1", "transport_error 1"]).await;
    // A request for the page is no session, and counts nothing.
    assert_eq!(request(site.addr, "GET", "/", "").await.0, 200);
    ends(&["bad_packet 1", "client 3", "not_connected 1", "transport_error 1"]).await;
}

#[tokio::test]
async fn an_orderly_close_at_shutdown_is_counted_as_stop() {
    let site = TestServer::start().await;
    // A request whose head never ends delays the exit, so that the metrics can still be read.
    let stalled = tokio::net::TcpStream::connect(site.addr).await.expect("connected");
    stalled.writable().await.expect("writable");
    stalled.try_write(b"GET / HTTP/1.1\r\n").expect("sent");
    let mut viewer = Client::connect(&site).await;
    site.until_metric("roomcast_connections", 2).await;
    site.stop();
    viewer.rest().await;
    assert!(viewer.closed);
    site.until_metric("roomcast_closes_total{reason=\"stop\"}", 1).await;
    for reason in ["client", "transport_error", "drain"] {
        let series = format!("roomcast_closes_total{{reason=\"{reason}\"}}");
        assert_eq!(site.metric(&series).await, 0, "{reason}");
    }
    drop(stalled);
    site.until("it has stopped", async || site.is_over()).await;
}
