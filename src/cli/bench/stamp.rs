//! The payload of a benchmark's message: run, room, number and time in fixed columns.

use std::io::Write;

/// `run.room.number.micros.` in hexadecimal digits; the rest of a payload is padding.
const LENGTH: usize = 8 + 1 + 8 + 1 + 8 + 1 + 12 + 1;
/// Payloads are at least this long.
pub const MIN_SIZE: usize = LENGTH;

/// The fields at the start of a payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp {
    /// The benchmark's number; viewers ignore messages of other benchmarks.
    pub run: u32,
    /// The room's number, from 0.
    pub room: u32,
    /// The message's number within its room, from 0.
    pub number: u32,
    /// When it was published, in µs since the start of the benchmark.
    pub at: u64,
}

impl Stamp {
    /// A payload of `size` bytes, but at least [`MIN_SIZE`]. JSON escapes none of them, so the
    /// payload looks the same inside a Socket.IO packet.
    pub fn payload(&self, size: usize) -> Vec<u8> {
        let Self { run, room, number, at } = self;
        let mut payload = Vec::with_capacity(size);
        // Writing into a Vec cannot fail.
        let _ = write!(payload, "{run:08x}.{room:08x}.{number:08x}.{at:012x}.");
        payload.resize(size.max(LENGTH), b'x');
        payload
    }

    /// Parses the start of a payload; `None` if it is not a stamp.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload.get(..LENGTH)?).ok()?;
        let column = |from: usize, length: usize| {
            let digits = text.get(from..from + length)?;
            (text.as_bytes()[from + length] == b'.')
                .then(|| u64::from_str_radix(digits, 16).ok())?
        };
        Some(Self {
            run: column(0, 8)? as u32,
            room: column(9, 8)? as u32,
            number: column(18, 8)? as u32,
            at: column(27, 12)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_round_trips() {
        let stamp = Stamp { run: u32::MAX, room: 7, number: 123_456, at: 86_400_000_000 };
        let payload = stamp.payload(64);
        assert_eq!(payload.len(), 64);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(stamp.payload(0).len(), MIN_SIZE);
    }

    #[test]
    fn other_payloads_are_no_stamps() {
        let foreign = "00000000,00000000.00000000.000000000000.";
        for other in ["", "hello", &"x".repeat(64), foreign, &"ü".repeat(40)] {
            assert_eq!(Stamp::read(other.as_bytes()), None, "{other}");
        }
    }
}
