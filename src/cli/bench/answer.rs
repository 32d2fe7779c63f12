//! Parses the head of an HTTP/1.1 answer, and explains a status that ends the benchmark.

/// The parts of an answer's head that a viewer or publisher needs.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The status code; 0 = the answer is not HTTP/1.1.
    pub status: u16,
    /// Length of the head in bytes; the body follows it.
    pub head: usize,
    /// Length of the body in bytes, from `content-length`; 0 without one.
    pub body: usize,
}

impl Answer {
    /// Parses a head at the start of `bytes`; `None` until it is complete.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if !b"HTTP/1.1 ".starts_with(&bytes[..bytes.len().min(9)]) {
            return Some(Self { status: 0, head: bytes.len(), body: 0 });
        }
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&bytes[..head]);
        let status = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let length = text.lines().filter_map(|line| line.split_once(':'));
        let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let body = length.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
        Some(Self { status, head, body })
    }

    /// The length of head and body, where the next answer begins; `None` until both are complete.
    pub fn end(&self, bytes: &[u8]) -> Option<usize> {
        let end = self.head + self.body;
        (bytes.len() >= end).then_some(end)
    }
}

/// Explains a status that ends the benchmark, and says what to do.
pub fn explain(status: u16) -> String {
    let hint = match status {
        0 => return "the server does not speak HTTP/1.1: check the URL".to_owned(),
        301 | 302 | 307 | 308 => "it redirects: use the URL it redirects to, probably https://",
        401 | 403 => "access is denied: check the token",
        404 => "there is nothing at this path: check the URL and --protocol",
        429 => "too many requests: raise its limits, or lower --connect-rate or --rate",
        503 => "it may be at its connection limit: raise its MAX_CONNECTIONS, or lower --viewers",
        _ => "see the server's log",
    };
    format!("the server answers {status}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_once_it_is_complete() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n11HTTP";
        assert_eq!(Answer::read(&bytes[..20]), None);
        let answer = Answer::read(bytes).expect("a head");
        assert_eq!(answer, Answer { status: 202, head: 44, body: 2 });
        assert_eq!(answer.end(&bytes[..45]), None);
        assert_eq!(answer.end(bytes), Some(46));
        assert_eq!(Answer::read(b"-ERR unknown").expect("no HTTP").status, 0);
    }
}
