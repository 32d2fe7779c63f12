//! Rooms over Server-Sent Events.

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::support::{Redis, TestServer, free_ports, request, within};

/// A client such as `curl -N`.
pub struct Curl(BufReader<TcpStream>);

impl Curl {
    pub async fn get(site: &TestServer, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(site.addr).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut curl = Self(BufReader::new(stream));
        let head = curl.part().await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        // Else proxies hold events back.
        assert!(head.contains("x-accel-buffering: no\n"), "{head}");
        assert!(head.contains("cache-control: no-cache, no-transform\n"), "{head}");
        curl
    }

    /// The next lines until an empty one, without the lengths of HTTP chunks.
    async fn part(&mut self) -> String {
        let mut part = String::new();
        loop {
            let mut line = String::new();
            let read = within("a line", self.0.read_line(&mut line)).await.expect("text");
            assert!(read > 0, "the stream ended after {part}");
            match line.trim_end() {
                "" if !part.is_empty() => return part,
                "" => {}
                line if u32::from_str_radix(line, 16).is_ok() => {}
                line => part += &format!("{line}\n"),
            }
        }
    }

    /// The next event without its `id` line, and the id.
    pub async fn event(&mut self) -> (String, String) {
        let part = self.part().await;
        let id = part.lines().find_map(|line| line.strip_prefix("id: ")).unwrap_or_default();
        let rest: Vec<_> = part.lines().filter(|line| !line.starts_with("id: ")).collect();
        (rest.join("\n"), id.to_owned())
    }
}

#[tokio::test]
async fn messages_arrive_as_events_and_missed_ones_are_replayed_once() {
    let site = TestServer::start().await;
    let mut curl = Curl::get(&site, "/events/devices/01", "").await;
    let (joined, _) = curl.event().await;
    assert!(joined.starts_with("event: joined\ndata: {\"room\":\"devices/01\""), "{joined}");
    site.publish("devices/01", "one").await;
    site.publish("devices/01", "two\nlines").await;
    site.publish("devices/01", [0xff, 0xfe]).await;
    site.publish("devices/01", "").await;
    let (first, id) = curl.event().await;
    assert_eq!(first, "data: one");
    assert_eq!(curl.event().await.0, "data: two\ndata: lines");
    assert_eq!(curl.event().await.0, "event: binary\ndata: //4=");
    assert_eq!(curl.event().await.0, "event: empty\ndata: {}");
    drop(curl);
    site.until_metric("roomcast_members", 0).await;

    let mut again =
        Curl::get(&site, "/events/devices/01", &format!("last-event-id: {id}\r\n")).await;
    let (joined, _) = again.event().await;
    assert!(joined.contains("\"recovered\":true,\"replayed\":3"), "{joined}");
    assert_eq!(again.event().await.0, "data: two\ndata: lines");
    let mut latest = Curl::get(&site, "/events/devices/01?last=1", "").await;
    assert!(latest.event().await.0.contains("\"replayed\":1"));
    assert_eq!(latest.event().await.0, "event: empty\ndata: {}");
}

#[tokio::test]
async fn an_id_that_is_unknown_opens_the_stream_and_brings_nothing_twice() {
    let site = TestServer::start().await;
    site.publish("device01", "kept").await;
    let mut first = Curl::get(&site, "/events/device01?last=1", "").await;
    let (joined, _) = first.event().await;
    assert!(joined.contains("\"replayed\":1"), "{joined}");
    let (_, id) = first.event().await;
    let (epoch, _) = id.split_once('-').expect("epoch and offset");
    for id in [
        String::new(),
        "42".to_owned(),
        format!("{epoch}--1"),
        format!("{epoch}-18446744073709551616"),
        "feedfeedfeed-1".to_owned(),
        "x".repeat(5000),
    ] {
        let header = format!("last-event-id: {id}\r\n");
        let mut curl = Curl::get(&site, "/events/device01", &header).await;
        let (joined, _) = curl.event().await;
        assert!(joined.contains("\"recovered\":false,\"replayed\":0"), "{id}: {joined}");
        assert!(curl.event().await.0.contains("unknown_position"), "{id}");
        let mut asked = Curl::get(&site, "/events/device01?last=1", &header).await;
        assert!(asked.event().await.0.contains("\"replayed\":1"), "{id}");
    }
    // Polyfills cannot set the header.
    site.publish("device01", "a\r\nb\rc").await;
    assert_eq!(first.event().await.0, "data: a\ndata: b\ndata: c");
    let mut curl = Curl::get(&site, &format!("/events/device01?lastEventId={id}"), "").await;
    assert!(curl.event().await.0.contains("\"recovered\":true,\"replayed\":1"));
}

