//! One viewer: enters its room, answers heartbeats, and counts what comes.

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

/// How a message begins and ends with Socket.IO.
const MESSAGE: (&[u8], &[u8]) = (br#"42["message",""#, br#""]"#);

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

enum Phase {
    Entering(Entrance),
    Watching,
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
}

impl Viewer {
    /// A viewer that has begun to connect.
    pub fn new(line: Line, plan: &Plan, pace: Pace, room: u32) -> Self {
        let (sequence, begun, mut unsent) = Default::default();
        let phase = Phase::Entering(Entrance::begin(plan, room, &mut unsent));
        Self { line, phase, pace, room, sequence, begun, unsent, leave: usize::MAX }
    }

    /// Goes on with a new connection.
    pub fn reconnected(&mut self, line: Line, plan: &Plan) {
        self.line = line;
        if let Phase::Entering(entrance) = &mut self.phase {
            entrance.reconnected(plan, &mut self.unsent);
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

    /// A slow one may read so many bytes now.
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
            let space = desk.buffer.len() - kept;
            ensure!(space > 0, "the server sent a frame that is larger than all we publish");
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
            // Taken out for a moment: what it holds is counted at the same desk.
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

    /// Takes what came, and says how much of it was whole.
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

    /// What comes to a room: only what this run has published counts.
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
