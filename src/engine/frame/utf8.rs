//! Checks UTF-8 that arrives in pieces, cut anywhere.

/// The most bytes of one character.
const MAX_CHAR: usize = 4;

/// The state between two pieces: the bytes of a character that was cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    cut: [u8; MAX_CHAR],
    length: usize,
}

impl Utf8 {
    /// Reads a piece; `false` if it cannot be part of UTF-8, whatever follows.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        while self.length > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return true };
            let Some(place) = self.cut.get_mut(self.length) else { return false };
            *place = byte;
            self.length += 1;
            bytes = rest;
            match std::str::from_utf8(self.cut.get(..self.length).unwrap_or_default()) {
                Ok(_) => self.length = 0,
                // Not wrong yet: the character is still incomplete.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return false,
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let rest = bytes.get(error.valid_up_to()..).unwrap_or_default();
                self.length = rest.len();
                self.cut.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
                true
            }
        }
    }

    /// Whether no character is cut.
    pub fn is_complete(&self) -> bool {
        self.length == 0
    }
}
