//! Clients that end in any way, at any time: nothing is left of them.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Duration, timeout},
};

use super::Attack;
use crate::{
    hostile::frame,
    push::raw::{CLOSE, get, upgrade},
    support::{POLLING, TestServer, request, sid},
};

const CLIENTS: usize = 6000;
/// Clients at the same time.
const AT_ONCE: usize = 40;
const TEXT: u8 = 0x81;

/// What a client sends before it ends; each may be cut anywhere.
const PACKETS: [&str; 8] = [
    "40",
    "41",
    "42[\"channel\",\"witness\",{\"last\":100,\"meta\":true}]",
    "420[\"channel\",\"endings\",{\"last\":10000}]",
    "421[\"channel\",\"endings\",{\"maxRate\":10,\"latest\":true}]",
    "422[\"leave\",\"endings\"]",
    "423[\"channels\",\"*\"]",
    "451-[\"channel\",{\"_placeholder\":true,\"num\":0}]",
];

/// Ends the connection: in order, by a reset, or with one half closed first.
async fn end(mut stream: TcpStream, random: &mut StdRng) {
    match random.random_range(0..4) {
        0 => {
            stream.write_all(&frame(CLOSE, &1000u16.to_be_bytes())).await.ok();
            stream.shutdown().await.ok();
        }
        1 => stream.set_zero_linger().expect("an option of the socket"),
        2 => {
            stream.shutdown().await.ok();
        }
        _ => {}
    }
}

/// Some frames, perhaps without the end of the last one.
fn frames(random: &mut StdRng) -> Vec<u8> {
    let count = random.random_range(0..8);
    let packets = (0..count).filter_map(|_| PACKETS.choose(random).copied()).collect::<Vec<_>>();
    let mut bytes: Vec<u8> =
        packets.iter().flat_map(|packet| frame(TEXT, packet.as_bytes())).collect();
    if random.random_ratio(1, 4) {
        bytes.truncate(random.random_range(0..=bytes.len()));
    }
    bytes
}

async fn direct(site: &TestServer, random: &mut StdRng) {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let head = upgrade(if random.random_ratio(1, 3) { "EIO=3" } else { "EIO=4" });
    let end_of_head =
        if random.random_ratio(1, 8) { random.random_range(0..head.len()) } else { head.len() };
    stream.write_all(&head.as_bytes()[..end_of_head]).await.ok();
    stream.write_all(&frames(random)).await.ok();
    linger(&stream, random).await;
    end(stream, random).await;
}

async fn follow(site: &TestServer, random: &mut StdRng) {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    stream.write_all(get("/events/endings?last=10000", "").as_bytes()).await.ok();
    if random.random() {
        stream.write_all(b"x").await.ok();
    }
    linger(&stream, random).await;
    end(stream, random).await;
}

/// A session by polling, perhaps with a WebSocket beside it.
async fn polled(site: &TestServer, random: &mut StdRng) {
    let (_, open) = request(site.addr, "GET", POLLING, "").await;
    let path = format!("{POLLING}&sid={}", sid(&String::from_utf8_lossy(&open)));
    let packets: Vec<_> = (0..4).filter_map(|_| PACKETS[..7].choose(random).copied()).collect();
    request(site.addr, "POST", &path, &format!("40\x1e{}", packets.join("\x1e"))).await;
    let mut poll = TcpStream::connect(site.addr).await.expect("connected");
    poll.write_all(get(&path, "").as_bytes()).await.ok();
    if random.random() {
        let (_, sid) = path.split_once("&sid=").expect("an id");
        let mut socket = TcpStream::connect(site.addr).await.expect("connected");
        socket.write_all(upgrade(&format!("EIO=4&sid={sid}")).as_bytes()).await.ok();
        socket.write_all(&frame(TEXT, b"2probe")).await.ok();
        linger(&socket, random).await;
        if random.random() {
            socket.write_all(&frame(TEXT, b"5")).await.ok();
            socket.write_all(&frames(random)).await.ok();
        }
        end(socket, random).await;
    }
    if random.random() {
        request(site.addr, "POST", &path, "1").await;
    }
    end(poll, random).await;
}

/// Waits until the server has sent something, or for a moment.
async fn linger(stream: &TcpStream, random: &mut StdRng) {
    if random.random() {
        timeout(Duration::from_millis(20), stream.readable()).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_thousand_random_endings_leave_nothing() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SEED={seed}");
    // What vanishes without a word is noticed by its heartbeat.
    let attack = Attack::begin(&[("PING_INTERVAL", "1s"), ("PING_TIMEOUT", "1s")]).await;
    let payload = "x".repeat(500);
    for _ in 0..2000 {
        attack.site.publish("endings", &payload).await;
    }
    let mut running = JoinSet::new();
    for number in 0..AT_ONCE {
        let site = attack.site.clone();
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        running.spawn(async move {
            for _ in 0..CLIENTS / AT_ONCE {
                match random.random_range(0..4) {
                    0 => polled(&site, &mut random).await,
                    1 => follow(&site, &mut random).await,
                    _ => direct(&site, &mut random).await,
                }
            }
        });
    }
    running.join_all().await;
    attack.end().await;
}