#[tokio::test]
async fn head_joins_nothing_and_dynamic_answers_are_not_stored() {
    let site = TestServer::start().await;
    for (method, path) in [
        ("HEAD", "/events/device01"),
        ("HEAD", "/history/device01"),
        ("GET", "/history/device01"),
        ("GET", "/socket.io/?EIO=4&transport=polling"),
        ("GET", "/socket.io/?EIO=4&transport=polling&sid=unknown"),
        ("GET", "/livez"),
        ("GET", "/nothing"),
        ("POST", "/events/device01"),
        ("GET", "/events/a?last=x"),
        ("POST", "/publish/device01"),
    ] {
        let mut stream = TcpStream::connect(site.addr).await.expect("connected");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        within("the end", BufReader::new(stream).read_to_string(&mut answer)).await.expect("text");
        let caching = if method == "HEAD" && path.starts_with("/events") {
            "no-cache, no-transform"
        } else {
            "no-store"
        };
        assert!(answer.contains(&format!("cache-control: {caching}\r\n")), "{answer}");
    }
    assert_eq!(site.metric("roomcast_joins_total{recovered=\"none\"}").await, 0);
}

#[tokio::test]
async fn a_gap_is_reported_and_the_stream_ends_in_order() {
    let site = TestServer::start().await;
    let mut curl = Curl::get(&site, "/events/device01", "").await;
    curl.event().await;
    site.kill_subscription().await;
    let (gap, _) = curl.event().await;
    assert!(gap.starts_with("event: gap\ndata: {") && gap.contains("source_lost"), "{gap}");
    site.stop();
    let mut rest = String::new();
    within("the end", curl.0.read_line(&mut rest)).await.expect("an orderly end");
    site.until("it has stopped", async || site.is_over()).await;
}

#[tokio::test]
async fn an_outage_is_reported_and_its_end_comes_before_the_gap() {
    let [addr] = free_ports();
    let redis = Redis::start(addr.port()).await;
    let site = TestServer::start_with(|settings| settings.redishost = Some(addr.to_string())).await;
    let mut curl = Curl::get(&site, "/events/device01", "").await;
    curl.event().await;
    redis.stop().await;
    let (away, _) = curl.event().await;
    assert!(away.starts_with("event: source\ndata: {\"up\":false,\"since\":"), "{away}");
    let mut late = Curl::get(&site, "/events/device01", "").await;
    assert!(late.event().await.0.starts_with("event: joined"));
    assert_eq!(late.event().await.0, away);
    let _redis = Redis::start(addr.port()).await;
    for curl in [&mut curl, &mut late] {
        let (back, _) = curl.event().await;
        assert!(back.starts_with("event: source\ndata: {\"up\":true,"), "{back}");
        assert!(curl.event().await.0.starts_with("event: gap"));
    }
    drop((curl, late));
    site.until("both streams are counted as closed", async || {
        let reasons = ["client", "transport_error"];
        let counts = reasons.map(async |reason| {
            site.metric(&format!("roomcast_closes_total{{reason=\"{reason}\"}}")).await
        });
        let [client, transport] = counts;
        client.await + transport.await == 2
    })
    .await;
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let site = TestServer::start().await;
    let long = format!("/events/{}", "x".repeat(257));
    for (path, status) in
        [(long.as_str(), 400), ("/events/a%0Ab", 400), ("/events/a?last=x", 400), ("/events/", 404)]
    {
        assert_eq!(request(site.addr, "GET", path, "").await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_disconnected_at_the_backlog_limit() {
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    let mut stalled = Curl::get(&site, "/events/device01", "").await;
    stalled.event().await;
    // Far fewer than 4,096 events, but more bytes than the kernel buffers plus the 4 MiB limit.
    let payload = "x".repeat(256 << 10);
    for _ in 0..100 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_closes_total{reason=\"queue_full\"}", 1).await;
    site.until_metric("roomcast_members", 0).await;
    drop(stalled);
}
