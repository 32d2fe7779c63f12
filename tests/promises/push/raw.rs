//! A WebSocket client that parses raw bytes, and asserts that each frame is well-formed.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    hostile::frame,
    support::{TestServer, within},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

pub struct Raw<S> {
    pub io: S,
    unread: Vec<u8>,
    /// Where the next frame begins in `unread`.
    at: usize,
    /// How many bytes one read takes at most.
    pub step: usize,
    /// Bytes of all frames so far.
    pub read: usize,
}

/// A frame as received.
#[derive(PartialEq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    head: usize,
}

impl Frame {
    pub fn kind(&self) -> u8 {
        self.bytes[0]
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    pub fn text(&self) -> &str {
        assert_eq!(self.kind(), TEXT, "{:?}", self.payload());
        std::str::from_utf8(self.payload()).expect("UTF-8")
    }
}

/// A connection with a small receive buffer.
pub async fn narrow(site: &TestServer) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    socket.connect(site.https.unwrap_or(site.addr)).await.expect("connected")
}

/// The text of a GET request; `more` is appended to its head.
pub fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n")
}

pub fn upgrade(query: &str) -> String {
    get(
        &format!("/socket.io/?transport=websocket&{query}"),
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
    )
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn new(io: S) -> Self {
        Self { io, unread: Vec::new(), at: 0, step: 1 << 16, read: 0 }
    }

    /// Upgrades to a WebSocket and connects to the namespace.
    pub async fn enter(io: S, version: u32) -> Self {
        let mut raw = Self::new(io);
        raw.write(upgrade(&format!("EIO={version}")).as_bytes()).await;
        raw.head("101").await;
        assert!(raw.packet().await.starts_with("0{"));
        if version == 4 {
            raw.send(&["40"]).await;
        }
        assert!(raw.packet().await.starts_with("40"));
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        within("sent", self.io.write_all(bytes)).await.expect("sent");
        within("sent", self.io.flush()).await.expect("sent");
    }

    /// Sends packets in one write.
    pub async fn send(&mut self, packets: &[impl AsRef<str>]) {
        let frames = packets.iter().flat_map(|packet| frame(TEXT, packet.as_ref().as_bytes()));
        self.write(&frames.collect::<Vec<_>>()).await;
    }

    /// Reads more bytes; `false` at the end of the stream.
    async fn fill(&mut self) -> bool {
        self.unread.drain(..std::mem::take(&mut self.at));
        let end = self.unread.len();
        self.unread.resize(end + self.step, 0);
        let read = within("bytes", self.io.read(&mut self.unread[end..])).await.unwrap_or(0);
        self.unread.truncate(end + read);
        read > 0
    }

    /// The head of a response, which must have this status.
    pub async fn head(&mut self, status: &str) -> String {
        loop {
            let unread = &self.unread[self.at..];
            if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(unread[..end].to_vec()).expect("text");
                assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
                self.at += end + 4;
                return head.to_lowercase();
            }
            assert!(self.fill().await, "ended");
        }
    }

    /// The body of a response.
    pub async fn body(&mut self) -> String {
        let head = self.head("200").await;
        let (_, length) = head.split_once("content-length: ").expect("a length");
        let length: usize = length.lines().next().and_then(|text| text.parse().ok()).expect("one");
        while self.unread.len() < self.at + length {
            assert!(self.fill().await, "ended");
        }
        self.at += length;
        String::from_utf8_lossy(&self.unread[self.at - length..self.at]).into_owned()
    }

    /// The next frame, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = split(&self.unread[self.at..]) {
                self.at += frame.bytes.len();
                self.read += frame.bytes.len();
                let known = [TEXT, BINARY, CLOSE, PONG].contains(&frame.kind());
                assert!(known, "{:x?}", &frame.bytes[..frame.bytes.len().min(80)]);
                return Some(frame);
            }
            if !self.fill().await {
                assert_eq!(self.unread.len(), self.at, "half a frame");
                return None;
            }
        }
    }

    /// The next frame that is no heartbeat. Heartbeats are answered.
    pub async fn frame(&mut self) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame");
            if frame.payload() != b"2" {
                return frame;
            }
            self.send(&["3"]).await;
        }
    }

    pub async fn packet(&mut self) -> String {
        self.frame().await.text().to_owned()
    }

    /// The next packet that begins with `head`; others are skipped.
    pub async fn until(&mut self, head: &str) -> String {
        loop {
            let packet = self.packet().await;
            if packet.starts_with(head) {
                return packet;
            }
        }
    }
}

fn split(bytes: &[u8]) -> Option<Frame> {
    let &second = bytes.get(1)?;
    let (head, length) = match second {
        126 => (4, bytes.get(2..4)?),
        127 => (10, bytes.get(2..10)?),
        _ => (2, &bytes[1..2]),
    };
    let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    // A server's frame has no mask, and its length has the shortest encoding.
    let shortest = match length {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    assert!(second < 128 && head == shortest && length < 1 << 24, "{:x?}", &bytes[..head]);
    let bytes = bytes.get(..head + length)?.to_vec();
    Some(Frame { bytes, head })
}
