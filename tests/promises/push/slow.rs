//! Viewers that read slowly, or stop reading for a while.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::raw::{PING, Raw, narrow};
use crate::{
    hostile::frame,
    support::TestServer,
    tls::{Files, connect_over, make},
};

/// Unread bytes at any time: fewer than the backlog limit of a viewer.
const UNDER_WAY: usize = 2 << 20;
/// Bytes published in total.
const TOTAL: usize = 32 << 20;
const BACKLOG: &str = "roomcast_backlog_bytes";
const SLOW: &str = "roomcast_closes_total{reason=\"slow\"}";

/// Reads slowly while there is always a backlog; each request and ping is answered in time.
async fn read_slowly<S>(site: &TestServer, raw: &mut Raw<S>, version: u32)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut random = StdRng::seed_from_u64(version.into());
    let (mut sent, mut received, mut published, mut seen) = (0, 0, 0, 0);
    let mut asked = 0;
    let mut wanted: Vec<(usize, &str)> = Vec::new();
    raw.send(&[r#"42["channel","slow"]"#]).await;
    site.until_metric("roomcast_members", 1).await;
    while received < TOTAL {
        while sent < TOTAL && sent - received < UNDER_WAY {
            let size = match random.random_range(0..4) {
                0 => random.random_range(20_000..200_000),
                1 => random.random_range(100..140),
                _ => 1,
            };
            site.publish("slow", format!("{published} {}", "x".repeat(size))).await;
            published += 1;
            sent += size;
        }
        if wanted.is_empty() {
            let (ask, head) = match asked % 4 {
                0 => (r#"427["channels"]"#, r#"437[{"ok":true"#),
                1 => (r#"428["leave","other"]"#, r#"438[{"ok":true"#),
                2 => (r#"42["what"]"#, r#"42["error""#),
                _ if version == 3 => ("2", "3"),
                _ => (r#"429["channel","other"]"#, r#"439[{"ok":true"#),
            };
            raw.send(&[ask]).await;
            raw.write(&frame(PING, b"ping")).await;
            wanted = vec![(raw.read, "ping"), (raw.read, head)];
            asked += 1;
        }
        raw.step = if received < 50_000 { 1 } else { random.random_range(1..100_000) };
        let next = raw.frame().await;
        let packet = std::str::from_utf8(next.payload()).expect("UTF-8");
        if let Some(event) = packet.strip_prefix(r#"42["message","#) {
            let payload: Value = serde_json::from_str(&format!("[{event}")).expect("JSON");
            let (number, padding) =
                payload[0].as_str().and_then(|text| text.split_once(' ')).expect("a message");
            assert_eq!(number, seen.to_string());
            seen += 1;
            received += padding.len();
        } else {
            let place = wanted.iter().position(|(_, head)| packet.starts_with(head));
            let (since, head) = wanted.remove(place.unwrap_or_else(|| panic!("{packet}")));
            let waited = raw.read - since;
            // An answer waits behind the backlog at its request, and behind the one before a pong.
            assert!(waited < 3 * UNDER_WAY, "{waited} bytes until {head}");
        }
    }
    assert!(asked > 4, "{asked}");
    raw.step = 1 << 16;
    for _ in wanted {
        raw.frame().await;
    }
}

/// Stops reading until there is a backlog, then reads all of it, then stops for good.
async fn stall<S>(site: &TestServer, raw: &mut Raw<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    site.until_metric(BACKLOG, 0).await;
    let padding = "x".repeat(100_000);
    for number in 0..30 {
        site.publish("slow", format!("{number} {padding}")).await;
    }
    site.until("it is behind", async || site.metric(BACKLOG).await > 1 << 20).await;
    for number in 0..30 {
        let message = raw.until(r#"42["message","#).await;
        assert!(message.starts_with(&format!(r#"42["message","{number} "#)));
    }
    site.until_metric(BACKLOG, 0).await;
    for _ in 0..30 {
        site.publish("slow", &padding).await;
    }
    site.until_metric(SLOW, 1).await;
    site.until_metric(BACKLOG, 0).await;
    site.until_metric("roomcast_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_all_messages_and_answers_in_between() {
    for version in [3, 4] {
        let site = TestServer::start_with(|settings| settings.slow_after = "5s".into()).await;
        let mut raw = Raw::enter(narrow(&site).await, version).await;
        read_slowly(&site, &mut raw, version).await;
        stall(&site, &mut raw).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_all_messages_and_answers_in_between_over_tls() {
    let made = make(1, 2100);
    let files = Files::new("slow", &made);
    let site = TestServer::start_with(|settings| {
        files.settings(settings);
        settings.slow_after = "5s".into();
    })
    .await;
    let io = connect_over(narrow(&site).await, &made).await;
    let mut raw = Raw::enter(io, 4).await;
    read_slowly(&site, &mut raw, 4).await;
    stall(&site, &mut raw).await;
}
