//! The headers of a client's frames (RFC 6455, section 5.2).

use super::{PROTOCOL_ERROR, TOO_LARGE, Violation};

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The bytes of a mask.
pub const MASK_BYTES: usize = 4;
/// The most bytes of a control frame's payload.
pub const MAX_CONTROL: usize = 125;
/// The most bytes of a header: two, the length's eight, and the mask.
pub const MAX_HEADER: usize = 14;
/// A frame continues a message that has not begun.
pub const NO_START: Violation = violation("a continuation without a message");

/// A violation that has no close code of its own.
pub const fn violation(reason: &'static str) -> Violation {
    Violation { code: PROTOCOL_ERROR, reason }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// What the frame is.
    pub opcode: Opcode,
    /// It ends its message.
    pub is_last: bool,
    /// The mask of its payload.
    pub mask: [u8; MASK_BYTES],
    /// The bytes of its payload.
    pub length: usize,
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

    /// Whether it is no part of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Header {
    /// Reads a header, and says how many bytes it has. `None`: it is incomplete.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
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

    /// Whether the frame may come now. `before` are the bytes that have arrived of an incomplete
    /// message, which may have `max`.
    pub fn check(&self, before: Option<usize>, max: usize) -> Result<(), Violation> {
        match (self.opcode, before) {
            (Opcode::Continuation, None) => return Err(NO_START),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(violation("a message begins within another"));
            }
            _ => {}
        }
        let before = before.unwrap_or_default();
        if !self.opcode.is_control() && self.length > max.saturating_sub(before) {
            return Err(Violation { code: TOO_LARGE, reason: "a message is too large" });
        }
        Ok(())
    }
}
