//! Authorization by JWT: a client joins nothing without a token, and with one only the rooms that
//! it lists, until it expires.

use std::time::Duration;

use roomcast::{
    auth::{Claims, sign},
    config::{Config, Settings},
};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::support::{Client, TestServer, request};

const SECRET: &str = "a secret of thirty-two bytes, ok";

async fn start() -> std::sync::Arc<TestServer> {
    TestServer::start_with(|settings| settings.jwt_secret = Some(SECRET.into())).await
}

fn token(rooms: &[&str], publish: &[&str], seconds: u64) -> String {
    let settings = Settings { jwt_secret: Some(SECRET.into()), ..Settings::default() };
    let tokens = Config::try_from(settings).expect("valid").tokens.expect("a key");
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (rooms, publish) = (list(rooms), list(publish));
    sign(&tokens, &Claims { rooms, publish, ttl: Duration::from_secs(seconds) }).expect("signed")
}

/// Connects to the namespace with this `auth` payload; returns the client and the server's answer.
async fn enter(site: &TestServer, auth: Value) -> (Client, String) {
    let mut client = Client::open(TcpSocket::new_v4().expect("a socket"), site).await;
    assert!(client.packet().await.starts_with("0{"), "Engine.IO opens");
    client.send(&format!("40{auth}")).await;
    let answer = client.packet().await;
    (client, answer)
}

async fn enter_with(site: &TestServer, token: &str) -> Client {
    let (client, answer) = enter(site, json!({ "token": token })).await;
    assert!(answer.starts_with("40{"), "{answer}");
    client
}

#[tokio::test]
async fn a_client_without_a_valid_token_cannot_connect_to_the_namespace() {
    let site = start().await;
    for (auth, told) in [
        (json!({}), "a token is needed"),
        (json!({ "token": "" }), "a token is needed"),
        (json!({ "token": 7 }), "a token is needed"),
        (json!("text"), "a token is needed"),
        (json!({ "token": "a.b.c" }), "no JWT"),
        (json!({ "token": token(&["*"], &[], 60) + "x" }), "token"),
    ] {
        let (mut client, answer) = enter(&site, auth.clone()).await;
        assert!(answer.starts_with("44{\"message\":\""), "{auth}: {answer}");
        assert!(answer.contains(told), "{auth}: {answer}");
        // The client may try again on the same session.
        let good = json!({ "token": token(&["*"], &[], 60) });
        client.send(&format!("40{good}")).await;
        assert!(client.packet().await.starts_with("40{"));
    }
    assert_eq!(site.metric("roomcast_tokens_refused_total").await, 6);
    assert_eq!(site.metric("roomcast_tokens_required").await, 1);
}

#[tokio::test]
async fn joining_a_forbidden_room_is_refused_and_the_socket_stays() {
    let site = start().await;
    let mut viewer = enter_with(&site, &token(&["device:*"], &[], 600)).await;
    site.publish("device:1", "one").await;
    site.publish("secret", "two").await;
    viewer.join("device:1").await;
    for options in [json!({}), json!({ "last": 5 })] {
        let answer = viewer.ask(json!(["channel", "secret", options])).await;
        assert_eq!((&answer["ok"], &answer["error"]["code"]), (&json!(false), &json!("forbidden")));
    }
    viewer.emit(json!(["channel", "secret"])).await;
    assert_eq!(viewer.event().await[1]["code"], "forbidden");
    for pattern in ["*", "secret"] {
        let answer = viewer.ask(json!(["channels", pattern])).await;
        let rooms = answer["channels"].as_array().expect("a list").iter();
        assert!(rooms.clone().all(|channel| channel["room"] == "device:1"), "{answer}");
        assert_eq!(rooms.count(), usize::from(pattern == "*"));
    }
    site.publish("secret", "three").await;
    site.publish("device:1", "four").await;
    assert_eq!(viewer.message().await, "four");
}

