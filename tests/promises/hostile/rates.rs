//! Floods of packets, as fast as clients can send them.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use super::{Attack, frame, rest, until, websocket};
use crate::support::within;

/// Five clients send a frame `times` times each, or until the server disconnects them.
async fn flood(attack: &Attack, payload: fn(usize) -> String, first: u8, times: usize) {
    let mut flooding = JoinSet::new();
    for _ in 0..5 {
        let site = attack.site.clone();
        flooding.spawn(async move {
            let mut stream = websocket(&site).await;
            stream.write_all(&frame(0x81, b"40")).await.expect("sent");
            let (mut told, mut part) = (Vec::new(), [0; 512]);
            while !told.windows(3).any(|three| three == b"40{") {
                let size = within("the namespace", stream.read(&mut part)).await.expect("bytes");
                assert_ne!(size, 0, "the server accepts the CONNECT");
                told.extend_from_slice(&part[..size]);
            }
            let (mut read, mut write) = stream.split();
            let sending = async {
                for number in 0..times {
                    let frame = frame(first, payload(number).as_bytes());
                    if write.write_all(&frame).await.is_err() {
                        return;
                    }
                }
                let _ = write.write_all(&frame(0x81, b"41")).await;
                let _ = write.write_all(&frame(0x88, &[])).await;
            };
            let reading = async { drop(tokio::io::copy(&mut read, &mut tokio::io::sink()).await) };
            tokio::join!(sending, reading);
            drop(rest(&mut stream).await);
        });
    }
    flooding.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_flood_joins_are_disconnected() {
    // Even a slow machine sends more than 10 events a second.
    let attack = Attack::begin(&[("MAX_EVENTS", "10")]).await;
    let join = |number: usize| format!(r#"42{number}["channel","room{number}"]"#);
    flood(&attack, join, 0x81, 10_000).await;
    // The reason may also be a full queue: answers that these clients read too late.
    let ended = async |reason: &str| {
        attack.site.metric(&format!("roomcast_closes_total{{reason=\"{reason}\"}}")).await
    };
    until(&attack.site, "all five are disconnected", async || {
        ended("too_fast").await + ended("queue_full").await == 5
    })
    .await;
    attack.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_packets_that_are_no_events_do_no_harm() {
    let attack = Attack::begin(&[]).await;
    flood(&attack, |_| "3".to_owned(), 0x81, 20_000).await;
    flood(&attack, |_| "40".to_owned(), 0x81, 5_000).await;
    flood(&attack, |number| format!("43{number}[]"), 0x81, 20_000).await;
    flood(&attack, |_| "42/nowhere,[\"channel\"]".to_owned(), 0x81, 20_000).await;
    flood(&attack, |_| "ping".to_owned(), 0x89, 20_000).await;
    attack.end().await;
}
