//! `/history`: the latest messages of a room as JSON.

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{Client, TestServer, request};

async fn read(site: &TestServer, path: &str) -> Value {
    let (status, text) = request(site.addr, "GET", path, "").await;
    assert_eq!(status, 200, "{path}: {text:?}");
    serde_json::from_slice(&text).expect("JSON")
}

#[tokio::test]
async fn the_latest_messages_of_a_room_are_read_without_joining_it() {
    let site = TestServer::start().await;
    let payloads: [&[u8]; 4] = [b"21.5", b"\"quoted\"", &[0xff, 0xfe], b""];
    for payload in payloads {
        site.publish("plant/device 1", payload).await;
    }
    site.publish("another", "counts too").await;
    site.until_metric("roomcast_rooms", 2).await;
    let answer = read(&site, "/history/plant/device%201").await;
    let mut client = Client::connect(&site).await;
    let joined = client.ask(json!(["channel", "plant/device 1"])).await;
    for field in ["room", "epoch", "offset"] {
        assert_eq!(answer[field], joined[field], "{field}");
    }
    let messages = answer["messages"].as_array().expect("a list");
    let shown = messages.iter().map(|message| json!([message["offset"], message["payload"]]));
    let expected = json!([[1, "21.5"], [2, "\"quoted\""], [3, "//4="], [4, ""]]);
    assert_eq!(shown.collect::<Value>(), expected);
    let binary: Vec<_> = messages.iter().map(|message| message.get("binary")).collect();
    assert_eq!(binary, [None, None, Some(&json!(true)), None]);
    assert!(messages[0]["at"].as_u64().is_some_and(|at| at > 1_700_000_000_000));

    let two = read(&site, "/history/plant/device%201?last=2").await;
    assert_eq!(two["messages"].as_array().map(Vec::len), Some(2));
    let nothing = read(&site, "/history/nowhere").await;
    assert_eq!((&nothing["room"], &nothing["messages"]), (&json!("nowhere"), &json!([])));
    assert_eq!(nothing["offset"], answer["offset"]);
    assert_eq!(site.metric("roomcast_rooms").await, 2, "reading makes no room");
    for path in ["/history/x?last=-1", "/history/%01"] {
        assert_eq!(request(site.addr, "GET", path, "").await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn a_long_history_is_read_as_a_whole_and_tells_the_epochs_of_its_messages() {
    const MESSAGES: usize = 1000;
    let site = TestServer::start_with(|settings| settings.history = "2000".into()).await;
    let payload = "x".repeat(2000);
    site.publish("room", "before the gap").await;
    site.until_metric("roomcast_messages_total", 1).await;
    site.kill_subscription().await;
    site.until_metric("roomcast_source_reconnects_total", 1).await;
    for _ in 0..MESSAGES {
        site.publish("room", &payload).await;
    }
    site.until("all have arrived", async || {
        let answer = read(&site, "/history/room?last=99999999999999999999").await;
        let messages = answer["messages"].as_array().expect("a list");
        let is_own = |message: &&Value| message["epoch"].is_null();
        assert_ne!(messages[0]["epoch"], answer["epoch"]);
        messages.iter().filter(is_own).count() == MESSAGES && messages[0]["epoch"].is_string()
    })
    .await;
    let ten = read(&site, "/history/room").await;
    assert_eq!(ten["messages"].as_array().map(Vec::len), Some(10));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_disconnected() {
    let site = TestServer::start_with(|settings| settings.slow_after = "1s".into()).await;
    let payload = "\u{1}".repeat(200_000);
    for _ in 0..20 {
        site.publish("room", &payload).await;
    }
    site.until_metric("roomcast_messages_total", 20).await;
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let request = "GET /history/room?last=20 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    site.until_metric("roomcast_closes_total{reason=\"slow\"}", 1).await;
    site.until_metric("roomcast_backlog_bytes", 0).await;
    site.until_metric("roomcast_connections", 0).await;
}
