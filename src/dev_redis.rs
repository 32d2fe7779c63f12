//! The development broker: enough of a Redis server on a loopback port to publish and subscribe.
//!
//! For people with no Redis at hand: `redis-cli` and the usual client libraries work against it, in
//! RESP2 and RESP3. It keeps nothing, asks for no password and listens on loopback only.
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

/// Clients at once. Half of the usual limit of 1,024 open files, which the rest of the process
/// shares.
const MAX_CONNECTIONS: usize = 512;

/// How long the last replies may take to a client that quits or breaks the protocol.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The rest after a failed accept: the usual cause, too few file descriptors, does not pass at
/// once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tries to find one port that is free on IPv4 and IPv6 alike.
const PORT_ATTEMPTS: usize = 16;

static NOT_ACCEPTED: LogLimit = LogLimit::new(1);

/// A development broker that is bound and not running yet.
#[derive(Debug)]
pub struct Embedded {
    ipv4: TcpListener,
    ipv6: Option<TcpListener>,
    port: u16,
}

impl Embedded {
    /// Binds `127.0.0.1:port` and, where the machine has it, `[::1]:port`. Port 0 picks a free one,
    /// the same for both.
    ///
    /// # Errors
    /// If the port is taken on either address: half of the clients would talk to somebody else.
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

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `stop` is cancelled, then drops every connection and returns.
    pub async fn run(self, stop: CancellationToken) {
        let hub = SharedHub::default();
        // Dropping the set ends its tasks: nothing outlives this future, cancelled or not.
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

/// Tells one client too many so, as far as that goes without waiting for it.
fn refuse(stream: TcpStream, peer: SocketAddr) {
    debug!(%peer, limit = MAX_CONNECTIONS, "refused a connection of the embedded broker");
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(b"-ERR max number of clients reached\r\n");
    }
}

/// One connection, from its first byte until it ends or `ended` is cancelled.
async fn serve(stream: TcpStream, peer: SocketAddr, hub: SharedHub, ended: CancellationToken) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let outbox = Arc::new(Outbox::new(ended.clone(), hub::lock(&hub).budget()));
    let mut session = Session::open(hub, Arc::clone(&outbox), peer, local);
    let id = session.id();
    debug!(id, %peer, "connected to the embedded broker");

    let listen = async {
        let outcome = listen(read, &mut session, &outbox).await;
        outbox.finish();
        debug!(id, ?outcome, "listened to the end");
        tokio::time::sleep(FLUSH_DEADLINE).await;
    };
    let write = async {
        let outcome = outbox.write_to(write).await;
        debug!(id, ?outcome, "wrote to the end");
    };
    // Both halves belong to one task. The writer's end ends the connection: it comes after the
    // reader's, or nobody takes the answers any more. So does a kill, an outbox that overflows, and
    // the server's stop.
    tokio::select! {
        () = listen => {}
        () = write => {}
        () = ended.cancelled() => {}
    }
    debug!(id, "disconnected from the embedded broker");
}

/// Takes requests until the client quits, leaves or breaks the protocol.
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
