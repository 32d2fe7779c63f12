//! Peers that mean harm: the one viewer who does not misses nothing, and nothing is left of them.
//!
//! The server is a process of its own here, as it is run: its memory and its files can be measured,
//! and a panic anywhere in it shows.

mod frames;
mod heads;
mod packets;
mod rates;
mod slowloris;

use std::{fs, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{interval, timeout},
};

use crate::support::{Client, LOOK_EVERY, Process, TestServer, within};

/// More than the server's own patience with anybody, which is 45 s at most.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often the witness is sent something.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// What the allocator may keep of memory that is free again, in kB.
const KEPT: u64 = 96 << 10;
/// Files that come and go by themselves: the probe of the source has connections of its own.
const FILES: usize = 8;

/// A server under attack, and a viewer who must notice nothing of it.
struct Attack {
    site: Arc<TestServer>,
    process: Process,
    /// Before the attack.
    files: usize,
    memory: u64,
    publishing: JoinHandle<()>,
    over: oneshot::Sender<()>,
    witness: JoinHandle<Client>,
}

impl Attack {
    async fn begin(settings: &[(&str, &str)]) -> Self {
        let (site, process) = TestServer::start_process(settings).await;
        let mut witness = Client::connect(&site).await;
        witness.join("witness").await;
        let (files, memory) = (process.files(), process.memory());
        let (over, mut is_over) = oneshot::channel();
        let publisher = site.clone();
        let publishing = tokio::spawn(async move {
            let mut ticks = interval(PUBLISH_EVERY);
            for number in 0u64.. {
                ticks.tick().await;
                publisher.publish("witness", number.to_string()).await;
                if is_over.try_recv().is_ok() {
                    return publisher.publish("witness", "over").await;
                }
            }
        });
        let witness = tokio::spawn(async move {
            for number in 0u64.. {
                match witness.message().await.as_str() {
                    "over" => break,
                    message => assert_eq!(message, number.to_string(), "nothing is missed"),
                }
            }
            witness
        });
        Self { site, process, files, memory, publishing, over, witness }
    }

    /// The attack is over: nothing may be left of it.
    async fn end(self) {
        let Self { site, process, files, memory, publishing, over, witness } = self;
        over.send(()).expect("it goes on");
        let witness = within("all messages", witness).await.expect("a witness that is fine");
        publishing.await.expect("published");
        // It stays, and answers its heartbeats.
        let witness = tokio::spawn(witness.stay());
        let gauges = [
            ("roomcast_connections", 1),
            ("roomcast_sessions{transport=\"websocket\"}", 1),
            ("roomcast_sessions{transport=\"polling\"}", 0),
            ("roomcast_sockets", 1),
            ("roomcast_members", 1),
            ("roomcast_backlog_bytes", 0),
        ];
        for (gauge, value) in gauges {
            until(&site, gauge, async || site.metric(gauge).await == value).await;
        }
        until(&site, "files", async || process.files() <= files + FILES).await;
        until(&site, "memory", async || process.memory() <= memory + KEPT).await;
        witness.abort();
        let log = process.stop().await;
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("ERROR"), "{log}");
    }
}

async fn until(site: &TestServer, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let mut looks = interval(LOOK_EVERY);
    let wait = async {
        while !condition().await {
            looks.tick().await;
        }
    };
    if timeout(DEADLINE, wait).await.is_err() {
        panic!("waited in vain for {what}: {}", site.get("/metrics").await.1);
    }
}

impl Process {
    /// Open files.
    fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("a process").count()
    }

    /// Resident memory in kB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim_end_matches("kB").trim().parse().expect("a number")
    }
}

/// Everything that comes until the server ends the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    // A reset is an end too.
    let _ = timeout(DEADLINE, read).await.expect("the server ends the connection");
    rest
}

/// A WebSocket of Engine.IO 4 whose frames are written by hand.
async fn websocket(site: &TestServer) -> TcpStream {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let head = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: localhost\r\n\
                connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    within("an upgrade", stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream
}

/// A frame as a client sends it: its first byte, and masked bytes.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
