//! All of Socket.IO: the engine's settings, and what becomes of a client that connects.
//!
//! Facts about socketioxide 0.18 and engineioxide 0.17 that this module is built around:
//! - A fast client's first event can come before the connect handler has run. So the event
//!   handlers are registered in a middleware, before the client hears that it is connected, and a
//!   request that comes before the engine lets us emit waits in [`viewer`].
//! - Only the synchronous part of an event handler runs in the order of the events. So joins and
//!   leaves happen there, whole; the futures that we return are empty.
//! - The engine's PING shares the packet queue with the messages, and ends the session when the
//!   queue is full. So the queue is long, and one that is full is ours to end.
//! - A session keeps its request's parts for life: see `http/polling.rs` for what is in them.

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

/// Packets that may wait for one client.
const QUEUE: usize = 4096;
/// How often the engine asks a client for a sign of life; Node's default.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// How long that sign may take; Node's default.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// For a client to enter the namespace after its handshake, a round trip later. The engine keeps
/// a session that does not for as long, even after its connection is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// So many times as much as a message may have is read, to be able to say that it is too large;
/// beyond, the engine closes the connection.
pub const READ: usize = 2;
/// Bytes of a WebSocket's read buffer, which is kept for as long as the connection is. What viewers
/// send is short, and a longer message makes it grow. With less than 1 KiB, `bytes` would not make
/// the next buffer as large again.
const READ_BUFFER: usize = 1 << 10;
/// Attachments of an event: none is asked for, but who sends one is to be told so.
const MAX_ATTACHMENTS: usize = 1;
/// The most that goes out in one polling answer. Far above all that can be queued: a packet that
/// the engine has looked at but not sent for its size is lost when the session upgrades. Clients
/// are told this number, and some take it for a 32-bit one.
const MAX_OUTBOUND: u64 = i32::MAX as u64;

/// What all sockets share.
pub struct Shared {
    /// Who is in which room.
    pub rooms: Arc<Rooms>,
    /// Whether the source is there.
    pub outages: Arc<Outages>,
    /// Who may enter and join.
    pub auth: Arc<Auth>,
    /// When that ends.
    pub expiry: Arc<Expiry>,
    /// Who counts.
    pub metrics: Arc<Metrics>,
    /// Whether joins are told to a room's others.
    pub hello: bool,
    /// Rooms of one socket.
    pub max_rooms: usize,
    /// Events a second of one socket.
    pub max_events: usize,
    /// Bytes of a message from a client.
    pub max_message: usize,
}

/// What the token of a handshake's request allows.
pub type Presented = Result<Grant, BadToken>;

/// The engine as a service for requests to `/socket.io/`; each needs a [`Session`] in its
/// extensions, and a handshake what was [`Presented`] with it.
pub type Service = BoxCloneSyncService<http::Request<Full<Bytes>>, Response<Body>, Infallible>;

/// Builds the engine.
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

/// Runs before the client hears that it is connected, or why it is not.
fn admit(socket: &SocketRef, shared: &Arc<Shared>, token: Token) -> Result<(), BadToken> {
    let extensions = &socket.req_parts().extensions;
    // The session may be older than what was presented is good for.
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
    // One handler for all events: a table of them would be kept for every socket.
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

/// Leaves the rooms, then the engine's list.
///
/// The engine itself would spawn the latter. By then, a client that leaves twice and comes back is
/// on that list again under the same id, and would be taken from it: nobody would hear of its end.
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

/// Why a socket left the namespace; `None` if that was ours to say before.
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

/// Runs as soon as the engine lets us emit.
fn connected(socket: SocketRef) -> std::future::Ready<()> {
    if let Some(viewer) = socket.extensions.get::<Arc<Viewer>>() {
        viewer.connected(&socket);
    }
    ready(())
}
