//! A TCP stream in, a TLS stream out: the handshake, its time, and what both sides agree on.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context;
use rustls::{
    ServerConfig,
    crypto::ring::{Ticketer, default_provider},
};
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::info;

use crate::{
    log_limit::LogLimit,
    metrics::{Handshake, Metrics},
    store,
};

pub mod acme;
mod answers;
mod backoff;
pub mod certificates;
mod client;
mod dns;
pub mod files;
pub mod inspect;
mod pair;
pub mod roots;

use certificates::Certificates;

/// For a handshake: three round trips of a phone in a tunnel, and no more.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last record of a connection that ends at once.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// The engine upgrades HTTP/1.1 to WebSocket, and knows no WebSocket over HTTP/2.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Scanners and port checks fail all day: one line a minute, with how many there were.
static FAILED: LogLimit = LogLimit::new(1);

/// Turns TCP streams into TLS streams; what is cloned is a reference.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// TLS with whatever certificate is there when a handshake needs one. The configuration, and
    /// with it the keys of the session tickets, outlives every certificate.
    ///
    /// `challenges`: whether a CA may ask whether our hosts are ours.
    pub fn new(
        certificates: Arc<Certificates>,
        challenges: bool,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .context("TLS versions")?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        if challenges {
            config.alpn_protocols.push(ACME_TLS_ALPN_NAME.to_vec());
        }
        config.ticketer = Ticketer::new().context("keys for session tickets")?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), metrics })
    }

    /// The whole handshake, within its time.
    pub async fn accept(&self, io: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let peer = io.peer_addr().ok();
        let accepted = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(io)).await;
        let (result, accepted): (_, io::Result<_>) = match accepted {
            Ok(Ok(mut stream)) => {
                if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN_NAME) {
                    // The handshake was the answer; RFC 8737 wants the connection closed after it.
                    let _ = timeout(GOODBYE_TIMEOUT, stream.shutdown()).await;
                    return Err(io::Error::other("a CA's challenge"));
                }
                (Handshake::Done, Ok(stream))
            }
            Ok(Err(error)) => (Handshake::Failed, Err(error)),
            Err(late) => (Handshake::Late, Err(late.into())),
        };
        self.metrics.handshakes(result).inc();
        accepted.inspect_err(|error| {
            let (error, peer) = (error.to_string(), peer.map(tracing::field::display));
            FAILED.line(move |left_out| info!(left_out, peer, "a TLS handshake failed: {error}"));
        })
    }
}
