//! The way to the kernel: the engine's bytes, and frames of ours between its own.
//!
//! The engine spends as much on a message as the kernel does: a queue, a wake and an encoder for
//! each viewer. So a room's messages go past it, as WebSocket frames that all its viewers share.
//! They are written where a packet of the engine's has ended.
//!
//! A fence keeps their order: a packet that the engine is given after others, and that is taken out
//! here. Frames that come after a fence wait until it has passed, and with it all that the engine
//! was given before; frames that were there before a packet of the engine's go before it.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The event that is a fence. No client ever sees it.
pub const FENCE: &str = "fence";
/// How the engine writes it: one text frame.
const FENCE_FRAME: &[u8] = b"\x81\x0b42[\"fence\"]";
/// Bytes of what waits that show whether the peer takes anything, once they have been taken.
const PORTION: usize = 128 << 10;
const TEXT: u8 = 0x81;
/// How the engine says goodbye.
const CLOSE: u8 = 0x88;
/// How a packet begins whose one attachment is the next frame.
const ATTACHED: &[u8] = b"451-";

/// What bytes come from and go to.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The bytes of a connection.
pub struct Wire {
    io: Box<dyn Io>,
    phase: Phase,
    /// Bytes of the engine's frames under way that the kernel has yet to take.
    rest: usize,
    /// The engine's last frame was a packet's whose attachment is its next one.
    attached: bool,
    /// Fences that have passed.
    passed: u64,
    /// Ours, in their order.
    waiting: VecDeque<Frames>,
    /// How many have ever been added to those, and how many have been written since.
    added: u64,
    written: u64,
    /// The engine says goodbye: nothing comes after that.
    closing: bool,
    /// While the engine waits to write: so many of ours go first, and no more, before how many of
    /// its bytes (it may try again with more). With a viewer that is always behind, its packets
    /// would never get through otherwise.
    before_write: Option<(u64, usize)>,
    /// While it waits to flush, nothing of ours is added to what is to be flushed.
    flushing: bool,
    /// What waits is written in portions: this one goes up to here, of all that ever waited.
    portion: Option<u64>,
    /// How often one, or all that the engine had, has been taken whole.
    rounds: u64,
    /// Bytes that the kernel has taken since somebody asked; those that never waited do not count.
    taken: usize,
}

#[derive(PartialEq)]
enum Phase {
    Http,
    /// The answer to an upgrade is on its way, and nothing comes after it but frames.
    Upgrading,
    Frames,
}

/// Whole frames that wait, or what is left of them.
struct Frames {
    bytes: Bytes,
    /// They go when so many fences have passed.
    after: u64,
}

