//! Socket.IO: the engine's settings, and the handlers of a client that connects.
//!
//! This module relies on these facts about socketioxide 0.18 and engineioxide 0.17:
//! - A fast client's first event can arrive before the connect handler has run. So a middleware
//!   registers the event handlers before the client receives the answer to its CONNECT. A request
//!   that arrives before the engine allows emits is queued in [`viewer`].
//! - Only the synchronous part of an event handler runs in the order of the events. So joins and
//!   leaves are completed there, and the futures that the handlers return are empty.
//! - The engine's PING shares the packet queue with the messages, and the engine ends the session
//!   when the queue is full. So the queue is long, and Roomcast itself ends a session whose queue
//!   is full.
//! - A session keeps the parts of its handshake's request until it ends: see `http/polling.rs` for
//!   what is in them.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use socketioxide::{
    ParserConfig, SocketIo,
    adapter::LocalAdapter,
    extract::SocketRef,
    handler::{ConnectHandler, DisconnectHandler},
    socket::{DisconnectReason, Socket},
};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tracing::debug;

use crate::{
    auth::{Auth, BadToken, Grant, WATCHING},
    clock::now,
    metrics::{Close, Metrics},
    outages::Outages,
    rooms::Rooms,
};

mod arguments;
mod conflate;
pub mod expiry;
mod frames;
mod rate_limit;
mod request;
pub mod session;
mod source;
mod subscriber;
mod viewer;

use expiry::Expiry;
pub use request::Refusal;
use request::{Request, Token};
use session::Session;
use viewer::{Ask, Viewer};

/// Capacity of a session's outbound queue, in packets.
const QUEUE: usize = 4096;
/// Interval of the heartbeat's PING; the default of Socket.IO's Node server.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Time limit for the client's PONG; the default of Socket.IO's Node server.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for the CONNECT after the handshake, which takes one round trip. The engine keeps a
/// session without a CONNECT for this long, even after its connection is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The engine reads messages of up to this many times the maximum size, so that the server can
/// answer that a message is too large. Beyond that, the engine closes the connection.
pub const READ: usize = 2;
/// Initial size in bytes of a WebSocket's read buffer, which lives as long as the connection.
/// Viewers send short messages, and the buffer grows for a longer one. With less than 1 KiB,
/// `bytes` would not make the next buffer as large again.
const READ_BUFFER: usize = 1 << 10;
/// Attachments that an event may have. No event of Roomcast takes one, but with a maximum of 1 the
/// server can refuse the event with an explanation.
const MAX_ATTACHMENTS: usize = 1;
/// Maximum size in bytes of the answer to one poll. It is far above everything that can be queued:
/// the engine loses a packet that it has taken but not sent because of its size, if the session
/// upgrades. The handshake tells this number to clients, and some parse it as a signed 32-bit one.
const MAX_OUTBOUND: u64 = i32::MAX as u64;

/// State and limits that all sockets share.
pub struct Shared {
    /// The rooms and their members.
    pub rooms: Arc<Rooms>,
    /// Announces outages of the source.
    pub outages: Arc<Outages>,
    /// Checks tokens.
    pub auth: Arc<Auth>,
    /// Calls viewers when their tokens expire.
    pub expiry: Arc<Expiry>,
    /// Counts sockets, refusals and refused tokens.
    pub metrics: Arc<Metrics>,
    /// Whether a join emits `hello` to the room's other members.
    pub hello: bool,
    /// Maximum number of rooms of one socket.
    pub max_rooms: usize,
    /// Maximum number of events per second of one socket.
    pub max_events: usize,
    /// Maximum size of a client's message, in bytes.
    pub max_message: usize,
}

/// What the token in the handshake's request allows, or why it was not accepted.
pub type Presented = Result<Grant, BadToken>;

/// The engine as a service for requests to `/socket.io/`. Each request needs a [`Session`] in its
/// extensions, and a handshake also needs a [`Presented`].
pub type Service = BoxCloneSyncService<http::Request<Full<Bytes>>, Response<Body>, Infallible>;

