//! Reads the frames of a client.

use std::mem;

use super::{
    NOT_UTF8, TOO_LARGE,
    header::{Header, MASK_BYTES, MAX_HEADER, NO_START, Opcode, violation},
    utf8::Utf8,
};

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

/// Reads a client's frames from bytes that arrive in pieces of any size.
///
/// Between two messages it holds no memory. Of a message that is incomplete, it keeps the bytes that
/// have arrived, and no room for those that are only announced.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<PartialFrame>>,
    /// Bytes of the last item, if it did not come in one piece.
    whole: Vec<u8>,
}

#[derive(Debug, Default)]
struct PartialFrame {
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
        let is_clean = |partial: &PartialFrame| {
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

impl PartialFrame {
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
        header.check(self.message.as_ref().map(|message| message.bytes.len()), max)?;
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

impl Message {
    fn new(opcode: Opcode) -> Self {
        let (bytes, utf8) = Default::default();
        Self { is_text: opcode == Opcode::Text, bytes, utf8, fragments: 0 }
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

#[cfg(test)]
mod tests;
