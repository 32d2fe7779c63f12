//! The accept loop: listeners, limits, timers, and HTTP/1.1 on each connection, plain or over TLS.
//!
//! `axum::serve` has no header timer and gives no access to a connection's stream. This module
//! needs both.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION},
};
use hyper::{
    body::Incoming,
    server::conn::http1::{self, Parts},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, lookup_host},
    select,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};
use tracing::debug;

use crate::{
    config::ListenAddr,
    conn::{
        addresses::Addresses,
        connection::{ConnectionGuard, Connections, Upgraded},
        handshaking::HandshakeSocket,
        socket::Socket,
        stream::Stream,
    },
    metrics::{Counter, Metrics},
    tls::Tls,
};

mod files;

pub use files::Reserve;

/// Listen backlog: connections that the kernel completes while the accept loop is busy, as in a
/// reconnect storm.
const BACKLOG: i32 = 4096;
/// Time limit for the head of a connection's first request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for each further request on a kept-alive connection: longer than the proxies in front
/// keep theirs, usually 60 s. Otherwise a proxy sends a request into a connection that is closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(80);
/// What answers announce as the time limit: some seconds less, for requests on their way.
pub const KEEP_ALIVE: &str = "timeout=75";
/// Size of the kernel's receive buffer in bytes, which it doubles. By default the kernel would keep
/// megabytes of a client whose bytes are not read, for example while a request is under way.
const RECEIVE_BUFFER: usize = 64 << 10;
/// Maximum size of a request head in bytes; a larger one is answered with 431.
const MAX_HEAD: usize = 32 << 10;
/// `TCP_NOTSENT_LOWAT` in bytes: while this much is unsent, the kernel reports the socket as not
/// writable. Its default buffers, megabytes on a fast network, would hide a slow viewer for long.
#[cfg(target_os = "linux")]
const NOT_SENT: u32 = 64 << 10;
/// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged before the kernel drops the
/// connection. By default it keeps the data of a vanished peer for minutes, even after the server
/// has closed the connection. Longer than a client may be behind.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// How long a drain waits for the last poll of a client that is between two polls.
const LAST_POLL: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, for example when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Refusals (503 or 429) in progress at once; further connections over a limit are closed without
/// an answer.
const MAX_REFUSALS: usize = 64;
/// Divisor: refusals may use at most one in this many of the process's open files.
const REFUSALS_SHARE: usize = 16;
/// Time limit for one refusal, including the TLS handshake.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds a listening socket to `addr`. Without a host, it accepts IPv4 and IPv6.
///
/// # Errors
/// If the host cannot be resolved or the address cannot be bound. The error names `setting`.
pub async fn bind(setting: &str, addr: &ListenAddr) -> anyhow::Result<TcpListener> {
    let bound = match &addr.host {
        // One socket for both families; IPv4 alone only where the machine has no IPv6.
        None => match listen(SocketAddr::from(([0u16; 8], addr.port))) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                listen(SocketAddr::from(([0u8; 4], addr.port)))
            }
            bound => bound,
        },
        Some(host) => match lookup_host((host.as_str(), addr.port)).await {
            Ok(mut found) => {
                found.next().ok_or_else(|| io::ErrorKind::NotFound.into()).and_then(listen)
            }
            Err(error) => Err(error),
        },
    };
    bound.with_context(|| {
        format!("cannot listen at {addr}: set {setting} to an address that is free here")
    })
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.ip().is_unspecified() && addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Lets a restart bind while connections of the previous process are in TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The accept loop of one listener, with its limits.
///
/// [`run`](Self::run) spawns a task for each connection it admits. The task performs the TLS
/// handshake, if any, then serves HTTP/1.1 until the connection closes, is upgraded or is drained.
#[derive(Clone)]
pub struct Accept<S> {
    /// Answers requests. Each has its connection's [`crate::conn::connection::Connection`] as an
    /// extension.
    pub service: S,
    /// Terminates TLS; `None` = plain HTTP.
    pub tls: Option<Tls>,
    /// The registry of open connections, which also drains them.
    pub streams: Arc<Connections>,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// How long a stream may be unable to write before it is ended as too slow.
    pub slow_after: Duration,
    /// The limit of connections per client address.
    pub addresses: Arc<Addresses>,
    /// Counts refused connections.
    pub metrics: Arc<Metrics>,
    /// The process's limit of open files.
    pub files: usize,
    /// Counts failed `accept` calls.
    pub errors: Counter,
    /// Spare file descriptors, for a listener that has to accept even when the process has reached
    /// its limit.
    pub reserve: Option<Reserve>,
}

