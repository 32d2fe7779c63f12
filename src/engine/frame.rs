//! WebSocket frames (RFC 6455, section 5): those of clients are read, those of the server written.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};

mod utf8;

use utf8::Utf8;

/// First byte of a whole text frame.
pub const TEXT: u8 = 0x81;
/// First byte of a whole binary frame.
pub const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

/// Close code: the connection has done its work.
pub const NORMAL: u16 = 1000;
/// Close code: the server is stopping.
pub const GOING_AWAY: u16 = 1001;
/// Close code: the client broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// Close code: a text was not UTF-8.
const NOT_UTF8: u16 = 1007;
/// Close code: the client did what the server does not allow.
pub const POLICY: u16 = 1008;
/// Close code: a message was too large.
const TOO_LARGE: u16 = 1009;
/// Close code: the server has no room for this client now.
pub const TRY_AGAIN_LATER: u16 = 1013;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const MASK_BYTES: usize = 4;
/// The most bytes of a control frame's payload.
const MAX_CONTROL: usize = 125;
/// The most bytes of a frame's header: two, the length's eight, and the mask.
const MAX_HEADER: usize = 14;
/// The most frames of one message. Empty ones cost time, though no memory.
const MAX_FRAGMENTS: usize = 4096;

/// What a client sent.
#[derive(Debug, PartialEq)]
pub enum Item<'a> {
    /// A whole message.
    Message {
        /// Its payload is UTF-8.
        is_text: bool,
        /// The bytes of all its frames, without masks.
        payload: &'a [u8],
    },
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong, also one for which the server did not ask.
    Pong,
    /// The client ends the connection.
    Close {
        /// Its close code, if it sent one.
        code: Option<u16>,
    },
}

/// A violation of the protocol. The connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Violation {
    /// The close code.
    pub code: u16,
    /// For the client's developer.
    pub reason: &'static str,
}

const fn violation(reason: &'static str) -> Violation {
    Violation { code: PROTOCOL_ERROR, reason }
}

/// Reads a client's frames from bytes that arrive in pieces of any size.
///
/// Between two messages it holds no memory. Of a message that is incomplete, it keeps the bytes that
/// have arrived, and no room for those that are only announced.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// Bytes of the last item, if it did not come in one piece.
    whole: Vec<u8>,
}

#[derive(Debug, Default)]
struct Partial {
    /// The beginning of a frame's header.
    header: Vec<u8>,
    /// The frame whose payload is incomplete, and what has arrived of it, unmasked.
    frame: Option<(Header, usize)>,
    control: Vec<u8>,
    message: Option<Message>,
}

/// A message whose frames have not all arrived.
#[derive(Debug)]
struct Message {
    is_text: bool,
    bytes: Vec<u8>,
    utf8: Utf8,
    fragments: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    opcode: Opcode,
    is_last: bool,
    mask: [u8; MASK_BYTES],
    length: usize,
}

impl Decoder {
    /// A decoder before the first frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that are kept of an incomplete message.
    pub fn pending(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let message = partial.message.as_ref().map_or(0, |message| message.bytes.len());
            // At least one, so that an empty fragment counts as unfinished.
            (partial.header.len() + partial.control.len() + message).max(1)
        })
    }

    /// Takes the next item out of `input`, which becomes what follows it; `None` once more bytes are
    /// needed. A message may have `max` bytes.
    ///
    /// # Errors
    /// If the client has broken the protocol. The decoder must not be used after that.
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input mut [u8],
        max: usize,
    ) -> Result<Option<Item<'a>>, Violation> {
        // What was put together for the item before is not needed any more.
        self.whole = Vec::new();
        if self.partial.is_none() {
            match whole_frame(input, max)? {
                Whole::Message { is_text, payload } => {
                    return Ok(Some(Item::Message { is_text, payload }));
                }
                Whole::Control(header, payload) => return control(header, payload).map(Some),
                Whole::No if input.is_empty() => return Ok(None),
                Whole::No => {}
            }
        }
        let partial = self.partial.get_or_insert_default();
        while let Some(done) = partial.step(input, max)? {
            match done {
                Done::Frame => {}
                Done::Message(message) => {
                    self.whole = message.bytes;
                    self.release();
                    return Ok(Some(Item::Message {
                        is_text: message.is_text,
                        payload: &self.whole,
                    }));
                }
                Done::Control(header, payload) => {
                    self.whole = payload;
                    self.release();
                    return control(header, &self.whole).map(Some);
                }
            }
        }
        self.release();
        Ok(None)
    }

    /// Frees the partial state if nothing is incomplete.
    fn release(&mut self) {
        let is_clean = |partial: &Partial| {
            partial.header.is_empty() && partial.frame.is_none() && partial.message.is_none()
        };
        if self.partial.as_ref().is_some_and(|partial| is_clean(partial)) {
            self.partial = None;
        }
    }
}

