//! Joining and leaving rooms, and what members receive.

use serde_json::{Value, json};

use crate::support::{Client, TestServer};

#[tokio::test]
async fn a_member_gets_the_messages_of_its_channel_only() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    let answer = client.join("device01").await;
    assert_eq!(answer["room"], "device01");
    assert_eq!(answer["offset"], 0);
    site.publish("device02", "not for us").await;
    site.publish("device01", "hello").await;
    assert_eq!(client.event().await, json!(["message", "hello"]));
}

#[tokio::test]
async fn payloads_arrive_unchanged() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.join("device01").await;
    let large = "x".repeat(200_000);
    for payload in ["", "ünï😀\u{2028}\"\\\0", r#"{"a": 1}"#, "  1 ", &large] {
        site.publish("device01", payload).await;
        assert_eq!(client.message().await, payload);
    }
}

#[tokio::test]
async fn payloads_that_are_not_utf_8_arrive_as_attachments() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.join("device01").await;
    site.publish("device01", [0xff, 0x00, 0xfe]).await;
    assert_eq!(client.packet().await, r#"451-["message",{"_placeholder":true,"num":0}]"#);
    assert_eq!(&*client.attachment().await, [0xff, 0x00, 0xfe]);
}

#[tokio::test]
async fn meta_adds_the_position_to_each_message() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    let answer = client.ask(json!(["channel", "device01", {"meta": true}])).await;
    for offset in 1..=3 {
        site.publish("device01", "x").await;
        let event = client.event().await;
        let place = &event[2];
        assert_eq!(place["room"], "device01");
        assert_eq!(place["epoch"], answer["epoch"]);
        assert_eq!(place["offset"], offset);
        assert!(place["at"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{place}");
    }
    // Joining again without `meta` continues at the offset of the room.
    assert_eq!(client.join("device01").await["offset"], 3);
    site.publish("device01", "y").await;
    assert_eq!(client.event().await, json!(["message", "y"]));
}

#[tokio::test]
async fn a_client_that_has_left_gets_no_more_messages() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.join("device01").await;
    client.join("device02").await;
    assert_eq!(
        client.ask(json!(["leave", "device01"])).await,
        json!({"ok": true, "room": "device01"})
    );
    assert_eq!(client.ask(json!(["leave", "never joined"])).await["ok"], true);
    site.publish("device01", "too late").await;
    site.publish("device02", "still here").await;
    assert_eq!(client.message().await, "still here");
}

#[tokio::test]
async fn bad_requests_are_explained_and_the_socket_stays() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    let cases = [
        (json!(["channel"]), "bad_request"),
        (json!(["channel", 7]), "bad_request"),
        (json!(["channel", "room", "options"]), "bad_request"),
        (json!(["channel", "room", {"meta": "yes"}]), "bad_request"),
        (json!(["channel", ""]), "bad_room"),
        (json!(["channel", "a\u{0}b"]), "bad_room"),
        (json!(["channel", "x".repeat(257)]), "bad_room"),
        (json!(["channel", "room", {"last": -1}]), "bad_request"),
        (json!(["channel", "room", {"since": 3}]), "bad_request"),
        (json!(["channel", "room", {"lastest": true}]), "unsupported"),
        (json!(["channel", "room", {"maxRate": 1000}]), "bad_request"),
        (json!(["channels", 7]), "bad_request"),
        (json!(["leave"]), "bad_request"),
        (json!(["no such event", 1]), "unsupported"),
    ];
    for (event, code) in cases {
        let answer = client.ask(event.clone()).await;
        assert_eq!(
            (&answer["ok"], &answer["error"]["code"]),
            (&Value::Bool(false), &json!(code)),
            "{event}"
        );
        assert!(
            answer["error"]["message"].as_str().is_some_and(|text| text.len() > 10),
            "{answer}"
        );
        client.emit(event.clone()).await;
        let told = client.event().await;
        assert_eq!((&told[0], &told[1]["code"]), (&json!("error"), &json!(code)), "{event}");
    }
    client.join("device01").await;
}

#[tokio::test]
async fn a_socket_is_in_256_rooms_at_most() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    for room in 0..256 {
        client.join(&room.to_string()).await;
    }
    let answer = client.ask(json!(["channel", "one more"])).await;
    assert_eq!(answer["error"]["code"], "too_many_rooms");
    client.join("255").await;
    client.ask(json!(["leave", "255"])).await;
    client.join("one more").await;
}

#[tokio::test]
async fn hello_goes_to_the_other_members_if_the_setting_is_on() {
    for hello in [true, false] {
        let site = TestServer::start_with(|settings| settings.hello = hello.to_string()).await;
        let (mut first, mut second) = (Client::connect(&site).await, Client::connect(&site).await);
        first.join("device01").await;
        second.join("device01").await;
        site.publish("device01", "x").await;
        if hello {
            assert_eq!(first.event().await, json!(["hello"]));
        }
        assert_eq!(first.message().await, "x");
        assert_eq!(second.message().await, "x");
    }
}

#[tokio::test]
async fn overlapping_patterns_deliver_once() {
    let site = TestServer::start_with(|settings| settings.redis_channels = "a*,*1,a?".into()).await;
    let mut client = Client::connect(&site).await;
    for room in ["a1", "a", "b1", "b2"] {
        client.join(room).await;
    }
    for (channel, payload) in
        [("a1", "1"), ("b2", "unwatched"), ("a", "2"), ("b1", "3"), ("a1", "4")]
    {
        site.publish(channel, payload).await;
    }
    for expected in ["1", "2", "3", "4"] {
        assert_eq!(client.message().await, expected);
    }
}

#[tokio::test]
async fn messages_on_channels_that_cannot_be_rooms_are_dropped_and_counted() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.join("?").await;
    for channel in [&b"\xff"[..], b"", b"a\nb", &[b'x'; 257]] {
        assert_eq!(
            site.command(&[b"PUBLISH", channel, b"unseen"]).await,
            u64::from(channel != b"")
        );
    }
    site.publish("?", "seen").await;
    assert_eq!(client.message().await, "seen");
    site.until_metric("roomcast_drops_total{reason=\"bad_channel\"}", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_disconnect_twice_and_reconnect_leave_nothing_behind() {
    let site = TestServer::start().await;
    for _ in 0..100 {
        let mut client = Client::connect(&site).await;
        // The server may close the connection before all of it is sent.
        for packet in ["41", "41", "40", r#"42["channel","device01"]"#, "1"] {
            client.flood(packet, 1).await;
        }
    }
    for gauge in ["roomcast_sockets", "roomcast_members", "roomcast_connections"] {
        site.until_metric(gauge, 0).await;
    }
}

#[tokio::test]
async fn a_client_can_leave_the_namespace_and_reconnect_on_the_same_session() {
    let site = TestServer::start().await;
    let mut client = Client::connect(&site).await;
    client.join("device01").await;
    client.send("41").await;
    site.until_metric("roomcast_members", 0).await;
    client.send("40").await;
    assert!(client.packet().await.starts_with("40{"));
    client.join("device01").await;
    site.publish("device01", "again").await;
    assert_eq!(client.message().await, "again");
    assert_eq!(site.metric("roomcast_members").await, 1);
}