/// Status and body of the answer to a connection over a limit.
type LimitAnswer = (StatusCode, &'static str);
const TOO_MANY: LimitAnswer = (
    StatusCode::SERVICE_UNAVAILABLE,
    "The server has reached its connection limit (MAX_CONNECTIONS). Try again later.\n",
);
/// The answer to a client whose address has reached its own limit.
pub const TOO_MANY_OF_ADDRESS: LimitAnswer = (
    StatusCode::TOO_MANY_REQUESTS,
    "Your address has reached its limit (MAX_CONNECTIONS_PER_ADDRESS). Close a connection first.\n",
);

impl<S> Accept<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Accepts connections until `stop` is cancelled. Open connections continue after that; drain
    /// them through [`Connections`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener. The tasks of accepted connections continue.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let refusals = (self.files / REFUSALS_SHARE).clamp(1, MAX_REFUSALS);
        let refusals = Arc::new(Semaphore::new(refusals));
        if let Some(reserve) = &self.reserve {
            reserve.refill();
        }
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (io, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The client aborted while its connection was queued: accept the next one at
                    // once.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        files::failed(&error, &self.errors);
                        if !self.reserve.as_ref().is_some_and(|reserve| reserve.release(&error)) {
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                    continue;
                }
            };
            if let Some(reserve) = &self.reserve {
                reserve.refill();
            }
            if let Err(error) = tune(&io) {
                debug!(%peer, "closed before it was served: {error}");
                continue;
            }
            match self.admit(peer) {
                Ok(guard) => {
                    let (connection, reserve) =
                        (self.clone().connect(io, guard, peer), self.reserve.clone());
                    tokio::spawn(async move {
                        connection.await;
                        // At once, before another part of the process takes the freed descriptor.
                        if let Some(reserve) = reserve {
                            reserve.refill();
                        }
                    });
                }
                Err(refusal) => {
                    if let Ok(permit) = refusals.clone().try_acquire_owned() {
                        let tls = self.tls.clone();
                        tokio::spawn(async move {
                            let _ = timeout(REFUSAL_TIMEOUT, refuse(io, peer, tls, refusal)).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
    }

    /// Registers a connection, or refuses it if a limit is reached. The accept loop calls this, not
    /// the connection's task, so that the limit check of the next connection counts this one.
    fn admit(&self, peer: SocketAddr) -> Result<ConnectionGuard, LimitAnswer> {
        if self.streams.count() >= self.max_connections {
            self.metrics.refused.inc();
            return Err(TOO_MANY);
        }
        let permit = self.addresses.connection(peer.ip()).map_err(|()| {
            self.metrics.refusals("address").inc();
            TOO_MANY_OF_ADDRESS
        })?;
        let guard = ConnectionGuard::new(peer, &self.streams);
        guard.connection().hold(permit.map(Arc::new));
        Ok(guard)
    }

    /// Serves one connection. The TLS handshake runs in the connection's own task, so a client that
    /// stalls it delays no other.
    async fn connect(self, io: TcpStream, guard: ConnectionGuard, peer: SocketAddr) {
        debug!(%peer, "connected");
        let Some(tls) = self.tls.clone() else {
            return self.serve(io.into(), guard, peer).await;
        };
        let connection = guard.connection().clone();
        select! {
            accepted = tls.accept(HandshakeSocket::new(io, connection.clone()), peer) => match accepted {
                Ok(io) => {
                    connection.request_ends();
                    self.serve(io.into(), guard, peer).await;
                }
                Err(error) => debug!(%peer, "TLS handshake failed: {error}"),
            },
            () = connection.asked() => debug!(%peer, "TLS handshake aborted by the drain"),
        }
    }

    /// Serves HTTP. After a 101 answer, the socket goes to where the route wanted it.
    async fn serve(self, socket: Socket, guard: ConnectionGuard, peer: SocketAddr) {
        let connection = guard.connection().clone();
        let stream = Stream::new(socket, guard, self.slow_after);
        let has_begun = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            has_begun.store(true, Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection.clone());
            let (answer, connection) = (self.service.clone().oneshot(request), connection.clone());
            // On the heap, so that the connection can be moved while a request is under way.
            Box::pin(async move {
                let answer = answer.await;
                connection.request_ends();
                answer
            })
        });
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let is_silent = async {
            sleep(HEAD_TIMEOUT).await;
            if has_begun.load(Relaxed) {
                pending().await
            }
        };
        let result = select! {
            result = poll_fn(|cx| http.poll_without_shutdown(cx)) => result,
            () = is_silent => {
                debug!(%peer, "closed: no request in time");
                self.metrics.refusals("head_time").inc();
                return;
            }
            () = connection.asked() => {
                // A client between two polls fetches its pending packets with its next poll.
                select! {
                    result = poll_fn(|cx| http.poll_without_shutdown(cx)) => result,
                    _ = timeout(LAST_POLL, connection.next_poll()) => {
                        std::pin::Pin::new(&mut http).graceful_shutdown();
                        poll_fn(|cx| http.poll_without_shutdown(cx)).await
                    }
                }
            }
        };
        match result {
            Ok(()) => {
                debug!(%peer, "HTTP ended");
                let Parts { io, read_buf, .. } = http.into_parts();
                // Copied: even an empty rest keeps hyper's whole buffer.
                let rest = Bytes::copy_from_slice(&read_buf);
                drop(read_buf);
                if let Some(upgrade) = connection.take_upgrade()
                    && let Some((socket, guard)) = io.into_inner().into_parts()
                {
                    upgrade(Upgraded { socket, rest, guard });
                }
            }
            Err(error) => {
                debug!(%peer, "HTTP ended: {error}");
                if error.is_timeout() {
                    self.metrics.refusals("head_time").inc();
                } else if error.is_parse_too_large() {
                    self.metrics.refusals("head_too_large").inc();
                }
            }
        }
    }
}

async fn refuse(io: TcpStream, peer: SocketAddr, tls: Option<Tls>, refusal: LimitAnswer) {
    match tls {
        None => answer(io, refusal).await,
        Some(tls) => {
            if let Ok(io) = tls.accept(io, peer).await {
                answer(io, refusal).await;
            }
        }
    }
}

async fn answer<T: AsyncRead + AsyncWrite + Unpin>(io: T, refusal: LimitAnswer) {
    let service = service_fn(|_| async {
        let mut response = refusal.into_response();
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok::<_, Infallible>(response)
    });
    // An error means that the client is gone; there is nothing left to do for it.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

fn tune(io: &TcpStream) -> io::Result<()> {
    io.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        SockRef::from(io).set_tcp_notsent_lowat(NOT_SENT)?;
        SockRef::from(io).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    }
    Ok(())
}
