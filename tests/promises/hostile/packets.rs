//! Randomly mutated packets of Engine.IO and Socket.IO, over both transports.

use std::sync::Arc;

use futures_util::{FutureExt, SinkExt, StreamExt};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::Attack;
use crate::support::{TestServer, request, within};

/// The number of packets; half of them go over each transport.
const PACKETS: usize = 100_000;
/// Clients per transport.
const CLIENTS: usize = 8;
/// Packets per POST.
const AT_ONCE: usize = 50;

/// Valid packets, which are mutated.
const SEEDS: [&str; 18] = [
    "40",
    "40{\"token\":\"x\"}",
    "40/admin,{}",
    "41",
    "2",
    "2probe",
    "3",
    "5",
    "6",
    r#"42["channel","room"]"#,
    r#"421["channel","room",{"meta":true,"last":10,"since":{"epoch":"x","offset":1}}]"#,
    r#"422["channel","room",{"latest":true,"maxRate":0.5}]"#,
    r#"423["leave","room"]"#,
    r#"424["channels","de*[a-z]\\?"]"#,
    r#"451-["channel",{"_placeholder":true,"num":0}]"#,
    r#"461-1[{"_placeholder":true,"num":0}]"#,
    r#"431["ok"]"#,
    "bAP8=",
];

/// A valid packet with up to three random changes.
fn mutated(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = SEEDS[random.random_range(0..SEEDS.len())].as_bytes().to_vec();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] = random.random(),
            4 => bytes.extend_from_within(at..),
            _ => bytes.splice(at..at, *b"\xf0\x9f\x98\x80[{\"9").for_each(drop),
        }
    }
    bytes
}

async fn websocket(site: &TestServer, version: u32) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(site.addr).await.expect("connected");
    let url = format!("ws://localhost/socket.io/?EIO={version}&transport=websocket");
    let (mut socket, _) = within("an upgrade", client_async(url, stream)).await.expect("upgraded");
    // The server may refuse it or have closed the connection; both are fine.
    let _ = socket.send(Message::text("40")).await;
    socket
}

async fn over_websockets(site: Arc<TestServer>, mut random: StdRng) {
    let mut socket = websocket(&site, 4).await;
    for _ in 0..PACKETS / 2 / CLIENTS {
        let packet = mutated(&mut random);
        let message = match String::from_utf8(packet) {
            Ok(text) if random.random_ratio(9, 10) => Message::text(text),
            Ok(text) => Message::binary(text.into_bytes()),
            Err(bytes) => Message::binary(bytes.into_bytes()),
        };
        let mut alive = socket.send(message).await.is_ok();
        while let Some(answer) = socket.next().now_or_never() {
            alive &= matches!(answer, Some(Ok(_)));
            if !alive {
                break;
            }
        }
        if !alive {
            socket = websocket(&site, random.random_range(3..=4)).await;
        }
    }
}

/// Opens a polling session, and returns its path.
async fn session(site: &TestServer, version: u32) -> String {
    let path = format!("/socket.io/?EIO={version}&transport=polling");
    let (_, open) = request(site.addr, "GET", &path, "").await;
    let open = String::from_utf8_lossy(&open).into_owned();
    let (_, sid) = open.split_once(r#""sid":""#).expect("a sid");
    format!("{path}&sid={}", sid.split('"').next().expect("a sid"))
}

async fn over_polling(site: Arc<TestServer>, mut random: StdRng) {
    let mut version = 4;
    let mut path = session(&site, version).await;
    for _ in 0..PACKETS / 2 / CLIENTS / AT_ONCE {
        let packets: Vec<_> = (0..AT_ONCE)
            .map(|_| String::from_utf8_lossy(&mutated(&mut random)).into_owned())
            .collect();
        let body = if version == 4 {
            packets.join("\x1e")
        } else {
            let lies = usize::from(random.random_ratio(1, 100));
            let framed = packets.iter().map(|packet| {
                format!("{}:{packet}", packet.encode_utf16().count().saturating_sub(lies))
            });
            framed.collect()
        };
        let (status, _) = within("an answer", request(site.addr, "POST", &path, &body)).await;
        assert!(matches!(status, 200 | 400 | 413), "{status}");
        if status != 200 || random.random_ratio(1, 4) {
            close(&site, &path, version).await;
            version = random.random_range(3..=4);
            path = session(&site, version).await;
        }
    }
    close(&site, &path, version).await;
}

/// Closes a session at once, so that no time-out has to end it.
async fn close(site: &TestServer, path: &str, version: u32) {
    request(site.addr, "POST", path, if version == 4 { "1" } else { "1:1" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_mutated_packets_do_no_harm() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let attack = Attack::begin(&[]).await;
    let mut sending = JoinSet::new();
    for number in 0..CLIENTS as u64 {
        let random = |number| StdRng::seed_from_u64(seed.wrapping_add(number));
        sending.spawn(over_websockets(attack.site.clone(), random(2 * number)));
        sending.spawn(over_polling(attack.site.clone(), random(2 * number + 1)));
    }
    sending.join_all().await;
    attack.end().await;
}
