//! Polling sessions that one client opens: they take no room from others, and no rate of their own.

use tokio::net::TcpSocket;

use super::{Attack, until};
use crate::support::{Client, Http, POLLING, Polling, TestServer, sid};

async fn open(site: &TestServer, client: Option<&str>) -> (u16, String) {
    let mut http = Http::connect(site.addr).await;
    http.forwarded_for = client.map(str::to_owned);
    let (status, body) = http.send("GET", POLLING, "").await;
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn sessions_outside_the_namespace_make_room() {
    let settings = [("MAX_CONNECTIONS", "20")];
    let attack = Attack::begin(&settings).await;
    let inside = Polling::connect(&attack.site).await;
    for _ in 0..100 {
        assert_eq!(open(&attack.site, None).await.0, 200, "an older session makes room");
    }
    assert_eq!(inside.post("3").await, 200, "the one in the namespace stays");
    let ended = "roomcast_closes_total{reason=\"sessions\"}";
    assert!(attack.site.metric(ended).await >= 80);
    assert!(attack.site.metric("roomcast_sessions{transport=\"polling\"}").await <= 20);
    attack.end().await;
}

#[tokio::test]
async fn an_address_has_as_many_polling_sessions_as_connections() {
    let site = TestServer::start_with(|settings| {
        settings.max_connections_per_address = Some("3".into());
    })
    .await;
    for _ in 0..3 {
        assert_eq!(open(&site, None).await.0, 200);
    }
    let (status, text) = open(&site, None).await;
    assert_eq!(status, 429);
    assert!(text.contains("MAX_CONNECTIONS_PER_ADDRESS"), "{text}");
}

#[tokio::test]
async fn the_address_with_the_most_sessions_makes_room_for_another_one() {
    let site = TestServer::start_with(|settings| {
        settings.max_connections = Some("10".into());
        settings.trusted_proxies = Some("127.0.0.0/8".into());
    })
    .await;
    for _ in 0..10 {
        Polling::connect_from(&site, Some("192.0.2.1")).await;
    }
    let other = Polling::connect_from(&site, Some("192.0.2.2")).await;
    assert_eq!(other.post("3").await, 200);
    assert_eq!(site.metric("roomcast_closes_total{reason=\"sessions\"}").await, 1);
    let (status, _) = open(&site, Some("192.0.2.1")).await;
    assert_eq!(status, 503, "an address does not displace its own sessions");
}

/// One connection opens session after session, and sends as many events in each as one may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_one_connection_share_its_rate() {
    let attack = Attack::begin(&[("MAX_EVENTS", "10"), ("MAX_ROOMS", "10")]).await;
    let mut http = Http::connect(attack.site.addr).await;
    let events = "\u{1e}42[\"channel\",\"x\"]".repeat(20);
    for _ in 0..12 {
        let opened = http.send("GET", POLLING, "").await.1;
        let path = format!("{POLLING}&sid={}", sid(&String::from_utf8_lossy(&opened)));
        http.send("POST", &path, &format!("40{events}")).await;
    }
    // Each session alone would be answered all of its 20 events.
    let refused = "roomcast_refusals_total{reason=\"too_fast\"}";
    until(&attack.site, refused, async || attack.site.metric(refused).await > 0).await;
    attack.end().await;
}

#[tokio::test]
async fn connections_that_replace_each_other_share_the_rate_of_their_address() {
    let settings =
        [("MAX_EVENTS", "10"), ("MAX_ROOMS", "10"), ("MAX_CONNECTIONS_PER_ADDRESS", "2")];
    let attack = Attack::begin(&settings).await;
    let refused = "roomcast_refusals_total{reason=\"too_fast\"}";
    let mut opened = 0;
    while attack.site.metric(refused).await == 0 {
        opened += 1;
        assert!(opened < 100, "100 times the rate of a session is more than the address has");
        let mut client = Client::open(TcpSocket::new_v4().expect("a socket"), &attack.site).await;
        client.send("40").await;
        client.flood(r#"42["channel","x"]"#, 10).await;
        drop(client);
        // The address may have two connections, and the witness has one of them.
        attack.site.until_metric("roomcast_connections", 1).await;
    }
    attack.end().await;
}