/// The first frame of some bytes, if it is whole and no fragment.
enum Whole<'a> {
    Message { is_text: bool, payload: &'a [u8] },
    Control(Header, &'a [u8]),
    No,
}

/// The fast path: most messages are one frame, and arrive in one piece.
fn whole_frame<'a>(input: &mut &'a mut [u8], max: usize) -> Result<Whole<'a>, Violation> {
    let Some((header, size)) = Header::read(input)? else { return Ok(Whole::No) };
    header.check(None, max)?;
    let end = size.saturating_add(header.length);
    if end > input.len() || !header.is_last {
        return Ok(Whole::No);
    }
    let (frame, rest) = mem::take(input).split_at_mut(end);
    *input = rest;
    let payload = frame.split_at_mut(size).1;
    unmask(payload, header.mask, 0);
    let payload: &'a [u8] = payload;
    match header.opcode {
        Opcode::Text if std::str::from_utf8(payload).is_err() => Err(BAD_TEXT),
        Opcode::Text | Opcode::Binary => {
            Ok(Whole::Message { is_text: header.opcode == Opcode::Text, payload })
        }
        _ => Ok(Whole::Control(header, payload)),
    }
}

const BAD_TEXT: Violation = Violation { code: NOT_UTF8, reason: "a text message is not UTF-8" };

/// What a step has completed.
enum Done {
    /// A header, or a fragment.
    Frame,
    Message(Message),
    Control(Header, Vec<u8>),
}

impl Partial {
    /// Reads on, up to the end of a header or of a frame. `None`: more bytes are needed.
    fn step(&mut self, input: &mut &mut [u8], max: usize) -> Result<Option<Done>, Violation> {
        match self.frame {
            None => self.header(input, max),
            Some((header, seen)) => self.payload(header, seen, input),
        }
    }

    fn header(&mut self, input: &mut &mut [u8], max: usize) -> Result<Option<Done>, Violation> {
        let before = self.header.len();
        let more = input.len().min(MAX_HEADER.saturating_sub(before));
        self.header.extend_from_slice(input.get(..more).unwrap_or_default());
        let Some((header, size)) = Header::read(&self.header)? else {
            advance(input, more);
            return Ok(None);
        };
        self.header = Vec::new();
        advance(input, size.saturating_sub(before));
        header.check(self.message.as_ref(), max)?;
        if !header.opcode.is_control() {
            let message = self.message.get_or_insert_with(|| Message::new(header.opcode));
            message.fragments += 1;
            if message.fragments > MAX_FRAGMENTS {
                let reason = "a message has too many fragments";
                return Err(Violation { code: TOO_LARGE, reason });
            }
        }
        self.frame = Some((header, 0));
        Ok(Some(Done::Frame))
    }

    fn payload(
        &mut self,
        header: Header,
        seen: usize,
        input: &mut &mut [u8],
    ) -> Result<Option<Done>, Violation> {
        let part = header.length.saturating_sub(seen).min(input.len());
        let (bytes, rest) = mem::take(input).split_at_mut(part);
        *input = rest;
        unmask(bytes, header.mask, seen);
        let is_complete = seen + part == header.length;
        self.frame = (!is_complete).then_some((header, seen + part));
        if header.opcode.is_control() {
            self.control.extend_from_slice(bytes);
            return Ok(is_complete.then(|| Done::Control(header, mem::take(&mut self.control))));
        }
        let Some(message) = &mut self.message else { return Err(NO_START) };
        message.bytes.extend_from_slice(bytes);
        if message.is_text && !message.utf8.push(bytes) {
            return Err(BAD_TEXT);
        }
        if !is_complete {
            return Ok(None);
        }
        match self.message.take() {
            Some(message) if header.is_last => {
                if message.is_text && !message.utf8.is_complete() {
                    return Err(BAD_TEXT);
                }
                Ok(Some(Done::Message(message)))
            }
            message => {
                self.message = message;
                Ok(Some(Done::Frame))
            }
        }
    }
}

const NO_START: Violation = violation("a continuation without a message");

impl Message {
    fn new(opcode: Opcode) -> Self {
        let (bytes, utf8) = Default::default();
        Self { is_text: opcode == Opcode::Text, bytes, utf8, fragments: 0 }
    }
}

