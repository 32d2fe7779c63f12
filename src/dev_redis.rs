//! The development broker: implements enough of a Redis server to publish and subscribe, on a
//! loopback port.
//!
//! It is for development without a Redis: `redis-cli` and the usual client libraries work with it,
//! in RESP2 and RESP3. It stores nothing, requires no password and listens on loopback only.
//!
//! ```text
//! stream ─► wire (requests) ─► command ─► hub ─► outbox (one per client) ─► stream
//! ```

mod command;
mod hub;
mod outbox;
mod wire;
mod words;

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use command::Session;
use hub::SharedHub;
use outbox::Outbox;
use wire::{Broken, Requests};

use crate::log_limit::LogLimit;

/// The most clients at once: half of the usual limit of 1,024 open files, which the rest of the
/// process shares.
const MAX_CONNECTIONS: usize = 512;

/// Time limit for writing the last replies to a client that quits or violates the protocol.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The pause after a failed accept: the usual cause, too few file descriptors, does not pass at
/// once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Attempts to find a port that is free on both IPv4 and IPv6.
const PORT_ATTEMPTS: usize = 16;

static NOT_ACCEPTED: LogLimit = LogLimit::new(1);

/// A development broker that is bound but not running yet.
#[derive(Debug)]
pub struct Embedded {
    ipv4: TcpListener,
    ipv6: Option<TcpListener>,
    port: u16,
}

impl Embedded {
    /// Binds `127.0.0.1:port` and, if the machine has IPv6, `[::1]:port`. Port 0 picks a free port,
    /// the same for both.
    ///
    /// # Errors
    /// If the port is taken on either address: `localhost` would otherwise lead some clients to
    /// another server.
    pub async fn bind(port: u16) -> io::Result<Self> {
        let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let ipv4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            let port = ipv4.local_addr()?.port();
            let ipv6 = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
                Ok(listener) => Some(listener),
                Err(error) if error.kind() == ErrorKind::AddrInUse && attempts > 0 => continue,
                Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
                Err(error) => {
                    debug!(%error, "no IPv6 loopback, the embedded broker stays on IPv4");
                    None
                }
            };
            return Ok(Self { ipv4, ipv6, port });
        }
    }

    /// The bound port, the same on both addresses.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `stop` is cancelled, then drops every connection and returns.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listeners and all connections.
    pub async fn run(self, stop: CancellationToken) {
        let hub = SharedHub::default();
        // Dropping the set aborts its tasks: no task outlives this future, even if it is dropped.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.accept() => match accepted {
                    Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                        connections.spawn(serve(stream, peer, hub.clone(), stop.child_token()));
                    }
                    Ok((stream, peer)) => refuse(stream, peer),
                    Err(error) => {
                        NOT_ACCEPTED.line(move |left_out| {
                            warn!(left_out, %error, "the embedded broker cannot accept a connection");
                        });
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => if let Err(error) = ended {
                    warn!(%error, "a connection of the embedded broker failed");
                },
            }
        }
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.ipv6 {
            None => self.ipv4.accept().await,
            Some(ipv6) => tokio::select! {
                accepted = self.ipv4.accept() => accepted,
                accepted = ipv6.accept() => accepted,
            },
        }
    }
}

/// Refuses a connection above the limit. The error is written only if that does not block.
fn refuse(stream: TcpStream, peer: SocketAddr) {
    debug!(%peer, limit = MAX_CONNECTIONS, "refused a connection of the embedded broker");
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(b"-ERR max number of clients reached\r\n");
    }
}

/// Serves one connection until it ends or `ended` is cancelled.
async fn serve(stream: TcpStream, peer: SocketAddr, hub: SharedHub, ended: CancellationToken) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let outbox = Arc::new(Outbox::new(ended.clone(), hub.lock().budget()));
    let mut session = Session::open(hub, Arc::clone(&outbox), peer, local);
    let id = session.id();
    debug!(id, %peer, "connected to the embedded broker");

    let listen = async {
        let outcome = listen(read, &mut session, &outbox).await;
        outbox.finish();
        debug!(id, ?outcome, "the reader ended");
        tokio::time::sleep(FLUSH_DEADLINE).await;
    };
    let write = async {
        let outcome = outbox.write_to(write).await;
        debug!(id, ?outcome, "the writer ended");
    };
    // Both halves run in one task. The connection ends when the writer does: either the reader has
    // ended before and all replies are written, or the client no longer accepts replies. A CLIENT
    // KILL, an outbox that overflows and the server's stop end it as well, through `ended`.
    tokio::select! {
        () = listen => {}
        () = write => {}
        () = ended.cancelled() => {}
    }
    debug!(id, "disconnected from the embedded broker");
}

/// Answers requests until the client quits, disconnects or violates the protocol.
async fn listen(read: OwnedReadHalf, session: &mut Session, outbox: &Outbox) -> Result<(), Broken> {
    let mut requests = FramedRead::new(read, Requests::default());
    loop {
        outbox.room().await;
        match requests.next().await {
            None => return Ok(()),
            Some(Ok(request)) => {
                if session.answer(&request).is_break() {
                    return Ok(());
                }
            }
            Some(Err(broken)) => {
                if let Broken::Protocol(reason) = broken {
                    session.say(wire::error(&format!("ERR Protocol error: {reason}")));
                }
                return Err(broken);
            }
        }
    }
}
