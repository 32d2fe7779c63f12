//! WebSocket frames (RFC 6455, section 5), as far as the benchmark's viewers need them.

/// Opcode of a text frame.
pub const TEXT: u8 = 0x1;
/// Opcode of a binary frame.
pub const BINARY: u8 = 0x2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub const PING: u8 = 0x9;
/// Opcode of a pong, the answer to a ping.
pub const PONG: u8 = 0xa;

/// A complete frame; its payload borrows from the read buffer.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    /// The opcode. 0 continues a fragmented message; the benchmark expects none.
    pub opcode: u8,
    /// The payload; servers do not mask it.
    pub payload: &'a [u8],
}

/// Splits the first frame off `bytes`; `None`, and `bytes` unchanged, if it is incomplete.
pub fn take<'a>(bytes: &mut &'a [u8]) -> Option<Frame<'a>> {
    let &[first, second, ..] = *bytes else { return None };
    let (head, length) = match second & 0x7f {
        126 => (4_usize, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, short as usize),
    };
    let payload = bytes.get(head..head.checked_add(length)?)?;
    *bytes = &bytes[head + length..];
    Some(Frame { opcode: first & 0xf, payload })
}

/// Appends a masked frame, as clients have to send it. A payload longer than 125 bytes is cut.
pub fn put(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(125)];
    let mask: [u8; 4] = rand::random();
    out.extend([0x80 | opcode, 0x80 | payload.len() as u8]);
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_frames_are_taken() {
        let long = vec![b'y'; 300];
        let huge = vec![b'z'; 70_000];
        let mut bytes = vec![0x81, 2, b'h', b'i', 0x89, 0, 0x82, 126, 1, 44];
        bytes.extend(&long);
        bytes.extend([0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        bytes.extend(&huge);
        let frames: [(u8, &[u8]); 4] = [(TEXT, b"hi"), (PING, b""), (BINARY, &long), (TEXT, &huge)];
        for end in [bytes.len(), bytes.len() - 1, bytes.len() - huge.len(), 9, 5, 3, 1] {
            let mut rest = &bytes[..end];
            let mut taken = 0;
            while let Some(frame) = take(&mut rest) {
                let (opcode, payload) = frames[taken];
                assert_eq!(frame, Frame { opcode, payload });
                taken += 1;
            }
            assert_eq!(taken == frames.len(), end == bytes.len());
        }
    }

    #[test]
    fn sent_frames_are_masked() {
        let mut out = Vec::new();
        put(TEXT, b"3", &mut out);
        assert_eq!(out[..2], [0x81, 0x81]);
        assert_eq!(out[6] ^ out[2], b'3');
        assert_eq!(out.len(), 7);
    }
}