impl Opcode {
    fn new(byte: u8) -> Option<Self> {
        Some(match byte & 0x0f {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Header {
    /// Reads a header, and says how many bytes it has. `None`: it is incomplete.
    fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(violation("a reserved bit is set, and no extension was agreed on"));
        }
        let opcode = Opcode::new(first).ok_or(violation("an unknown opcode"))?;
        let is_last = first & FIN != 0;
        if opcode.is_control() && !is_last {
            return Err(violation("a control frame is fragmented"));
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(violation("a client's frame is not masked"));
        }
        let short = usize::from(second & !MASKED);
        if opcode.is_control() && short > MAX_CONTROL {
            return Err(violation("a control frame has more than 125 bytes"));
        }
        let (length, size) = match short {
            126 => {
                let Some(&length) = bytes.get(2..).and_then(|rest| rest.first_chunk::<2>()) else {
                    return Ok(None);
                };
                (usize::from(u16::from_be_bytes(length)), 4)
            }
            127 => {
                let Some(&length) = bytes.get(2..).and_then(|rest| rest.first_chunk::<8>()) else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(length);
                if length >> 63 != 0 {
                    return Err(violation("a length has its highest bit set"));
                }
                (usize::try_from(length).unwrap_or(usize::MAX), 10)
            }
            short => (short, 2),
        };
        let least = match size {
            2 => 0,
            4 => 126,
            _ => 0x1_0000,
        };
        if length < least {
            return Err(violation("a length is not written in its shortest form"));
        }
        let Some(&mask) = bytes.get(size..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        Ok(Some((Self { opcode, is_last, mask, length }, size + MASK_BYTES)))
    }

    /// Whether the frame may come now, after what has arrived of a message.
    fn check(&self, message: Option<&Message>, max: usize) -> Result<(), Violation> {
        match (self.opcode, message) {
            (Opcode::Continuation, None) => return Err(NO_START),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(violation("a message begins within another"));
            }
            _ => {}
        }
        let before = message.map_or(0, |message| message.bytes.len());
        if !self.opcode.is_control() && self.length > max.saturating_sub(before) {
            return Err(Violation { code: TOO_LARGE, reason: "a message is too large" });
        }
        Ok(())
    }
}

fn control<'a>(header: Header, payload: &'a [u8]) -> Result<Item<'a>, Violation> {
    match header.opcode {
        Opcode::Ping => Ok(Item::Ping(payload)),
        Opcode::Close => closing(payload),
        _ => Ok(Item::Pong),
    }
}

fn closing(payload: &[u8]) -> Result<Item<'static>, Violation> {
    if payload.is_empty() {
        return Ok(Item::Close { code: None });
    }
    let Some((&code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(violation("a close frame has one byte"));
    };
    let code = u16::from_be_bytes(code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(violation("a close code that clients must not send"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation { code: NOT_UTF8, reason: "the reason of a close is not UTF-8" });
    }
    Ok(Item::Close { code: Some(code) })
}

fn unmask(bytes: &mut [u8], mask: [u8; MASK_BYTES], seen: usize) {
    let mut mask = mask;
    mask.rotate_left(seen % MASK_BYTES);
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = bytes.as_chunks_mut::<MASK_BYTES>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn advance(input: &mut &mut [u8], bytes: usize) {
    let length = input.len();
    *input = mem::take(input).split_at_mut(bytes.min(length)).1;
}

/// A text frame with the payload of all parts together, which must be UTF-8.
pub fn text(parts: &[&[u8]]) -> Bytes {
    whole(TEXT, parts)
}

/// A pong with a ping's payload.
pub fn pong(payload: &[u8]) -> Bytes {
    whole(PONG, &[payload])
}

/// A close frame. The reason may have 123 bytes; what is longer is left out.
pub fn close(code: u16, reason: &str) -> Bytes {
    let reason = reason.as_bytes().get(..MAX_CONTROL - 2).unwrap_or(reason.as_bytes());
    whole(CLOSE, &[&code.to_be_bytes(), reason])
}

fn whole(first: u8, parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(length + MAX_HEADER - MASK_BYTES);
    put_header(&mut frame, first, length);
    parts.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

/// Appends the header of a server's frame: its first byte, and the length in its shortest form.
pub fn put_header(frames: &mut BytesMut, first: u8, length: usize) {
    frames.reserve(MAX_HEADER - MASK_BYTES + length);
    frames.put_u8(first);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frames.put_u8(short),
        (_, Ok(length)) => {
            frames.put_u8(126);
            frames.put_u16(length);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(length as u64);
        }
    }
}

/// The messages in whole frames of the server: whether each is text, and its payload.
pub fn split(frames: &Bytes) -> impl Iterator<Item = (bool, Bytes)> {
    let mut rest = frames.clone();
    std::iter::from_fn(move || {
        let (first, short) = (*rest.first()?, *rest.get(1)?);
        let (length, size): (usize, usize) = match short {
            126 => (usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.get(2..)?.first_chunk()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let end = size.checked_add(length).filter(|end| *end <= rest.len())?;
        let frame = rest.split_to(end);
        Some((first == TEXT, frame.slice(size..)))
    })
}

#[cfg(test)]
mod tests;
