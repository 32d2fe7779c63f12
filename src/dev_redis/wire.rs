//! RESP: decodes requests within limits, and encodes replies for either protocol version.

use std::io;

use bytes::{Bytes, BytesMut};
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::encode::extend_encode as encode_resp2;
use redis_protocol::resp2::types::BytesFrame as Resp2Frame;
use redis_protocol::resp3::encode::complete::extend_encode as encode_resp3;
use redis_protocol::resp3::types::VerbatimStringFormat;
pub(super) use redis_protocol::resp3::types::{BytesFrame as Reply, RespVersion};
use tokio_util::codec::Decoder;

/// The most bytes of one request, including framing. Redis accepts payloads of 512 MiB; messages
/// for browsers are smaller, and every client may use this much memory at once.
const MAX_REQUEST: usize = 1 << 20;

/// The most arguments of one request: a `SUBSCRIBE` and as many channels as a client may have.
const MAX_ARGUMENTS: usize = super::hub::MAX_SUBSCRIPTIONS + 1;

/// The most bytes of a length line: `*` or `$`, up to 20 characters of an i64, CR, LF.
const MAX_LENGTH_LINE: usize = 23;

/// Why reading from a client has ended.
#[derive(Debug)]
pub(super) enum Broken {
    /// The stream failed.
    Io(#[expect(dead_code, reason = "for the log, by Debug")] io::Error),
    /// The bytes are not a valid request. The client receives this reason in the error
    /// `ERR Protocol error: <reason>`.
    Protocol(&'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Decodes requests: arrays of bulk strings, the only form that client libraries send.
///
/// The codec itself accepts any frame: it recurses into nested arrays until the stack overflows,
/// and waits for any length that a client announces. So it receives only complete requests of that
/// one form that are within the limits. Inline commands are not supported, so that a web page
/// cannot send commands by an HTTP POST to this port.
#[derive(Debug, Default)]
pub(super) struct Requests {
    codec: Resp2,
    /// Bytes at the start of the buffer that are checked.
    checked: usize,
    /// Arguments that are not checked yet; `None` until the request's first line is complete.
    missing: Option<usize>,
}

impl Requests {
    /// Checks more of the buffer; returns whether it starts with a complete request.
    fn check(&mut self, buffer: &mut BytesMut) -> Result<bool, Broken> {
        while self.missing.is_none() {
            let Some((count, next)) = length(buffer, 0, b'*', "invalid multibulk length")? else {
                return Ok(false);
            };
            match usize::try_from(count) {
                // Redis ignores empty requests.
                Err(_) | Ok(0) => drop(buffer.split_to(next)),
                Ok(count) if count > MAX_ARGUMENTS => {
                    return Err(Broken::Protocol("too many arguments"));
                }
                Ok(count) => (self.missing, self.checked) = (Some(count), next),
            }
        }
        while let Some(missing @ 1..) = self.missing {
            let Some((size, start)) = length(buffer, self.checked, b'$', "invalid bulk length")?
            else {
                return Ok(false);
            };
            let size =
                usize::try_from(size).map_err(|_| Broken::Protocol("invalid bulk length"))?;
            // Saturating, because the client chooses `size`.
            let next = start.saturating_add(size).saturating_add(2);
            if next > MAX_REQUEST {
                return Err(Broken::Protocol("request too large"));
            }
            match buffer.get(start + size..next) {
                None => {
                    buffer.reserve(next - buffer.len());
                    return Ok(false);
                }
                Some(b"\r\n") => (self.missing, self.checked) = (Some(missing - 1), next),
                Some(_) => return Err(Broken::Protocol("expected CRLF after a bulk string")),
            }
        }
        Ok(true)
    }
}

impl Decoder for Requests {
    type Item = Vec<Bytes>;
    type Error = Broken;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Broken> {
        if !self.check(buffer)? {
            return Ok(None);
        }
        (self.missing, self.checked) = (None, 0);
        match self.codec.decode(buffer) {
            Ok(Some(Resp2Frame::Array(arguments))) => {
                arguments.into_iter().map(bulk_string).collect::<Result<_, _>>().map(Some)
            }
            _ => Err(Broken::Protocol("expected an array")),
        }
    }
}

fn bulk_string(frame: Resp2Frame) -> Result<Bytes, Broken> {
    match frame {
        Resp2Frame::BulkString(bytes) => Ok(bytes),
        _ => Err(Broken::Protocol("expected '$'")),
    }
}

/// Reads a line `<mark><number>\r\n` at `start`; returns the number and the index after the line,
/// or `None` if the line is incomplete.
fn length(
    buffer: &[u8],
    start: usize,
    mark: u8,
    invalid: &'static str,
) -> Result<Option<(i64, usize)>, Broken> {
    let line = &buffer[start..];
    let Some(&first) = line.first() else {
        return Ok(None);
    };
    if first != mark {
        return Err(Broken::Protocol(if mark == b'*' { "expected '*'" } else { "expected '$'" }));
    }
    let line = &line[..line.len().min(MAX_LENGTH_LINE)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if line.len() < MAX_LENGTH_LINE {
            Ok(None)
        } else {
            Err(Broken::Protocol(invalid))
        };
    };
    let number = std::str::from_utf8(&line[1..end]).ok().and_then(|digits| digits.parse().ok());
    number.map(|number| Some((number, start + end + 2))).ok_or(Broken::Protocol(invalid))
}

/// Encodes a reply. RESP2 has no maps, pushes and verbatim strings: they become arrays and bulk
/// strings.
pub(super) fn encode(reply: &Reply, version: &RespVersion) -> Bytes {
    let mut buffer = BytesMut::new();
    let encoded = match version {
        RespVersion::RESP2 => encode_resp2(&mut buffer, &to_resp2(reply), false),
        RespVersion::RESP3 => encode_resp3(&mut buffer, reply, false),
    };
    debug_assert!(encoded.is_ok(), "the buffer grows as needed and every reply has a form");
    buffer.freeze()
}

fn to_resp2(reply: &Reply) -> Resp2Frame {
    match reply {
        Reply::SimpleString { data, .. } => Resp2Frame::SimpleString(data.clone()),
        Reply::SimpleError { data, .. } => Resp2Frame::Error(data.clone()),
        Reply::Number { data, .. } => Resp2Frame::Integer(*data),
        Reply::BlobString { data, .. } | Reply::VerbatimString { data, .. } => {
            Resp2Frame::BulkString(data.clone())
        }
        Reply::Array { data, .. } | Reply::Push { data, .. } => {
            Resp2Frame::Array(data.iter().map(to_resp2).collect())
        }
        Reply::Map { data, .. } => Resp2Frame::Array(
            data.iter().flat_map(|(key, value)| [to_resp2(key), to_resp2(value)]).collect(),
        ),
        // No command here replies with any other frame.
        _ => Resp2Frame::Null,
    }
}

/// A simple string, such as `+OK`.
pub(super) fn simple(text: &'static str) -> Reply {
    Reply::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes: None }
}

/// An error. Line breaks become spaces, because `text` may contain input of the client.
pub(super) fn error(text: &str) -> Reply {
    Reply::SimpleError { data: text.replace(['\r', '\n'], " ").into(), attributes: None }
}

/// An integer; a number above `i64::MAX` becomes `i64::MAX`.
pub(super) fn number(number: impl TryInto<i64>) -> Reply {
    Reply::Number { data: number.try_into().unwrap_or(i64::MAX), attributes: None }
}

/// A bulk string.
pub(super) fn bulk(bytes: impl Into<Bytes>) -> Reply {
    Reply::BlobString { data: bytes.into(), attributes: None }
}

/// Text for human readers, such as `INFO`.
pub(super) fn verbatim(text: String) -> Reply {
    Reply::VerbatimString {
        data: text.into(),
        format: VerbatimStringFormat::Text,
        attributes: None,
    }
}

/// An array.
pub(super) fn array(replies: impl IntoIterator<Item = Reply>) -> Reply {
    Reply::Array { data: replies.into_iter().collect(), attributes: None }
}

/// A map with bulk strings as keys.
pub(super) fn map(entries: impl IntoIterator<Item = (&'static str, Reply)>) -> Reply {
    let data = entries.into_iter().map(|(name, value)| (bulk(name), value)).collect();
    Reply::Map { data, attributes: None }
}

/// A push frame, which a client receives because of its subscriptions rather than as a reply.
pub(super) fn push(kind: &'static str, rest: impl IntoIterator<Item = Reply>) -> Reply {
    let data = std::iter::once(bulk(kind)).chain(rest).collect();
    Reply::Push { data, attributes: None }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Decodes bytes that arrive in parts of `part` bytes. Returns the requests, and whether
    /// decoding failed.
    fn read(bytes: &[u8], part: usize) -> (Vec<Vec<Bytes>>, bool) {
        let (mut requests, mut buffer) = (Requests::default(), BytesMut::new());
        let mut read = Vec::new();
        for part in bytes.chunks(part) {
            buffer.extend_from_slice(part);
            loop {
                match requests.decode(&mut buffer) {
                    Ok(Some(request)) => read.push(request),
                    Ok(None) => break,
                    Err(_) => return (read, true),
                }
            }
        }
        (read, false)
    }

    fn written(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend(format!("*{}\r\n", request.len()).into_bytes());
            for argument in request {
                bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
                bytes.extend_from_slice(argument);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn requests_are_decoded_as_written_whatever_parts_they_arrive_in(
            requests in vec(vec(vec(any::<u8>(), 0..20), 1..5), 0..5),
            part in 1usize..50,
        ) {
            let (read, broken) = read(&written(&requests), part);
            prop_assert!(!broken);
            prop_assert_eq!(read, requests);
        }

        #[test]
        fn any_bytes_are_decoded_the_same_whatever_parts_they_arrive_in(
            requests in vec(vec(vec(any::<u8>(), 0..9), 0..4), 0..4),
            noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            tail in "[*$0-9\r\n-]{0,20}",
            part in 1usize..50,
        ) {
            let mut bytes = [written(&requests), tail.into_bytes()].concat();
            for (at, byte) in noise {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            prop_assert_eq!(read(&bytes, part), read(&bytes, usize::MAX));
        }

        #[test]
        fn an_error_stays_on_one_line_whatever_input_it_contains(text in ".{0,40}") {
            for version in [RespVersion::RESP2, RespVersion::RESP3] {
                let bytes = encode(&error(&text), &version);
                let line = bytes.strip_suffix(b"\r\n").expect("a line end");
                prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            }
        }
    }
}
