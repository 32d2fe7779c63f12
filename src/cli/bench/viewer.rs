//! One viewer: joins its room, answers heartbeats, and counts the messages it receives.

use anyhow::{bail, ensure};
use mio::net::TcpStream;

use super::{
    answer::Answer,
    entrance::{Entrance, Step},
    frame::{self, Frame},
    line::{self, Line},
    plan::Plan,
    stamp::Stamp,
    tally::Sequence,
    target::Protocol,
    worker::Desk,
};

/// Prefix and suffix of a Socket.IO message event around its payload.
const MESSAGE: (&[u8], &[u8]) = (br#"42["message",""#, br#""]"#);

/// How fast a viewer reads once it has joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Reads everything at once.
    Brisk,
    /// Reads a limited number of bytes per interval, see [`Viewer::give_leave`].
    Slow,
    /// Reads nothing.
    Stalled,
}

enum Phase {
    Entering(Entrance),
    Watching,
    Over,
}

/// A viewer, driven by its worker thread.
///
/// It is created with a connection that is being established, then joins its room
/// ([`Entrance`]), and then counts messages until the server closes the connection or the benchmark
/// ends.
pub struct Viewer {
    line: Line,
    phase: Phase,
    /// How fast it reads, once it has joined.
    pub pace: Pace,
    room: u32,
    sequence: Sequence,
    /// The start of an incomplete frame or HTTP answer.
    begun: Vec<u8>,
    unsent: Vec<u8>,
    /// Bytes that it may read now; `usize::MAX` = unlimited.
    leave: usize,
}

impl Viewer {
    /// A viewer whose connection is being established.
    pub fn new(line: Line, plan: &Plan, pace: Pace, room: u32) -> Self {
        let (sequence, begun, mut unsent) = Default::default();
        let phase = Phase::Entering(Entrance::begin(plan, room, &mut unsent));
        Self { line, phase, pace, room, sequence, begun, unsent, leave: usize::MAX }
    }

    /// Continues on a new connection, after [`Step::Reconnect`].
    pub fn reconnected(&mut self, line: Line, plan: &Plan) {
        self.line = line;
        if let Phase::Entering(entrance) = &mut self.phase {
            entrance.reconnected(plan, &mut self.unsent);
        }
    }

    /// The socket to register for events.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.line.socket()
    }

    /// Whether its connection has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether it has joined its room and its connection has not ended.
    pub fn is_watching(&self) -> bool {
        matches!(self.phase, Phase::Watching)
    }

    /// Marks its connection as ended.
    pub fn end(&mut self) {
        self.phase = Phase::Over;
    }

    /// Allows a slow viewer to read `bytes` bytes; the unused rest of its last allowance expires.
    pub fn give_leave(&mut self, bytes: usize) {
        self.leave = bytes;
    }

    /// Reads and discards what has arrived. Returns whether the server has closed the connection.
    pub fn is_cut(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.line.read(buffer) {
                Ok(None) => return false,
                Ok(Some(0)) | Err(_) => return true,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Writes pending bytes, then reads and handles bytes until none is left or a step is to be
    /// taken.
    ///
    /// # Errors
    /// If the connection breaks or the server refuses a request; the viewer cannot continue.
    pub fn serve(&mut self, desk: &mut Desk) -> anyhow::Result<Step> {
        self.flush()?;
        loop {
            let kept = self.begun.len();
            let space = desk.buffer.len() - kept;
            ensure!(space > 0, "the server sent a frame larger than any published message");
            let asked = space.min(self.leave);
            if asked == 0 {
                return Ok(Step::Wait);
            }
            let read = self.line.read(&mut desk.buffer[kept..kept + asked]);
            let Some(read) = read.map_err(line::explain)? else { return Ok(Step::Wait) };
            ensure!(read > 0, "the server closed the connection");
            if self.leave != usize::MAX {
                self.leave -= read;
            }
            // The buffer is taken out while it is parsed, because counting needs all of `desk`.
            let mut buffer = std::mem::take(&mut desk.buffer);
            buffer[..kept].copy_from_slice(&self.begun);
            self.begun.clear();
            let taken = self.take(&buffer[..kept + read], desk);
            if let Ok((used, _)) = taken {
                self.begun.extend_from_slice(&buffer[used..kept + read]);
            }
            desk.buffer = buffer;
            let (_, step) = taken?;
            self.flush()?;
            if step != Step::Wait || self.line.is_drained(read, asked) {
                return Ok(step);
            }
        }
    }

    /// Handles the complete answers and frames in `bytes`. Returns how many bytes they had, and
    /// what the worker thread has to do next.
    fn take(&mut self, bytes: &[u8], desk: &mut Desk) -> anyhow::Result<(usize, Step)> {
        let (mut rest, mut step) = (bytes, Step::Wait);
        if let Phase::Entering(entrance) = &mut self.phase
            && !entrance.speaks_frames()
        {
            let Some(answer) = Answer::read(rest) else { return Ok((0, step)) };
            let Some(end) = answer.end(rest) else { return Ok((0, step)) };
            let body = &rest[answer.head..end];
            step = entrance.answer(&answer, body, &desk.plan, &mut self.unsent)?;
            rest = &rest[end..];
            self.passed(step);
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
        match &self.phase {
            Phase::Entering(entrance) => entrance.speaks_frames(),
            Phase::Watching => true,
            Phase::Over => false,
        }
    }

    fn passed(&mut self, step: Step) {
        if step == Step::Joined {
            self.phase = Phase::Watching;
            if self.pace != Pace::Brisk {
                self.leave = 0;
            }
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, now: u64, desk: &mut Desk) -> anyhow::Result<Step> {
        let is_socketio = desk.plan.target.protocol == Protocol::Socketio;
        match (frame.opcode, frame.payload) {
            (frame::CLOSE, _) => bail!("the server closed the WebSocket"),
            (frame::PING, payload) => frame::put(frame::PONG, payload, &mut self.unsent),
            (frame::TEXT, b"2") if is_socketio => frame::put(frame::TEXT, b"3", &mut self.unsent),
            (frame::TEXT, b"1" | b"41") if is_socketio => bail!("the server ended the session"),
            (frame::TEXT | frame::BINARY, payload) => match &mut self.phase {
                Phase::Entering(entrance) => {
                    let step = entrance.packet(payload, &desk.plan, &mut self.unsent)?;
                    self.passed(step);
                    return Ok(step);
                }
                Phase::Watching | Phase::Over => self.message(payload, now, desk),
            },
            _ => {}
        }
        Ok(Step::Wait)
    }

    /// Counts a message, if this benchmark has published it.
    fn message(&mut self, packet: &[u8], now: u64, desk: &mut Desk) {
        let payload = match desk.plan.target.protocol {
            Protocol::Websocket => Some(packet),
            Protocol::Socketio => packet
                .strip_prefix(MESSAGE.0)
                .map(|payload| payload.strip_suffix(MESSAGE.1).unwrap_or(payload)),
        };
        let Some(payload) = payload else { return };
        let stamp = Stamp::read(payload).filter(|stamp| stamp.run == desk.plan.run);
        let Some(stamp) = stamp else { return };
        let is_whole = payload.len() == desk.plan.size;
        let tally = desk.tally(self.pace);
        if stamp.room != self.room || !is_whole {
            tally.wrong += 1;
            return;
        }
        tally.count(self.sequence.take(stamp.number));
        desk.measure(self.pace, now.saturating_sub(stamp.at));
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
