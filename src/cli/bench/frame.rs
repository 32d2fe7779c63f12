//! WebSocket frames (RFC 6455, section 5), as far as a viewer of small messages needs them.

/// A frame with text.
pub const TEXT: u8 = 0x1;
/// A frame with bytes.
pub const BINARY: u8 = 0x2;
/// The server says goodbye.
pub const CLOSE: u8 = 0x8;
/// The server asks whether we are there.
pub const PING: u8 = 0x9;
/// We are.
pub const PONG: u8 = 0xa;

/// A whole frame in somebody's buffer.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    /// What it is; 0 continues a message, which no server here does.
    pub opcode: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Takes the first frame off `bytes`, if it is there whole.
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

/// Appends a frame as clients have to send it: masked. At most 125 bytes.
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
    fn frames_are_taken_one_after_the_other_and_only_whole() {
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
    fn what_is_sent_is_masked() {
        let mut out = Vec::new();
        put(TEXT, b"3", &mut out);
        assert_eq!(out[..2], [0x81, 0x81]);
        assert_eq!(out[6] ^ out[2], b'3');
        assert_eq!(out.len(), 7);
    }
}