#[tokio::test]
async fn a_join_is_answered_with_the_channels_that_the_token_allows_to_publish_on() {
    let site = start().await;
    let mut viewer = enter_with(&site, &token(&["*"], &["in:*", "out"], 600)).await;
    for options in [json!({}), json!({ "meta": true, "last": 5 })] {
        let ack = viewer.ask(json!(["channel", "in:1", options])).await;
        assert_eq!(ack["publish"], json!(["in:*", "out"]), "{ack}");
    }
    // Only the ack of a join has it, and the newest token counts.
    let answer = viewer.ask(json!(["auth", { "token": token(&["*"], &[], 600) }])).await;
    assert_eq!(answer, json!({ "ok": true, "left": [] }));
    let ack = viewer.ask(json!(["channel", "in:1"])).await;
    assert_eq!((&ack["ok"], ack.get("publish")), (&json!(true), None), "{ack}");
}

#[tokio::test]
async fn renewing_a_token_leaves_the_rooms_that_it_no_longer_allows() {
    let site = start().await;
    let mut viewer = enter_with(&site, &token(&["*"], &[], 30)).await;
    // The token expires within a minute, so the notice comes at once.
    let notice = viewer.event().await;
    assert_eq!((&notice[0], &notice[1]["code"]), (&json!("error"), &json!("expiring")));
    for room in ["device:1", "device:2", "other"] {
        viewer.join(room).await;
    }
    let answer = viewer.ask(json!(["auth", { "token": token(&["device:*"], &[], 600) }])).await;
    assert_eq!(answer, json!({ "ok": true, "left": ["other"] }));
    site.publish("other", "unheard").await;
    site.publish("device:2", "heard").await;
    assert_eq!(viewer.message().await, "heard");
    assert_eq!(viewer.ask(json!(["channel", "other"])).await["error"]["code"], "forbidden");
    assert_eq!(site.metric("roomcast_members").await, 2);

    for (argument, code) in [
        (json!({ "token": "x" }), "bad_token"),
        (json!({}), "bad_request"),
        (Value::Null, "bad_request"),
    ] {
        let answer = viewer.ask(json!(["auth", argument])).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    // A rejected token leaves the rooms as they were.
    site.publish("device:1", "still").await;
    assert_eq!(viewer.message().await, "still");
}

#[tokio::test]
async fn an_expired_token_disconnects_the_socket_and_leaves_its_rooms() {
    let site = start().await;
    let mut viewer = enter_with(&site, &token(&["*"], &[], 5)).await;
    assert_eq!(viewer.event().await[1]["code"], "expiring");
    viewer.join("device:1").await;
    let notice = viewer.event().await;
    assert_eq!((&notice[0], &notice[1]["code"]), (&json!("error"), &json!("expired")));
    assert_eq!(viewer.packet().await, "41");
    site.until_metric("roomcast_members", 0).await;
    site.until_metric("roomcast_sockets", 0).await;
    drop(viewer);
    site.until_metric("roomcast_closes_total{reason=\"expired\"}", 1).await;
}

#[tokio::test]
async fn tokens_also_restrict_event_streams_and_publishing() {
    let site = start().await;
    let good = token(&["device:*"], &["device:*"], 600);
    let status = async |method: &str, path: String, body: &str| {
        request(site.addr, method, &path, body).await
    };
    for (path, expected, told) in [
        ("/events/device:1".to_owned(), 401, "a token is needed"),
        ("/events/device:1?token=x".to_owned(), 401, "no JWT"),
        (format!("/events/secret?token={good}"), 403, "`secret`"),
        ("/history/device:1".to_owned(), 401, "a token is needed"),
        (format!("/history/secret?token={good}"), 403, "`secret`"),
        (format!("/history/device:1?token={good}"), 200, "\"messages\":[]"),
    ] {
        let (got, text) = status("GET", path.clone(), "").await;
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(got == expected && text.contains(told), "{path}: {got} {text}");
    }
    // Publishing accepts the token in the Authorization header only.
    assert_eq!(status("POST", format!("/publish/device:1?token={good}"), "x").await.0, 401);
    // The stream ends when its token expires.
    let short = token(&["device:*"], &[], 1);
    let (got, text) = status("GET", format!("/events/device:1?token={short}"), "").await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(got == 200 && text.contains("event: joined"), "{text}");
    assert!(text.contains("event: error") && text.contains("\"code\":\"expired\""), "{text}");
    site.until_metric("roomcast_members", 0).await;
    site.until_metric("roomcast_closes_total{reason=\"expired\"}", 1).await;
}
