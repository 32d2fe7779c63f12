//! The order of answers and messages, whatever a viewer does under load.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use roomcast::config::Transport;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

use super::{
    ledger::{Ask, Ledger, ROOMS, name},
    raw::{CLOSE, Raw, get, upgrade},
};
use crate::{
    hostile::frame,
    support::{Polling, TestServer, request, within},
    tls::{Files, connect, make},
};

/// Publishes messages to all rooms, in bursts, until `end`.
pub struct Flood {
    stop: Arc<AtomicBool>,
    running: JoinHandle<()>,
}

impl Flood {
    pub fn begin(site: &TestServer) -> Self {
        let Transport::Tcp { host, port, .. } = &site.redis.transport else { unreachable!() };
        let client = redis::Client::open((host.as_str(), *port)).expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            // A busy machine may need longer than the default of half a second.
            let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            let (mut connection, mut random) =
                (connecting.await.expect("connected"), StdRng::seed_from_u64(1));
            while !stopped.load(Ordering::Relaxed) {
                let mut burst = redis::pipe();
                for _ in 0..random.random_range(1..100) {
                    let mut payload = vec![b'x'; random.random_range(1..200)];
                    if random.random_ratio(1, 8) {
                        payload[0] = 0xff;
                    }
                    let room = name(random.random_range(0..ROOMS));
                    burst.cmd("PUBLISH").arg(room).arg(payload).ignore();
                }
                burst.query_async::<()>(&mut connection).await.expect("published");
            }
        });
        Self { stop, running }
    }

    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.expect("published");
    }
}

async fn site(files: Option<&Files>) -> Arc<TestServer> {
    let site = TestServer::start_with(|settings| {
        files.iter().for_each(|files| files.settings(settings));
        settings.history = "10000".into();
        settings.history_bytes = Some("64MiB".into());
        settings.lanes = Some("4".into());
        settings.max_events = "1000000".into();
    })
    .await;
    // A room without history would be removed with its last member, and begin a new epoch later.
    for room in 0..ROOMS {
        site.publish(&name(room), "x").await;
    }
    site.until_metric("roomcast_messages_total", ROOMS as u64).await;
    site
}

async fn tcp(site: &TestServer) -> TcpStream {
    TcpStream::connect(site.addr).await.expect("connected")
}