impl Wire {
    /// HTTP over these bytes.
    pub fn new(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            phase: Phase::Http,
            rest: 0,
            attached: false,
            passed: 0,
            waiting: VecDeque::new(),
            added: 0,
            written: 0,
            closing: false,
            before_write: None,
            flushing: false,
            portion: None,
            rounds: 0,
            taken: 0,
        }
    }

    /// What is left when nothing more is to be written.
    pub fn into_io(self) -> Box<dyn Io> {
        self.io
    }

    /// What is written next is the last of HTTP.
    pub fn upgrading(&mut self) {
        self.phase = Phase::Upgrading;
    }

    /// HTTP is over: all that is written is frames.
    pub fn is_framed(&self) -> bool {
        self.phase == Phase::Frames
    }

    /// Nothing is with us that could be with the kernel.
    pub fn is_flushed(&self) -> bool {
        let may_go = |frames: &Frames| frames.after <= self.passed && !self.closing;
        self.is_between() && !self.waiting.front().is_some_and(may_go)
    }

    /// Counts up while the peer takes what there is for it, however much comes after that.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// No packet of the engine's is under way.
    fn is_between(&self) -> bool {
        self.rest == 0 && !self.attached
    }

    /// How many of ours wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that the kernel has taken since this was last asked, but those of [`Self::try_write`].
    pub fn taken(&mut self) -> usize {
        std::mem::take(&mut self.taken)
    }

    /// Lets frames wait until so many fences have passed, behind all that wait already.
    pub fn add(&mut self, bytes: Bytes, after: u64) {
        self.added += 1;
        self.waiting.push_back(Frames { bytes, after });
    }

    /// Writes frames at once, as far as that is possible; what is left has to be added. The answer
    /// is about the kernel alone.
    pub fn try_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
        after: u64,
    ) -> Poll<io::Result<()>> {
        if self.closing {
            bytes.clear();
        }
        let is_free = self.is_between() && self.waiting.is_empty() && self.until() == u64::MAX;
        if !self.is_framed() || !is_free || after > self.passed {
            return Poll::Ready(Ok(()));
        }
        while !bytes.is_empty() {
            ready!(write(&mut self.io, cx, bytes))?;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// How many of ours may have been written, ever.
    fn until(&self) -> u64 {
        match self.before_write {
            _ if self.closing || self.flushing => self.written,
            Some((before, _)) => before,
            None => u64::MAX,
        }
    }

    fn next_portion(&self) -> u64 {
        let mut bytes = 0;
        let these = self.waiting.iter().take_while(|frames| {
            let before = bytes;
            bytes += frames.bytes.len();
            before < PORTION
        });
        self.written + these.count() as u64
    }

    /// Writes all of ours that may go now.
    pub fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let portion = self.portion.unwrap_or_else(|| self.next_portion());
            self.portion = Some(portion);
            let until = portion.min(self.until());
            while self.is_between()
                && self.written < until
                && let Some(frames) = self.waiting.front_mut()
                && frames.after <= self.passed
            {
                self.taken += ready!(write(&mut self.io, cx, &mut frames.bytes))?;
                if frames.bytes.is_empty() {
                    self.written += 1;
                    self.waiting.pop_front();
                }
            }
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.flushing = false;
            if self.written < portion || !self.is_between() {
                return Poll::Ready(Ok(()));
            }
            self.portion = None;
            self.rounds += 1;
            if self.waiting.is_empty() {
                // Who was behind once must not cost more for ever.
                self.waiting = VecDeque::new();
                return Poll::Ready(Ok(()));
            }
        }
    }

    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    /// Writes the engine's bytes, or HTTP's before it.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_framed() || buf.is_empty() {
            return self.pass(cx, buf);
        }
        if self.rest == 0 {
            let (_, bytes) = *self.before_write.get_or_insert((self.added, buf.len()));
            // Or else these could not be finished.
            self.flushing = false;
            ready!(self.poll_waiting(cx))?;
            if buf.starts_with(FENCE_FRAME) {
                self.passed += 1;
                self.before_write = None;
                return Poll::Ready(Ok(FENCE_FRAME.len()));
            }
            (self.rest, self.attached) = match self.attached {
                // Then it is ours to come first again.
                true => (lengths(buf).map_or(buf.len(), sum), false),
                false => until_fence(&buf[..bytes.min(buf.len())]),
            };
            self.closing = buf[0] == CLOSE;
        }
        let written = ready!(self.pass(cx, &buf[..buf.len().min(self.rest)]))?;
        self.rest -= written;
        if self.rest == 0 {
            self.before_write = None;
        }
        Poll::Ready(Ok(written))
    }

    fn pass(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.taken += written;
        Poll::Ready(Ok(written))
    }

    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_framed() {
            let buf = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, buf.map_or(&[], |buf| buf));
        }
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.taken += written;
        Poll::Ready(Ok(written))
    }

    pub fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// The engine, or HTTP before it, wants all that it has written to be with the kernel. It does
    /// not wait for ours: its next packets would wait for them twice.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushing = true;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.flushing = false;
        if self.phase == Phase::Upgrading {
            self.phase = Phase::Frames;
        }
        Poll::Ready(Ok(()))
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Writes some of what there is.
fn write(io: &mut impl Io, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(io).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => {
            bytes.advance(written);
            Poll::Ready(Ok(written))
        }
    }
}

/// How many bytes of frames come before the next fence, or before the goodbye, and whether an attachment is to follow the
/// last one. The buffer begins with a frame; the last one may be longer than the buffer.
fn until_fence(buf: &[u8]) -> (usize, bool) {
    let (mut end, mut attached) = (0, false);
    while let Some(frame) = buf.get(end..).filter(|frame| !frame.starts_with(FENCE_FRAME))
        && let Some(lengths) = lengths(frame)
        && (end == 0 || frame[0] != CLOSE)
    {
        attached = frame[0] == TEXT && frame[lengths.0..].starts_with(ATTACHED);
        end = end.saturating_add(sum(lengths));
    }
    // The engine writes no half headers.
    if end == 0 { (buf.len(), false) } else { (end, attached) }
}

fn sum((header, payload): (usize, usize)) -> usize {
    header.saturating_add(payload)
}

/// The lengths of the header and the payload of the frame that begins here.
fn lengths(frame: &[u8]) -> Option<(usize, usize)> {
    let number =
        |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte));
    Some(match frame.get(1)? & 0x7f {
        126 => (4, number(frame.get(2..4)?)),
        127 => (10, number(frame.get(2..10)?)),
        short => (2, usize::from(short)),
    })
}

#[cfg(test)]
mod tests;
