//! Hostile clients: a well-behaved viewer misses nothing, and the attack leaves nothing behind.
//!
//! The server runs in its own process, so that the tests can measure its memory and open files, and
//! notice a panic anywhere in it.

mod endings;
mod frames;
mod heads;
mod inbound;
mod packets;
mod rates;
mod rooms;
mod sessions;
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

/// Longer than the longest time-out of the server, 45 s.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often a message for the witness is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// How much freed memory the allocator may keep, in kB.
const KEPT: u64 = 96 << 10;
/// Open files that vary without an attack: probes of the source use connections of their own.
const FILES: usize = 8;

/// A server under attack, and the witness: a viewer that must not notice the attack. `end` checks
/// that the witness got every message, and that gauges, open files and memory are back.
struct Attack {
    site: Arc<TestServer>,
    process: Process,
    /// Open files, and resident memory in kB, before the attack.
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

    /// Ends the attack together with the server, and asserts that the witness missed nothing.
    async fn stop(self) {
        let Self { process, publishing, over, witness, .. } = self;
        over.send(()).expect("the publisher runs");
        within("all messages", witness).await.expect("no panic");
        publishing.await.expect("published");
        let log = process.stop().await;
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Ends the attack, and asserts that nothing is left of it.
    async fn end(self) {
        let Self { site, process, files, memory, publishing, over, witness } = self;
        over.send(()).expect("the publisher runs");
        let witness = within("all messages", witness).await.expect("no panic");
        publishing.await.expect("published");
        // The witness stays connected, and answers its heartbeats.
        let witness = tokio::spawn(witness.stay());
        let gauges = [
            ("roomcast_connections", 1),
            ("roomcast_sessions{transport=\"websocket\"}", 1),
            ("roomcast_sessions{transport=\"polling\"}", 0),
            ("roomcast_sockets", 1),
            ("roomcast_members", 1),
            ("roomcast_backlog_bytes", 0),
            ("roomcast_inbound_bytes", 0),
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
    /// The number of open files.
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

/// Reads until the server closes or resets the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    // A reset counts as an end.
    let _ = timeout(DEADLINE, read).await.expect("the server ends the connection");
    rest
}

/// Connects a WebSocket (Engine.IO 4) on which tests write raw frames.
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

/// A client's frame: `first` is its first byte (FIN and opcode); the payload is masked.
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
