//! Requests on their way to the engine: which session they belong to, small copies, limits, and
//! the ends of polls.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    response::IntoResponse,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::upgrade::OnUpgrade;
use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};
use tower::ServiceExt;

use super::{
    bearer, engine_io3,
    inbound::{self, Framing, MAX_PACKETS, Problem},
};
use crate::{
    auth::Auth,
    clock::now,
    conn::stream::Control,
    log_limit::LogLimit,
    metrics::Metrics,
    socketio::{
        Presented, Service,
        session::{Session, Sessions},
    },
};

/// Bytes of a polling POST; Node's default.
const MAX_BODY: usize = 1 << 20;
/// For a polling POST's body to arrive whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The kind of Engine.IO 3's binary framing.
const BINARY: &str = "application/octet-stream";
/// What clients take for “begin again with a new session”, in the protocol's words.
const UNKNOWN_SESSION: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// What a request is answered that does not get to the engine; boxed, because it is rare and large.
type Refused = Box<Response<Body>>;

/// The engine behind its door.
#[derive(Clone)]
pub struct Engine {
    service: Service,
    sessions: Arc<Sessions>,
    auth: Arc<Auth>,
    max_packet: usize,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// The engine, where its sessions are kept, and who may open one.
    pub fn new(
        service: Service,
        sessions: Arc<Sessions>,
        auth: Arc<Auth>,
        max_packet: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { service, sessions, auth, max_packet, metrics }
    }

    /// Makes the engine forget polling sessions that have been ended, by their sids. By itself, it
    /// would keep a session that is not polled, and all that waits in it, until its heartbeat is
    /// overdue.
    pub async fn forget(self, mut ended: UnboundedReceiver<Box<str>>) {
        while let Some(sid) = ended.recv().await {
            post(&self.service, &sid, Bytes::from_static(b"1")).await;
        }
    }

    /// Answers a request to `/socket.io/`.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.admit(request).await.unwrap_or_else(|refused| *refused)
    }

    async fn admit(&self, request: Request<Body>) -> Result<Response<Body>, Refused> {
        let (mut parts, body) = request.into_parts();
        let asked = Asked::new(&parts);
        let stream = parts.extensions.remove::<Arc<Control>>().ok_or_else(internal_error)?;
        if asked.websocket && !is_upgrade(&parts.headers) {
            let text = "transport=websocket wants a WebSocket handshake\n";
            return Err(refused((StatusCode::BAD_REQUEST, text)));
        }
        if asked.jsonp {
            let text = "JSONP is not served: use a client that polls by XMLHttpRequest\n";
            return Err(refused((StatusCode::BAD_REQUEST, text)));
        }
        let session = self.session(&asked, &stream)?;
        let body = self.collect(body).await?;
        if asked.posts
            && let Some(sid) = &asked.sid
        {
            let body = self.inbound(body, asked.framing(&parts.headers))?;
            return Ok(post(&self.service, sid, body).await);
        }
        let presented: Option<Presented> = asked.sid.is_none().then(|| {
            let token = bearer::of(&parts.headers, &parts.uri);
            self.auth.viewer(token, now())
        });
        let mut request = small_copy(parts, body, &session)?;
        if let Some(presented) = presented {
            request.extensions_mut().insert(presented);
        }
        let answer = self.service.clone().oneshot(request);

        if asked.websocket || asked.method != Method::GET {
            let Ok(response) = answer.await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                session.upgrade(stream);
            }
            return Ok(response);
        }
        let poll = session.poll();
        stream.poll_begins();
        let Ok(response) = tokio::select! {
            // An answer that is there goes out, also when the stream is to finish.
            biased;
            response = answer => response,
            () = stream.finishes() => return Err(stopping()),
        };
        if asked.sid.is_some()
            && let Some(size) = response.body().size_hint().exact()
        {
            // It waits for the stream's peer from now on.
            session.taken(size as usize);
            let _ = stream.queue(size as usize);
        }
        drop(poll);
        stream.poll_ends();
        if asked.sid.is_some() && !asked.is_engine_io3 {
            return Ok(response);
        }
        let (mut head, body) = response.into_parts();
        let body = body.collect().await.map_err(|_| internal_error())?.to_bytes();
        if asked.sid.is_none()
            && let Some(sid) = sid_of(&body)
        {
            session.named(sid);
        }
        if !asked.is_engine_io3 || head.status != StatusCode::OK {
            return Ok(Response::from_parts(head, body.into()));
        }
        let base64_only = session.is_base64_only();
        let framed = engine_io3::reframe(&body, base64_only);
        let kind = if base64_only { "text/plain; charset=UTF-8" } else { BINARY };
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        head.headers.remove(http::header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, framed.into()))
    }

    async fn collect(&self, body: Body) -> Result<Bytes, Refused> {
        let body = Limited::new(body, MAX_BODY).collect();
        match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(self.too_large(format!("a polling request has {MAX_BODY} bytes at most\n")))
            }
            Ok(Err(_)) => Err(refused(StatusCode::BAD_REQUEST)),
            Err(_) => {
                self.metrics.refusals("body_time").inc();
                let text = format!("a request's body has {} s\n", BODY_TIMEOUT.as_secs());
                Err(refused((StatusCode::REQUEST_TIMEOUT, text)))
            }
        }
    }

    /// The packets that a client posts, as the engine is to read them.
    fn inbound(&self, body: Bytes, framing: Framing) -> Result<Bytes, Refused> {
        let max = self.max_packet;
        inbound::reframe(body, framing, max).map_err(|problem| match problem {
            Problem::Malformed => refused((StatusCode::BAD_REQUEST, "these are no packets\n")),
            Problem::TooLarge => self.too_large(format!(
                "a packet has {max} bytes at most (see MAX_MESSAGE), and a request {MAX_PACKETS} packets\n"
            )),
        })
    }

    fn too_many(&self) -> Refused {
        self.metrics.refusals("sessions").inc();
        let text = "The server holds as many polling sessions as it may (MAX_CONNECTIONS).\n";
        refused((StatusCode::SERVICE_UNAVAILABLE, text))
    }

    fn too_large(&self, text: String) -> Refused {
        self.metrics.refusals("too_large").inc();
        refused((StatusCode::PAYLOAD_TOO_LARGE, text))
    }

    /// A new session for a handshake, else the one that is named.
    fn session(&self, asked: &Asked, stream: &Arc<Control>) -> Result<Arc<Session>, Refused> {
        let Some(sid) = &asked.sid else {
            return if asked.websocket {
                Ok(self.sessions.open_websocket(stream.clone()))
            } else {
                let session = self.sessions.open_polling(asked.base64_only);
                session.ok_or_else(|| self.too_many())
            };
        };
        let session = self.sessions.find(sid).filter(|session| session.ended().is_none());
        session.ok_or_else(unknown_session)
    }
}

