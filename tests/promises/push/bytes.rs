//! Live messages equal replayed ones, and those that polls get, byte for byte.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::raw::{Frame, Raw};
use crate::support::{Polling, TestServer};

/// Payloads of each kind, and of all lengths around those at which the head of a frame changes.
fn payloads() -> Vec<Vec<u8>> {
    let text = |size: usize| "x".repeat(size).into_bytes();
    let lengths = (0..=126).chain(65_536 - 130..65_536 - 80).chain([65_519, 65_520, 70_000]);
    let binary = [1, 100, 124, 125, 126, 65_534, 65_535, 65_536, 70_000].map(|size| {
        let mut payload = text(size);
        payload[0] = 0xff;
        payload
    });
    let odd = ["ü\u{1f600}\u{2028}\0\u{7f}", "\"\\\n\r/</script>", "2", "3probe"];
    let odd = odd.map(|text| text.as_bytes().to_vec());
    lengths.map(text).chain(binary).chain(odd).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_frames_equal_replayed_ones() {
    for version in [3, 4] {
        let site = TestServer::start_with(|settings| settings.history = "1000".into()).await;
        for meta in [false, true] {
            let mut live = enter(&site, version).await;
            live.send(&[format!(r#"420["channel","bytes",{{"meta":{meta}}}]"#)]).await;
            assert!(live.packet().await.starts_with("430["));
            let mut pushed = Vec::new();
            for payload in payloads() {
                site.publish("bytes", &payload).await;
                pushed.push(message(&mut live, &payload, version).await);
            }
            let mut late = enter(&site, version).await;
            let last = json!(["channel", "bytes", {"meta": meta, "last": pushed.len()}]);
            late.send(&[format!("420{last}")]).await;
            assert!(late.packet().await.contains(&format!("\"replayed\":{}", pushed.len())));
            for (payload, pushed) in payloads().iter().zip(pushed) {
                let written = message(&mut late, payload, version).await;
                assert!(written == pushed, "{version} {meta} {} bytes", payload.len());
            }
        }
        site.until_metric("roomcast_backlog_bytes", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_and_websocket_clients_get_the_same_packets() {
    let site = TestServer::start().await;
    let polling = Polling::connect(&site).await;
    let join = r#"42["channel","bytes",{"meta":true}]"#;
    assert_eq!(polling.post(join).await, 200);
    let mut pushed = enter(&site, 4).await;
    pushed.send(&[join]).await;
    site.until_metric("roomcast_members", 2).await;
    for payload in payloads().into_iter().rev().take(20) {
        site.publish("bytes", &payload).await;
        let frames = message(&mut pushed, &payload, 4).await;
        let expected: Vec<_> = frames.iter().map(|frame| frame.payload().to_vec()).collect();
        let mut polled: Vec<Vec<u8>> = Vec::new();
        while polled.len() < expected.len() {
            let (status, packets) = polling.poll().await;
            assert_eq!(status, 200);
            polled.extend(packets.split('\x1e').map(|packet| match packet.strip_prefix('b') {
                Some(base64) => BASE64_STANDARD.decode(base64).expect("base64"),
                None => packet.as_bytes().to_vec(),
            }));
        }
        assert!(polled == expected, "{} bytes", payload.len());
    }
}

async fn enter(site: &TestServer, version: u32) -> Raw<TcpStream> {
    Raw::enter(TcpStream::connect(site.addr).await.expect("connected"), version).await
}

/// Reads the frames of one message: one of text, or a header and its attachment.
async fn message(raw: &mut Raw<TcpStream>, payload: &[u8], version: u32) -> Vec<Frame> {
    let first = raw.frame().await;
    let packet = first.text().to_owned();
    let Some(event) = packet.strip_prefix("451-") else {
        let event: Value = serde_json::from_str(&packet[2..]).expect("JSON");
        assert_eq!(event[1].as_str().map(str::as_bytes), Some(payload));
        return vec![first];
    };
    assert!(event.starts_with(r#"["message",{"_placeholder":true,"num":0}"#), "{event}");
    let attachment = raw.frame().await;
    let before: &[u8] = if version == 3 { &[4] } else { &[] };
    assert!(attachment.kind() == 0x82 && attachment.payload() == [before, payload].concat());
    vec![first, attachment]
}
