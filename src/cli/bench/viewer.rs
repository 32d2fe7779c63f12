//! One viewer: connects, joins its room, answers heartbeats, and counts what comes.

use anyhow::{Context, bail, ensure};
use mio::net::TcpStream;
use serde_json::Value;

use super::{
    answer::{self, Answer},
    crowd::Desk,
    frame::{self, Frame},
    line::{self, Line},
    stamp::Stamp,
    tally::Sequence,
    target::{Protocol, Target},
};

/// How a message begins and ends with Socket.IO.
const MESSAGE: (&[u8], &[u8]) = (br#"42["message",""#, br#""]"#);
/// The key of a WebSocket's handshake. Its answer is not checked: nobody caches between us.
const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: cm9vbWNhc3QgYmVuY2hlcw==\r\n\r\n";

/// How fast a viewer reads once it has joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// All that comes, at once.
    Brisk,
    /// So many bytes whenever it is given leave.
    Slow,
    /// Nothing any more.
    Stalled,
}

/// What the one who holds the viewer has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Give it a new connection: it goes on with a WebSocket.
    Reconnect,
    /// It is in its room now.
    Joined,
}

/// How far a viewer has come.
enum Phase {
    /// Polling: the answer will name the session.
    PollOpen,
    /// Polling: the answer says that our packet has arrived.
    PollEnter { sid: String },
    /// Polling: an answer will say that we are in the namespace.
    PollWelcome { sid: String },
    /// The answer will be a WebSocket; `sid` is the session that it takes over.
    Handshake { sid: Option<String> },
    /// The WebSocket is being proven.
    Probing,
    /// Engine.IO will open.
    Opening,
    /// Socket.IO will let us into the namespace.
    Entering,
    /// The join will be acknowledged.
    Joining,
    /// In the room.
    Watching,
    /// The connection has ended.
    Over,
}

/// A viewer.
pub struct Viewer {
    line: Line,
    phase: Phase,
    /// How fast it reads.
    pub pace: Pace,
    room: u32,
    sequence: Sequence,
    /// The beginning of a frame whose end has not come.
    begun: Vec<u8>,
    unsent: Vec<u8>,
    /// Bytes that it may read now.
    leave: usize,
    /// A heartbeat came while polling.
    owes_pong: bool,
}

impl Viewer {
    /// A viewer that has begun to connect.
    pub fn new(line: Line, target: &Target, pace: Pace, room: u32, name: &str) -> Self {
        let mut viewer = Self {
            line,
            phase: Phase::PollOpen,
            pace,
            room,
            sequence: Sequence::default(),
            begun: Vec::new(),
            unsent: Vec::new(),
            leave: usize::MAX,
            owes_pong: false,
        };
        if target.upgrade {
            viewer.poll(target, "", None);
        } else {
            viewer.handshake(target, name, None);
        }
        viewer
    }

    /// Goes on with a new connection, where the old one was for polling.
    pub fn reconnected(&mut self, line: Line, target: &Target) {
        self.line = line;
        if let Phase::PollWelcome { sid } = &self.phase {
            let sid = sid.clone();
            self.handshake(target, "", Some(sid));
        }
    }