/// Hands packets to the engine, which answers for the session of this name.
async fn post(service: &Service, sid: &str, packets: Bytes) -> Response<Body> {
    let request = Request::post(format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
    let Ok(request) = request.body(Full::new(packets)) else { return *unknown_session() };
    let Ok(answer) = service.clone().oneshot(request).await;
    answer
}

/// What a request's query says.
struct Asked {
    method: Method,
    sid: Option<Box<str>>,
    websocket: bool,
    posts: bool,
    is_engine_io3: bool,
    base64_only: bool,
    jsonp: bool,
}

impl Asked {
    fn new(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        Self {
            method: parts.method.clone(),
            sid: value("sid").map(Into::into),
            websocket: value("transport") == Some("websocket"),
            posts: parts.method == Method::POST && value("transport") == Some("polling"),
            is_engine_io3: value("EIO") == Some("3"),
            base64_only: matches!(value("b64"), Some("1" | "true")),
            jsonp: value("j").is_some(),
        }
    }

    /// How packets that are posted are put together.
    fn framing(&self, headers: &HeaderMap) -> Framing {
        let is_binary = |kind: &HeaderValue| kind.as_bytes() == BINARY.as_bytes();
        match (self.is_engine_io3, headers.get(CONTENT_TYPE).is_some_and(is_binary)) {
            (false, _) => Framing::Separated,
            (true, false) => Framing::Text,
            (true, true) => Framing::Binary,
        }
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers.get(UPGRADE).is_some_and(is_websocket) && headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// The engine keeps a session's request for life. What we got shares hyper's read buffer of 16 KiB,
/// twice after an upgrade; so the engine gets copies of just what it reads.
fn small_copy(
    mut parts: Parts,
    body: Bytes,
    session: &Arc<Session>,
) -> Result<Request<Full<Bytes>>, Refused> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = parts.method;
    // Without a token: it has been read, and is nobody's business any more.
    *request.uri_mut() = bearer::without(&parts.uri).ok_or_else(internal_error)?;
    let key = parts.headers.get(SEC_WEBSOCKET_KEY);
    if let Some(Ok(key)) = key.map(|key| HeaderValue::from_bytes(key.as_bytes())) {
        // For one: by itself, the map would make room for six.
        request.headers_mut().reserve(1);
        request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
    }
    request.extensions_mut().insert(session.clone());
    if let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() {
        request.extensions_mut().insert(upgrade);
    }
    Ok(request)
}

/// The name of the session that a polling handshake has opened.
fn sid_of(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(r#""sid":""#)?;
    rest.split_once('"').map(|(sid, _)| sid)
}

fn refused(answer: impl IntoResponse) -> Refused {
    Box::new(answer.into_response())
}

fn unknown_session() -> Refused {
    let json = [(CONTENT_TYPE, "application/json")];
    refused((StatusCode::BAD_REQUEST, json, UNKNOWN_SESSION))
}

fn stopping() -> Refused {
    let close = [(CONNECTION, "close")];
    refused((StatusCode::SERVICE_UNAVAILABLE, close, "the server is stopping\n"))
}

fn internal_error() -> Refused {
    static FAILED: LogLimit = LogLimit::new(1);
    FAILED.line(|left_out| {
        tracing::error!(left_out, "a request to the engine could not be prepared");
    });
    refused(StatusCode::INTERNAL_SERVER_ERROR)
}
