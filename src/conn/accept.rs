//! The accept loop: listeners, limits, timers, and each connection's HTTP/1.1, in plain or over TLS.
//!
//! `axum::serve` has no header timer and no way to a connection's stream; both are needed here.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{body::Body, response::IntoResponse};
use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, lookup_host},
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
        stream::{Entry, Io, Stream, Streams},
    },
    metrics::{Counter, Metrics},
    tls::Tls,
};

mod files;

pub use files::Reserve;

/// Connections that the kernel completes for us while we are busy: a reconnect storm.
const BACKLOG: i32 = 4096;
/// For a request's head to arrive whole, and for a kept-alive connection to send its next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head; more is answered 431.
const MAX_HEAD: usize = 32 << 10;
/// Unsent bytes in the kernel above which it takes no more: its own buffers, megabytes on a fast
/// network, would hide for long that a viewer is slow.
#[cfg(target_os = "linux")]
const NOT_SENT: u32 = 64 << 10;
/// How long the kernel keeps what a peer does not acknowledge: of those that vanished, also after we
/// have ended them, for minutes otherwise. Longer than anybody may be behind.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// For a client between two polls to send the last one, before its connection ends.
const LAST_POLL: Duration = Duration::from_secs(1);
/// How long to wait when the process has no file left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers 503 under way at once; further connections above the limit are closed without one.
const MAX_REFUSALS: usize = 64;
/// The part of the open files that they may take, one in so many.
const REFUSALS_SHARE: usize = 16;
/// For such an answer to be taken.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens; an error names the setting.
pub async fn bind(setting: &str, addr: &ListenAddr) -> anyhow::Result<TcpListener> {
    let bound = match &addr.host {
        // Both families in one socket; IPv4 alone only where the machine has no IPv6.
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
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.ip().is_unspecified() && addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the old connections' TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What a listener does with its connections.
#[derive(Clone)]
pub struct Accept<S> {
    /// Answers requests; each carries its connection's [`crate::conn::stream::Control`] as an extension.
    pub service: S,
    /// What the bytes go through first; `None` = nothing, plain HTTP.
    pub tls: Option<Tls>,
    /// Where the connections are registered.
    pub streams: Arc<Streams>,
    /// How many may be open.
    pub max_connections: usize,
    /// When a stream's peer is too far behind.
    pub slow_after: Duration,
    /// How many an address may have.
    pub addresses: Arc<Addresses>,
    /// Counts those that were one too many.
    pub metrics: Arc<Metrics>,
    /// How many files the process may have open.
    pub files: usize,
    /// Counts the times that none could be accepted.
    pub errors: Counter,
    /// Open files for the connections of a listener that has to answer when there are no more.
    pub reserve: Option<Reserve>,
}

/// What somebody is answered whose connection is one too many.
type Refusal = (StatusCode, &'static str);
const TOO_MANY: Refusal = (
    StatusCode::SERVICE_UNAVAILABLE,
    "The server holds as many connections as it may (MAX_CONNECTIONS).\n",
);
/// The same for who has too many himself.
pub const TOO_MANY_OF_ADDRESS: Refusal = (
    StatusCode::TOO_MANY_REQUESTS,
    "Your address holds as many connections as it may (MAX_CONNECTIONS_PER_ADDRESS).\n",
);

impl<S> Accept<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Accepts until `stop`. Connections go on; they end through their [`Streams`].
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
                    // One that vanished while it waited is nothing to wait for.
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
                debug!(%peer, "gone before it was served: {error}");
                continue;
            }
            match self.admit(peer) {
                Ok(entry) => {
                    let (connection, reserve) =
                        (self.clone().connect(io, entry, peer), self.reserve.clone());
                    tokio::spawn(async move {
                        connection.await;
                        // At once, before another part of the process takes its file.
                        if let Some(reserve) = reserve {
                            reserve.refill();
                        }
                    });
                }
                Err(refusal) => {
                    if let Ok(permit) = refusals.clone().try_acquire_owned() {
                        let tls = self.tls.clone();
                        tokio::spawn(async move {
                            let _ = timeout(REFUSAL_TIMEOUT, refuse(io, tls, refusal)).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
    }

    /// Registered here, not in its task: the next one has to find it counted.
    fn admit(&self, peer: SocketAddr) -> Result<Entry, Refusal> {
        if self.streams.count() >= self.max_connections {
            self.metrics.refused.inc();
            return Err(TOO_MANY);
        }
        let permit = self.addresses.connection(peer.ip()).map_err(|()| {
            self.metrics.refusals("address").inc();
            TOO_MANY_OF_ADDRESS
        })?;
        let entry = Entry::new(peer, &self.streams);
        entry.control().hold(permit);
        Ok(entry)
    }

    /// A handshake is a matter between this task and its peer: whoever stalls holds nobody up.
    async fn connect(self, io: TcpStream, entry: Entry, peer: SocketAddr) {
        debug!(%peer, "connected");
        let Some(tls) = self.tls.clone() else {
            return self.serve(io, entry, peer).await;
        };
        let finishing = entry.control().finishing().clone();
        match finishing.run_until_cancelled(tls.accept(io)).await {
            Some(Ok(io)) => self.serve(io, entry, peer).await,
            Some(Err(error)) => debug!(%peer, "no TLS: {error}"),
            None => debug!(%peer, "no TLS before the end"),
        }
    }

    async fn serve(self, io: impl Io + 'static, entry: Entry, peer: SocketAddr) {
        let stream = Stream::new(io, entry, self.slow_after);
        let control = stream.control().clone();
        let service = service_fn(|request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(control.clone());
            let (answer, control) = (self.service.clone().oneshot(request), control.clone());
            async move {
                let answer = answer.await?;
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    control.set_upgrading();
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = control.finishing().cancelled() => {
                // What waits for a client between two polls is fetched by its next one.
                tokio::select! {
                    result = connection.as_mut() => result,
                    _ = timeout(LAST_POLL, control.next_poll()) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        // After an upgrade the stream lives on, in the engine.
        control.set_upgraded();
        let Err(error) = result else { return debug!(%peer, "HTTP is over") };
        debug!(%peer, "HTTP is over: {error}");
        if error.is_timeout() {
            self.metrics.refusals("head_time").inc();
        } else if error.is_parse_too_large() {
            self.metrics.refusals("head_too_large").inc();
        }
    }
}

async fn refuse(io: TcpStream, tls: Option<Tls>, refusal: Refusal) {
    match tls {
        None => answer(io, refusal).await,
        Some(tls) => {
            if let Ok(io) = tls.accept(io).await {
                answer(io, refusal).await;
            }
        }
    }
}

async fn answer<T: AsyncRead + AsyncWrite + Unpin>(io: T, refusal: Refusal) {
    let service = service_fn(|_| async {
        let mut response = refusal.into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(response)
    });
    // Whoever is gone needs no answer.
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
