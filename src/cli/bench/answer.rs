//! The head of an HTTP/1.1 answer, and what it means for who expected another.

/// What is read of an answer's head.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The three digits.
    pub status: u16,
    /// Where the body begins.
    pub head: usize,
    /// The body's bytes; 0 if that is not said.
    pub body: usize,
}

impl Answer {
    /// Reads a head once it is there whole. A status of 0 is no HTTP.
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

    /// Where the next answer on this connection begins, once this one is there whole.
    pub fn end(&self, bytes: &[u8]) -> Option<usize> {
        let end = self.head + self.body;
        (bytes.len() >= end).then_some(end)
    }
}

/// What to do about a status that ends a benchmark.
pub fn explain(status: u16) -> String {
    let hint = match status {
        0 => return "what answers there speaks no HTTP: check the URL".to_owned(),
        301 | 302 | 307 | 308 => "it redirects: use the URL it redirects to, probably https://",
        401 | 403 => "it does not let us in: check the token",
        404 => "nothing is served there: check the URL and --protocol",
        429 => "it wants fewer requests: raise its limits, or lower --connect-rate or --rate",
        503 => {
            "it holds as many connections as it may: raise its MAX_CONNECTIONS, or ask for fewer --viewers"
        }
        _ => "see its log",
    };
    format!("the server answers {status}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n11HTTP";
        assert_eq!(Answer::read(&bytes[..20]), None);
        let answer = Answer::read(bytes).expect("a head");
        assert_eq!(answer, Answer { status: 202, head: 44, body: 2 });
        assert_eq!(answer.end(&bytes[..45]), None);
        assert_eq!(answer.end(bytes), Some(46));
        assert_eq!(Answer::read(b"-ERR unknown").expect("no HTTP").status, 0);
    }
}
