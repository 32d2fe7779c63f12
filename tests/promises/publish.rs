//! Publishing over HTTP: a message reaches its room unchanged and in order, or is refused.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Client, Redis, TestServer, free_ports, within};

/// A publisher on one kept-alive connection.
struct Device(SendRequest<Full<Bytes>>);

impl Device {
    async fn connect(site: &TestServer) -> Self {
        let stream = TcpStream::connect(site.addr).await.expect("connected");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        within("ready", self.0.ready()).await.expect("kept alive");
        within("an answer", self.0.send_request(request)).await.expect("an answer")
    }

    async fn post(&mut self, path: &str, token: &str, body: impl Into<Bytes>) -> (u16, String) {
        let request = Request::post(path).header("host", "localhost").body(Full::new(body.into()));
        let mut request = request.expect("a request");
        if !token.is_empty() {
            let bearer = format!("Bearer {token}").parse().expect("a value");
            request.headers_mut().insert("authorization", bearer);
        }
        let response = self.send(request).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }
}

async fn start() -> std::sync::Arc<TestServer> {
    TestServer::start_with(|settings| settings.publish_token = Some("new=,old".into())).await
}

#[tokio::test]
async fn a_posted_payload_reaches_the_room_unchanged() {
    let site = start().await;
    let mut viewer = Client::connect(&site).await;
    viewer.join("device/01 ü").await;
    let mut device = Device::connect(&site).await;
    let (status, answer) =
        device.post("/publish/device%2f01%20%C3%BC", "new=", "{\"t\": 21.5}").await;
    assert_eq!((status, answer.as_str()), (202, "{\"subscribers\":1}"));
    assert_eq!(viewer.message().await, "{\"t\": 21.5}");
    assert_eq!(device.post("/publish/device/01%20%C3%BC", "old", "").await.0, 202);
    assert_eq!(viewer.message().await, "");
    assert_eq!(device.post("/publish/device/01%20%C3%BC", "old", vec![0xff, 0]).await.0, 202);
    assert!(viewer.packet().await.starts_with("451-"));
    assert_eq!(viewer.attachment().await, Bytes::from_static(&[0xff, 0]));
    assert_eq!(site.metric("roomcast_published_total").await, 3);
}