/// Builds the engine and registers its handlers.
pub fn service(shared: Arc<Shared>) -> Service {
    let parser = ParserConfig::common()
        .max_incoming_binaries(MAX_ATTACHMENTS)
        .max_incoming_binary_buf_size(READ * shared.max_message);
    let (service, io) = SocketIo::builder()
        .max_buffer_size(QUEUE)
        .ping_interval(PING_INTERVAL)
        .ping_timeout(PING_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .max_payload(MAX_OUTBOUND)
        .ws_read_buffer_size(READ_BUFFER)
        .ws_max_message_size(READ * shared.max_message)
        .ws_max_frame_size(READ * shared.max_message)
        .with_parser(parser)
        .build_with_inner_svc(Router::new());
    let welcome = move |socket: SocketRef, token: Token| ready(admit(&socket, &shared, token));
    io.ns("/", connected.with(welcome));
    BoxCloneSyncService::new(service_fn(move |request: http::Request<Full<Bytes>>| {
        let answer = service.clone().oneshot(request);
        async { Ok(answer.await?.map(Body::new)) }
    }))
}

/// The connect middleware: checks the token and registers the handlers. It runs before the engine
/// answers the client's CONNECT; an error is sent as CONNECT_ERROR.
fn admit(socket: &SocketRef, shared: &Arc<Shared>, token: Token) -> Result<(), BadToken> {
    let extensions = &socket.req_parts().extensions;
    // The token was checked at the handshake; it may have expired since.
    let presented = || {
        let presented = extensions.get::<Presented>().cloned().unwrap_or(Err(BadToken::Missing));
        presented?.still(now())
    };
    let grant = match token.0 {
        Some(token) => shared.auth.viewer(Some(&token), now()),
        None => presented(),
    };
    let grant = grant.inspect_err(|problem| {
        shared.metrics.tokens_refused.inc();
        problem.log(WATCHING);
        debug!(sid = %socket.id, "refused a socket: {problem}");
    })?;
    if let Some(session) = extensions.get::<Arc<Session>>() {
        register(socket, Viewer::new(shared.clone(), session.clone(), grant));
    }
    Ok(())
}

fn register(socket: &SocketRef, viewer: Arc<Viewer>) {
    socket.extensions.insert(viewer.clone());
    let asked = viewer.clone();
    // One handler for all events: a table of handlers would cost memory for every socket.
    socket.on_fallback(move |socket: SocketRef, request: Request| {
        let ask = match &*request.event {
            "channel" => Ask::Join,
            "leave" => Ask::Leave,
            "channels" => Ask::Channels,
            "auth" => Ask::Renew,
            _ => Ask::Unknown,
        };
        asked.request(&socket, ask, request);
        ready(())
    });
    socket.on_disconnect(Departure(viewer));
}

/// The disconnect handler: leaves the rooms, then removes the socket from the engine's list.
///
/// The engine's own handler removes the socket in a spawned task. If a client disconnects twice and
/// connects again before that task runs, the task would remove the new socket, which has the same
/// id, and the end of that socket would go unnoticed.
struct Departure(Arc<Viewer>);

impl DisconnectHandler<LocalAdapter, ()> for Departure {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<LocalAdapter>>,
        reason: DisconnectReason,
        leave: fn(Arc<Socket<LocalAdapter>>),
    ) {
        self.0.gone();
        if let Some(reason) = close_of(reason) {
            self.0.session().leave(reason);
        }
        leave(socket);
    }
}

/// Why a socket left the namespace; `None` if the server disconnected it and so has recorded the
/// reason already.
fn close_of(reason: DisconnectReason) -> Option<Close> {
    use DisconnectReason as Engine;
    match reason {
        Engine::TransportClose | Engine::ClientNSDisconnect => Some(Close::Client),
        Engine::TransportError => Some(Close::TransportError),
        Engine::HeartbeatTimeout => Some(Close::PingTimeout),
        Engine::PacketParsingError | Engine::MultipleHttpPollingError => Some(Close::BadPacket),
        Engine::ServerNSDisconnect => None,
        Engine::ClosingServer => Some(Close::Stop),
    }
}

/// The connect handler. From now on, the engine allows emits to this socket.
fn connected(socket: SocketRef) -> std::future::Ready<()> {
    if let Some(viewer) = socket.extensions.get::<Arc<Viewer>>() {
        viewer.connected(&socket);
    }
    ready(())
}
