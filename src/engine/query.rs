//! The query of a request to `/socket.io/`.

use http::{Method, Uri};

use super::{
    errors::RequestError,
    packet::{Format, Protocol},
};
use crate::metrics::Transport;

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub struct Query {
    /// How the client wants its frames. Only the handshake's counts.
    pub format: Format,
    /// The transport of this request.
    pub transport: Transport,
    /// The session, unless the request opens one.
    pub sid: Option<String>,
}

impl Query {
    /// Reads the query of a request.
    ///
    /// # Errors
    /// If it is not one that is served.
    pub fn read(method: &Method, uri: &Uri) -> Result<Self, RequestError> {
        let pairs = || uri.query().unwrap_or_default().split('&');
        let value =
            |name: &str| pairs().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if value("j").is_some() {
            return Err(RequestError::Jsonp);
        }
        let protocol = match value("EIO") {
            Some("3") => Protocol::V3,
            Some("4") => Protocol::V4,
            _ => return Err(RequestError::UnsupportedVersion),
        };
        let transport = match value("transport") {
            Some("polling") => Transport::Polling,
            Some("websocket") => Transport::WebSocket,
            _ => return Err(RequestError::UnknownTransport),
        };
        let sid = value("sid").filter(|sid| !sid.is_empty()).map(str::to_owned);
        match (transport, &sid, method) {
            (_, _, &Method::GET) | (Transport::Polling, Some(_), &Method::POST) => {}
            _ => return Err(RequestError::BadMethod),
        }
        let is_base64 = matches!(value("b64"), Some("1" | "true"));
        Ok(Self { format: Format { protocol, is_base64 }, transport, sid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, query: &str) -> Result<Query, RequestError> {
        let uri = format!("/socket.io/?{query}").parse().expect("a valid URI");
        Query::read(&method, &uri)
    }

    #[test]
    fn queries_are_read_or_refused_with_the_protocols_code() {
        let query = |protocol, is_base64, transport, sid: Option<&str>| {
            let format = Format { protocol, is_base64 };
            Ok(Query { format, transport, sid: sid.map(str::to_owned) })
        };
        use Transport::{Polling, WebSocket};
        let (get, post) = (Method::GET, Method::POST);
        let table = [
            (&get, "EIO=4&transport=polling", query(Protocol::V4, false, Polling, None)),
            (&get, "EIO=3&transport=websocket&b64=1", query(Protocol::V3, true, WebSocket, None)),
            (&get, "sid=&EIO=4&transport=polling", query(Protocol::V4, false, Polling, None)),
            (&get, "EIO=4&transport=polling&sid=x", query(Protocol::V4, false, Polling, Some("x"))),
            (
                &post,
                "EIO=4&transport=polling&sid=x",
                query(Protocol::V4, false, Polling, Some("x")),
            ),
            (&post, "EIO=4&transport=polling", Err(RequestError::BadMethod)),
            (&post, "EIO=4&transport=websocket&sid=x", Err(RequestError::BadMethod)),
            (&Method::PUT, "EIO=4&transport=polling&sid=x", Err(RequestError::BadMethod)),
            (&Method::HEAD, "EIO=4&transport=polling", Err(RequestError::BadMethod)),
            (&get, "EIO=4", Err(RequestError::UnknownTransport)),
            (&get, "EIO=4&transport=flash", Err(RequestError::UnknownTransport)),
            (&get, "transport=polling", Err(RequestError::UnsupportedVersion)),
            (&get, "EIO=5&transport=polling", Err(RequestError::UnsupportedVersion)),
            (&get, "", Err(RequestError::UnsupportedVersion)),
        ];
        for (method, text, expected) in table {
            assert_eq!(read(method.clone(), text), expected, "{method} {text}");
        }
        let jsonp = read(get, "EIO=3&transport=polling&j=0");
        assert_eq!(jsonp.err(), Some(RequestError::Jsonp));
    }
}