/// Joins, leaves, rejoins and reads at random. At the end it joins all rooms and checks 1,000 more
/// messages.
async fn wander<S>(raw: &mut Raw<S>, ledger: &mut Ledger, random: &mut StdRng, rounds: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for _ in 0..rounds {
        let mut packets: Vec<_> =
            (0..random.random_range(1..4)).flat_map(|_| ledger.ask(Ledger::any(random))).collect();
        if random.random_ratio(1, 8) {
            // Last in the batch: no request may be sent before the CONNECT is answered.
            packets.extend(ledger.ask(Ask::Reenter));
        }
        raw.send(&packets).await;
        let until = ledger.messages + random.random_range(0..100);
        while !ledger.is_answered() {
            ledger.frame(&raw.frame().await);
        }
        // The server answers a CONNECT before it has processed it entirely. After one more answer
        // it has.
        raw.send(&ledger.ask(Ask::Leave(0))).await;
        // Without membership no message would come.
        while !ledger.is_answered() {
            ledger.frame(&raw.frame().await);
        }
        if ledger.is_member() {
            while ledger.messages < until {
                ledger.frame(&raw.frame().await);
            }
        }
    }
    raw.send(&ledger.join_all()).await;
    let until = ledger.messages + 1000;
    while !ledger.is_answered() || ledger.messages < until {
        ledger.frame(&raw.frame().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_messages_keep_their_order() {
    let site = site(None).await;
    let flood = Flood::begin(&site);
    let mut wandering = JoinSet::new();
    for seed in 0..3 {
        let io = tcp(&site).await;
        wandering.spawn(async move { within("the end of its rounds", wander_on(io, seed)).await });
    }
    wandering.join_all().await;
    flood.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_messages_keep_their_order_over_tls() {
    let made = make(1, 2100);
    let files = Files::new("flood", &made);
    let site = site(Some(&files)).await;
    let flood = Flood::begin(&site);
    let mut wandering = JoinSet::new();
    for seed in 10..12 {
        let io = connect(&site, &made, &[]).await.expect("TLS");
        wandering.spawn(async move { within("the end of its rounds", wander_on(io, seed)).await });
    }
    wandering.join_all().await;
    flood.end().await;
}

async fn wander_on(io: impl AsyncRead + AsyncWrite + Unpin, seed: u64) {
    let (mut ledger, mut random) = (Ledger::default(), StdRng::seed_from_u64(seed));
    let mut raw = Raw::enter(io, 4).await;
    wander(&mut raw, &mut ledger, &mut random, 150).await;
}

/// Sessions upgrade from polling to WebSocket with polls in flight. Some leave the namespace at
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_keep_the_order() {
    const SESSIONS: u64 = 200;
    let site = site(None).await;
    let flood = Flood::begin(&site);
    let (mut upgrading, mut upgraded) = (JoinSet::new(), 0);
    for seed in 0..SESSIONS {
        if upgrading.len() == 3 {
            let one: Option<()> =
                upgrading.join_next().await.expect("a running task").expect("no panic");
            upgraded += u64::from(one.is_some());
        }
        let site = site.clone();
        upgrading.spawn(async move {
            let all = change_over(&site, StdRng::seed_from_u64(seed));
            within("all that was asked for", all).await
        });
    }
    upgraded += upgrading.join_all().await.iter().flatten().count() as u64;
    flood.end().await;
    assert!(upgraded > SESSIONS / 2, "{upgraded}");
}

/// `None` if the server closed the session: on a busy machine, polls may come too late.
async fn change_over(site: &TestServer, mut random: StdRng) -> Option<()> {
    let polling = Polling::connect(site).await;
    let mut ledger = Ledger::default();
    assert_eq!(polling.post(&ledger.join_all().join("\x1e")).await, 200);
    for _ in 0..random.random_range(1..4) {
        let (status, answer) = polling.poll().await;
        read(&mut ledger, (status == 200).then_some(&answer)?);
    }
    let (_, sid) = polling.path.split_once("&sid=").expect("a sid");
    let upgrade = upgrade(&format!("EIO=4&sid={sid}"));
    let (addr, path) = (site.addr, polling.path.clone());
    // As a client does: it upgrades once the poll in flight is answered.
    let pause = Arc::new(AtomicBool::new(false));
    let pauses = pause.clone();
    let polls = tokio::spawn(async move {
        let mut answers = Vec::new();
        while !pauses.load(Ordering::Acquire) {
            let (status, answer) = request(addr, "GET", &path, "").await;
            if status != 200 {
                return None;
            }
            answers.push(String::from_utf8(answer.to_vec()).expect("UTF-8"));
        }
        Some(answers)
    });
    let mut raw = Raw::new(tcp(site).await);
    raw.write(&[upgrade.as_bytes(), &frame(0x81, b"2probe")].concat()).await;
    if !raw.head("").await.starts_with("http/1.1 101 ") {
        return None;
    }
    assert_eq!(raw.packet().await, "3probe");
    pause.store(true, Ordering::Release);
    for answer in polls.await.expect("no panic")? {
        read(&mut ledger, &answer);
    }
    let mut packets = vec!["5".to_owned()];
    if random.random() {
        packets.extend(ledger.ask(Ask::Reenter));
    }
    raw.send(&packets).await;
    while !ledger.is_answered() {
        ledger.frame(&raw.frame().await);
    }
    raw.send(&ledger.ask(Ask::Leave(0))).await;
    while !ledger.is_answered() {
        ledger.frame(&raw.frame().await);
    }
    wander(&mut raw, &mut ledger, &mut random, 5).await;
    Some(())
}

/// Checks the packets of one poll.
fn read(ledger: &mut Ledger, answer: &str) {
    for packet in answer.split('\x1e') {
        match packet {
            "" | "2" | "6" => {}
            _ if packet.starts_with('b') => ledger.attached(),
            _ => ledger.packet(packet),
        }
    }
}

/// Requests, the upgrade and the first frames in one write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_in_the_same_segment_as_the_upgrade_are_read() {
    let site = site(None).await;
    let flood = Flood::begin(&site);
    for round in 0..120 {
        let mut raw = Raw::new(tcp(&site).await);
        let mut ledger = Ledger::default();
        let asset = get("/socket.io/socket.io.js", "").into_bytes();
        let open = get("/socket.io/?EIO=4&transport=polling", "").into_bytes();
        raw.write(&[asset.clone(), open.clone()].concat()).await;
        assert!(raw.body().await.len() > 10_000);
        if round % 2 == 0 {
            assert!(raw.body().await.starts_with("0{"));
            let upgrade = upgrade("EIO=4").into_bytes();
            raw.write(&[open, asset, upgrade, frame(0x81, b"40")].concat()).await;
            assert!(raw.body().await.starts_with("0{"));
            assert!(raw.body().await.len() > 10_000);
            raw.head("101").await;
            assert!(raw.packet().await.starts_with("0{"));
            assert!(raw.packet().await.starts_with("40{"));
            raw.send(&ledger.join_all()).await;
        } else {
            let opened = raw.body().await;
            let (_, sid) = opened.split_once(r#""sid":""#).expect("a sid");
            let sid = sid.split('"').next().expect("a sid");
            let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
            assert_eq!(request(site.addr, "POST", &path, "40").await.0, 200);
            let mut polled = String::new();
            while !polled.contains("40{") {
                raw.write(get(&path, "").as_bytes()).await;
                polled += &raw.body().await;
            }
            let joins = ledger.join_all().join("\x1e");
            assert_eq!(request(site.addr, "POST", &path, &joins).await.0, 200);
            let frames = [&b"2probe"[..], b"5"].map(|packet| frame(0x81, packet)).concat();
            let upgrade = upgrade(&format!("EIO=4&sid={sid}")).into_bytes();
            raw.write(&[get(&path, "").into_bytes(), asset, upgrade, frames].concat()).await;
            read(&mut ledger, &raw.body().await);
            assert!(raw.body().await.len() > 10_000);
            raw.head("101").await;
            assert_eq!(raw.packet().await, "3probe");
        }
        let until = ledger.messages + 300;
        while !ledger.is_answered() || ledger.messages < until {
            ledger.frame(&raw.frame().await);
        }
        // A client that closes gets a close frame back, and nothing after it.
        raw.write(&frame(CLOSE, &[])).await;
        while raw.next().await.expect("a close frame").kind() != CLOSE {}
        assert!(raw.next().await.is_none(), "a frame after the close");
    }
    flood.end().await;
}