    /// What events are told of.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.line.socket()
    }

    /// Whether its connection has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether it is in its room.
    pub fn is_watching(&self) -> bool {
        matches!(self.phase, Phase::Watching)
    }

    /// Its connection has ended.
    pub fn end(&mut self) {
        self.phase = Phase::Over;
    }

    /// A slow one may read so many bytes more.
    pub fn give_leave(&mut self, bytes: usize) {
        self.leave = bytes;
    }

    /// Whether the server has ended the connection of a viewer that did not read all.
    pub fn is_cut(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.line.read(buffer) {
                Ok(None) => return false,
                Ok(Some(0)) | Err(_) => return true,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Writes and reads what can be, and goes on as far as that allows. An error is the end.
    pub fn serve(&mut self, desk: &mut Desk) -> anyhow::Result<Step> {
        self.flush()?;
        loop {
            let kept = self.begun.len();
            let room = desk.buffer.len() - kept;
            let asked = room.min(self.leave);
            if asked == 0 {
                ensure!(room > 0, "the server sent a frame that is larger than all we publish");
                return Ok(Step::Wait);
            }
            let read = self.line.read(&mut desk.buffer[kept..kept + asked]);
            let Some(read) = read.map_err(line::explain)? else { return Ok(Step::Wait) };
            ensure!(read > 0, "the server closed the connection");
            if self.leave != usize::MAX {
                self.leave -= read;
            }
            // The buffer is lent to the viewer's own steps.
            let mut buffer = std::mem::take(&mut desk.buffer);
            buffer[..kept].copy_from_slice(&self.begun);
            self.begun.clear();
            let took = self.take(&buffer[..kept + read], desk);
            if let Ok((used, _)) = took {
                self.begun.extend_from_slice(&buffer[used..kept + read]);
            }
            desk.buffer = buffer;
            let (_, step) = took?;
            self.flush()?;
            if step != Step::Wait || self.line.is_drained(read, asked) {
                return Ok(step);
            }
        }
    }

    /// Takes what came, and says how much of it was whole.
    fn take(&mut self, bytes: &[u8], desk: &mut Desk) -> anyhow::Result<(usize, Step)> {
        let (mut rest, mut step) = (bytes, Step::Wait);
        if !self.speaks_frames() {
            let Some(answer) = Answer::read(rest) else { return Ok((0, step)) };
            let Some(end) = answer.end(rest) else { return Ok((0, step)) };
            step = self.answer(&answer, &rest[answer.head..end], desk)?;
            rest = &rest[end..];
        }
        let now = desk.now();
        while self.speaks_frames()
            && let Some(frame) = frame::take(&mut rest)
        {
            if self.frame(&frame, now, desk)? == Step::Joined {
                step = Step::Joined;
            }
        }
        Ok((bytes.len() - rest.len(), step))
    }

    fn speaks_frames(&self) -> bool {
        use Phase::{Handshake, PollEnter, PollOpen, PollWelcome};
        !matches!(self.phase, PollOpen | PollEnter { .. } | PollWelcome { .. } | Handshake { .. })
    }

    /// An answer by HTTP: until there is a WebSocket.
    fn answer(&mut self, answer: &Answer, body: &[u8], desk: &Desk) -> anyhow::Result<Step> {
        let expected = if matches!(self.phase, Phase::Handshake { .. }) { 101 } else { 200 };
        ensure!(answer.status == expected, answer::explain(answer.status));
        let target = &desk.plan.target;
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::PollOpen => {
                let open = body.get(1..).and_then(|open| serde_json::from_slice(open).ok());
                let sid = open.and_then(|open: Value| Some(open["sid"].as_str()?.to_owned()));
                let sid = sid.context("the server opens no Engine.IO session: check the URL")?;
                self.poll(target, &format!("&sid={sid}"), Some("40"));
                self.phase = Phase::PollEnter { sid };
            }
            Phase::PollEnter { sid } | Phase::PollWelcome { sid } => {
                self.owes_pong |= body.split(|&byte| byte == 0x1e).any(|packet| packet == b"2");
                let welcome = body.windows(3).any(|three| three == b"40{");
                if !welcome {
                    self.poll(target, &format!("&sid={sid}"), None);
                }
                self.phase = Phase::PollWelcome { sid };
                return Ok(if welcome { Step::Reconnect } else { Step::Wait });
            }
            Phase::Handshake { sid: Some(_) } => {
                self.send(b"2probe");
                self.phase = Phase::Probing;
            }
            Phase::Handshake { sid: None } if target.protocol == Protocol::Websocket => {
                return Ok(self.joined());
            }
            Phase::Handshake { sid: None } => self.phase = Phase::Opening,
            other => self.phase = other,
        }
        Ok(Step::Wait)
    }

    fn frame(&mut self, frame: &Frame<'_>, now: u64, desk: &mut Desk) -> anyhow::Result<Step> {
        match (frame.opcode, frame.payload) {
            (frame::CLOSE, _) => bail!("the server closed the WebSocket"),
            (frame::PING, payload) => frame::put(frame::PONG, payload, &mut self.unsent),
            (frame::TEXT, b"2") if self.is_socketio(desk) => self.send(b"3"),
            (frame::TEXT, b"1") if self.is_socketio(desk) => bail!("the server ended the session"),
            (frame::TEXT, b"41") if self.is_socketio(desk) => {
                bail!("the server ended the connection to the namespace")
            }
            (frame::TEXT | frame::BINARY, payload) if self.is_watching() => {
                self.message(payload, now, desk);
            }
            (_, payload) => return self.packet(payload, desk),
        }
        Ok(Step::Wait)
    }

    fn is_socketio(&self, desk: &Desk) -> bool {
        desk.plan.target.protocol == Protocol::Socketio
    }

    /// A packet on the way into the room.
    fn packet(&mut self, packet: &[u8], desk: &Desk) -> anyhow::Result<Step> {
        let join = || format!(r#"420["channel","{}"]"#, desk.plan.room_name(self.room));
        match self.phase {
            Phase::Opening if packet.starts_with(b"0{") => {
                self.send(b"40");
                self.phase = Phase::Entering;
            }
            Phase::Entering if packet.starts_with(b"40") => {
                let join = join();
                self.send(join.as_bytes());
                self.phase = Phase::Joining;
            }
            Phase::Probing if packet == b"3probe" => {
                let join = join();
                self.send(b"5");
                if self.owes_pong {
                    self.send(b"3");
                }
                self.send(join.as_bytes());
                self.phase = Phase::Joining;
            }
            Phase::Joining if packet.starts_with(b"430[") => {
                let answer = String::from_utf8_lossy(packet);
                ensure!(
                    !answer.contains(r#""ok":false"#),
                    "the server refuses the join: {}",
                    &answer[3..]
                );
                return Ok(self.joined());
            }
            _ if packet.starts_with(b"44") => {
                let reason = String::from_utf8_lossy(&packet[2..]);
                bail!("the server lets nobody into the namespace: {reason}")
            }
            _ => {}
        }
        Ok(Step::Wait)
    }

    /// What comes to a room: only what this run has published counts.
    fn message(&mut self, packet: &[u8], now: u64, desk: &mut Desk) {
        let payload = match desk.plan.target.protocol {
            Protocol::Websocket => Some(packet),
            Protocol::Socketio => packet
                .strip_prefix(MESSAGE.0)
                .map(|payload| payload.strip_suffix(MESSAGE.1).unwrap_or(payload)),
        };
        let stamp = payload.and_then(|payload| Some((Stamp::read(payload)?, payload.len())));
        let Some((stamp, size)) = stamp.filter(|(stamp, _)| stamp.run == desk.plan.run) else {
            return;
        };
        let whole = size == desk.plan.size;
        let tally = desk.tally(self.pace);
        if stamp.room != self.room || !whole {
            tally.wrong += 1;
            return;
        }
        tally.count(self.sequence.take(stamp.number));
        desk.measure(self.pace, now.saturating_sub(stamp.at));
    }

    fn joined(&mut self) -> Step {
        self.phase = Phase::Watching;
        if self.pace != Pace::Brisk {
            self.leave = 0;
        }
        Step::Joined
    }

    fn poll(&mut self, target: &Target, query: &str, body: Option<&str>) {
        let query = format!("?EIO=4&transport=polling{query}");
        let request = match body {
            None => target.request("GET", &query, "", "\r\n"),
            Some(body) => {
                let rest = format!("content-length: {}\r\n\r\n{body}", body.len());
                target.request("POST", &query, "", &format!("content-type: text/plain\r\n{rest}"))
            }
        };
        self.unsent.extend_from_slice(request.as_bytes());
    }

    fn handshake(&mut self, target: &Target, room: &str, sid: Option<String>) {
        let query = match (&sid, target.protocol) {
            (_, Protocol::Websocket) => String::new(),
            (None, _) => "?EIO=4&transport=websocket".to_owned(),
            (Some(sid), _) => format!("?EIO=4&transport=websocket&sid={sid}"),
        };
        self.unsent.extend_from_slice(target.request("GET", &query, room, HANDSHAKE).as_bytes());
        self.phase = Phase::Handshake { sid };
    }

    fn send(&mut self, packet: &[u8]) {
        frame::put(frame::TEXT, packet, &mut self.unsent);
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while !self.unsent.is_empty() {
            let written = self.line.write(&self.unsent).map_err(line::explain)?;
            let Some(count) = written else { return Ok(()) };
            self.unsent.drain(..count);
        }
        Ok(())
    }
}