#[tokio::test]
async fn a_thousand_messages_of_one_connection_stay_in_order() {
    let site = start().await;
    let mut viewer = Client::connect(&site).await;
    viewer.join("device01").await;
    let mut device = Device::connect(&site).await;
    for i in 0..1000 {
        assert_eq!(device.post("/publish/device01", "new=", format!("{i}")).await.0, 202);
    }
    for i in 0..1000 {
        assert_eq!(viewer.message().await, format!("{i}"));
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let site = start().await;
    let mut device = Device::connect(&site).await;
    let long = format!("/publish/{}", "x".repeat(257));
    for (path, token, status, told) in [
        ("/publish/a", "", 401, "a token is needed"),
        ("/publish/a", "wrong", 401, "PUBLISH_TOKEN"),
        ("/publish/a", "new", 401, "PUBLISH_TOKEN"),
        ("/publish/", "old", 400, "1 to 256 bytes"),
        (&long, "old", 400, "1 to 256 bytes"),
        ("/publish/a%0Ab", "old", 400, "control characters"),
        ("/publish/a%FFb", "old", 400, "UTF-8"),
        ("/publish/roomcast:probe:x", "old", 400, "the server's own"),
    ] {
        let (got, text) = device.post(path, token, "x").await;
        assert_eq!(got, status, "{path} {token}: {text}");
        assert!(text.contains(told), "{path} {token}: {text}");
    }
    let request = Request::get("/publish/a").header("host", "localhost").body(Full::default());
    let response = device.send(request.expect("a request")).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST");
    let request = Request::post("/publish/a").header("host", "localhost").body(Full::default());
    let response = Device::connect(&site).await.send(request.expect("a request")).await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn only_a_client_whose_token_may_publish_on_all_channels_is_told_so() {
    let site = start().await;
    for (auth, told) in [
        (json!({ "token": "old" }), json!(["*"])),
        (json!({ "token": "wrong" }), Value::Null),
        (json!({}), Value::Null),
    ] {
        let mut viewer = Client::open(TcpSocket::new_v4().expect("a socket"), &site).await;
        assert!(viewer.packet().await.starts_with("0{"), "Engine.IO opens");
        viewer.send(&format!("40{auth}")).await;
        assert!(viewer.packet().await.starts_with("40{"), "{auth}");
        let ack = viewer.ask(json!(["channel", "a"])).await;
        assert_eq!((&ack["ok"], &ack["publish"]), (&json!(true), &told), "{auth}");
    }
}

#[tokio::test]
async fn without_a_token_setting_the_path_is_404() {
    let site = TestServer::start().await;
    for token in ["", "x"] {
        assert_eq!(Device::connect(&site).await.post("/publish/a", token, "x").await.0, 404);
    }
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused_from_http_and_becomes_a_gap_from_redis() {
    let site = TestServer::start_with(|settings| {
        settings.publish_token = Some("token".into());
        settings.max_payload = "1kB".into();
    })
    .await;
    let mut viewer = Client::connect(&site).await;
    let meta = viewer.ask(json!(["channel", "large", { "meta": true }])).await;
    viewer.ask(json!(["channel", "other", { "meta": true }])).await;
    let (fits, larger) = ("x".repeat(1000), "x".repeat(1001));
    let (status, text) =
        Device::connect(&site).await.post("/publish/large", "token", larger.clone()).await;
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("MAX_PAYLOAD"), "{text}");
    let mut device = Device::connect(&site).await;
    assert_eq!(device.post("/publish/large", "token", fits).await.0, 202);
    let first = viewer.event().await;
    assert_eq!((&first[0], &first[2]["offset"]), (&json!("message"), &json!(1)));
    assert_eq!(first[2]["epoch"], meta["epoch"]);

    // Redis accepts payloads over this limit.
    site.publish("large", &larger).await;
    site.publish("large", "after").await;
    site.publish("other", "untouched").await;
    let gap = viewer.event().await;
    assert_eq!(
        (&gap[0], &gap[1]["room"], &gap[1]["reason"]),
        (&json!("gap"), &json!("large"), &json!("too_large"))
    );
    let after = viewer.event().await;
    assert_eq!(after[1], "after");
    // The dropped message has a position too.
    let place = &after[2];
    assert_eq!(
        (&place["epoch"], &place["offset"], &place["prev"]),
        (&meta["epoch"], &json!(3), &json!(2)),
        "{place}"
    );
    assert_eq!(viewer.event().await[1], "untouched");
    assert_eq!(site.metric("roomcast_drops_total{reason=\"too_large\"}").await, 1);
    // A join with `since` from before the dropped message is not a recovery.
    let since = json!({ "since": { "epoch": first[2]["epoch"], "offset": 1 } });
    let answer: Value = Client::connect(&site).await.ask(json!(["channel", "large", since])).await;
    assert_eq!(answer["recovered"], false, "{answer}");
}

#[tokio::test]
async fn publishing_fails_at_once_without_redis_and_works_when_it_is_back() {
    let [addr] = free_ports();
    let site = TestServer::start_without_redis(|settings| {
        settings.redishost = Some(addr.to_string());
        settings.publish_token = Some("token".into());
    })
    .await;
    let mut device = Device::connect(&site).await;
    for _ in 0..3 {
        let request = Request::post("/publish/a").header("host", "localhost");
        let request = request.header("authorization", "Bearer token").body(Full::from("lost"));
        let response = device.send(request.expect("a request")).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }

    let redis = Redis::start(addr.port()).await;
    let mut viewer = Client::connect(&site).await;
    viewer.join("a").await;
    site.until("accepted", async || device.post("/publish/a", "token", "back").await.0 == 202)
        .await;
    site.until("subscribed", async || site.get("/readyz").await.0 == 200).await;
    assert_eq!(device.post("/publish/a", "token", "for all").await.0, 202);
    // Refused messages have not been published.
    let mut heard = viewer.message().await;
    while heard == "back" {
        heard = viewer.message().await;
    }
    assert_eq!(heard, "for all");

    // An outage also fails a post over a connection that was in use. Afterwards posts work again.
    redis.stop().await;
    assert_eq!(device.post("/publish/a", "token", "lost").await.0, 503);
    let _redis = Redis::start(addr.port()).await;
    site.until("accepted", async || device.post("/publish/a", "token", "again").await.0 == 202)
        .await;
}
